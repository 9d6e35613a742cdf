//! The state that survives a restart, and the requests of an idle operator.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_e2e::{Bed, Fleet, requests};
use drop_testbed::{AuditEvent, Fault, ImageSpec};
use jiff::{SignedDuration, Timestamp};

const IMAGES: usize = 3;

pub fn a_killed_operator_goes_on_where_it_was(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    let fleet = Fleet { name: "restart", images: IMAGES, policy: "{minDelayBetweenPulls: 5s}", selector: "{}" };
    fleet.push(bed)?;
    // The restart happens in the middle of the first node's turn.
    registry.hold("restart/app-1");
    fleet.apply(bed)?;
    bed.wait_pod("docker.io/restart/app-1:1")?;
    registry.wait_held("restart/app-1", Duration::from_secs(60))?;

    bed.operator().as_mut().context("the operator runs")?.kill()?;
    let killed_at = Timestamp::now();
    registry.release("restart/app-1");
    bed.start_operator()?;
    fleet.wait_cached(bed, 2)?;

    let lives = fleet.lives(bed, 2)?;
    ensure!(lives.iter().any(|life| life.from < killed_at) && lives.iter().any(|life| life.from > killed_at));
    ensure!(requests::most_nodes_at_once(&lives) == 1, "{lives:#?}");
    let turns = requests::first_on_each_node(&lives);
    ensure!(requests::shortest_gap(&turns) >= SignedDuration::from_secs(5), "{turns:#?}");

    // No status goes backwards: READY only grows.
    for image in 0..IMAGES {
        let name = format!("restart-{image}");
        let history: Vec<_> = bed.look().history.iter().filter(|(other, ..)| *other == name).cloned().collect();
        let ready: Vec<u32> =
            history.iter().filter_map(|(_, _, ready)| ready.split('/').next()?.parse().ok()).collect();
        ensure!(ready.is_sorted(), "{history:?}");
    }
    Ok(())
}

pub fn a_standby_goes_on_for_a_killed_leader(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    let fleet = Fleet { name: "standby", images: IMAGES, policy: "{minDelayBetweenPulls: 4s}", selector: "{}" };
    fleet.push(bed)?;
    let standby = bed.start_replica()?;
    registry.hold("standby/app-1");
    fleet.apply(bed)?;
    registry.wait_held("standby/app-1", Duration::from_secs(60))?;

    bed.operator().as_mut().context("the leader runs")?.kill()?;
    let killed_at = Timestamp::now();
    registry.release("standby/app-1");
    fleet.wait_cached(bed, 2)?;
    // Over both replicas together the limits hold, and no image is pulled twice.
    let lives = fleet.lives(bed, 2)?;
    ensure!(lives.iter().any(|life| life.from < killed_at) && lives.iter().any(|life| life.from > killed_at));
    ensure!(requests::most_nodes_at_once(&lives) == 1, "{lives:#?}");
    let turns = requests::first_on_each_node(&lives);
    ensure!(requests::shortest_gap(&turns) >= SignedDuration::from_secs(4), "{turns:#?}");
    *bed.operator() = Some(standby);
    Ok(())
}

/// The name of the disconnected replica in the audit log.
const CUT_OFF: &str = "cut-off";

pub fn a_leader_that_is_cut_off_stops_and_a_standby_goes_on(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    let fleet = Fleet {
        name: "cut-off",
        images: IMAGES,
        policy: "{maxConcurrentNodes: 2, minDelayBetweenPulls: 4s}",
        selector: "{}",
    };
    fleet.push(bed)?;
    registry.hold("cut-off/app-1");
    let want = |name: &str| {
        registry.push(&format!("beside/{name}"), "1", &ImageSpec::runnable())?;
        bed.apply(&format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {{name: cut-off-{name}}},
               spec: {{image: docker.io/beside/{name}, tag: '1'}}}}"
        ))?;
        bed.wait_cached(&format!("cut-off-{name}"), 2)
    };
    bed.operator().as_mut().context("the operator runs")?.terminate()?;
    let (kubeconfig, connection) = bed.cluster.kubeconfig_by_proxy(CUT_OFF, &["system:masters"])?;
    let mut leader = bed.start_replica_as(&kubeconfig, &[])?;
    // The replica that has pulled leads. The other one finds the Lease taken.
    want("first")?;
    bed.start_operator()?;
    fleet.apply(bed)?;
    // This is in the middle of the first node's turn, and before the second node's.
    registry.wait_held("cut-off/app-1", Duration::from_secs(60))?;
    connection.fail(Fault::Cut);
    let cut_at = Timestamp::now();
    registry.release("cut-off/app-1");
    fleet.wait_cached(bed, 2)?;
    let by_leader = |event: &AuditEvent| event.user == CUT_OFF;
    let sent = bed.requests()?;

    // Over both replicas together the limits hold, and no image is pulled twice.
    let lives = fleet.lives(bed, 2)?;
    ensure!(lives.iter().any(|life| life.from < cut_at) && lives.iter().any(|life| life.from > cut_at), "{lives:#?}");
    let turns = requests::first_on_each_node(&lives);
    ensure!(requests::shortest_gap(&turns) >= SignedDuration::from_secs(4), "{turns:#?}");
    // The leader renewed the Lease of 6 s within a third of that time before the cut. The standby asks for the Lease
    // when all of that time has passed since.
    let renewals: Vec<Timestamp> = sent
        .iter()
        .filter(|event| event.resource == "leases" && event.verb == "update" && event.code == 200)
        .filter(|event| event.request_received < cut_at || !by_leader(event))
        .map(|event| event.request_received)
        .collect();
    let last = renewals.iter().filter(|at| **at <= cut_at).max().context("the leader renewed its Lease")?;
    let next = renewals.iter().filter(|at| **at > cut_at).min().context("the standby took the Lease")?;
    let gap = next.duration_since(*last);
    eprintln!("the Lease of 6 s went on after {gap:#}");
    ensure!(gap >= SignedDuration::from_secs(6), "the standby took the Lease after {gap:#} although it lasts 6 s");

    // It writes nothing from when the standby leads until it leads again itself, although it is reconnected.
    connection.heal();
    want("healed")?;
    bed.operator().as_mut().context("the standby leads")?.kill()?;
    let killed_at = Timestamp::now();
    want("back")?;
    let (before, after): (Vec<_>, Vec<_>) = bed
        .requests()?
        .into_iter()
        .filter(|event| by_leader(event) && event.request_received > *next && event.code < 300)
        .filter(|event| !["get", "list", "watch"].contains(&event.verb.as_str()))
        .partition(|event| event.request_received < killed_at);
    ensure!(before.is_empty(), "{before:#?}");
    ensure!(after.iter().any(|event| event.verb == "create" && event.resource == "pods"), "{after:#?}");
    ensure!(leader.terminate()?, "SIGTERM ends it well");
    bed.start_operator()
}

pub fn a_restart_of_the_control_plane_pulls_nothing_again(bed: &Bed) -> Result<()> {
    let registry = bed.cluster.registry();
    let manifest = |name: &str| {
        format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {{name: {name}}},
               spec: {{image: docker.io/outage/{name}, tag: '1'}}}}"
        )
    };
    for name in ["before", "after"] {
        registry.push(&format!("outage/{name}"), "1", &ImageSpec::runnable())?;
    }
    bed.apply(&manifest("before"))?;
    bed.wait_cached("before", 2)?;
    bed.wait_no_pod("docker.io/outage/before:1")?;
    let pods_before = bed.look().all_pods.len();

    bed.cluster.restart_control_plane()?;
    bed.apply(&manifest("after"))?;
    bed.wait_cached("after", 2)?;
    bed.wait_cached("before", 2)?;
    let pods = bed.look().all_pods.len() - pods_before;
    ensure!(pods == 2, "{pods} Pods for one image on two nodes");
    Ok(())
}

/// How long the test watches an idle operator: a measurement, not a wait for something.
const IDLE: Duration = Duration::from_secs(60);

pub fn a_converged_operator_sends_no_requests(bed: &Bed) -> Result<()> {
    bed.cluster.registry().push("idle/app", "1", &ImageSpec::runnable())?;
    bed.apply(
        "{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {name: idle},
          spec: {image: docker.io/idle/app, tag: '1'}}",
    )?;
    bed.wait_cached("idle", 2)?;
    bed.wait_no_pod("docker.io/idle/app:1")?;
    // Both NodeCaches have the record, so no write is left.
    bed.wait("every NodeCache to be complete", |sight| {
        let complete = |cache: &drop_api::NodeCache| {
            let status = cache.status.as_ref()?;
            let (cached, wanted) = status.ready.split_once('/')?;
            (cached == wanted && wanted.parse().ok() == Some(sight.images.len())).then_some(())
        };
        sight.caches.values().all(|cache| complete(cache).is_some()).then_some(())
    })?;
    bed.wait("every PullPolicy to say that it is done", |sight| {
        let is_done = |policy: &drop_api::PullPolicy| {
            policy.status.as_ref().is_some_and(|status| status.nodes_pulling == 0 && status.pulls_waiting == 0)
        };
        sight.policies.values().all(is_done).then_some(())
    })?;
    let from = Timestamp::now();
    std::thread::sleep(IDLE);
    let sent: Vec<_> = bed.requests()?.into_iter().filter(|event| event.request_received > from).collect();
    let (renewals, sent): (Vec<_>, Vec<_>) = sent.into_iter().partition(|event| event.resource == "leases");
    let (watches, others): (Vec<_>, Vec<_>) = sent.into_iter().partition(|event| event.verb == "watch");
    eprintln!(
        "idle for {IDLE:?}: {} requests, besides {} renewals of the lease and {} watches resumed",
        others.len(),
        renewals.len(),
        watches.len()
    );
    ensure!(others.is_empty(), "{others:#?}");

    let stopped = bed.operator().as_mut().context("the operator runs")?.terminate()?;
    ensure!(stopped, "SIGTERM ends the operator well");
    bed.start_operator()
}

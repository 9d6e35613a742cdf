//! A user deletes or edits the Lease of a working leader.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_e2e::{Bed, Fleet, requests};
use drop_testbed::AuditEvent;
use jiff::{SignedDuration, Timestamp};

const IMAGES: usize = 3;
const NODES: usize = 2;
const POLICY: &str = "{maxConcurrentNodes: 2, minDelayBetweenPulls: 4s}";
const DELAY: SignedDuration = SignedDuration::from_secs(4);
/// The names of the replicas in the audit log.
const FIRST: &str = "lease-first";
const SECOND: &str = "lease-second";
/// How long a Lease lasts in this cluster.
const LEASE: SignedDuration = SignedDuration::from_secs(6);

pub fn a_deleted_or_edited_lease_never_has_two_replicas_write(bed: &Bed) -> Result<()> {
    bed.operator().as_mut().context("the operator runs")?.terminate()?;
    let mut first = bed.start_replica_as(&bed.cluster.kubeconfig_for(FIRST, &["system:masters"])?, &[])?;
    lease(bed, &["wait", "--for=jsonpath={.spec.leaseDurationSeconds}=6", "--timeout=60s"])?;
    let leader = holder(bed)?;
    let mut second = bed.start_replica_as(&bed.cluster.kubeconfig_for(SECOND, &["system:masters"])?, &[])?;
    second.wait_ready(true)?;
    let (began_at, logged) = (Timestamp::now(), bed.log()?.len());

    // No other replica takes a deleted Lease.
    let fleet = Fleet { name: "deleted-lease", images: IMAGES, policy: POLICY, selector: "{}" };
    roll_out(bed, &fleet, || {
        lease(bed, &["delete"])?;
        lease(bed, &["wait", "--for=create", "--timeout=60s"])?;
        lease(bed, &["wait", &format!("--for=jsonpath={{.spec.holderIdentity}}={leader}"), "--timeout=60s"])
    })?;
    let sent = bed.requests()?;
    let sent: Vec<_> = sent.into_iter().filter(|event| event.request_received > began_at).collect();
    let writers = || sent.iter().filter(|event| is_write(event)).map(|event| event.user.as_str());
    ensure!(writers().any(|user| user == FIRST) && writers().all(|user| user == FIRST), "{sent:#?}");

    // The leader stops when it sees another holder. A replica goes on when the Lease has expired.
    let fleet = Fleet { name: "edited-lease", images: IMAGES, policy: POLICY, selector: "{}" };
    roll_out(bed, &fleet, || {
        let patch = r#"--patch={"spec":{"holderIdentity":"somebody"}}"#;
        lease(bed, &["patch", "--type=merge", patch])
    })?;
    // A leader that does not look at the Lease would go on until its time is up.
    let log = bed.log()?.split_off(logged);
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    ensure!(lines("resigned holder=\"somebody\"") > 0 && lines("the Lease is lost") >= 2, "{log}");
    let edits: Vec<Timestamp> = bed
        .cluster
        .audit()?
        .iter()
        .filter(|event| event.resource == "leases" && event.name == "drop" && event.verb == "patch")
        .map(|event| event.request_received)
        .collect();
    ensure!(edits.len() == 2, "{edits:?}");
    let sent: Vec<_> = bed.requests()?.into_iter().filter(|event| event.request_received > began_at).collect();
    for edited_at in edits {
        let taken_at = sent.iter().filter(|event| takes_lease(event)).map(|event| event.request_received);
        let taken_at = taken_at.filter(|at| *at > edited_at).min().context("a replica takes the Lease")?;
        let gap = taken_at.duration_since(edited_at);
        ensure!(gap >= LEASE, "a replica took the Lease {gap:#} after its holder was edited");
    }

    // There are never two writers: each write begins after its replica has taken or renewed the Lease, and ends before
    // the other replica takes the Lease.
    let takes: Vec<&AuditEvent> = sent.iter().filter(|event| takes_lease(event)).collect();
    let writes: Vec<&AuditEvent> = sent.iter().filter(|event| is_write(event)).collect();
    for write in &writes {
        let last = takes.iter().rfind(|take| take.request_received <= write.request_received);
        ensure!(last.is_none_or(|last| last.user == write.user), "{last:?} leads: {write:#?}");
        let overlaps = |take: &&&AuditEvent| {
            take.user != write.user && (write.request_received..write.answered).contains(&take.request_received)
        };
        let next = takes.iter().find(overlaps);
        ensure!(next.is_none(), "{next:?} leads before the end of {write:#?}");
    }
    let users: BTreeSet<&str> = writes.iter().map(|write| write.user.as_str()).collect();
    eprintln!("{} writes under {} renewals by {users:?}, no two replicas at once", writes.len(), takes.len());
    ensure!(first.terminate()? && second.terminate()?, "SIGTERM ends both well");
    bed.start_operator()
}

/// Rolls the fleet out, and disturbs the replicas before, and in the middle of, the first node's turn. Over all
/// replicas together the limits of the policy hold, and no image is pulled twice.
fn roll_out(bed: &Bed, fleet: &Fleet<'_>, disturb: impl Fn() -> Result<()>) -> Result<()> {
    let registry = bed.cluster.registry();
    fleet.push(bed)?;
    registry.hold(&fleet.repository(1));
    disturb()?;
    fleet.apply(bed)?;
    registry.wait_held(&fleet.repository(1), Duration::from_secs(60))?;
    disturb()?;
    registry.release(&fleet.repository(1));
    fleet.wait_cached(bed, NODES)?;
    let lives = fleet.lives(bed, NODES)?;
    ensure!(requests::most_nodes_at_once(&lives) <= 2, "{lives:#?}");
    let turns = requests::first_on_each_node(&lives);
    ensure!(requests::shortest_gap(&turns) >= DELAY, "{turns:#?}");
    Ok(())
}

/// Runs kubectl on the Lease: a verb and its options.
fn lease(bed: &Bed, arguments: &[&str]) -> Result<()> {
    let (verb, options) = arguments.split_first().context("a verb")?;
    bed.cluster.kubectl(&[&[*verb, "lease/drop", "--namespace=drop-system"], options].concat())?;
    Ok(())
}

fn holder(bed: &Bed) -> Result<String> {
    let output = "--output=jsonpath={.spec.holderIdentity}";
    bed.cluster.kubectl(&["get", "lease/drop", "--namespace=drop-system", output])
}

/// Whether a replica has taken or renewed the Lease. A replica that only creates it does not lead.
fn takes_lease(event: &AuditEvent) -> bool {
    event.resource == "leases" && event.verb == "update" && event.code == 200
}

/// Whether a replica writes anything but the Lease.
fn is_write(event: &AuditEvent) -> bool {
    event.resource != "leases" && !["get", "list", "watch"].contains(&event.verb.as_str())
}

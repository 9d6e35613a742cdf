//! Caps and delays, proved by the API server's audit log.

use anyhow::{Result, ensure};
use drop_e2e::{Bed, Fleet, requests};
use drop_testbed::{AuditEvent, ImageSpec};
use jiff::SignedDuration;

const IMAGES: usize = 4;
const NODES: usize = 4;

pub fn caps_and_delays_hold_in_the_audit_log(bed: &Bed) -> Result<()> {
    let fleet = Fleet {
        name: "pacing",
        images: IMAGES,
        policy: "{maxConcurrentNodes: 2, minDelayBetweenPulls: 3s}",
        selector: "{scenario: pacing}",
    };
    fleet.push(bed)?;
    bed.nodes("pacing", NODES)?;
    fleet.apply(bed)?;
    fleet.wait_cached(bed, NODES)?;

    let lives = fleet.lives(bed, NODES)?;
    ensure!(requests::most_nodes_at_once(&lives) == 2, "two nodes at once are allowed: {lives:#?}");
    let turns = requests::first_on_each_node(&lives);
    let gap = requests::shortest_gap(&turns);
    ensure!(gap >= SignedDuration::from_secs(3), "two nodes began {gap:#} apart: {turns:#?}");
    // No turn is interrupted: while one node has its turn, the third node waits. Within a turn there is no delay: 4
    // Pods in a row would take 9 s of delays alone.
    let follows_at_once = turns.iter().any(|turn| {
        let starts: Vec<_> = lives.iter().filter(|life| life.node == turn.node).collect();
        starts.iter().zip(starts.iter().skip(1)).any(|(one, next)| {
            one.until.is_some_and(|until| next.from.duration_since(until) < SignedDuration::from_secs(3))
        })
    });
    ensure!(follows_at_once, "a delay within every turn: {lives:#?}");

    let pods = fleet.pods(bed);
    let ours = |name: &str| name.starts_with("pacing-") || name == "pacing" || pods.contains_key(name);
    let sent: Vec<_> = bed.requests()?.into_iter().filter(|event| event.verb != "watch" && ours(&event.name)).collect();
    let pairs = IMAGES * NODES;
    eprintln!("requests per image and node: {} / {pairs} = {:.2}", sent.len(), sent.len() as f64 / pairs as f64);
    for (verb, resource) in [
        ("create", "pods"),
        ("delete", "pods"),
        ("patch", "nodecaches"),
        ("patch", "cachedimages"),
        ("patch", "pullpolicies"),
    ] {
        let count = sent.iter().filter(|event| event.verb == verb && event.resource == resource).count();
        eprintln!("  {verb} {resource}: {count}");
    }
    // Each is created once and deleted once. A request is repeated only if no answer came within a third of the Lease's
    // duration: on a busy machine a request may take longer than these 5 s, and a repeated deletion changes nothing.
    let log = bed.log()?;
    for pod in pods.keys() {
        for (verb, effect) in [("create", "CreatePod"), ("delete", "DeletePod")] {
            let is_it = |event: &&AuditEvent| event.verb == verb && event.resource == "pods" && event.name == *pod;
            let requests: Vec<_> = sent.iter().filter(is_it).collect();
            let unanswered = unanswered(&log, effect, |name| name == pod);
            ensure!(
                (1..=1 + unanswered).contains(&requests.len()),
                "{verb} {pod}, {unanswered} times without an answer: {requests:#?}"
            );
        }
    }
    // There is one write of the record, and a second one if the pull takes longer than ten seconds. Statuses are also
    // written at intervals.
    let records = sent.iter().filter(|event| event.verb == "patch" && event.resource == "nodecaches").count();
    let most = 2 * pairs + unanswered(&log, "Record", ours);
    ensure!((pairs..=most).contains(&records), "{records} records for {pairs} pulls");
    let most = 7 * pairs + unanswered(&log, "", ours);
    ensure!(sent.len() <= most, "{} requests for {pairs} pulls", sent.len());
    Ok(())
}

/// Returns how many requests of this kind (of any kind, if it is empty) about objects with matching names the operator
/// has repeated because no answer came in time.
fn unanswered(log: &str, effect: &str, is_it: impl Fn(&str) -> bool) -> usize {
    let repeated = log.lines().filter(|line| line.contains("request failed: tried again"));
    let names = repeated.filter_map(|line| line.split_once(&format!("{effect}(\""))?.1.split('"').next());
    names.filter(|name| is_it(name)).count()
}

pub fn a_policy_edit_takes_effect_during_a_pull(bed: &Bed) -> Result<()> {
    for image in ["held", "free"] {
        bed.cluster.registry().push(&format!("policy-edit/{image}"), "1", &ImageSpec::runnable().layer(1 << 20))?;
    }
    bed.nodes("policy-edit", 2)?;
    // Slow, for two minutes, and not held: containerd gives up a download that brings nothing for 30 s.
    bed.cluster.registry().throttle("policy-edit/held", 8 << 10);
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: PullPolicy
metadata: {name: policy-edit}
spec: {maxConcurrentNodes: 1, minDelayBetweenPulls: 1s}
---
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: policy-edit-held}
spec:
  image: docker.io/policy-edit/held:1
  priority: -1
  policyRef: {name: policy-edit}
  nodeSelector: {kubernetes.io/hostname: policy-edit-1}
",
    )?;
    bed.wait_pod("docker.io/policy-edit/held:1")?;
    bed.apply(
        "
apiVersion: drop.corewire.io/v1alpha1
kind: CachedImage
metadata: {name: policy-edit-free}
spec:
  image: docker.io/policy-edit/free:1
  policyRef: {name: policy-edit}
  nodeSelector: {kubernetes.io/hostname: policy-edit-2}
",
    )?;
    bed.wait_image("policy-edit-free", |_, ready| ready.reason == "Waiting")?;
    ensure!(bed.pods_of("docker.io/policy-edit/free:1").is_empty(), "one node at a time is allowed");

    // The running pull is not affected; the second node may begin.
    bed.cluster.kubectl(&[
        "patch",
        "pullpolicy",
        "policy-edit",
        "--type=merge",
        "-p",
        r#"{"spec":{"maxConcurrentNodes":2}}"#,
    ])?;
    bed.wait_cached("policy-edit-free", 1)?;
    bed.wait_image("policy-edit-held", |_, ready| ready.reason == "Pulling")?;
    bed.wait_cached("policy-edit-held", 1)?;
    let pods = bed.pods_of("docker.io/policy-edit/held:1");
    ensure!(pods.len() == 1, "the running pull was interrupted: {pods:?}");
    Ok(())
}

pub fn a_missing_or_paused_policy_starts_nothing(bed: &Bed) -> Result<()> {
    bed.cluster.registry().push("paused/app", "1", &ImageSpec::runnable())?;
    bed.nodes("paused", 1)?;
    bed.apply(
        "{apiVersion: drop.corewire.io/v1alpha1, kind: CachedImage, metadata: {name: paused},
          spec: {image: docker.io/paused/app:1, policyRef: {name: paused}, nodeSelector: {scenario: paused}}}",
    )?;
    bed.wait_image("paused", |status, ready| {
        ready.reason == "PullPolicyNotFound" && status.ready.as_deref() == Some("0/1")
    })?;

    let policy = |paused| {
        format!(
            "{{apiVersion: drop.corewire.io/v1alpha1, kind: PullPolicy, metadata: {{name: paused}}, spec: {{paused: {paused}}}}}"
        )
    };
    bed.apply(&policy(true))?;
    bed.wait_image("paused", |_, ready| ready.reason == "Paused")?;
    ensure!(bed.pods_of("docker.io/paused/app:1").is_empty(), "a paused policy starts nothing");
    bed.apply(&policy(false))?;
    bed.wait_cached("paused", 1)?;
    Ok(())
}

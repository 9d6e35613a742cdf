//! Faults between the operator and the API server: nodes still get each image, once, and no faster than allowed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drop_e2e::{Bed, Fleet, requests};
use drop_testbed::{ApiFault, ApiProxy, ApiRequest, Odds};
use jiff::SignedDuration;

/// With this seed no write fails more than three times in a row. Each wait is twice the one before.
const SEED: u64 = 28;
const IMAGES: usize = 3;
const NODES: usize = 3;
const POLICY: &str = "{maxConcurrentNodes: 2, minDelayBetweenPulls: 2s}";
/// How long a watch may be silent in this test.
const SILENCE: Duration = Duration::from_secs(5);
/// How long the test waits for anything.
const LIMIT: Duration = Duration::from_secs(180);

/// All kinds of objects that the operator writes for a roll-out.
const WRITES: [(&str, &str); 5] = [
    ("create", "pods"),
    ("patch", "nodecaches"),
    ("delete", "pods"),
    ("patch", "cachedimages"),
    ("patch", "pullpolicies"),
];

pub fn nothing_is_pulled_twice_whatever_goes_wrong() -> Result<()> {
    let bed = Bed::without_operator("e2e-faults", &[&format!("--max-silence={}s", SILENCE.as_secs())])?;
    bed.nodes("faults", NODES)?;
    let account = Account::start(&bed)?;
    let proxy = bed.cluster.api_proxy(SEED)?;
    let kubeconfig = bed.cluster.kubeconfig_with_token(&account.token, &proxy)?;
    *bed.operator() = Some(bed.start_replica_as(&kubeconfig, &[])?);

    requests_and_answers_are_lost_or_refused(&bed, &proxy).context("lost requests and answers")?;
    answers_are_late_and_watches_fail(&bed, &proxy).context("failing watches")?;
    the_token_expires_and_rights_are_taken_away(&bed, &proxy, &account).context("refused credentials")
}

fn requests_and_answers_are_lost_or_refused(bed: &Bed, proxy: &ApiProxy) -> Result<()> {
    for write in WRITES {
        let is_it = move |request: &ApiRequest| (request.verb, request.resource.as_str()) == write;
        for fault in [ApiFault::LoseRequest, ApiFault::LoseAnswer] {
            proxy.fail(fault, Odds::Times(1), is_it);
            proxy.fail(fault, Odds::Percent(20), is_it);
        }
        for status in [409, 429, 500] {
            proxy.fail(ApiFault::Answer(status), Odds::Percent(4), is_it);
        }
    }
    let is_any = |request: &ApiRequest| WRITES.contains(&(request.verb, request.resource.as_str()));
    for status in [409, 429, 500] {
        proxy.fail(ApiFault::Answer(status), Odds::Times(1), is_any);
    }
    roll_out(bed, proxy, "lost")?;
    proxy.heal();
    Ok(())
}

fn answers_are_late_and_watches_fail(bed: &Bed, proxy: &ApiProxy) -> Result<()> {
    // Watches show changes before their requests are answered, and the other way round.
    proxy.fail(ApiFault::Delay(Duration::from_secs(3)), Odds::Percent(30), |request| request.resource != "leases");
    for kind in ["pods", "nodecaches", "cachedimages", "nodes"] {
        for fault in [ApiFault::FreezeWatch, ApiFault::CutWatch, ApiFault::ExpireWatch] {
            proxy.fail(fault, Odds::Times(1), move |request| request.resource == kind);
        }
    }
    proxy.fail(ApiFault::FreezeWatch, Odds::Percent(3), |_| true);
    proxy.fail(ApiFault::CutWatch, Odds::Percent(5), |_| true);
    proxy.fail(ApiFault::ExpireWatch, Odds::Percent(5), |_| true);
    roll_out(bed, proxy, "watched")?;
    proxy.heal();
    Ok(())
}

fn the_token_expires_and_rights_are_taken_away(bed: &Bed, proxy: &ApiProxy, account: &Account) -> Result<()> {
    let registry = bed.cluster.registry();
    let fleet = Fleet { name: "refused", images: 2, policy: POLICY, selector: "{scenario: faults}" };
    fleet.push(bed)?;
    for image in 0..fleet.images {
        registry.hold(&fleet.repository(image));
    }
    fleet.apply(bed)?;
    registry.wait_held(&fleet.repository(0), LIMIT)?;

    let is_ready = |ready| bed.operator().as_ref().context("the operator runs")?.wait_ready(ready);
    account.expire(bed)?;
    proxy.wait(LIMIT, |requests| requests.iter().any(|request| request.status == Some(401)).then_some(()))?;
    is_ready(false)?;
    wait_log(bed, proxy, "watch unauthorized")?;
    // The kubelets go on without the operator.
    registry.release(&fleet.repository(0));
    let renewed_at = Instant::now();
    account.renew(bed)?;
    is_ready(true)?;
    eprintln!("a renewed token was used within {:.0?}", renewed_at.elapsed());

    registry.wait_held(&fleet.repository(1), LIMIT)?;
    account.revoke(bed)?;
    is_ready(false)?;
    wait_log(bed, proxy, "watch forbidden")?;
    registry.release(&fleet.repository(1));
    let granted_at = Instant::now();
    account.grant(bed)?;
    is_ready(true)?;
    eprintln!("restored rights were used within {:.0?}", granted_at.elapsed());
    fleet.wait_cached(bed, NODES)?;
    ensure_pulled_once(bed, &fleet)
}

/// Waits until the log contains `words`. The operator logs them when it has got an answer.
fn wait_log(bed: &Bed, proxy: &ApiProxy, words: &str) -> Result<()> {
    let told = proxy.wait(LIMIT, |_| bed.log().is_ok_and(|log| log.contains(words)).then_some(()));
    told.with_context(|| format!("{words:?} in the log"))
}

/// Rolls out a fleet while the proxy injects its faults.
fn roll_out(bed: &Bed, proxy: &ApiProxy, name: &str) -> Result<()> {
    let fleet = Fleet { name, images: IMAGES, policy: POLICY, selector: "{scenario: faults}" };
    fleet.push(bed)?;
    let (sent_before, began_at) = (proxy.requests().len(), Instant::now());
    fleet.apply(bed)?;
    fleet.wait_cached(bed, NODES)?;
    let elapsed = began_at.elapsed();
    let sent = proxy.requests().split_off(sent_before);
    ensure_pulled_once(bed, &fleet)?;

    let (mut struck, mut by_verb) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    for request in sent.iter().filter(|request| request.resource != "leases") {
        *by_verb.entry(format!("{} {}", request.verb, request.resource)).or_default() += 1;
        if let Some(fault) = request.fault {
            let fault = if matches!(fault, ApiFault::Delay(_)) { "Delay".to_owned() } else { format!("{fault:?}") };
            *struck.entry(fault).or_default() += 1;
        }
    }
    eprintln!("{name}: {IMAGES} images on {NODES} nodes in {elapsed:.0?}: {by_verb:?}, of which {struck:?}");

    // Each failure costs one more attempt, and one request that checks the result.
    let failed = |request: &&ApiRequest| !matches!(request.fault, None | Some(ApiFault::Delay(_)));
    let (watching, working): (Vec<_>, Vec<_>) = sent
        .iter()
        .filter(|request| request.resource != "leases")
        .partition(|request| ["list", "watch"].contains(&request.verb));
    let pairs = IMAGES * NODES;
    let most = 7 * pairs + 2 * working.iter().copied().filter(failed).count();
    ensure!(working.len() <= most, "{} requests, more than {most}: {by_verb:?}", working.len());
    // The operator resumes a watch that is silent or has failed, after at most one list.
    let silences = elapsed.as_secs() / SILENCE.as_secs() + 1;
    let most = 10 * silences as usize + 2 * watching.iter().copied().filter(failed).count();
    ensure!(watching.len() <= most, "{} lists and watches, more than {most}: {by_verb:?}", watching.len());
    Ok(())
}

/// Checks that caps and delays held, and that one Pod pulled each image on each node and is gone.
fn ensure_pulled_once(bed: &Bed, fleet: &Fleet<'_>) -> Result<()> {
    let lives = fleet.lives(bed, NODES)?;
    let most = requests::most_nodes_at_once(&lives);
    ensure!(most <= 2, "{most} nodes at once: {lives:#?}");
    let turns = requests::first_on_each_node(&lives);
    let gap = requests::shortest_gap(&turns);
    ensure!(gap >= SignedDuration::from_secs(2), "two nodes began {gap:#} apart: {turns:#?}");
    let mut created = bed.requests()?;
    created.retain(|event| (&*event.verb, &*event.resource, event.code) == ("create", "pods", 201));
    for life in &lives {
        let times = created.iter().filter(|event| event.name == life.pod).count();
        ensure!(times == 1, "{} was created {times} times", life.pod);
    }
    for image in 0..fleet.images {
        let pulls = bed.cluster.registry().pulls(&fleet.repository(image));
        ensure!(pulls == NODES, "{pulls} pulls of {} for {NODES} nodes", fleet.repository(image));
    }
    Ok(())
}

/// The operator's ServiceAccount, with a token in a file, as in a Pod.
struct Account {
    token: PathBuf,
}

impl Account {
    fn start(bed: &Bed) -> Result<Self> {
        bed.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: drop, namespace: drop-system}}")?;
        let account = Self { token: bed.cluster.kubeconfig().with_file_name("operator.token") };
        account.grant(bed)?;
        account.renew(bed)?;
        Ok(account)
    }

    /// Writes a new token, which is valid while its Secret exists.
    fn renew(&self, bed: &Bed) -> Result<()> {
        bed.apply("{apiVersion: v1, kind: Secret, metadata: {name: lifetime, namespace: drop-system}}")?;
        let bound = ["--bound-object-kind=Secret", "--bound-object-name=lifetime"];
        let token =
            bed.cluster.kubectl(&[&["create", "token", "drop", "--namespace=drop-system"][..], &bound].concat())?;
        Ok(fs::write(&self.token, token.trim())?)
    }

    /// Invalidates the token.
    fn expire(&self, bed: &Bed) -> Result<()> {
        bed.cluster.kubectl(&["delete", "secret", "lifetime", "--namespace=drop-system"])?;
        Ok(())
    }

    /// Grants the operator all permissions.
    fn grant(&self, bed: &Bed) -> Result<()> {
        bed.apply(
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: faults},
              roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin},
              subjects: [{kind: ServiceAccount, name: drop, namespace: drop-system}]}",
        )
    }

    /// Revokes all permissions of the operator.
    fn revoke(&self, bed: &Bed) -> Result<()> {
        bed.cluster.kubectl(&["delete", "clusterrolebinding", "faults"])?;
        Ok(())
    }
}

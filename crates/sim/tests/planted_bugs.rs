//! Tests that each invariant notices its bug. They spoil plans as a broken planner would, or the events that the
//! planner gets, and the lab has to report the fault.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

use drop_api::CachedImageStatus;
use drop_api::cached_image::{ImagePullPolicy, LocalObjectReference, NodeFailure};
use drop_api::cached_image_set::ImageEntry;
use drop_api::condition::ConditionStatus;
use drop_api::discovery_policy::{
    AggregationMethod, BackendType, DiscoveredImage, DiscoveryPolicyStatus, PrometheusSource, QueryStatus, Source,
};
use drop_api::node_cache::{ImageRecord, NodeCacheStatus};
use drop_core::discovery::{Answer, Sample, Series, SourceFailure, SourceReason};
use drop_core::effect::{PodOrder, Pull};
use drop_core::event::{Kind, Report};
use drop_core::node::Readiness;
use drop_core::policy::Policy;
use drop_core::reference::Reference;
use drop_core::{Effect, Event, Look, Plan};
use drop_sim::{Fate, Kubelet, Lab, secs, under};
use jiff::{SignedDuration, Timestamp};

/// Makes nodes a, b and c, of which c is not a target, and a policy that allows one node at once.
fn lab() -> Lab {
    let mut lab = Lab::default();
    for node in ["a", "b", "c"] {
        lab.node(node);
    }
    lab.edit_node("c", |node| node.unschedulable = true);
    lab.policy("one", |policy| policy.min_delay_between_pulls = "5s".parse().unwrap());
    lab.policy("wide", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.min_delay_between_pulls = "60s".parse().unwrap();
    });
    lab.policy("paused", |policy| policy.paused = true);
    lab.policy("pulls", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.max_concurrent_pulls = Some(1);
        policy.min_delay_between_pulls = "0s".parse().unwrap();
    });
    lab.policy("hosts", |policy| {
        policy.max_concurrent_nodes = 3;
        policy.max_concurrent_pulls_per_registry = Some(1);
        policy.min_delay_between_pulls = "0s".parse().unwrap();
    });
    lab.image_with("alpine", "alpine", |image| {
        image.image_pull_secrets = vec![named("pull")];
        under("one")(image);
    });
    lab.image_with("never", "busybox", |image| image.image_pull_policy = ImagePullPolicy::Never);
    lab
}

fn named(name: &str) -> LocalObjectReference {
    LocalObjectReference { name: name.to_owned() }
}

/// Returns the violations of a planner whose plans are spoilt with `tamper`.
fn noticed(tamper: impl FnMut(&mut Plan) + 'static) -> Vec<String> {
    let mut lab = lab();
    lab.knobs.tamper = Box::new(tamper);
    lab.run(secs(60.0));
    told(&lab)
}

fn told(lab: &Lab) -> Vec<String> {
    lab.violations.iter().map(ToString::to_string).collect()
}

/// Makes the lab with a planner that misreads events with `mishear`.
fn deaf(mishear: impl FnMut(&mut Event) + 'static) -> Lab {
    let mut lab = lab();
    lab.knobs.mishear = Box::new(mishear);
    lab
}

/// Spoils every Pod that a plan creates.
fn each_pod(mut spoil: impl FnMut(&mut PodOrder) + 'static) -> Vec<String> {
    noticed(move |plan| {
        for effect in &mut plan.effects {
            if let Effect::CreatePod(order) = effect {
                spoil(order);
            }
        }
    })
}

/// Adds another Pod to each one that a plan creates.
fn beside(mut spoil: impl FnMut(&mut PodOrder) + 'static) -> Vec<String> {
    noticed(move |plan| {
        let orders = plan.effects.iter().filter_map(|effect| match effect {
            Effect::CreatePod(order) => Some(order.clone()),
            _ => None,
        });
        for mut order in orders.collect::<Vec<_>>() {
            order.name = format!("{}-too", order.name).into();
            spoil(&mut order);
            plan.effects.push(Effect::CreatePod(order));
        }
    })
}

fn pull(name: &str, reference: &str) -> Pull {
    Pull { cached_image: name.into(), reference: Reference::parse(reference), policy: ImagePullPolicy::Always }
}

#[track_caller]
fn assert_says(noticed: &[String], what: &str) {
    assert!(noticed.iter().any(|violation| violation.contains(what)), "nobody says {what:?}: {noticed:#?}");
}

#[test]
fn a_sound_planner_is_not_blamed() {
    assert_eq!(noticed(|_| {}), Vec::<String>::new());
}

#[test]
fn two_pods_on_a_node() {
    let noticed = beside(|_| {});
    assert_says(&noticed, "more than one pull Pod on a");
    assert_says(&noticed, "one Pod per node");
}

#[test]
fn more_nodes_than_the_policy_allows() {
    let to_b = |order: &mut PodOrder| {
        order.node = "b".into();
        order.node_uid = "node-2".into();
    };
    let noticed = beside(to_b);
    assert_says(&noticed, "2 nodes pull, 1 may");
    assert_says(&noticed, "2 nodes begin at once");
    assert_says(&noticed, "2 nodes pull\"");
}

#[test]
fn pulls_under_a_policy_that_is_paused_or_missing() {
    let paused = each_pod(|order| order.policy = "paused".into());
    assert_says(&paused, "its policy is paused");
    assert_says(&paused, "the policy is paused or missing");
    let missing = each_pod(|order| order.policy = "gone".into());
    assert_says(&missing, "its policy does not exist");
    assert_says(&missing, "the policy is paused or missing");
}

#[test]
fn more_images_in_a_pod_than_the_policy_allows() {
    let another = |n| pull("alpine", &format!("alpine:{n}"));
    assert_says(&each_pod(move |order| order.pulls = (0..11).map(another).collect()), "too many images in one Pod");
    assert_eq!(each_pod(move |order| order.pulls.truncate(1)), Vec::<String>::new());
}

#[test]
fn a_network_that_the_policy_does_not_allow_or_that_is_not_there() {
    assert_says(&each_pod(|order| order.host_network = true), "its policy says otherwise of the node's network");
    let hears_no_trouble = |event: &mut Event| {
        if let Event::Node(node) = event {
            (node.readiness, node.taints) = (Readiness::Ready, Vec::new());
        }
    };
    for trouble in [Lab::disconnect, Lab::lose] {
        let mut lab = lab();
        trouble(&mut lab, "b");
        lab.run(secs(30.0));
        assert_eq!(lab.live("b").map(|live| live.pod.node.clone()), None, "it waits");
        let mut lab = deaf(hears_no_trouble);
        trouble(&mut lab, "b");
        lab.run(secs(30.0));
        assert_says(&told(&lab), "its node can start no such Pod");
    }
}

#[test]
fn more_pods_or_pulls_from_a_registry_than_the_policy_allows() {
    for (policy, planned, done) in [
        ("pulls", "2 Pods pull, Some(1) may", "1 Pods pull already"),
        ("hosts", "2 Pods pull from docker.io, 1 may", "1 Pods pull from docker.io already"),
    ] {
        let noticed = noticed(move |plan| {
            let orders = plan.effects.iter_mut().filter_map(|effect| match effect {
                Effect::CreatePod(order) => Some(order),
                _ => None,
            });
            let mut others = Vec::new();
            for order in orders {
                order.policy = policy.into();
                let mut other = order.clone();
                (other.name, other.node, other.node_uid) = ("other".into(), "b".into(), "node-2".into());
                others.push(Effect::CreatePod(other));
            }
            plan.effects.extend(others);
        });
        assert_says(&noticed, planned);
        assert_says(&noticed, done);
    }
}

#[test]
fn a_beginning_before_the_delay_is_over() {
    let noticed = each_pod(|order| order.policy = "wide".into());
    assert_says(&noticed, "b begins too soon after a");
    assert_says(&noticed, "too soon after 0s a: alpine");
}

#[test]
fn effects_of_a_new_leader_that_has_not_listed_yet() {
    let mut lab = lab();
    lab.run(secs(60.0));
    lab.hand_over(secs(1.0));
    lab.run(secs(10.9));
    lab.knobs.tamper = Box::new(|plan| plan.effects.push(Effect::CheckPod { pod: "any".into() }));
    lab.run(secs(10.0));
    assert_says(&told(&lab), "effects before every watch has synced");
}

#[test]
fn a_plan_that_comes_from_more_than_the_world() {
    let mut calls = 0;
    let noticed = noticed(move |plan| {
        calls += 1;
        plan.effects.extend((calls % 2 == 0).then(|| Effect::CheckPod { pod: "any".into() }));
    });
    assert_says(&noticed, "planning twice makes two plans");
}

#[test]
fn what_was_asked_for_a_moment_ago() {
    let mut asked = Vec::new();
    let noticed = noticed(move |plan| {
        let is_creation = |effect: &&Effect| matches!(effect, Effect::CreatePod(_));
        match plan.effects.iter().find(is_creation) {
            Some(creation) => asked = vec![creation.clone()],
            None => plan.effects.append(&mut asked),
        }
    });
    assert!(
        noticed.iter().any(|it| it.contains("CreatePod") && it.ends_with("is asked for again at once")),
        "{noticed:#?}"
    );
}

#[test]
fn a_wake_up_in_the_past() {
    let noticed = noticed(|plan| {
        if !plan.effects.is_empty() {
            plan.wake_at = Some(Timestamp::UNIX_EPOCH);
        }
    });
    assert_says(&noticed, "the plan wakes at 1970-01-01T00:00:00Z, which is over");
}

#[test]
fn a_planner_that_never_rests() {
    let mut lab = deaf(|event| {
        if let Event::Policy(policy, _) = event {
            policy.repull_interval = Some(SignedDuration::from_hours(3));
        }
    });
    lab.relist();
    lab.settle();
    assert_says(&told(&lab), "still busy after a day");
}

#[test]
fn pods_that_nobody_deletes() {
    let mut lab = lab();
    lab.knobs.tamper = Box::new(|plan| plan.effects.retain(|effect| !matches!(effect, Effect::DeletePod { .. })));
    lab.settle();
    assert_says(&told(&lab), "Pods are left: [\"alpine-");
}

#[test]
fn a_request_that_is_made_again_and_again() {
    let mut calls = 0;
    let noticed = noticed(move |plan| {
        // The lab plans twice, and again after the effect was carried out: then the plan does not request it.
        calls += 1;
        plan.effects.extend((calls % 3 != 0).then(|| Effect::CheckPod { pod: "any".into() }));
    });
    assert_says(&noticed, "CheckPod(\"any\") is asked for 30 times");
}

/// Returns the result of the recount of pacing if each of five nodes pulls from two registries, under a policy that the
/// planner misreads with `misread`.
fn recounted(mut misread: impl FnMut(&mut Policy) + 'static) -> Vec<String> {
    let mut lab = Lab::default();
    lab.knobs.mishear = Box::new(move |event| {
        if let Event::Policy(policy, _) = event {
            misread(policy);
        }
    });
    lab.policy("nodes", |policy| {
        policy.max_concurrent_nodes = 2;
        policy.min_delay_between_pulls = "3s".parse().unwrap();
    });
    lab.policy("pods", |policy| {
        policy.max_concurrent_nodes = 5;
        policy.max_concurrent_pulls = Some(3);
        policy.min_delay_between_pulls = "0s".parse().unwrap();
    });
    lab.policy("registry", |policy| {
        policy.max_concurrent_nodes = 5;
        policy.max_concurrent_pulls_per_registry = Some(2);
        policy.min_delay_between_pulls = "0s".parse().unwrap();
    });
    for (pool, policy) in ["nodes", "pods", "registry"].into_iter().enumerate() {
        for n in 0..5 {
            let node = format!("{policy}-{n}");
            lab.node(&node);
            lab.edit_node(&node, |node| drop(node.labels.insert("pool".into(), pool.to_string().into())));
        }
        for (name, reference) in [("alpine", "alpine"), ("busybox", "busybox"), ("quay", "quay.io/a/b:1")] {
            lab.image_with(&format!("{policy}-{name}"), reference, |image| {
                image.node_selector.insert("pool".to_owned(), pool.to_string());
                under(policy)(image);
            });
        }
    }
    lab.settle();
    lab.faults_of_pacing()
}

#[test]
fn limits_that_are_one_off() {
    assert_eq!(recounted(|_| {}), Vec::<String>::new());
    assert_eq!(recounted(|policy| policy.max_nodes += 1), ["policy \"nodes\": 3 nodes pulled at once, 2 may"]);
    assert_eq!(
        recounted(|policy| policy.max_pulls = policy.max_pulls.map(|most| most + 1)),
        ["policy \"pods\": 4 Pods pulled at once, 3 may"]
    );
    assert_eq!(
        recounted(|policy| policy.max_pulls_per_registry = policy.max_pulls_per_registry.map(|most| most + 1)),
        ["policy \"registry\": 3 Pods pulled from one registry at once, 2 may"]
    );
    let hasty = recounted(|policy| policy.min_delay = (policy.min_delay - secs(1.0)).max(SignedDuration::ZERO));
    assert!(hasty.len() == 1 && hasty[0].starts_with("policy \"nodes\": nodes began 2s"), "{hasty:?}");
}

#[test]
fn pods_that_count_only_until_their_deletion_is_asked_for() {
    let mut lab = deaf(|event| {
        if let Event::Pod(pod) = event
            && pod.terminating
        {
            *event = Event::Gone(Kind::Pod, pod.name.clone());
        }
    });
    // The kubelet does not cancel a pull.
    lab.policy("one", |policy| policy.pull_timeout = "20s".parse().unwrap());
    lab.knobs.pull = secs(60.0);
    lab.run(secs(120.0));
    assert_eq!(lab.faults_of_pacing(), ["policy \"one\": 2 nodes pulled at once, 1 may"]);
}

#[test]
fn starts_that_a_restart_forgets() {
    let mut lab = deaf(|event| {
        if let Event::Cache(cache) = event {
            cache.status.iter_mut().for_each(|status| status.pull_starts.clear());
        }
    });
    lab.edit_image("alpine", under("wide"));
    lab.run(secs(20.0));
    assert_eq!(lab.faults_of_pacing(), Vec::<String>::new());
    lab.restart(true);
    lab.settle();
    let noticed = lab.faults_of_pacing();
    assert!(noticed.len() == 1 && noticed[0].starts_with("policy \"wide\": nodes began 19s"), "{noticed:?}");
}

#[test]
fn a_turn_that_goes_on_without_anything_to_go_on_with() {
    let mut lab = lab();
    lab.edit_image("alpine", under("wide"));
    lab.run(secs(90.0));
    assert_eq!(lab.starts(), ["0s a: alpine", "60s b: alpine"]);
    lab.knobs.mishear = Box::new(|event| {
        if let Event::Policy(policy, _) = event {
            policy.min_delay = SignedDuration::ZERO;
        }
    });
    lab.relist();
    lab.run(secs(1.0));
    lab.image_with("busybox", "busybox", under("wide"));
    lab.settle();
    let noticed = lab.faults_of_pacing();
    assert!(noticed.len() == 1 && noticed[0].starts_with("policy \"wide\": nodes began"), "{noticed:?}");
}

#[test]
fn an_image_that_starves() {
    let mut lab = lab();
    let mut refused = 0;
    lab.knobs.fate = Box::new(move |effect| match effect {
        Effect::CreatePod(order) if &*order.node == "b" && refused < 100 => {
            refused += 1;
            Fate::Refused("not now")
        }
        _ => Fate::Answered,
    });
    let began_at = lab.now;
    lab.settle();
    let late = lab.late_starts(began_at, SignedDuration::from_mins(30));
    assert!(late.len() == 1 && late[0].ends_with("s b: alpine"), "{late:?}");
}

/// Makes a planner ignore a part of NodeCaches, as if a rule of its gate were missing.
fn forgets(mut forget: impl FnMut(&mut NodeCacheStatus) + 'static) -> impl FnMut(&mut Event) + 'static {
    move |event| {
        if let Event::Cache(cache) | Event::Report(_, Report::Recorded(cache)) = event {
            cache.status.iter_mut().for_each(&mut forget);
        }
    }
}

#[test]
fn a_node_that_failed_and_is_tried_again_at_once() {
    let rejects = Kubelet::Rejects(("OutOfpods", "too many Pods").into());
    let lab = |mishear: Box<dyn FnMut(&mut Event)>| {
        let mut lab = lab();
        lab.knobs.mishear = mishear;
        lab.knobs.kubelets.insert("a".to_owned(), rejects.clone());
        lab.run(secs(60.0));
        told(&lab)
    };
    assert_eq!(lab(Box::new(|_| {})), Vec::<String>::new());
    assert_says(&lab(Box::new(forgets(|cache| cache.node_failure = None))), "a is tried too soon after it failed");
}

#[test]
fn an_image_that_failed_and_is_tried_again_at_once() {
    for message in [
        "docker.io/library/alpine:latest: not found",
        "503 Service Unavailable",
        "nobody knows",
        "no space left on device",
    ] {
        let mut lab = deaf(forgets(|cache| cache.images.iter_mut().for_each(|image| image.failure = None)));
        lab.knobs.broken_images.insert("docker.io/library/alpine:latest".to_owned(), ("ErrImagePull", message).into());
        lab.run(secs(60.0));
        assert_says(&told(&lab), "docker.io/library/alpine:latest is tried too soon after it failed");
    }
}

#[test]
fn an_image_that_was_removed_and_is_pulled_again_at_once() {
    let mut lab = deaf(forgets(|cache| cache.images.iter_mut().for_each(|image| image.eviction = None)));
    lab.knobs.lists = true;
    lab.run(secs(300.0));
    lab.evict("a", &Reference::parse("alpine"));
    lab.run(secs(300.0));
    assert_says(&told(&lab), "alpine:latest is pulled too soon after it was removed");
}

/// Makes a lab with one node, one Pod at once, and images that fail again and again beside one that could be pulled.
fn contested() -> Lab {
    let mut lab = Lab::default();
    lab.watch_fairness();
    lab.node("a");
    lab.policy("one", |policy| {
        policy.min_delay_between_pulls = "0s".parse().unwrap();
        policy.failure_backoff.initial = "1s".parse().unwrap();
        policy.failure_backoff.max = "1s".parse().unwrap();
    });
    for n in 0..20 {
        let image = format!("registry-{n}.example/nope:1");
        lab.knobs.broken_images.insert(image.clone(), ("ErrImagePull", "manifest unknown").into());
        lab.image_with(&format!("nope-{n}"), &image, under("one"));
    }
    lab.image_with("zeta", "zeta", under("one"));
    lab
}

#[test]
fn an_image_that_starves_by_its_name() {
    let mut lab = contested();
    lab.run(secs(600.0));
    assert_eq!((told(&lab), lab.shows("zeta").as_str()), (Vec::new(), "Cached 1/1"));
    let mut lab = contested();
    let is_zeta = |pull: &Pull| &*pull.cached_image == "zeta";
    lab.knobs.tamper = Box::new(move |plan| {
        plan.effects.retain(|effect| !matches!(effect, Effect::CreatePod(order) if order.pulls.iter().any(is_zeta)));
    });
    lab.run(secs(600.0));
    assert_says(&told(&lab), "could start, and nobody goes first");
    // Other images take its turns as they come.
    let mut lab = contested();
    lab.knobs.mishear = Box::new(|event| {
        if let Event::Image(image, _) = event
            && &*image.name == "zeta"
        {
            image.policy = "missing".into();
        }
    });
    lab.run(secs(3600.0));
    assert_says(&told(&lab), "zeta on a starves: 53 Pods began before it, 52 may");
}

#[test]
fn pods_that_should_not_be() {
    assert_says(&each_pod(|order| order.node_uid = "other".into()), "its node is another machine");
    assert_says(&each_pod(|order| order.node = "z".into()), "its node does not exist");
    assert_says(&each_pod(|order| order.node = "c".into()), "the node is not a target of alpine");
    assert_says(&each_pod(|order| order.pulls.push(pull("never", "busybox"))), "never is never to be pulled");
    assert_says(&each_pod(|order| order.pulls.push(pull("gone", "gone"))), "gone does not exist");
    assert_says(&each_pod(|order| order.pulls.clear()), "a Pod pulls something");
    assert_says(&each_pod(|order| order.name = "Alpine_".into()), "a Pod's name is a DNS label");
    assert_says(&each_pod(|order| order.goes_on_since = Some(jiff::Timestamp::MIN)), "a turn goes on that never began");
    assert_says(&each_pod(|order| order.secrets.clear()), "a Pod pulls without a Secret of its image");
}

#[test]
fn a_pull_of_what_is_there() {
    let mut first = None;
    let noticed = noticed(move |plan| {
        for effect in &plan.effects {
            if let (Effect::CreatePod(order), None) = (effect, &first) {
                first = Some(order.clone());
            }
        }
        let is_quiet = plan.effects.is_empty() && plan.wake_at.is_none();
        if let Some(mut order) = first.clone().filter(|_| is_quiet) {
            order.name = "again".into();
            plan.effects.push(Effect::CreatePod(order));
        }
    });
    assert_says(&noticed, "alpine is there already");
    assert_says(&noticed, "docker.io/library/alpine:latest was pulled already");
}

#[test]
fn a_pull_of_a_followed_tag_that_is_not_due() {
    let mut lab = lab();
    lab.policy("one", |policy| policy.repull_interval = Some("10m".parse().unwrap()));
    lab.run(secs(60.0));
    lab.knobs.mishear = Box::new(|event| {
        if let Event::Policy(policy, _) = event {
            policy.repull_interval = Some(secs(590.0));
        }
    });
    lab.relist();
    lab.run(secs(600.0));
    assert_says(&told(&lab), "docker.io/library/alpine:latest was pulled already");
}

#[test]
fn a_deletion_before_the_outcome_is_recorded() {
    let mut pod = None;
    let noticed = noticed(move |plan| {
        let mut orders = plan.effects.iter().filter_map(|effect| match effect {
            Effect::CreatePod(order) => Some(order.name.clone()),
            _ => None,
        });
        match (orders.next(), &pod) {
            (Some(created), _) => pod = Some(created),
            (None, Some(pod)) => plan.effects.push(Effect::DeletePod { pod: pod.clone(), uid: None, force: false }),
            (None, None) => {}
        }
    });
    assert_says(&noticed, "its outcome is not recorded");
}

/// Drops effects, as if the objects that they write were current.
fn take_for_clean(plan: &mut Plan, is_dropped: impl Fn(&Effect) -> bool) {
    let dropped: Vec<Effect> = plan.effects.extract_if(.., |effect| is_dropped(effect)).collect();
    plan.looks.extend(dropped.iter().map(|effect| (effect.key(), Look::Clean)));
}

#[test]
fn a_status_that_is_not_kept_up_to_date() {
    let is_alpines = |effect: &Effect| matches!(effect, Effect::PatchImage { image, .. } if **image == *"alpine");
    let noticed = noticed(move |plan| take_for_clean(plan, is_alpines));
    assert_says(&noticed, "CachedImage alpine shows");
}

#[test]
fn objects_of_other_kinds_that_are_not_kept_up_to_date() {
    let sets = spoilt(|plan| take_for_clean(plan, |effect| matches!(effect, Effect::PatchSet { .. })));
    assert_says(&sets, "CachedImageSet web shows");
    let policies = spoilt(|plan| take_for_clean(plan, |effect| matches!(effect, Effect::PatchPolicy { .. })));
    assert_says(&policies, "PullPolicy wide shows");
    let mut lab = lab();
    lab.run(secs(60.0));
    lab.edit_image("alpine", |image| image.node_selector = [("pool".to_owned(), "none".to_owned())].into());
    let is_record = |effect: &Effect| matches!(effect, Effect::RecordNode { .. });
    lab.knobs.tamper = Box::new(move |plan| take_for_clean(plan, is_record));
    for _ in 0..10 {
        lab.run(secs(9.1));
        lab.relist();
    }
    assert_says(&told(&lab), "NodeCache a shows");
}

const ONE: &str = "http://one.example";
const TWO: &str = "http://two.example";

/// Makes a lab with a DiscoveryPolicy `found` over two sources, each of which names one image, and a set `web` of both.
fn discovering() -> Lab {
    let mut lab = lab();
    lab.secret("login");
    let source = |endpoint: &str| Source {
        type_: BackendType::Prometheus,
        prometheus: Some(PrometheusSource {
            endpoint: endpoint.to_owned(),
            query: "images".to_owned(),
            lookback: None,
            step: "5m".parse().unwrap(),
            query_type: None,
            aggregation_method: Some(AggregationMethod::Max),
        }),
        loki: None,
        registry: None,
        secret_ref: Some(named("login")),
    };
    for (endpoint, image) in [(ONE, "x:1"), (TWO, "y:1")] {
        let samples = vec![Sample { at: lab.now, value: 1.0 }];
        let series = Series { image: image.to_owned(), samples };
        lab.knobs.sources.insert(endpoint.to_owned(), Ok(Answer::Series(vec![series])));
    }
    lab.discovery("found", |policy| {
        policy.sources = vec![source(ONE), source(TWO)];
        policy.sync_interval = "1m".parse().unwrap();
    });
    lab.set("web", |set| set.discovery_policy_ref = Some(named("found")));
    lab
}

/// Returns the violations of a planner whose plans are spoilt with `tamper` from the time when one of two sources
/// fails.
fn spoilt(tamper: impl FnMut(&mut Plan) + 'static) -> Vec<String> {
    let mut lab = discovering();
    lab.knobs.tamper = Box::new(tamper);
    lab.run(secs(30.0));
    let failure = SourceFailure::new(SourceReason::Timeout, "no answer");
    lab.knobs.sources.insert(TWO.to_owned(), Err(failure));
    lab.run(secs(90.0));
    told(&lab)
}

/// Spoils the lists of a DiscoveryPolicy. `spoil` gets the number of earlier lists.
fn each_list(mut spoil: impl FnMut(usize, &mut Vec<DiscoveredImage>) + 'static) -> Vec<String> {
    let mut number = 0;
    spoilt(move |plan| {
        for effect in &mut plan.effects {
            if let Effect::PatchDiscovery { status, .. } = effect {
                spoil(number, &mut status.discovered_images);
                status.image_count = i32::try_from(status.discovered_images.len()).unwrap();
                number += 1;
            }
        }
    })
}

#[test]
fn an_outage_that_empties_a_list() {
    assert_eq!(spoilt(|_| {}), Vec::<String>::new());
    // The lab plans twice.
    let emptied = each_list(|number, images| {
        if number > 1 {
            images.clear()
        }
    });
    assert_says(&emptied, "its list is emptied");
    let dropped = each_list(|number, images| {
        if number > 1 {
            images.truncate(1)
        }
    });
    assert_says(&dropped, "docker.io/library/y:1 is dropped, and the source that named it fails");
    assert_says(&each_list(|_, images| images.reverse()), "its images are not counted from 1 on");
}

#[test]
fn a_child_that_is_deleted_although_its_image_has_not_left_the_list() {
    /// Requests the deletion of the first child once it exists.
    fn deleted(lab: &mut Lab) -> Vec<String> {
        lab.run(secs(30.0));
        let (child, image) = lab.api.images.iter().find(|(name, _)| name.starts_with("web-")).unwrap();
        let (child, uid) = (child.as_str().into(), image.metadata.uid.as_deref().unwrap().into());
        let delete = Effect::DeleteChild { set: "web".into(), child, uid };
        let mut calls = 0;
        lab.knobs.tamper = Box::new(move |plan| {
            calls += 1;
            plan.effects.extend((calls < 10 && plan.effects.is_empty()).then(|| delete.clone()));
        });
        lab.run(secs(60.0));
        told(lab)
    }
    assert_says(&deleted(&mut discovering()), "its policy does not say that it is gone");
    let mut lab = discovering();
    lab.set("web", |set| set.images = vec![ImageEntry { image: "alpine".to_owned(), ..ImageEntry::default() }]);
    assert_says(&deleted(&mut lab), "it is asked for");
}

#[test]
fn a_discovery_policy_that_does_not_tell_the_truth() {
    let shown = |spoil: fn(&mut DiscoveryPolicyStatus)| {
        let mut lab = discovering();
        lab.run(secs(30.0));
        lab.api.discoveries.get_mut("found").and_then(|policy| policy.status.as_mut()).map(spoil).unwrap();
        lab.faults_of_discoveries()
    };
    assert_eq!(shown(|_| {}), Vec::<String>::new());
    assert_says(&shown(|status| status.observed_generation = Some(0)), "its status is that of an older generation");
    assert_says(&shown(|status| status.discovered_images.truncate(1)), "and its sources name");
    assert_says(&shown(|status| status.query_results.truncate(1)), "it shows another number of sources");
    let failing = shown(|status| {
        status.query_results[0].status = QueryStatus::Failed;
        status.query_results[0].reason = Some("Timeout".to_owned());
    });
    assert_says(&failing, "a source fails, and it shows Synced");
    assert_says(&failing, "is shown as \"Timeout\"");
    assert_says(
        &shown(|status| status.conditions[0].reason = "Timeout".to_owned()),
        "all is well, and it shows Timeout",
    );

    let mut lab = discovering();
    lab.run(secs(30.0));
    lab.discovery("found", |policy| policy.image_filter = Some("(".to_owned()));
    assert_says(&lab.faults_of_discoveries(), "its filter cannot be read, and it shows Synced");
}

#[test]
fn secrets_whose_change_nobody_hears_of() {
    let mut lab = discovering();
    lab.discovery("found", |policy| policy.sync_interval = "1h".parse().unwrap());
    lab.knobs.wrong_secrets.insert("login".to_owned());
    lab.run(secs(30.0));
    assert_eq!(lab.faults_of_discoveries(), Vec::<String>::new());
    lab.knobs.mishear = Box::new(|event| {
        if let Event::Secret(_, version) = event {
            *version = "1".into();
        }
    });
    lab.relist();
    lab.run(secs(300.0));
    lab.knobs.wrong_secrets.clear();
    lab.secret("login");
    lab.run(secs(10.0));
    assert_says(&lab.faults_of_discoveries(), "is shown as \"Unauthorized\"");
}

#[test]
fn two_effects_about_the_same() {
    let noticed = noticed(|plan| {
        let again = plan.effects.clone();
        plan.effects.extend(again);
    });
    assert_says(&noticed, "two effects about CreatePod");
    assert_says(&noticed, "is written too often");
}

#[test]
fn a_nodecache_that_lies() {
    let noticed = noticed(|plan| {
        for effect in &mut plan.effects {
            if let Effect::RecordNode { cache, .. } = effect {
                let pulled_at = Some(Timestamp::UNIX_EPOCH);
                let record =
                    ImageRecord { image: "docker.io/library/other:1".to_owned(), pulled_at, ..Default::default() };
                cache.status.as_mut().unwrap().images.push(record);
            }
        }
    });
    assert_says(&noticed, "docker.io/library/other:1 was never pulled onto a");
}

#[test]
fn statuses_that_make_no_sense() {
    let spoilt = |spoil: fn(&mut drop_api::CachedImageStatus)| {
        noticed(move |plan| {
            for effect in &mut plan.effects {
                if let Effect::PatchImage { status, .. } = effect {
                    spoil(status);
                }
            }
        })
    };
    assert_says(&spoilt(|status| status.nodes_ready += 3), "more nodes are ready than targeted");
    assert_says(&spoilt(|status| status.ready = Some("7/7".to_owned())), "READY is what the counts say");
    assert_says(&spoilt(|status| status.conditions.clear()), "there is no condition Ready");
    assert_says(&spoilt(|status| status.conditions[0].message.clear()), "Ready has no message");
    assert_says(&spoilt(|status| status.conditions[0].reason = "Cached".to_owned()), "Ready and its reason differ");
    assert_says(&spoilt(|status| status.conditions[0].reason = "x".repeat(2000)), "the API server refuses");
    let crowded = spoilt(|status| {
        let failure = |n| NodeFailure {
            node: format!("node-{n}"),
            reason: "ErrImagePull".to_owned(),
            message: "image not found".to_owned(),
            attempts: 1,
            retry_at: None,
        };
        status.failures = (0..11).map(failure).collect();
    });
    assert_says(&crowded, "more than 10 failures");
    let boastful = spoilt(|status| {
        status.conditions[0].status = ConditionStatus::True;
        status.conditions[0].reason = "Cached".to_owned();
    });
    assert_says(&boastful, "Cached, but not everywhere");
    let mut clock = 0;
    let moved = noticed(move |plan| {
        for effect in &mut plan.effects {
            if let Effect::PatchImage { status, .. } = effect {
                clock += 1;
                status.conditions[0].last_transition_time = Timestamp::from_second(clock).unwrap();
            }
        }
    });
    assert_says(&moved, "lastTransitionTime moved");
}

/// Returns the faults of the lab at rest if the status of its image is spoilt.
fn at_rest(spoil: fn(&mut CachedImageStatus)) -> Vec<String> {
    let mut lab = lab();
    lab.knobs.lists = true;
    lab.settle();
    lab.api.images.get_mut("alpine").and_then(|image| image.status.as_mut()).map(spoil).unwrap();
    lab.faults_at_rest()
}

#[test]
fn statuses_at_rest_that_are_not_true() {
    assert_eq!(at_rest(|_| {}), Vec::<String>::new());
    assert_says(&at_rest(|status| status.nodes_ready = 1), "it shows 1 nodes that have it, and 2 do");
    let waiting = at_rest(|status| status.conditions[0].reason = "Waiting".to_owned());
    assert_says(&waiting, "it shows Waiting 2/2: cached on 2/2 nodes");
    let old = at_rest(|status| status.observed_generation = Some(0));
    assert_says(&old, "its status is that of an older generation");
    assert_says(&at_rest(|status| status.nodes_pulling = 1), "pulls or failures are left: (1, 0, 0)");

    let mut lab = lab();
    let entries = ["alpine", "busybox"].map(|image| ImageEntry { image: image.to_owned(), ..ImageEntry::default() });
    lab.set("web", |set| set.images = entries.to_vec());
    lab.settle();
    assert_eq!(lab.faults_at_rest(), Vec::<String>::new());
    lab.api.sets.get_mut("web").and_then(|set| set.status.as_mut()).unwrap().images_ready = 1;
    assert_says(&lab.faults_at_rest(), "it shows Some((2, 1)), and 2 of 2 are ready");
    lab.api.images.retain(|name, _| !name.starts_with("web-busybox"));
    assert_says(&lab.faults_at_rest(), "busybox");

    let mut lab = discovering();
    lab.run(secs(90.0));
    assert_eq!(lab.faults_at_rest(), Vec::<String>::new());
    let status = lab.api.sets.get_mut("web").and_then(|set| set.status.as_mut()).unwrap();
    status.conditions[0].reason = "Timeout".to_owned();
    assert_says(&lab.faults_at_rest(), "it shows Timeout, and should AllReady");
    lab.delete_discovery("found");
    assert_says(&lab.faults_at_rest(), "it shows Timeout, and should DiscoveryPolicyNotFound");

    let mut lab = self::lab();
    lab.settle();
    lab.api.policies.get_mut("one").and_then(|policy| policy.status.as_mut()).unwrap().nodes_pulling = 1;
    assert_eq!(lab.faults_at_rest(), ["PullPolicy one shows 1 nodes that pull"]);
    lab.api.images.get_mut("alpine").unwrap().status = None;
    assert_says(&lab.faults_at_rest(), "CachedImage alpine has no status");
}

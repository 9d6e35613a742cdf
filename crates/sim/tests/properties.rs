//! Random clusters: properties that always hold.
//!
//! The number of a scenario alone determines it. The lab checks the properties of every step (`src/check.rs`); these
//! tests check the final state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Lab, duration};
use drop_api::cached_image::{ImagePullPolicy, LocalObjectReference};
use drop_api::cached_image_set::ImageEntry;
use drop_api::condition;
use drop_api::node_cache::NodeCacheStatus;
use drop_api::pull_policy::{HostNetwork, LookupMode};
use drop_api::scheduling::{TaintEffect, Toleration, TolerationOperator};
use drop_api::{CachedImageSetSpec, CachedImageSpec, CachedImageStatus, DiscoveryPolicySpec, PullPolicySpec};
use drop_core::discovery::{Answer, Sample, Series, SourceFailure, SourceReason};
use drop_core::effect::{EffectKey, PodOrder};
use drop_core::event::{Event, Kind, Report};
use drop_core::explain::{Which, explain};
use drop_core::image::Image;
use drop_core::lookup::LookedUp;
use drop_core::reference::Reference;
use drop_core::survey::Survey;
use drop_core::{Effect, Name, Settings, World, plan};
use drop_sim::{Bandwidth, Fate, Kubelet, Machine, Outcome, Registry, Rng, Trouble, secs};
use jiff::SignedDuration;

const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];
const POLICIES: [&str; 2] = ["p", "q"];
const SETS: [&str; 2] = ["web", "ci"];
const IMAGES: [&str; 6] = ["i0", "i1", "i2", "i3", "i4", "i5"];
const REFERENCES: [&str; 5] = ["alpine:3.20", "busybox", "quay.io/a/b:1", "quay.io/c/d:2", "registry.bad/x"];
const FULL_REFERENCES: [&str; 5] = [
    "docker.io/library/alpine:3.20",
    "docker.io/library/busybox:latest",
    "quay.io/a/b:1",
    "quay.io/c/d:2",
    "registry.bad/x:latest",
];
/// The image that needs a Secret.
const PRIVATE: &str = FULL_REFERENCES[3];
const SECRETS: [&str; 2] = ["pull", "login"];
const DISCOVERIES: [&str; 2] = ["logs", "metrics"];
const SOURCES: [&str; 3] = ["http://one.example", "http://two.example", "http://three.example"];
const DIGESTS: [&str; 2] = [
    "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
];
const PUSHED_LAST: &str = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
const HOSTS: [&str; 3] = ["docker.io", "quay.io", "registry.bad"];
const FAILURES: [(&str, &str); 4] = [
    ("ErrImagePull", "docker.io/library/nope:1: not found"),
    ("ErrImagePull", "dial tcp: lookup registry.bad: no such host"),
    ("ErrImagePull", "write /var/lib/containerd/tmp: no space left on device"),
    ("ErrImagePull", "something that nobody has seen before"),
];

const TROUBLES: [SourceReason; 4] =
    [SourceReason::Timeout, SourceReason::Unauthorized, SourceReason::InvalidResponse, SourceReason::RateLimited];

/// After this time since everything was repaired, every image is being pulled: twice the longest backoff, and a turn
/// for each node and image.
const STARVED: SignedDuration = SignedDuration::from_mins(30);

/// After this time since the last change, every DiscoveryPolicy shows the answers of its sources: its longest interval,
/// and twice the longest time that sources take.
const SYNCED: SignedDuration = SignedDuration::from_mins(5);

/// After this time since a registry works again, and has images for all platforms, the operator has asked it.
const LOOKED_UP: SignedDuration = SignedDuration::from_mins(70);

/// After this many failing clusters no more are tried.
const MOST_FAILURES: usize = 5;

/// The number of random clusters, unless `cargo xtask fuzz` asks for more.
const CLUSTERS: u64 = 10_000;

#[test]
fn random_clusters_keep_every_promise_and_converge() {
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect(variable));
    let first = number("DROP_SEED").unwrap_or(0);
    let minutes = number("DROP_FUZZ_MINUTES");
    let until = minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let count = if std::env::var_os("DROP_SEED").is_some() && minutes.is_none() { 1 } else { CLUSTERS };
    let (next, seconds, failed) = (AtomicU64::new(first), AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_over = until.map_or(seed >= first + count, |until| Instant::now() >= until);
            if is_over || failed.lock().unwrap().len() >= MOST_FAILURES {
                next.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            match std::panic::catch_unwind(|| live(seed, count == 1)) {
                Ok(lived) => drop(seconds.fetch_add(lived.as_secs().unsigned_abs(), Ordering::Relaxed)),
                // The failure is printed above; other clusters may show it in a simpler way.
                Err(_) => failed.lock().unwrap().push(seed),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (clusters, hours) = (next.load(Ordering::Relaxed) - first, seconds.load(Ordering::Relaxed) / 3600);
    eprintln!("{clusters} clusters, from seed {first} on, lived for {hours} hours");
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds of clusters that broke a promise, see above: {failed:?}");
}

/// Runs the cluster of this seed, and checks its final state. Returns how long it ran.
fn live(seed: u64, is_told: bool) -> SignedDuration {
    let mut lab = disturbed(seed, |lab| {
        if is_told {
            lab.keep_journal();
        }
    });
    if seed % 32 == 5 {
        endure(&mut lab);
    }
    converge(&mut lab, seed);
    if follows(seed) {
        follow(&mut lab);
    }
    rest(&mut lab);
    assert_eq!(lab.faults_of_pacing(), Vec::<String>::new(), "{}", lab.title);
    lab.elapsed()
}

#[test]
fn the_order_in_which_objects_are_listed_does_not_matter() {
    for seed in 0..40 {
        let lab = disturbed(seed, |_| {});
        let mut rng = Rng::new(seed);
        let (lists, mut objects): (Vec<Event>, Vec<Event>) =
            lab.list().into_iter().partition(|event| matches!(event, Event::Listed(..)));
        let tell = |objects: &[Event]| {
            let mut world = World::new(Settings::default());
            objects.iter().chain(&lists).for_each(|event| world.apply(event.clone(), lab.now));
            world.settle(lab.now);
            let plan = plan(&world, lab.now);
            (plan.effects, plan.wake_at)
        };
        let expected = tell(&objects);
        for _ in 0..3 {
            rng.shuffle(&mut objects);
            assert_eq!(tell(&objects), expected, "seed {seed}");
        }
    }
}

#[test]
fn a_survey_in_parts_counts_what_is_explained_of_each_pair() {
    for seed in 0..200 {
        let lab = disturbed(seed, |_| {});
        let mut world = World::new(Settings::default());
        lab.list().into_iter().for_each(|event| world.apply(event, lab.now));
        world.settle(lab.now);
        let mut explained: BTreeMap<(Name, &str), usize> = BTreeMap::new();
        for image in explain(&world, lab.now, &Which::default(), usize::MAX).unwrap() {
            for node in image.nodes {
                *explained.entry((image.cached_image.clone(), node.verdict.reason())).or_default() += 1;
            }
        }
        for pairs in [1, 7, 1000] {
            let mut survey = Survey::default();
            let mut steps = 1;
            let overview = loop {
                match survey.step(&world, lab.now, pairs) {
                    Some(overview) => break overview,
                    None => steps += 1,
                }
            };
            let groups = overview.images.iter().flat_map(|image| {
                image.verdicts.iter().map(|group| ((image.cached_image.clone(), group.verdict.reason()), group.nodes))
            });
            assert_eq!(groups.collect::<BTreeMap<_, _>>(), explained, "seed {seed}, {pairs} pairs at once");
            let is_any_missing = overview.summary.images.values().any(|counts| counts.cached < counts.targeted);
            if pairs == 1 && is_any_missing {
                assert_eq!(steps, NODES.len().min(lab.api.nodes.len()), "seed {seed}: a node with each step");
            }
        }
    }
}

#[test]
fn the_order_in_which_kinds_are_watched_does_not_matter() {
    for seed in 0..60 {
        let lab = disturbed(seed, |lab| lab.keep_history());
        let mut rng = Rng::new(seed);
        let lists: Vec<Event> = lab.list().into_iter().filter(|event| matches!(event, Event::Listed(..))).collect();
        let mut tell = || {
            let mut by_kind: BTreeMap<Kind, VecDeque<&Event>> = BTreeMap::new();
            for (kind, event) in lab.record.history.as_ref().unwrap() {
                by_kind.entry(*kind).or_default().push_back(event);
            }
            let mut world = World::new(Settings::default());
            while !by_kind.is_empty() {
                let kind = *by_kind.keys().nth(rng.index(by_kind.len())).unwrap();
                match by_kind.get_mut(&kind).and_then(VecDeque::pop_front) {
                    Some(event) => world.apply(event.clone(), lab.now),
                    None => drop(by_kind.remove(&kind)),
                }
            }
            lists.iter().for_each(|list| world.apply(list.clone(), lab.now));
            world.settle(lab.now);
            let plan = plan(&world, lab.now);
            (plan.effects, plan.wake_at)
        };
        let expected = tell();
        for _ in 0..3 {
            assert_eq!(tell(), expected, "seed {seed}");
        }
    }
}

/// Makes a planner faulty.
type Plant = fn(&mut Lab);

#[test]
fn planted_bugs_are_noticed_in_random_clusters() {
    let plants: [(&str, Plant, &str); 6] = [
        ("an image is never started", |lab| never_start(lab, "i0"), "i0 on "),
        ("an image starves, and the plan says that others go first", |lab| starve(lab, "i0"), "i0 on "),
        ("a node is tried again at once", |lab| forget(lab, |it| it.node_failure = None), "too soon after it failed"),
        (
            "an image is tried again at once",
            |lab| forget(lab, |it| it.images.iter_mut().for_each(|image| image.failure = None)),
            "too soon after it failed",
        ),
        (
            "an image is pulled again at once",
            |lab| forget(lab, |it| it.images.iter_mut().for_each(|image| image.eviction = None)),
            "too soon after it was removed",
        ),
        ("a paused policy goes on", |lab| lab.knobs.mishear = Box::new(go_on), "the policy is paused or missing"),
    ];
    for (bug, plant, told) in plants {
        assert!((0..300).any(|seed| is_noticed(seed, plant, told)), "nobody notices that {bug}");
    }
}

#[test]
fn planted_bugs_about_registries_are_noticed_in_random_clusters() {
    let plants: [(&str, Plant, &str); 3] = [
        (
            "an image is tried that its registry does not have",
            |lab| {
                mislead(lab, |answer| {
                    if let LookedUp::NotFound { message } = answer {
                        *answer = LookedUp::Unavailable { message: message.clone(), retry_after: None };
                    }
                })
            },
            "its registry has no such image",
        ),
        (
            "an image is tried on a platform that it is not for",
            |lab| {
                mislead(lab, |answer| {
                    if let LookedUp::Found(manifest) = answer {
                        manifest.platforms.clear();
                    }
                })
            },
            "its registry has no ",
        ),
        (
            "a registry is asked all the time",
            |lab| {
                lab.knobs.mishear = Box::new(|event| {
                    if let Event::Policy(policy, _) = event {
                        policy.repull_interval = Some(secs(5.0));
                    }
                })
            },
            "is asked again too soon",
        ),
    ];
    for (bug, plant, told) in plants {
        let mut seeds = (0..300).filter(|seed| asks(*seed));
        assert!(seeds.any(|seed| is_noticed(seed, plant, told)), "nobody notices that {bug}");
    }
}

/// Whether the lab reports `told` for a planner with this fault in the cluster of this seed.
fn is_noticed(seed: u64, plant: Plant, told: &str) -> bool {
    let mut lab = disturbed(seed, plant);
    lab.knobs.fate = Box::new(|_| Fate::Answered);
    lab.run(secs(4.0 * 3600.0));
    lab.take_violations().iter().any(|violation| violation.contains(told))
}

/// Never starts this image.
fn never_start(lab: &mut Lab, name: &'static str) {
    lab.knobs.tamper = Box::new(move |plan| {
        let pulls = |order: &PodOrder| order.pulls.iter().any(|pull| &*pull.cached_image == name);
        plan.effects.retain(|effect| !matches!(effect, Effect::CreatePod(order) if pulls(order)));
    });
}

/// Makes an image refer to a policy that does not exist, so that all others go first.
fn starve(lab: &mut Lab, name: &'static str) {
    lab.knobs.mishear = Box::new(move |event| {
        if let Event::Image(image, _) = event
            && &*image.name == name
        {
            image.policy = "missing".into();
        }
    });
}

/// Makes the planner ignore a part of NodeCaches.
fn forget(lab: &mut Lab, forget: fn(&mut NodeCacheStatus)) {
    lab.knobs.mishear = Box::new(move |event| {
        if let Event::Cache(cache) | Event::Report(_, Report::Recorded(cache)) = event {
            cache.status.iter_mut().for_each(forget);
        }
    });
}

/// Changes the answers of registries for the planner.
fn mislead(lab: &mut Lab, mislead: fn(&mut LookedUp)) {
    lab.knobs.mishear = Box::new(move |event| {
        if let Event::Report(_, Report::LookedUp(answer)) = event {
            mislead(answer);
        }
    });
}

/// Hides from the planner that a policy is paused.
fn go_on(event: &mut Event) {
    if let Event::Policy(policy, _) = event {
        policy.paused = false;
    }
}

/// Makes a random cluster, and runs it for a while with faults.
fn disturbed(seed: u64, prepare: impl FnOnce(&mut Lab)) -> Lab {
    let mut rng = Rng::new(seed);
    // A list of three images is always too short. Without a configured length, the operator learns it from the lists.
    let listed_images = rng.pick(&[3, 50, 50, 0]);
    let mut lab = Lab::with(Settings { listed_images, looks_up: asks(seed), ..Settings::default() });
    lab.title = format!("seed {seed}: DROP_SEED={seed} cargo test -p drop-sim --test properties");
    lab.watch_fairness();
    prepare(&mut lab);
    for node in NODES.iter().take(1 + rng.index(5)) {
        join(&mut lab, &mut rng, node);
        if rng.chance(15) {
            let machine = machine(&mut rng, listed_images);
            lab.knobs.machines.insert((*node).to_owned(), machine);
        }
    }
    if rng.chance(10) {
        lab.knobs.digests_by_platform.extend(FULL_REFERENCES.iter().map(ToString::to_string));
    }
    for name in POLICIES {
        let spec = policy(&mut rng);
        lab.policy(name, |policy| *policy = spec);
        if asks(seed) && rng.chance(15) {
            lab.policy(name, |policy| policy.lookup = LookupMode::Never);
        }
    }
    if rng.chance(30) {
        lab.knobs.private.insert(PRIVATE.to_owned(), SECRETS[0].to_owned());
    }
    for name in SECRETS {
        if rng.chance(70) {
            lab.secret(name);
        }
    }
    if asks(seed) && rng.chance(30) {
        lab.knobs.platforms.insert(rng.pick(&FULL_REFERENCES).to_owned(), vec!["linux/amd64".to_owned()]);
    }
    SOURCES.into_iter().for_each(|source| answer(&mut lab, &mut rng, source));
    for name in IMAGES.iter().take(1 + rng.index(6)) {
        create_image(&mut lab, &mut rng, name);
    }
    lab.knobs.json = seed % 8 == 1;
    lab.knobs.lists = rng.chance(60);
    if rng.chance(30) {
        let speeds = [5_000_000, 20_000_000];
        lab.knobs.bandwidth = Some(Bandwidth { node: rng.pick(&speeds), registry: rng.pick(&speeds) });
    }
    for (more, reference) in (0..).zip(FULL_REFERENCES) {
        lab.knobs.sizes.insert(reference.to_owned(), 1_000_000 * rng.pick(&[20, 50, 100, 100, 200]) + more);
    }
    lab.knobs.jitter = rng.chance(70).then(|| Rng::new(seed + 1));
    lab.knobs.kubelet_clock = secs(rng.pick(&[-300.0, 0.0, 0.0, 300.0]));
    if rng.chance(60) {
        let mut dice = Rng::new(seed + 2);
        lab.knobs.fate = Box::new(move |_| match dice.below(100) {
            0..5 => Fate::AnswerLost,
            5..10 => Fate::RequestLost,
            10..14 => Fate::Refused("not now"),
            14..16 => Fate::RefusedAnyway("not now"),
            16..20 => Fate::Late(secs(dice.below(100) as f64 / 10.0)),
            _ => Fate::Answered,
        });
    }
    for _ in 0..10 + rng.below(15) {
        let span = secs(rng.below(600) as f64 / 10.0);
        lab.run(span);
        disturb(&mut lab, &mut rng, seed);
    }
    lab
}

/// Adds a node, of one of two platforms and sometimes virtual.
fn join(lab: &mut Lab, rng: &mut Rng, name: &str) {
    lab.node(name);
    let is_virtual = rng.chance(5);
    let is_arm = name >= "d";
    if is_virtual || is_arm {
        lab.edit_node(name, |node| {
            node.is_virtual = is_virtual;
            node.platform = if is_arm { "linux/arm64" } else { "linux/amd64" }.into();
        });
    }
}

/// Makes a machine that differs from the others.
fn machine(rng: &mut Rng, listed_images: usize) -> Machine {
    Machine {
        disk: rng.pick(&[None, Some(150_000_000), Some(250_000_000)]),
        // Every node lists at least the configured number.
        listed_images: match listed_images {
            0 => Some(rng.pick(&[3, 20, 200, -1])),
            50 => Some(rng.pick(&[200, -1])),
            _ => None,
        },
        bare_image_ids: rng.chance(50),
    }
}

/// Makes unusual pulls, on all nodes or on one.
fn trouble(rng: &mut Rng, node: &str) -> Trouble {
    let of = match rng.below(3) {
        0 => String::new(),
        1 => rng.pick(&HOSTS).to_owned(),
        _ => rng.pick(&FULL_REFERENCES).to_owned(),
    };
    let outcome = match rng.below(9) {
        0..3 => Outcome::Takes(duration(rng.pick(&["30s", "2m", "10m"]))),
        3 => Outcome::NoDns,
        4 => Outcome::Unauthorized,
        5 => Outcome::Forbidden,
        6 => Outcome::Eof,
        7 => Outcome::Garbage,
        _ => Outcome::Status(rng.pick(&[418, 429, 500, 503])),
    };
    let nodes = if rng.chance(70) { vec![node.to_owned()] } else { Vec::new() };
    Trouble { of, nodes, outcome }
}

/// Disturbs one node, one registry or one source, but not the others.
fn trouble_one(lab: &mut Lab, rng: &mut Rng, node: &str) {
    let node_is_there = lab.api.nodes.contains_key(node);
    match rng.below(11) {
        10 => lab.set_clocks(secs(60.0 * rng.pick(&[-30.0, -1.0, 1.0, 30.0]))),
        0..5 => {
            let trouble = trouble(rng, node);
            lab.knobs.troubles.push(trouble);
        }
        5 => lab.knobs.troubles.clear(),
        6 => {
            let failure = rng.pick(&[("OutOfpods", "too many Pods"), ("OutOfcpu", "not enough cpu")]).into();
            lab.knobs.kubelets.insert(node.to_owned(), Kubelet::RejectsNext(failure));
        }
        7 if node_is_there => lab.edit_node(node, |node| node.disk_pressure = !node.disk_pressure),
        8 => {
            let disk = rng.pick(&[None, Some(150_000_000), Some(250_000_000)]);
            lab.knobs.machines.entry(node.to_owned()).or_default().disk = disk;
        }
        _ => {
            // The list of this source flaps.
            let source = rng.pick(&SOURCES);
            let before = lab.knobs.sources.get(source).cloned();
            answer(lab, rng, source);
            lab.knobs.alternates.extend(before.map(|before| (source.to_owned(), before)));
        }
    }
}

fn policy(rng: &mut Rng) -> PullPolicySpec {
    PullPolicySpec {
        max_concurrent_nodes: 1 + i32::try_from(rng.below(3)).unwrap(),
        max_concurrent_pulls: rng.chance(30).then_some(2),
        max_concurrent_pulls_per_registry: rng.chance(30).then_some(1),
        min_delay_between_pulls: duration(rng.pick(&["0s", "1s", "10s"])),
        pull_timeout: duration(rng.pick(&["20s", "1h"])),
        images_per_pod: 1 + i32::try_from(rng.below(3)).unwrap(),
        repull_interval: rng.chance(30).then(|| duration(rng.pick(&["1m", "5m"]))),
        host_network: rng.pick(&[
            HostNetwork::Never,
            HostNetwork::Never,
            HostNetwork::NotReadyNodes,
            HostNetwork::Always,
        ]),
        paused: rng.chance(10),
        ..PullPolicySpec::default()
    }
}

fn registry(rng: &mut Rng) -> Registry {
    Registry { at_once: rng.chance(50).then_some(1), per_minute: rng.chance(50).then_some(2), is_down: rng.chance(40) }
}

fn image_spec(rng: &mut Rng) -> CachedImageSpec {
    let policy = rng.pick(&["", "p", "p", "q", "q"]);
    CachedImageSpec {
        image: rng.pick(&REFERENCES).to_owned(),
        image_pull_policy: match rng.below(20) {
            0 => ImagePullPolicy::Never,
            1..6 => ImagePullPolicy::IfNotPresent,
            _ => ImagePullPolicy::Always,
        },
        node_selector: if rng.chance(20) { [("pool".to_owned(), "gpu".to_owned())].into() } else { [].into() },
        tolerations: if rng.chance(50) { vec![tolerates_not_ready()] } else { Vec::new() },
        priority: i32::try_from(rng.below(3)).unwrap(),
        image_pull_secrets: if rng.chance(80) { secrets(&SECRETS[..1]) } else { secrets(&["missing", SECRETS[0]]) },
        policy_ref: Some(policy)
            .filter(|name| !name.is_empty())
            .map(|name| LocalObjectReference { name: name.to_owned() }),
        ..CachedImageSpec::default()
    }
}

/// Returns the toleration of an image that is wanted on a node before the node is ready.
fn tolerates_not_ready() -> Toleration {
    Toleration {
        key: Some("node.kubernetes.io/not-ready".to_owned()),
        operator: Some(TolerationOperator::Exists),
        effect: Some(TaintEffect::NoSchedule),
        ..Toleration::default()
    }
}

fn create_image(lab: &mut Lab, rng: &mut Rng, name: &str) {
    let spec = image_spec(rng);
    let reference = spec.image.clone();
    let edit = |image: &mut CachedImageSpec| *image = spec;
    match rng.below(3) {
        0 => lab.image_with(name, &reference, edit),
        set => lab.image_of_set(&format!("set-{set}"), name, &reference, edit),
    }
}

fn secrets(names: &[&str]) -> Vec<LocalObjectReference> {
    names.iter().map(|name| LocalObjectReference { name: (*name).to_owned() }).collect()
}

/// Makes a source give another answer.
fn answer(lab: &mut Lab, rng: &mut Rng, source: &str) {
    let at = lab.now;
    let answer = match rng.below(10) {
        0..3 => Err(SourceFailure::new(rng.pick(&TROUBLES), "it went wrong")),
        3 => Ok(Vec::new()),
        _ => Ok((0..1 + rng.below(3))
            .map(|_| Series {
                image: rng.pick(&REFERENCES).to_owned(),
                samples: vec![Sample { at, value: rng.below(5) as f64 }],
            })
            .collect()),
    };
    lab.knobs.sources.insert(source.to_owned(), answer.map(Answer::Series));
}

/// Creates or changes a DiscoveryPolicy.
fn write_discovery(lab: &mut Lab, rng: &mut Rng, name: &str) {
    let sources = (0..1 + rng.below(2))
        .map(|_| common::source(rng.pick(&SOURCES), rng.chance(50).then_some(SECRETS[1])))
        .collect();
    let spec = DiscoveryPolicySpec {
        sources,
        image_filter: rng.chance(10).then(|| "(".to_owned()),
        sync_interval: duration(rng.pick(&["1m", "2m"])),
        max_images: rng.pick(&[1, 2, 50]),
        ..DiscoveryPolicySpec::default()
    };
    lab.discovery(name, |policy| *policy = spec);
}

/// Creates or changes a CachedImageSet.
fn write_set(lab: &mut Lab, rng: &mut Rng, name: &str) {
    let CachedImageSpec {
        image_pull_policy, node_selector, tolerations, priority, policy_ref, image_pull_secrets, ..
    } = image_spec(rng);
    let discovery = rng.pick(&[None, Some(DISCOVERIES[0]), Some(DISCOVERIES[1])]);
    let entry = |image: &str| ImageEntry { image: image.to_owned(), ..ImageEntry::default() };
    let images = (0..1 + rng.below(3)).map(|_| entry(rng.pick(&REFERENCES))).collect();
    lab.set(name, |set| {
        *set = CachedImageSetSpec {
            images,
            image_pull_policy,
            node_selector,
            tolerations,
            priority,
            policy_ref,
            image_pull_secrets,
            discovery_policy_ref: discovery.map(|name| LocalObjectReference { name: name.to_owned() }),
            ..CachedImageSetSpec::default()
        };
    });
}

/// Whether a cluster has CachedImageSets and DiscoveryPolicies.
fn has_sets(seed: u64) -> bool {
    seed % 3 == 1
}

/// The CachedImages that belong to sets.
fn children(lab: &Lab) -> Vec<String> {
    let owned = lab.api.images.iter().filter(|(_, image)| image.metadata.owner_references.is_some());
    owned.map(|(name, _)| name.clone()).collect()
}

/// Whether tags are pushed anew at the end, and all nodes have to follow.
fn follows(seed: u64) -> bool {
    seed.is_multiple_of(8)
}

/// Whether the operator asks registries for images.
fn asks(seed: u64) -> bool {
    seed % 4 == 2 || seed.is_multiple_of(16)
}

/// Changes a registry, or the operator's or a node's view of it.
fn change_registry(lab: &mut Lab, rng: &mut Rng, node: &str) {
    let image = rng.pick(&FULL_REFERENCES);
    match rng.below(10) {
        0 | 1 => drop(lab.knobs.out_of_reach.insert(rng.pick(&HOSTS).to_owned())),
        2 => lab.knobs.out_of_reach.clear(),
        3 | 4 => {
            let platform = rng.pick(&["linux/amd64", "linux/arm64"]);
            lab.knobs.platforms.insert(image.to_owned(), vec![platform.to_owned()]);
            lab.push(image, &another_digest(rng));
        }
        5 => push_for_all_platforms(lab, rng),
        6 => {
            let lagging = [(image.to_owned(), rng.pick(&DIGESTS).to_owned())];
            lab.knobs.digests_on.insert(node.to_owned(), lagging.into());
        }
        7 => lab.knobs.digests_on.clear(),
        8 => {
            let missing = format!("{image}: not found");
            lab.knobs.broken_images.insert(image.to_owned(), ("ErrImagePull", missing.as_str()).into());
        }
        _ => lab.knobs.asking = secs(rng.pick(&[0.01, 2.0, 10.0])),
    }
}

/// Makes registries have every image for all platforms. An image for other platforms has another digest.
fn push_for_all_platforms(lab: &mut Lab, rng: &mut Rng) {
    for image in std::mem::take(&mut lab.knobs.platforms).into_keys() {
        lab.push(&image, &another_digest(rng));
    }
}

fn another_digest(rng: &mut Rng) -> String {
    format!("sha256:{:064x}", rng.below(1 << 60))
}

/// Changes one thing in the cluster. In some clusters policies are never edited, so that limits can be recounted
/// exactly.
fn disturb(lab: &mut Lab, rng: &mut Rng, seed: u64) {
    let node = rng.pick(&NODES);
    let node_is_there = lab.api.nodes.contains_key(node);
    let name = rng.pick(&IMAGES);
    let image_is_there = lab.api.images.contains_key(name);
    let policy_name = rng.pick(&POLICIES);
    let set = rng.pick(&SETS);
    let discovery = rng.pick(&DISCOVERIES);
    if rng.chance(10) {
        return trouble_one(lab, rng, node);
    }
    if asks(seed) && rng.chance(25) {
        return change_registry(lab, rng, node);
    }
    // Only some clusters have sets, because their images come in addition.
    match rng.below(if has_sets(seed) { 52 } else { 40 }) {
        0 if node_is_there => lab.remove_node(node),
        1 if node_is_there => {
            // Another machine takes its name before the old machine's objects are collected.
            lab.remove_node(node);
            join(lab, rng, node);
        }
        0..3 => {
            if !node_is_there {
                join(lab, rng, node);
            }
        }
        3 if node_is_there => lab.edit_node(node, |node| node.unschedulable = !node.unschedulable),
        4 if node_is_there => lab.edit_node(node, |node| {
            if node.labels.remove("pool").is_none() {
                node.labels.insert("pool".into(), "gpu".into());
            }
        }),
        5 if image_is_there => lab.delete_image(name),
        6..8 if image_is_there => {
            let spec = image_spec(rng);
            lab.edit_image(name, |image| *image = spec);
        }
        5..8 => create_image(lab, rng, name),
        8 | 9 if seed.is_multiple_of(3) => lab.run(secs(30.0)),
        8 if lab.api.policies.contains_key(policy_name) => lab.delete_policy(policy_name),
        8 | 9 => {
            let spec = policy(rng);
            lab.policy(policy_name, |policy| *policy = spec);
        }
        10 => lab.restart(rng.chance(50)),
        11 => {
            lab.stop(rng.chance(50));
            lab.run(secs(rng.below(100) as f64));
            lab.start();
        }
        12 if rng.chance(50) => lab.relist(),
        12 => lab.relist_kind(rng.pick(&Kind::ALL)),
        23 | 24 => lab.hand_over(secs(rng.below(100) as f64 / 10.0)),
        25..28 => {
            let by = secs(rng.pick(&[0.0, 1.0, 5.0, 15.0]));
            lab.lag(rng.pick(&Kind::ALL), by, rng.chance(60));
        }
        13 => {
            let pods: Vec<_> = lab.api.pods.keys().cloned().collect();
            if let Some(pod) = rng.choose(&pods) {
                lab.delete_pod(pod);
            }
        }
        14 => drop(lab.knobs.broken_images.insert(rng.pick(&FULL_REFERENCES).to_owned(), rng.pick(&FAILURES).into())),
        15 => lab.knobs.broken_images.clear(),
        16 => drop(lab.knobs.kubelets.insert(
            node.to_owned(),
            rng.pick(&[
                Kubelet::Silent,
                Kubelet::NoSandbox,
                Kubelet::Rejects(("OutOfpods", "full").into()),
                Kubelet::CannotPull(("ErrImagePull", "no space left on device").into()),
            ]),
        )),
        17 => lab.knobs.kubelets.clear(),
        18..20 if node_is_there && lab.knobs.lists => {
            for image in REFERENCES.map(Reference::parse) {
                lab.evict(node, &image);
            }
        }
        28 if node_is_there => lab.restart_kubelet(node),
        29 | 30 if node_is_there => lab.lose(node),
        31 | 32 => lab.regain(),
        33 => drop(lab.knobs.registries.insert(rng.pick(&HOSTS).to_owned(), registry(rng))),
        34 => lab.knobs.registries.clear(),
        40 | 41 => write_set(lab, rng, set),
        42 if lab.api.sets.contains_key(set) => lab.delete_set(set),
        43 => {
            // Users also delete objects that belong to a set.
            if let Some(name) = rng.choose(&children(lab)) {
                lab.delete_image(name);
            }
        }
        36 | 37 if node_is_there => lab.disconnect(node),
        38 | 39 => lab.push(rng.pick(&FULL_REFERENCES), rng.pick(&DIGESTS)),
        35 => lab.knobs.disk = rng.pick(&[None, Some(250_000_000), Some(350_000_000)]),
        44..46 => write_discovery(lab, rng, discovery),
        46 if lab.api.discoveries.contains_key(discovery) => lab.delete_discovery(discovery),
        47..50 => {
            let source = rng.pick(&SOURCES);
            answer(lab, rng, source);
        }
        50 => lab.knobs.asking = secs(rng.pick(&[0.01, 2.0, 10.0])),
        51 => {
            // Users also edit objects that belong to a set.
            let spec = image_spec(rng);
            if let Some(name) = rng.choose(&children(lab)) {
                lab.edit_image(name, |image| *image = spec);
            }
        }
        21 => {
            let secret = rng.pick(&SECRETS);
            lab.knobs.wrong_secrets.remove(secret);
            lab.secret(secret);
        }
        22 => {
            let secret = rng.pick(&SECRETS);
            if lab.api.secrets.contains_key(secret) && rng.chance(50) {
                lab.delete_secret(secret);
            } else {
                lab.knobs.wrong_secrets.insert(secret.to_owned());
            }
        }
        // Long enough for pulled images to be listed, and for removed ones to be noticed.
        20 => lab.run(secs(600.0)),
        _ => {
            let span = secs(1.0 + rng.below(40) as f64);
            lab.knobs.pulls.insert(rng.pick(&FULL_REFERENCES).to_owned(), span);
        }
    }
}

/// Lets the cluster live with its faults for hours without changes. Nothing may starve in them.
fn endure(lab: &mut Lab) {
    lab.knobs.fate = Box::new(|_| Fate::Answered);
    lab.run(secs(4.0 * 3600.0));
}

/// Repairs all faults, and checks that the cluster reaches its final state.
fn converge(lab: &mut Lab, seed: u64) {
    lab.knobs.fate = Box::new(|_| Fate::Answered);
    lab.knobs.alternates.clear();
    if has_sets(seed) && seed.is_multiple_of(2) {
        // Faults are reported unchanged.
        lab.run(SYNCED);
        assert_eq!(lab.faults_of_discoveries(), Vec::<String>::new(), "{}", lab.title);
    }
    lab.repair();
    for secret in SECRETS {
        lab.secret(secret);
    }
    if asks(seed) {
        lab.knobs.out_of_reach.clear();
        lab.knobs.digests_on.clear();
        push_for_all_platforms(lab, &mut Rng::new(seed + 3));
        // A tag that is not followed is looked up again because of missing platforms.
        lab.run(LOOKED_UP);
    }
    for (n, source) in SOURCES.into_iter().enumerate() {
        let series = Series { image: REFERENCES[n].to_owned(), samples: vec![Sample { at: lab.now, value: 1.0 }] };
        lab.knobs.sources.insert(source.to_owned(), Ok(Answer::Series(vec![series])));
    }
    if has_sets(seed) {
        lab.run(SYNCED);
        assert_eq!(lab.faults_of_discoveries(), Vec::<String>::new(), "{}", lab.title);
        for name in lab.api.discoveries.keys().cloned().collect::<Vec<_>>() {
            lab.discovery(&name, |policy| (policy.image_filter, policy.sync_interval) = (None, duration("720h")));
        }
    }
    for name in POLICIES {
        lab.policy(name, |policy| (policy.paused, policy.repull_interval) = (false, None));
    }
    let healed_at = lab.now;
    lab.settle();
    assert_eq!(lab.late_starts(healed_at, STARVED), Vec::<String>::new(), "{}", lab.title);
    let explained = lab.explained();
    assert_eq!(lab.faults_at_rest(), Vec::<String>::new(), "{}: {explained:#?}", lab.title);
}

/// Pushes every image anew, and checks that all nodes follow, and that no image seems to be missing meanwhile.
fn follow(lab: &mut Lab) {
    let images: Vec<_> = lab.api.images.values().filter_map(Image::from_api).collect();
    let mut followed = Vec::new();
    for image in images.iter().filter(|image| image.pull == ImagePullPolicy::Always && !image.policy.is_empty()) {
        let targets = lab.targets_of(image).into_iter();
        followed.extend(targets.map(|node| (node.uid.clone(), node.name.clone(), image.clone())));
    }
    FULL_REFERENCES.into_iter().for_each(|image| lab.push(image, PUSHED_LAST));
    let pushed_at = lab.now;
    for name in POLICIES {
        lab.policy(name, |policy| policy.repull_interval = Some(duration("5m")));
    }
    lab.until(|lab| {
        let mut followed = followed.iter();
        followed.all(|(uid, node, image)| {
            lab.id_on_disk(uid, &image.reference) == Some(&lab.newest_id(node, &image.reference))
        })
    });
    for name in POLICIES {
        lab.policy(name, |policy| policy.repull_interval = None);
    }
    lab.settle();
    for (_, _, image) in &followed {
        let image = &*image.name;
        let since = lab.record.statuses.get(image).into_iter().flatten().filter(|(at, _)| *at > pushed_at);
        let is_ready = |status: &CachedImageStatus| {
            condition::ready(&status.conditions).is_some_and(|ready| ready.reason == "Cached")
        };
        assert!(since.clone().all(|(_, status)| is_ready(status)), "{}: {image}: {:?}", lab.title, lab.reasons(image));
    }
    assert_eq!(lab.faults_at_rest(), Vec::<String>::new(), "{}", lab.title);
}

/// Checks that a restart of a cluster at rest changes nothing.
fn rest(lab: &mut Lab) {
    let requests = lab.record.requests.len();
    let (shown, caches) = (statuses(lab), lab.api.caches.clone());
    lab.restart(true);
    lab.settle();
    // The success that ended a registry's failures may have gone with its node. Then only the previous process
    // remembers that they are over.
    let now_shown = statuses(lab);
    // A process whose clock was set may have recorded times that lie ahead for the next one.
    let are_ahead = lab.record.clocks_were_set;
    let is_more = |key: &EffectKey| match key {
        // The new process does not know the previous answers.
        EffectKey::LookUp(_) => false,
        EffectKey::Image(image) => !are_ahead && shown.get(&**image) != now_shown.get(&**image),
        _ => true,
    };
    let new: Vec<_> = lab.record.requests[requests..].iter().filter(|(_, key)| is_more(key)).collect();
    assert_eq!(lab.api.caches, caches, "{}: a restart of a converged world writes nothing", lab.title);
    let differ = shown.iter().filter(|(image, status)| now_shown.get(*image) != Some(status));
    let differ: Vec<_> = differ.map(|(image, status)| (image, status, now_shown.get(image))).collect();
    assert!(new.is_empty(), "{}: a restart of a converged world writes nothing: {new:?}: {differ:#?}", lab.title);
}

/// Returns the statuses of CachedImages, without the number of failures and the answers of registries.
fn statuses(lab: &Lab) -> BTreeMap<String, CachedImageStatus> {
    let shown = lab.api.images.iter().filter_map(|(name, image)| {
        let status = image.status.clone()?;
        // Every start asks registries again for the digest that they serve now.
        let resolved_digest = status.resolved_digest.clone().filter(|_| status.lookup.is_none());
        let status = CachedImageStatus { consecutive_failures: 0, lookup: None, resolved_digest, ..status };
        Some((name.clone(), status))
    });
    shown.collect()
}

//! How much processor time a [`World`] takes for an event and a plan, and how much memory: of a fleet with so many
//! nodes, whose 500 images are spread over so many pools.
//!
//! `cargo bench --package drop-core --bench fleets -- 5000 10` prints the rows of one fleet, each as name, tab and
//! value. Each fleet has a process of its own: memory that an earlier one freed would be used again, and not be
//! counted. `cargo xtask bench core` runs all fleets and writes the table of docs/scale.md.
#![allow(clippy::print_stdout, reason = "the rows are its output")]

mod fleet;

use std::collections::VecDeque;
use std::time::Duration;
use std::{env, io, mem};

use anyhow::Result;
use drop_core::event::Report;
use drop_core::pull_pod::{Container, ContainerState, PullPod};
use drop_core::{Effect, Event, Name, Plan, World, plan};
use fleet::Fleet;
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Events of a roll-out that are measured.
const EVENTS: usize = 100_000;
/// Nodes that list their images anew once the fleet has converged.
const LISTS: usize = 2_000;

fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let numbers: Vec<usize> = env::args().filter_map(|argument| argument.parse().ok()).collect();
    let [nodes, pools] = *numbers.as_slice() else { anyhow::bail!("usage: fleets NODES POOLS") };
    for (what, cell) in measure(&Fleet::new(nodes, pools))? {
        println!("{what}\t{cell}");
    }
    Ok(())
}

fn measure(fleet: &Fleet) -> Result<Vec<(&'static str, String)>> {
    let mut rows = vec![
        ("images on each node", fleet.images_each().to_string()),
        ("pairs of node and image", fleet.pairs().to_string()),
    ];
    // The converged one first, so that what it takes from the system is all its own.
    let converged = converged(fleet)?;
    rows.extend(roll_out(fleet));
    rows.extend(converged);
    Ok(rows)
}

/// Nothing is anywhere yet.
fn roll_out(fleet: &Fleet) -> Vec<(&'static str, String)> {
    let mut bench = Bench::new(Timestamp::UNIX_EPOCH);
    fleet.fresh_nodes().chain(fleet.images()).chain(fleet.lists(false)).for_each(|event| bench.tell(event));
    let first = bench.plan();
    let cold = bench.clear();
    let mut answers: VecDeque<Event> = first.effects.iter().flat_map(answers_to).collect();
    while let Some(event) = answers.pop_front()
        && bench.plan.0.len() < EVENTS
    {
        bench.tell(event);
        answers.extend(bench.plan().effects.iter().flat_map(answers_to));
    }
    let times = bench.clear();
    vec![
        ("nothing is there yet: first plan", cold.plan.longest()),
        ("100,000 events of the roll-out: apply", times.apply.spread()),
        ("100,000 events of the roll-out: plan", times.plan.spread()),
        ("the longest of them", times.plan.longest()),
    ]
}

/// Everything is everywhere.
fn converged(fleet: &Fleet) -> Result<Vec<(&'static str, String)>> {
    let now = Timestamp::UNIX_EPOCH;
    let mut bench = Bench::new(now);
    let before = resident()?;
    fleet
        .nodes()
        .chain(fleet.images())
        .chain(fleet.caches(now))
        .chain(fleet.lists(true))
        .for_each(|event| bench.tell(event));
    bench.plan();
    let cold = bench.clear();
    let memory = resident()?.saturating_sub(before);
    // Statuses are written once.
    bench.now += SignedDuration::from_secs(60);
    for effect in bench.plan().effects {
        answers_to(&effect).into_iter().for_each(|event| bench.tell(event));
    }
    bench.plan();
    bench.clear();
    for node in 0..LISTS.min(fleet.nodes) {
        bench.tell(fleet.changed_node(node));
        bench.plan();
    }
    let nodes = bench.clear();
    for node in 0..LISTS.min(fleet.nodes) {
        bench.tell(fleet.cache(node, now + SignedDuration::from_secs(1)));
        bench.plan();
    }
    let caches = bench.clear();
    Ok(vec![
        ("everything is there: first plan", cold.plan.longest()),
        ("then a node lists other images: apply", nodes.apply.spread()),
        ("then a node lists other images: plan", nodes.plan.spread()),
        ("then a NodeCache changes: apply", caches.apply.spread()),
        ("then a NodeCache changes: plan", caches.plan.spread()),
        ("memory of all that", format!("{} MiB", memory >> 20)),
        ("memory for each node", format!("{} B", memory / fleet.nodes)),
    ])
}

/// A world, and how long it took.
struct Bench {
    world: World,
    now: Timestamp,
    apply: Times,
    plan: Times,
}

/// The times since the last call of [`Bench::clear`].
struct Measured {
    apply: Times,
    plan: Times,
}

impl Bench {
    fn new(now: Timestamp) -> Self {
        Self { world: World::new(fleet::settings()), now, apply: Times::default(), plan: Times::default() }
    }

    fn tell(&mut self, event: Event) {
        self.now += SignedDuration::from_millis(1);
        self.apply.measure(|| self.world.apply(event, self.now));
    }

    /// All that follows an event: settle, plan, commit.
    fn plan(&mut self) -> Plan {
        self.plan.measure(|| {
            self.world.settle(self.now);
            let plan = plan(&self.world, self.now);
            self.world.commit(&plan, self.now);
            plan
        })
    }

    fn clear(&mut self) -> Measured {
        Measured { apply: mem::take(&mut self.apply).sorted(), plan: mem::take(&mut self.plan).sorted() }
    }
}

/// Returns the events that follow an effect: the Pod comes up, has pulled, and goes.
fn answers_to(effect: &Effect) -> Vec<Event> {
    let key = effect.key();
    let report = |report| Event::Report(key.clone(), report);
    match effect {
        Effect::CreatePod(order) => {
            let uid: Name = format!("uid-of-{}", order.name).into();
            let waiting = || ContainerState::Waiting { reason: "".into(), message: "".into() };
            let containers = order.pulls.iter().map(|pull| Container {
                image: pull.reference.clone(),
                image_id: None,
                pulled_as: None,
                state: waiting(),
            });
            let mut pod = PullPod {
                name: order.name.clone(),
                uid: Some(uid.clone()),
                node: order.node.clone(),
                node_uid: order.node_uid.clone(),
                policy: order.policy.clone(),
                created_at: Timestamp::UNIX_EPOCH,
                goes_on_since: None,
                terminating: false,
                acknowledged_at: None,
                sandbox_up_at: None,
                rejection: None,
                containers: containers.collect(),
            };
            let mut events = vec![report(Report::PodCreated { uid }), Event::Pod(Box::new(pod.clone()))];
            pod.acknowledged_at = Some(Timestamp::UNIX_EPOCH);
            pod.sandbox_up_at = Some(Timestamp::UNIX_EPOCH);
            events.push(Event::Pod(Box::new(pod.clone())));
            for container in &mut pod.containers {
                let digest = format!("{}@sha256:{:064x}", container.image.repository(), 7);
                container.image_id = Some(digest.into());
                container.state =
                    ContainerState::Terminated { reason: "Completed".into(), at: Some(Timestamp::UNIX_EPOCH) };
            }
            events.push(Event::Pod(Box::new(pod)));
            events
        }
        Effect::DeletePod { pod, .. } => {
            vec![report(Report::Done), Event::Gone(drop_core::event::Kind::Pod, pod.clone())]
        }
        Effect::RecordNode { cache, .. } => vec![report(Report::Recorded(cache.clone()))],
        _ => vec![report(Report::Done)],
    }
}

/// How long something took, each time.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn measure<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let began = processor_time();
        let result = what();
        self.0.push(processor_time().saturating_sub(began));
        result
    }

    fn sorted(mut self) -> Self {
        self.0.sort();
        self
    }

    /// Median and 99th percentile.
    fn spread(&self) -> String {
        let at = |percent: usize| self.0.get(self.0.len() * percent / 100).copied().unwrap_or_default();
        format!("{:.1?}, p99 {:.1?}", at(50), at(99))
    }

    fn longest(&self) -> String {
        format!("{:.1?}", self.0.last().copied().unwrap_or_default())
    }
}

/// The processor time that this thread has used: others on the machine do not count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// The memory of this process that is in RAM (VmRSS, as Linux counts it), in bytes.
fn resident() -> io::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    Ok(kibibytes.unwrap_or_default() * 1024)
}

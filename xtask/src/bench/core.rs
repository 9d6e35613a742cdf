//! `cargo xtask bench core`: how long a `World` takes for an event and a plan, and how much
//! memory it takes.
//!
//! The fleet is 5,000 nodes and 500 images. Either every image is wanted on every node, or
//! nodes and images come in ten pools, and a node wants the 50 of its pool: a tenth of the
//! pairs. What an event costs must not depend on pairs that it does not concern.

mod fleet;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use anyhow::Result;
use drop_core::event::Report;
use drop_core::pull_pod::{Container, ContainerState, PullPod};
use drop_core::{Effect, Event, Name, Plan, World, plan};
use fleet::{Fleet, NODES};
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Events of a roll-out that are measured.
const EVENTS: usize = 100_000;
/// Nodes that list their images anew once the fleet has converged.
const LISTS: usize = 2_000;

pub(crate) fn run() -> Result<()> {
    for pools in [10, 1] {
        let fleet = Fleet::new(pools);
        println!("\n## 5,000 nodes, 500 images, {} pairs\n", fleet.pairs());
        println!("| step | times | p50 | p99 | longest |\n|---|---|---|---|---|");
        roll_out(&fleet)?;
        converged(&fleet)?;
    }
    Ok(())
}

/// Nothing is anywhere yet.
fn roll_out(fleet: &Fleet) -> Result<()> {
    let mut bench = Bench::new(Timestamp::UNIX_EPOCH);
    let mut cold = Times::default();
    fleet.fresh_nodes().chain(fleet.images()).chain(fleet.lists(false)).for_each(|event| bench.tell(event));
    bench.apply.print("roll-out: apply, before the first plan");
    let first = cold.measure(|| bench.plan());
    cold.print("roll-out: first plan");
    bench.clear();
    let mut answers: VecDeque<Event> = first.effects.iter().flat_map(answers_to).collect();
    while let Some(event) = answers.pop_front()
        && bench.plan.0.len() < EVENTS
    {
        bench.tell(event);
        answers.extend(bench.plan().effects.iter().flat_map(answers_to));
    }
    bench.apply.print("roll-out: apply one event");
    bench.plan.print("roll-out: plan after one event");
    Ok(())
}

/// Everything is everywhere.
fn converged(fleet: &Fleet) -> Result<()> {
    let now = Timestamp::UNIX_EPOCH;
    let mut bench = Bench::new(now);
    let mut memory = Memory::new()?;
    let mut steps = Vec::new();
    fleet.nodes().for_each(|event| bench.tell(event));
    steps.push(("nodes that list 50 images each, lists sharing what is the same", memory.grown()?));
    fleet.images().chain(fleet.caches(now)).chain(fleet.lists(true)).for_each(|event| bench.tell(event));
    steps.push(("CachedImages, and NodeCaches that remember every image", memory.grown()?));
    let mut cold = Times::default();
    cold.measure(|| bench.plan());
    steps.push(("what is derived from them, and a plan", memory.grown()?));
    cold.print("converged: first plan");
    // Statuses are written once.
    bench.now += SignedDuration::from_secs(60);
    for effect in bench.plan().effects {
        answers_to(&effect).into_iter().for_each(|event| bench.tell(event));
    }
    bench.plan();
    bench.clear();
    for node in 0..LISTS {
        bench.tell(fleet.changed_node(node));
        bench.plan();
    }
    bench.apply.print("converged: apply a node's change");
    bench.plan.print("converged: plan after a node's change");
    bench.clear();
    for node in 0..LISTS {
        bench.tell(fleet.cache(node, now + SignedDuration::from_secs(1)));
        bench.plan();
    }
    bench.apply.print("converged: apply a NodeCache");
    bench.plan.print("converged: plan after a NodeCache");
    bench.clear();
    for _ in 0..LISTS {
        bench.plan();
    }
    bench.plan.print("converged: plan without an event");
    println!();
    for (what, bytes) in steps {
        println!("{what}: {} MiB, {} bytes per node", bytes >> 20, bytes / NODES);
    }
    Ok(())
}

/// A world, and how long it took.
struct Bench {
    world: World,
    now: Timestamp,
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

    fn clear(&mut self) {
        self.apply.0.clear();
        self.plan.0.clear();
    }
}

/// What the operator hears after an effect: the Pod comes up, has pulled, and goes.
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
                state: waiting(),
            });
            let mut pod = PullPod {
                name: order.name.clone(),
                uid: Some(uid.clone()),
                node: order.node.clone(),
                node_uid: order.node_uid.clone(),
                policy: order.policy.clone(),
                created_at: Timestamp::UNIX_EPOCH,
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

    fn print(&mut self, what: &str) {
        self.0.sort();
        let at = |percent: usize| self.0.get((self.0.len() * percent / 100).min(self.0.len().saturating_sub(1)));
        let [p50, p99, longest] = [50, 99, 100].map(|percent| at(percent).copied().unwrap_or_default());
        println!("| {what} | {} | {p50:.1?} | {p99:.1?} | {longest:.1?} |", self.0.len());
    }
}

/// The processor time that this thread has used: others on the machine do not count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// By how much this process grows.
struct Memory(usize);

impl Memory {
    fn new() -> io::Result<Self> {
        Ok(Self(resident()?))
    }

    /// By how many bytes, since this was last asked.
    fn grown(&mut self) -> io::Result<usize> {
        let now = resident()?;
        let growth = now.saturating_sub(self.0);
        self.0 = now;
        Ok(growth)
    }
}

/// The memory of this process that is in RAM (VmRSS, as Linux counts it), in bytes.
fn resident() -> io::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    Ok(kibibytes.unwrap_or_default() * 1024)
}

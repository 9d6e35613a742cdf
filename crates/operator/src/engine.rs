//! The only loop: applies events, plans, and begins the effects of the plan.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use drop_core::survey::Summary;
use drop_core::{Event, Settings, World, step, violations};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

use crate::act::{Executor, Resources};
use crate::clock;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::serve::answers::{Answers, Query};
use crate::watch::WRITTEN_BY_LEADERS;

/// The shortest time between two plans. Events in between share the next plan.
const PACE: Duration = Duration::from_millis(20);

/// The loop and its state.
pub struct Engine<'a> {
    world: World,
    events: mpsc::Receiver<Event>,
    queries: &'a mut mpsc::Receiver<Query>,
    answers: Answers,
    executor: Executor,
    metrics: Arc<Metrics>,
    /// Set once every watch has synced.
    ready: Arc<AtomicBool>,
    leadership: Leadership,
    /// Asks the watches to list again the kinds that leaders write.
    relist: watch::Sender<()>,
}

impl<'a> Engine<'a> {
    /// Makes an engine that plans while the Lease is held, sets `ready` once every watch has synced, and requests lists
    /// through `relist`.
    pub fn new(
        settings: Settings,
        events: mpsc::Receiver<Event>,
        queries: &'a mut mpsc::Receiver<Query>,
        executor: Executor,
        resources: &Resources,
        ready: Arc<AtomicBool>,
        relist: watch::Sender<()>,
    ) -> Self {
        let (metrics, leadership) = (resources.metrics.clone(), resources.leadership.clone());
        let (world, answers) = (World::new(settings), Answers::new());
        Self { world, events, queries, answers, executor, metrics, ready, leadership, relist }
    }

    /// Runs until the leadership is lost, or the events end.
    ///
    /// Effects without a report by then may or may not have happened, so another engine has to start from the state of
    /// the API server.
    pub async fn run(mut self) {
        let mut wake_at = None;
        let mut planned_at = tokio::time::Instant::now();
        let leadership = self.leadership.clone();
        let lost = leadership.lost();
        tokio::pin!(lost);
        let mut leads = false;
        loop {
            tokio::select! {
                () = &mut lost => return,
                () = leadership.gained(), if !leads => {
                    leads = true;
                    // The watches may not have shown the last writes of the previous leader yet.
                    while let Ok(event) = self.events.try_recv() {
                        self.world.apply(event, clock::now());
                    }
                    self.world.expect_lists(&WRITTEN_BY_LEADERS);
                    self.relist.send_replace(());
                }
                event = self.events.recv() => {
                    let Some(event) = event else { return };
                    self.world.apply(event, clock::now());
                    tokio::time::sleep_until(planned_at + PACE).await;
                    while let Ok(event) = self.events.try_recv() {
                        self.world.apply(event, clock::now());
                    }
                }
                Some(query) = self.queries.recv() => {
                    self.answers.take(query);
                    continue;
                }
                () = self.answers.due() => {
                    self.answers.step(&mut self.world);
                    tokio::task::yield_now().await;
                    continue;
                }
                () = sleep_until(wake_at) => {}
            }
            wake_at = self.plan(leads);
            planned_at = tokio::time::Instant::now();
        }
    }

    /// Plans once, begins the effects, and returns when to plan again. A standby only brings its state up to date, and
    /// so does a replica that has just got the Lease, until the loop has asked for new lists.
    fn plan(&mut self, leads: bool) -> Option<Timestamp> {
        let (began, now) = (Instant::now(), clock::now());
        let planned =
            step(&mut self.world, now, leads && self.leadership.is_held(), |world, plan| violations(world, plan, now));
        if self.world.is_synced() && !self.ready.swap(true, Ordering::Relaxed) {
            info!("every watch has synced");
        }
        let (plan, violations) = planned?;
        for violation in violations {
            error!(violation, "invariant violated: please report this");
        }
        self.metrics.planned(began.elapsed());
        if self.metrics.is_full() {
            self.metrics.forget(&Summary::new(&self.world));
        }
        for effect in plan.effects {
            self.executor.begin(effect);
        }
        plan.wake_at
    }
}

/// Ends at `at`, or never.
async fn sleep_until(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let wait = at.duration_since(clock::now());
            // A timer may fire a moment early; a millisecond more avoids planning
            // twice for one wake-up.
            let wait = Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1);
            tokio::time::sleep(wait).await;
        }
        None => std::future::pending().await,
    }
}

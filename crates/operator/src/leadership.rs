//! Whether this process may write. The Lease decides it; the engine and each request check it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::clock::Deadline;

/// Whether this process may write. All clones share one answer.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// The end of the time in which it may; `None` while it does not lead.
    until: watch::Sender<Option<Deadline>>,
}

impl Leadership {
    /// A process that does not lead.
    pub fn new() -> Self {
        Self { until: watch::Sender::new(None) }
    }

    /// A process that always leads, without a Lease.
    pub fn unconditional() -> Self {
        let far = Deadline::now().after(Duration::from_secs(100 * 365 * 24 * 3600));
        Self { until: watch::Sender::new(Some(far)) }
    }

    /// Whether this process may write now.
    pub fn is_held(&self) -> bool {
        self.held_until().is_some()
    }

    /// The end of the time in which this process may write, if it may now.
    pub fn held_until(&self) -> Option<Instant> {
        self.until.borrow().filter(|until| !until.has_passed()).map(|until| until.instant)
    }

    /// Ends the leadership now, and returns whether there was one.
    pub fn resign(&self) -> bool {
        let was_held = self.is_held();
        self.until.send_replace(None);
        was_held
    }

    /// Lets this process write until `until`, and returns whether it could not before.
    pub fn extend(&self, until: Deadline) -> bool {
        self.until.send_replace(Some(until)).is_none()
    }

    /// Waits until this process may write.
    pub async fn gained(&self) {
        // The sender is `self`: it cannot be gone.
        drop(self.until.subscribe().wait_for(Option::is_some).await);
    }

    /// Waits until this process may no longer write, after it could.
    pub async fn lost(&self) {
        let mut changes = self.until.subscribe();
        drop(changes.wait_for(Option::is_some).await);
        loop {
            let Some(until) = *changes.borrow_and_update() else { return };
            tokio::select! {
                () = sleep_until(until.instant) => self.lapse(),
                changed = changes.changed() => drop(changed),
            }
        }
    }

    /// Ends the leadership if its time is up and has not been extended meanwhile.
    fn lapse(&self) {
        self.until.send_if_modified(|until| until.take_if(|until| until.has_passed()).is_some());
    }
}

//! How many queries hold answers in memory at a time.

use std::time::Duration;

use tokio::sync::{Notify, OnceCell, Semaphore, SemaphorePermit};

/// How many do, over all policies. An answer of 16 MiB, what is read from it and what is kept
/// of earlier ones may take 150 MB.
const SEATS: usize = 2;

static ROOM: Semaphore = Semaphore::const_new(SEATS);

/// The seat of one query, from the moment its first answer begins until it is dropped. A source
/// that does not answer keeps nobody waiting.
#[derive(Debug)]
pub struct Seat {
    room: &'static Semaphore,
    permit: OnceCell<Option<SemaphorePermit<'static>>>,
    taken: Notify,
}

impl Default for Seat {
    fn default() -> Self {
        Self::of(&ROOM)
    }
}

impl Seat {
    /// One of those in `room`.
    pub fn of(room: &'static Semaphore) -> Self {
        Self { room, permit: OnceCell::new(), taken: Notify::new() }
    }

    /// Waits for the seat, if this is the first answer.
    pub async fn take(&self) {
        let take = async || {
            // The semaphore is never closed.
            let permit = self.room.acquire().await.ok();
            self.taken.notify_one();
            permit
        };
        self.permit.get_or_init(take).await;
    }

    /// Ends when the seat has been held for `limit`. The wait for it does not count.
    pub async fn held_for(&self, limit: Duration) {
        self.taken.notified().await;
        tokio::time::sleep(limit).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_query_has_one_seat_and_waits_for_it_beyond_its_time() {
        let room = Box::leak(Box::new(Semaphore::new(1)));
        let (first, second) = (Seat::of(room), Seat::of(room));
        first.take().await;
        assert!(first.take().now_or_never().is_some(), "the answers of one query share it");
        let limit = Duration::from_secs(1);
        first.held_for(limit).await;
        let mut held = std::pin::pin!(second.held_for(limit));
        let waits = async {
            tokio::time::sleep(100 * limit).await;
            drop(first);
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(second.take(), waits) } => {}
            () = &mut held => panic!("the wait has counted"),
        }
        held.await;
    }
}

//! The memory for answers, which the queries of all policies share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell, Semaphore, SemaphorePermit};

/// The memory for answers at one time, in bytes: for three answers of the largest size, or 48 of 1 MiB.
const ROOM: usize = 192 << 20;
/// The memory that a byte of an answer takes until the query is measured: itself, its copy during parsing, and the
/// values.
const PER_BYTE: usize = 4;
/// The number of parts of a query's time. Parts in which the query waits do not count.
const TICKS: u32 = 100;

static SHARED: Room = Room::new(ROOM);

/// Memory that queries share.
#[derive(Debug)]
pub struct Room {
    /// A permit per byte.
    free: Semaphore,
    /// One query may exceed the room, so that queries that keep parts of their answers never wait for each other.
    beyond: Semaphore,
}

impl Room {
    /// Makes a room of this many bytes.
    pub const fn new(bytes: usize) -> Self {
        Self { free: Semaphore::const_new(bytes), beyond: Semaphore::const_new(1) }
    }

    fn try_take(&'static self, bytes: usize) -> Option<SemaphorePermit<'static>> {
        self.free.try_acquire_many(u32::try_from(bytes).ok()?).ok()
    }
}

/// The memory of one query, until it is dropped.
#[derive(Clone, Debug)]
pub struct Seat(Arc<Query>);

#[derive(Debug)]
struct Query {
    room: &'static Room,
    held: Mutex<Held>,
    /// Set if this is the query that may exceed the room, with all its answers.
    beyond: OnceCell<SemaphorePermit<'static>>,
    /// The number of its answers that wait for memory.
    waiting: AtomicUsize,
    /// Notified when its first answer has begun.
    begun: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// The memory of kept parts of answers.
    kept: Option<SemaphorePermit<'static>>,
    /// The kept bytes of answers that are still being read.
    keeping: usize,
}

impl Default for Seat {
    fn default() -> Self {
        Self::of(&SHARED)
    }
}

impl Seat {
    /// Makes a query whose answers share `room` with others.
    pub fn of(room: &'static Room) -> Self {
        Self(Arc::new(Query {
            room,
            held: Mutex::default(),
            beyond: OnceCell::new(),
            waiting: AtomicUsize::new(0),
            begun: Notify::new(),
        }))
    }

    /// Returns the memory of one more answer: none yet.
    pub fn answer(&self) -> Portion {
        Portion { query: self.0.clone(), taken: None, is_whole: self.0.beyond.initialized() }
    }

    /// Notes that an answer of any status has begun.
    pub fn begin(&self) {
        self.0.begun.notify_one();
    }

    /// Keeps this many bytes of the answers that are being read until the query ends.
    pub fn keep(&self, bytes: usize) {
        self.0.held(|held| held.keeping += bytes);
    }

    /// Ends when the query has taken `limit` since its first answer began. The wait for memory does not count.
    pub async fn held_for(&self, limit: Duration) {
        self.0.begun.notified().await;
        let mut left = TICKS;
        while left > 0 {
            tokio::time::sleep(limit / TICKS).await;
            if self.0.waiting.load(Ordering::Relaxed) == 0 {
                left -= 1;
            }
        }
    }
}

impl Query {
    fn held<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The memory of one answer, until it is dropped. The kept part of the answer then belongs to the query.
#[derive(Debug)]
pub struct Portion {
    query: Arc<Query>,
    taken: Option<SemaphorePermit<'static>>,
    /// Whether there is memory for the largest answer.
    is_whole: bool,
}

impl Portion {
    /// Takes memory for more bytes of the answer. If there is none, the answer must be given up, because its server
    /// would cut off a body that is not read; it is requested again with [`Portion::whole`].
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        if self.is_whole {
            return true;
        }
        let Some(more) = self.query.room.try_take(bytes.saturating_mul(PER_BYTE)) else { return false };
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        true
    }

    /// Waits until there is memory for an answer of this many bytes.
    pub async fn whole(mut self, bytes: usize) -> Self {
        self.taken = None;
        let room = self.query.room;
        let all = u32::try_from(bytes.saturating_mul(PER_BYTE)).unwrap_or(u32::MAX);
        let waits = Waits::new(&self.query);
        // The semaphores are never closed.
        tokio::select! {
            biased;
            taken = room.free.acquire_many(all) => self.taken = taken.ok(),
            _ = self.query.beyond.get_or_try_init(|| room.beyond.acquire()) => {}
        }
        drop(waits);
        self.is_whole = true;
        self
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        let taken = self.taken.take();
        self.query.held(|held| {
            let kept = taken.and_then(|mut taken| taken.split(held.keeping.min(taken.num_permits())));
            held.keeping -= kept.as_ref().map_or(0, SemaphorePermit::num_permits);
            match (&mut held.kept, kept) {
                (Some(all), Some(kept)) => all.merge(kept),
                (all @ None, kept) => *all = kept,
                (Some(_), None) => {}
            }
        });
    }
}

/// A wait for memory, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(query: &'a Query) -> Self {
        query.waiting.fetch_add(1, Ordering::Relaxed);
        Self(&query.waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn room(bytes: usize) -> &'static Room {
        Box::leak(Box::new(Room::new(bytes)))
    }

    #[tokio::test]
    async fn answers_share_the_room_and_one_query_goes_beyond_it() {
        let room = room(10 * PER_BYTE);
        let [first, second, third] = [(); 3].map(|()| Seat::of(room));
        let mut small = first.answer();
        assert!(small.grow(4) && small.grow(4) && second.answer().grow(2), "two answers at a time");
        assert!(!second.answer().grow(3), "more than there is");
        let waited = second.answer();
        let large = second.answer().whole(10).await;
        let waited = waited.whole(10);
        assert!(second.answer().grow(1000), "the query that goes beyond the room waits no more");
        drop(waited.await);
        let mut waits = Box::pin(third.answer().whole(10));
        assert!((&mut waits).now_or_never().is_none(), "a third query does not go beyond it, too");
        drop(small);
        let mut whole = waits.await;
        assert!(whole.grow(10) && !first.answer().grow(1));
        drop((large, second));
        drop(whole);
        assert!(first.answer().grow(10), "all is given back");
    }

    #[tokio::test]
    async fn what_is_kept_of_an_answer_takes_memory_until_the_query_ends() {
        let room = room(10 * PER_BYTE);
        let (first, second) = (Seat::of(room), Seat::of(room));
        for _ in 0..2 {
            let mut answer = first.answer();
            assert!(answer.grow(2));
            first.keep(PER_BYTE);
        }
        assert!(!second.answer().grow(9) && second.answer().grow(8));
        drop(first);
        assert!(second.answer().grow(10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_memory_is_no_time_of_the_query() {
        let room = room(PER_BYTE);
        let (first, second) = (Seat::of(room), Seat::of(room));
        let large = first.answer().whole(2).await;
        let limit = Duration::from_secs(1);
        let mut answer = second.answer();
        second.begin();
        assert!(answer.grow(1));
        let mut held = std::pin::pin!(second.held_for(limit));
        let waits = async {
            tokio::time::sleep(100 * limit).await;
            drop((large, first));
        };
        tokio::select! {
            (whole, ()) = async { tokio::join!(answer.whole(2), waits) } => drop(whole),
            () = &mut held => panic!("the wait has counted"),
        }
        held.await;
    }
}

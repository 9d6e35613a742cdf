//! Answers questions about the planner's state, a few milliseconds at a time between two plans.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use drop_core::World;
use drop_core::explain::{Explanation, Unknown, Which, explain};
use drop_core::survey::{Overview, Survey};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// How long an overview is reused for further questions.
const KEPT: Duration = Duration::from_secs(1);
/// After an answer the next one waits this many times as long as the answer took, so that answers take a tenth of the
/// engine's time.
const REST: u32 = 9;
/// How many pairs of an image and a node one step examines; that takes a few milliseconds.
const PAIRS: usize = 20_000;
/// The most pairs of an image and a node that one answer lists.
pub const ROWS: usize = 1000;

/// A question to the engine, answered between two plans.
pub enum Query {
    /// Whether the engine answers at all.
    Ping(oneshot::Sender<()>),
    /// The state of all images in numbers, at most a second old.
    Survey(oneshot::Sender<Arc<Overview>>),
    /// The state of some images on some nodes: at most [`ROWS`] pairs.
    Explain(Which, oneshot::Sender<Explained>),
}

/// The answer to [`Query::Explain`].
pub type Explained = Result<Vec<Explanation>, Unknown>;

/// An answer that takes more than one step.
enum Job {
    /// One overview for all clients that wait for one.
    Survey(Survey),
    Explain(Which, oneshot::Sender<Explained>),
}

/// Open questions, and the last overview.
pub struct Answers {
    jobs: VecDeque<Job>,
    /// The clients that wait for an overview. There is a job for it while there is a client.
    waiting: Vec<oneshot::Sender<Arc<Overview>>>,
    /// The last overview, and until when it is reused.
    kept: Option<(Instant, Arc<Overview>)>,
    /// When the next step may begin.
    due_at: Instant,
    /// How long the current job has taken so far.
    taken: Duration,
}

impl Answers {
    /// No open questions.
    pub fn new() -> Self {
        Self { jobs: VecDeque::new(), waiting: Vec::new(), kept: None, due_at: Instant::now(), taken: Duration::ZERO }
    }

    /// Accepts a question, and answers it at once if that costs nothing.
    pub fn take(&mut self, query: Query) {
        let now = Instant::now();
        // The client may have gone away, so that the reply cannot be sent.
        match (query, &self.kept) {
            (Query::Ping(reply), _) => drop(reply.send(())),
            (Query::Survey(reply), Some((until, overview))) if now < *until => {
                drop(reply.send(overview.clone()));
            }
            (Query::Survey(reply), _) => {
                if self.waiting.is_empty() {
                    self.jobs.push_back(Job::Survey(Survey::default()));
                }
                self.waiting.push(reply);
            }
            (Query::Explain(which, reply), _) => self.jobs.push_back(Job::Explain(which, reply)),
        }
    }

    /// Ends when a step is due. It is ready at once if a step is due already; otherwise an endless series of events
    /// would always come first.
    pub async fn due(&self) {
        if self.jobs.is_empty() {
            std::future::pending().await
        } else if Instant::now() < self.due_at {
            sleep_until(self.due_at).await;
        }
    }

    /// Works on the oldest question for one step.
    pub fn step(&mut self, world: &mut World) {
        let (began, now) = (Instant::now(), clock::now());
        world.settle(now);
        let mut overview = None;
        match self.jobs.pop_front() {
            Some(Job::Survey(mut survey)) => {
                overview = survey.step(world, now, PAIRS);
                if overview.is_none() {
                    self.jobs.push_front(Job::Survey(survey));
                    self.taken += began.elapsed();
                    return;
                }
            }
            Some(Job::Explain(which, reply)) if !reply.is_closed() => {
                drop(reply.send(explain(world, now, &which, ROWS)));
            }
            Some(Job::Explain(..)) | None => {}
        }
        let rest = (std::mem::take(&mut self.taken) + began.elapsed()) * REST;
        self.due_at = Instant::now() + rest;
        if let Some(overview) = overview.map(Arc::new) {
            for reply in self.waiting.drain(..) {
                drop(reply.send(overview.clone()));
            }
            self.kept = Some((Instant::now() + rest.max(KEPT), overview));
        }
    }
}

#[cfg(test)]
mod tests {
    use drop_core::Settings;
    use tokio::time::{advance, timeout};

    use super::*;

    fn survey(answers: &mut Answers) -> oneshot::Receiver<Arc<Overview>> {
        let (reply, answer) = oneshot::channel();
        answers.take(Query::Survey(reply));
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_within_a_second_share_one_look() {
        let (mut world, mut answers) = (World::new(Settings::default()), Answers::new());
        let mut waiting: Vec<_> = (0..100).map(|_| survey(&mut answers)).collect();
        answers.due().await;
        answers.step(&mut world);
        assert!(answers.jobs.is_empty());
        let first = waiting.remove(0).try_recv().unwrap();
        for other in &mut waiting {
            assert!(Arc::ptr_eq(&first, &other.try_recv().unwrap()));
        }
        advance(KEPT - Duration::from_millis(1)).await;
        assert!(Arc::ptr_eq(&first, &survey(&mut answers).try_recv().unwrap()));
        advance(Duration::from_millis(1)).await;
        let mut later = survey(&mut answers);
        assert!(later.try_recv().is_err());
        answers.step(&mut world);
        assert!(!Arc::ptr_eq(&first, &later.try_recv().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_answer_the_engine_rests_from_all_but_pings() {
        let (mut world, mut answers) = (World::new(Settings::default()), Answers::new());
        let mut first = survey(&mut answers);
        answers.taken = Duration::from_secs(1);
        answers.step(&mut world);
        let first = first.try_recv().unwrap();
        let (reply, mut explained) = oneshot::channel();
        answers.take(Query::Explain(Which::default(), reply));
        let rest = Duration::from_secs(1) * REST;
        let early = timeout(rest - Duration::from_millis(10), answers.due()).await;
        assert!(early.is_err());
        let (reply, mut ping) = oneshot::channel();
        answers.take(Query::Ping(reply));
        assert!(ping.try_recv().is_ok());
        assert!(Arc::ptr_eq(&first, &survey(&mut answers).try_recv().unwrap()), "what took long is kept for long");
        answers.due().await;
        answers.step(&mut world);
        assert!(explained.try_recv().unwrap().unwrap().is_empty());
    }

    #[tokio::test]
    async fn nothing_is_explained_to_who_has_gone() {
        let (mut world, mut answers) = (World::new(Settings::default()), Answers::new());
        let which = Which { cached_image: None, node: Some("gone".into()) };
        answers.take(Query::Explain(which.clone(), oneshot::channel().0));
        let (reply, mut explained) = oneshot::channel();
        answers.take(Query::Explain(which, reply));
        answers.step(&mut world);
        assert_eq!(explained.try_recv().ok().map(|it| it.is_err()), None);
        answers.due().await;
        answers.step(&mut world);
        let why = explained.try_recv().unwrap().unwrap_err().to_string();
        assert_eq!(why, r#"there is no node called "gone""#);
    }
}

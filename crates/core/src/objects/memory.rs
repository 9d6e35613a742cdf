//! The memory of a node, which its NodeCache stores.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use drop_api::GoDuration;
use drop_api::node_cache::{self, FailureScope, ImageRecord, NodeCacheStatus, PullStart};
use jiff::{SignedDuration, Timestamp};

use crate::Name;
use crate::interner::Texts;
use crate::look_up::look_up;
use crate::objects::failure::{Cause, NO_SPACE, THROTTLED, classify};
use crate::objects::newest::ImageId;
use crate::objects::pull_pod::{End, Outcome, PullPod};
use crate::objects::reference::Reference;
use crate::pace::backoff::Backoff;
use crate::text::shortened;
use crate::time::{CompactTime, after};

/// The most images that a NodeCache holds.
pub const MAX_IMAGES: usize = 2000;
/// For how long the memory keeps an image that no CachedImage wants on the node any more. If a CachedImage wants it
/// again within that time, and the node still has it, the node does not pull it again.
const UNWANTED_FOR: SignedDuration = SignedDuration::from_hours(24);
/// The most policies for which a NodeCache stores when they began a turn.
const MAX_STARTS: usize = 64;
/// The first wait after a pull that the kubelet denied because of too many pulls within a second (`registryPullQPS`,
/// `registryBurst`). The kubelet allows the next pulls within seconds.
const THROTTLED_FOR: SignedDuration = SignedDuration::from_secs(20);
/// The longest reason and message of a failure, in characters.
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 300;

/// The pulls, evictions and failures of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The last pull Pod whose outcome is recorded here.
    pub last_pod: Option<Name>,
    /// The node's platform at that time, such as `linux/amd64`.
    pub platform: Option<Name>,
    /// When each policy last began a turn here.
    pub starts: BTreeMap<Name, Timestamp>,
    /// The node's own failures in a row.
    pub node_failure: Option<Failure>,
    /// Each image that was tried here and that a CachedImage wants here, or wanted until a day ago.
    pub images: BTreeMap<Reference, Record>,
}

/// One image on one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The last pull that succeeded, while the node has the image.
    pub pulled: Option<Pulled>,
    /// Since when the node is known to have it without a pull.
    pub found_at: Option<CompactTime>,
    /// The ID that the runtime reported for the pulled image, if it reported one; or the digest that was found, if it
    /// was the newest of its tag.
    pub id: Option<ImageId>,
    /// The reference that the kubelet pulled instead, if admission has rewritten it. Boxed, because most have none.
    pub pulled_as: Option<Box<Reference>>,
    /// The evictions so far. Boxed, because most have none.
    pub eviction: Option<Box<Eviction>>,
    /// Its size in bytes, as a node listed it.
    pub size: Option<NonZeroU64>,
    /// Pulls that were tried.
    pub attempts: u32,
    /// Whether the last pull did not end in time, so that the next gets a Pod of its own.
    pub alone: bool,
    /// The failures since the last success. Boxed, because most have none.
    pub failure: Option<Box<Failure>>,
    /// Since when no CachedImage wants it here.
    pub unwanted_since: Option<CompactTime>,
}

/// The evictions of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The number of evictions, not counting those before a long stay of the image.
    pub count: u32,
    /// When Drop last noticed an eviction.
    pub at: Timestamp,
}

/// A pull that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// When.
    pub at: CompactTime,
    /// The duration of the pull in seconds, if the Pod's status has it.
    pub seconds: Option<u32>,
}

/// Failures in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The part of the system that caused them.
    pub scope: FailureScope,
    /// The kubelet's reason.
    pub reason: Name,
    /// The cause in a short form.
    pub message: Name,
    /// How many, on this node.
    pub count: u32,
    /// The number of rounds of failures over all nodes, if it is the image's or its registry's failure. Nodes that fail
    /// at the same time are one round.
    pub rounds: u32,
    /// The first one.
    pub since: Timestamp,
    /// The last one.
    pub at: Timestamp,
    /// The earliest next try, as of the last failure.
    pub retry_at: Option<Timestamp>,
}

/// One image's result, for metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// The image.
    pub image: Reference,
    /// The PullPolicy under which it was pulled.
    pub policy: Name,
    /// The duration of the pull; `Err` holds the failure's reason.
    pub result: Result<Option<SignedDuration>, Name>,
}

/// The data that recording a Pod needs in addition to the Pod.
pub struct Context<'a> {
    /// The current time.
    pub now: Timestamp,
    /// The node's platform, such as `linux/amd64`.
    pub platform: &'a str,
    /// Whether the Pod's sandbox was up, so that the kubelet had begun to pull.
    pub was_up: bool,
    /// The backoff of the Pod's policy.
    pub backoff: &'a Backoff,
    /// When the Pod began a turn of the node; `None` if it went on with one.
    pub began_turn_at: Option<Timestamp>,
    /// How many rounds of failures of an image there were on all nodes before this
    /// Pod, and when the next one may begin.
    pub rounds: &'a dyn Fn(&Reference) -> (u32, Option<Timestamp>),
}

impl Memory {
    /// Returns this memory with the outcome of `pod`, which has ended.
    #[must_use]
    pub fn with(&self, pod: &PullPod, end: &End, context: &Context<'_>) -> (Self, Vec<Settlement>) {
        let mut memory = self.clone();
        memory.last_pod.clone_from(&pod.uid);
        memory.platform = Some(context.platform.into()).filter(|_| !context.platform.is_empty());
        if let Some(at) = context.began_turn_at {
            memory.starts.insert(pod.policy.clone(), at);
        }
        let mut settlements = Vec::new();
        let mut any_pulled = false;
        // Within one Pod images are pulled one after another: each pull began when the one before it ended.
        let mut began_at = pod.sandbox_up_at;
        let open = pod.containers.iter().filter(|container| container.outcome().is_none()).count();
        let is_evicted = context.was_up && end.is_eviction();
        // An image that was pulled alone may be the cause, as one that fills the disk is. Then its failure decides.
        let mut node_failure = node_trouble(end).filter(|_| !is_evicted || open > 1);
        for container in &pod.containers {
            let record = memory.images.entry(container.image.clone()).or_default();
            record.attempts = record.attempts.saturating_add(1);
            record.alone = container.outcome().is_none() && (record.alone || *end == End::TimedOut);
            let outcome = container.outcome().or_else(|| cut_short(end, open, is_evicted));
            let settled = |result| Settlement { image: container.image.clone(), policy: pod.policy.clone(), result };
            match outcome {
                Some(Outcome::Pulled { at }) => {
                    any_pulled = true;
                    let at = at.filter(|at| *at > Timestamp::UNIX_EPOCH);
                    let duration =
                        at.zip(began_at).map(|(at, began)| at.duration_since(began).max(SignedDuration::ZERO));
                    began_at = at.or(began_at);
                    settlements.push(settled(Ok(duration)));
                    record.failure = None;
                    record.found_at = None;
                    // By Drop's clock, like the times of failures, so that the two can be compared.
                    let seconds = duration.map(whole_seconds);
                    record.pulled = Some(Pulled { at: context.now.into(), seconds });
                    record.id = container.id();
                    record.pulled_as = container.pulled_as.clone().map(Box::new);
                    record.unwanted_since = None;
                }
                Some(Outcome::Failed { reason, message }) => {
                    let mut cause = match reason {
                        POD_EVICTED => Cause { scope: FailureScope::Node, message: shortened(message, MAX_MESSAGE) },
                        _ => classify(reason, message, &container.image, context.platform),
                    };
                    if self.refutes(&container.image, &cause) {
                        cause.scope = FailureScope::Unknown;
                    }
                    // If one image does not fit, there may be room for a smaller one.
                    if cause.scope == FailureScope::Node && cause.message != NO_SPACE {
                        node_failure = Some((reason.into(), cause.message.clone()));
                    }
                    let reason = plain(reason);
                    settlements.push(settled(Err(reason.clone())));
                    // Nodes that fail at the same time are one round.
                    let rounds = match (context.rounds)(&container.image) {
                        (rounds, Some(next)) if next > context.now => rounds,
                        (rounds, _) => rounds.saturating_add(1),
                    };
                    let before = record.failure.as_deref();
                    let failure = Failure::after(before, cause.scope, reason, cause.message.into(), context.now);
                    record.failure = Some(Box::new(Failure { rounds, ..failure }));
                }
                // The image is there, so the Pod was to find out whether its tag has moved. Without a failure the next
                // node would ask at once, and the one after it.
                None if record.present_since().is_some() => {
                    if let Some((reason, message)) = node_trouble(end) {
                        let before = record.failure.as_deref();
                        let failure = Failure::after(before, FailureScope::Node, reason, message.into(), context.now);
                        record.failure = Some(Box::new(failure));
                    }
                }
                None => {}
            }
        }
        memory.node_failure = match (node_failure, any_pulled) {
            (Some((reason, message)), _) => {
                let before = self.node_failure.as_ref();
                let failure = Failure::after(before, FailureScope::Node, reason, message.into(), context.now);
                Some(Failure { retry_at: Some(failure.node_due(&pod.node, context.backoff)), ..failure })
            }
            // The kubelet works. Failures of its images do not count against the node.
            (None, true) => None,
            (None, false) if *end == End::Settled => None,
            (None, false) => self.node_failure.clone(),
        };
        (memory, settlements)
    }

    /// Whether a failure of an image is not the node's, even if the kubelet says so: the image failed here before, and
    /// the node has pulled other images since. A limit that ends within seconds proves nothing.
    fn refutes(&self, image: &Reference, cause: &Cause) -> bool {
        let before = self.images.get(image).and_then(|record| record.failure.as_deref());
        let before = before.filter(|failure| matches!(failure.scope, FailureScope::Node | FailureScope::Unknown));
        let is_of_node = cause.scope == FailureScope::Node && ![NO_SPACE, THROTTLED].contains(&&*cause.message);
        let pulls = self.images.values().filter_map(|record| record.pulled);
        let last = pulls.map(|pulled| pulled.at).max();
        is_of_node && before.is_some_and(|failure| last > Some(failure.since.into()))
    }

    /// Forgets every image that `is_wanted` denies: at once if the node lacks it, and a day later if the node has it.
    /// Also forgets every policy that `exists` denies.
    ///
    /// If too many are left, these go first: images that have not been wanted for longest, images that were never
    /// pulled, and policies that began first.
    pub fn prune(&mut self, is_wanted: impl Fn(&Reference) -> bool, exists: impl Fn(&Name) -> bool, now: Timestamp) {
        self.images.retain(|image, record| {
            if is_wanted(image) {
                record.unwanted_since = None;
                return true;
            }
            let since = Timestamp::from(*record.unwanted_since.get_or_insert(now.into()));
            // No node tries it any more, so its failure would count against its registry for ever.
            record.failure = None;
            record.alone = false;
            record.present_since().is_some() && now < after(since, UNWANTED_FOR)
        });
        let surplus = self.images.len().saturating_sub(MAX_IMAGES);
        if surplus > 0 {
            self.make_room(surplus);
        }
        self.starts.retain(|policy, _| exists(policy));
        while self.starts.len() > MAX_STARTS {
            let first = self.starts.iter().min_by_key(|(_, at)| **at).map(|(policy, _)| policy.clone());
            first.and_then(|policy| self.starts.remove(&policy));
        }
    }

    /// Forgets the `surplus` least important images.
    fn make_room(&mut self, surplus: usize) {
        let unwanted = self.images.iter().filter_map(|(image, record)| Some((record.unwanted_since?, image.clone())));
        let unwanted = unwanted.collect::<BTreeSet<_>>().into_iter().map(|(_, image)| image);
        // If an image was only found on the node, the node's list shows it again.
        let is_found = |record: &Record| record.attempts == 0 && record.eviction.is_none();
        let found = self.images.iter().filter(|(_, record)| record.unwanted_since.is_none() && is_found(record));
        let found = found.map(|(image, _)| image.clone());
        for image in unwanted.chain(found).take(surplus).collect::<Vec<_>>() {
            self.images.remove(&image);
        }
    }

    /// Whether there is room for another image. Unwanted images make room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.images.len() < MAX_IMAGES || self.room() > 0
    }

    /// Returns for how many more images there is room.
    #[must_use]
    pub fn room(&self) -> usize {
        let wanted = self.images.values().filter(|record| record.unwanted_since.is_none());
        MAX_IMAGES.saturating_sub(wanted.count())
    }

    /// Returns the time when all unwanted images have been unwanted for a day and are forgotten. Some are forgotten
    /// earlier, with a write that happens for another reason.
    #[must_use]
    pub fn forgets_at(&self) -> Option<Timestamp> {
        let last = self.images.values().filter_map(|record| record.unwanted_since).max()?;
        Some(after(last.into(), UNWANTED_FOR))
    }

    /// Whether the memory differs from `before`, which the NodeCache holds, only in parts that can wait for the next
    /// write: the sizes of images, which become known a while after their pull, the times when policies began turns,
    /// and which unwanted images are forgotten.
    #[must_use]
    pub fn is_not_worth_a_write_after(&self, before: &Self) -> bool {
        let Self { last_pod, platform, starts: _, node_failure, images } = self;
        let known = || look_up(&before.images, &images.keys().collect::<Vec<_>>());
        let is_same =
            |(record, known): (&Record, Option<&Record>)| known.is_some_and(|known| record.is_same_but_for_size(known));
        let forgets_some = self.forgets_at().is_some();
        let may_go = |(image, record): (&Reference, &Record)| {
            images.contains_key(image) || (forgets_some && record.unwanted_since.is_some())
        };
        *last_pod == before.last_pod
            && *platform == before.platform
            && *node_failure == before.node_failure
            && images.values().zip(known()).all(is_same)
            && (images.len() == before.images.len() || before.images.iter().all(may_go))
    }

    /// Returns when the node last failed as a whole, while it does.
    #[must_use]
    pub fn node_failed_at(&self) -> Option<Timestamp> {
        self.node_failure.as_ref().map(|failure| failure.at)
    }

    /// Whether there is nothing to remember.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads a NodeCache's status, and shares its texts with all others.
    #[must_use]
    pub fn from_api(status: &NodeCacheStatus, texts: &mut Texts) -> Self {
        Self {
            last_pod: status.last_pod_uid.as_deref().map(Into::into),
            platform: status.platform.as_deref().map(|platform| texts.share(platform)),
            starts: status.pull_starts.iter().map(|start| (texts.share(start.policy.as_str()), start.at)).collect(),
            node_failure: status.node_failure.as_ref().map(|failure| Failure::from_api(failure, texts)),
            images: status
                .images
                .iter()
                .map(|image| (Reference::parse(&image.image).shared(texts), Record::from_api(image, texts)))
                .collect(),
        }
    }

    /// Writes it into a NodeCache's status.
    pub fn remember(&self, status: &mut NodeCacheStatus) {
        let start = |(policy, at): (&Name, &Timestamp)| PullStart { policy: policy.to_string(), at: *at };
        status.last_pod_uid = self.last_pod.as_deref().map(str::to_owned);
        status.platform = self.platform.as_deref().map(str::to_owned);
        status.pull_starts = self.starts.iter().map(start).collect();
        status.node_failure = self.node_failure.as_ref().map(Failure::to_api);
        status.images = self.images.iter().map(|(image, record)| record.to_api(image)).collect();
    }
}

/// Moves times of a NodeCache that are after `now` to `now`. They are after `now` if the clock of the leader that wrote
/// them was ahead of this one's, or if this clock was set back. Without this, waits that count from these times would
/// be too long.
pub fn clamp_times(status: &mut NodeCacheStatus, now: Timestamp) {
    let starts = status.pull_starts.iter_mut().map(|start| &mut start.at);
    let of_failure = |failure: &'_ mut node_cache::Failure| {
        failure.since = failure.since.map(|since| since.min(now));
        failure.at = failure.at.min(now);
    };
    status.node_failure.iter_mut().for_each(of_failure);
    status.images.iter_mut().filter_map(|image| image.failure.as_mut()).for_each(of_failure);
    let of_images = status.images.iter_mut().flat_map(|image| {
        let eviction = image.eviction.as_mut().map(|eviction| &mut eviction.at);
        let others = [&mut image.pulled_at, &mut image.found_at, &mut image.unwanted_since];
        [eviction].into_iter().chain(others.map(Option::as_mut)).flatten()
    });
    starts.chain(of_images).for_each(|at| *at = now.min(*at));
}

fn whole_seconds(duration: SignedDuration) -> u32 {
    u32::try_from(duration.as_secs().max(0)).unwrap_or(u32::MAX)
}

/// Clears the fields of a NodeCache's status that a [`Memory`] holds.
pub fn forget(status: &mut NodeCacheStatus) {
    status.last_pod_uid = None;
    status.platform = None;
    status.pull_starts = Vec::new();
    status.node_failure = None;
    status.images = Vec::new();
}

impl Record {
    /// Returns since when the node is known to have the image; `None` if it lacks it.
    #[must_use]
    pub fn present_since(&self) -> Option<Timestamp> {
        self.pulled.map(|pulled| pulled.at).or(self.found_at).map(Into::into)
    }

    /// Returns since when the node is known to have the image, if the image was the newest of its tag then; `None`
    /// otherwise.
    #[must_use]
    pub fn current_since(&self) -> Option<Timestamp> {
        self.pulled.map(|pulled| pulled.at).or(self.found_at.filter(|_| self.id.is_some())).map(Into::into)
    }

    /// Records an eviction of the image. If the node had kept the image for longer than `long`, the count starts anew.
    pub fn evict(&mut self, now: Timestamp, long: SignedDuration) {
        let stayed = self.present_since().map(|since| now.duration_since(since));
        let before = self.eviction.as_ref().filter(|_| stayed.is_some_and(|stayed| stayed <= long));
        let count = before.map_or(0, |eviction| eviction.count).saturating_add(1);
        self.eviction = Some(Box::new(Eviction { count, at: now }));
        self.pulled = None;
        self.found_at = None;
        self.id = None;
        self.failure = None;
    }

    fn is_same_but_for_size(&self, other: &Self) -> bool {
        let Self { pulled, found_at, id, pulled_as, eviction, size: _, attempts, alone, failure, unwanted_since } =
            self;
        *pulled == other.pulled
            && *found_at == other.found_at
            && *id == other.id
            && *pulled_as == other.pulled_as
            && *eviction == other.eviction
            && *attempts == other.attempts
            && *alone == other.alone
            && *failure == other.failure
            && *unwanted_since == other.unwanted_since
    }

    fn from_api(image: &ImageRecord, texts: &mut Texts) -> Self {
        let id = image.digest.as_deref().or(image.image_id.as_deref());
        let seconds = image.pull_duration.as_ref().map(|duration| whole_seconds(duration.get()));
        Self {
            pulled: image.pulled_at.map(|at| Pulled { at: at.into(), seconds }),
            found_at: image.found_at.map(Into::into),
            id: id.map(|id| ImageId::new(texts.share(id))),
            pulled_as: image.pulled_as.as_deref().map(|name| Box::new(Reference::parse(name).shared(texts))),
            eviction: image
                .eviction
                .as_ref()
                .map(|eviction| Eviction { count: u32::try_from(eviction.count).unwrap_or_default(), at: eviction.at })
                .map(Box::new),
            size: image.size_bytes.and_then(|size| NonZeroU64::new(u64::try_from(size).ok()?)),
            attempts: u32::try_from(image.attempts).unwrap_or_default(),
            alone: image.alone.unwrap_or_default(),
            failure: image.failure.as_ref().map(|failure| Box::new(Failure::from_api(failure, texts))),
            unwanted_since: image.unwanted_since.map(Into::into),
        }
    }

    fn to_api(&self, image: &Reference) -> ImageRecord {
        let pulled = self.pulled.as_ref();
        ImageRecord {
            image: image.to_string(),
            digest: self.id.as_ref().and_then(ImageId::digest).map(str::to_owned),
            image_id: self.id.as_ref().and_then(ImageId::bare).map(str::to_owned),
            pulled_as: self.pulled_as.as_ref().map(ToString::to_string),
            pulled_at: pulled.map(|pulled| pulled.at.into()),
            pull_duration: pulled.and_then(|pulled| pulled.seconds).map(GoDuration::from_secs),
            found_at: self.found_at.map(Into::into),
            eviction: self.eviction.as_ref().map(|eviction| node_cache::Eviction {
                count: i32::try_from(eviction.count).unwrap_or(i32::MAX),
                at: eviction.at,
            }),
            size_bytes: self.size.and_then(|size| i64::try_from(size.get()).ok()),
            attempts: i32::try_from(self.attempts).unwrap_or(i32::MAX),
            alone: self.alone.then_some(true),
            failure: self.failure.as_deref().map(Failure::to_api),
            unwanted_since: self.unwanted_since.map(Into::into),
        }
    }
}

impl Failure {
    /// Whether the node failed as a whole. A lack of room for this image is no such failure.
    #[must_use]
    pub fn is_of_node(&self) -> bool {
        self.scope == FailureScope::Node && &*self.message != NO_SPACE
    }

    /// Whether the kubelet denied the pull because of too many pulls within a second.
    #[must_use]
    pub fn is_throttling(&self) -> bool {
        self.scope == FailureScope::Node && &*self.message == THROTTLED
    }

    /// Returns when the next try of the image on this node is due, if the failure is the node's own.
    #[must_use]
    pub fn due(&self, node: &str, image: &Reference, backoff: &Backoff) -> Timestamp {
        after(self.at, self.wait(backoff, &pair(node, image)))
    }

    /// Returns when the node is tried again, if it failed as a whole.
    #[must_use]
    pub fn node_due(&self, node: &str, backoff: &Backoff) -> Timestamp {
        after(self.at, self.wait(backoff, node))
    }

    /// Returns how long the next try waits after this failure, under this backoff.
    fn wait(&self, backoff: &Backoff, who: &str) -> SignedDuration {
        match self.is_throttling() {
            true => Backoff { initial: backoff.initial.min(THROTTLED_FOR), max: backoff.max }.delay(self.count, who),
            false => backoff.delay(self.count, who),
        }
    }

    /// Returns the next failure in a row, after `before`, if there was one.
    fn after(before: Option<&Self>, scope: FailureScope, reason: Name, message: Name, now: Timestamp) -> Self {
        Self {
            scope,
            reason,
            message,
            count: before.map_or(0, |failure| failure.count).saturating_add(1),
            rounds: 0,
            since: before.map_or(now, |failure| failure.since),
            at: now,
            retry_at: None,
        }
    }

    fn from_api(failure: &node_cache::Failure, texts: &mut Texts) -> Self {
        Self {
            scope: failure.scope,
            reason: texts.share(failure.reason.as_str()),
            message: texts.share(failure.message.as_str()),
            count: u32::try_from(failure.count).unwrap_or_default(),
            // An older operator wrote only the number of rounds.
            rounds: failure.rounds.map_or_else(|| u32::try_from(failure.count), u32::try_from).unwrap_or_default(),
            since: failure.since.unwrap_or(failure.at),
            at: failure.at,
            retry_at: failure.retry_at,
        }
    }

    /// Converts it to the form of a NodeCache.
    #[must_use]
    pub fn to_api(&self) -> node_cache::Failure {
        node_cache::Failure {
            reason: self.reason.to_string(),
            message: self.message.to_string(),
            scope: self.scope,
            count: i32::try_from(self.count).unwrap_or(i32::MAX),
            rounds: (self.rounds > 0).then(|| i32::try_from(self.rounds).unwrap_or(i32::MAX)),
            since: Some(self.since),
            at: self.at,
            retry_at: self.retry_at,
        }
    }
}

/// Returns a text that is unique to this pair of node and image, for jitter.
#[must_use]
pub fn pair(node: &str, image: &Reference) -> String {
    format!("{node}/{image}")
}

/// Returns the node's own failure that a Pod's end proves, as reason and message.
fn node_trouble(end: &End) -> Option<(Name, String)> {
    match end {
        End::Settled | End::TimedOut | End::Deleted => None,
        End::Rejected(rejection) => Some((plain(&rejection.reason), shortened(&rejection.message, MAX_MESSAGE))),
        End::Lost => Some(("NodeLost".into(), "the kubelet does not report".to_owned())),
        End::Unacknowledged => Some(("Unacknowledged".into(), "the kubelet does not acknowledge Pods".to_owned())),
        End::SandboxNotUp => {
            Some(("SandboxNotReady".into(), "the kubelet cannot start Pods: runtime or network not ready".to_owned()))
        }
    }
}

/// The reason of a failed pull during which the kubelet evicted the Pod.
const POD_EVICTED: &str = "PodEvicted";

/// Returns a kubelet's reason as it is stored. If the kubelet already waits to retry the pull when it is first seen,
/// the pull has failed once.
fn plain(reason: &str) -> Name {
    match reason {
        "ImagePullBackOff" => "ErrImagePull".into(),
        reason => shortened(reason, MAX_REASON).into(),
    }
}

/// Returns the outcome of a pull that was still open, as one of `open` such pulls, when its Pod ended; `None` if the
/// end says nothing about the pull. A kubelet does not report which image of a Pod it is pulling, so if several pulls
/// were open, any of them may be the one that hangs.
fn cut_short(end: &End, open: usize, is_evicted: bool) -> Option<Outcome<'_>> {
    let (reason, message) = match end {
        End::Rejected(rejection) if is_evicted && open == 1 => (POD_EVICTED, &*rejection.message),
        End::TimedOut if open == 1 => ("PullTimeout", "the pull took longer than pullTimeout"),
        End::Deleted => ("PodDeleted", "its Pod was deleted by somebody else"),
        _ => return None,
    };
    Some(Outcome::Failed { reason, message })
}

//! A pull Pod, and the results of its images' pulls.

use jiff::{SignedDuration, Timestamp};

use crate::Name;
use crate::objects::failure::is_pull_failure;
use crate::objects::newest::ImageId;
use crate::objects::reference::Reference;
use crate::settings::Settings;
use crate::time::after;

/// A Pod that pulls images onto one node, as the API server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullPod {
    /// `metadata.name`.
    pub name: Name,
    /// `metadata.uid`; `None` until the API server has given it one.
    pub uid: Option<Name>,
    /// `spec.nodeName`.
    pub node: Name,
    /// The UID of the Node that owns it; another machine may have the name by now. Empty if no Node owns it.
    pub node_uid: Name,
    /// The PullPolicy that it counts against; empty for the built-in one.
    pub policy: Name,
    /// `metadata.creationTimestamp`, in whole seconds, rounded down.
    pub created_at: Timestamp,
    /// When the turn of its node began that it goes on with; `None` if it began one, or does not tell.
    pub goes_on_since: Option<Timestamp>,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.startTime`: the kubelet has acknowledged the Pod.
    pub acknowledged_at: Option<Timestamp>,
    /// When the condition `PodReadyToStartContainers` became True; `None` while
    /// the sandbox is not up.
    pub sandbox_up_at: Option<Timestamp>,
    /// `status.reason` and `status.message` of a Pod whose phase is Failed as a
    /// whole: refused by the kubelet, evicted or lost.
    pub rejection: Option<Rejection>,
    /// Its containers, one for each image, in the order in which they are pulled.
    pub containers: Vec<Container>,
}

/// Why a whole Pod failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// In one word, such as `OutOfpods`.
    pub reason: Name,
    /// In a sentence.
    pub message: Name,
}

/// One container, and so one image, of a pull Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The image that it was ordered to pull.
    pub image: Reference,
    /// The reference that the kubelet pulls instead of `image`, if admission has rewritten it.
    pub pulled_as: Option<Reference>,
    /// `status.imageID`, where the kubelet has set it.
    pub image_id: Option<Name>,
    /// Its state.
    pub state: ContainerState,
}

/// A container's state (core/v1 `ContainerState`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Not started, with the kubelet's reason and message.
    Waiting {
        /// In one word, such as `ErrImagePull`; empty before the kubelet's first pass.
        reason: Name,
        /// In a sentence.
        message: Name,
    },
    /// Running.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Ended.
    Terminated {
        /// In one word, such as `Completed`.
        reason: Name,
        /// When; containers that never ran have no time.
        at: Option<Timestamp>,
    },
}

/// How the pull of one image ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The image is on the node.
    Pulled {
        /// When the container was seen to be past the pull, in whole seconds.
        at: Option<Timestamp>,
    },
    /// The pull failed, with the kubelet's reason and message.
    Failed {
        /// In one word.
        reason: &'a str,
        /// In a sentence.
        message: &'a str,
    },
}

impl Container {
    /// Whether the kubelet has reported its state.
    pub(crate) fn is_reported(&self) -> bool {
        !matches!(&self.state, ContainerState::Waiting { reason, .. } if reason.is_empty())
    }

    /// Returns how the pull ended; `None` while it is open.
    ///
    /// A container gets an image ID, or enters one of the states below, only after its image is on the node. Whether
    /// the container can then run does not matter.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome<'_>> {
        match &self.state {
            ContainerState::Waiting { reason, message } if is_pull_failure(reason) => {
                Some(Outcome::Failed { reason, message })
            }
            ContainerState::Waiting { reason, .. } => {
                let pulled = self.image_id.is_some()
                    || matches!(&**reason, "CreateContainerError" | "CreateContainerConfigError" | "RunContainerError");
                pulled.then_some(Outcome::Pulled { at: None })
            }
            ContainerState::Running { since } => Some(Outcome::Pulled { at: Some(*since) }),
            ContainerState::Terminated { reason, at } => {
                let proven = self.image_id.is_some() || !is_loss(reason);
                proven.then_some(Outcome::Pulled { at: *at })
            }
        }
    }

    /// Returns the ID that the runtime reports for the pulled image, if it reports one.
    #[must_use]
    pub fn id(&self) -> Option<ImageId> {
        ImageId::parse(self.image_id.as_deref()?)
    }
}

/// Whether a container's end says nothing about its image: the kubelet lost track of it, or ended the whole Pod.
fn is_loss(reason: &str) -> bool {
    matches!(reason, "ContainerStatusUnknown" | "")
}

/// When this process saw a Pod take each step. For a Pod that existed before the process started, the times of the API
/// server and the kubelet are used instead.
///
/// The clocks of nodes differ from the operator's, so their times are not compared with it otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// It was created.
    pub created: Timestamp,
    /// The kubelet had acknowledged it.
    pub acknowledged: Option<Timestamp>,
    /// Its sandbox was up.
    pub sandbox_up: Option<Timestamp>,
}

impl Steps {
    /// Returns the steps of `pod` as of `now`; `before` are the steps seen before.
    #[must_use]
    pub fn see(pod: &PullPod, before: Option<&Self>, now: Timestamp) -> Self {
        let seen = |before: Option<Option<Timestamp>>, reported: Option<Timestamp>| match (before, reported) {
            (Some(Some(before)), _) => Some(before),
            (Some(None), Some(_)) => Some(now),
            // The creation time does not come from the node's clock.
            (None, Some(reported)) => Some(reported.max(pod.created_at).min(now)),
            (_, None) => None,
        };
        Self {
            created: before.map_or_else(|| pod.created_at.min(now), |before| before.created),
            acknowledged: seen(before.map(|before| before.acknowledged), pod.acknowledged_at),
            sandbox_up: seen(before.map(|before| before.sandbox_up), pod.sandbox_up_at),
        }
    }
}

/// The time limits of a Pod.
#[derive(Clone, Copy, Debug)]
pub struct Expectations<'a> {
    /// How long it may pull.
    pub pull_timeout: SignedDuration,
    /// Whether its kubelet reports that the sandbox is up before it pulls. Kubelets before 1.36 report it only
    /// afterwards (<https://github.com/kubernetes/kubernetes/issues/134460>), so there the pull counts from the
    /// acknowledgement.
    pub tells_sandbox: bool,
    /// The other limits.
    pub settings: &'a Settings,
}

/// How a whole Pod ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Every image is pulled or has failed.
    Settled,
    /// The Pod failed as a whole.
    Rejected(Rejection),
    /// The kubelet did not acknowledge it in time.
    Unacknowledged,
    /// The kubelet could not create its sandbox.
    SandboxNotUp,
    /// The pulls took too long.
    TimedOut,
    /// Somebody else deleted it.
    Deleted,
    /// The node's kubelet is lost.
    Lost,
}

impl End {
    /// Whether the kubelet evicted the Pod, or refused it because of pressure on the node.
    pub(crate) fn is_eviction(&self) -> bool {
        matches!(self, Self::Rejected(rejection) if &*rejection.reason == "Evicted")
    }
}

impl PullPod {
    /// Returns when the turn of its node began that it belongs to, as known at `now`.
    pub(crate) fn turn_began_at(&self, now: Timestamp) -> Timestamp {
        self.goes_on_since.unwrap_or(self.created_at).min(now)
    }

    /// Returns how the Pod came to its end, as of `now`; `None` while it goes on.
    #[must_use]
    pub fn end(&self, steps: &Steps, expected: &Expectations<'_>, now: Timestamp) -> Option<End> {
        if let Some(rejection) = &self.rejection {
            return Some(End::Rejected(rejection.clone()));
        }
        if self.containers.iter().all(|container| container.outcome().is_some()) {
            return Some(End::Settled);
        }
        let (deadline, end) = Self::deadline(steps, expected);
        (now >= deadline).then_some(end)
    }

    /// Returns the time until which the Pod may take its next step, and its end if it has not taken the step by then.
    #[must_use]
    pub fn deadline(steps: &Steps, expected: &Expectations<'_>) -> (Timestamp, End) {
        let settings = expected.settings;
        let sandbox_up = steps.sandbox_up.or(steps.acknowledged.filter(|_| !expected.tells_sandbox));
        let (from, allowed, end) = match (steps.acknowledged, sandbox_up) {
            (_, Some(at)) => (at, expected.pull_timeout, End::TimedOut),
            (Some(at), None) => (at, settings.sandbox_within, End::SandboxNotUp),
            (None, None) => (steps.created, settings.acknowledge_within, End::Unacknowledged),
        };
        (after(from, allowed), end)
    }

    /// Whether `image` belongs to the Pod, and its pull has not ended.
    #[must_use]
    pub fn is_pulling(&self, image: &Reference) -> bool {
        self.containers.iter().any(|container| container.image == *image && container.outcome().is_none())
    }

    /// Returns the registry hosts of images whose pull has not ended.
    pub fn busy_hosts(&self) -> impl Iterator<Item = &str> {
        self.containers.iter().filter(|container| container.outcome().is_none()).map(|container| container.image.host())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::UNIX_EPOCH;
    const ID: &str = "docker.io/library/alpine@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn container(image_id: Option<&str>, state: ContainerState) -> Container {
        Container { image: Reference::parse("alpine:3.20"), pulled_as: None, image_id: image_id.map(Into::into), state }
    }

    fn waiting(reason: &str) -> ContainerState {
        ContainerState::Waiting { reason: reason.into(), message: "why".into() }
    }

    fn terminated(reason: &str) -> ContainerState {
        ContainerState::Terminated { reason: reason.into(), at: Some(T) }
    }

    #[test]
    fn pulled_means_pulled_whatever_the_container_does_then() {
        let id = Some(ID);
        let pulled = [
            container(id, terminated("Completed")),
            container(id, terminated("Error")),
            container(id, terminated("StartError")),
            container(id, terminated("OOMKilled")),
            container(id, ContainerState::Running { since: T }),
            container(id, waiting("RunContainerError")),
            container(None, waiting("CreateContainerError")),
            container(None, waiting("CreateContainerConfigError")),
            container(None, terminated("StartError")),
        ];
        for container in pulled {
            assert!(matches!(container.outcome(), Some(Outcome::Pulled { .. })), "{container:?}");
        }
        let container = container(id, terminated("Completed"));
        assert!(container.id().is_some_and(|id| id.digest().is_some_and(|digest| ID.ends_with(digest))));
    }

    #[test]
    fn failures_are_final_at_first_sight_and_the_rest_is_open() {
        for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "RegistryUnavailable"] {
            assert!(matches!(container(None, waiting(reason)).outcome(), Some(Outcome::Failed { .. })), "{reason}");
        }
        for state in [
            waiting(""),
            waiting("ContainerCreating"),
            waiting("PodInitializing"),
            terminated("ContainerStatusUnknown"),
        ] {
            assert_eq!(container(None, state.clone()).outcome(), None, "{state:?}");
        }
    }

    #[test]
    fn a_pod_that_stops_moving_ends_by_the_step_that_it_missed() {
        let settings = Settings::default();
        let secs = |s| Timestamp::from_second(s).unwrap();
        let mut pod = PullPod {
            name: "p".into(),
            uid: None,
            node: "n".into(),
            node_uid: "u".into(),
            policy: "".into(),
            created_at: secs(0),
            goes_on_since: None,
            terminating: false,
            acknowledged_at: None,
            sandbox_up_at: None,
            rejection: None,
            containers: vec![container(None, waiting(""))],
        };
        let expected =
            Expectations { pull_timeout: SignedDuration::from_hours(1), tells_sandbox: true, settings: &settings };
        let end = |pod: &PullPod, now| pod.end(&Steps::see(pod, None, secs(now)), &expected, secs(now));
        assert_eq!(end(&pod, 119), None);
        assert_eq!(end(&pod, 120), Some(End::Unacknowledged));
        pod.acknowledged_at = Some(secs(100));
        assert_eq!(end(&pod, 219), None);
        assert_eq!(end(&pod, 220), Some(End::SandboxNotUp));
        let silent = Expectations { tells_sandbox: false, ..expected };
        let steps = Steps::see(&pod, None, secs(220));
        assert_eq!(pod.end(&steps, &silent, secs(220)), None, "an old kubelet may be pulling");
        pod.sandbox_up_at = Some(secs(200));
        assert_eq!(end(&pod, 3799), None);
        assert_eq!(end(&pod, 3800), Some(End::TimedOut));
        pod.containers = vec![container(Some("sha256:abc"), terminated("Completed"))];
        assert_eq!(end(&pod, 3800), Some(End::Settled));
    }
}

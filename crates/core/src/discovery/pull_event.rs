//! Reads the Events of kubelets about pulls that succeeded.

use drop_api::duration::GoDuration;
use jiff::Timestamp;

use super::answer::PullEvent;

impl PullEvent {
    /// The beginning of every message about a pull that succeeded.
    pub const TEXT: &str = "Successfully pulled image";

    /// Reads the message of an event; `None` if it is not about a pull that succeeded.
    ///
    /// The texts are those of `pkg/kubelet/images/image_manager.go` in Kubernetes:
    ///
    /// ```text
    /// Successfully pulled image "X" in 1m21.3s (1m30s including waiting). Image size: N bytes.
    /// Successfully pulled image "X" in 1m21.3s (1m30s including waiting)
    /// Successfully pulled image "X" in 1m21.3s
    /// Successfully pulled image "X"
    /// ```
    ///
    /// These are the messages of Kubernetes 1.30, 1.27, 1.20 and older. The first duration is the pull alone. Size 0
    /// means that the runtime does not know the size. Text before the message, such as `(combined from similar events):
    /// `, is ignored. An image that was already present (`… already present on machine`) was not pulled.
    #[must_use]
    pub fn from_message(at: Timestamp, message: &str) -> Option<Self> {
        let (_, rest) = message.split_once(Self::TEXT)?;
        let (image, rest) = rest.strip_prefix(" \"")?.split_once('"')?;
        let duration = rest.strip_prefix(" in ").and_then(|rest| rest.split_whitespace().next());
        let pull_time = duration.and_then(|text| text.trim_end_matches('.').parse::<GoDuration>().ok());
        let size = rest.split_once("Image size: ").and_then(|(_, rest)| rest.split_once(" bytes"));
        Some(Self {
            at,
            image: image.to_owned(),
            pull_time: pull_time.map(|duration| duration.get()),
            size: size.and_then(|(bytes, _)| bytes.parse().ok()).filter(|bytes| *bytes > 0),
        })
    }
}

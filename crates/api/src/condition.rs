//! Standard status conditions.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The condition type that says whether an object is as its spec wants it.
pub const READY: &str = "Ready";

/// `metav1.Condition`, with bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The aspect of the object that the condition is about, in CamelCase.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// Whether that aspect holds.
    pub status: ConditionStatus,
    /// The reason for `status`, as one CamelCase word for programs.
    #[schemars(length(min = 1, max = 128))]
    pub reason: String,
    /// The reason for `status`, as a sentence for people.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
    /// The `metadata.generation` that this was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be told.
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl Condition {
    /// A `Ready` condition that keeps `previous`'s transition time unless the
    /// status differs from it.
    #[must_use]
    pub fn ready(
        ready: bool,
        reason: &str,
        message: String,
        generation: Option<i64>,
        previous: Option<&Condition>,
        now: Timestamp,
    ) -> Self {
        let status = ConditionStatus::from(ready);
        let last_transition_time = match previous {
            Some(previous) if previous.status == status => previous.last_transition_time,
            _ => now,
        };
        Self {
            type_: READY.to_owned(),
            status,
            reason: reason.to_owned(),
            message,
            last_transition_time,
            observed_generation: generation,
        }
    }
}

/// The status of an object that the operator has not seen yet. kstatus takes objects without a
/// status for ready, <https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>.
pub(crate) fn unobserved() -> serde_json::Value {
    serde_json::json!({ "observedGeneration": -1 })
}

/// The condition of type `Ready`, if there is one.
#[must_use]
pub fn ready(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == READY)
}

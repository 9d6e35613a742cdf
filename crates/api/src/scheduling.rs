//! Node selection: the core types `Toleration` and `NodeSelector`, field for
//! field, with bounds and with enums where Kubernetes has free strings, so that
//! a misspelt operator is refused at once.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Labels that must all be on a node, with these values.
pub type NodeLabels = BTreeMap<String, String>;

/// A regular expression for the key of a label or a taint: `[prefix/]name`.
const LABEL_KEY: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

/// A regular expression for the value of a label or a taint.
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// The message for a key that is not valid.
const NOT_A_KEY: &str = "not a key: write [prefix/]name, such as dedicated or node.kubernetes.io/not-ready: a prefix in lower case of at most 253 characters, a name of at most 63 letters, digits, - _ and .";

/// The message for a value that is not valid.
const NOT_A_VALUE: &str =
    "not a value: at most 63 letters, digits, - _ and ., not starting or ending with one of the last three";

/// A taint that is tolerated (core/v1 `Toleration`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.key) && self.key != '' || has(self.operator) && self.operator == 'Exists'",
        "message": "a toleration without a key needs operator: Exists, which tolerates every taint",
    },
    {
        "rule": "!(has(self.operator) && self.operator == 'Exists' && has(self.value) && self.value != '')",
        "message": "a toleration with operator: Exists takes no value: remove value, or write operator: Equal",
    },
    {
        "rule": "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
        "message": "tolerationSeconds needs effect: NoExecute: write that effect, or remove tolerationSeconds to tolerate the taint for ever",
    },
]))]
pub struct Toleration {
    /// The taint's key; empty with `Exists` matches every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": format!("self == '' || self.matches('{LABEL_KEY}') && self.indexOf('/') <= 253"),
        "message": NOT_A_KEY,
    }]))]
    pub key: Option<String>,
    /// How `value` is compared. Default: Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// The taint's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": format!("self.matches('{LABEL_VALUE}')"),
        "message": NOT_A_VALUE,
    }]))]
    pub value: Option<String>,
    /// The taint's effect; absent matches every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// How long a NoExecute taint is tolerated, in seconds; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration compares its value with a taint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// The values are the same.
    Equal,
    /// Any value.
    Exists,
}

/// The effect of a taint on Pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// New Pods stay away.
    NoSchedule,
    /// New Pods stay away if they can.
    PreferNoSchedule,
    /// Running Pods are evicted too.
    NoExecute,
}

/// Alternatives of which a node must meet at least one (core/v1 `NodeSelector`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// The alternatives. An empty term matches no node.
    #[schemars(length(min = 1, max = 16))]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// Requirements that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelectorTerm {
    /// Requirements on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<NodeSelectorRequirement>,
    /// Requirements on fields; `metadata.name` is the only one there is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_fields: Vec<NodeSelectorRequirement>,
}

/// One requirement on a label or field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.operator in ['Exists', 'DoesNotExist'] ? !has(self.values) || size(self.values) == 0 : has(self.values) && size(self.values) > 0",
        "message": "operators In, NotIn, Gt and Lt need values; Exists and DoesNotExist take none",
    },
    {
        "rule": "!(self.operator in ['Gt', 'Lt']) || has(self.values) && size(self.values) == 1 && self.values[0].matches('^-?[0-9]+$')",
        "message": "operators Gt and Lt need exactly one value, an integer",
    },
]))]
pub struct NodeSelectorRequirement {
    /// The label's key, or the field.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the values are compared.
    pub operator: NodeSelectorOperator,
    /// The values; none for Exists and DoesNotExist, one integer for Gt and Lt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub values: Vec<String>,
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NodeSelectorOperator {
    /// The value is one of them.
    In,
    /// The value is none of them, or the key is absent.
    NotIn,
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
    /// The value is an integer greater than the one given.
    Gt,
    /// The value is an integer less than the one given.
    Lt,
}

/// Schema of [`NodeLabels`]: bounded in number, key and value.
pub(crate) fn node_labels_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{LABEL_VALUE}')"),
                "message": NOT_A_VALUE,
            }],
        },
        "x-kubernetes-validations": [{
            "rule": format!("self.all(key, size(key) <= 317 && key.matches('{LABEL_KEY}') && key.indexOf('/') <= 253)"),
            "message": NOT_A_KEY,
        }],
    })
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn label_keys_and_values_are_those_of_kubernetes() {
        let key = Regex::new(LABEL_KEY).unwrap();
        let long_name = "n".repeat(63);
        for text in ["a", "A_b.c-1", "node.kubernetes.io/not-ready", "x/y", "a-b.c/D", &long_name] {
            assert!(key.is_match(text), "{text}");
        }
        let too_long = "n".repeat(64);
        for text in ["", "-a", "a-", "a b", "a/b/c", "/a", "a/", "A/b", "a..b/c", "-a/b", "a_b/c", "ü", &too_long] {
            assert!(!key.is_match(text), "{text}");
        }
        let value = Regex::new(LABEL_VALUE).unwrap();
        for text in ["", "a", "A_b.c-1", "1"] {
            assert!(value.is_match(text), "{text}");
        }
        for text in ["-a", "a_", "a b", "a/b", "."] {
            assert!(!value.is_match(text), "{text}");
        }
    }
}

//! Selects the target nodes of an image, and names the reason why a node is not a target.
//!
//! The rules are Kubernetes' own: label selectors, node affinity terms
//! (alternatives of requirements) and taints, as in
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/>.

use std::collections::BTreeMap;
use std::fmt;

use drop_api::scheduling::{
    NodeSelector, NodeSelectorOperator, NodeSelectorRequirement, NodeSelectorTerm, TaintEffect, Toleration,
    TolerationOperator,
};

use crate::Name;
use crate::objects::node::{Node, Taint};

/// The requirements of an image and its PullPolicy on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Labels that the node must have. Image and policy may require different values of one label.
    pub labels: Vec<(String, String)>,
    /// Terms of which one must hold.
    pub affinity: Option<NodeSelector>,
    /// Taints that the node may have.
    pub tolerations: Vec<Toleration>,
}

/// Why a node is not a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotATarget<'a> {
    /// The node lacks a label, or has it with another value.
    Label(&'a str, &'a str),
    /// No term of the node affinity holds.
    Affinity,
    /// The node has a taint that is not tolerated.
    Taint(&'a Taint),
    /// The node is cordoned.
    Cordoned,
    /// The node is being deleted.
    Deleting,
    /// The node is not a machine: a virtual kubelet.
    Virtual,
    /// The node is short of disk space.
    DiskPressure,
}

impl fmt::Display for NotATarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(key, value) => write!(f, "label {key}={value} is missing"),
            Self::Affinity => f.write_str("no term of nodeAffinity matches"),
            Self::Taint(taint) => write!(f, "taint {taint} is not tolerated"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Deleting => f.write_str("being deleted"),
            Self::Virtual => f.write_str("virtual node"),
            Self::DiskPressure => f.write_str("disk pressure"),
        }
    }
}

/// The taints of nodes that are not Ready, or that the control plane does not hear from. Kubernetes puts each on a node
/// twice: as NoSchedule and, seconds later, as NoExecute.
const TWINS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

impl Placement {
    /// Tolerates both taints of a node that is not Ready if one is tolerated: the author of that toleration means the
    /// node, and not one effect of the taint.
    pub fn tolerate_twins(&mut self) {
        for key in TWINS {
            let taint = |effect| Taint { key: key.to_owned(), value: String::new(), effect };
            let means_the_node = self.tolerates(&taint(TaintEffect::NoSchedule));
            if means_the_node && !self.tolerates(&taint(TaintEffect::NoExecute)) {
                self.tolerations.push(Toleration {
                    key: Some(key.to_owned()),
                    operator: Some(TolerationOperator::Exists),
                    effect: Some(TaintEffect::NoExecute),
                    ..Toleration::default()
                });
            }
        }
    }

    /// Checks whether the labels and name of `node` match. Unlike [`Placement::check`], the result does not change with
    /// the node's health.
    ///
    /// # Errors
    /// The first requirement that does not hold.
    pub fn selects(&self, node: &Node) -> Result<(), NotATarget<'_>> {
        for (key, value) in &self.labels {
            if node.labels.get(key.as_str()).is_none_or(|found| **found != **value) {
                return Err(NotATarget::Label(key, value));
            }
        }
        match &self.affinity {
            Some(affinity) if !affinity.node_selector_terms.iter().any(|term| holds(term, node)) => {
                Err(NotATarget::Affinity)
            }
            _ => Ok(()),
        }
    }

    /// Checks whether `node` is a target now.
    ///
    /// # Errors
    /// The first reason why it is not.
    pub fn check<'a>(&'a self, node: &'a Node) -> Result<(), NotATarget<'a>> {
        self.selects(node)?;
        if node.is_virtual {
            return Err(NotATarget::Virtual);
        }
        if node.deleting {
            return Err(NotATarget::Deleting);
        }
        if node.unschedulable {
            return Err(NotATarget::Cordoned);
        }
        if node.disk_pressure {
            return Err(NotATarget::DiskPressure);
        }
        let repelled_by = node.taints.iter().find(|taint| !self.tolerates(taint));
        repelled_by.map_or(Ok(()), |taint| Err(NotATarget::Taint(taint)))
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        taint.effect == TaintEffect::PreferNoSchedule
            || self.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator == Some(TolerationOperator::Exists);
    let key_matches = key == taint.key || (key.is_empty() && exists);
    let value_matches = exists || toleration.value.as_deref().unwrap_or_default() == taint.value;
    let effect_matches = toleration.effect.is_none_or(|effect| effect == taint.effect);
    key_matches && value_matches && effect_matches
}

/// Whether all of a term's requirements hold; an empty term holds nowhere.
fn holds(term: &NodeSelectorTerm, node: &Node) -> bool {
    let fields = BTreeMap::from([("metadata.name".into(), node.name.clone())]);
    let is_empty = term.match_expressions.is_empty() && term.match_fields.is_empty();
    !is_empty
        && term.match_expressions.iter().all(|requirement| meets(requirement, &node.labels))
        && term.match_fields.iter().all(|requirement| meets(requirement, &fields))
}

fn meets(requirement: &NodeSelectorRequirement, labels: &BTreeMap<Name, Name>) -> bool {
    let value = labels.get(requirement.key.as_str());
    let listed = value.is_some_and(|value| requirement.values.iter().any(|listed| **listed == **value));
    let compares = |compare: fn(&i64, &i64) -> bool| {
        let value = value.and_then(|value| value.parse().ok());
        let bound = requirement.values.first().and_then(|bound| bound.parse().ok());
        matches!((value, bound), (Some(value), Some(bound)) if compare(&value, &bound))
    };
    match requirement.operator {
        NodeSelectorOperator::In => listed,
        NodeSelectorOperator::NotIn => !listed,
        NodeSelectorOperator::Exists => value.is_some(),
        NodeSelectorOperator::DoesNotExist => value.is_none(),
        NodeSelectorOperator::Gt => compares(i64::gt),
        NodeSelectorOperator::Lt => compares(i64::lt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: &[(&str, &str)], taints: &[(&str, &str, TaintEffect)]) -> Node {
        Node {
            name: "n1".into(),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            taints: taints
                .iter()
                .map(|(key, value, effect)| Taint {
                    key: (*key).to_owned(),
                    value: (*value).to_owned(),
                    effect: *effect,
                })
                .collect(),
            ..Node::default()
        }
    }

    fn requirement(key: &str, operator: NodeSelectorOperator, values: &[&str]) -> NodeSelectorRequirement {
        NodeSelectorRequirement {
            key: key.to_owned(),
            operator,
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    #[test]
    fn tolerations_match_taints_as_in_kubernetes() {
        use TaintEffect::{NoExecute, NoSchedule, PreferNoSchedule};
        use TolerationOperator::{Equal, Exists};
        let toleration = |key: &str, operator, value: &str, effect| Toleration {
            key: Some(key.to_owned()).filter(|k| !k.is_empty()),
            operator,
            value: Some(value.to_owned()).filter(|v| !v.is_empty()),
            effect,
            toleration_seconds: None,
        };
        let cases = [
            (toleration("gpu", Some(Exists), "", None), ("gpu", "yes", NoSchedule), true),
            (toleration("gpu", Some(Exists), "", Some(NoSchedule)), ("gpu", "", NoExecute), false),
            (toleration("gpu", None, "yes", None), ("gpu", "yes", NoExecute), true),
            (toleration("gpu", Some(Equal), "no", None), ("gpu", "yes", NoSchedule), false),
            (toleration("", Some(Exists), "", None), ("any", "thing", NoExecute), true),
            (toleration("", None, "", None), ("any", "", NoSchedule), false),
            (toleration("other", Some(Exists), "", None), ("gpu", "", NoSchedule), false),
            (toleration("other", Some(Exists), "", None), ("gpu", "", PreferNoSchedule), true),
        ];
        for (toleration, taint, tolerated) in cases {
            let placement = Placement { tolerations: vec![toleration.clone()], ..Placement::default() };
            let node = node(&[], &[taint]);
            let verdict = placement.check(&node);
            assert_eq!(verdict.is_ok(), tolerated, "{toleration:?} {taint:?} {verdict:?}");
        }
    }

    #[test]
    fn labels_are_anded_and_affinity_terms_are_ored() {
        use NodeSelectorOperator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
        let node = node(&[("pool", "build"), ("cores", "16")], &[]);
        let one = |requirement: NodeSelectorRequirement| NodeSelectorTerm {
            match_expressions: vec![requirement],
            match_fields: vec![],
        };
        let cases = [
            (requirement("pool", In, &["build", "gpu"]), true),
            (requirement("pool", NotIn, &["build"]), false),
            (requirement("absent", NotIn, &["x"]), true),
            (requirement("pool", Exists, &[]), true),
            (requirement("absent", DoesNotExist, &[]), true),
            (requirement("cores", Gt, &["8"]), true),
            (requirement("cores", Lt, &["8"]), false),
            (requirement("pool", Gt, &["8"]), false),
        ];
        for (requirement, matches) in cases {
            let terms = |terms| Placement {
                affinity: Some(NodeSelector { node_selector_terms: terms }),
                ..Placement::default()
            };
            let alone = terms(vec![one(requirement.clone())]);
            assert_eq!(alone.check(&node).is_ok(), matches, "{requirement:?}");
            let beside_an_empty_term = terms(vec![NodeSelectorTerm::default(), one(requirement.clone())]);
            assert_eq!(beside_an_empty_term.check(&node).is_ok(), matches, "{requirement:?}");
        }
        let by_name = Placement {
            affinity: Some(NodeSelector {
                node_selector_terms: vec![NodeSelectorTerm {
                    match_fields: vec![requirement("metadata.name", In, &["n1"])],
                    match_expressions: vec![],
                }],
            }),
            ..Placement::default()
        };
        assert_eq!(by_name.check(&node), Ok(()));

        let labels = Placement {
            labels: [("pool", "build"), ("zone", "a")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..Placement::default()
        };
        assert_eq!(labels.check(&node), Err(NotATarget::Label("zone", "a")));
    }

    #[test]
    fn who_tolerates_a_node_that_is_not_ready_tolerates_both_its_taints() {
        use TaintEffect::{NoExecute, NoSchedule};
        let not_ready = "node.kubernetes.io/not-ready";
        let node = node(&[], &[(not_ready, "", NoSchedule), (not_ready, "", NoExecute)]);
        let mut placement = Placement {
            tolerations: vec![Toleration {
                key: Some(not_ready.to_owned()),
                operator: Some(TolerationOperator::Exists),
                effect: Some(NoSchedule),
                ..Toleration::default()
            }],
            ..Placement::default()
        };
        assert_eq!(placement.check(&node), Err(NotATarget::Taint(&node.taints[1])));
        placement.tolerate_twins();
        placement.tolerate_twins();
        assert_eq!((placement.check(&node), placement.tolerations.len()), (Ok(()), 2));
    }

    #[test]
    fn unhealthy_nodes_are_selected_but_no_targets() {
        let everywhere = Placement::default();
        let cases = [
            (Node { unschedulable: true, ..Node::default() }, NotATarget::Cordoned),
            (Node { deleting: true, ..Node::default() }, NotATarget::Deleting),
            (Node { is_virtual: true, ..Node::default() }, NotATarget::Virtual),
            (Node { disk_pressure: true, ..Node::default() }, NotATarget::DiskPressure),
        ];
        for (node, why) in cases {
            assert_eq!(everywhere.selects(&node), Ok(()));
            assert_eq!(everywhere.check(&node), Err(why));
        }
    }
}

//! Explains where each image stands and why, for `/debug/plan`, `/metrics` and statuses.

use jiff::Timestamp;
use serde::Serialize;

use crate::gate::budget::Budget;
use crate::gate::verdict::Verdict;
use crate::objects::presence::Standing;
use crate::objects::reference::Reference;
use crate::world::{ImageEntry, NodeEntry, World};
use crate::{Name, gate};

/// The pairs of CachedImage and node that [`explain`] explains. An absent name stands for all objects of its kind.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// A CachedImage.
    pub cached_image: Option<Name>,
    /// A node.
    pub node: Option<Name>,
}

/// No object has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} called {name:?}")]
pub struct Unknown {
    kind: &'static str,
    name: Name,
}

/// One CachedImage on the nodes that do not have it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The CachedImage.
    pub cached_image: Name,
    /// Its reference.
    pub image: Reference,
    /// Nodes that have it.
    pub cached: usize,
    /// The other target nodes that `which` selects.
    pub nodes: Vec<NodeVerdict>,
}

/// The verdict on the image on one node.
#[derive(Debug, Serialize)]
pub struct NodeVerdict {
    /// The node.
    pub node: Name,
    /// The verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The same as a sentence.
    pub message: String,
}

/// Explains why wanted images are missing on nodes, as far as this replica knows: a denial by the API server is known
/// only to the replica that made the request. It explains at most `limit` pairs of image and node. If `which` names an
/// image and a node, it explains that pair even if the node has the image.
///
/// # Errors
/// If the world does not have the CachedImage or node that `which` names.
pub fn explain(world: &World, now: Timestamp, which: &Which, limit: usize) -> Result<Vec<Explanation>, Unknown> {
    let unknown = |kind, name: &Name| Unknown { kind, name: name.clone() };
    let images: Vec<&ImageEntry> = match &which.cached_image {
        Some(name) => vec![world.image(name).ok_or_else(|| unknown("CachedImage", name))?],
        None => world.images().collect(),
    };
    let nodes: Vec<&NodeEntry> = match &which.node {
        Some(name) => vec![world.node(name).ok_or_else(|| unknown("node", name))?],
        None => world.nodes().collect(),
    };
    let is_one_pair = which.cached_image.is_some() && which.node.is_some();
    let budget = Budget::new(world, now);
    let mut left = limit;
    let mut explanations = Vec::new();
    for entry in images {
        let is_missing = |node: &&&NodeEntry| {
            let standing = node.standings.get(&entry.image.name);
            is_one_pair || standing.is_some_and(|standing| *standing != Standing::Cached)
        };
        let verdicts = nodes.iter().filter(is_missing).take(left).map(|node| {
            let verdict = gate::verdict(world, node, entry, &budget, now);
            let message = verdict.to_string();
            NodeVerdict { node: node.node.name.clone(), verdict, message }
        });
        let verdicts: Vec<NodeVerdict> = verdicts.collect();
        left -= verdicts.len();
        if which.node.is_none() || !verdicts.is_empty() {
            explanations.push(Explanation {
                cached_image: entry.image.name.clone(),
                image: entry.image.reference.clone(),
                cached: entry.tally.there(),
                nodes: verdicts,
            });
        }
    }
    Ok(explanations)
}

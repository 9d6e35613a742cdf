//! Why each image is where it is, for `/debug/plan`, `/metrics` and statuses.

use jiff::Timestamp;
use serde::Serialize;

use crate::gate::budget::Budget;
use crate::gate::verdict::Verdict;
use crate::objects::presence::Standing;
use crate::objects::reference::Reference;
use crate::world::{ImageEntry, NodeEntry, World};
use crate::{Name, gate};

/// What [`explain`] is asked about: the pairs of these two, of all where there is none.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// A CachedImage.
    pub cached_image: Option<Name>,
    /// A node.
    pub node: Option<Name>,
}

/// Nothing is called so.
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
    /// The other target nodes, as far as they were asked about.
    pub nodes: Vec<NodeVerdict>,
}

/// What happens to the image on one node.
#[derive(Debug, Serialize)]
pub struct NodeVerdict {
    /// The node.
    pub node: Name,
    /// What happens.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The same as a sentence.
    pub message: String,
}

/// Says of images that are wanted and missing why that is so, as far as the replica knows: what is
/// refused is known to the one that asked. After `limit` pairs there are no more. Of one image on
/// one node it is said in any case.
///
/// # Errors
/// If the world has not what is asked about.
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
    let budget = Budget::new(world);
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

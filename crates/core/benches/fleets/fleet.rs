//! Many nodes and 500 images, in pools.

use std::collections::BTreeSet;
use std::sync::Arc;

use drop_api::node_cache::{ImageRecord, NodeCacheSpec, NodeCacheStatus};
use drop_api::{CachedImage, CachedImageSpec, GoDuration, NodeCache, PullPolicySpec};
use drop_core::event::Kind;
use drop_core::image::Image;
use drop_core::inventory::{Inventory, Listed};
use drop_core::node::Node;
use drop_core::reference::Reference;
use drop_core::{Event, Name, Settings};
use jiff::Timestamp;

pub const IMAGES: usize = 500;
/// How many images a node lists: the kubelet's usual limit.
const LISTED: usize = 50;

/// A fleet whose nodes want the images of their pool.
pub struct Fleet {
    /// How many nodes there are.
    pub nodes: usize,
    pools: usize,
    listed: Vec<Arc<Listed>>,
}

/// As many nodes at once as there are in a large roll-out, and no waiting.
pub fn settings() -> Settings {
    let built_in_policy = PullPolicySpec {
        max_concurrent_nodes: 50,
        min_delay_between_pulls: GoDuration::from_secs(0),
        ..PullPolicySpec::default()
    };
    Settings { built_in_policy, ..Settings::default() }
}

impl Fleet {
    pub fn new(nodes: usize, pools: usize) -> Self {
        Self { nodes, pools, listed: (0..IMAGES).map(|image| Arc::new(listed(image))).collect() }
    }

    /// Nodes times the images that each wants.
    pub fn pairs(&self) -> usize {
        self.nodes * self.images_each()
    }

    /// How many images each node wants.
    pub fn images_each(&self) -> usize {
        IMAGES / self.pools
    }

    fn wanted_on(&self, node: usize) -> std::ops::Range<usize> {
        let first = node % self.pools * self.images_each();
        first..first + self.images_each()
    }

    /// Nodes that list what is wanted there.
    pub fn nodes(&self) -> impl Iterator<Item = Event> {
        (0..self.nodes).map(|node| self.node(node, LISTED))
    }

    /// Nodes that list images that nobody wants.
    pub fn fresh_nodes(&self) -> impl Iterator<Item = Event> {
        let others: Vec<Arc<Listed>> = (IMAGES..IMAGES + LISTED).map(|image| Arc::new(listed(image))).collect();
        (0..self.nodes).map(move |node| self.node_with(node, others.clone()))
    }

    fn node(&self, node: usize, listed: usize) -> Event {
        self.node_with(
            node,
            self.wanted_on(node).take(listed).filter_map(|image| self.listed.get(image).cloned()).collect(),
        )
    }

    fn node_with(&self, node: usize, listed: Vec<Arc<Listed>>) -> Event {
        Event::Node(Box::new(Node {
            name: name_of(node),
            uid: uid(node).as_str().into(),
            labels: [("pool".into(), (node % self.pools).to_string().into())].into(),
            platform: "linux/amd64".into(),
            inventory: Inventory::new(listed),
            ..Node::default()
        }))
    }

    /// A node that lists an image less than before.
    pub fn changed_node(&self, node: usize) -> Event {
        self.node(node, LISTED - 1)
    }

    pub fn images(&self) -> impl Iterator<Item = Event> {
        (0..IMAGES).filter_map(|image| {
            let spec = CachedImageSpec {
                image: repository(image),
                tag: Some("1.0".to_owned()),
                node_selector: [("pool".to_owned(), (image / self.images_each()).to_string())].into(),
                ..CachedImageSpec::default()
            };
            let object = CachedImage::new(&format!("image-{image}"), spec);
            Some(Event::Image(Box::new(Image::from_api(&object)?), Box::default()))
        })
    }

    /// NodeCaches that say that everything was pulled at `at`.
    pub fn caches(&self, at: Timestamp) -> impl Iterator<Item = Event> {
        (0..self.nodes).map(move |node| self.cache(node, at))
    }

    pub fn cache(&self, node: usize, at: Timestamp) -> Event {
        let mut cache = NodeCache::new(&name_of(node), NodeCacheSpec { node_uid: uid(node) });
        let record = |image| ImageRecord {
            image: format!("{}:1.0", repository(image)),
            digest: Some(digest(image)),
            pulled_at: Some(at),
            pull_duration: Some(GoDuration::from_secs(10)),
            size_bytes: Some(100_000_000),
            attempts: 1,
            ..ImageRecord::default()
        };
        let images: Vec<ImageRecord> = self.wanted_on(node).map(record).collect();
        let ready = format!("{}/{}", images.len(), images.len());
        cache.status = Some(NodeCacheStatus { images, ready, ..NodeCacheStatus::default() });
        Event::Cache(Box::new(cache))
    }

    /// That everything was listed, with NodeCaches or without.
    pub fn lists(&self, with_caches: bool) -> impl Iterator<Item = Event> {
        Kind::ALL.into_iter().map(move |kind| {
            let names: BTreeSet<Name> = match kind {
                Kind::Node => (0..self.nodes).map(name_of).collect(),
                Kind::Cache if with_caches => (0..self.nodes).map(name_of).collect(),
                Kind::Image => (0..IMAGES).map(|image| format!("image-{image}").into()).collect(),
                _ => BTreeSet::new(),
            };
            Event::Listed(kind, names)
        })
    }
}

fn name_of(node: usize) -> Name {
    format!("node-{node}").into()
}

fn uid(node: usize) -> String {
    format!("00000000-0000-0000-0000-{node:012}")
}

fn repository(image: usize) -> String {
    format!("registry.example.com/team-{}/application-{image}", image % 20)
}

fn digest(image: usize) -> String {
    format!("sha256:{image:064x}")
}

fn listed(image: usize) -> Listed {
    let repository = repository(image);
    let names =
        [Reference::new(&repository, None, Some(&digest(image))), Reference::new(&repository, Some("1.0"), None)];
    Listed { names: names.into(), is_cut: false, size: 100_000_000 }
}

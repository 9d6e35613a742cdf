//! Measures how much memory a `World` takes for 5,000 nodes that list 50 images each:
//! `cargo run -p drop-core --example world_memory`.
//!
//! It prints by how much the process grew (VmRSS, as Linux counts it) with each step.
#![allow(clippy::print_stdout, reason = "it is what this program is for")]

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use drop_api::node_cache::{ImageRecord, NodeCacheSpec, NodeCacheStatus};
use drop_api::{CachedImage, CachedImageSpec, GoDuration, NodeCache};
use drop_core::event::Kind;
use drop_core::image::Image;
use drop_core::inventory::{Inventory, Listed};
use drop_core::node::Node;
use drop_core::reference::Reference;
use drop_core::{Event, Name, Settings, World, plan};
use jiff::Timestamp;

const NODES: usize = 5_000;
/// How many images a node lists, all of which are wanted there.
const LISTED: usize = 50;
/// How many images there are in the cluster.
const IMAGES: usize = 500;

fn main() -> io::Result<()> {
    let now = Timestamp::UNIX_EPOCH;
    let images: Vec<Arc<Listed>> = (0..IMAGES).map(|image| Arc::new(listed(image))).collect();
    let mut world = World::new(Settings::default());
    let mut before = resident()?;
    let mut grown = |what: &str| -> io::Result<()> {
        let after = resident()?;
        let growth = after.saturating_sub(before);
        println!("{what}: {} MiB, {} bytes per node", growth >> 20, growth / NODES);
        before = after;
        Ok(())
    };

    for node in 0..NODES {
        let own = wanted_on(node).filter_map(|image| images.get(image).cloned()).collect();
        let node = Node {
            name: format!("node-{node}").as_str().into(),
            uid: uid(node).as_str().into(),
            labels: [("pool".to_owned(), pool(node).to_string())].into(),
            platform: "linux/amd64".into(),
            inventory: Inventory::new(own),
            ..Node::default()
        };
        world.apply(Event::Node(Box::new(node)), now);
    }
    grown("nodes, with lists that share what is the same")?;

    for image in 0..IMAGES {
        let spec = CachedImageSpec {
            image: name(image),
            tag: Some("1.0".to_owned()),
            node_selector: [("pool".to_owned(), (image / LISTED).to_string())].into(),
            ..CachedImageSpec::default()
        };
        let object = CachedImage::new(&format!("image-{image}"), spec);
        if let Some(image) = Image::from_api(&object) {
            world.apply(Event::Image(Box::new(image), Box::default()), now);
        }
    }
    for node in 0..NODES {
        world.apply(Event::Cache(Box::new(cache(node, now))), now);
    }
    grown("CachedImages, and NodeCaches that remember every image")?;

    for kind in Kind::ALL {
        let names: BTreeSet<_> = match kind {
            Kind::Node | Kind::Cache => (0..NODES).map(|node| Name::from(format!("node-{node}"))).collect(),
            Kind::Image => (0..IMAGES).map(|image| Name::from(format!("image-{image}"))).collect(),
            _ => BTreeSet::new(),
        };
        world.apply(Event::Listed(kind, names), now);
    }
    world.settle(now);
    let plan = plan(&world, now);
    grown("what is derived from them, and a plan")?;
    println!("the plan has {} effects", plan.effects.len());

    let lists: Vec<Vec<Listed>> = (0..NODES).map(|node| wanted_on(node).map(listed).collect()).collect();
    grown("for comparison: lists that share nothing")?;
    drop(lists);
    Ok(())
}

/// Nodes and images come in pools: a node lists the images of its pool, and all are wanted there.
fn pool(node: usize) -> usize {
    node % (IMAGES / LISTED)
}

fn wanted_on(node: usize) -> impl Iterator<Item = usize> {
    (0..LISTED).map(move |image| pool(node) * LISTED + image)
}

fn name(image: usize) -> String {
    format!("registry.example.com/team-{}/application-{image}", image % 20)
}

fn digest(image: usize) -> String {
    format!("sha256:{image:064x}")
}

fn listed(image: usize) -> Listed {
    let name = name(image);
    let names = [Reference::new(&name, None, Some(&digest(image))), Reference::new(&name, Some("1.0"), None)];
    Listed { names: names.into(), size: 100_000_000 }
}

fn cache(node: usize, now: Timestamp) -> NodeCache {
    let mut cache = NodeCache::new(&format!("node-{node}"), NodeCacheSpec { node_uid: uid(node) });
    let record = |image| ImageRecord {
        image: format!("{}:1.0", name(image)),
        digest: Some(digest(image)),
        pulled_at: Some(now),
        pull_duration: Some(GoDuration::from_secs(10)),
        size_bytes: Some(100_000_000),
        attempts: 1,
        ..ImageRecord::default()
    };
    let images = wanted_on(node).map(record).collect();
    cache.status = Some(NodeCacheStatus { images, ready: format!("{LISTED}/{LISTED}"), ..NodeCacheStatus::default() });
    cache
}

fn uid(node: usize) -> String {
    format!("00000000-0000-0000-0000-{node:012}")
}

/// The memory of this process that is in RAM, in bytes.
fn resident() -> io::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    Ok(kibibytes.unwrap_or_default() * 1024)
}

//! A synthetic CI fleet, and what its monitoring tells.
//!
//! Nodes are empty at midnight. A job runs one image on one node; the first job of an
//! image on a node pulls it, and it stays until midnight. Nothing else matters here:
//! pulls are independent of each other, so what warming saves is a sum over images.

use std::collections::BTreeMap;

use drop_core::discovery::{Answer, PullEvent, Sample, Series};
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};

pub const NODES: usize = 100;
pub const JOBS: usize = 25_000;
pub const IMAGES: usize = 30;
/// The window of interest, in minutes since midnight.
pub const WINDOW: std::ops::Range<usize> = 9 * 60..17 * 60;

/// Jobs by the hour at which they start, relative to each other: office hours with a
/// lunch break, nightly builds, few in the evening.
const HOURS: [f64; 24] = [
    2.0, 2.0, 3.0, 3.0, 2.0, 1.0, 2.0, 4.0, 7.0, 10.0, 11.0, 10.0, 8.0, 10.0, 11.0, 10.0, 8.0, 6.0, 4.0, 3.0, 2.0, 2.0,
    2.0, 2.0,
];
/// Minutes between two points of the usage series.
const STEP: usize = 5;
/// The standard deviation of the logarithm of a pull time: two thirds of an image's
/// pulls take between 0.74 and 1.35 times its median.
const SPREAD: f64 = 0.3;
/// How many bytes a second of pulling is at the median.
const BYTES_PER_SECOND: f64 = 40e6;

/// How jobs choose nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Each node with the same probability: the assumption of both models.
    Uniform,
    /// The n-th node with a probability proportional to 1/n, as where a scheduler fills
    /// one node after the other.
    Skewed,
}

/// Images, and where their jobs run.
pub struct Fleet {
    images: Vec<Image>,
    by_hour: Shares,
    by_image: Shares,
    by_node: Shares,
}

struct Image {
    name: String,
    /// The median, in seconds.
    pull_secs: f64,
    bytes: u64,
}

/// One day of a fleet, by image.
pub struct Day(Vec<Runs>);

/// One day of an image.
#[derive(Default)]
struct Runs {
    /// The minute at which each job starts.
    starts: Vec<usize>,
    /// The first job on each node that ran any.
    firsts: BTreeMap<usize, First>,
}

/// The job that finds its node without the image.
struct First {
    minute: usize,
    pull_secs: f64,
}

impl Fleet {
    /// Popularity and pull time are drawn independently: some images run 1,000 times as
    /// often as others, and some take 60 times as long. A size follows the pull time up to
    /// a factor of 2, because bandwidth is not all that a pull depends on.
    pub fn draw(rng: &mut Rng, placement: Placement) -> Self {
        let names = (0..IMAGES).map(|n| format!("registry.example.com/ci/image-{n:02}:v1"));
        let images = names.map(|name| {
            let pull_secs = log_uniform(rng, 5.0, 300.0);
            let bytes = (pull_secs * BYTES_PER_SECOND * log_uniform(rng, 0.5, 2.0)) as u64;
            Image { name, pull_secs, bytes }
        });
        let images = images.collect();
        let node = |n: usize| match placement {
            Placement::Uniform => 1.0,
            Placement::Skewed => 1.0 / (n as f64 + 1.0),
        };
        Self {
            images,
            by_hour: Shares::new(HOURS.into_iter()),
            by_image: Shares::new((0..IMAGES).map(|_| log_uniform(rng, 1.0, 1_000.0))),
            by_node: Shares::new((0..NODES).map(node)),
        }
    }

    /// One day of jobs.
    pub fn day(&self, rng: &mut Rng) -> Day {
        let mut day: Vec<Runs> = self.images.iter().map(|_| Runs::default()).collect();
        for _ in 0..JOBS {
            let minute = self.by_hour.draw(rng) * 60 + rng.usize(0..60);
            let (image, node) = (self.by_image.draw(rng), self.by_node.draw(rng));
            let Some((image, runs)) = self.images.get(image).zip(day.get_mut(image)) else { continue };
            runs.starts.push(minute);
            let pull = || First { minute, pull_secs: image.pull_secs * (SPREAD * normal(rng)).exp() };
            let first = runs.firsts.entry(node).or_insert_with(pull);
            first.minute = first.minute.min(minute);
        }
        Day(day)
    }

    fn runs<'a>(&'a self, day: &'a Day) -> impl Iterator<Item = (&'a Image, &'a Runs)> {
        self.images.iter().zip(&day.0)
    }

    /// What Prometheus says of `day`: the jobs of each step, at its end.
    pub fn usage(&self, day: &Day, midnight: Timestamp) -> Answer {
        let series = self.runs(day).map(|(image, runs)| {
            let mut counts = BTreeMap::new();
            for minute in &runs.starts {
                *counts.entry(minute / STEP).or_insert(0.0) += 1.0;
            }
            let sample = |(step, value)| Sample { at: midnight + minutes((step + 1) * STEP), value };
            Series { image: image.name.clone(), samples: counts.into_iter().map(sample).collect() }
        });
        Answer::Series(series.collect())
    }

    /// What Loki says of `day`: the pulls of jobs.
    pub fn pulls(&self, day: &Day, midnight: Timestamp) -> Answer {
        let events = self.runs(day).flat_map(|(image, runs)| {
            runs.firsts.values().map(|first| PullEvent {
                at: midnight + minutes(first.minute),
                image: image.name.clone(),
                pull_time: SignedDuration::try_from_secs_f64(first.pull_secs).ok(),
                size: Some(image.bytes),
            })
        });
        Answer::Pulls(events.collect())
    }

    /// The minutes of pulling that jobs of `day` would not have waited for in the window,
    /// had each image been on all nodes before it; by image.
    pub fn savings<'a>(&'a self, day: &'a Day) -> Vec<(&'a str, f64)> {
        let savings = self.runs(day).map(|(image, runs)| {
            let within = runs.firsts.values().filter(|first| WINDOW.contains(&first.minute));
            (image.name.as_str(), within.map(|first| first.pull_secs / 60.0).sum())
        });
        savings.collect()
    }
}

/// Choices with their cumulated probabilities.
struct Shares(Vec<f64>);

impl Shares {
    fn new(weights: impl Iterator<Item = f64>) -> Self {
        let cumulated = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self(cumulated.collect())
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let at = rng.f64() * self.0.last().copied().unwrap_or_default();
        self.0.partition_point(|sum| *sum <= at).min(self.0.len() - 1)
    }
}

/// A number whose logarithm is equally likely everywhere between those of `low` and `high`.
fn log_uniform(rng: &mut Rng, low: f64, high: f64) -> f64 {
    low * (high / low).powf(rng.f64())
}

/// A number of the standard normal distribution, by Box and Muller.
fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

fn minutes(minutes: usize) -> SignedDuration {
    SignedDuration::from_mins(minutes as i64)
}

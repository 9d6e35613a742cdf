//! What one can ask for.

use std::path::PathBuf;

use drop_api::GoDuration;

/// How fast the embedded demo goes.
const DEMO_SPEED: f64 = 10.0;

/// The options of `drop demo`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// File with the CachedImages, CachedImageSets, PullPolicies and Nodes to simulate; - is standard
    /// input [default: a demo]
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How many nodes there are besides those of the files [default: 3 where the files have none]
    #[arg(long, value_parser = clap::value_parser!(u16).range(..=5000))]
    pub nodes: Option<u16>,
    /// Label of these nodes
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// How long a node takes to pull an image [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub pull_time: Option<GoDuration>,
    /// How fast virtual time passes
    #[command(flatten)]
    pub pace: Pace,
}

/// How fast virtual time passes.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Pace {
    /// How many virtual seconds pass in a second; 0 is as fast as possible [default: 10, for files 0]
    #[arg(long, value_parser = speed)]
    pub speed: Option<f64>,
}

impl Args {
    /// Virtual seconds per second; zero is as fast as possible.
    pub(crate) fn speed(&self) -> f64 {
        let usual = if self.files.is_empty() { DEMO_SPEED } else { 0.0 };
        self.pace.speed.unwrap_or(usual)
    }
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as pool=gpu")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn speed(text: &str) -> Result<f64, &'static str> {
    let speed: f64 = text.parse().map_err(|_| "write a number, such as 60")?;
    if (0.0..=1e6).contains(&speed) { Ok(speed) } else { Err("write a number from 0 to 1000000") }
}

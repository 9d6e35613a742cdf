//! Formats the output of `drop discover`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use drop_api::discovery_policy::{DiscoveredImage, QueryResult, QueryStatus};
use drop_core::discovery::{LeftOut, Measured, Pipeline, SourceFailure, SourceOutcome, score_text};
use jiff::SignedDuration;
use serde::Serialize;

/// How many left-out images the table names for each reason.
const EXAMPLES: usize = 5;

/// The result of a policy. As JSON it has the fields of a DiscoveryPolicy's status, and more.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The policy's name.
    pub policy: String,
    query_results: Vec<QueryResult>,
    discovered_images: Vec<Found>,
    left_out: Vec<Other>,
    #[serde(skip)]
    signals: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    image: DiscoveredImage,
    /// The values by the names of signals.
    signals: BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct Other {
    image: String,
    why: String,
}

impl Outcome {
    /// Ranks the results of the queries of `pipeline`; `nodes` is the number of nodes.
    pub fn new(
        policy: &str,
        pipeline: &Pipeline,
        measured: Vec<Result<Measured, SourceFailure>>,
        nodes: impl Fn() -> usize,
    ) -> Self {
        let good: Vec<_> = measured.iter().map(|measured| measured.as_ref().ok()).collect();
        let ranked = pipeline.rank(&good, |_| nodes(), &BTreeSet::new());
        let signals: Vec<_> = pipeline.signals().map(|name| name.to_string()).collect();
        let position = |position: usize| i32::try_from(position).unwrap_or(i32::MAX);
        let found = ranked.images.into_iter().enumerate().map(|(at, ranked)| Found {
            image: DiscoveredImage {
                image: ranked.image.to_string(),
                rank: position(at + 1),
                final_score: score_text(ranked.score),
                found_by: ranked.found_by.into_iter().map(position).collect(),
            },
            signals: signals
                .iter()
                .cloned()
                .zip(ranked.signals)
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
        });
        let left_out = ranked.left_out.into_iter();
        let results = pipeline.queries().iter().zip(&measured);
        Self {
            policy: policy.to_owned(),
            query_results: results
                .map(|(query, measured)| SourceOutcome::new(SignedDuration::ZERO, measured).shown(query))
                .collect(),
            discovered_images: found.collect(),
            left_out: left_out
                .map(|LeftOut { image, why }| Other { image: image.to_string(), why: why.to_string() })
                .collect(),
            signals,
        }
    }

    /// Whether any source answered.
    pub fn answered(&self) -> bool {
        self.query_results.iter().any(|result| result.status != QueryStatus::Failed)
    }
}

/// Prints a list with an object per policy.
pub fn json(outcomes: &[Outcome], out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, outcomes)?;
    writeln!(out)
}

/// Prints three tables per policy: sources, images and left-out images.
pub fn table(outcomes: &[Outcome], out: &mut impl Write) -> io::Result<()> {
    for (at, outcome) in outcomes.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        writeln!(out, "DiscoveryPolicy {}\n", outcome.policy)?;
        rows(out, &sources(&outcome.query_results))?;
        writeln!(out)?;
        rows(out, &images(outcome))?;
        writeln!(out)?;
        rows(out, &left_out(&outcome.left_out))?;
    }
    Ok(())
}

fn sources(results: &[QueryResult]) -> Vec<Vec<String>> {
    let head = ["SOURCE", "TYPE", "RESULT", "IMAGES", "MESSAGE"].map(str::to_owned).to_vec();
    let rows = results.iter().map(|result| {
        let type_ = format!("{:?}", result.type_).to_lowercase();
        let reason = result.reason.clone().unwrap_or_else(|| "Synced".to_owned());
        let message = result.message.clone().unwrap_or_default();
        vec![result.name.clone(), type_, reason, result.images.to_string(), message]
    });
    [head].into_iter().chain(rows).collect()
}

fn images(outcome: &Outcome) -> Vec<Vec<String>> {
    let head = ["RANK", "IMAGE", "SCORE"].map(str::to_owned);
    let head = head.into_iter().chain(outcome.signals.iter().cloned()).collect();
    let rows = outcome.discovered_images.iter().map(|Found { image, signals }| {
        let values =
            outcome.signals.iter().map(|name| signals.get(name).map_or("-".to_owned(), |value| score_text(*value)));
        [image.rank.to_string(), image.image.clone(), image.final_score.clone()].into_iter().chain(values).collect()
    });
    [head].into_iter().chain(rows).collect()
}

/// Returns some left-out images for each reason; the JSON has all of them.
fn left_out(others: &[Other]) -> Vec<Vec<String>> {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Other { image, why } in others {
        by_reason.entry(why).or_default().push(if image.is_empty() { "-" } else { image });
    }
    let row = |image: &str, why: &str| vec![image.to_owned(), why.to_owned()];
    let rows = by_reason.into_iter().flat_map(|(why, images)| {
        let more = images.len().saturating_sub(EXAMPLES);
        let more = (more > 0).then(|| row(&format!("and {more} more"), why));
        images.into_iter().take(EXAMPLES).map(|image| row(image, why)).chain(more).collect::<Vec<_>>()
    });
    [row("LEFT OUT", "WHY")].into_iter().chain(rows).collect()
}

/// Prints a head and rows with columns as wide as their widest cell.
fn rows(out: &mut impl Write, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let widths: Vec<_> =
        (0..columns).map(|column| rows.iter().map(|row| cell(row, column)).max().unwrap_or_default()).collect();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("   ").trim_end())?;
    }
    Ok(())
}

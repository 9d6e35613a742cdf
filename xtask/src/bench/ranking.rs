//! How much pull time each ranking saves: docs/ranking.md.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result};
use drop_api::discovery_policy::{EventMetric, Ranking};
use drop_api::{DiscoveryPolicy, DiscoveryPolicySpec};
use drop_core::discovery::{Measured, Pipeline};
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fleet::{Fleet, IMAGES, NODES, Placement};
use super::write_table;

/// The policy that is measured, and the others with it: they differ in `ranking`.
const POLICY: &str = include_str!("../../../examples/discover-what-saves-most.yaml");
const SEEDS: u64 = 20;
/// Midnight in Europe/Berlin, the time zone of the policy's windows.
const MIDNIGHT: &str = "2026-03-01T23:00:00Z";

const PAGE: &str = "docs/ranking.md";
/// What the table stands between.
const MARKS: [&str; 2] = ["<!-- Written by `cargo xtask bench ranking`. -->\n", "<!-- End. -->\n"];

/// Measures, shows the table and writes it into the page.
pub(super) fn run() -> Result<()> {
    let table = table()?;
    print!("{table}");
    write_table(PAGE, MARKS, &table)
}

/// One row per way to choose, for both placements.
fn table() -> Result<String> {
    let uniform = measure(Placement::Uniform)?;
    let skewed = measure(Placement::Skewed)?;
    let mut table =
        "| ranking | uniform: minutes a day | of the best | worst day | skewed: minutes a day | of the best | worst day |\n\
        |---|---|---|---|---|---|---|\n"
            .to_owned();
    for (uniform, skewed) in uniform.iter().zip(&skewed) {
        write!(table, "| {} ", uniform.name)?;
        for row in [uniform, skewed] {
            write!(table, "| {:.0} | {:.1} % | {:.1} % ", row.minutes(), row.share(), row.worst())?;
        }
        table.push_str("|\n");
    }
    Ok(table)
}

/// A way to choose images, and how it fared.
struct Row {
    name: &'static str,
    /// The minutes saved on each day, and those of the best possible choice.
    days: Vec<(f64, f64)>,
}

impl Row {
    fn new(name: &'static str) -> Self {
        Self { name, days: Vec::new() }
    }

    fn saved(&self) -> f64 {
        self.days.iter().map(|(saved, _)| saved).sum()
    }

    /// Minutes saved on an average day.
    fn minutes(&self) -> f64 {
        self.saved() / self.days.len() as f64
    }

    /// The percentage of what the best possible choice saves, over all days.
    fn share(&self) -> f64 {
        100.0 * self.saved() / self.days.iter().map(|(_, best)| best).sum::<f64>()
    }

    /// The percentage on the worst day.
    fn worst(&self) -> f64 {
        self.days.iter().map(|(saved, best)| 100.0 * saved / best).fold(f64::INFINITY, f64::min)
    }
}

/// For each seed a fleet is drawn. Images are chosen by its first day, and judged by its second.
fn measure(placement: Placement) -> Result<Vec<Row>> {
    let policy: DiscoveryPolicy = serde_saphyr::from_str(POLICY.split("\n---\n").next().unwrap_or_default())?;
    let chosen = usize::try_from(policy.spec.max_images)?;
    let mut strategies = strategies(policy.spec)?;
    // They differ in what they make of the signals, not in the signals.
    let signals = strategies.first().context("there are strategies")?.1.clone();
    let mut best = Row::new("the best possible choice");
    let mut random = Row::new("at random, on average");
    let midnight: Timestamp = MIDNIGHT.parse()?;
    let now = midnight + SignedDuration::from_hours(24);
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let fleet = Fleet::draw(&mut rng, placement);
        let history = fleet.day(&mut rng);
        let evaluation = fleet.day(&mut rng);
        let mut savings = fleet.savings(&evaluation);
        // Savings add up over images, so the best choice is that of the highest.
        savings.sort_by(|(_, left), (_, right)| right.total_cmp(left));
        let most = savings.iter().take(chosen).map(|(_, minutes)| minutes).sum();
        best.days.push((most, most));
        let all: f64 = savings.iter().map(|(_, minutes)| minutes).sum();
        random.days.push((all * chosen as f64 / IMAGES as f64, most));
        let answers = [fleet.usage(&history, midnight), fleet.pulls(&history, midnight)];
        let measure = |(query, answer)| signals.measure(query, answer, now);
        let measured: Vec<Measured> = answers.into_iter().enumerate().map(measure).collect();
        for (row, pipeline) in &mut strategies {
            let ranked = pipeline.rank(&measured.iter().map(Some).collect::<Vec<_>>(), |_| NODES, &BTreeSet::new());
            let is_chosen = |image: &str| ranked.images.iter().any(|chosen| &*chosen.image == image);
            let saved = savings.iter().filter(|(image, _)| is_chosen(image)).map(|(_, minutes)| minutes).sum();
            row.days.push((saved, most));
        }
    }
    let strategies = strategies.into_iter().map(|(row, _)| row);
    Ok([best].into_iter().chain(strategies).chain([random]).collect())
}

/// The rankings that are compared.
fn strategies(mut spec: DiscoveryPolicySpec) -> Result<Vec<(Row, Pipeline)>> {
    let by_time = spec.signals.iter().find(|signal| signal.name == "pullTime");
    let mut by_size = by_time.context("the policy has a signal pullTime")?.clone();
    by_size.name = "size".to_owned();
    by_size.event_pull_time.as_mut().context("pullTime is of type eventPullTime")?.metric = EventMetric::ImageSize;
    spec.signals.push(by_size);

    let model = |strategy: &str, nodes: Value| {
        json!({ "strategy": strategy, strategy: {
            "nodes": nodes,
            "preWindowUsageSignal": "before",
            "targetWindowUsageSignal": "within",
            "pullTimeSignal": "pullTime",
        } })
    };
    let terms = json!([{ "signal": "within", "weight": "0.7" }, { "signal": "pullTime", "weight": "0.3" }]);
    let strategies = [
        ("`expectedSavings`", model("expectedSavings", json!({}))),
        ("`expectedSavings`, twice the nodes", model("expectedSavings", json!({ "count": 2 * NODES }))),
        ("`modelExposure`", model("modelExposure", json!({}))),
        ("`signal`: pull time", json!({ "strategy": "signal", "signal": "pullTime" })),
        ("`signal`: size", json!({ "strategy": "signal", "signal": "size" })),
        (
            "`weightedSum`: 0.7 jobs, 0.3 pull time",
            json!({ "strategy": "weightedSum", "weightedSum": { "terms": terms } }),
        ),
        ("`signal`: jobs in the window", json!({ "strategy": "signal", "signal": "within" })),
    ];
    let compile = |(name, ranking): (_, Value)| {
        let ranking: Ranking = serde_json::from_value(ranking)?;
        let spec = DiscoveryPolicySpec { ranking: Some(ranking), ..spec.clone() };
        Ok((Row::new(name), Pipeline::compile(&spec)?))
    };
    strategies.into_iter().map(compile).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::with_table;
    use super::*;
    use crate::root;

    #[test]
    fn expected_savings_come_within_3_points_of_the_best_possible_choice() {
        let rows = measure(Placement::Uniform).unwrap();
        let share = |name: &str| rows.iter().find(|row| row.name == name).unwrap().share();
        let savings = share("`expectedSavings`");
        assert!(savings >= 97.0, "{savings} %");
        let others = rows.iter().skip(1).filter(|row| row.name != "`expectedSavings`");
        assert!(others.map(Row::share).all(|other| other < savings), "no other ranking is better");
    }

    #[test]
    fn the_checked_in_table_is_up_to_date() {
        let page = fs::read_to_string(root().unwrap().join(PAGE)).unwrap();
        assert!(with_table(&page, MARKS, &table().unwrap()).unwrap() == page, "run `cargo xtask bench ranking`");
    }
}

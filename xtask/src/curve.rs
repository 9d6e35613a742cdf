//! What the models of docs/ranking.md think of an image by how often it runs: `docs/ranking.svg`.

use std::fmt::Write;

use anyhow::Result;
use drop_core::discovery::Model;

use crate::svg::{self, INK};

/// Sizes in pixels: what is left for numbers, and what is drawn.
const LEFT: f64 = 40.0;
const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 220.0;
/// N, and the shares of a day's jobs before and within the window.
const NODES: f64 = 100.0;
const BEFORE: f64 = 0.25;
const WITHIN: f64 = 0.5;
/// Jobs a day on the right, a power of ten, and pulls at the top.
const MOST_JOBS: f64 = 10_000.0;
const MOST_PULLS: f64 = 80.0;
/// Points of a curve.
const POINTS: u32 = 200;

/// Draws both models over the number of jobs, for pulls that take 1.
pub(crate) fn picture() -> Result<String> {
    let x = |jobs: f64| LEFT + jobs.log10() / MOST_JOBS.log10() * WIDTH;
    let y = |pulls: f64| HEIGHT - pulls / MOST_PULLS * HEIGHT + 8.0;
    let mut svg = svg::begin(LEFT + WIDTH + 30.0, HEIGHT + 68.0, 12, INK);
    for jobs in (0..=4).map(|power| 10_f64.powi(power)) {
        svg::mark(&mut svg, x(jobs), 8.0, y(0.0), &jobs.to_string())?;
    }
    for pulls in [0.0, 20.0, 40.0, 60.0, 80.0] {
        let (at, end) = (y(pulls), LEFT + WIDTH);
        writeln!(svg, "<path d=\"M{LEFT} {at}H{end}\" stroke=\"{INK}\" stroke-opacity=\"0.3\"/>")?;
        writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{pulls}</text>", LEFT - 6.0, at + 4.0)?;
    }
    let labels = [(Model::Savings, "expectedSavings", "#4477aa"), (Model::Exposure, "modelExposure", "#ee6677")];
    for ((model, name, colour), place) in labels.into_iter().zip([0.0, 160.0]) {
        let jobs = (0..=POINTS).map(|point| MOST_JOBS.powf(f64::from(point) / f64::from(POINTS)));
        let points = jobs.map(|jobs| (x(jobs), y(model.score(NODES, BEFORE * jobs, WITHIN * jobs, 1.0))));
        let path: Vec<String> = points.map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"))?;
        svg::key(&mut svg, LEFT + place, y(0.0) + 50.0, colour, name)?;
    }
    let (middle, row) = (LEFT + WIDTH / 2.0, y(0.0) + 32.0);
    writeln!(svg, "<text x=\"{middle}\" y=\"{row}\" text-anchor=\"middle\">jobs of the image in a day</text>")?;
    svg.push_str("</svg>\n");
    Ok(svg)
}

//! Pictures of pull Pods over time, drawn from simulated clusters: `docs/timelines`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use drop_demo::Args;
use drop_sim::Lab;
use drop_sim::scenario::Scenario;

use crate::root;
use crate::svg::{self, INK};

const FOLDER: &str = "docs/timelines";
/// Scenarios of the planner's tests that are drawn, too.
const SCENARIOS: [&str; 1] = ["eviction-storm"];
/// One for each image, in the order of their names.
const COLOURS: [&str; 4] = ["#4477aa", "#ee6677", "#228833", "#ccbb44"];
/// Sizes in pixels: the names on the left, what is drawn, and one line of it.
const LEFT: f64 = 90.0;
const WIDTH: f64 = 620.0;
const LINE: f64 = 26.0;
/// Seconds between two marks of the scale; the first that makes no more than twelve is taken.
const STEPS: [f64; 8] = [1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];

/// A pull Pod: from its creation until it was gone, in seconds.
struct Bar {
    node: String,
    image: String,
    from: f64,
    until: f64,
}

/// The pictures: one beside each file of objects in the folder.
pub(crate) fn files() -> Result<Vec<(PathBuf, String)>> {
    let folder = root()?.join(FOLDER);
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let bars = play(&path).with_context(|| path.display().to_string())?;
            files.push((path.with_extension("svg"), draw(&bars)?));
        }
    }
    for name in SCENARIOS {
        let path = root()?.join(format!("crates/sim/scenarios/{name}.yaml"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let bars = bars(Scenario::from_yaml(&text)?.run())?;
        files.push((folder.join(name).with_extension("svg"), draw(&bars)?));
    }
    Ok(files)
}

fn play(path: &std::path::Path) -> Result<Vec<Bar>> {
    bars(drop_demo::record(&Args { files: vec![path.to_owned()], ..Args::default() })?)
}

fn bars(lab: Lab) -> Result<Vec<Bar>> {
    let pods = lab.record.pods;
    let start = pods.first().context("no Pod was created")?.at;
    let seconds = |at: jiff::Timestamp| at.duration_since(start).as_secs_f64();
    let bars = pods.iter().map(|pod| Bar {
        node: pod.order.node.to_string(),
        image: pod.order.pulls.iter().map(|pull| &*pull.cached_image).collect::<Vec<_>>().join(", "),
        from: seconds(pod.at),
        until: seconds(pod.gone_at.unwrap_or(lab.now)),
    });
    Ok(bars.collect())
}

fn draw(bars: &[Bar]) -> Result<String> {
    let nodes: BTreeSet<&str> = bars.iter().map(|bar| bar.node.as_str()).collect();
    let rows: BTreeMap<&str, f64> = nodes.into_iter().zip((0_u32..).map(|row| f64::from(row) * LINE)).collect();
    let images: BTreeSet<&str> = bars.iter().map(|bar| bar.image.as_str()).collect();
    let colours: BTreeMap<&str, &str> = images.into_iter().zip(COLOURS.into_iter().cycle()).collect();
    let end = bars.iter().map(|bar| bar.until).fold(1.0, f64::max);
    let step = STEPS.into_iter().find(|step| end / step <= 12.0).unwrap_or(end / 12.0);
    let x = |second: f64| LEFT + second / end * WIDTH;
    let floor = LINE * (rows.len() as f64);

    let mut svg = svg::begin(LEFT + WIDTH + 30.0, floor + 2.0 * LINE, 12, INK);
    let mut second = 0.0;
    while second <= end {
        svg::mark(&mut svg, x(second), 0.0, floor, &format!("{second} s"))?;
        second += step;
    }
    for (node, y) in &rows {
        writeln!(svg, "<text x=\"0\" y=\"{}\">{node}</text>", y + 17.0)?;
    }
    for bar in bars {
        let (row, colour) = (rows.get(bar.node.as_str()), colours.get(bar.image.as_str()));
        let (y, colour) = row.zip(colour).context("every bar has a row and a colour")?;
        // A Pod that fails at once is to be seen, too.
        let width = (x(bar.until) - x(bar.from)).max(2.0);
        let (from, y) = (x(bar.from), y + 4.0);
        writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" rx=\"2\" fill=\"{colour}\"/>"
        )?;
    }
    let mut at = LEFT;
    for (image, colour) in &colours {
        svg::key(&mut svg, at, floor + LINE + 15.0, colour, image)?;
        at += 40.0 + 7.0 * (image.len() as f64);
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_is_drawn_in_the_row_of_its_node() {
        let bar = |node: &str, from, until| Bar { node: node.to_owned(), image: "a".to_owned(), from, until };
        let svg = draw(&[bar("n1", 0.0, 30.0), bar("n2", 15.0, 60.0)]).unwrap();
        assert!(svg.contains("<rect x=\"90.0\" y=\"4\" width=\"310.0\""), "{svg}");
        assert!(svg.contains("<rect x=\"245.0\" y=\"30\" width=\"465.0\""), "{svg}");
        assert!(svg.contains(">60 s</text>"), "{svg}");
    }
}

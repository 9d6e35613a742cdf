//! `docs/dashboard.svg`: the chart's dashboard, drawn from its JSON and from what its queries have
//! found in a test (`docs/dashboard.json`), in the layout of Grafana.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::svg;

/// Pixels of one of the grid's 24 columns, and of one of its rows with the gap below.
const COLUMN: f64 = 50.0;
const ROW: f64 = 38.0;
const GAP: f64 = 8.0;
/// Pixels around a graph, for its title and what stands at its axes.
const LEFT: f64 = 62.0;
const TOP: f64 = 36.0;
const BELOW: f64 = 60.0;
/// Rows of names below a graph, and the pixels of a row and of a character.
const LEGEND_ROWS: usize = 2;
const LINE: f64 = 16.0;
const CHARACTER: f64 = 5.8;
/// Grafana's classic palette.
const COLORS: [&str; 10] =
    ["#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642", "#cca300"];

/// The parts of a Grafana dashboard that are drawn.
#[derive(Deserialize)]
struct Dashboard {
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Panel {
    r#type: String,
    title: String,
    grid_pos: Place,
    #[serde(default)]
    field_config: FieldConfig,
    #[serde(default)]
    targets: Vec<Target>,
    #[serde(default)]
    options: Options,
}

/// In columns and rows.
#[derive(Deserialize)]
struct Place {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

#[derive(Default, Deserialize)]
struct FieldConfig {
    defaults: Defaults,
}

#[derive(Default, Deserialize)]
struct Defaults {
    unit: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    expr: String,
    legend_format: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    #[serde(default)]
    text_mode: String,
}

/// What the queries have found.
#[derive(Deserialize)]
struct Recording {
    /// Seconds between two values.
    step: f64,
    /// How many values each series has.
    steps: usize,
    queries: Vec<Query>,
}

#[derive(Deserialize)]
struct Query {
    query: String,
    series: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    labels: BTreeMap<String, String>,
    /// `None` where there is no sample.
    values: Vec<Option<f64>>,
}

/// A line of a graph.
struct Line<'a> {
    name: String,
    values: &'a [Option<f64>],
}

/// The picture.
pub(crate) fn picture(dashboard: &str, recording: &str) -> Result<String> {
    let dashboard: Dashboard = serde_json::from_str(dashboard).context("charts/drop/files/dashboard.json")?;
    let recording: Recording = serde_json::from_str(recording).context("docs/dashboard.json")?;
    let height = dashboard.panels.iter().map(|panel| panel.grid_pos.y + panel.grid_pos.h).fold(0.0, f64::max) * ROW;
    let width = 24.0 * COLUMN;
    let mut svg = svg::begin(width, height, 11, "#ccccdc");
    writeln!(svg, "<rect width=\"{width}\" height=\"{height}\" fill=\"#111217\"/>")?;
    for panel in &dashboard.panels {
        let Place { x, y, w, h } = panel.grid_pos;
        let (width, height) = (w * COLUMN - GAP, h * ROW - GAP);
        writeln!(svg, "<g transform=\"translate({} {})\">", x * COLUMN + GAP / 2.0, y * ROW + GAP / 2.0)?;
        if panel.r#type == "row" {
            text(&mut svg, 0.0, 20.0, "font-size=\"15\" font-weight=\"bold\"", &panel.title)?;
        } else {
            writeln!(
                svg,
                "<rect width=\"{width}\" height=\"{height}\" rx=\"2\" fill=\"#181b1f\" stroke=\"#2c3235\"/>"
            )?;
            text(&mut svg, 10.0, 20.0, "font-size=\"13\" font-weight=\"bold\"", &panel.title)?;
            let lines = lines(panel, &recording).with_context(|| panel.title.clone())?;
            match panel.r#type.as_str() {
                "stat" => stat(&mut svg, panel, &lines, width, height)?,
                "timeseries" => graph(&mut svg, panel, &lines, &recording, width, height)?,
                other => bail!("{}: a panel of type {other} cannot be drawn", panel.title),
            }
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// What a panel's queries have found.
fn lines<'a>(panel: &Panel, recording: &'a Recording) -> Result<Vec<Line<'a>>> {
    let mut lines = Vec::new();
    for target in &panel.targets {
        let query = recording.queries.iter().find(|query| query.query == target.expr);
        let query = query.with_context(|| {
            format!(
                "{} is not recorded: run `BLESS=1 cargo test --package drop-e2e --test cluster dashboard`",
                target.expr
            )
        })?;
        lines.extend(
            query
                .series
                .iter()
                .map(|series| Line { name: name(&target.legend_format, &series.labels), values: &series.values }),
        );
    }
    Ok(lines)
}

/// A legend's format with its `{{labels}}` filled in.
fn name(format: &str, labels: &BTreeMap<String, String>) -> String {
    labels.iter().fold(format.to_owned(), |name, (label, value)| name.replace(&format!("{{{{{label}}}}}"), value))
}

/// One number, or its name.
fn stat(svg: &mut String, panel: &Panel, lines: &[Line<'_>], width: f64, height: f64) -> Result<()> {
    let line = lines.first().context("nothing was found")?;
    let value = line.values.iter().rev().flatten().next().context("nothing was found")?;
    let shown = if panel.options.text_mode == "name" {
        line.name.clone()
    } else {
        number(*value, &panel.field_config.defaults.unit)
    };
    let style = "font-size=\"40\" fill=\"#73bf69\" text-anchor=\"middle\"";
    text(svg, width / 2.0, height * 0.7, style, &shown)
}

fn graph(
    svg: &mut String,
    panel: &Panel,
    lines: &[Line<'_>],
    recording: &Recording,
    width: f64,
    height: f64,
) -> Result<()> {
    let unit = &panel.field_config.defaults.unit;
    let (inner, tall) = (width - LEFT - 12.0, height - TOP - BELOW);
    let greatest = lines.iter().flat_map(|line| line.values).flatten().copied().fold(0.0, f64::max);
    let tick = tick(greatest);
    let ticks = (greatest / tick).ceil().max(1.0);
    let bottom = TOP + tall;
    let at_y = |value: f64| bottom - tall * value / (tick * ticks);
    for number_of in 0..=ticks as usize {
        let value = tick * number_of as f64;
        let y = at_y(value);
        writeln!(svg, "<path d=\"M{LEFT} {y:.1}h{inner}\" stroke=\"#2c3235\"/>")?;
        text(svg, LEFT - 6.0, y + 4.0, "text-anchor=\"end\"", &number(value, unit))?;
    }
    let last = recording.steps.saturating_sub(1).max(1) as f64;
    let at_x = |step: f64| LEFT + inner * step / last;
    let minutes = (last * recording.step / 60.0) as usize;
    for minute in 0..=minutes {
        let x = at_x(minute as f64 * 60.0 / recording.step);
        text(svg, x, bottom + 16.0, "text-anchor=\"middle\"", &format!("{minute}:00"))?;
    }
    for (line, color) in lines.iter().zip(COLORS.iter().cycle()) {
        let values = line.values.iter().enumerate();
        let points: Vec<Option<(f64, f64)>> =
            values.map(|(step, value)| value.map(|value| (at_x(step as f64), at_y(value)))).collect();
        for part in points.split(Option::is_none).filter(|part| part.len() > 1) {
            let path: Vec<String> = part.iter().flatten().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\"/>", path.join(" "))?;
        }
    }
    legend(svg, lines, width, bottom + 34.0)
}

/// The names of lines, as many as there is room for.
fn legend(svg: &mut String, lines: &[Line<'_>], width: f64, top: f64) -> Result<()> {
    let (mut x, mut row) = (10.0, 0);
    for (index, (line, color)) in lines.iter().zip(COLORS.iter().cycle()).enumerate() {
        let length = 20.0 + CHARACTER * line.name.chars().count() as f64;
        let more = format!("and {} more", lines.len() - index);
        let is_last_row = row + 1 == LEGEND_ROWS;
        let reserved = if is_last_row && index + 1 < lines.len() { CHARACTER * more.len() as f64 } else { 0.0 };
        if x > 10.0 && x + length + reserved > width {
            if is_last_row {
                return text(svg, x, top + LINE * row as f64, "", &more);
            }
            (x, row) = (10.0, row + 1);
        }
        let y = top + LINE * row as f64;
        writeln!(svg, "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"3\" fill=\"{color}\"/>", y - 5.0)?;
        text(svg, x + 14.0, y, "", &line.name)?;
        x += length + 6.0;
    }
    Ok(())
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, text: &str) -> Result<()> {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    Ok(writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>")?)
}

/// The distance of about four ticks up to `greatest`: 1, 2 or 5 times a power of ten.
fn tick(greatest: f64) -> f64 {
    let rough = if greatest > 0.0 { greatest / 4.0 } else { 0.25 };
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999).unwrap_or(10.0);
    factor * power
}

/// A number as Grafana shows one of this unit.
fn number(value: f64, unit: &str) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let fits = |(size, _): &&(f64, &str)| value.abs() >= *size * 0.9999;
        let (size, name) = steps.iter().find(fits).or(steps.last()).copied().unwrap_or((1.0, ""));
        format!("{} {name}", digits(value / size)).trim_end().to_owned()
    };
    match unit {
        "percentunit" => format!("{}%", digits(value * 100.0)),
        "s" if value == 0.0 => "0 s".to_owned(),
        "s" => scaled(&[(60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]),
        "bytes" => scaled(&[(1073741824.0, "GiB"), (1048576.0, "MiB"), (1024.0, "KiB"), (1.0, "B")]),
        "Bps" => scaled(&[(1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")]),
        "reqps" => format!("{} req/s", digits(value)),
        _ => scaled(&[(1e6, "Mil"), (1e3, "K"), (1.0, "")]),
    }
}

/// Three digits that count, without zeros at the end.
fn digits(value: f64) -> String {
    let decimals = if value == 0.0 { 0 } else { (2 - value.abs().log10().floor() as i32).clamp(0, 6) as usize };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_their_unit() {
        let cases = [
            (0.5, "percentunit", "50%"),
            (0.00031, "s", "310 µs"),
            (90.0, "s", "1.5 min"),
            (0.0, "s", "0 s"),
            (12_582_912.0, "bytes", "12 MiB"),
            (2_100_000.0, "Bps", "2.1 MB/s"),
            (0.25, "reqps", "0.25 req/s"),
            (1500.0, "short", "1.5 K"),
            (3.0, "short", "3"),
        ];
        for (value, unit, expected) in cases {
            assert_eq!(number(value, unit), expected, "{value} {unit}");
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        let cases = [(0.0, 0.5), (1.0, 0.5), (4.0, 1.0), (7.0, 2.0), (110.0, 50.0), (0.003, 0.001)];
        for (greatest, expected) in cases {
            assert!((tick(greatest) - expected).abs() < 1e-9, "{greatest}: {}", tick(greatest));
        }
    }

    #[test]
    fn a_query_that_is_not_recorded_is_named() {
        let dashboard = r#"{"panels": [{"type": "stat", "title": "T", "gridPos": {"x": 0, "y": 0, "w": 4, "h": 4},
            "targets": [{"expr": "up", "legendFormat": ""}]}]}"#;
        let error = picture(dashboard, r#"{"step": 5, "steps": 1, "queries": []}"#).unwrap_err();
        assert!(format!("{error:#}").contains("up is not recorded"), "{error:#}");
    }
}

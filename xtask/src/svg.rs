//! What the pictures of the docs have in common.

use std::fmt::Write;

use anyhow::Result;

/// On light and on dark pages alike.
pub(crate) const INK: &str = "#808080";

/// The beginning of a picture of this size in pixels, and how its texts look.
pub(crate) fn begin(width: f64, height: f64, font_size: u32, fill: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"{font_size}\" fill=\"{fill}\">\n"
    )
}

/// A mark of the scale below: a line down to `floor`, and its label.
pub(crate) fn mark(svg: &mut String, x: f64, top: f64, floor: f64, label: &str) -> Result<()> {
    writeln!(svg, "<path d=\"M{x:.1} {top}V{floor}\" stroke=\"{INK}\" stroke-opacity=\"0.3\"/>")?;
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", floor + 16.0)?;
    Ok(())
}

/// What a colour stands for, on the line at `y`.
pub(crate) fn key(svg: &mut String, x: f64, y: f64, colour: &str, name: &str) -> Result<()> {
    writeln!(svg, "<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>", y - 9.0)?;
    writeln!(svg, "<text x=\"{}\" y=\"{y}\">{name}</text>", x + 15.0)?;
    Ok(())
}

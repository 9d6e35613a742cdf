//! Where a simulation is watched: a terminal, which is drawn anew, or a pipe, which gets lines.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use drop_sim::Lab;
use jiff::SignedDuration;

use crate::table::{self, Table};

/// A terminal is drawn at most so often.
const FRAME: Duration = Duration::from_millis(100);
/// The size of a terminal that does not tell: columns and rows.
const USUAL_SIZE: (usize, usize) = (80, 24);
/// How many of the last happenings a terminal shows.
const REMEMBERED: usize = 3;
/// The longest usual word in the column STATUS.
const LONGEST_STATUS: &str = "ImagePullBackOff";

/// What shows a simulation. Times count from its beginning.
pub(crate) trait View {
    /// Something happened to the cluster.
    fn tell(&mut self, at: SignedDuration, sentence: &str, out: &mut dyn Write) -> io::Result<()>;
    /// Drop may have changed something.
    fn show(&mut self, lab: &Lab, at: SignedDuration, out: &mut dyn Write) -> io::Result<()>;
    /// It is over; what follows is printed.
    fn end(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

/// A line for each CachedImage that has changed, as `kubectl get --watch` prints them.
#[derive(Default)]
pub(crate) struct Timeline {
    table: Option<Table>,
    widths: Vec<usize>,
    /// What was shown last, by name.
    shown: BTreeMap<String, Vec<String>>,
}

fn clock(at: SignedDuration) -> String {
    format!("{at:#}")
}

impl View for Timeline {
    fn tell(&mut self, at: SignedDuration, sentence: &str, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:>7}   ==> {sentence}", clock(at))
    }

    fn show(&mut self, lab: &Lab, at: SignedDuration, out: &mut dyn Write) -> io::Result<()> {
        let is_first = self.table.is_none();
        let Some(table) = self.table.take().or_else(|| Table::of("CachedImage").map(Table::ageless)) else {
            return Ok(());
        };
        let (head, rows) = (table.head(), table.rows(lab));
        if is_first {
            let status = head.iter().map(|name| if name == "STATUS" { LONGEST_STATUS } else { name }.to_owned());
            table::widen(&mut self.widths, &status.collect::<Vec<_>>());
            rows.iter().for_each(|row| table::widen(&mut self.widths, row));
            writeln!(out, "   TIME   {}", table::line(&head, &self.widths))?;
        }
        // Its numbers follow from the other columns, or change with every try.
        let column = |wanted: &str| head.iter().position(|name| name == wanted);
        let message = column("MESSAGE").unwrap_or(head.len());
        // What a set has just made has no status yet.
        let has_status =
            |row: &Vec<String>| column("STATUS").and_then(|at| row.get(at)).is_some_and(|cell| !cell.is_empty());
        for row in rows.into_iter().filter(has_status) {
            let (Some(name), Some(cells)) = (row.first(), row.get(..message)) else { continue };
            if self.shown.get(name).is_some_and(|shown| shown == cells) {
                continue;
            }
            self.shown.insert(name.clone(), cells.to_vec());
            table::widen(&mut self.widths, &row);
            writeln!(out, "{:>7}   {}", clock(at), table::line(&row, &self.widths))?;
        }
        self.table = Some(table);
        out.flush()
    }

    fn end(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

/// All tables, drawn in place.
pub(crate) struct Screen {
    tables: Vec<Table>,
    told: VecDeque<String>,
    /// How many lines were drawn last.
    drawn: usize,
    drawn_at: Option<Instant>,
    size: fn() -> (usize, usize),
}

impl Default for Screen {
    fn default() -> Self {
        Self { tables: table::all(), told: VecDeque::new(), drawn: 0, drawn_at: None, size }
    }
}

/// The terminal's columns and rows.
fn size() -> (usize, usize) {
    terminal_size::terminal_size().map_or(USUAL_SIZE, |(width, height)| (width.0.into(), height.0.into()))
}

impl Screen {
    /// Goes back to where the last frame began, and clears what follows.
    fn clear(&mut self, out: &mut dyn Write) -> io::Result<()> {
        match std::mem::take(&mut self.drawn) {
            0 => Ok(()),
            // ECMA-48: CPL, ED.
            lines => write!(out, "\x1b[{lines}F\x1b[J"),
        }
    }
}

impl View for Screen {
    fn tell(&mut self, at: SignedDuration, sentence: &str, _: &mut dyn Write) -> io::Result<()> {
        self.told.push_back(format!("{:>7}   {sentence}", clock(at)));
        if self.told.len() > REMEMBERED {
            self.told.pop_front();
        }
        Ok(())
    }

    fn show(&mut self, lab: &Lab, at: SignedDuration, out: &mut dyn Write) -> io::Result<()> {
        if self.drawn_at.is_some_and(|drawn_at| drawn_at.elapsed() < FRAME) {
            return Ok(());
        }
        self.drawn_at = Some(Instant::now());
        let (width, height) = (self.size)();
        let mut lines = vec![format!("After {}", clock(at))];
        lines.extend(self.told.iter().cloned());
        for table in &self.tables {
            lines.push(table.command());
            lines.extend(table.lines(lab, width));
        }
        // The cursor stands below the last line.
        lines.truncate(height.saturating_sub(1));
        self.clear(out)?;
        for line in &lines {
            writeln!(out, "{}", line.chars().take(width).collect::<String>())?;
        }
        self.drawn = lines.len();
        out.flush()
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.clear(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_does_without_what_tells_least() {
        let mut lab = Lab::default();
        lab.image("a", "registry.example.com/with/a/long/name:1");
        lab.run(SignedDuration::from_secs(1));
        let table = Table::of("CachedImage").unwrap();
        let heads = [200, 80, 60].map(|room| table.lines(&lab, room).remove(0));
        let heads = heads.map(|head| head.split_whitespace().collect::<Vec<_>>().join(" "));
        let expected = [
            "NAME IMAGE TAG STATUS READY AGE MESSAGE",
            "NAME TAG STATUS READY AGE MESSAGE",
            "NAME STATUS READY AGE MESSAGE",
        ];
        assert_eq!(heads, expected);
    }

    #[test]
    fn a_terminal_is_drawn_in_place_and_never_beyond_its_size() {
        let mut lab = Lab::default();
        (0..30).for_each(|number| lab.image(&format!("image-with-a-long-name-{number}"), "alpine"));
        lab.run(SignedDuration::from_secs(1));
        let mut screen = Screen { size: || (40, 10), ..Screen::default() };
        let mut out = Vec::new();
        for second in 1..=2 {
            screen.drawn_at = None;
            screen.show(&lab, SignedDuration::from_secs(second), &mut out).unwrap();
        }
        screen.show(&lab, SignedDuration::from_secs(3), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let frames: Vec<&str> = text.split("\x1b[9F\x1b[J").collect();
        assert_eq!(frames.len(), 2, "the third is too early: {text:?}");
        for (frame, first) in frames.into_iter().zip(["After 1s", "After 2s"]) {
            assert!(frame.starts_with(first), "{frame}");
            assert_eq!(frame.lines().count(), 9);
            assert!(frame.lines().all(|line| line.chars().count() <= 40), "{frame}");
        }
    }
}

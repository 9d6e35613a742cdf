//! Tables with the columns that the CustomResourceDefinitions give `kubectl get`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use drop_core::effect::EffectKey;
use drop_sim::Lab;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// The kinds that are shown, and the order.
const KINDS: [&str; 4] = ["CachedImageSet", "CachedImage", "PullPolicy", "NodeCache"];
/// The only column of `-o wide` that is shown.
const MESSAGE: &str = "MESSAGE";
/// Columns that a narrow terminal does without, the least telling first.
const DISPENSABLE: [&str; 2] = ["IMAGE", "TAG"];
/// So much of the last column should be seen.
const LAST_WIDTH: usize = 30;
/// Between two columns, as `kubectl` does it.
const GAP: &str = "   ";
/// More rows than these are only counted.
const MOST_ROWS: usize = 40;

/// What `kubectl get` shows of one kind, and the column MESSAGE of `-o wide`.
pub(crate) struct Table {
    kind: String,
    plural: String,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    path: Vec<Step>,
    is_age: bool,
}

/// A step of a JSONPath, as far as the CRDs use it.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// `.field`
    Field(String),
    /// `[?(@.key=="value")]`
    Find(String, String),
}

/// The tables of all kinds that are shown.
pub(crate) fn all() -> Vec<Table> {
    KINDS.iter().filter_map(|kind| Table::of(kind)).collect()
}

impl Table {
    /// The table of a kind; `None` where Drop does not have it.
    pub(crate) fn of(kind: &str) -> Option<Self> {
        let crd = drop_api::crds().into_iter().find(|crd| crd.spec.names.kind == kind)?;
        let columns = crd.spec.versions.into_iter().next()?.additional_printer_columns.unwrap_or_default();
        let shown = columns.into_iter().filter(|column| column.priority.unwrap_or(0) == 0 || column.name == MESSAGE);
        let columns = shown.map(|column| Column {
            path: steps(&column.json_path),
            is_age: column.type_ == "date",
            name: column.name,
        });
        Some(Self { kind: kind.to_owned(), plural: crd.spec.names.plural, columns: columns.collect() })
    }

    /// The same without AGE, which always changes.
    pub(crate) fn ageless(mut self) -> Self {
        self.columns.retain(|column| !column.is_age);
        self
    }

    /// The command that shows it in a real cluster.
    pub(crate) fn command(&self) -> String {
        let has_message = self.columns.iter().any(|column| column.name == MESSAGE);
        format!("$ kubectl get {}{}", self.plural, if has_message { " -o wide" } else { "" })
    }

    /// The columns' names.
    pub(crate) fn head(&self) -> Vec<String> {
        ["NAME"].into_iter().chain(self.columns.iter().map(|column| column.name.as_str())).map(str::to_owned).collect()
    }

    /// The cells of every object.
    pub(crate) fn rows(&self, lab: &Lab) -> Vec<Vec<String>> {
        let objects = objects(lab, &self.kind).into_iter();
        let rows = objects.map(|(name, created_at, object)| {
            let cells = self.columns.iter().map(|column| match column.is_age {
                true => created_at.map(|at| age(lab.now.duration_since(at))).unwrap_or_default(),
                false => text(find(&object, &column.path)),
            });
            [name].into_iter().chain(cells).collect()
        });
        rows.collect()
    }

    /// The head and the rows, or that there is nothing, for a place of so many columns.
    pub(crate) fn lines(&self, lab: &Lab, room: usize) -> Vec<String> {
        let mut rows = self.rows(lab);
        if rows.is_empty() {
            return vec!["No resources found".to_owned()];
        }
        let more = rows.len().saturating_sub(MOST_ROWS);
        rows.truncate(MOST_ROWS);
        rows.insert(0, self.head());
        let mut widths = widths_of(&rows);
        for name in DISPENSABLE {
            let position = rows.first().and_then(|head| head.iter().position(|column| column == name));
            if let Some(position) = position.filter(|_| needed(&widths) > room) {
                rows.iter_mut().for_each(|row| drop(row.remove(position)));
                widths = widths_of(&rows);
            }
        }
        let lines = rows.iter().map(|row| line(row, &widths));
        lines.chain((more > 0).then(|| format!("... and {more} more"))).collect()
    }

    /// Prints head and rows.
    pub(crate) fn print(&self, lab: &Lab, out: &mut dyn Write) -> io::Result<()> {
        self.lines(lab, usize::MAX).iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// Makes columns as wide as the cells of `row`.
pub(crate) fn widen(widths: &mut Vec<usize>, row: &[String]) {
    widths.resize(widths.len().max(row.len()), 0);
    for (width, cell) in widths.iter_mut().zip(row) {
        *width = (*width).max(cell.chars().count());
    }
}

fn widths_of(rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths = Vec::new();
    rows.iter().for_each(|row| widen(&mut widths, row));
    widths
}

/// How much room columns need so that enough of the last one is seen.
fn needed(widths: &[usize]) -> usize {
    let Some((last, others)) = widths.split_last() else { return 0 };
    others.iter().map(|width| width + GAP.len()).sum::<usize>() + LAST_WIDTH.min(*last)
}

/// A row as a line.
pub(crate) fn line(row: &[String], widths: &[usize]) -> String {
    let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    cells.join(GAP).trim_end().to_owned()
}

/// Every object of a kind: its name, when it was created, and all that is written of it.
fn objects(lab: &Lab, kind: &str) -> Vec<(String, Option<Timestamp>, Value)> {
    fn written<T: serde::Serialize>(
        objects: &BTreeMap<String, T>,
        created_at: impl Fn(&str) -> Option<Timestamp>,
    ) -> Vec<(String, Option<Timestamp>, Value)> {
        let objects = objects
            .iter()
            .filter_map(|(name, object)| Some((name.clone(), created_at(name), serde_json::to_value(object).ok()?)));
        objects.collect()
    }
    let record = |key: EffectKey| lab.record.created_at.get(&key).copied();
    match kind {
        "CachedImage" => written(&lab.api.images, |name| record(EffectKey::Image(name.into()))),
        "CachedImageSet" => written(&lab.api.sets, |name| record(EffectKey::Set(name.into()))),
        "PullPolicy" => written(&lab.api.policies, |name| record(EffectKey::Policy(name.into()))),
        _ => {
            let mut first_writes = BTreeMap::new();
            for (at, name) in &lab.record.cache_writes {
                first_writes.entry(name.as_str()).or_insert(*at);
            }
            written(&lab.api.caches, |name| first_writes.get(name).copied())
        }
    }
}

/// Reads a JSONPath of a printer column.
fn steps(path: &str) -> Vec<Step> {
    let (mut steps, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        let filter = rest.strip_prefix("[?(@.").and_then(|rest| rest.split_once("==\""));
        if let Some((key, (value, after))) = filter.and_then(|(key, rest)| Some((key, rest.split_once("\")]")?))) {
            steps.push(Step::Find(key.to_owned(), value.to_owned()));
            rest = after;
            continue;
        }
        let field = rest.strip_prefix('.').unwrap_or(rest);
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (name, after) = field.split_at(end);
        steps.push(Step::Field(name.to_owned()));
        rest = after;
    }
    steps
}

fn find<'a>(object: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Find(key, wanted) => {
            value.as_array()?.iter().find(|item| item.get(key).and_then(Value::as_str) == Some(wanted))
        }
    })
}

/// A cell; empty where there is nothing, as `kubectl` shows it.
fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// How long ago something was, as `kubectl` shows it (`HumanDuration` of `k8s.io/apimachinery`).
fn age(since: SignedDuration) -> String {
    let secs = since.as_secs();
    let (mins, hours, days) = (secs / 60, secs / 3600, secs / 86_400);
    let both = |more: i64, unit: char, less: i64, small: char| match less {
        0 => format!("{more}{unit}"),
        less => format!("{more}{unit}{less}{small}"),
    };
    match () {
        () if secs < 120 => format!("{secs}s"),
        () if mins < 10 => both(mins, 'm', secs % 60, 's'),
        () if mins < 180 => format!("{mins}m"),
        () if hours < 8 => both(hours, 'h', mins % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => both(days, 'd', hours % 24, 'h'),
        () => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_has_a_table_with_the_columns_of_its_crd() {
        let heads: Vec<String> = all().iter().map(|table| table.head().join(" ")).collect();
        let expected = [
            "NAME STATUS READY MANAGED SOURCE AGE MESSAGE",
            "NAME IMAGE TAG STATUS READY AGE MESSAGE",
            "NAME MAXNODES MINDELAY REPULL PULLING AGE",
            "NAME READY PULLING FAILED AGE",
        ];
        assert_eq!(heads, expected);
    }

    #[test]
    fn json_paths_of_columns_are_followed() {
        let object = json!({"a": [{"type": "x", "is": 1}, {"type": "Ready", "is": "good"}], "b": {"c": 2}});
        let cell = |path: &str| text(find(&object, &steps(path)));
        assert_eq!(cell(".a[?(@.type==\"Ready\")].is"), "good");
        assert_eq!((cell(".b.c"), cell(".b.d"), cell(".a[?(@.type==\"y\")].is")), ("2".into(), "".into(), "".into()));
    }

    #[test]
    fn ages_look_like_those_of_kubectl() {
        let ages = [0, 119, 120, 599, 600, 3600 * 3, 3600 * 5 + 60, 3600 * 47, 3600 * 50, 86_400 * 9]
            .map(|secs| age(SignedDuration::from_secs(secs)));
        assert_eq!(ages, ["0s", "119s", "2m", "9m59s", "10m", "3h", "5h1m", "47h", "2d2h", "9d"]);
    }
}

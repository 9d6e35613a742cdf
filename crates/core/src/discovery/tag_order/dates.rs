//! Dates in digits.

use jiff::civil::Date;

/// Returns the parts of `20250907`, `202509071613` or `20250907161309`.
pub fn compact_date(text: &str) -> Option<Vec<&str>> {
    let (day, time) = text.split_at_checked(8)?;
    let is_time =
        matches!(time.len(), 0 | 4 | 6) && pairs(time).zip(["23", "59", "59"]).all(|(part, most)| part <= most);
    let (year, month_and_day) = day.split_at_checked(4)?;
    (is_day(day) && is_time).then(|| [year].into_iter().chain(pairs(month_and_day)).chain(pairs(time)).collect())
}

/// Whether `text` is a plausible day, such as `20250907`.
pub fn is_day(text: &str) -> bool {
    let day = text.parse::<i32>().ok().filter(|day| (19900101..=20991231).contains(day));
    let parts = day.map(|day| (day / 10_000, day / 100 % 100, day % 100));
    let parts = parts.and_then(|(y, m, d)| Some((y.try_into().ok()?, m.try_into().ok()?, d.try_into().ok()?)));
    parts.is_some_and(|(year, month, day)| Date::new(year, month, day).is_ok())
}

/// Splits `1613` into `16` and `13`.
pub fn pairs(text: &str) -> impl Iterator<Item = &str> {
    (0..text.len()).step_by(2).filter_map(|at| text.get(at..text.len().min(at + 2)))
}

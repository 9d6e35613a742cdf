//! Formats texts and numbers for objects and messages.

/// Returns `text` with at most `max` characters; a cut text ends with `…`.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    if text.chars().nth(max).is_none() {
        return text.to_owned();
    }
    let ellipsis = if max > 0 { "…" } else { "" };
    text.chars().take(max.saturating_sub(1)).chain(ellipsis.chars()).collect()
}

/// Returns a number and its noun, such as `1 node` or `3 nodes`.
pub(crate) fn plural(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// Converts a number to the type that objects use.
pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

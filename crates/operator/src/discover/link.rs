//! The header `Link`: <https://www.rfc-editor.org/rfc/rfc8288#section-3>.

/// Returns the target of the link to the next page. Old registries write it without `<` and `>`.
pub fn next(header: &str) -> Option<&str> {
    split(header, ',').find_map(|link| {
        let mut parts = split(link, ';');
        let target = parts.next()?.trim();
        let bare = || (!target.contains(['<', '>'])).then_some(target);
        let target = target.strip_prefix('<').and_then(|target| target.strip_suffix('>')).or_else(bare)?.trim();
        parts.any(is_next).then_some(target).filter(|target| !target.is_empty())
    })
}

/// Whether a parameter is `rel` with the relation `next` among its relations.
fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let mut relations = value.trim().trim_matches(['"', '\'']).split_ascii_whitespace();
    name.trim().eq_ignore_ascii_case("rel") && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
}

/// Splits at `separator` outside of `"…"` and `<…>`.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut in_target) = (false, false);
    text.split(move |c| {
        match c {
            '"' if !in_target => quoted = !quoted,
            '<' if !quoted => in_target = true,
            '>' if !quoted => in_target = false,
            _ => {}
        }
        c == separator && !quoted && !in_target
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        let cases = [
            (r#"</v2/a/tags/list?last=b&n=2>; rel="next""#, Some("/v2/a/tags/list?last=b&n=2")),
            ("<https://r/v2?last=a,b;c>;REL=Next", Some("https://r/v2?last=a,b;c")),
            (r#"<a>; rel="prev", <b>; title="x, <y>; rel=next"; rel="last next""#, Some("b")),
            (r#"<a>; title="rel=next", <b>; rel="first""#, None),
            // Quay in 2016, and registries derived from it.
            (
                r#"https://r/v2/a/tags/list?n=50&next_page=x%3D; rel="next""#,
                Some("https://r/v2/a/tags/list?n=50&next_page=x%3D"),
            ),
            ("/v2/a/tags/list?last=b;rel='next'", Some("/v2/a/tags/list?last=b")),
            ("a; rel=prev, b; rel=next", Some("b")),
            ("<?last=b>; rel=next", Some("?last=b")),
            ("< /x >; rel=next", Some("/x")),
            ("<a>", None),
            ("a", None),
            ("<>; rel=next", None),
            ("; rel=next", None),
            ("<a; rel=next", None),
            ("", None),
        ];
        for (header, expected) in cases {
            assert_eq!(next(header), expected, "{header}");
        }
    }
}

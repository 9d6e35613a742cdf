//! The names of a pull Pod's containers. A name shows which of the ordered images the container pulls, even if
//! admission has added containers or changed images.

/// The name of a Pod's only container, and the prefix of the names if there are several.
const PREFIX: &str = "pull";

/// The name of the container at `place` among `count`.
pub fn at(place: usize, count: usize) -> String {
    if count == 1 { PREFIX.to_owned() } else { format!("{PREFIX}-{place}") }
}

/// The place of the container with this name; `None` for a container that admission has added.
pub fn place(name: &str) -> Option<usize> {
    match name.strip_prefix(PREFIX)? {
        "" => Some(0),
        number => number.strip_prefix('-')?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_place_of_its_container() {
        assert_eq!((at(0, 1), at(0, 2), at(1, 2)), ("pull".to_owned(), "pull-0".to_owned(), "pull-1".to_owned()));
        assert_eq!(["pull", "pull-1", "pull-x", "istio-proxy"].map(place), [Some(0), Some(1), None, None]);
    }
}

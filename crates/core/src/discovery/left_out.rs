//! The reasons why an image that a backend named is not in the list.

use std::fmt;

use crate::Name;

/// An image, or a text that should have been one, that is not ranked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// The full reference where there is one, else the text as it came.
    pub image: Name,
    /// Why it is not ranked.
    pub why: Why,
}

/// Why an image is not ranked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The label `image` is missing or empty.
    NoLabel,
    /// The text is the ID of an image on some node, not a name in a registry.
    OnlyAnId,
    /// The text is no image name.
    NotAnImage,
    /// The text is no tag.
    NotATag,
    /// The tag keeps a signature, an attestation or an SBOM of another image.
    Signature,
    /// `imageFilter` does not match.
    ImageFilter,
    /// `tagFilter` does not match.
    TagFilter,
    /// `maxScan` ended the list of the repository's tags.
    MaxScan,
    /// The registry links to more tags of the repository, but does not show them.
    NoNextPage,
    /// Newer tags of its repository fill `topX`.
    TopX,
    /// No sample of it is a finite number within the window.
    NoValue,
    /// It has no value for the signal of this name, which the ranking needs.
    NoSignal(Name),
    /// Its score is not a finite number.
    NotFinite,
    /// Its score, or a value that the score is derived from, is below 0.
    Negative,
    /// A signal keeps no more than [`MOST_IMAGES`](super::MOST_IMAGES), the highest first.
    TooMany,
    /// Better images fill `maxImages`.
    MaxImages,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLabel => "the result has no label \"image\"",
            Self::OnlyAnId => "it is the ID of an image on a node, which no registry knows",
            Self::NotAnImage => "it is not an image name",
            Self::NotATag => "the registry lists a tag that is none: letters, digits, _ . and -, at most 128",
            Self::Signature => "it is a signature, an attestation or an SBOM, not an image",
            Self::ImageFilter => "imageFilter does not match",
            Self::TagFilter => "tagFilter does not match",
            Self::MaxScan => "maxScan is reached, newer tags may lie beyond: raise it, or set tagSeek",
            Self::NoNextPage => "the registry's next page brings no new tag, newer ones may be missing: set tagSeek",
            Self::TopX => "newer tags fill topX",
            Self::NoValue => "none of its samples is a finite number within the window",
            Self::NoSignal(signal) => return write!(f, "it has no value for the signal {signal:?}"),
            Self::NotFinite => "its score is not a finite number",
            Self::Negative => "its score, or a number of jobs, is below 0",
            Self::TooMany => "too many images with higher values",
            Self::MaxImages => "better images fill maxImages",
        })
    }
}

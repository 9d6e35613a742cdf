//! A question to a registry about one image, and its answer.

use jiff::SignedDuration;

use crate::Name;
use crate::objects::manifest::Manifest;
use crate::objects::reference::Reference;

/// A question to the registry of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// The image.
    pub reference: Reference,
    /// Names of pull secrets in the pod namespace, any of which may have credentials.
    pub secrets: Vec<Name>,
    /// The digest of what is known already, in full: if it is still the same, nothing else is asked.
    pub known: Option<Name>,
    /// The platforms of the cluster's nodes: details are wanted of these alone.
    pub platforms: Vec<Name>,
}

/// The outcome of an [`Inquiry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookedUp {
    /// The registry serves this.
    Found(Box<Manifest>),
    /// The registry still serves the known digest.
    Unchanged,
    /// The registry says that there is no such image, and shows the repository, or the lack of one, to this client.
    NotFound {
        /// In a few words.
        message: Name,
    },
    /// The registry could not be asked. Nodes may still reach it, or have credentials that Drop has not.
    Unavailable {
        /// Why, in a few words.
        message: Name,
        /// How long the registry asks to be left alone, if it does.
        retry_after: Option<SignedDuration>,
    },
}

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
    /// The full digest that Drop knows. If it is unchanged, the look-up asks nothing else.
    pub known: Option<Name>,
    /// The platforms of the cluster's nodes. The look-up asks for details of these only.
    pub platforms: Vec<Name>,
}

/// The outcome of an [`Inquiry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookedUp {
    /// The registry serves this.
    Found(Box<Manifest>),
    /// The registry still serves the known digest.
    Unchanged,
    /// The registry says that there is no such image, and lets this client see whether the repository exists.
    NotFound {
        /// In a few words.
        message: Name,
    },
    /// Drop could not ask the registry. Nodes may still reach it, or have credentials that Drop lacks.
    Unavailable {
        /// Why, in a few words.
        message: Name,
        /// How long the registry asks clients to wait, if it does.
        retry_after: Option<SignedDuration>,
    },
}

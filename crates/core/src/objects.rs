//! Reads the fields of each kind of object that planning needs.

pub mod failure;
pub mod image;
pub mod image_set;
pub mod inventory;
pub mod manifest;
pub mod memory;
pub mod newest;
pub mod node;
pub mod placement;
pub mod policy;
pub mod presence;
pub mod pull_pod;
pub mod reference;
mod virtual_node;

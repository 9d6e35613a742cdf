//! Views of a [`World`](crate::World) for people and machines.

pub mod explain;
pub mod status;
pub mod survey;

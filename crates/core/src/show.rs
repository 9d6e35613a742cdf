//! What people and machines see of a [`World`](crate::World).

pub mod explain;
pub mod status;
pub mod survey;

//! The input of a [`World`](crate::World) and the output of a plan, as plain data.

pub mod effect;
pub mod event;
pub mod flights;
pub mod lookup;
pub mod notice;
pub mod plan;

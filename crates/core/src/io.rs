//! What goes into a [`World`](crate::World), and what comes out of a plan: plain data.

pub mod effect;
pub mod event;
pub mod flights;
pub mod lookup;
pub mod notice;
pub mod plan;

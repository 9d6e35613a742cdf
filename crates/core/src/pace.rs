//! The arithmetic of time and order: how long to wait, and who comes first.

pub mod backoff;
pub mod clock;
pub mod order;
pub mod starts;

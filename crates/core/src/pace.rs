//! The arithmetic of time and order: how long to wait, and which pull comes first.

pub mod backoff;
pub mod clock;
pub mod order;
pub mod starts;

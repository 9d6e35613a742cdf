//! Computes waits, and the order of pulls.

pub mod backoff;
pub mod clock;
pub mod order;
pub mod starts;

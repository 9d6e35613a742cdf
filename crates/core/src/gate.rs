//! Whether a pull may begin, and if not, why.

pub mod budget;
pub mod verdict;

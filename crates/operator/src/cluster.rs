//! How the API server is reached, and what is read of its objects.

pub mod client;
pub mod container_name;
pub mod lean;
pub mod patience;

//! Connects to the API server, and reads its objects.

pub mod client;
pub mod container_name;
pub mod lean;
pub mod patience;

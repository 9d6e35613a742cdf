//! Discovery's network side: asks Prometheus, Loki and registries. What their answers
//! mean is for `drop_core::discovery` to say.

mod client;
mod credentials;
mod prometheus;
mod transport;

#[cfg(test)]
mod fake;

pub use credentials::Credentials;

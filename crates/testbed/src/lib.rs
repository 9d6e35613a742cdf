//! A real Kubernetes on this machine for tests and demos: etcd, API server,
//! controller manager, scheduler, any number of nodes (a kubelet and a
//! containerd each) and two registries, without Docker and without a network.
//!
//! ```no_run
//! use drop_testbed::{Cluster, ClusterOptions, ImageSpec, NodeOptions};
//!
//! let progress = |line: &str| eprintln!("{line}");
//! let cluster = Cluster::start(ClusterOptions::new("example"), &progress)?;
//! cluster.add_nodes(vec![NodeOptions::new("node-a"), NodeOptions::new("node-b")])?;
//! cluster.registry().push("library/app", "1", &ImageSpec::runnable())?;
//! println!("{}", cluster.kubectl(&["get", "nodes"])?);
//! # anyhow::Ok(())
//! ```
//!
//! It needs Linux, root and Go; see the crate's README.md.

mod answer;
mod api_proxy;
mod api_service;
mod audit;
mod authority;
mod cargo;
mod cleanup;
mod cluster;
mod control_plane;
mod definitions;
mod dns;
mod fake;
mod forward_proxy;
mod gate;
mod head;
mod home;
mod http;
mod image;
mod kubeconfig;
mod kubectl;
mod kwok;
mod listener;
mod loki;
mod node;
mod paths;
mod prerequisites;
mod process;
mod procfs;
mod prometheus;
mod proxy;
mod registry;
mod service;
mod state;
mod tls_front;
mod tokens;
mod tools;
mod wait;

pub use answer::{Answer, Delivery};
pub use api_proxy::{ApiFault, ApiProxy, ApiRequest, Odds};
pub use audit::AuditEvent;
pub use authority::{Authority, Certificate};
pub use cargo::cargo;
pub use cluster::{Cluster, ClusterOptions};
pub use definitions::{definitions, download_definitions};
pub use fake::{FakeServer, Request};
pub use forward_proxy::ForwardProxy;
pub use home::Home;
pub use image::{ImageSpec, Platforms};
pub use kwok::Kwok;
pub use loki::Loki;
pub use node::{Node, NodeOptions};
pub use prerequisites::ensure_programs;
pub use prometheus::{Prometheus, PrometheusOptions, Series};
pub use proxy::{Fault, Proxy};
pub use registry::{
    FaultyRegistry, MIRRORED_HOSTS, PRIVATE_HOST, Registry, RegistryAuth, RegistryFault, RegistryOptions,
};
pub use tls_front::{Clients, TlsFront};
pub use tools::Tools;
pub use wait::wait_for;

/// Where a long task says what it does, a line at a time.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

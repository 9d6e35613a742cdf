//! The API server's address for Pods.
//!
//! A cluster usually has kube-proxy translate the address of the Service `kubernetes` to that
//! of the API server. Here the machine itself has the Service's address, on a bridge of its own,
//! and the API server listens there: Pods need a route to it, and nothing else.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;

use crate::cleanup;
use crate::dns::Dns;
use crate::state::{Entry, StateFile};

/// The third byte of the network of Services; nodes have those from 1 to 250.
const NETWORK: u8 = 255;

/// The Service `kubernetes`.
#[derive(Debug)]
pub(crate) struct ApiService {
    /// The first address of the network of Services, which is this Service's.
    pub(crate) address: Ipv4Addr,
}

impl ApiService {
    /// Gives the machine the address.
    pub(crate) fn start(dns: &Dns, state: &Arc<StateFile>) -> Result<Self> {
        let service = Self { address: Ipv4Addr::new(10, dns.network(), NETWORK, 1) };
        let bridge = format!("dt{}api", dns.slot());
        state.add(&Entry::Bridge(bridge.clone()))?;
        cleanup::add_bridge(&bridge, service.address)?;
        Ok(service)
    }

    /// The network of Services.
    pub(crate) fn network(&self) -> String {
        let [a, b, c, _] = self.address.octets();
        format!("{a}.{b}.{c}.0/24")
    }
}

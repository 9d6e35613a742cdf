//! The testbed's own requests.

use std::time::Duration;

use anyhow::{Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::http::Response;
use ureq::{Agent, Body};

/// A client that goes straight to its server, whatever the environment says.
pub(crate) fn client() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).proxy(None);
    config.timeout_global(Some(Duration::from_secs(120))).build().new_agent()
}

/// The value of `Authorization` for a user with a password (RFC 7617).
pub(crate) fn basic((user, password): (&str, &str)) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// The reply, or what it says if it is not a success.
pub(crate) fn succeeded(mut reply: Response<Body>) -> Result<Response<Body>> {
    if !reply.status().is_success() {
        let text = reply.body_mut().read_to_string().unwrap_or_default();
        bail!("{}: {}", reply.status(), text.trim());
    }
    Ok(reply)
}

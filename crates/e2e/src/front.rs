//! Passes requests on to a real server, for fakes that stand in front of one.

use std::net::SocketAddr;

use anyhow::Result;
use drop_testbed::{Answer, Request};

/// The headers of requests and answers that registries and their clients read.
const REQUEST: [&str; 2] = ["accept", "authorization"];
const ANSWER: [&str; 4] = ["content-type", "docker-content-digest", "link", "www-authenticate"];

/// Sends a GET or HEAD to `upstream`, and returns the answer. An upstream without an answer gives 502 with the reason.
#[must_use]
pub fn pass_on(upstream: SocketAddr, request: &Request) -> Answer {
    try_to_pass_on(upstream, request)
        .unwrap_or_else(|error| Answer { body: error.to_string().into(), ..Answer::status(502) })
}

fn try_to_pass_on(upstream: SocketAddr, request: &Request) -> Result<Answer> {
    let agent = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().new_agent();
    let url = format!("http://{upstream}{}?{}", request.path, request.query);
    let mut forwarded = match request.method.as_str() {
        "HEAD" => agent.head(&url),
        _ => agent.get(&url),
    };
    for name in REQUEST {
        if let Some(value) = request.header(name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let mut reply = forwarded.call()?;
    let mut answer = Answer { body: reply.body_mut().read_to_vec()?, ..Answer::status(reply.status().as_u16()) };
    for name in ANSWER {
        if let Some(value) = reply.headers().get(name) {
            answer = answer.header(name, value.to_str()?);
        }
    }
    Ok(answer)
}

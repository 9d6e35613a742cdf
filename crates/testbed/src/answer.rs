//! What a [`crate::FakeServer`] answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use hyper::body::{Body, Bytes, Frame, SizeHint};

/// Spaces are sent in chunks of so many bytes.
const CHUNK: usize = 64 * 1024;

/// An answer, or what comes in place of one.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Beside those that HTTP itself needs.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// So many spaces follow the body, which JSON allows; made up while they are sent.
    pub padding: usize,
    /// How much of it is sent.
    pub delivery: Delivery,
}

/// How much of an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// All of it.
    Whole,
    /// Status, headers and body, but never its end.
    Stall,
    /// Not a byte; the connection stays open.
    Never,
    /// Not a byte; the connection is closed.
    HangUp,
}

impl Answer {
    /// A status without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), padding: 0, delivery: Delivery::Whole }
    }

    /// 200 with this body.
    #[must_use]
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::status(200) }
    }

    /// 200 with a JSON body.
    #[must_use]
    pub fn json(body: &serde_json::Value) -> Self {
        Self::ok(body.to_string()).header("Content-Type", "application/json")
    }

    /// 307 to another URL: a client repeats the same request there.
    #[must_use]
    pub fn redirect(url: &str) -> Self {
        Self::status(307).header("Location", url)
    }

    /// No answer at all, for ever.
    #[must_use]
    pub fn never() -> Self {
        Self { delivery: Delivery::Never, ..Self::status(200) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets so many spaces follow the body.
    #[must_use]
    pub fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    pub(crate) fn into_response(self) -> Result<hyper::Response<Content>> {
        let mut response = hyper::Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        let body = Some(Bytes::from(self.body)).filter(|body| !body.is_empty());
        Ok(response.body(Content { body, padding: self.padding, stall: self.delivery == Delivery::Stall })?)
    }
}

/// A body that is made up while it is sent.
pub(crate) struct Content {
    body: Option<Bytes>,
    padding: usize,
    stall: bool,
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(body) = self.body.take() {
            return Poll::Ready(Some(Ok(Frame::data(body))));
        }
        if self.padding > 0 {
            static SPACES: [u8; CHUNK] = [b' '; CHUNK];
            let length = self.padding.min(CHUNK);
            self.padding -= length;
            let chunk = Bytes::from_static(&SPACES).slice(..length);
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        // Nobody will wake the task, other than the end of the connection.
        if self.stall { Poll::Pending } else { Poll::Ready(None) }
    }

    /// The length is told in advance only where it is the body's own.
    fn size_hint(&self) -> SizeHint {
        if self.padding > 0 || self.stall {
            return SizeHint::new();
        }
        SizeHint::with_exact(self.body.iter().map(|body| body.len() as u64).sum())
    }
}

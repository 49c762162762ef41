//! HTTP as values: what came in, what goes out, what was answered.

use bytes::Bytes;

use crate::{Millis, Secret};

/// A request as it was received: nothing was parsed, re-encoded or dropped.
#[derive(Debug, Clone)]
pub struct RawRequest {
    pub method: String,
    /// The public URL with path and query, as the sender saw it (`public_url` + path + query).
    pub url: String,
    pub path: String,
    /// Without the question mark; empty where there is none.
    pub query: String,
    /// Names in lower case, in the order received, repeated ones kept.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Bytes,
    pub received_at: Millis,
}

impl RawRequest {
    /// The first header of that name (given in lower case) as text; nothing where it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).and_then(|(_, value)| std::str::from_utf8(value).ok())
    }
}

/// A planned request whose idempotency key goes under another header, or under none, carries it here for
/// whoever signs it: the same for every attempt. It is no header and never leaves.
pub const KEY: &str = ":key";

/// A request that a connector planned. Credentials and signatures are added after `plan`,
/// so a stored request never holds one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: &'static str,
    /// Appended to the destination's base URL; begins with `/`, or is empty for the base itself.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Request {
    /// A JSON request with its content type.
    pub fn json(method: &'static str, path: impl Into<String>, body: &serde_json::Value) -> Request {
        Request {
            method,
            path: path.into(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.to_string().into(),
        }
    }
}

/// An answer of a destination, capped. It says when it came, so `judge` needs no clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub at: Millis,
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// At most [`crate::limits::ANSWER_BYTES_MAX`].
    pub body: Vec<u8>,
    /// True when the answer was longer and was cut.
    pub cut: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON of a known shape, or the reason for a retry.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, crate::Reason> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let shown = String::from_utf8_lossy(&self.body);
            crate::Reason::new(
                "bad_answer",
                format!("the answer is not what was expected ({error}): {}", crate::clip(&shown, 200)),
            )
        })
    }
}

/// No answer came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// True when the receiver may have acted; false when provably nothing was sent.
    pub sent: bool,
    /// Never worth another try by itself (an address that policy refuses, a URL that cannot be).
    pub refused: bool,
    pub why: crate::Reason,
}

/// A live secret with the name that is shown instead of it.
#[derive(Debug, Clone)]
pub struct Named {
    pub name: String,
    pub secret: Secret,
}

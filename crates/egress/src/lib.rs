//! The only crate with an HTTP client.

use std::sync::Arc;

use mailspan_core::{Answer, Lost, Millis, Request};

/// A private address range that the operator named: `127.0.0.1:19100-19199`, `10.0.0.0/8:443`, `[fd00::]/8:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    pub net: ipnet::IpNet,
    pub port_min: u16,
    pub port_max: u16,
}

/// A destination as the client sees it; one client with its connections is kept for each `key`.
#[derive(Clone)]
pub struct Target {
    /// Changes whenever anything below does: a new key, a new client.
    pub key: String,
    /// `http://` or `https://`, host, port and a path that [`Request::path`] is appended to.
    pub base_url: String,
    pub concurrency: u32,
    pub timeout_ms: u64,
    /// PEM of extra certificate authorities.
    pub ca: Option<Vec<u8>>,
    /// PEM of a client certificate chain and its key.
    pub client_certificate: Option<(Vec<u8>, mailspan_core::Secret)>,
    pub title_case_headers: bool,
}

pub struct Egress {}

/// Reads the wall clock; injected.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

impl Egress {
    pub fn new(allow: Vec<Allowance>, clock: Clock) -> Egress {
        let _ = (allow, clock);
        Egress {}
    }

    /// One exchange: resolve, judge, dial, TLS, send, read; one deadline over all of it.
    pub async fn send(&self, target: &Target, request: Request) -> Result<Answer, Lost> {
        let _ = (target, request);
        Err(Lost { sent: false, refused: true, why: mailspan_core::Reason::new("unbuilt", "") })
    }
}

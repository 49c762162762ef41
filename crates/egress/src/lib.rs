//! The only crate with an HTTP client.
//!
//! One function parses the URL, resolves, judges every address and dials exactly what was judged;
//! every new connection is judged again. Redirects are not followed, proxies of the environment are not
//! used, no compressed answer is asked for, and one deadline spans the whole exchange.

use std::sync::Arc;
use std::time::Duration;

use mailspan_core::{Answer, Lost, Request};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};

mod address;
mod allowance;
mod chain;
mod dial;
mod exchange;
mod policy;
mod pool;
mod resolve;
#[cfg(test)]
mod tests;
mod tls;
mod trouble;

pub use exchange::{Clock, OWN_HEADERS};
pub use policy::{DENIED4, DENIED6, Denied, may_reach};

/// A private address range that the operator named: `127.0.0.1:19100-19199`, `10.0.0.0/8:443`, `[fd00::]/8:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    pub net: ipnet::IpNet,
    pub port_min: u16,
    pub port_max: u16,
}

/// A destination as the client sees it; its connections are kept for each `key`.
#[derive(Clone)]
pub struct Target {
    /// Changes whenever anything below does: a new key, new connections.
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

/// The client. Share one; build another when the allowances change, since a connection that waits was
/// judged by the old ones.
pub struct Egress {
    allow: Vec<Allowance>,
    clock: Clock,
    resolver: resolve::Resolver,
    pool: Arc<pool::Pool>,
    trust: tls::Trust,
}

/// No exchange is worth more, and an instant must not overflow.
const HOUR_MS: u64 = 3_600_000;

impl Egress {
    pub fn new(allow: Vec<Allowance>, clock: Clock) -> Egress {
        Egress::with_lookup(allow, clock, resolve::system())
    }

    pub(crate) fn with_lookup(allow: Vec<Allowance>, clock: Clock, lookup: resolve::Lookup) -> Egress {
        Egress {
            allow,
            clock,
            resolver: resolve::Resolver::new(lookup),
            pool: Arc::default(),
            trust: tls::Trust::new(),
        }
    }

    /// One exchange: resolve, judge, dial, TLS, send, read; one deadline over all of it. Must be called
    /// within a tokio runtime.
    ///
    /// Any status is an answer, a redirect too. The codes of a [`Lost`]: `refused_address`, `bad_url`,
    /// `bad_request`, `bad_certificate` (all `refused`), `dns`, `connect`, `tls`, `timeout` (no head of an
    /// answer in time), `too_slow` (its body was not complete in time), `closed`, `bad_answer`.
    pub async fn send(&self, target: &Target, request: Request) -> Result<Answer, Lost> {
        let to = address::joined(self.base(target)?, &request.path)?;
        let request = exchange::head(&to, &request)?;
        let deadline = Instant::now() + Duration::from_millis(target.timeout_ms.min(HOUR_MS));
        let trace = exchange::Trace::default();
        match timeout_at(deadline, self.exchange(target, &to, &request, deadline, &trace)).await {
            Ok(result) => result,
            Err(_) => Err(trace.late(&to.shown(), target.timeout_ms)),
        }
    }

    /// What is wrong with a target before anything is sent: its URL, its certificates, and an address
    /// that is written out and may not be reached. Names are judged when they are resolved.
    pub fn check(&self, target: &Target) -> Result<(), Lost> {
        let to = address::address(&target.base_url, "")?;
        resolve::literal(&to, &self.allow)?;
        if to.https || target.ca.is_some() || target.client_certificate.is_some() {
            self.trust.config(target)?;
        }
        Ok(())
    }

    /// Read once for each target: the rules of URLs cost more than the rest of a request's head.
    fn base(&self, target: &Target) -> Result<url::Url, Lost> {
        if let Some(base) = self.pool.base(target) {
            return Ok(base);
        }
        let base = address::base(&target.base_url)?;
        self.pool.keep_base(target, base.clone());
        Ok(base)
    }

    fn tls(&self, target: &Target) -> Result<Arc<ClientConfig>, Lost> {
        if let Some(config) = self.pool.tls(&target.key) {
            return Ok(config);
        }
        let config = self.trust.config(target)?;
        self.pool.keep_tls(&target.key, config.clone());
        Ok(config)
    }
}

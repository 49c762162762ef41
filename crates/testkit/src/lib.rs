//! For tests only: programs that are started and killed, receivers that misbehave, small clients.
#![allow(
    clippy::disallowed_methods,
    reason = "tests start threads, read clocks and dial as their user would"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod dns;
mod hub;
mod postgres;
mod proxy;
mod receiver;
mod sandbox;
pub mod shim;

pub use client::{Reply, get, post, request};
pub use dns::Dns;
pub use hub::{Hub, free_port, use_stores};
pub use postgres::PostgresServer;
pub use proxy::Proxy;
pub use receiver::{DELAY_MS, Receiver, Seen};
pub use sandbox::Sandbox;

use std::time::{Duration, Instant};

/// Looks until something is there; panics with `text` after `seconds`.
pub fn until<T>(seconds: u64, text: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{text} (waited {seconds} s)");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The wall clock in milliseconds.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

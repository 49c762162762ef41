//! The rate limit of the API: a fixed window of a minute for each key.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use mailspan_core::Millis;

/// The window (MailingCore, `RATE_LIMIT_TTL_MS`).
pub const WINDOW_MS: i64 = 60_000;
/// Keys that are counted at once; more are counted anew from the next window on.
const KEYS_MAX: usize = 100_000;

/// What is left for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub granted: bool,
    pub limit: u32,
    pub remaining: u32,
    /// When the window ends, in seconds since 1970.
    pub reset: i64,
    /// Until then.
    pub wait_s: i64,
}

/// Windows of all keys; bounded by the keys of one window.
#[derive(Default)]
pub struct Rates(Mutex<(i64, HashMap<i64, u32>)>);

impl Rates {
    /// One request of a key; `limit` 0: as many as it likes.
    pub fn take(&self, key: i64, limit: u32, now: Millis) -> Option<Grant> {
        if limit == 0 {
            return None;
        }
        let window = now.0.div_euclid(WINDOW_MS);
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != window || counted.1.len() >= KEYS_MAX {
            *counted = (window, HashMap::new());
        }
        let used = counted.1.entry(key).or_default();
        let granted = *used < limit;
        *used = used.saturating_add(1);
        let end = (window + 1) * WINDOW_MS;
        Some(Grant {
            granted,
            limit,
            remaining: limit.saturating_sub(*used),
            reset: end / 1_000,
            wait_s: ((end - now.0) + 999) / 1_000,
        })
    }
}

impl Grant {
    /// `X-RateLimit-*` on every answer, `Retry-After` where it was refused.
    pub fn write(&self, headers: &mut HeaderMap) {
        let mut set = |name: &'static str, number: i64| {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(number));
        };
        set("x-ratelimit-limit", i64::from(self.limit));
        set("x-ratelimit-remaining", i64::from(self.remaining));
        set("x-ratelimit-reset", self.reset);
        if !self.granted {
            set("retry-after", self.wait_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_grants_its_limit_and_the_next_begins_anew() {
        let rates = Rates::default();
        let take = |key, at| rates.take(key, 2, Millis(at)).map(|grant| (grant.granted, grant.remaining));
        assert_eq!(take(1, 0), Some((true, 1)));
        assert_eq!(take(1, 59_999), Some((true, 0)));
        assert_eq!(take(1, 59_999), Some((false, 0)));
        assert_eq!(take(2, 59_999), Some((true, 1)));
        assert_eq!(take(1, 60_000), Some((true, 1)));
        let grant = rates.take(1, 2, Millis(60_500)).unwrap();
        assert_eq!((grant.reset, grant.wait_s), (120, 60));
        assert_eq!(rates.take(1, 0, Millis(60_500)), None);
    }
}

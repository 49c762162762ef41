//! Where a request passes before and after it acts: the faults of the answering side, drawn.

use std::collections::VecDeque;

use mailspan_core::{Millis, SplitMix64};

use crate::Faults;

const DAY_MS: i64 = 86_400_000;

/// Faults with what they need to remember.
pub(crate) struct Gate {
    pub faults: Faults,
    pub random: SplitMix64,
    unauthorized_spent: bool,
    /// When the requests of the current window came; at most as many as the rate allows.
    window: VecDeque<Millis>,
    day: i64,
    today: u64,
}

/// Why a request does not get to act.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Hang,
    Status(u16),
    Unauthorized,
    TooMany { policy: &'static str, wait_ms: u64 },
}

/// How an answer goes out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    Cut,
    Late(u64),
    Endless,
    Drip,
}

impl Gate {
    pub fn new(faults: Faults, seed: u64) -> Gate {
        Gate {
            faults,
            random: SplitMix64(seed),
            unauthorized_spent: false,
            window: VecDeque::new(),
            day: 0,
            today: 0,
        }
    }

    /// Other faults from now on; the random sequence goes on, `unauthorized_once` counts anew.
    pub fn set(&mut self, faults: Faults) {
        self.faults = faults;
        self.unauthorized_spent = false;
        self.window.clear();
    }

    /// What stops a request before anything else is looked at.
    pub fn before(&mut self) -> Option<Stop> {
        if self.random.chance(self.faults.hang) {
            return Some(Stop::Hang);
        }
        if self.faults.down {
            return Some(Stop::Status(503));
        }
        if let Some(status) = self.faults.status {
            return Some(Stop::Status(status));
        }
        if self.random.chance(self.faults.server_error) {
            return Some(Stop::Status([500, 502, 503, 504][self.random.below(4) as usize]));
        }
        if self.faults.unauthorized {
            return Some(Stop::Unauthorized);
        }
        if self.faults.unauthorized_once && !self.unauthorized_spent {
            self.unauthorized_spent = true;
            return Some(Stop::Unauthorized);
        }
        None
    }

    /// Counts the request against the limits; one that is refused does not count.
    pub fn limits(&mut self, now: Millis) -> Option<Stop> {
        let day = now.0.div_euclid(DAY_MS);
        if day != self.day {
            (self.day, self.today) = (day, 0);
        }
        if self.faults.daily_limit.is_some_and(|limit| self.today >= limit) {
            let wait_ms = Millis((day + 1) * DAY_MS).since(now);
            return Some(Stop::TooMany { policy: "DAILY", wait_ms });
        }
        if let Some(rate) = self.faults.rate_limit {
            while self.window.front().is_some_and(|first| now.since(*first) >= rate.per_ms) {
                self.window.pop_front();
            }
            if self.window.len() >= rate.count as usize {
                let wait_ms = self.window.front().map_or(0, |first| rate.per_ms - now.since(*first));
                return Some(Stop::TooMany { policy: policy(rate.per_ms), wait_ms });
            }
            self.window.push_back(now);
        }
        self.today += 1;
        None
    }

    /// Requests that may still come in this window, where there is a limit.
    pub fn remaining(&self) -> Option<u64> {
        self.faults.rate_limit.map(|rate| u64::from(rate.count).saturating_sub(self.window.len() as u64))
    }

    /// Requests that may still come today, where there is a limit.
    pub fn remaining_today(&self) -> Option<u64> {
        self.faults.daily_limit.map(|limit| limit.saturating_sub(self.today))
    }

    pub fn way(&mut self) -> Way {
        if self.random.chance(self.faults.reset_after_commit) {
            return Way::Cut;
        }
        if self.random.chance(self.faults.endless) {
            return Way::Endless;
        }
        if let Some((percent, span)) = self.faults.slow
            && self.random.chance(percent)
        {
            return Way::Late(span.ms);
        }
        if self.faults.drip { Way::Drip } else { Way::Plain }
    }
}

/// The vendor's names for a ten-second and a one-second window.
fn policy(per_ms: u64) -> &'static str {
    if per_ms <= 1_000 { "SECONDLY" } else { "TEN_SECONDLY_ROLLING" }
}

/// Puts the items into an order that the seed decides (Fisher and Yates).
pub(crate) fn shuffle<T>(items: &mut [T], random: &mut SplitMix64) {
    for at in (1..items.len()).rev() {
        items.swap(at, random.below(at as u64 + 1) as usize);
    }
}

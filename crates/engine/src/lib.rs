//! The delivery engine: a pure state machine, `step(now, happened) → commands`.

mod calendar;
mod command;
mod happened;

pub use calendar::{Calendar, next_try};
pub use command::Command;
pub use happened::{CallId, Fence, Happened, Limits, SettleFailed};

use mailspan_core::Millis;

/// All destinations of this node. `seed` feeds jitter only.
pub struct Engine {}

impl Engine {
    pub fn new(seed: u64) -> Engine {
        let _ = seed;
        Engine {}
    }

    /// Takes in what happened and appends what is to be done.
    pub fn step(&mut self, now: Millis, happened: Happened, out: &mut Vec<Command>) {
        let _ = (now, happened, out);
    }
}

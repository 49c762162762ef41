//! What one run may use: steps, copies, memory and time.

use std::ops::ControlFlow;

use mailspan_core::limits::{
    CONDITION_MS_MAX, PARSE_HELD_BYTES_MAX, RUN_COPIED_BYTES_MAX, RUN_HELD_BYTES_MAX, RUN_MS_MAX,
    RUN_STEPS_MAX,
};

use crate::Purpose;

/// What a run is measured by, injected as this crate reads neither a clock nor the allocator. Without it steps alone
/// are counted.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    /// Milliseconds that the calling thread has computed, from any start. Time of the processor, so that a busy
    /// machine ends no program that an idle one would let through.
    pub computed_ms: fn() -> u64,
    pub memory: fn() -> Memory,
}

/// What the calling thread took from the allocator since it began, and what it gave back, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub taken: u64,
    pub given_back: u64,
}

/// Steps, and bytes taken, between two looks at the clock: reading it costs as much as some ten steps.
const LOOK_STEPS: u64 = 64;
const LOOK_BYTES: u64 = 1 << 20;

/// What of a run is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spent {
    Steps,
    Copies,
    Memory { held_max: u64 },
    Time { ms_max: u64 },
}

/// Of one run, from its first step on.
pub(crate) struct Budget {
    meter: Option<Meter>,
    held_max: u64,
    ms_max: u64,
    steps: u64,
    began: Memory,
    began_ms: u64,
    looked_at: (u64, u64),
    /// What ended the run, where this did.
    pub spent: Option<Spent>,
}

impl Budget {
    pub fn new(meter: Option<Meter>, purpose: Purpose) -> Budget {
        let (held_max, ms_max) = match purpose {
            Purpose::Condition => (RUN_HELD_BYTES_MAX, CONDITION_MS_MAX),
            Purpose::Map => (RUN_HELD_BYTES_MAX, RUN_MS_MAX),
            Purpose::Parse => (PARSE_HELD_BYTES_MAX, RUN_MS_MAX),
        };
        let began = meter.map_or(Memory::default(), |meter| (meter.memory)());
        let began_ms = meter.map_or(0, |meter| (meter.computed_ms)());
        Budget { meter, held_max, ms_max, steps: 0, began, began_ms, looked_at: (0, 0), spent: None }
    }

    /// Before each expression.
    pub fn step(&mut self) -> ControlFlow<()> {
        self.steps += 1;
        self.spent = self.overdrawn();
        if self.spent.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn overdrawn(&mut self) -> Option<Spent> {
        if self.steps > RUN_STEPS_MAX {
            return Some(Spent::Steps);
        }
        let meter = self.meter?;
        let now = (meter.memory)();
        let copied = now.taken.saturating_sub(self.began.taken);
        let given_back = now.given_back.saturating_sub(self.began.given_back);
        // The input was there before, so giving it back may leave less than nothing.
        if copied.saturating_sub(given_back) > self.held_max {
            return Some(Spent::Memory { held_max: self.held_max });
        }
        if copied > RUN_COPIED_BYTES_MAX {
            return Some(Spent::Copies);
        }
        let (steps, bytes) = self.looked_at;
        if self.steps - steps < LOOK_STEPS && copied.saturating_sub(bytes) < LOOK_BYTES {
            return None;
        }
        self.looked_at = (self.steps, copied);
        let late = (meter.computed_ms)().saturating_sub(self.began_ms) > self.ms_max;
        late.then_some(Spent::Time { ms_max: self.ms_max })
    }
}

impl Spent {
    /// What happened, and what to write instead.
    pub fn text(self) -> String {
        const MIB: u64 = 1 << 20;
        match self {
            Spent::Steps => format!("the program took more than {RUN_STEPS_MAX} steps: loop over less"),
            Spent::Copies => format!(
                "the program copied more than {} MiB: what grows in a loop is copied whole each time; \
                 write `map_values(items) -> |item| {{ … }}`, which makes an array in one go",
                RUN_COPIED_BYTES_MAX / MIB
            ),
            Spent::Memory { held_max } => format!(
                "the program held more than {} MiB at once: do not double a value in a loop (`x = x + x`), \
                 and keep only what is needed of each element",
                held_max / MIB
            ),
            Spent::Time { ms_max } => format!(
                "the program took too long, more than {ms_max} ms of computing: loop over less, and search \
                 shorter texts"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::Program;

    thread_local! {
        static MS: Cell<u64> = const { Cell::new(0) };
        static TAKEN: Cell<u64> = const { Cell::new(0) };
        /// How far each look moves them on.
        static PACE: Cell<(u64, u64, bool)> = const { Cell::new((0, 0, false)) };
    }

    fn ms() -> u64 {
        MS.set(MS.get() + PACE.get().0);
        MS.get()
    }

    fn memory() -> Memory {
        let (_, bytes, gives_back) = PACE.get();
        TAKEN.set(TAKEN.get() + bytes);
        Memory { taken: TAKEN.get(), given_back: if gives_back { TAKEN.get() } else { 0 } }
    }

    fn check(purpose: Purpose, pace: (u64, u64, bool), expected: Option<&str>) {
        PACE.set(pace);
        let text = "n = 0\nfor_each(range!(0, 1000)) -> |_i, _v| { n = n + 1 }\nn == 1000";
        let program = Program::compile(text, purpose).unwrap();
        let run = program.with_meter(Meter { computed_ms: ms, memory }).run(vrl::value::Value::Null);
        match expected {
            None => assert_eq!(run, Ok(true.into()), "{pace:?}"),
            Some(words) => {
                let text = run.expect_err(words).text;
                assert!(text.contains(words), "{pace:?}: {text}");
            }
        }
    }

    #[test]
    fn a_run_ends_at_what_it_may_use() {
        check(Purpose::Map, (0, 0, false), None);
        check(Purpose::Map, (0, 1_000, true), None);
        check(Purpose::Map, (0, 1 << 20, false), Some("held more than 64 MiB"));
        check(Purpose::Parse, (0, 1 << 20, false), Some("held more than 128 MiB"));
        check(Purpose::Map, (0, 1 << 20, true), Some("map_values"));
        check(Purpose::Map, (10, 0, true), None);
        check(Purpose::Map, (1_000, 0, true), Some("took too long, more than 2000 ms"));
        // The clock is read with each MiB too: a few large steps cannot pass unseen.
        check(Purpose::Map, (100, 1 << 20, true), Some("took too long"));
        // Every event waits behind a condition.
        check(Purpose::Condition, (10, 0, true), Some("took too long, more than 250 ms"));
    }
}

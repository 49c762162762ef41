//! How far long work is: one line on stderr, drawn over itself. Nothing with `--json`, nothing where stderr is no
//! terminal, and nothing within the first second.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Instant;

use crate::runtime;

/// What is done within a second needs no progress.
const QUIET_MS: u64 = 1_000;
/// A line is read, not watched.
const REDRAW_MS: u64 = 200;

/// One piece of work; its line is wiped when this is dropped.
pub struct Progress {
    shown: bool,
    began: Instant,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    drawn_at_ms: Option<u64>,
}

impl Progress {
    /// `json`: the user asked for `--json`.
    pub fn new(json: bool) -> Progress {
        let shown = !json && std::io::stderr().is_terminal();
        Progress { shown, began: runtime::instant(), line: Mutex::default() }
    }

    /// So many are done: `12000 events, 4000/s`.
    pub fn count(&self, done: u64, what: &str) {
        let elapsed_ms = self.elapsed_ms();
        self.draw(elapsed_ms, || format!("{done} {what}, {}/s", rate(done, elapsed_ms)));
    }

    /// Words of its own.
    pub fn say(&self, text: &str) {
        self.draw(self.elapsed_ms(), || text.to_owned());
    }

    /// Shows for how long something goes on that tells nothing of itself: `adding up, 3 s`.
    pub async fn during<F: Future>(&self, what: &str, work: F) -> F::Output {
        let watch = async {
            loop {
                runtime::sleep(REDRAW_MS).await;
                self.say(&format!("{what}, {} s", self.elapsed_ms() / 1_000));
            }
        };
        tokio::select! {
            output = work => output,
            never = watch => never,
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn draw(&self, elapsed_ms: u64, text: impl FnOnce() -> String) {
        // A poisoned line is only a line.
        let Ok(mut line) = self.line.lock() else { return };
        if self.shown && line.is_due(elapsed_ms) {
            eprint!("\r\x1b[K{}", text());
            let _ = std::io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.line.lock().is_ok_and(|line| line.drawn_at_ms.is_some()) {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }
}

impl Line {
    fn is_due(&mut self, elapsed_ms: u64) -> bool {
        let due = match self.drawn_at_ms {
            None => elapsed_ms >= QUIET_MS,
            Some(at) => elapsed_ms >= at.saturating_add(REDRAW_MS),
        };
        if due {
            self.drawn_at_ms = Some(elapsed_ms);
        }
        due
    }
}

fn rate(done: u64, elapsed_ms: u64) -> u64 {
    done.saturating_mul(1_000) / elapsed_ms.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_after_a_second_and_five_times_in_one() {
        let mut line = Line::default();
        let drawn: Vec<u64> = (0..30).map(|n| n * 100).filter(|at| line.is_due(*at)).collect();
        assert_eq!(drawn, [1_000, 1_200, 1_400, 1_600, 1_800, 2_000, 2_200, 2_400, 2_600, 2_800]);
    }

    #[test]
    fn a_rate_is_over_the_whole_time() {
        assert_eq!((rate(9_000, 3_000), rate(5, 0), rate(u64::MAX, 1)), (3_000, 5_000, u64::MAX));
    }
}

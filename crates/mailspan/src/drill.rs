//! Drills: kills, poison, short deadlines and a clock that steps, for the tests. Builds without debug
//! assertions have none of it.
//!
//! | Variable | Effect |
//! |---|---|
//! | `MAILSPAN_CRASH_POINT=name:n` | the process is killed when it passes this point for the n-th time |
//! | `MAILSPAN_POISON_SUBJECT=address` | mapping an event about this address aborts the process |
//! | `MAILSPAN_POISON_ANSWER=text` | judging an answer whose body holds this text aborts the process |
//! | `MAILSPAN_CLOCK_FILE=path` | the wall clock is off by the milliseconds that stand in this file |
//! | `MAILSPAN_HEAD_MS`, `MAILSPAN_BODY_MS` | deadlines of a request's head and body |

use std::future::Future;

use mailspan_core::{Answer, Subject};

/// Every point that [`point`] or [`begun`] passes, in the order in which an event passes them.
pub const POINTS: [&str; 14] = [
    "start-after-migrations",
    "accept-before-commit",
    "accept-in-commit",
    "accept-after-commit",
    "route-before-commit",
    "route-in-commit",
    "route-after-commit",
    "claim",
    "send-before",
    "send-after",
    "settle-in-commit",
    "settle-after-commit",
    "retention",
    "retention-in-commit",
];

/// Points that commands pass; a hub that serves never does.
pub const COMMAND_POINTS: [&str; 1] = ["move-page"];

/// Points that a hub passes only where a destination is paused, fails or is well again.
pub const STAND_POINTS: [&str; 2] = ["stand-before-commit", "stand-after-commit"];

/// The same as [`point`] where a standing is kept.
pub fn stand_point(name: &'static str) {
    debug_assert!(STAND_POINTS.contains(&name), "{name} is not listed in STAND_POINTS");
    pass(name);
}

/// The same as [`point`] for a command.
pub fn command_point(name: &'static str) {
    debug_assert!(COMMAND_POINTS.contains(&name), "{name} is not listed in COMMAND_POINTS");
    pass(name);
}

/// The process ends here by SIGKILL where the environment says so.
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is not listed in POINTS");
    pass(name);
}

fn pass(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::pass(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// A point that is passed when `future` was begun and did not end at once: its write is queued, and the
/// writer is somewhere between the first row and the sync.
pub async fn begun<T>(name: &'static str, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut passed = false;
    std::future::poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() && !std::mem::replace(&mut passed, true) {
            point(name);
        }
        polled
    })
    .await
}

/// Ends the process as a map can that runs out of stack or memory: no unwinding, nothing to catch.
pub fn poison(subject: &Subject) {
    #[cfg(debug_assertions)]
    if let (Some(address), Some(poison)) = (&subject.address, armed::text("MAILSPAN_POISON_SUBJECT"))
        && address.as_str() == poison
    {
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = subject;
}

/// The same where an answer is judged.
pub fn poison_answer(answer: &Answer) {
    #[cfg(debug_assertions)]
    if let Some(poison) = armed::text("MAILSPAN_POISON_ANSWER")
        && String::from_utf8_lossy(&answer.body).contains(poison)
    {
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = answer;
}

/// How far the wall clock is off, in milliseconds.
pub fn clock_offset_ms() -> i64 {
    #[cfg(debug_assertions)]
    if let Some(path) = armed::text("MAILSPAN_CLOCK_FILE") {
        return std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    }
    0
}

/// A number that replaces `usual`.
pub fn number(name: &'static str, usual: u64) -> u64 {
    #[cfg(debug_assertions)]
    if let Some(number) = armed::text(name).and_then(|text| text.parse().ok()) {
        return number;
    }
    let _ = name;
    usual
}

#[cfg(debug_assertions)]
mod armed {
    use std::collections::HashMap;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::runtime;

    const NAMES: [&str; 6] = [
        "MAILSPAN_CRASH_POINT",
        "MAILSPAN_POISON_SUBJECT",
        "MAILSPAN_POISON_ANSWER",
        "MAILSPAN_CLOCK_FILE",
        "MAILSPAN_HEAD_MS",
        "MAILSPAN_BODY_MS",
    ];

    /// A variable as it was when the process first asked for one; an empty one is none.
    pub fn text(name: &'static str) -> Option<&'static str> {
        static ALL: OnceLock<HashMap<&'static str, String>> = OnceLock::new();
        let read = |name| Some((name, runtime::env(name).filter(|text| !text.is_empty())?));
        ALL.get_or_init(|| NAMES.into_iter().filter_map(read).collect()).get(name).map(String::as_str)
    }

    pub fn pass(name: &str) {
        static PASSED: AtomicU64 = AtomicU64::new(0);
        let Some((wanted, nth)) = text("MAILSPAN_CRASH_POINT").and_then(|text| text.split_once(':')) else {
            return;
        };
        if wanted == name && (PASSED.fetch_add(1, Ordering::SeqCst) + 1).to_string() == nth {
            // Should the kernel refuse, the abort ends us all the same.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::process::abort();
        }
    }
}

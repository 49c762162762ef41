//! What a connector says after an exchange: a verdict about each item, a signal about the destination.

use serde::{Deserialize, Serialize};

use crate::Millis;

/// The code of a notice that is given elsewhere.
pub const HANDED_ON: &str = "handed_on";

/// About one item (an operation of a delivery).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Done,
    /// Nothing to do there, for a reason that is not an error: unknown contact, superseded.
    Skipped {
        reason: Reason,
    },
    /// Needs a human: the delivery becomes a dead letter.
    Reject {
        reason: Reason,
    },
    /// An exchange of several requests, or a vendor's job to be asked about later.
    Next {
        step: Step,
        after_ms: u64,
    },
    /// Try again by the calendar, or after the time that the vendor named.
    Retry {
        after_ms: Option<u64>,
        reason: Reason,
    },
}

impl Verdict {
    /// True when the item needs no more work: done, skipped or rejected.
    pub fn is_final(&self) -> bool {
        matches!(self, Verdict::Done | Verdict::Skipped { .. } | Verdict::Reject { .. })
    }

    pub fn reject(code: &str, text: impl Into<String>) -> Verdict {
        Verdict::Reject { reason: Reason::new(code, text) }
    }

    pub fn skipped(code: &str, text: impl Into<String>) -> Verdict {
        Verdict::Skipped { reason: Reason::new(code, text) }
    }

    /// A notice that the destination cannot give; only for an item whose route tells it elsewhere. A replay
    /// leaves it as it is: it was told.
    pub fn handed_on(why: &str) -> Verdict {
        Verdict::skipped(HANDED_ON, format!("{why}; the route's `notify` URL is told instead"))
    }

    pub fn is_handed_on(&self) -> bool {
        matches!(self, Verdict::Skipped { reason } if reason.code == HANDED_ON)
    }

    pub fn retry(code: &str, text: impl Into<String>) -> Verdict {
        Verdict::Retry { after_ms: None, reason: Reason::new(code, text) }
    }
}

/// About the destination as a whole; at most one an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Nothing may be sent before then. Not a failure for a breaker.
    Throttled { until: Millis },
    /// The credential was refused, which this vendor does by mistake at times: one more try; refused
    /// again before any success, it is a `Stop`.
    Reauth { reason: Reason },
    /// Pause: the queue is kept, the reason is shown (it names the credential).
    Stop { reason: Reason },
    /// The batch was refused whole because of one item: send its halves.
    Split,
}

/// The connector's own words for how far an operation got; at most 256 bytes, kept with the
/// operation, so it survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Step(pub String);

/// Why: a stable code for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub code: String,
    pub text: String,
}

impl Reason {
    /// The text is cut at 1,000 characters.
    pub fn new(code: &str, text: impl Into<String>) -> Reason {
        // What a destination answered is shown on terminals: nothing in it may drive one.
        let text: String = text.into();
        let text: String = text.chars().map(|c| if crate::is_unshown(c) { ' ' } else { c }).collect();
        Reason {
            code: code.to_owned(),
            text: crate::clip(&text, crate::limits::REASON_CHARS_MAX).into_owned(),
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}

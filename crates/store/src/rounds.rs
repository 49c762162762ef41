//! Work that comes again about a source or a destination: where it stands, and when it is due.

use std::collections::BTreeMap;

use mailspan_core::{Event, Millis, Name, Reason};
use mailspan_engine::Fence;

const DAY_MS: i64 = 86_400_000;

/// Where a round stands after a page, or after an answer that was none. Refused whole under an old fence (lease
/// `round/ABOUT`).
#[derive(Debug, Clone)]
pub struct RoundMark {
    pub tenant: Name,
    /// The number of the source's or destination's name.
    pub about: i64,
    pub fence: Fence,
    /// Where the next page begins, as the program writes it.
    pub cursor: String,
    /// When it is to go on.
    pub due: Millis,
    /// Answers in a row that were none.
    pub failures: u32,
    /// Why it waits longer than usual.
    pub reason: Option<String>,
    /// Only an operator can help: nothing is done until [`crate::Write::RoundNow`].
    pub paused: Option<Reason>,
    /// What comes with it is what a source lists: counted by day.
    pub lists: bool,
    pub at: Millis,
    /// A whole round has ended with it.
    pub ended: bool,
    /// What the hub says where it pauses and was not paused; only with [`crate::Write::Round`].
    pub say: Option<Box<Event>>,
}

/// The lease of a round.
pub fn round_lease(about: i64) -> String {
    format!("round/{about}")
}

#[derive(Debug, Clone)]
pub struct RoundRow {
    pub about: i64,
    pub cursor: String,
    pub due: Millis,
    pub failures: u32,
    pub reason: Option<String>,
    pub paused: Option<Reason>,
    /// The last page or answer.
    pub asked_at: Option<Millis>,
    /// The end of the last whole round.
    pub ended_at: Option<Millis>,
    /// The first: what happened before is in no figure.
    pub made_at: Millis,
}

/// What a source listed of one day (UTC) and type, and how much of it was known here already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDay {
    /// Days since 1970.
    pub day: i64,
    pub event_type: String,
    pub listed: u64,
    pub known: u64,
}

/// What one page lists, by day and type: how many, and how many of them were known.
pub(crate) type Tally = BTreeMap<(i64, String), (i64, i64)>;

/// One row of a page; `known`: it made no event.
pub(crate) fn count(tally: &mut Tally, event: &Event, known: bool) {
    let sums = tally.entry(key(event)).or_default();
    sums.0 += 1;
    sums.1 += i64::from(known);
}

/// Where an event is counted.
pub(crate) fn key(event: &Event) -> (i64, String) {
    (day_of(event.time), event.event_type.as_str().to_owned())
}

pub(crate) fn day_of(time: Millis) -> i64 {
    time.0.div_euclid(DAY_MS)
}

//! Long work as rows: what is written of a job, and what is read.

use mailspan_core::{DeliveryId, DestinationId, Millis, Name, Offer, RouteId, State};
use mailspan_engine::Fence;

/// Where a job is. The numbers are stored; from `Done` on it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum JobState {
    Running = 0,
    Paused = 1,
    Done = 2,
    Failed = 3,
    Cancelled = 4,
}

impl JobState {
    pub const ALL: [JobState; 5] =
        [JobState::Running, JobState::Paused, JobState::Done, JobState::Failed, JobState::Cancelled];

    pub fn name(self) -> &'static str {
        ["running", "paused", "done", "failed", "cancelled"][self as usize]
    }

    pub fn from_number(number: i64) -> Option<JobState> {
        JobState::ALL.get(usize::try_from(number).ok()?).copied()
    }

    pub fn has_ended(self) -> bool {
        self as u8 >= JobState::Done as u8
    }
}

#[derive(Debug, Clone)]
pub struct NewJob {
    pub tenant: Name,
    /// `replay`, `discard`; the program knows what it means.
    pub kind: String,
    /// JSON.
    pub argument: String,
    pub at: Millis,
}

/// One page. Refused whole under an old fence (lease `job/ID`), and where the job does not run any more.
#[derive(Debug)]
pub struct Page {
    pub job: i64,
    pub fence: Fence,
    pub at: Millis,
    /// Where the next page begins, as the program writes it (JSON).
    pub cursor: String,
    /// How many there are in all, once that is known.
    pub total: Option<u64>,
    /// The last page: how it ended, with a remark.
    pub end: Option<(JobState, String)>,
    pub work: PageWork,
    /// What the hub says of it, where this page is the last.
    pub say: Option<crate::Say<JobRow>>,
}

#[derive(Debug)]
pub enum PageWork {
    /// A dry run: so many would be done.
    Count { matched: u64 },
    /// Opened again where they still are in the state they were found in; nothing is made.
    Offer { items: Vec<PageItem>, again: bool },
    /// Given up where they still are dead letters, or pending for `unserved`, a destination that no process serves.
    Discard { deliveries: Vec<DeliveryId>, unserved: Option<DestinationId>, note: String },
}

impl PageWork {
    pub(crate) fn items(&self) -> usize {
        match self {
            PageWork::Count { .. } => 0,
            PageWork::Offer { items, .. } => items.len(),
            PageWork::Discard { deliveries, .. } => deliveries.len(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct PageItem {
    pub offer: Offer,
    pub state: State,
}

#[derive(Debug, Clone)]
pub struct JobRow {
    pub id: i64,
    pub tenant: Name,
    pub kind: String,
    pub argument: String,
    /// Nothing before the first page.
    pub cursor: Option<String>,
    /// Items done so far; of a dry run: that would be done.
    pub done: u64,
    pub total: Option<u64>,
    pub state: JobState,
    pub note: Option<String>,
}

/// Which jobs to list; `before`: those with a smaller id.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub tenant: Option<Name>,
    pub before: Option<i64>,
    pub limit: usize,
}

/// A page of a walk over the deliveries of one destination, by id.
#[derive(Debug, Clone)]
pub struct Walk {
    pub tenant: Name,
    pub destination: DestinationId,
    /// Dead letters alone are read by an index of their own.
    pub states: Vec<State>,
    pub route: Option<RouteId>,
    /// A type, or a family: `email.*`.
    pub event_type: Option<String>,
    /// An address or external id.
    pub subject: Option<String>,
    /// The code of a reason.
    pub reason: Option<String>,
    /// When the event was received: from `since` on, before `until`.
    pub since: Option<Millis>,
    pub until: Option<Millis>,
    /// From behind this one up to and with `to`.
    pub after: DeliveryId,
    pub to: DeliveryId,
    /// Rows that match, at most.
    pub limit: usize,
}

impl Walk {
    pub(crate) fn fits_delivery(
        &self,
        destination: i64,
        route: i64,
        state: State,
        reason: Option<&str>,
    ) -> bool {
        destination == self.destination.0
            && self.states.contains(&state)
            && self.route.is_none_or(|wanted| wanted.0 == route)
            && self.reason.as_ref().is_none_or(|code| reason == Some(code.as_str()))
    }

    pub(crate) fn fits_event(&self, event_type: &str, received_at: i64) -> bool {
        let is_of_type = self.event_type.as_ref().is_none_or(|wanted| match wanted.strip_suffix('*') {
            Some(family) => event_type.starts_with(family),
            None => event_type == wanted,
        });
        is_of_type
            && self.since.is_none_or(|since| received_at >= since.0)
            && self.until.is_none_or(|until| received_at < until.0)
    }
}

#[derive(Debug, Clone)]
pub struct Walked {
    /// Those that match, in order of their ids.
    pub rows: Vec<WalkedRow>,
    /// Where the next page goes on; `to` when nothing is left.
    pub after: DeliveryId,
}

#[derive(Debug, Clone)]
pub struct WalkedRow {
    pub delivery: DeliveryId,
    /// What a replay of it offers.
    pub offer: Offer,
    pub state: State,
    /// The code of its reason.
    pub reason: Option<String>,
}

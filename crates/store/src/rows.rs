//! What is read.

use std::collections::HashMap;

use mailspan_core::limits::ATTEMPTS_BACK_MAX;
use mailspan_core::{
    Cause, Class, DeliveryId, DestinationId, Event, EventId, LastTimes, Millis, Name, Person, Progress,
    Reason, RouteId, Seq, State,
};

/// A due delivery with what is needed to map it.
#[derive(Debug, Clone)]
pub struct Claim {
    pub delivery: DeliveryId,
    pub event: Event,
    pub route: RouteId,
    pub destination: DestinationId,
    pub class: Class,
    pub cause: Cause,
    pub attempts: u32,
    pub crashes: u32,
    /// When the delivery was made (or replayed).
    pub since: Millis,
    pub person: Option<Person>,
    pub progress: Vec<Progress>,
    /// The transmission was seen with more than one recipient: metadata decides nothing.
    pub several_recipients: bool,
    /// Of the person.
    pub times: LastTimes,
    /// It came from the newest end of its queue (see [`mailspan_core::Room`]).
    pub newest: bool,
    /// The person's contact as it is now, where whoever claims has asked for it ([`crate::Store::contacts_of`]).
    pub contact: Option<Box<mailspan_core::contact::Contact>>,
    /// The person was erased and has not signed up anew, where whoever claims has asked for it
    /// ([`crate::Store::gone_of`]).
    pub gone: bool,
}

/// What a claim brings.
#[derive(Debug, Default)]
pub struct Claimed {
    pub claims: Vec<Claim>,
    /// Rows of each queue that took room at its oldest end, those that the caller holds and those that cannot be read included.
    pub came: [u16; mailspan_core::Queue::ALL.len()],
    /// The earliest due time that was not taken.
    pub next_due: Option<Millis>,
}

#[derive(Debug, Clone)]
pub struct DeliveryRow {
    pub id: DeliveryId,
    pub event_id: EventId,
    pub event_type: String,
    pub subject: Option<String>,
    pub tenant: Name,
    pub route: Name,
    pub destination: Name,
    pub class: Class,
    pub cause: Cause,
    pub state: State,
    pub due: Option<Millis>,
    pub attempts: u32,
    pub crashes: u32,
    pub reason: Option<Reason>,
    /// The delivery whose request carried it, where it was coalesced.
    pub carried_by: Option<DeliveryId>,
    pub created_at: Millis,
    pub changed_at: Millis,
}

#[derive(Debug, Clone)]
pub struct AttemptRow {
    pub at: Millis,
    pub took_ms: u32,
    pub items: u32,
    pub status: u16,
    pub request: Option<Vec<u8>>,
    pub answer: Option<String>,
}

/// What `events list` shows and `events show` starts from.
#[derive(Debug, Clone)]
pub struct EventRow {
    pub event: Event,
    /// `waiting`, `routed`, `unmatched` or `test`.
    pub place: &'static str,
    pub deliveries: u32,
    pub several_recipients: bool,
}

/// A raw request as kept.
#[derive(Debug, Clone)]
pub struct RequestRow {
    pub received_at: Millis,
    pub credential: String,
    pub digest: String,
    pub redacted: bool,
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct UnreadableRow {
    /// The cursor of the list; grows with the time of arrival.
    pub id: i64,
    pub tenant: Name,
    pub source: Name,
    pub received_at: Millis,
    pub part: u32,
    pub reason: Reason,
    pub raw: String,
}

#[derive(Debug, Clone)]
pub struct RefusedRow {
    pub id: i64,
    pub tenant: Name,
    pub source: Name,
    pub at: Millis,
    pub check: String,
    pub text: String,
    pub hint: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct StandingRow {
    pub destination: DestinationId,
    pub tenant: Name,
    pub name: Name,
    pub paused: Option<Reason>,
    /// Since when its breaker is open, as far as its owner could write it down.
    pub degraded: Option<Millis>,
    pub pending: u64,
    pub dead: u64,
    /// The oldest pending delivery.
    pub oldest: Option<Millis>,
}

/// Who may work, until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// `router`, `destination/7`, `job/12`, `node/…`.
    pub name: String,
    pub owner: u128,
    pub until: Millis,
}

/// The last exchanges of all destinations, at most [`ATTEMPTS_BACK_MAX`]: destination and time.
#[derive(Debug)]
pub struct LastSent(pub(crate) Vec<(i64, i64)>);

impl LastSent {
    /// When exchanges with a destination were begun since then; nothing where too many have been made to look back
    /// so far.
    pub fn since(&self, destination: DestinationId, since: Millis) -> Option<Vec<Millis>> {
        let is_whole = self.0.len() < ATTEMPTS_BACK_MAX || self.0.iter().any(|(_, at)| *at < since.0);
        let sent = self.0.iter().filter(|(of, at)| *of == destination.0 && *at >= since.0);
        is_whole.then(|| sent.map(|(_, at)| Millis(*at)).collect())
    }
}

/// What a process that shares a store looks at again and again.
#[derive(Debug, Clone, Default)]
pub struct Look {
    pub leases: Vec<LeaseRow>,
    /// Of those that were asked for: why it is paused, and how many deliveries are pending.
    pub standings: HashMap<DestinationId, (Option<Reason>, u64)>,
    /// Events wait for the router.
    pub unrouted: bool,
}

#[derive(Debug, Clone)]
pub struct KeyRow {
    pub id: i64,
    pub tenant: Name,
    pub shown: String,
    pub scopes: Vec<String>,
    pub note: String,
    pub created_at: Millis,
    pub expires_at: Option<Millis>,
    pub revoked_at: Option<Millis>,
    pub last_used_at: Option<Millis>,
}

/// Which deliveries to list; `before` is the cursor: rows with a smaller id, newest first.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    pub tenant: Option<Name>,
    pub subject: Option<String>,
    pub destination: Option<Name>,
    pub state: Option<State>,
    pub event: Option<EventId>,
    /// Of any of these events; empty: of all.
    pub events: Vec<Seq>,
    pub before: Option<i64>,
    pub limit: usize,
}

#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub tenant: Option<Name>,
    pub source: Option<Name>,
    pub event_type: Option<String>,
    pub subject: Option<String>,
    pub before: Option<i64>,
    pub limit: usize,
}

/// Which facts to list: those with a larger id than `after`, oldest first.
#[derive(Debug, Clone, Default)]
pub struct FactFilter {
    pub tenant: Option<Name>,
    pub subject: Option<String>,
    pub after: i64,
    pub limit: usize,
}

/// Sizes for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Pending and dead deliveries of each destination that has had any.
    pub destinations: Vec<DestinationSize>,
    pub unrouted: u64,
    /// Duplicates are known back to here.
    pub dedupe_from: Option<Millis>,
    pub file_bytes: u64,
    pub wal_bytes: u64,
    /// Writes that wait for the writer now.
    pub intake_waiting: u64,
    pub work_waiting: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationSize {
    pub destination: DestinationId,
    pub tenant: Name,
    pub name: Name,
    pub pending: u64,
    pub dead: u64,
}

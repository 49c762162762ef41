//! What is written, and what comes back.

use bytes::Bytes;
use mailspan_core::contact::{ContactOutcome, ContactWrite, Evidence, Stated};
use mailspan_core::{
    Attempt, Class, DestinationId, Digest, Event, EventId, LastTimes, Millis, Name, Offer, Reason, RouteId,
    Settlement,
};
use mailspan_engine::Fence;

/// One write; all of it is committed and synced, or none.
#[derive(Debug)]
pub enum Write {
    Accept(Box<Receipt>),
    /// Deletes `unrouted` of each; refused whole (`Trouble::FenceLost`) when the count differs.
    Route {
        fence: Fence,
        routed: Vec<Routed>,
    },
    Settle {
        destination: DestinationId,
        fence: Fence,
        settlements: Vec<Settlement>,
        attempts: Vec<Attempt>,
        at: Millis,
        /// What the hub says of those that this write makes dead letters.
        say: Vec<(mailspan_core::DeliveryId, Say<crate::DeliveryRow>)>,
    },
    /// Replay and backfill: opens again what exists for (event, route, destination), else makes it.
    /// `again`: operations that are done are done again.
    Offer {
        offers: Vec<Offer>,
        again: bool,
        at: Millis,
    },
    /// A dead letter is given up with a note; what is pending too, where it is for `unserved`, a destination that no
    /// process serves.
    Discard {
        delivery: mailspan_core::DeliveryId,
        unserved: Option<DestinationId>,
        note: String,
        at: Millis,
    },
    /// The standing of a destination. With a fence it is what the engine decided, and refused
    /// (`Trouble::FenceLost`) under an old one; without one it is an operator's word.
    Stand {
        destination: DestinationId,
        fence: Option<Fence>,
        paused: Option<Reason>,
        at: Millis,
        /// What the hub says of it, where it is news.
        say: Option<Box<Event>>,
    },
    /// The breaker of a destination opened or closed; refused (`Trouble::FenceLost`) under an old fence.
    Degrade {
        destination: DestinationId,
        fence: Fence,
        degraded: bool,
        at: Millis,
        /// What the hub says of it, where it is news.
        say: Option<Box<Event>>,
    },
    /// Kept for the operator: a ring of the last 1,000 a source.
    Refused(Box<RefusedRequest>),
    Key(NewKey),
    RevokeKey {
        id: i64,
        at: Millis,
    },
    /// The last use of a key; the caller says so at most once a minute.
    KeyUsed {
        id: i64,
        at: Millis,
    },
    /// Takes or renews a lease; a renewal keeps its fence, a new owner gets the next number.
    Lease {
        name: String,
        owner: u128,
        now: Millis,
        until: Millis,
    },
    /// Extends leases that the owner holds, all of them in one statement, in force or run out; the fences stay.
    /// Answered by [`Wrote::Renewed`].
    Renew {
        names: Vec<String>,
        owner: u128,
        until: Millis,
    },
    /// Gives up a lease: free for others from now on; that of a node (`node/…`) goes. Where another owner has it,
    /// nothing changes.
    Release {
        name: String,
        owner: u128,
    },
    /// A new job; answered by [`Wrote::Key`].
    Job(crate::NewJob),
    /// What an operator decides of a job that has not ended.
    JobStand {
        id: i64,
        state: crate::JobState,
        note: String,
        at: Millis,
        /// What the hub says of it, where that ends it.
        say: Option<Say<crate::JobRow>>,
    },
    /// One page of a job: its work and its cursor, both or none.
    Page(Box<crate::Page>),
    /// Where a round stands, without a page: nothing came of it.
    Round(Box<crate::RoundMark>),
    /// A round is due at once, whatever it waited for.
    RoundNow {
        tenant: Name,
        about: i64,
        at: Millis,
    },
    /// One step of retention: at most [`mailspan_core::limits::RETENTION_ROWS_MAX`] rows.
    Retain(Keep),
    Tenant(crate::TenantWrite),
    Field(crate::FieldWrite),
    Sealed(crate::SealedWrite),
    /// One page of the erasures that are open; answered by [`Wrote::Erasing`].
    Erase,
    /// What was done is known: the erasure ends, and what its person was known by goes.
    Certify(crate::Certified),
    /// The key of identities is kept under this store key from now on.
    IdentityKey(crate::StoreKey),
    /// A webhook endpoint is made, changed or removed; answered by [`Wrote::Key`].
    Endpoint(crate::EndpointWrite),
}

/// What was received, ready to be kept.
#[derive(Debug)]
pub struct Receipt {
    pub tenant: Name,
    pub source: Name,
    /// Name of the secret or key that matched.
    pub credential: String,
    pub received_at: Millis,
    /// SHA-256 of the body as it came, its first 16 bytes.
    pub digest: Digest,
    /// Made by [`crate::pack_request`]; nothing for events of the hub itself.
    pub packed: Option<Vec<u8>>,
    pub arrivals: Vec<Arrived>,
    pub unreadable: Vec<Unread>,
    pub idempotency: Option<Idempotency>,
    /// A page of a poll: where its round stands is kept in the same transaction. Of what it lists only
    /// differences are kept (see [`mailspan_core::contact::ContactWrite::found`]), and all of it is counted by day.
    pub round: Option<Box<crate::RoundMark>>,
    /// What the hub says of events of it, by their ids: of those that are accepted.
    pub say: Vec<(EventId, Box<Event>)>,
}

#[derive(Debug)]
pub struct Arrived {
    pub event: Event,
    /// Position in the request.
    pub part: u32,
    /// Scoped to tenant and source by the store; nothing: never a duplicate.
    pub dedupe: Option<Digest>,
    /// What it says of a contact, applied in the same transaction. Where the source is
    /// [`mailspan_core::contact::CONTACTS`], the store decides the event's type and data from what
    /// changed, and keeps none where nothing did.
    pub contact: Option<Box<ContactWrite>>,
}

/// An element that cannot be read: quarantined.
#[derive(Debug)]
pub struct Unread {
    pub part: u32,
    pub reason: Reason,
    pub raw: String,
}

/// `Idempotency-Key` of a whole request.
#[derive(Debug)]
pub struct Idempotency {
    pub api_key: i64,
    pub key: String,
    pub body: Digest,
    /// Where the answer shows more than [`Accepted`] keeps; else that is the answer.
    pub tell: Option<crate::Tell>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Accepted {
    /// Ids of the accepted events, in the order received.
    pub ids: Vec<EventId>,
    pub duplicates: u64,
    pub quarantined: u64,
    /// Found at a source by asking, and known here already: no event was made.
    #[serde(skip)]
    pub unchanged: u64,
    /// Of the arrivals that say something of a contact, in their order. Not kept with an
    /// `Idempotency-Key`.
    #[serde(skip)]
    pub contacts: Vec<ContactOutcome>,
    /// What [`Idempotency::tell`] made: the same now and when it is asked for again.
    #[serde(skip)]
    pub told: Option<crate::Answered>,
}

/// An event of the hub itself about a delivery that becomes a dead letter, or a job that ends, accepted with the
/// write that makes it so: said once, whatever dies meanwhile.
#[derive(Debug)]
pub struct Say<Row> {
    pub event: Box<Event>,
    /// Its data, as JSON, from the row as written; nothing where it is not to be said.
    pub data: fn(&Row) -> Option<String>,
}

/// One event, routed.
#[derive(Debug)]
pub struct Routed {
    pub event: Event,
    pub to: Vec<Towards>,
    /// Counts to raise for the person.
    pub opens: u32,
    pub clicks: u32,
    /// Times to bring forward for the person.
    pub times: LastTimes,
}

/// A delivery that the router makes; `failed` where a condition could not be evaluated: a dead letter.
#[derive(Debug)]
pub struct Towards {
    pub route: RouteId,
    pub destination: DestinationId,
    pub class: Class,
    pub failed: Option<Reason>,
    /// What the hub says of it, where it failed.
    pub say: Option<Say<crate::DeliveryRow>>,
    /// False where the receiver does not care for order: due at once, whatever waits in its lane.
    pub ordered: bool,
}

#[derive(Debug)]
pub struct RefusedRequest {
    pub tenant: Name,
    pub source: Name,
    pub at: Millis,
    pub check: String,
    pub text: String,
    pub hint: Option<String>,
    /// As received, credentials cut out.
    pub headers: Vec<(String, String)>,
    /// At most [`mailspan_core::limits::REFUSED_BODY_BYTES_MAX`].
    pub body: Bytes,
}

#[derive(Debug)]
pub struct NewKey {
    pub tenant: Name,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// Its first characters, to recognise it by.
    pub shown: String,
    pub scopes: Vec<String>,
    pub note: String,
    pub created_at: Millis,
    pub expires_at: Option<Millis>,
}

/// What is older than this goes.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    pub now: Millis,
    pub requests_ms: i64,
    pub events_ms: i64,
    pub dedupe_ms: i64,
}

#[derive(Debug)]
pub enum Wrote {
    /// `again`: the first answer to the same `Idempotency-Key`; nothing was written.
    Accepted {
        accepted: Accepted,
        again: bool,
    },
    /// Destinations that now have a head that is due.
    Offered {
        destinations: Vec<DestinationId>,
    },
    /// `promoted`: a lane's next delivery became its head. `offered`: other destinations that now have a head
    /// that is due, since something was handed on to them. `known_after_ms`: of each unsubscribe that the last
    /// destination knows now, the time since the hub learned of it.
    Settled {
        promoted: bool,
        offered: Vec<DestinationId>,
        known_after_ms: Vec<u64>,
    },
    Key {
        id: i64,
    },
    /// The fences in the order of the names; `None` where another owner holds it, or nobody ever did.
    Renewed {
        fences: Vec<Option<Fence>>,
    },
    /// `None`: another owner holds it.
    Lease {
        fence: Option<Fence>,
    },
    /// `done`: how many of a page's items were done. Destinations that now have a head that is due.
    Paged {
        done: u64,
        destinations: Vec<DestinationId>,
    },
    /// `moved`: something was done, and more may be left.
    Erasing {
        moved: bool,
    },
    /// Rows dropped or passed over; 0 when a whole round has ended: nothing is left to drop.
    Retained {
        rows: usize,
    },
    Done,
}

/// Why a write (or a read) was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Too much waits: 429.
    #[error("the store has more to write than it can take now")]
    Busy,
    /// The disk, the file, the database: 503.
    #[error("the store cannot be used: {0}")]
    Broken(String),
    #[error("the lease is held by another")]
    FenceLost,
    /// The request cannot be done as asked: 4xx.
    #[error("{}", .0.text)]
    Refused(Reason),
}

/// A fact of the compliance log.
#[derive(Debug, Clone)]
pub struct Fact {
    pub id: i64,
    pub tenant: Name,
    pub subject: Option<String>,
    pub what: Stated,
    pub happened_at: Millis,
    pub learned_at: Millis,
    pub event_id: EventId,
    pub digest: String,
    /// Nothing beside facts that no contact came with.
    pub evidence: Option<Evidence>,
    /// Destination, verdict and time of each answer.
    pub answers: Vec<(Name, String, Millis)>,
}

/// Sums of one part of the audit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Audit {
    pub accepted: u64,
    pub duplicates: u64,
    pub refused: u64,
    pub quarantined: u64,
    pub waiting: u64,
    pub routed: u64,
    pub unmatched: u64,
    pub test: u64,
    pub dropped_events: u64,
    pub deliveries: u64,
    pub pending: u64,
    pub delivered: u64,
    pub skipped: u64,
    pub coalesced: u64,
    pub dead: u64,
    pub discarded: u64,
    pub dropped_deliveries: u64,
    pub adds_up: bool,
    /// What does not add up, in words.
    pub differences: Vec<String>,
}

//! A delivery's state, cause and queue, and what settles it.

use serde::{Deserialize, Serialize};

use crate::{
    Class, DeliveryId, DestinationId, Key, Millis, Operation, Person, Reason, RouteId, Seq, Step, Verdict,
};

/// Where a delivery is. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    Pending = 0,
    Delivered = 1,
    Skipped = 2,
    Coalesced = 3,
    Dead = 4,
    Discarded = 5,
}

impl State {
    pub const ALL: [State; 6] =
        [State::Pending, State::Delivered, State::Skipped, State::Coalesced, State::Dead, State::Discarded];

    pub fn name(self) -> &'static str {
        ["pending", "delivered", "skipped", "coalesced", "dead", "discarded"][self as usize]
    }

    pub fn from_number(number: i64) -> Option<State> {
        State::ALL.get(usize::try_from(number).ok()?).copied()
    }

    pub fn from_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// Why a delivery is there. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    Live = 0,
    Backfill = 1,
    Replay = 2,
}

impl Cause {
    pub fn from_number(number: i64) -> Option<Cause> {
        [Cause::Live, Cause::Backfill, Cause::Replay].get(usize::try_from(number).ok()?).copied()
    }
}

/// The share of a destination's budget that a delivery draws from. The numbers are stored;
/// the smaller is the more urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Queue {
    Consent = 0,
    Profile = 1,
    Activity = 2,
    Retry = 3,
    Backfill = 4,
    Replay = 5,
}

impl Queue {
    pub const ALL: [Queue; 6] =
        [Queue::Consent, Queue::Profile, Queue::Activity, Queue::Retry, Queue::Backfill, Queue::Replay];

    /// Consent is first, first tried or again; what was tried before of the others is a retry. Of a replay even
    /// consent takes the share of replays, in the order of its lane: else «the CRM lost Tuesday» would hold up
    /// today's profiles and activities until all of it is through.
    pub fn of(class: Class, cause: Cause, attempts: u32) -> Queue {
        match (class, cause) {
            (Class::Consent, Cause::Live | Cause::Backfill) => Queue::Consent,
            (_, Cause::Backfill) => Queue::Backfill,
            (_, Cause::Replay) => Queue::Replay,
            _ if attempts > 0 => Queue::Retry,
            (Class::Profile, _) => Queue::Profile,
            (Class::Activity, _) => Queue::Activity,
        }
    }

    pub fn from_number(number: i64) -> Option<Queue> {
        Queue::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// How many due deliveries of each queue (indexed by [`Queue`]) a claim may bring: of those that have been due
/// longest, and beside them of those that became due last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    pub oldest: [u16; Queue::ALL.len()],
    pub newest: [u16; Queue::ALL.len()],
}

/// What the router (or a replay, or a backfill) wants: one event on one route to one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub event: Seq,
    pub route: RouteId,
    pub destination: DestinationId,
    pub class: Class,
    pub cause: Cause,
    /// False where the receiver does not care for order: due at once, whatever waits in its lane.
    pub ordered: bool,
}

/// Where a notice goes that a destination cannot give: the `notify` destination of the same route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere {
    pub destination: DestinationId,
    /// Of the event's type, as when it is routed.
    pub class: Class,
}

/// One operation of a delivery with how far it got.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub key: Key,
    pub operation: Operation,
    pub step: Option<Step>,
    /// The last verdict, or nothing before the first.
    pub verdict: Option<Verdict>,
    /// Tells the map that made it from others: progress under another map counts for nothing.
    pub map: u32,
}

impl Part {
    pub fn is_open(&self) -> bool {
        !self.verdict.as_ref().is_some_and(Verdict::is_final)
    }
}

/// A claimed delivery with its operations, as the engine holds it.
#[derive(Debug, Clone)]
pub struct Parcel {
    pub delivery: DeliveryId,
    pub class: Class,
    pub cause: Cause,
    pub attempts: u32,
    /// Panics caught in map, plan or judge so far.
    pub crashes: u32,
    /// When it was first due: its horizon counts from here.
    pub since: Millis,
    pub person: Option<Person>,
    /// It writes all of its person's contact, or asks for it by several names, as that was when this was claimed: of
    /// two the one that was mapped last has to arrive last.
    pub whole: bool,
    /// What the map made, or why it made nothing (a dead letter).
    pub parts: Result<Vec<Part>, Reason>,
    /// It came from the newest end of its queue: see [`Room`].
    pub newest: bool,
    /// Where its notices go that its destination cannot give; nothing where the route has no such place.
    pub elsewhere: Option<Elsewhere>,
    /// Those that wait behind it in its lane, in the order in which they would go; at most
    /// [`crate::limits::CARRIED_MAX`], and none where nothing is coalesced.
    pub behind: Vec<Behind>,
}

/// A delivery that waits behind the head of its lane, of the same person.
#[derive(Debug, Clone)]
pub struct Behind {
    pub delivery: DeliveryId,
    pub attempts: u32,
    pub crashes: u32,
    /// What the map made; nothing where it failed.
    pub parts: Vec<Part>,
}

/// Progress of one part as it is stored: written only when an attempt leaves something open or dead.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Of the part: see [`Part::map`].
    #[serde(default)]
    pub map: u32,
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Ended {
        state: State,
        reason: Option<Reason>,
    },
    /// Tried again at `due`. `class` may be lower than before: what was urgent is done.
    Again {
        due: Millis,
        queue: Queue,
        class: Class,
        reason: Option<Reason>,
    },
    /// Still worked on: only its progress (and its attempt) is written; state, due, queue and class stay.
    Progressed,
    /// A newer update of the same profile carried it. Written together with the end of that one.
    CarriedBy {
        delivery: DeliveryId,
    },
}

/// One delivery's outcome with what the store keeps of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    pub delivery: DeliveryId,
    pub outcome: Outcome,
    /// Attempts and crashes counted so far, this one included.
    pub attempts: u32,
    pub crashes: u32,
    /// One an operation, in the order of the map; empty when nothing needs keeping.
    pub progress: Vec<Progress>,
    /// Position in the settlement's list of attempts, where one was made.
    pub attempt: Option<usize>,
    /// A notice of it is to be given here: the same write makes a delivery of its event and route to there,
    /// unless there is one.
    pub hand_on: Option<Elsewhere>,
}

/// One HTTP exchange, for one or many deliveries.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub at: Millis,
    pub took_ms: u32,
    pub items: u32,
    /// 0 when no answer came.
    pub status: u16,
    /// Kept whole when the exchange left something not done; credentials were never in it.
    pub request: Option<Vec<u8>>,
    /// The answer's beginning, or why there was none; kept where it is not a success.
    pub answer: Option<String>,
}

/// Dead if one operation is refused, else delivered if one is done, else skipped; nothing while one is open.
pub fn fold(parts: &[Part]) -> Option<(State, Option<Reason>)> {
    if parts.iter().any(Part::is_open) {
        return None;
    }
    let verdicts = || parts.iter().filter_map(|part| part.verdict.as_ref());
    for verdict in verdicts() {
        if let Verdict::Reject { reason } = verdict {
            return Some((State::Dead, Some(reason.clone())));
        }
    }
    if verdicts().any(|verdict| *verdict == Verdict::Done) {
        return Some((State::Delivered, None));
    }
    let reason = verdicts().find_map(|verdict| match verdict {
        Verdict::Skipped { reason } => Some(reason.clone()),
        _ => None,
    });
    Some((
        State::Skipped,
        Some(reason.unwrap_or_else(|| Reason::new("nothing_to_do", "the map made no operation"))),
    ))
}

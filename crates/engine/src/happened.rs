//! What goes into the engine.

use std::sync::Arc;

use mailspan_connectors::contract::Sink;
use mailspan_core::limits::{SHORT_WINDOW_MS_MAX, UNKEPT_PER_SLOT};
use mailspan_core::{Answer, DeliveryId, DestinationId, Lost, Millis, Parcel, Queue, Rate, Reason};

use crate::{Calendar, Trip};

/// Names one exchange; unique within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// The number of a lease: only grows. What is settled under an old one is refused whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub i64);

/// The policy of a destination.
#[derive(Debug, Clone)]
pub struct Limits {
    pub rate: Rate,
    /// Exchanges in flight at most.
    pub concurrency: u32,
    /// Below that, as many as suit the destination, by its latency and its refusals; else always so many.
    pub adapts: bool,
    /// Items in one call at most.
    pub batch_max: u32,
    pub batch_wait_ms: u64,
    pub calendar: Calendar,
    /// A longer `Retry-After` pauses the destination with a notice.
    pub retry_after_max_ms: u64,
    /// One call may carry several items of one person.
    pub merges: bool,
    /// Updates of one person's profile that wait for each other go as one.
    pub coalesces: bool,
    pub breaker: Trip,
    /// Requests that the vendor allows a day; a tenth is left unused, a tenth of the rest is for consent.
    pub daily: Option<u32>,
    /// When the vendor's day begins, in milliseconds after midnight UTC.
    pub day_starts_ms: u64,
}

impl Limits {
    /// Requests that a lease which ended may have sent without a row in the store: in flight, or answered and not
    /// settled. Where the rate has a long window, a desk sends nothing more while so many are open.
    pub fn unseen_max(&self) -> u32 {
        let each = if self.has_long_window() { UNKEPT_PER_SLOT } else { 1 };
        self.concurrency.max(1).saturating_mul(each)
    }

    /// The window of the rate is so long that each request counts from its own time, whoever sent it.
    pub fn has_long_window(&self) -> bool {
        self.rate.per_ms > SHORT_WINDOW_MS_MAX
    }
}

pub enum Happened {
    /// The lease was taken: the desk starts anew under this fence. Or, under the fence it has, settings
    /// changed: what is in flight ends under the old ones, what waits is claimed and mapped again.
    Opened {
        destination: DestinationId,
        fence: Fence,
        limits: Limits,
        sink: Arc<dyn Sink>,
        paused: Option<Reason>,
        /// Its breaker was open, as far as was kept: one delivery is tried first. Heard where the desk starts anew.
        degraded: bool,
    },
    /// After `Opened`: when an earlier lease sent requests within the window of the rate, by the store. Without it
    /// the worst is assumed.
    SentBefore {
        destination: DestinationId,
        sent: Vec<Millis>,
        /// As many more may have been sent that the store does not know of: [`Limits::unseen_max`].
        unseen: u32,
    },
    Closed {
        destination: DestinationId,
    },
    /// Another node shall serve it: nothing is claimed or sent from here on. What is in flight is judged and
    /// settled, then [`crate::Command::Left`] follows.
    Leaving {
        destination: DestinationId,
    },
    /// The router, a replay or a settlement put something at the head of a lane.
    Offered {
        destination: DestinationId,
    },
    /// The answer to [`crate::Command::Claim`]. `next_due` is the earliest due time that was not taken.
    Claimed {
        destination: DestinationId,
        parcels: Vec<Parcel>,
        next_due: Option<Millis>,
        /// Queues with due rows that are not among `parcels`; nothing where `parcels` has every row that
        /// was read, held ones too.
        more: Option<[bool; Queue::ALL.len()]>,
    },
    /// The store could not be read: asked again after a second.
    ClaimFailed {
        destination: DestinationId,
    },
    Answered {
        call: CallId,
        answer: Result<Answer, Lost>,
    },
    /// The settlements of one `Settle` are committed, or were not: all of its deliveries, in any order.
    /// Where the commit made another delivery the head of a lane, an `Offered` follows.
    Settled {
        destination: DestinationId,
        deliveries: Vec<DeliveryId>,
        outcome: Result<(), SettleFailed>,
    },
    /// So many requests were sent to it since its day began (see [`Limits::daily`]), as far as the store knows,
    /// this lease's among them.
    Spent {
        destination: DestinationId,
        requests: u64,
    },
    /// An operator paused or resumed the destination; answered by a `Stand`.
    Paused {
        destination: DestinationId,
        reason: Reason,
    },
    Resumed {
        destination: DestinationId,
    },
    /// Time passed.
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleFailed {
    /// The lease is another's: the desk is closed and forgotten.
    FenceLost,
    /// The store is broken or busy: the same settlements are given again after a second.
    Broken,
}

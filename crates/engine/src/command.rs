//! What comes out of the engine.

use mailspan_core::{Attempt, DeliveryId, DestinationId, Millis, Reason, Request, Room, Settlement};

use crate::{CallId, Fence};

#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Read heads of lanes that are due, at most so many from either end of each queue.
    /// Rows of `held` are due in the store and come again: they need not be mapped.
    Claim { destination: DestinationId, room: Room, held: Vec<DeliveryId> },
    /// Make an exchange; answered by [`crate::Happened::Answered`].
    /// `items`: for these, so that whoever waits for one can be told what was said. `newest`: from the newest end of
    /// their queue.
    Send { call: CallId, destination: DestinationId, request: Request, items: Vec<DeliveryId>, newest: bool },
    /// Write, all or nothing; answered by [`crate::Happened::Settled`].
    Settle { destination: DestinationId, fence: Fence, settlements: Vec<Settlement>, attempts: Vec<Attempt> },
    /// Give a `Tick` then; the earliest of all that were asked counts.
    WakeAt(Millis),
    /// Keep the destination's standing: paused for a reason, or active again. `fence`: what the engine decides
    /// counts under this lease alone; without one it is an operator's word.
    Stand { destination: DestinationId, fence: Option<Fence>, paused: Option<Reason> },
    /// Of a destination that was to be left: nothing is in flight, its desk is gone, its lease can be given up.
    Left { destination: DestinationId },
    /// Tell people. That a breaker opened or closed is kept with it, under the lease: it is what the next desk of
    /// the destination begins with (`degraded` of [`crate::Happened::Opened`]).
    Announce { destination: DestinationId, fence: Fence, what: Notice },
}

/// What happened to a destination that people should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The destination is degraded: deliveries wait, nothing is lost or spent.
    BreakerOpened { reason: Reason, probe_at: Millis },
    /// Active again, at its full rate.
    BreakerClosed,
    /// Four fifths of what may be used of the vendor's daily quota are used; at most once a day and lease.
    QuotaInDanger { used: u64, daily: u32, resets: Millis },
}

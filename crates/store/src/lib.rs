//! The only crate that knows SQL: journal, deliveries, persons, consent, keys and leases.
//!
//! [`open`] gives a [`Store`] on SQLite (cheap to clone, asked from any task), one [`Writer`] and some
//! [`Reader`]s. The program runs each of the latter on a thread of its own; nothing here spawns.
//! [`open_postgres`] gives one on PostgreSQL and a [`PostgresWriter`], which is run as a task.
//! Writes that arrive while a sync runs share the next one.

mod audience;
mod bytes_io;
mod contact_reads;
mod contacts;
mod decided;
mod erase;
mod erase_reads;
mod filter;
pub mod floor;
mod identity;
mod jobs;
mod lock;
pub mod moving;
mod open;
mod pack;
pub mod postgres;
mod prepare;
mod proof;
mod queue;
mod reader;
mod rounds;
mod rows;
mod said;
pub mod sqlite;
mod told;
mod veil;
mod write;
mod writer;

use std::path::Path;

use mailspan_core::{DeliveryId, DestinationId, Event, EventId, Millis, Name, Person, Queue, Room, Subject};

pub use contacts::*;
pub use erase::{
    Certified, ErasedHash, ErasureRow, ErasureStage, ErasureVerdict, OpenErasures, Words, element_of,
    elements_naming,
};
pub use erase_reads::{Kin, KinConfirmation};
pub use identity::{StoreKey, StoreKeys};
pub use jobs::*;
pub use lock::{Holder, holder};
pub use open::{OpenError, OpenOptions, compact, open};
pub use pack::{Cut, pack_request};
pub use postgres::{PostgresOptions, PostgresWriter, open_postgres};
pub use reader::Reader;
pub use rounds::{ListedDay, RoundMark, RoundRow, round_lease};
pub use rows::*;
pub use sqlite::SCHEMA;
pub use told::{Answered, Tell};
pub use write::*;
pub use writer::Writer;

/// Kinds of names; the numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NameKind {
    Source = 1,
    Route = 2,
    Destination = 3,
}

/// One of the back ends. Every function is safe to cancel: a write that was queued is done all the same.
#[derive(Clone)]
pub enum Store {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Store {
    /// Resolves after the commit is synced. A full queue is [`Trouble::Busy`] before any work is done.
    pub async fn write(&self, write: Write) -> Result<Wrote, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.write(write).await,
            Store::Postgres(postgres) => postgres.write(write).await,
        }
    }

    /// The number of a source, route or destination; made at the first call, the same ever after.
    pub async fn name(&self, tenant: &Name, kind: NameKind, name: &Name) -> Result<i64, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.name(tenant, kind, name).await,
            Store::Postgres(postgres) => postgres.name(tenant, kind, name).await,
        }
    }

    /// Events that wait for the router, the lowest `seq` first.
    pub async fn unrouted(&self, limit: usize) -> Result<Vec<Event>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.unrouted(limit).await,
            Store::Postgres(postgres) => postgres.unrouted(limit).await,
        }
    }

    /// Heads of lanes that are due, at most `room` of each queue, and the earliest due time that was
    /// not taken. A read: what is claimed and not settled comes again at the next call.
    pub async fn claim(
        &self,
        destination: DestinationId,
        room: [u16; Queue::ALL.len()],
        now: Millis,
    ) -> Result<(Vec<Claim>, Option<Millis>), Trouble> {
        let room = Room { oldest: room, ..Room::default() };
        let claimed = self.claim_beside(destination, room, now, Vec::new()).await?;
        Ok((claimed.claims, claimed.next_due))
    }

    /// [`Store::claim`] for one who holds some of them (`held`, ascending): those take room and are counted in
    /// `came`, but are not among the claims. What room there is for the newest of a queue comes first, those that
    /// became due last before others; what both ends would bring comes from the newest.
    pub async fn claim_beside(
        &self,
        destination: DestinationId,
        room: Room,
        now: Millis,
        held: Vec<DeliveryId>,
    ) -> Result<Claimed, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::claim::claim(base, destination, room, now, &held)).await
            }
            Store::Postgres(postgres) => postgres.claim(destination, room, now, &held).await,
        }
    }

    /// What waits behind these heads of lanes, in the order in which it would go, with the head that it waits
    /// for: at most [`mailspan_core::limits::CARRIED_MAX`] each and
    /// [`mailspan_core::limits::DESK_WINDOW_MAX`] together.
    pub async fn behind(
        &self,
        destination: DestinationId,
        heads: Vec<DeliveryId>,
    ) -> Result<Vec<(DeliveryId, Claim)>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::claim::behind(base, destination, &heads)).await
            }
            Store::Postgres(postgres) => postgres.behind(destination, &heads).await,
        }
    }

    /// Destinations that have a head, due now or later.
    pub async fn work(&self) -> Result<Vec<DestinationId>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::claim::work).await,
            Store::Postgres(postgres) => postgres.work().await,
        }
    }

    /// Newest first; a limit of 0 is the default page.
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<EventRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::events::list(base, &filter)).await,
            Store::Postgres(postgres) => postgres.events(&filter).await,
        }
    }

    pub async fn event(&self, id: EventId) -> Result<Option<EventRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::events::by_id(base, id)).await,
            Store::Postgres(postgres) => postgres.event(id).await,
        }
    }

    /// The raw request that an event came with, while it is kept.
    pub async fn request_of(&self, id: EventId) -> Result<Option<RequestRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::events::request_of(base, id)).await,
            Store::Postgres(postgres) => postgres.request_of(id).await,
        }
    }

    /// Newest first; a limit of 0 is the default page.
    pub async fn deliveries(&self, filter: DeliveryFilter) -> Result<Vec<DeliveryRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::deliveries::list(base, &filter)).await,
            Store::Postgres(postgres) => postgres.deliveries(&filter).await,
        }
    }

    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::deliveries::by_id(base, id)).await,
            Store::Postgres(postgres) => postgres.delivery(id).await,
        }
    }

    /// What a replay of this delivery offers: its event's `seq`, route, destination and class.
    pub async fn offer_of(&self, id: DeliveryId) -> Result<Option<mailspan_core::Offer>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::deliveries::offer_of(base, id)).await,
            Store::Postgres(postgres) => postgres.offer_of(id).await,
        }
    }

    /// Progress of each operation of a delivery, in the order of the map; empty when none is kept.
    pub async fn progress(&self, id: DeliveryId) -> Result<Vec<mailspan_core::Progress>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::deliveries::progress(base, id)).await,
            Store::Postgres(postgres) => postgres.progress(id).await,
        }
    }

    /// The exchanges of a delivery, oldest first.
    pub async fn attempts(&self, id: DeliveryId) -> Result<Vec<AttemptRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::deliveries::attempts(base, id)).await,
            Store::Postgres(postgres) => postgres.attempts(id).await,
        }
    }

    /// Newest first; a limit of 0 is the default page.
    pub async fn jobs(&self, filter: JobFilter) -> Result<Vec<JobRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::jobs::list(base, &filter)).await,
            Store::Postgres(postgres) => postgres.jobs(&filter).await,
        }
    }

    pub async fn job(&self, id: i64) -> Result<Option<JobRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::jobs::by_id(base, id)).await,
            Store::Postgres(postgres) => postgres.job(id).await,
        }
    }

    /// Jobs that run, the oldest first; at most [`mailspan_core::limits::JOBS_OPEN_MAX`].
    pub async fn running_jobs(&self) -> Result<Vec<JobRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::jobs::running).await,
            Store::Postgres(postgres) => postgres.running_jobs().await,
        }
    }

    /// Where every round stands.
    pub async fn rounds(&self) -> Result<Vec<RoundRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::rounds::list).await,
            Store::Postgres(postgres) => postgres.rounds().await,
        }
    }

    /// What a source listed on its last days (the newest first), as far as it was asked.
    pub async fn listed(&self, about: i64, days: u32) -> Result<Vec<ListedDay>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::rounds::listed(base, about, i64::from(days))).await
            }
            Store::Postgres(postgres) => postgres.listed(about, i64::from(days)).await,
        }
    }

    /// The next page of a walk over deliveries; looks at a bounded number of rows.
    pub async fn walk(&self, walk: Walk) -> Result<Walked, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::walk::page(base, &walk)).await,
            Store::Postgres(postgres) => postgres.walk(&walk).await,
        }
    }

    /// The lowest and the highest delivery there are; 0 and 0 where there is none.
    pub async fn delivery_span(&self) -> Result<(DeliveryId, DeliveryId), Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::walk::span).await,
            Store::Postgres(postgres) => postgres.delivery_span().await,
        }
    }

    /// Replays that are pending for a destination, counted up to
    /// [`mailspan_core::limits::REPLAYS_PENDING_MAX`].
    pub async fn replays_pending(&self, destination: DestinationId) -> Result<usize, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::walk::replays_pending(base, destination)).await
            }
            Store::Postgres(postgres) => postgres.replays_pending(destination).await,
        }
    }

    /// The last exchanges with all destinations.
    pub async fn last_sent(&self) -> Result<LastSent, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::walk::last_sent).await,
            Store::Postgres(postgres) => postgres.last_sent().await,
        }
    }

    /// Exchanges with a destination since that time, of the last two days; counted by quarters of an hour, so up to
    /// a quarter more.
    pub async fn spent_since(&self, destination: DestinationId, since: Millis) -> Result<u64, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::walk::spent_since(base, destination, since)).await
            }
            Store::Postgres(postgres) => postgres.spent_since(destination, since).await,
        }
    }

    /// Quarantined elements, newest first; `before` is the smallest id of the page before.
    pub async fn unreadable(&self, limit: usize, before: Option<i64>) -> Result<Vec<UnreadableRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::refused::unreadable(base, limit, before)).await
            }
            Store::Postgres(postgres) => postgres.unreadable(limit, before).await,
        }
    }

    /// Refused requests of one source (or of all), newest first.
    pub async fn refused(&self, source: Option<Name>, limit: usize) -> Result<Vec<RefusedRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::refused::list(base, source.as_ref(), limit)).await
            }
            Store::Postgres(postgres) => postgres.refused(source.as_ref(), limit).await,
        }
    }

    /// Every destination that was ever named, of one tenant or of all.
    pub async fn destinations(&self, tenant: Option<Name>) -> Result<Vec<StandingRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                sqlite.read(move |base| sqlite::standing::list(base, tenant.as_ref())).await
            }
            Store::Postgres(postgres) => postgres.destinations(tenant.as_ref()).await,
        }
    }

    /// The standing of one destination.
    pub async fn standing(&self, destination: DestinationId) -> Result<Option<StandingRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::standing::one(base, destination)).await,
            Store::Postgres(postgres) => postgres.standing(destination).await,
        }
    }

    /// Every lease that was ever taken and has not gone with its work.
    pub async fn leases(&self) -> Result<Vec<LeaseRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::leases::list).await,
            Store::Postgres(postgres) => postgres.leases().await,
        }
    }

    /// Every lease, how these destinations stand (those that have a lease), and whether events wait for the router;
    /// on PostgreSQL one statement.
    pub async fn look(&self, destinations: Vec<DestinationId>) -> Result<Look, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::leases::look(base, &destinations)).await,
            Store::Postgres(postgres) => postgres.look(&destinations).await,
        }
    }

    /// Counts every row and compares with the running sums: reads the whole store.
    pub async fn audit(&self) -> Result<Audit, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::audit::audit).await,
            Store::Postgres(postgres) => postgres.audit().await,
        }
    }

    /// The key whose SHA-256 this is, revoked and expired ones too: the caller judges.
    pub async fn key_by_hash(&self, hash: [u8; 32]) -> Result<Option<KeyRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.key_by_hash(hash).await,
            Store::Postgres(postgres) => postgres.key_by_hash(hash).await,
        }
    }

    pub async fn keys(&self) -> Result<Vec<KeyRow>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::keys::list).await,
            Store::Postgres(postgres) => postgres.keys().await,
        }
    }

    /// The compliance log, oldest first.
    pub async fn facts(&self, filter: FactFilter) -> Result<Vec<Fact>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(move |base| sqlite::ledger::list(base, &filter)).await,
            Store::Postgres(postgres) => postgres.facts(&filter).await,
        }
    }

    pub async fn person(&self, tenant: &Name, subject: &Subject) -> Result<Option<Person>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => {
                let (tenant, subject) = (tenant.clone(), subject.clone());
                sqlite.read(move |base| sqlite::persons::by_subject(base, &tenant, &subject)).await
            }
            Store::Postgres(postgres) => postgres.person(tenant, subject).await,
        }
    }

    /// For metrics and `doctor`: cheap, reads running sums.
    pub async fn sizes(&self) -> Result<Sizes, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.sizes().await,
            Store::Postgres(postgres) => postgres.sizes().await,
        }
    }

    /// When each unsubscribe was learned that some destination does not know yet, the oldest first. A dead letter
    /// keeps it under way until it is replayed or given up. At most
    /// [`mailspan_core::limits::UNSUBSCRIBES_LOOKED_AT_MAX`] rows of each destination are looked at; of a person
    /// whose second unsubscribe waits behind the first, the first is counted.
    pub async fn unsubscribes_under_way(&self) -> Result<Vec<Millis>, Trouble> {
        match self {
            Store::Sqlite(sqlite) => sqlite.read(sqlite::unsubscribes::under_way).await,
            Store::Postgres(postgres) => postgres.unsubscribes_under_way().await,
        }
    }

    /// Asks writer and readers to end after what is queued; later calls are [`Trouble::Broken`].
    pub fn close(&self) {
        match self {
            Store::Sqlite(sqlite) => sqlite.close(),
            Store::Postgres(postgres) => postgres.close(),
        }
    }

    /// Hears from other nodes; a store on SQLite has none.
    pub fn listen(&self) -> Ear {
        match self {
            Store::Sqlite(_) => Ear(None),
            Store::Postgres(postgres) => Ear(Some(postgres.listen())),
        }
    }

    /// How often this process lost the session that holds its leases: from then on another may have taken them.
    /// Nothing on SQLite, where a lock on the file holds them.
    pub fn lost(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        match self {
            Store::Sqlite(_) => None,
            Store::Postgres(postgres) => Some(postgres.lost()),
        }
    }

    /// The file; empty where there is none.
    pub fn path(&self) -> &Path {
        match self {
            Store::Sqlite(sqlite) => sqlite.path(),
            Store::Postgres(_) => Path::new(""),
        }
    }
}

/// What another node did that this one may have to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Events wait for the router.
    Accepted,
    /// These destinations have a new head.
    Offered(Vec<DestinationId>),
    /// A destination was paused or resumed.
    Stood,
    /// A webhook endpoint was made, changed or removed.
    Endpoints,
}

/// What other nodes have put down for this one. Nothing is lost when some of it is missed: it is a hint to look
/// before the next regular look.
pub struct Ear(Option<tokio::sync::broadcast::Receiver<Heard>>);

impl Ear {
    /// Never returns on SQLite, nor after the store was closed.
    pub async fn next(&mut self) -> Heard {
        use tokio::sync::broadcast::error::RecvError;
        loop {
            let heard = match &mut self.0 {
                Some(receiver) => receiver.recv().await,
                None => Err(RecvError::Closed),
            };
            match heard {
                Ok(heard) => return heard,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

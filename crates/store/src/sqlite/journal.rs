//! The writer's side, synchronous: a group of writes in one transaction. The program runs it inside
//! [`crate::Writer`]; a simulation drives it directly, on a database in memory.

use std::path::PathBuf;

use mailspan_core::{DestinationId, Event, Millis, Name, Person, Queue, Room, Subject};
use mailspan_engine::Fence;
use rusqlite::Connection;

use super::base::{Base, Fault, shown};
use super::counts::Counts;
use super::log::{self, Log};
use super::recent::Recent;
use super::retain::Cursors;
use super::segments::Segments;
use super::{
    accept, audit, claim, deliveries, endpoints, erase, events, jobs, keys, leases, ledger, offer, persons,
    refused, retain, rounds, route, said, settle, standing, tenants,
};
use crate::identity::{IdentityKey, StoreKeys};
use crate::prepare::{Prepared, What, prepare, prepare_name};
use crate::write::{Trouble, Write, Wrote};
use crate::{Audit, Claim, DeliveryFilter, DeliveryRow, Fact, FactFilter, NameKind, OpenError};

/// The one write connection, with what it keeps in memory.
pub struct Journal {
    pub(crate) base: Base,
    pub(crate) counts: Counts,
    pub(crate) marks: Marks,
    pub(crate) segments: Segments,
    pub(crate) cursors: Cursors,
    /// Events of the last transaction, for the router.
    pub(crate) accepted: Vec<Event>,
    log: Option<Log>,
}

/// The highest numbers given so far. Kept in memory, so a number is never given twice, whatever is dropped.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Marks {
    pub seq: i64,
    pub request: i64,
    pub delivery: i64,
    pub attempt: i64,
}

impl Marks {
    /// `meta` keeps what retention has dropped: the tables alone would give its numbers again.
    fn read(conn: &Connection) -> rusqlite::Result<Marks> {
        let highest = |table: &str, column: &str| -> rusqlite::Result<i64> {
            let sql = format!(
                "SELECT max(coalesce((SELECT max({column}) FROM {table}), 0),
                 coalesce((SELECT value FROM meta WHERE name = 'dropped_{table}'), 0))"
            );
            conn.query_row(&sql, [], |row| row.get(0))
        };
        Ok(Marks {
            seq: highest("events", "seq")?,
            request: highest("requests", "id")?.max(highest("unreadable", "id")? >> 13),
            delivery: highest("deliveries", "id")?,
            attempt: highest("attempts", "id")?,
        })
    }
}

impl Journal {
    /// A store in memory, for simulation. `seed` is the key of identities.
    pub fn in_memory(seed: u128, segment_keys_max: i64) -> Result<Journal, OpenError> {
        let path = PathBuf::from(":memory:");
        let sql = |cause| OpenError::Sql { path: path.clone(), cause };
        let mut conn = Connection::open_in_memory().map_err(sql)?;
        super::migrate(&mut conn, &path, seed, Millis(0))?;
        let key = super::migrate::identity_key(&conn, &path, &StoreKeys::none())?;
        Journal::start(conn, key, None, segment_keys_max).map_err(sql)
    }

    pub(crate) fn start(
        conn: Connection,
        key: IdentityKey,
        log: Option<Log>,
        segment_keys_max: i64,
    ) -> rusqlite::Result<Journal> {
        let marks = Marks::read(&conn)?;
        let segments = Segments::read(&conn, segment_keys_max)?;
        Ok(Journal {
            base: Base::new(conn, key)?,
            counts: Counts::default(),
            marks,
            segments,
            cursors: Cursors::default(),
            accepted: vec![],
            log,
        })
    }

    /// One write in a transaction of its own.
    pub fn write(&mut self, write: Write) -> Result<Wrote, Trouble> {
        let prepared = prepare(write, &self.base.key);
        self.group(std::slice::from_ref(&prepared)).pop().unwrap_or(Err(Trouble::Busy))
    }

    pub fn name(&mut self, tenant: &Name, kind: NameKind, name: &Name) -> Result<i64, Trouble> {
        let prepared = prepare_name(tenant.clone(), kind, name.clone());
        match self.group(std::slice::from_ref(&prepared)).pop() {
            Some(Ok(Wrote::Key { id })) => Ok(id),
            Some(Err(trouble)) => Err(trouble),
            _ => Err(Trouble::Busy),
        }
    }

    pub fn unrouted(&self, limit: usize) -> Result<Vec<Event>, Trouble> {
        events::unrouted(&self.base, limit, &Recent::default()).map_err(Fault::trouble)
    }

    pub fn claim(
        &self,
        destination: DestinationId,
        room: [u16; Queue::ALL.len()],
        now: Millis,
    ) -> Result<(Vec<Claim>, Option<Millis>), Trouble> {
        let room = Room { oldest: room, ..Room::default() };
        let claimed = claim::claim(&self.base, destination, room, now, &[]).map_err(Fault::trouble)?;
        Ok((claimed.claims, claimed.next_due))
    }

    pub fn work(&self) -> Result<Vec<DestinationId>, Trouble> {
        claim::work(&self.base).map_err(Fault::trouble)
    }

    pub fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<DeliveryRow>, Trouble> {
        deliveries::list(&self.base, filter).map_err(Fault::trouble)
    }

    pub fn person(&self, tenant: &Name, subject: &Subject) -> Result<Option<Person>, Trouble> {
        persons::by_subject(&self.base, tenant, subject).map_err(Fault::trouble)
    }

    pub fn facts(&self, filter: &FactFilter) -> Result<Vec<Fact>, Trouble> {
        ledger::list(&self.base, filter).map_err(Fault::trouble)
    }

    pub fn audit(&self) -> Result<Audit, Trouble> {
        audit::audit(&self.base).map_err(Fault::trouble)
    }

    /// All in one transaction and one sync; one result for each, in order. A write that fails for a
    /// reason of its own fails alone.
    pub(crate) fn group(&mut self, writes: &[Prepared]) -> Vec<Result<Wrote, Trouble>> {
        let quick = self.transaction(writes, Self::apply_plain);
        let result = match quick {
            Err(GroupFault::OneOfThem) => self.transaction(writes, Self::apply_guarded),
            other => other,
        };
        match result {
            Ok(results) => results,
            Err(GroupFault::All(trouble)) => writes.iter().map(|_| Err(trouble.clone())).collect(),
            Err(GroupFault::OneOfThem) => {
                let trouble =
                    Trouble::Broken("the transaction could not be rolled back to a write".to_owned());
                writes.iter().map(|_| Err(trouble.clone())).collect()
            }
        }
    }

    fn transaction(
        &mut self,
        writes: &[Prepared],
        apply: fn(&mut Journal, &Prepared) -> Applied,
    ) -> Result<Vec<Result<Wrote, Trouble>>, GroupFault> {
        let marks = self.marks;
        self.accepted.clear();
        let done = self.base.conn.execute_batch("BEGIN IMMEDIATE").map_err(broken).and_then(|()| {
            let results = writes.iter().map(|write| apply(self, write)).collect::<Result<Vec<_>, _>>()?;
            self.counts.write(&self.base).map_err(|fault| GroupFault::All(fault.trouble()))?;
            self.base.conn.execute_batch("COMMIT").map_err(broken)?;
            Ok(results)
        });
        match &done {
            Ok(_) => self.segments.committed(),
            Err(_) => {
                self.marks = marks;
                self.accepted.clear();
                self.roll_back();
            }
        }
        done
    }

    /// Without a savepoint: a refusal that has changed nothing stands; one that has ends the transaction.
    fn apply_plain(&mut self, write: &Prepared) -> Applied {
        let before = self.base.conn.total_changes();
        match self.apply(write) {
            Ok(wrote) => Ok(Ok(wrote)),
            Err(fault) if fault.is_of_the_file() => Err(GroupFault::All(fault.trouble())),
            Err(fault) if self.base.conn.total_changes() == before => Ok(Err(fault.trouble())),
            Err(_) => Err(GroupFault::OneOfThem),
        }
    }

    fn apply_guarded(&mut self, write: &Prepared) -> Applied {
        let (counts, marks, accepted) = (self.counts.clone(), self.marks, self.accepted.len());
        let keys = self.segments.mark();
        self.base.conn.execute_batch("SAVEPOINT one").map_err(broken)?;
        let result = self.apply(write);
        match result {
            Ok(wrote) => {
                self.base.conn.execute_batch("RELEASE one").map_err(broken)?;
                Ok(Ok(wrote))
            }
            Err(fault) if fault.is_of_the_file() => Err(GroupFault::All(fault.trouble())),
            Err(fault) => {
                self.base.conn.execute_batch("ROLLBACK TO one; RELEASE one").map_err(broken)?;
                self.counts = counts;
                self.marks = marks;
                self.accepted.truncate(accepted);
                self.base.forget_names();
                self.segments.undo(&self.base.conn, keys).map_err(broken)?;
                Ok(Err(fault.trouble()))
            }
        }
    }

    /// What is in memory follows the file again.
    fn roll_back(&mut self) {
        if !self.base.conn.is_autocommit() {
            // An error here means that SQLite has rolled back by itself already.
            let _ = self.base.conn.execute_batch("ROLLBACK");
        }
        self.counts = Counts::default();
        self.base.forget_names();
        if let Err(error) = self.segments.undo(&self.base.conn, 0) {
            tracing::error!(%error, "the dedupe segments could not be read after a failed write");
        }
    }

    fn apply(&mut self, write: &Prepared) -> Result<Wrote, Fault> {
        match &write.what {
            What::Accept { receipt, arrivals } => {
                let wrote = accept::accept(self, receipt, arrivals)?;
                said::say_accepted(self, receipt, &wrote)?;
                Ok(wrote)
            }
            What::Route { fence, routed, identities } => route::route(self, *fence, routed, identities),
            What::Name { tenant, kind, name } => standing::name(&self.base, tenant, *kind, name),
            What::Write(write) => self.apply_write(write),
        }
    }

    fn apply_write(&mut self, write: &Write) -> Result<Wrote, Fault> {
        match write {
            Write::Settle { destination, fence, settlements, attempts, at, say } => {
                settle::settle(self, *destination, *fence, settlements, attempts, *at, say)
            }
            Write::Offer { offers, again, at } => offer::offer(self, offers, *again, *at),
            Write::Discard { delivery, unserved, note, at } => {
                offer::discard(self, *delivery, *unserved, note, *at)
            }
            Write::Stand { destination, fence, paused, at, say } => {
                self.check_desk(*destination, *fence)?;
                let is_news = standing::stand(&self.base, *destination, paused.as_ref(), *at)?;
                said::say_news(self, say.as_deref(), is_news)
            }
            Write::Degrade { destination, fence, degraded, at, say } => {
                self.check_desk(*destination, Some(*fence))?;
                let is_news = standing::degrade(&self.base, *destination, *degraded, *at)?;
                said::say_news(self, say.as_deref(), is_news)
            }
            Write::Refused(request) => refused::keep(self, request),
            Write::Key(key) => keys::make(&self.base, key),
            Write::RevokeKey { id, at } => keys::revoke(&self.base, *id, *at),
            Write::KeyUsed { id, at } => keys::used(&self.base, *id, *at),
            Write::Release { name, owner } => leases::release(&self.base, name, *owner),
            Write::Lease { name, owner, now, until } => leases::take(&self.base, name, *owner, *now, *until),
            Write::Renew { names, owner, until } => leases::renew(&self.base, names, *owner, *until),
            Write::Job(job) => jobs::make(&self.base, job),
            Write::JobStand { id, state, note, at, say } => {
                let wrote = jobs::stand(&self.base, *id, *state, note, *at)?;
                said::say_job(self, *id, say.as_ref())?;
                Ok(wrote)
            }
            Write::Page(page) => {
                let wrote = jobs::page(self, page)?;
                said::say_job(self, page.job, page.say.as_ref())?;
                Ok(wrote)
            }
            Write::Round(mark) => {
                let is_news = rounds::write(&self.base, mark)?;
                said::say_news(self, mark.say.as_deref(), is_news)
            }
            Write::RoundNow { tenant, about, at } => rounds::now(&self.base, tenant, *about, *at),
            Write::Retain(keep) => retain::step(self, *keep),
            Write::Tenant(tenant) => tenants::set(&self.base, tenant),
            Write::Field(field) => tenants::field(&self.base, field),
            Write::IdentityKey(under) => {
                super::migrate::keep_identity_key(&self.base.conn, &self.base.key.sealed(under))?;
                Ok(Wrote::Done)
            }
            Write::Sealed(write) => tenants::seal(&self.base, write),
            Write::Endpoint(write) => endpoints::write(self, write),
            Write::Erase => erase::step(self),
            Write::Certify(certified) => erase::certify(&self.base, certified),
            // `prepare` makes other values of these two.
            Write::Accept(_) | Write::Route { .. } => {
                Err(Fault::refused("unprepared", "a write was not prepared"))
            }
        }
    }

    /// Without a fence it is an operator's word, and needs no lease.
    fn check_desk(&self, destination: DestinationId, fence: Option<Fence>) -> Result<(), Fault> {
        let check = |fence| leases::check(&self.base, &leases::of_destination(destination), fence);
        fence.map_or(Ok(()), check)
    }

    /// Between two groups.
    pub(crate) fn tidy(&mut self) {
        if let Some(log) = &mut self.log {
            log.tidy(&self.base.conn);
        }
    }

    /// At the end: the file alone is the whole store.
    pub(crate) fn checkpoint(&mut self) {
        log::cut(&self.base.conn);
    }
}

/// Inside: what is told to whoever asked for this write. Outside: the transaction cannot go on.
type Applied = Result<Result<Wrote, Trouble>, GroupFault>;

/// Why a transaction was ended.
enum GroupFault {
    /// The file or the disk.
    All(Trouble),
    /// One write failed after it had changed something.
    OneOfThem,
}

fn broken(error: rusqlite::Error) -> GroupFault {
    GroupFault::All(Trouble::Broken(shown(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_core::{DeliveryId, Digest, EventId, EventType, RawValue};

    use crate::{Arrived, Receipt, Routed};

    fn journal() -> Journal {
        let mut journal = Journal::in_memory(1, 100).unwrap();
        let router = "router".to_owned();
        let lease = Write::Lease { name: router, owner: 1, now: Millis(0), until: Millis(i64::MAX) };
        journal.write(lease).unwrap();
        journal
    }

    fn accept(n: u128) -> Write {
        let event = Event {
            seq: None,
            id: EventId(n),
            tenant: Name::default_tenant(),
            source: Name::new("s"),
            event_type: EventType::known("app.x"),
            subject: Subject::read("a@b.co"),
            time: Millis(1),
            received_at: Millis(1),
            test: false,
            transmission: None,
            recipient_role: None,
            extensions: None,
            data: RawValue::from_string(format!("{{\"n\":\"{}\"}}", "x".repeat(100))).unwrap().into(),
        };
        Write::Accept(Box::new(Receipt {
            tenant: Name::default_tenant(),
            source: Name::new("s"),
            credential: String::new(),
            received_at: Millis(1),
            digest: Digest([0; 16]),
            packed: None,
            arrivals: vec![Arrived { event, part: 0, dedupe: Some(Digest(n.to_le_bytes())), contact: None }],
            unreadable: vec![],
            idempotency: None,
            round: None,
            say: Vec::new(),
        }))
    }

    fn group(journal: &mut Journal, writes: Vec<Write>) -> Vec<Result<Wrote, Trouble>> {
        let prepared: Vec<_> = writes.into_iter().map(|write| prepare(write, &journal.base.key)).collect();
        journal.group(&prepared)
    }

    /// The first refusal has changed nothing, the second (an event routed twice) has.
    #[test]
    fn in_a_group_what_is_refused_fails_alone() {
        let mut journal = journal();
        journal.write(accept(1)).unwrap();
        let event = journal.unrouted(1).unwrap().remove(0);
        let routed = |event: &Event| Routed {
            event: event.clone(),
            to: vec![],
            opens: 0,
            clicks: 0,
            times: Default::default(),
        };
        let twice = Write::Route { fence: Fence(1), routed: vec![routed(&event), routed(&event)] };
        let discard =
            Write::Discard { unserved: None, delivery: DeliveryId(9), note: String::new(), at: Millis(0) };
        let results = group(&mut journal, vec![accept(2), discard, twice, accept(3), accept(2)]);
        let refused: Vec<_> = results.iter().map(Result::is_err).collect();
        assert_eq!(refused, [false, true, true, false, false], "{results:?}");
        let audit = journal.audit().unwrap();
        assert_eq!((audit.accepted, audit.duplicates, audit.waiting, audit.adds_up), (3, 1, 3, true));
        let seqs: Vec<_> = journal.unrouted(9).unwrap().iter().map(|event| event.seq.unwrap().0).collect();
        assert_eq!(seqs, [1, 2, 3]);
    }

    #[test]
    fn a_full_disk_fails_all_and_loses_nothing_that_was_committed() {
        let mut journal = journal();
        journal.write(accept(1)).unwrap();
        let pages: i64 = journal.base.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        journal.base.conn.pragma_update(None, "max_page_count", pages + 2).unwrap();
        let results = group(&mut journal, (2..500).map(accept).collect());
        assert!(results.iter().all(|result| matches!(result, Err(Trouble::Broken(_)))), "{:?}", results[0]);
        assert_eq!(journal.audit().unwrap().accepted, 1);
        journal.base.conn.pragma_update(None, "max_page_count", 1_000_000).unwrap();
        let results = group(&mut journal, (2..500).map(accept).collect());
        assert!(results.iter().all(Result::is_ok));
        let audit = journal.audit().unwrap();
        assert_eq!((audit.accepted, audit.duplicates, audit.adds_up), (499, 0, true), "{audit:?}");
    }
}

//! The writer's side, synchronous: a group of writes in one transaction. The program runs it inside
//! [`crate::Writer`]; a simulation drives it directly, on a database in memory.

use std::path::PathBuf;

use mailspan_core::{DestinationId, Event, Millis, Name, Person, Queue, Room, Subject};
use rusqlite::Connection;

use super::base::{Base, Fault};
use super::counts::Counts;
use super::group::{Applied, Group, GroupFault};
use super::held::Held;
use super::log::{self, Log};
use super::recent::Recent;
use super::retain::Cursors;
use super::segments::Segments;
use super::{audit, claim, deliveries, events, ledger, persons};
use crate::identity::{IdentityKey, StoreKeys};
use crate::prepare::{Prepared, prepare, prepare_name};
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
        let quick = self.transaction(writes, |group, write| group.apply_plain(write));
        let result = match quick {
            Err(GroupFault::OneOfThem) => self.transaction(writes, |group, write| group.apply_guarded(write)),
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
        apply: fn(&mut Group, &Prepared) -> Applied,
    ) -> Result<Vec<Result<Wrote, Trouble>>, GroupFault> {
        let marks = self.marks;
        self.accepted.clear();
        let done = self.begun().in_transaction(writes, apply);
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

    fn begun(&mut self) -> Group<'_> {
        let Journal { base, counts, marks, segments, cursors, accepted, .. } = self;
        Group { base: Held::new(base), counts, marks, segments, cursors, accepted }
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

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_core::{DeliveryId, Digest, EventId, EventType, RawValue};
    use mailspan_engine::Fence;

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

    fn routed(events: &[Event], seqs: &[i64]) -> Write {
        let wanted = events.iter().filter(|event| seqs.contains(&event.seq.unwrap().0));
        let one = |event: &Event| Routed {
            event: event.clone(),
            to: vec![],
            opens: 0,
            clicks: 0,
            times: Default::default(),
        };
        Write::Route { fence: Fence(1), routed: wanted.map(one).collect() }
    }

    #[test]
    fn what_is_routed_waits_no_more_and_what_lies_between_does() {
        let mut journal = journal();
        (1..=7).for_each(|n| drop(journal.write(accept(n)).unwrap()));
        let events = journal.unrouted(9).unwrap();
        let mut check = |seqs: &[i64], fits: bool, waiting: &[i64]| {
            assert_eq!(journal.write(routed(&events, seqs)).is_ok(), fits, "{seqs:?}");
            let left: Vec<_> = journal.unrouted(9).unwrap().iter().map(|one| one.seq.unwrap().0).collect();
            assert_eq!(left, waiting, "after {seqs:?}");
        };
        check(&[1, 2, 4, 6, 7], true, &[3, 5]);
        check(&[3, 4, 5], false, &[3, 5]);
        check(&[3, 5], true, &[]);
        assert!(journal.audit().unwrap().adds_up);
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

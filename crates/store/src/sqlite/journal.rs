//! The writer's side, synchronous: a group of writes in one transaction. The program runs it inside
//! [`crate::Writer`]; a simulation drives it directly, on a database in memory.

use std::path::{Path, PathBuf};

use mailspan_core::{DestinationId, Event, Millis, Name, Queue};
use rusqlite::Connection;

use super::base::{Base, Fault, IdentityKey};
use super::counts::Counts;
use super::retain::Cursors;
use super::segments::Segments;
use super::{
    accept, audit, claim, deliveries, events, keys, leases, offer, refused, retain, route, settle, standing,
};
use crate::prepare::{Prepared, What, prepare, prepare_name};
use crate::write::{Trouble, Write, Wrote};
use crate::{Audit, Claim, DeliveryFilter, DeliveryRow, NameKind, OpenError};

/// The log is cut back at this size, should readers have kept it from being reused (a long-lived
/// reader once grew one to 15 GB beside a 4 GB file).
const LOG_BYTES_MAX: u64 = 64 << 20;
/// Groups between two looks at the log's size.
const LOG_LOOK_GROUPS: u32 = 64;

/// The one write connection, with what it keeps in memory.
pub struct Journal {
    pub(crate) base: Base,
    pub(crate) counts: Counts,
    pub(crate) marks: Marks,
    pub(crate) segments: Segments,
    pub(crate) cursors: Cursors,
    log: Option<PathBuf>,
    groups: u32,
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
        Journal::start(conn, None, segment_keys_max).map_err(sql)
    }

    pub(crate) fn start(
        conn: Connection,
        path: Option<&Path>,
        segment_keys_max: i64,
    ) -> rusqlite::Result<Journal> {
        let marks = Marks::read(&conn)?;
        let segments = Segments::read(&conn, segment_keys_max)?;
        let log = path.map(|path| {
            let mut log = path.as_os_str().to_owned();
            log.push("-wal");
            log.into()
        });
        Ok(Journal {
            base: Base::new(conn)?,
            counts: Counts::default(),
            marks,
            segments,
            cursors: Cursors::default(),
            log,
            groups: 0,
        })
    }

    pub(crate) fn identity_key(&self) -> IdentityKey {
        self.base.key.clone()
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
        events::unrouted(&self.base, limit).map_err(Fault::trouble)
    }

    pub fn claim(
        &self,
        destination: DestinationId,
        room: [u16; Queue::ALL.len()],
        now: Millis,
    ) -> Result<(Vec<Claim>, Option<Millis>), Trouble> {
        claim::claim(&self.base, destination, room, now).map_err(Fault::trouble)
    }

    pub fn work(&self) -> Result<Vec<DestinationId>, Trouble> {
        claim::work(&self.base).map_err(Fault::trouble)
    }

    pub fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<DeliveryRow>, Trouble> {
        deliveries::list(&self.base, filter).map_err(Fault::trouble)
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
        apply: fn(&mut Journal, &Prepared) -> Result<Result<Wrote, Trouble>, GroupFault>,
    ) -> Result<Vec<Result<Wrote, Trouble>>, GroupFault> {
        let marks = self.marks;
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
                self.roll_back();
            }
        }
        done
    }

    /// Without a savepoint: a refusal that has changed nothing stands; one that has ends the transaction.
    fn apply_plain(&mut self, write: &Prepared) -> Result<Result<Wrote, Trouble>, GroupFault> {
        let before = self.base.conn.total_changes();
        match self.apply(write) {
            Ok(wrote) => Ok(Ok(wrote)),
            Err(fault) if fault.is_of_the_file() => Err(GroupFault::All(fault.trouble())),
            Err(fault) if self.base.conn.total_changes() == before => Ok(Err(fault.trouble())),
            Err(_) => Err(GroupFault::OneOfThem),
        }
    }

    fn apply_guarded(&mut self, write: &Prepared) -> Result<Result<Wrote, Trouble>, GroupFault> {
        let (counts, marks) = (self.counts.clone(), self.marks);
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
                self.base.forget_names();
                self.segments.read_again(&self.base.conn).map_err(broken)?;
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
        if let Err(error) = self.segments.read_again(&self.base.conn) {
            tracing::error!(%error, "the dedupe segments could not be read after a failed write");
        }
    }

    fn apply(&mut self, write: &Prepared) -> Result<Wrote, Fault> {
        match &write.what {
            What::Accept { receipt, arrivals } => accept::accept(self, receipt, arrivals),
            What::Route { fence, routed, identities } => route::route(self, *fence, routed, identities),
            What::Name { tenant, kind, name } => standing::name(&self.base, tenant, *kind, name),
            What::Write(write) => self.apply_write(write),
        }
    }

    fn apply_write(&mut self, write: &Write) -> Result<Wrote, Fault> {
        match write {
            Write::Settle { destination, fence, settlements, attempts, at } => {
                settle::settle(self, *destination, *fence, settlements, attempts, *at)
            }
            Write::Offer { offers, again, at } => offer::offer(self, offers, *again, *at),
            Write::Discard { delivery, note, at } => offer::discard(self, *delivery, note, *at),
            Write::Stand { destination, paused, at } => {
                standing::stand(&self.base, *destination, paused.as_ref(), *at)
            }
            Write::Refused(request) => refused::keep(self, request),
            Write::Key(key) => keys::make(&self.base, key),
            Write::RevokeKey { id, at } => keys::revoke(&self.base, *id, *at),
            Write::KeyUsed { id, at } => keys::used(&self.base, *id, *at),
            Write::Lease { name, owner, now, until } => leases::take(&self.base, name, *owner, *now, *until),
            Write::Retain(keep) => retain::step(self, *keep),
            // `prepare` makes other values of these two.
            Write::Accept(_) | Write::Route { .. } => {
                Err(Fault::refused("unprepared", "a write was not prepared"))
            }
        }
    }

    /// Between two groups: cuts the log back when it has grown.
    pub(crate) fn tidy(&mut self) {
        self.groups = self.groups.wrapping_add(1);
        if !self.groups.is_multiple_of(LOG_LOOK_GROUPS) {
            return;
        }
        let Some(log) = &self.log else { return };
        let bytes = std::fs::metadata(log).map_or(0, |meta| meta.len());
        if bytes > LOG_BYTES_MAX {
            // Readers may hold it: the next look tries again.
            let cut = self.base.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            tracing::debug!(bytes, ok = cut.is_ok(), "the log was cut back");
        }
    }
}

/// Why a transaction was ended.
enum GroupFault {
    /// The file or the disk.
    All(Trouble),
    /// One write failed after it had changed something.
    OneOfThem,
}

fn broken(error: rusqlite::Error) -> GroupFault {
    GroupFault::All(Trouble::Broken(error.to_string()))
}

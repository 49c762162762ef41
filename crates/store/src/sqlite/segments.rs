//! Dedupe keys in runs: the tree being written stays small, closed runs answer from a filter in
//! memory, and retention drops a run whole.

use mailspan_core::limits::{DEDUPE_SEGMENTS_MAX, SEGMENT_AGE_MS_MAX};
use mailspan_core::{Millis, Seq};
use rusqlite::{Connection, OptionalExtension, params};

use super::base::{Base, Fault};
use super::journal::Marks;
use crate::filter::{FILTER_VERSION, Filter};

/// State of a segment, as stored.
pub(crate) const OPEN: i64 = 0;
pub(crate) const CLOSED: i64 = 1;
pub(crate) const DROPPING: i64 = 2;
pub(crate) const DROPPED: i64 = 3;

pub(crate) struct Segments {
    keys_max: i64,
    open: Option<Open>,
    closed: Vec<(i64, Filter)>,
    /// A segment was opened, closed or dropped in a transaction that is not committed yet.
    changed: bool,
}

struct Open {
    id: i64,
    opened_at: i64,
    keys: i64,
    filter: Filter,
}

impl Segments {
    pub(crate) fn read(conn: &Connection, keys_max: i64) -> rusqlite::Result<Segments> {
        let mut segments = Segments { keys_max: keys_max.max(1), open: None, closed: vec![], changed: false };
        let mut statement = conn.prepare(
            "SELECT id, opened_at, state, v, filter FROM segments WHERE state IN (0, 1) ORDER BY id",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, opened_at, state): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if state == OPEN {
                let (keys, filter) = fill(conn, id, keys_max)?;
                segments.open = Some(Open { id, opened_at, keys, filter });
                continue;
            }
            let version: i64 = row.get(3)?;
            let stored: Option<Vec<u8>> = row.get(4)?;
            let kept = stored.filter(|_| version == FILTER_VERSION).and_then(Filter::from_bytes);
            let filter = match kept {
                Some(filter) => filter,
                None => fill(conn, id, keys_max)?.1,
            };
            segments.closed.push((id, filter));
        }
        Ok(segments)
    }

    /// After a rollback. Keys that a filter holds too many are harmless: a hit is confirmed.
    pub(crate) fn read_again(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        if self.changed {
            // Still not committed: should the whole transaction fail, it is read once more.
            *self = Segments { changed: true, ..Segments::read(conn, self.keys_max)? };
        }
        Ok(())
    }

    pub(crate) fn committed(&mut self) {
        self.changed = false;
    }

    /// Closes the open segment when it is full or a day old, and sees to it that one is open.
    pub(crate) fn roll(&mut self, base: &Base, marks: &Marks, now: Millis) -> Result<(), Fault> {
        if let Some(open) = &self.open
            && open.keys < self.keys_max
            && now.0 < open.opened_at.saturating_add(SEGMENT_AGE_MS_MAX)
        {
            return Ok(());
        }
        self.changed = true;
        if let Some(open) = self.open.take() {
            self.close(base, open, now)?;
        }
        base.sql(
                "INSERT INTO segments (first_seq, first_request, opened_at, state, v) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![marks.seq + 1, marks.request + 1, now.0, OPEN, FILTER_VERSION])?;
        let id = base.conn.last_insert_rowid();
        self.open = Some(Open { id, opened_at: now.0, keys: 0, filter: Filter::for_keys(self.keys_max) });
        Ok(())
    }

    fn close(&mut self, base: &Base, open: Open, now: Millis) -> Result<(), Fault> {
        // A quiet day needs no filter for a loud one.
        let filter = if open.keys <= self.keys_max / 2 {
            fill(&base.conn, open.id, open.keys)?.1
        } else {
            open.filter
        };
        base.sql("UPDATE segments SET state = ?2, closed_at = ?3, v = ?4, filter = ?5 WHERE id = ?1")?
            .execute(params![open.id, CLOSED, now.0, FILTER_VERSION, filter.as_bytes()])?;
        self.closed.push((open.id, filter));
        if self.closed.len() > DEDUPE_SEGMENTS_MAX {
            let (oldest, _) = self.closed.remove(0);
            tracing::warn!(
                segment = oldest,
                "too many dedupe keys: the oldest are forgotten before their time; duplicates that old will be accepted"
            );
            // Retention drops the rows at its next step, whatever the time.
            base.sql("UPDATE segments SET state = ?2, closed_at = 0, filter = NULL WHERE id = ?1")?
                .execute(params![oldest, DROPPING])?;
        }
        Ok(())
    }

    /// True when the key is new: then it is kept. Needs an open segment ([`Segments::roll`]).
    pub(crate) fn is_new(&mut self, base: &Base, key: &[u8; 16], seq: Seq) -> Result<bool, Fault> {
        for (id, filter) in self.closed.iter().rev() {
            if filter.may_hold(key) && holds(base, *id, key)? {
                return Ok(false);
            }
        }
        let Some(open) = &mut self.open else {
            return Err(Fault::refused("no_segment", "no dedupe segment is open"));
        };
        let kept = base
            .sql("INSERT INTO keys_seen (segment, key, seq) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
            .execute(params![open.id, key, seq.0])?;
        if kept == 1 {
            open.keys += 1;
            open.filter.add(key);
        }
        Ok(kept == 1)
    }

    /// One step of dropping segments that were closed before `until`: at most `rows_max` keys.
    pub(crate) fn drop_step(
        &mut self,
        base: &Base,
        marks: &Marks,
        until: Millis,
        now: Millis,
        rows_max: usize,
    ) -> Result<usize, Fault> {
        // A store where nothing arrives any more still forgets.
        if self.open.as_ref().is_some_and(|open| open.keys > 0 && open.opened_at < until.0) {
            self.roll(base, marks, now)?;
        }
        let oldest: Option<i64> = base
            .sql("SELECT id FROM segments WHERE state IN (1, 2) AND closed_at < ?1 ORDER BY id LIMIT 1")?
            .query_row([until.0], |row| row.get(0))
            .optional()?;
        let Some(id) = oldest else { return Ok(0) };
        self.changed = true;
        self.closed.retain(|(closed, _)| *closed != id);
        let rows = base
            .sql(
                "DELETE FROM keys_seen WHERE segment = ?1
                 AND key IN (SELECT key FROM keys_seen WHERE segment = ?1 ORDER BY key LIMIT ?2)",
            )?
            .execute(params![id, rows_max as i64])?;
        let state = if rows < rows_max { DROPPED } else { DROPPING };
        base.sql("UPDATE segments SET state = ?2, filter = NULL WHERE id = ?1")?
            .execute(params![id, state])?;
        Ok(rows.max(1))
    }
}

fn holds(base: &Base, segment: i64, key: &[u8; 16]) -> Result<bool, Fault> {
    Ok(base.sql("SELECT 1 FROM keys_seen WHERE segment = ?1 AND key = ?2")?.exists(params![segment, key])?)
}

fn fill(conn: &Connection, segment: i64, keys_max: i64) -> rusqlite::Result<(i64, Filter)> {
    let mut filter = Filter::for_keys(keys_max);
    let mut keys = 0;
    let mut statement = conn.prepare("SELECT key FROM keys_seen WHERE segment = ?1")?;
    let mut rows = statement.query([segment])?;
    while let Some(row) = rows.next()? {
        filter.add(&row.get(0)?);
        keys += 1;
    }
    Ok((keys, filter))
}

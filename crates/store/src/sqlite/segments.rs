//! Dedupe keys in segments, which retention drops whole. Closed ones answer from a filter in memory.
//!
//! A key is random, so each one put in its place would change a page of its own. In the open segment new keys
//! are therefore written one behind the other (in the order of `seq`) and known in memory; every few thousand
//! are put in order at once, as a run. A row's key says what it is: `ff` + seq + key is new, a number below `ff`
//! + key stands in that run, a bare key was written before there were runs.

use std::collections::HashMap;

use mailspan_core::limits::{DEDUPE_SEGMENTS_MAX, SEGMENT_AGE_MS_MAX};
use mailspan_core::{Millis, Seq};
use rusqlite::{Connection, OptionalExtension, params};

use super::base::{Base, Fault};
use super::held::Held;
use super::journal::Marks;
use super::runs::{self, Runs, WITH_RUNS};
use crate::filter::{FILTER_VERSION, Filter};

/// State of a segment, as stored.
pub(crate) const OPEN: i64 = 0;
pub(crate) const CLOSED: i64 = 1;
pub(crate) const DROPPING: i64 = 2;
pub(crate) const DROPPED: i64 = 3;

/// New keys that become a run: 300 KB of memory, and 8 ms of the writer when they are put in order.
const RUN_KEYS_MAX: i64 = 8_192;
/// The first byte of a new key's row; the numbers of runs stay below.
const NEW: u8 = 0xff;
const NEW_BYTES: usize = 25;

type Key = [u8; 16];

pub(crate) struct Segments {
    keys_max: i64,
    open: Option<Open>,
    closed: Vec<Closed>,
    /// A segment was opened, closed or dropped, or a run was made, in a transaction that is not committed yet.
    changed: bool,
    /// New keys of this transaction: a rollback takes them back.
    added: Vec<Key>,
}

struct Closed {
    id: i64,
    filter: Filter,
    /// Nothing of one that was closed before there were filters of runs.
    runs: Option<Runs>,
}

struct Open {
    id: i64,
    opened_at: i64,
    keys: i64,
    filter: Filter,
    runs: Runs,
    /// New keys with their `seq`.
    new: HashMap<Key, i64>,
    /// The number of the next run.
    run: u8,
}

impl Segments {
    pub(crate) fn read(conn: &Connection, keys_max: i64) -> rusqlite::Result<Segments> {
        let mut segments =
            Segments { keys_max: keys_max.max(1), open: None, closed: vec![], changed: false, added: vec![] };
        let mut statement = conn.prepare(
            "SELECT id, opened_at, state, v, filter FROM segments WHERE state IN (0, 1) ORDER BY id",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, opened_at, state): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if state == OPEN {
                segments.open = Some(read_open(conn, id, opened_at, keys_max)?);
                continue;
            }
            let version: i64 = row.get(3)?;
            let stored: Option<Vec<u8>> = row.get(4)?;
            let (filter, runs) = match stored.and_then(|bytes| runs::unpack(version, bytes)) {
                Some(kept) => kept,
                None => {
                    let Filled { filter, runs, .. } = fill(conn, id, keys_max)?;
                    (filter, Some(runs))
                }
            };
            segments.closed.push(Closed { id, filter, runs });
        }
        Ok(segments)
    }

    /// Where a rollback to this moment would go back to.
    pub(crate) fn mark(&self) -> usize {
        self.added.len()
    }

    /// After a rollback to a mark. Keys that a filter holds too many are harmless: a hit is confirmed.
    pub(crate) fn undo(&mut self, conn: &Connection, mark: usize) -> rusqlite::Result<()> {
        if self.changed {
            // Still not committed: should the whole transaction fail, it is read once more.
            *self = Segments { changed: true, ..Segments::read(conn, self.keys_max)? };
        }
        let undone = self.added.drain(mark.min(self.added.len())..);
        if let Some(open) = &mut self.open {
            undone.for_each(|key| open.keys -= i64::from(open.new.remove(&key).is_some()));
        }
        Ok(())
    }

    pub(crate) fn committed(&mut self) {
        self.changed = false;
        self.added.clear();
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
        let filter = Filter::for_keys(self.keys_max);
        let runs = Runs::default();
        self.open = Some(Open { id, opened_at: now.0, keys: 0, filter, runs, new: HashMap::new(), run: 0 });
        Ok(())
    }

    fn close(&mut self, base: &Base, mut open: Open, now: Millis) -> Result<(), Fault> {
        put_in_order(base, &mut open)?;
        // A quiet day needs no filter for a loud one.
        let filter = if open.keys <= self.keys_max / 2 {
            fill(&base.conn, open.id, open.keys)?.filter
        } else {
            open.filter
        };
        let stored = open.runs.pack(&filter);
        base.sql("UPDATE segments SET state = ?2, closed_at = ?3, v = ?4, filter = ?5 WHERE id = ?1")?
            .execute(params![open.id, CLOSED, now.0, WITH_RUNS, stored])?;
        self.closed.push(Closed { id: open.id, filter, runs: Some(open.runs) });
        if self.closed.len() > DEDUPE_SEGMENTS_MAX {
            let oldest = self.closed.remove(0).id;
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
    pub(crate) fn is_new(&mut self, base: &Held, key: &[u8; 16], seq: Seq) -> Result<bool, Fault> {
        let Some(open) = &mut self.open else {
            return Err(Fault::refused("no_segment", "no dedupe segment is open"));
        };
        // Who repeats mostly does so soon: the newest first.
        if open.new.contains_key(key)
            || open.filter.may_hold(key) && holds(base, open.id, Some(&open.runs), key)?
        {
            return Ok(false);
        }
        for closed in self.closed.iter().rev() {
            if closed.filter.may_hold(key) && holds(base, closed.id, closed.runs.as_ref(), key)? {
                return Ok(false);
            }
        }
        base.sql("INSERT INTO keys_seen (segment, key, seq) VALUES (?1, ?2, ?3)")?.execute(params![
            open.id,
            new_row(key, seq.0),
            seq.0
        ])?;
        open.new.insert(*key, seq.0);
        open.filter.add(key);
        open.keys += 1;
        self.added.push(*key);
        if open.new.len() as i64 >= RUN_KEYS_MAX.min(self.keys_max / 4 + 1) {
            self.changed = true;
            put_in_order(base, open)?;
        }
        Ok(true)
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
        self.closed.retain(|closed| closed.id != id);
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

/// `ff`, the number, the key: rows in the order written.
fn new_row(key: &Key, seq: i64) -> [u8; NEW_BYTES] {
    let mut row = [NEW; NEW_BYTES];
    row[1..9].copy_from_slice(&seq.to_be_bytes());
    row[9..].copy_from_slice(key);
    row
}

/// The number of the run, the key.
fn run_row(key: &Key, run: u8) -> [u8; 17] {
    let mut row = [run; 17];
    row[1..].copy_from_slice(key);
    row
}

/// Makes a run of what is new: neighbours come one after the other, so a page is changed once for all its keys.
fn put_in_order(base: &Base, open: &mut Open) -> Result<(), Fault> {
    if open.new.is_empty() {
        return Ok(());
    }
    let mut keys: Vec<(Key, i64)> = open.new.drain().collect();
    keys.sort_unstable();
    let mut keep = base.sql("INSERT INTO keys_seen (segment, key, seq) VALUES (?1, ?2, ?3)")?;
    for (key, seq) in &keys {
        keep.execute(params![open.id, run_row(key, open.run), seq])?;
        open.runs.add(open.run, key);
    }
    base.sql("DELETE FROM keys_seen WHERE segment = ?1 AND key >= ?2 AND length(key) = ?3")?
        .execute(params![open.id, [NEW], NEW_BYTES as i64])?;
    // More runs than numbers would need a segment of two million keys: the last one then takes them all.
    open.run = open.run.saturating_add(1).min(NEW - 1);
    Ok(())
}

/// True when the key stands in a run of the segment, or bare: only for what a filter may hold.
fn holds(base: &Base, segment: i64, runs: Option<&Runs>, key: &Key) -> Result<bool, Fault> {
    let mut stands = base.sql("SELECT 1 FROM keys_seen WHERE segment = ?1 AND key = ?2")?;
    let Some(runs) = runs else {
        return Ok(stands.exists(params![segment, key])? || in_any_run(base, segment, key)?);
    };
    for run in runs.of(key) {
        if stands.exists(params![segment, run_row(key, run)])? {
            return Ok(true);
        }
    }
    Ok(runs.bare && stands.exists(params![segment, key])?)
}

/// Where it is not known which runs may hold it: one probe a run.
fn in_any_run(base: &Base, segment: i64, key: &Key) -> Result<bool, Fault> {
    let mut next =
        base.sql("SELECT key FROM keys_seen WHERE segment = ?1 AND key >= ?2 ORDER BY key LIMIT 1")?;
    let mut run = 0;
    while run < NEW {
        let wanted = run_row(key, run);
        let found: Option<Vec<u8>> = next.query_row(params![segment, wanted], |row| row.get(0)).optional()?;
        match found {
            Some(found) if found == wanted => return Ok(true),
            // Nothing up to the run where this one stands.
            Some(found) => run = found.first().copied().unwrap_or(NEW).max(run + 1),
            None => return Ok(false),
        }
    }
    Ok(false)
}

fn read_open(conn: &Connection, id: i64, opened_at: i64, keys_max: i64) -> rusqlite::Result<Open> {
    let Filled { keys, filter, runs } = fill(conn, id, keys_max)?;
    let mut open = Open { id, opened_at, keys, filter, runs, new: HashMap::new(), run: 0 };
    let mut statement = conn.prepare("SELECT key, seq FROM keys_seen WHERE segment = ?1")?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        match row.get_ref(0)?.as_blob()? {
            [NEW, rest @ ..] if rest.len() == NEW_BYTES - 1 => {
                let seq = row.get(1)?;
                open.new.extend(rest.last_chunk().map(|key| (*key, seq)));
            }
            [run, rest @ ..] if rest.len() == 16 => open.run = open.run.max(run.saturating_add(1)),
            _ => {}
        }
    }
    Ok(open)
}

/// What the rows of a segment say.
struct Filled {
    keys: i64,
    filter: Filter,
    runs: Runs,
}

fn fill(conn: &Connection, segment: i64, keys_max: i64) -> rusqlite::Result<Filled> {
    let (mut filter, mut runs, mut keys) = (Filter::for_keys(keys_max), Runs::default(), 0);
    let mut statement = conn.prepare("SELECT key FROM keys_seen WHERE segment = ?1")?;
    let mut rows = statement.query([segment])?;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(0)?.as_blob()?;
        let Some(key) = bytes.last_chunk() else { continue };
        filter.add(key);
        keys += 1;
        match bytes {
            [run, rest @ ..] if rest.len() == 16 => runs.add(*run, key),
            _ => runs.bare |= bytes.len() == 16,
        }
    }
    Ok(Filled { keys, filter, runs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::Journal;
    use mailspan_core::SplitMix64;

    const KEYS_MAX: i64 = 400;

    fn key(random: &mut SplitMix64) -> Key {
        (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).to_be_bytes()
    }

    fn sql(journal: &Journal, sql: &str) {
        journal.base.conn.execute_batch(sql).unwrap();
    }

    fn is_new(journal: &mut Journal, key: &Key) -> bool {
        journal.segments.roll(&journal.base, &journal.marks, Millis(0)).unwrap();
        journal.marks.seq += 1;
        journal.segments.is_new(&Held::new(&journal.base), key, Seq(journal.marks.seq)).unwrap()
    }

    #[test]
    fn each_key_is_new_once_through_runs_rollbacks_and_starts() {
        let mut random = SplitMix64(5);
        let mut journal = Journal::in_memory(1, KEYS_MAX).unwrap();
        let mut known: Vec<Key> = vec![];
        for _ in 0..150 {
            sql(&journal, "BEGIN");
            let mut added: Vec<Key> = vec![];
            for _ in 0..random.below(40) {
                let seen = known.len() + added.len();
                let key = match random.below(3) {
                    0 if seen > 0 => {
                        *known.iter().chain(&added).nth(random.below(seen as u64) as usize).unwrap()
                    }
                    _ => key(&mut random),
                };
                let expected = !known.contains(&key) && !added.contains(&key);
                assert_eq!(is_new(&mut journal, &key), expected);
                added.extend(expected.then_some(key));
            }
            if random.below(4) == 0 {
                sql(&journal, "ROLLBACK");
                journal.segments.undo(&journal.base.conn, 0).unwrap();
            } else {
                sql(&journal, "COMMIT");
                journal.segments.committed();
                known.extend(added);
            }
            if random.below(10) == 0 {
                journal.segments = Segments::read(&journal.base.conn, KEYS_MAX).unwrap();
            }
        }
        assert!(known.len() as i64 > 3 * KEYS_MAX, "{} keys: too few for several segments", known.len());
        let rows: i64 =
            journal.base.conn.query_row("SELECT count(*) FROM keys_seen", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, known.len() as i64);
    }

    #[test]
    fn a_rollback_to_a_mark_keeps_what_was_before() {
        let mut random = SplitMix64(6);
        let mut journal = Journal::in_memory(1, KEYS_MAX).unwrap();
        let (first, second) = (key(&mut random), key(&mut random));
        sql(&journal, "BEGIN");
        assert!(is_new(&mut journal, &first));
        let mark = journal.segments.mark();
        journal.segments.changed = false;
        sql(&journal, "SAVEPOINT one");
        assert!(is_new(&mut journal, &second));
        sql(&journal, "ROLLBACK TO one; RELEASE one");
        journal.segments.undo(&journal.base.conn, mark).unwrap();
        assert!(!is_new(&mut journal, &first));
        assert!(is_new(&mut journal, &second));
    }

    #[test]
    fn bare_keys_of_before_are_known() {
        let mut random = SplitMix64(7);
        let mut journal = Journal::in_memory(1, KEYS_MAX).unwrap();
        assert!(is_new(&mut journal, &key(&mut random)));
        let bare: Vec<Key> = (0..100).map(|_| key(&mut random)).collect();
        for key in &bare {
            let row = params![key, 1];
            journal.base.conn.execute("INSERT INTO keys_seen VALUES (1, ?1, ?2)", row).unwrap();
        }
        journal.segments = Segments::read(&journal.base.conn, KEYS_MAX).unwrap();
        // So many that runs are made beside the bare ones.
        let later: Vec<Key> = (0..250).map(|_| key(&mut random)).collect();
        assert!(later.iter().all(|key| is_new(&mut journal, key)));
        assert!(bare.iter().chain(&later).all(|key| !is_new(&mut journal, key)));
    }

    #[test]
    fn filters_of_before_and_of_runs_answer_the_same() {
        let mut random = SplitMix64(8);
        let mut journal = Journal::in_memory(1, KEYS_MAX).unwrap();
        let known: Vec<Key> = (0..5 * KEYS_MAX).map(|_| key(&mut random)).collect();
        assert!(known.iter().all(|key| is_new(&mut journal, key)));
        let stored = "SELECT count(*) FROM segments WHERE state = 1 AND v = 2";
        let closed: i64 = journal.base.conn.query_row(stored, [], |row| row.get(0)).unwrap();
        assert!(closed >= 4, "{closed} closed segments");
        let check = |journal: &mut Journal, random: &mut SplitMix64| {
            journal.segments = Segments::read(&journal.base.conn, KEYS_MAX).unwrap();
            assert!(known.iter().all(|key| !is_new(journal, key)));
            assert!((0..20).all(|_| is_new(journal, &key(random))));
        };
        check(&mut journal, &mut random);
        // As an earlier version left them, with no filters of runs; then none at all.
        for segment in &mut journal.segments.closed {
            segment.runs = None;
        }
        assert!(known.iter().all(|key| !is_new(&mut journal, key)));
        sql(&journal, "UPDATE segments SET filter = NULL");
        check(&mut journal, &mut random);
    }
}

//! Dedupe keys in runs, shared by all nodes. Who accepts holds a lock in share mode that a change of the open
//! run takes alone: no key goes into a run that another node has closed already, and what is closed is known to
//! all before the next key is looked for. A closed run without a filter in memory is asked by its index.

use std::collections::{HashMap, HashSet};

use mailspan_core::Millis;
use mailspan_core::limits::{DEDUPE_SEGMENTS_MAX, SEGMENT_AGE_MS_MAX, SEGMENT_KEYS_MAX};

use super::base::{Base, Fault, get};
use crate::filter::{FILTER_VERSION, Filter};
use crate::sqlite::segments::{CLOSED, DROPPED, DROPPING, OPEN};

const LOCK: &str = "hashtext('mailspan segments'), hashtext(current_schema())";

pub(crate) type DedupeKey = [u8; 16];

pub(crate) struct Segments {
    keys_max: i64,
    /// The open segment, where `closed` is all that is closed beside it.
    open: Option<Open>,
    /// The open segment as it was last seen: says when to look whether it is full.
    seen: Option<Open>,
    closed: Vec<(i64, Option<Filter>)>,
    filling: Option<Filling>,
    /// The highest number that this node has seen given to an event.
    last_seq: i64,
}

/// Keys read in one step of making a filter: a few milliseconds of the writer.
const KEYS_A_STEP: i64 = 8_192;

/// A filter in the making: the segment's keys up to `last` are in it.
struct Filling {
    segment: i64,
    filter: Filter,
    last: Vec<u8>,
}

enum Filled {
    Whole(Filter),
    Empty(Filter),
}

#[derive(Debug, Clone, Copy)]
struct Open {
    id: i64,
    first_seq: i64,
    opened_at: i64,
}

impl Segments {
    pub(crate) fn new(keys_max: i64) -> Segments {
        Segments {
            keys_max: keys_max.max(1),
            open: None,
            seen: None,
            closed: vec![],
            filling: None,
            last_seq: 0,
        }
    }

    pub(crate) fn saw(&mut self, seq: i64) {
        self.last_seq = self.last_seq.max(seq);
    }

    /// What is in memory is read again at the next look.
    pub(crate) fn forget(&mut self) {
        (self.open, self.seen) = (None, None);
    }

    fn is_over(&self, open: Open, last_seq: i64, now: Millis) -> bool {
        last_seq - open.first_seq + 1 >= self.keys_max
            || now.0 >= open.opened_at.saturating_add(SEGMENT_AGE_MS_MAX)
    }

    /// Before a group, in a transaction of its own: closes the open segment when it is full or a day old (or
    /// was opened before `until` and holds something), and sees to it that one is open.
    pub(crate) async fn roll(
        &mut self,
        base: &Base,
        now: Millis,
        until: Option<Millis>,
    ) -> Result<(), Fault> {
        // Looked at without the lock: a node that starts waits for no other.
        if self.seen.is_none() {
            self.seen = read_open(base).await?;
        }
        if let Some(open) = self.seen
            && !self.is_over(open, self.last_seq, now)
            && until.is_none_or(|until| open.opened_at >= until.0)
        {
            return Ok(());
        }
        base.batch("BEGIN").await?;
        base.batch(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
        let open = read_open(base).await?;
        let row =
            base.row("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM events_seq", &[]).await?;
        let last_seq: i64 = row.map_or(Ok(0), |row| get(&row, 0))?;
        let over = match (open, until) {
            (None, _) => true,
            (Some(open), Some(until)) if open.opened_at < until.0 => holds_any(base, open.id).await?,
            (Some(open), _) => self.is_over(open, last_seq, now),
        };
        if over {
            self.open_next(base, open, last_seq, now).await?;
        }
        self.seen = read_open(base).await?;
        base.batch("COMMIT").await
    }

    async fn open_next(
        &mut self,
        base: &Base,
        open: Option<Open>,
        last_seq: i64,
        now: Millis,
    ) -> Result<(), Fault> {
        self.forget();
        if let Some(open) = open {
            let sql = "UPDATE segments SET state = $2, closed_at = $3 WHERE id = $1";
            base.execute(sql, &[&open.id, &CLOSED, &now.0]).await?;
        }
        base.execute(
            "INSERT INTO segments (first_seq, opened_at, state, v) VALUES ($1, $2, $3, $4)",
            &[&(last_seq + 1), &now.0, &OPEN, &FILTER_VERSION],
        )
        .await?;
        // Retention drops the rows at its next step, whatever the time.
        let forgotten = base
            .execute(
                "UPDATE segments SET state = $1, closed_at = 0, filter = NULL WHERE id IN
                 (SELECT id FROM segments WHERE state = 1 ORDER BY id DESC OFFSET $2)",
                &[&DROPPING, &(DEDUPE_SEGMENTS_MAX as i64)],
            )
            .await?;
        if forgotten > 0 {
            tracing::warn!(
                "too many dedupe keys: the oldest are forgotten before their time; duplicates that old will be accepted"
            );
        }
        Ok(())
    }

    /// Inside a group's transaction: until it ends, no node opens another segment.
    pub(crate) async fn hold(&mut self, base: &Base) -> Result<(), Fault> {
        base.batch(&format!("SELECT pg_advisory_xact_lock_shared({LOCK})")).await?;
        let open = read_open(base)
            .await?
            .ok_or_else(|| Fault::refused("no_segment", "no dedupe segment is open"))?;
        if self.open.is_some_and(|known| known.id == open.id) {
            return Ok(());
        }
        let rows = base.rows("SELECT id FROM segments WHERE state = 1 ORDER BY id", &[]).await?;
        let mut known: HashMap<i64, Option<Filter>> = self.closed.drain(..).collect();
        for row in &rows {
            let id = get(row, 0)?;
            self.closed.push((id, known.remove(&id).flatten()));
        }
        (self.open, self.seen) = (Some(open), Some(open));
        Ok(())
    }

    /// Those of the keys that are in closed segments.
    pub(crate) async fn closed_with(
        &self,
        base: &Base,
        keys: &[DedupeKey],
    ) -> Result<HashSet<DedupeKey>, Fault> {
        let (mut segments, mut asked) = (vec![], vec![]);
        for (id, filter) in &self.closed {
            for key in keys {
                if filter.as_ref().is_none_or(|filter| filter.may_hold(key)) {
                    segments.push(*id);
                    asked.push(&key[..]);
                }
            }
        }
        if asked.is_empty() {
            return Ok(HashSet::new());
        }
        let rows = base
            .rows(
                "SELECT k.key FROM unnest($1::bigint[], $2::bytea[]) AS a (segment, key)
                 JOIN keys_seen k ON k.segment = a.segment AND k.key = a.key",
                &[&segments, &asked],
            )
            .await?;
        rows.iter().map(key_of).collect()
    }

    /// Keeps keys, sorted, in the open segment; gives those that were new there.
    pub(crate) async fn keep(
        &self,
        base: &Base,
        keys: &[(DedupeKey, i64)],
    ) -> Result<HashSet<DedupeKey>, Fault> {
        let Some(open) = self.open else {
            return Err(Fault::refused("no_segment", "no dedupe segment is open"));
        };
        let bytes: Vec<&[u8]> = keys.iter().map(|(key, _)| &key[..]).collect();
        let seqs: Vec<i64> = keys.iter().map(|(_, seq)| *seq).collect();
        let rows = base
            .written(
                "INSERT INTO keys_seen (segment, key, seq)
                 SELECT $1, k.key, k.seq FROM unnest($2::bytea[], $3::bigint[]) AS k (key, seq)
                 ON CONFLICT DO NOTHING RETURNING key",
                &[&open.id, &bytes, &seqs],
            )
            .await?;
        rows.iter().map(key_of).collect()
    }

    /// Between two groups: gets the filter of one closed segment, or makes a part of it where nobody has.
    pub(crate) async fn load_some(&mut self, base: &Base) -> Result<(), Fault> {
        let Some(id) = self.closed.iter().find(|(_, filter)| filter.is_none()).map(|(id, _)| *id) else {
            self.filling = None;
            return Ok(());
        };
        let mut filling = match self.filling.take().filter(|filling| filling.segment == id) {
            Some(filling) => filling,
            None => match stored_or_empty(base, id).await? {
                Filled::Whole(filter) => {
                    self.set_filter(id, filter);
                    return Ok(());
                }
                Filled::Empty(filter) => Filling { segment: id, filter, last: vec![] },
            },
        };
        let sql = "SELECT key FROM keys_seen WHERE segment = $1 AND key > $2 ORDER BY key LIMIT $3";
        let rows = base.rows(sql, &[&id, &filling.last, &KEYS_A_STEP]).await?;
        for row in &rows {
            filling.filter.add(&key_of(row)?);
        }
        if (rows.len() as i64) < KEYS_A_STEP {
            let sql = "UPDATE segments SET filter = $2, v = $3 WHERE id = $1 AND state = 1";
            base.execute(sql, &[&id, &filling.filter.as_bytes(), &FILTER_VERSION]).await?;
            self.set_filter(id, filling.filter);
            return Ok(());
        }
        filling.last =
            rows.last().map(|row| key_of(row).map(|key| key.to_vec())).transpose()?.unwrap_or_default();
        self.filling = Some(filling);
        Ok(())
    }

    fn set_filter(&mut self, id: i64, filter: Filter) {
        if let Some((_, place)) = self.closed.iter_mut().find(|(closed, _)| *closed == id) {
            *place = Some(filter);
        }
    }

    /// One step of dropping segments that were closed before `until`: at most `rows_max` keys.
    pub(crate) async fn drop_step(
        &mut self,
        base: &Base,
        until: Millis,
        rows_max: usize,
    ) -> Result<usize, Fault> {
        let sql = "SELECT id FROM segments WHERE state IN (1, 2) AND closed_at < $1 ORDER BY id LIMIT 1";
        let Some(row) = base.row(sql, &[&until.0]).await? else { return Ok(0) };
        let id: i64 = get(&row, 0)?;
        self.closed.retain(|(closed, _)| *closed != id);
        let rows = base
            .execute(
                "DELETE FROM keys_seen WHERE segment = $1
                 AND key IN (SELECT key FROM keys_seen WHERE segment = $1 ORDER BY key LIMIT $2)",
                &[&id, &(rows_max as i64)],
            )
            .await? as usize;
        let state = if rows < rows_max { DROPPED } else { DROPPING };
        base.execute("UPDATE segments SET state = $2, filter = NULL WHERE id = $1", &[&id, &state]).await?;
        Ok(rows.max(1))
    }
}

/// The stored filter, or an empty one with room for as many keys as the segment has numbers of events.
async fn stored_or_empty(base: &Base, segment: i64) -> Result<Filled, Fault> {
    let row = base
        .row(
            "SELECT s.v, s.filter,
                (SELECT min(n.first_seq) FROM segments n WHERE n.id > s.id) - s.first_seq AS numbers
             FROM segments s WHERE s.id = $1",
            &[&segment],
        )
        .await?;
    let Some(row) = row else { return Ok(Filled::Whole(Filter::for_keys(0))) };
    let is_known = get::<i64, _>(&row, "v")? == FILTER_VERSION;
    let stored: Option<Vec<u8>> = get(&row, "filter")?;
    if let Some(filter) = stored.filter(|_| is_known).and_then(Filter::from_bytes) {
        return Ok(Filled::Whole(filter));
    }
    let numbers: Option<i64> = get(&row, "numbers")?;
    Ok(Filled::Empty(Filter::for_keys(numbers.unwrap_or(SEGMENT_KEYS_MAX).clamp(0, 4 * SEGMENT_KEYS_MAX))))
}

fn key_of(row: &tokio_postgres::Row) -> Result<DedupeKey, Fault> {
    let bytes: &[u8] = get(row, 0)?;
    bytes.try_into().map_err(|_| Fault::unreadable("dedupe key", 0))
}

async fn read_open(base: &Base) -> Result<Option<Open>, Fault> {
    let row = base.row("SELECT id, first_seq, opened_at FROM segments WHERE state = 0", &[]).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Open { id: get(&row, 0)?, first_seq: get(&row, 1)?, opened_at: get(&row, 2)? }))
}

async fn holds_any(base: &Base, segment: i64) -> Result<bool, Fault> {
    Ok(base.row("SELECT 1 FROM keys_seen WHERE segment = $1 LIMIT 1", &[&segment]).await?.is_some())
}

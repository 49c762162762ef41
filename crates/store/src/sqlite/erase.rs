//! Erasures: one page of the walk with its progress, in one transaction.

use std::collections::{BTreeMap, HashSet};

use mailspan_core::contact::Suppressed;
use mailspan_core::{Millis, Name};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row, params};

use super::base::{Base, Fault};
use super::counts::Counts;
use super::group::Group;
use super::persons::{BUCKET_BITS, Found};
use crate::erase::{
    Also, Cell, Certified, Change, Column, ERASURES_TOGETHER_MAX, ErasureStage, Identity, Progress, TABLES,
    Table, Target, Whose, judge, packed_request, together,
};
use crate::prepare::identities;
use crate::write::Wrote;

/// One page for the oldest erasures that stand at the same place. Between two walks, and where there is none to do,
/// it is asked which of those that wait for destinations may go on: however many those are, they take nobody's place.
pub(crate) fn step(group: &mut Group) -> Result<Wrote, Fault> {
    let mut targets = together(walked(&group.base)?);
    let is_between = targets.first().is_none_or(|first| first.progress.is_at_start());
    let moved = is_between && take_answers(&group.base)?;
    walk(group, &mut targets)?;
    for target in &targets {
        save(&group.base, target)?;
    }
    Ok(Wrote::Erasing { moved: moved || !targets.is_empty() })
}

/// Of those that are walked, the oldest.
fn walked(base: &Base) -> Result<Vec<Target>, Fault> {
    let mut statement = base.sql(
        "SELECT id, tenant, event, sealed, progress FROM erasures INDEXED BY erasures_open
         WHERE done_at IS NULL AND instr(coalesce(progress, ''), ?1) = 0 AND instr(coalesce(progress, ''), ?2) = 0
         ORDER BY id LIMIT ?3",
    )?;
    let (asking, certifying) = (ErasureStage::Asking.mark(), ErasureStage::Certifying.mark());
    let mut rows = statement.query(params![asking, certifying, ERASURES_TOGETHER_MAX])?;
    let mut targets = vec![];
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let sealed: Option<Vec<u8>> = row.get(3)?;
        let identity: Option<Identity> = sealed.and_then(|sealed| Identity::unsealed(&base.key, &sealed));
        let identity = identity.ok_or_else(|| Fault::unreadable("erasure", id))?;
        let progress: Option<String> = row.get(4)?;
        targets.push(Target::new(
            id,
            row.get(1)?,
            row.get(2)?,
            identity,
            Progress::read(progress.as_deref()),
        ));
    }
    Ok(targets)
}

fn save(base: &Base, target: &Target) -> Result<(), Fault> {
    base.sql("UPDATE erasures SET progress = ?2 WHERE id = ?1")?
        .execute(params![target.id, target.progress.json()])?;
    if target.has_learned {
        base.sql("UPDATE erasures SET sealed = ?2 WHERE id = ?1")?
            .execute(params![target.id, target.identity.sealed(&base.key)])?;
    }
    Ok(())
}

/// Those whose event is routed, with no delivery of it pending, are walked once more; true where there were any.
fn take_answers(base: &Base) -> Result<bool, Fault> {
    let mut statement = base.sql(
        "SELECT x.id, x.progress FROM erasures x INDEXED BY erasures_open
         WHERE x.done_at IS NULL AND instr(x.progress, ?1) > 0
           AND NOT EXISTS (SELECT 1 FROM unrouted u WHERE u.seq = x.event)
           AND NOT EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_once
                WHERE d.event = x.event AND d.state = 0)
         ORDER BY x.id LIMIT ?2",
    )?;
    let rows = statement.query_map(params![ErasureStage::Asking.mark(), ERASURES_TOGETHER_MAX], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    let answered: Vec<(i64, String)> = rows.collect::<Result<_, _>>()?;
    for (id, progress) in &answered {
        let progress = Progress::read(Some(progress)).answered();
        base.sql("UPDATE erasures SET progress = ?2 WHERE id = ?1")?.execute(params![id, progress.json()])?;
    }
    Ok(!answered.is_empty())
}

fn is_busy(base: &Base, seq: i64) -> Result<bool, Fault> {
    Ok(base
        .sql(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM unrouted WHERE seq = ?1)
             OR EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_once WHERE event = ?1 AND state = 0)",
        )?
        .exists([seq])?)
}

fn walk(group: &mut Group, targets: &mut [Target]) -> Result<(), Fault> {
    let Some(first) = targets.first() else { return Ok(()) };
    let (_, at, after) = first.progress.place();
    let table = TABLES[at.min(TABLES.len() - 1)];
    if first.progress.is_at_start() {
        drop_confirmations(&group.base, targets)?;
    }
    let rows = page(&group.base, table, after)?;
    let own = if table == Table::Events { own_events(&group.base, &rows, targets)? } else { HashSet::new() };
    let last = rows.last().map(|(key, _)| *key);
    let is_end = (rows.len() as i64) < table.page();
    let operators = group.base.tenant(Name::default_tenant().as_str())?;
    for (key, mut row) in rows {
        let (tenant, is_operators) = (row[0].clone(), table.is_operators(&row[0], operators));
        for (place, target) in
            targets.iter_mut().enumerate().filter(|(_, one)| is_operators || Cell::Int(one.tenant) == tenant)
        {
            let is_own = own.contains(&(place, key));
            let busy = table == Table::Events && is_busy(&group.base, key)?;
            let Some(change) = judge(table, key, &row, target, is_own, busy) else { continue };
            apply(&group.base, group.counts, table, key, &change, target)?;
            for (column, cell) in change.set {
                row[column] = cell;
            }
        }
    }
    targets.iter_mut().for_each(|target| target.advance(last, is_end));
    Ok(())
}

fn drop_confirmations(base: &Base, targets: &mut [Target]) -> Result<(), Fault> {
    for target in targets {
        for person in target.identity.persons.clone() {
            let gone = base.sql("DELETE FROM confirmations WHERE person = ?1")?.execute([person])?;
            (0..gone).for_each(|_| target.progress.count("confirmations"));
        }
    }
    Ok(())
}

type Rows = Vec<(i64, Vec<Cell>)>;

fn page(base: &Base, table: Table, after: i64) -> Result<Rows, Fault> {
    let key = table.key();
    let sql = format!("{} WHERE a.{key} > ?1 ORDER BY a.{key} LIMIT ?2", table.select());
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query(params![after, table.page()])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, cells(table, row)?));
    }
    Ok(found)
}

pub(super) fn one(base: &Base, table: Table, key: i64) -> Result<Option<Vec<Cell>>, Fault> {
    let sql = format!("{} WHERE a.{} = ?1", table.select(), table.key());
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query([key])?;
    rows.next()?.map(|row| cells(table, row)).transpose()
}

fn cells(table: Table, row: &Row) -> Result<Vec<Cell>, Fault> {
    let cell = |at: usize| -> Result<Cell, Fault> {
        Ok(match row.get(at + 1)? {
            Value::Integer(n) => Cell::Int(n),
            Value::Text(text) => Cell::Text(text),
            Value::Blob(bytes) => Cell::Blob(bytes),
            Value::Null | Value::Real(_) => Cell::Null,
        })
    };
    (0..table.columns().len()).map(cell).collect()
}

/// Events of the page that lead to a person who is erased: by the place of the target.
fn own_events(base: &Base, rows: &Rows, targets: &[Target]) -> Result<HashSet<(usize, i64)>, Fault> {
    let mut own = HashSet::new();
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(own) };
    let mut statement = base
        .sql("SELECT seq FROM person_events WHERE bucket = ?1 AND person = ?2 AND seq BETWEEN ?3 AND ?4")?;
    for (place, target) in targets.iter().enumerate() {
        for person in &target.identity.persons {
            for bucket in first.0 >> BUCKET_BITS..=last.0 >> BUCKET_BITS {
                let seqs = statement.query_map(params![bucket, person, first.0, last.0], |row| row.get(0))?;
                for seq in seqs {
                    own.insert((place, seq?));
                }
            }
        }
    }
    Ok(own)
}

fn apply(
    base: &Base,
    counts: &mut Counts,
    table: Table,
    key: i64,
    change: &Change,
    target: &mut Target,
) -> Result<(), Fault> {
    if !change.set.is_empty() {
        write(base, table, key, change)?;
        target.progress.count(table.name());
        if table == Table::Contacts {
            move_contact(base, target.tenant, key, target.identity.learned_at)?;
        }
    }
    if change.unread {
        target.progress.unread += 1;
    }
    for also in &change.also {
        apply_also(base, counts, also, target)?;
    }
    if let Some(subject) = &change.learned {
        learn(base, subject, target)?;
    }
    Ok(())
}

pub(super) fn write(base: &Base, table: Table, key: i64, change: &Change) -> Result<(), Fault> {
    for (column, cell) in &change.set {
        let column: Column = table.columns()[*column];
        let sql = format!("UPDATE {} SET {} = ?2 WHERE {} = ?1", table.name(), column.name(), table.key());
        let value = match cell {
            Cell::Null => Value::Null,
            Cell::Int(n) => Value::Integer(*n),
            Cell::Text(text) => Value::Text(text.clone()),
            Cell::Blob(bytes) => Value::Blob(bytes.clone()),
        };
        base.sql(&sql)?.execute(params![key, value])?;
    }
    Ok(())
}

/// A contact that loses words of somebody else has changed: the next push takes it to those who still have them, and
/// a list of theirs that is older than the erasure does not bring them back.
fn move_contact(base: &Base, tenant: i64, person: i64, at: i64) -> Result<(), Fault> {
    let rev: i64 = base
        .sql("UPDATE tenants SET contact_rev = contact_rev + 1 WHERE id = ?1 RETURNING contact_rev")?
        .query_row([tenant], |row| row.get(0))?;
    base.sql(
        "UPDATE contacts SET rev = ?2, updated_at = max(?3, updated_at, (SELECT c.updated_at FROM contacts c
            WHERE c.tenant = ?4 ORDER BY c.rev DESC LIMIT 1)) WHERE person = ?1",
    )?
    .execute(params![person, rev, at, tenant])?;
    Ok(())
}

fn apply_also(base: &Base, counts: &mut Counts, also: &Also, target: &mut Target) -> Result<(), Fault> {
    match also {
        Also::Discarded { destination, from } => {
            counts.moved(*destination, *from, mailspan_core::State::Discarded);
        }
        Also::Untied { seq } => {
            for person in &target.identity.persons {
                base.sql("DELETE FROM person_events WHERE bucket = ?1 AND person = ?2 AND seq = ?3")?
                    .execute(params![seq >> BUCKET_BITS, person, seq])?;
            }
        }
        Also::Request { request, part } => {
            if let Some(row) = one(base, Table::Requests, *request)? {
                let change = packed_request(&row, target, Whose::Theirs { part: *part });
                if !change.set.is_empty() {
                    write(base, Table::Requests, *request, &change)?;
                    target.progress.count(Table::Requests.name());
                }
            }
        }
        Also::Attempts { delivery, last } => blank_attempts(base, *delivery, *last, target)?,
        Also::Answers { fact, own } => blank_answers(base, *fact, *own, target)?,
    }
    Ok(())
}

/// An exchange about this person alone goes whole; of one for several, what names the person goes on the walk.
fn blank_attempts(base: &Base, delivery: i64, last: Option<i64>, target: &mut Target) -> Result<(), Fault> {
    let mut ids: Vec<i64> = {
        let mut statement = base.sql("SELECT attempt FROM tries WHERE delivery = ?1")?;
        statement.query_map([delivery], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    ids.extend(last);
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let gone = base
            .sql(
                "UPDATE attempts SET request = NULL, answer = NULL
                 WHERE id = ?1 AND items <= 1 AND (request IS NOT NULL OR answer IS NOT NULL)",
            )?
            .execute([id])?;
        (0..gone).for_each(|_| target.progress.count(Table::Attempts.name()));
    }
    Ok(())
}

fn blank_answers(base: &Base, fact: i64, own: bool, target: &mut Target) -> Result<(), Fault> {
    let answers: Vec<(i64, String)> = {
        let mut statement = base.sql("SELECT destination, verdict FROM ledger_answers WHERE fact = ?1")?;
        statement.query_map([fact], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?
    };
    for (destination, verdict) in answers {
        if let Some(kept) = target.words.cut(&verdict, own) {
            base.sql("UPDATE ledger_answers SET verdict = ?3 WHERE fact = ?1 AND destination = ?2")?
                .execute(params![fact, destination, kept])?;
        }
    }
    Ok(())
}

/// Only what leads to nobody else now.
fn learn(base: &Base, subject: &mailspan_core::Subject, target: &mut Target) -> Result<(), Fault> {
    let hashes = identities(subject, &base.key);
    let is_free = |hash: Option<[u8; 16]>| -> Result<bool, Fault> {
        let Some(hash) = hash else { return Ok(false) };
        let mut statement = base.sql("SELECT person FROM identities WHERE tenant = ?1 AND hash = ?2")?;
        let person: Option<i64> =
            statement.query_row(params![target.tenant, hash], |row| row.get(0)).optional()?;
        Ok(person.is_none())
    };
    let mut theirs = mailspan_core::Subject::nobody();
    if is_free(hashes.address)? {
        theirs.address.clone_from(&subject.address);
    }
    if is_free(hashes.external_id)? {
        theirs.external_id.clone_from(&subject.external_id);
    }
    let is_new = |address: &mailspan_core::Address| !target.identity.addresses.contains(address.as_str());
    if let Some(hash) = hashes.address.filter(|_| theirs.address.as_ref().is_some_and(is_new)) {
        keep_former(base, target, hash)?;
    }
    target.learn(&theirs);
    Ok(())
}

/// An address that the person had: not to be mailed either, and erased in a store that comes back from a back-up.
fn keep_former(base: &Base, target: &Target, hash: [u8; 16]) -> Result<(), Fault> {
    let (tenant, at) = (target.tenant, target.identity.learned_at);
    base.sql(
        "INSERT INTO erased (tenant, hash, person, at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (tenant, hash) DO NOTHING",
    )?
    .execute(params![tenant, hash, target.identity.person, at])?;
    base.sql(
        "INSERT INTO suppressions (tenant, hash, address, reason, source, at)
         VALUES (?1, ?2, NULL, ?3, 'erasure', ?4)
         ON CONFLICT (tenant, hash) DO UPDATE SET address = NULL, reason = excluded.reason,
            source = excluded.source, at = excluded.at",
    )?
    .execute(params![tenant, hash, Suppressed::Erasure as i64, at])?;
    Ok(())
}

/// What the person was known by goes with this write.
pub(crate) fn certify(base: &Base, certified: &Certified) -> Result<Wrote, Fault> {
    let progress: Option<Option<String>> = base
        .sql("SELECT progress FROM erasures WHERE id = ?1 AND done_at IS NULL")?
        .query_row([certified.id], |row| row.get(0))
        .optional()?;
    let Some(progress) = progress else { return Ok(Wrote::Done) };
    let progress = Progress { stage: ErasureStage::Done, ..Progress::read(progress.as_deref()) };
    base.sql(
        "UPDATE erasures SET certificate = ?2, done_at = ?3, sealed = NULL, progress = ?4 WHERE id = ?1",
    )?
    .execute(params![certified.id, certified.certificate, certified.at.0, progress.json()])?;
    Ok(Wrote::Done)
}

/// A person who is erased: what it was known by, until the certificate is written, and by hash for good.
pub(crate) fn keep(
    base: &Base,
    tenant: i64,
    event: i64,
    at: Millis,
    identity: &Identity,
    hashes: &BTreeMap<[u8; 16], i64>,
) -> Result<(), Fault> {
    let person = identity.person;
    let progress = Progress::begun(identity, hashes.keys());
    base.sql(
        "INSERT INTO erasures (tenant, person, event, asked_at, sealed, progress) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![tenant, person, event, at.0, identity.sealed(&base.key), progress.json()])?;
    for hash in hashes.keys() {
        base.sql(
            "INSERT INTO erased (tenant, hash, person, at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (tenant, hash) DO UPDATE SET person = excluded.person, at = excluded.at",
        )?
        .execute(params![tenant, hash, person, at.0])?;
    }
    Ok(())
}

/// Whose identity this was, for an event that came before the erasure and is routed after it, or that happened
/// before it.
pub(crate) fn erased_before(
    base: &Base,
    tenant: i64,
    hash: [u8; 16],
    seq: i64,
    at: Millis,
) -> Result<Option<Found>, Fault> {
    let mut statement = base.sql(
        "SELECT d.person, e.event < ?3
         FROM erased d CROSS JOIN erasures e INDEXED BY erasures_person ON e.person = d.person
         WHERE d.tenant = ?1 AND d.hash = ?2 AND (e.event > ?3 OR d.at >= ?4) ORDER BY e.event LIMIT 1",
    )?;
    let found = |row: &Row| -> rusqlite::Result<Found> {
        Ok(if row.get(1)? { Found::Outlived } else { Found::Erased(row.get(0)?) })
    };
    Ok(statement.query_row(params![tenant, hash, seq, at.0], found).optional()?)
}

/// Identities of persons, by hash: before they go.
pub(crate) fn hashes_of(base: &Base, persons: &[i64]) -> Result<Vec<[u8; 16]>, Fault> {
    let mut hashes = vec![];
    for person in persons {
        let mut statement =
            base.sql("SELECT hash FROM identities INDEXED BY identities_person WHERE person = ?1")?;
        let found = statement.query_map([person], |row| row.get(0))?;
        hashes.extend(found.collect::<Result<Vec<[u8; 16]>, _>>()?);
    }
    Ok(hashes)
}

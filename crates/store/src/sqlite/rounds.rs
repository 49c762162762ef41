//! Rounds and what their sources list.

use mailspan_core::limits::LISTED_DAYS_MAX;
use mailspan_core::{Millis, Name, Reason};
use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault, maybe_millis, millis, reason};
use super::held::Held;
use super::leases;
use super::names::TYPE;
use crate::rounds::{Tally, day_of, round_lease};
use crate::write::Wrote;
use crate::{ListedDay, RoundMark, RoundRow};

pub(crate) const VERSION: i64 = 1;

pub(crate) fn check(base: &Held, mark: &RoundMark) -> Result<(), Fault> {
    leases::check(base, &round_lease(mark.about), mark.fence)
}

/// Without a page: nothing came. True where it is paused and was not.
pub(crate) fn write(base: &Held, mark: &RoundMark) -> Result<bool, Fault> {
    check(base, mark)?;
    let was_paused = base
        .sql("SELECT 1 FROM rounds WHERE about = ?1 AND paused_code IS NOT NULL")?
        .exists([mark.about])?;
    keep(base, mark, &Tally::new())?;
    Ok(mark.paused.is_some() && !was_paused)
}

pub(crate) fn keep(base: &Base, mark: &RoundMark, tally: &Tally) -> Result<(), Fault> {
    let tenant = base.tenant_or_new(mark.tenant.as_str())?;
    let began: Option<i64> = base
        .sql("SELECT made_at FROM rounds WHERE about = ?1")?
        .query_row([mark.about], |row| row.get(0))
        .optional()?;
    let paused = mark.paused.as_ref();
    base.sql(
        "INSERT INTO rounds (about, tenant, cursor, due, failures, paused_code, paused, reason, asked_at, ended_at,
            made_at, v)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?9, ?11)
         ON CONFLICT (about) DO UPDATE SET cursor = ?3, due = ?4, failures = ?5, paused_code = ?6, paused = ?7,
            reason = ?8, asked_at = ?9, ended_at = coalesce(?10, ended_at)",
    )?
    .execute(params![
        mark.about,
        tenant,
        mark.cursor,
        mark.due.0,
        mark.failures,
        paused.map(|paused| &paused.code),
        paused.map(|paused| &paused.text),
        mark.reason,
        mark.at.0,
        mark.ended.then_some(mark.at.0),
        VERSION,
    ])?;
    // What happened before anybody asked was told to nobody.
    let first = day_of(Millis(began.unwrap_or(mark.at.0)));
    for ((day, event_type), (listed, known)) in tally.iter().filter(|((day, _), _)| *day >= first) {
        let event_type = base.number_or_new(tenant, TYPE, event_type)?;
        base.sql(
            "INSERT INTO listed_days (about, day, type, listed, known) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (about, day, type) DO UPDATE SET listed = listed + ?4, known = known + ?5",
        )?
        .execute(params![mark.about, day, event_type, listed, known])?;
    }
    if mark.ended {
        base.sql("DELETE FROM listed_days WHERE about = ?1 AND day < ?2")?
            .execute(params![mark.about, day_of(mark.at) - LISTED_DAYS_MAX])?;
    }
    Ok(())
}

/// Due at once, whatever it waited for.
pub(crate) fn now(base: &Base, tenant: &Name, about: i64, at: Millis) -> Result<Wrote, Fault> {
    let tenant = base.tenant_or_new(tenant.as_str())?;
    base.sql(
        "INSERT INTO rounds (about, tenant, cursor, due, failures, made_at, v) VALUES (?1, ?2, '', ?3, 0, ?3, ?4)
         ON CONFLICT (about) DO UPDATE SET due = ?3, failures = 0, reason = NULL, paused_code = NULL, paused = NULL",
    )?
    .execute(params![about, tenant, at.0, VERSION])?;
    Ok(Wrote::Done)
}

pub(crate) fn list(base: &Base) -> Result<Vec<RoundRow>, Fault> {
    let mut statement = base.sql(
        "SELECT about, cursor, due, failures, paused_code, paused, reason, asked_at, ended_at, made_at FROM rounds
         ORDER BY about LIMIT 10000",
    )?;
    let rows = statement.query_map([], |row| {
        let paused: Option<Reason> = reason(row, "paused_code", "paused")?;
        Ok(RoundRow {
            about: row.get("about")?,
            cursor: row.get("cursor")?,
            due: millis(row, "due")?,
            failures: u32::try_from(row.get::<_, i64>("failures")?).unwrap_or(u32::MAX),
            reason: row.get("reason")?,
            paused,
            asked_at: maybe_millis(row, "asked_at")?,
            ended_at: maybe_millis(row, "ended_at")?,
            made_at: millis(row, "made_at")?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The newest day first.
pub(crate) fn listed(base: &Base, about: i64, days: i64) -> Result<Vec<ListedDay>, Fault> {
    let mut statement = base.sql(
        "SELECT l.day, n.name, l.listed, l.known FROM listed_days l JOIN names n ON n.id = l.type
         WHERE l.about = ?1 AND l.day > (SELECT max(day) FROM listed_days WHERE about = ?1) - ?2
         ORDER BY l.day DESC, n.name",
    )?;
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let rows = statement.query_map(params![about, days], |row| {
        Ok(ListedDay {
            day: row.get(0)?,
            event_type: row.get(1)?,
            listed: count(row.get(2)?),
            known: count(row.get(3)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

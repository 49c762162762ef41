//! Rounds and what their sources list. The lease row is locked before the round's own.

use mailspan_core::limits::LISTED_DAYS_MAX;
use mailspan_core::{Millis, Name};

use super::base::{Base, Fault, clean, get, maybe_millis, millis, reason, small};
use super::journal::Journal;
use super::leases::{self, Locked};
use super::names::TYPE;
use super::said;
use crate::rounds::{Tally, day_of, round_lease};
use crate::sqlite::rounds::VERSION;
use crate::write::Wrote;
use crate::{ListedDay, RoundMark, RoundRow};

pub(crate) fn check(locked: &Locked, mark: &RoundMark) -> Result<(), Fault> {
    leases::check(locked, &round_lease(mark.about), mark.fence)
}

/// Without a page: nothing came. What is said of it is news where it is paused and was not.
pub(crate) async fn write(journal: &mut Journal, mark: &RoundMark) -> Result<Wrote, Fault> {
    check(&journal.leases, mark)?;
    let sql = "SELECT 1 FROM rounds WHERE about = $1 AND paused_code IS NOT NULL";
    let was_paused = journal.base.row(sql, &[&mark.about]).await?.is_some();
    keep(&journal.base, mark, &Tally::new()).await?;
    let is_news = mark.paused.is_some() && !was_paused;
    said::say_news(journal, mark.say.as_deref(), is_news).await
}

/// The tenant and the types are made already.
pub(crate) async fn keep(base: &Base, mark: &RoundMark, tally: &Tally) -> Result<(), Fault> {
    let tenant = base.made_tenant(mark.tenant.as_str()).await?;
    let paused = mark.paused.as_ref();
    let written = base
        .written(
            "INSERT INTO rounds (about, tenant, cursor, due, failures, paused_code, paused, reason, asked_at, ended_at,
                made_at, v)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $9, $11)
             ON CONFLICT (about) DO UPDATE SET cursor = $3, due = $4, failures = $5, paused_code = $6, paused = $7,
                reason = $8, asked_at = $9, ended_at = coalesce($10, rounds.ended_at)
             RETURNING made_at",
            &[
                &mark.about,
                &tenant,
                &clean(&mark.cursor),
                &mark.due.0,
                &i64::from(mark.failures),
                &paused.map(|paused| clean(&paused.code)),
                &paused.map(|paused| clean(&paused.text)),
                &mark.reason.as_deref().map(clean),
                &mark.at.0,
                &mark.ended.then_some(mark.at.0),
                &VERSION,
            ],
        )
        .await?;
    let made_at: i64 = written.first().map_or(Ok(mark.at.0), |row| get(row, 0))?;
    // What happened before anybody asked was told to nobody.
    let first = day_of(Millis(made_at));
    for ((day, event_type), (listed, known)) in tally.iter().filter(|((day, _), _)| *day >= first) {
        let event_type = base.made_number(tenant, TYPE, event_type).await?;
        base.execute(
            "INSERT INTO listed_days (about, day, type, listed, known) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (about, day, type) DO UPDATE SET listed = listed_days.listed + $4,
                known = listed_days.known + $5",
            &[&mark.about, day, &event_type, listed, known],
        )
        .await?;
    }
    if mark.ended {
        let before = day_of(mark.at) - LISTED_DAYS_MAX;
        base.execute("DELETE FROM listed_days WHERE about = $1 AND day < $2", &[&mark.about, &before])
            .await?;
    }
    Ok(())
}

/// Due at once, whatever it waited for.
pub(crate) async fn now(base: &Base, tenant: &Name, about: i64, at: Millis) -> Result<Wrote, Fault> {
    let tenant = base.made_tenant(tenant.as_str()).await?;
    base.execute(
        "INSERT INTO rounds (about, tenant, cursor, due, failures, made_at, v) VALUES ($1, $2, '', $3, 0, $3, $4)
         ON CONFLICT (about) DO UPDATE SET due = $3, failures = 0, reason = NULL, paused_code = NULL, paused = NULL",
        &[&about, &tenant, &at.0, &VERSION],
    )
    .await?;
    Ok(Wrote::Done)
}

pub(crate) async fn list(base: &Base) -> Result<Vec<RoundRow>, Fault> {
    let sql = "SELECT about, cursor, due, failures, paused_code, paused, reason, asked_at, ended_at, made_at
        FROM rounds ORDER BY about LIMIT 10000";
    let rows = base.rows(sql, &[]).await?;
    let read = |row| {
        Ok(RoundRow {
            about: get(row, "about")?,
            cursor: get(row, "cursor")?,
            due: millis(row, "due")?,
            failures: small(row, "failures")?,
            reason: get(row, "reason")?,
            paused: reason(row, "paused_code", "paused")?,
            asked_at: maybe_millis(row, "asked_at")?,
            ended_at: maybe_millis(row, "ended_at")?,
            made_at: millis(row, "made_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// The newest day first.
pub(crate) async fn listed(base: &Base, about: i64, days: i64) -> Result<Vec<ListedDay>, Fault> {
    let rows = base
        .rows(
            "SELECT l.day, n.name, l.listed, l.known FROM listed_days l JOIN names n ON n.id = l.type
             WHERE l.about = $1 AND l.day > (SELECT max(day) FROM listed_days WHERE about = $1) - $2
             ORDER BY l.day DESC, n.name",
            &[&about, &days],
        )
        .await?;
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let read = |row| {
        Ok(ListedDay {
            day: get(row, 0)?,
            event_type: get(row, 1)?,
            listed: count(get(row, 2)?),
            known: count(get(row, 3)?),
        })
    };
    rows.iter().map(read).collect()
}

//! Destinations: their names, whether they are paused, and how much waits for them.

use mailspan_core::{DestinationId, Millis, Name, Reason, State};
use rusqlite::params;

use super::base::{Base, Fault, reason};
use super::counts::Place;
use crate::write::Wrote;
use crate::{DestinationSize, NameKind, Sizes, StandingRow};

/// A name gets its number; a destination its standing.
pub(crate) fn name(base: &Base, tenant: &Name, kind: NameKind, name: &Name) -> Result<Wrote, Fault> {
    let tenant = base.tenant_or_new(tenant.as_str())?;
    let id = base.number_or_new(tenant, kind as u8, name.as_str())?;
    if kind == NameKind::Destination {
        base.sql(
            "INSERT OR IGNORE INTO destinations (id, tenant, origin, changed_at) VALUES (?1, ?2, 0, 0)",
        )?
        .execute(params![id, tenant])?;
    }
    Ok(Wrote::Key { id })
}

/// False where it stood so before.
pub(crate) fn stand(
    base: &Base,
    destination: DestinationId,
    paused: Option<&Reason>,
    at: Millis,
) -> Result<bool, Fault> {
    let known = base.sql("SELECT 1 FROM destinations WHERE id = ?1")?.exists([destination.0])?;
    if !known {
        return Err(Fault::refused("not_found", format!("there is no destination {}", destination.0)));
    }
    let changed = base
        .sql(
            "UPDATE destinations SET paused_code = ?2, paused = ?3, changed_at = ?4
             WHERE id = ?1 AND (paused_code IS NOT ?2 OR paused IS NOT ?3)",
        )?
        .execute(params![destination.0, paused.map(|r| &r.code), paused.map(|r| &r.text), at.0])?;
    if changed > 0 {
        let (what, note) = paused.map_or(("resume", ""), |reason| ("pause", reason.text.as_str()));
        log(base, 0, at, what, destination.0, note)?;
    }
    Ok(changed > 0)
}

/// False where it was known.
pub(crate) fn degrade(
    base: &Base,
    destination: DestinationId,
    degraded: bool,
    at: Millis,
) -> Result<bool, Fault> {
    let changed = base
        .sql("UPDATE destinations SET degraded_at = ?2 WHERE id = ?1 AND (degraded_at IS NULL) = ?3")?
        .execute(params![destination.0, degraded.then_some(at.0), degraded])?;
    Ok(changed > 0)
}

/// What operators (and the hub for them) decided; tenant 0 where the row itself names it.
pub(crate) fn log(
    base: &Base,
    tenant: i64,
    at: Millis,
    what: &str,
    about: i64,
    note: &str,
) -> Result<(), Fault> {
    base.sql("INSERT INTO operator_log (tenant, at, what, about, note) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![tenant, at.0, what, about, note])?;
    Ok(())
}

const STANDING: &str = "SELECT d.id, d.tenant, d.paused_code, d.paused, d.degraded_at FROM destinations d";

pub(crate) fn list(base: &Base, tenant: Option<&Name>) -> Result<Vec<StandingRow>, Fault> {
    let sql = format!(
        "{STANDING} WHERE ?1 IS NULL OR d.tenant = (SELECT id FROM tenants WHERE name = ?1) ORDER BY d.id LIMIT 10000"
    );
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query([tenant.map(|name| name.as_str())])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        found.push(standing_of(base, row)?);
    }
    Ok(found)
}

pub(crate) fn one(base: &Base, destination: DestinationId) -> Result<Option<StandingRow>, Fault> {
    let sql = format!("{STANDING} WHERE d.id = ?1");
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query([destination.0])?;
    rows.next()?.map(|row| standing_of(base, row)).transpose()
}

fn standing_of(base: &Base, row: &rusqlite::Row) -> Result<StandingRow, Fault> {
    let id: i64 = row.get("id")?;
    Ok(StandingRow {
        destination: DestinationId(id),
        tenant: base.tenant_name(row.get("tenant")?)?,
        name: base.name(id)?,
        paused: reason(row, "paused_code", "paused")?,
        degraded: row.get::<_, Option<i64>>("degraded_at")?.map(Millis),
        pending: count(base, id, State::Pending)?,
        dead: count(base, id, State::Dead)?,
        oldest: oldest(base, id)?,
    })
}

fn count(base: &Base, destination: i64, state: State) -> Result<u64, Fault> {
    let mut statement =
        base.sql("SELECT coalesce((SELECT n FROM counts WHERE about = ?1 AND place = ?2), 0)")?;
    let n: i64 =
        statement.query_row(params![destination, Place::Delivery(state).number()], |row| row.get(0))?;
    Ok(u64::try_from(n).unwrap_or(0))
}

/// Of each queue the head that is due first; the oldest of those. Exact where nothing was retried.
fn oldest(base: &Base, destination: i64) -> Result<Option<Millis>, Fault> {
    let mut statement = base.sql(
        "SELECT created_at FROM deliveries INDEXED BY deliveries_due
         WHERE destination = ?1 AND queue = ?2 AND due IS NOT NULL ORDER BY due, id LIMIT 1",
    )?;
    let mut oldest: Option<i64> = None;
    for queue in mailspan_core::Queue::ALL {
        let mut rows = statement.query(params![destination, queue as i64])?;
        if let Some(row) = rows.next()? {
            let at: i64 = row.get(0)?;
            oldest = Some(oldest.map_or(at, |known| known.min(at)));
        }
    }
    Ok(oldest.map(Millis))
}

/// Running sums only; sizes of files and queues are added by the handle.
pub(crate) fn sizes(base: &Base) -> Result<Sizes, Fault> {
    let unrouted: i64 = base.sql("SELECT count(*) FROM unrouted")?.query_row([], |row| row.get(0))?;
    let destinations = list(base, None)?
        .into_iter()
        .map(|row| DestinationSize {
            destination: row.destination,
            tenant: row.tenant,
            name: row.name,
            pending: row.pending,
            dead: row.dead,
        })
        .collect();
    let dedupe_from: Option<i64> = base
        .sql("SELECT min(opened_at) FROM segments WHERE state IN (0, 1)")?
        .query_row([], |row| row.get(0))?;
    let dedupe_from = dedupe_from.map(Millis);
    Ok(Sizes { destinations, unrouted: unrouted as u64, dedupe_from, ..Sizes::default() })
}

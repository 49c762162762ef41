//! Destinations: their names, whether they are paused, and how much waits for them.

use mailspan_core::{DestinationId, Millis, Name, Queue, Reason};
use mailspan_engine::Fence;
use tokio_postgres::Row;

use super::base::{Base, Fault, clean, get, reason};
use super::journal::Journal;
use super::{leases, said};
use crate::sqlite::leases::of_destination;
use crate::write::{Write, Wrote};
use crate::{DestinationSize, NameKind, Sizes, StandingRow};

/// A name gets its number; a destination its standing, and the row that is locked for its lanes. The name is
/// made already.
pub(crate) async fn name(base: &Base, tenant: &Name, kind: NameKind, name: &Name) -> Result<Wrote, Fault> {
    let tenant = base.made_tenant(tenant.as_str()).await?;
    let id = base.made_number(tenant, kind as u8, name.as_str()).await?;
    if kind == NameKind::Destination {
        base.execute(
            "INSERT INTO destinations (id, tenant, origin, changed_at) VALUES ($1, $2, 0, 0) ON CONFLICT DO NOTHING",
            &[&id, &tenant],
        )
        .await?;
        base.execute(
            "INSERT INTO leases (name, owner, until, fence) VALUES ($1, '', 0, 0) ON CONFLICT DO NOTHING",
            &[&of_destination(DestinationId(id))],
        )
        .await?;
    }
    Ok(Wrote::Key { id })
}

/// False where it stood so before.
async fn stand(
    base: &Base,
    destination: DestinationId,
    paused: Option<&Reason>,
    at: Millis,
) -> Result<bool, Fault> {
    let known = base.row("SELECT 1 FROM destinations WHERE id = $1", &[&destination.0]).await?;
    if known.is_none() {
        return Err(Fault::refused("not_found", format!("there is no destination {}", destination.0)));
    }
    let changed = base
        .execute(
            "UPDATE destinations SET paused_code = $2, paused = $3, changed_at = $4
             WHERE id = $1 AND (paused_code IS DISTINCT FROM $2 OR paused IS DISTINCT FROM $3)",
            &[
                &destination.0,
                &paused.map(|reason| clean(&reason.code)),
                &paused.map(|reason| clean(&reason.text)),
                &at.0,
            ],
        )
        .await?;
    if changed > 0 {
        let (what, note) = paused.map_or(("resume", ""), |reason| ("pause", reason.text.as_str()));
        log(base, 0, at, what, destination.0, note).await?;
    }
    Ok(changed > 0)
}

/// False where it was known.
async fn degrade(base: &Base, destination: DestinationId, degraded: bool, at: Millis) -> Result<bool, Fault> {
    let changed = base
        .execute(
            "UPDATE destinations SET degraded_at = $2 WHERE id = $1 AND (degraded_at IS NULL) = $3",
            &[&destination.0, &degraded.then_some(at.0), &degraded],
        )
        .await?;
    Ok(changed > 0)
}

/// A standing, or that a breaker opened or closed, and what is said of it. Without a fence it is an operator's word,
/// and needs no lease.
pub(crate) async fn write(journal: &mut Journal, write: &Write) -> Result<Wrote, Fault> {
    let check = |journal: &Journal, destination: DestinationId, fence: Fence| {
        leases::check(&journal.leases, &of_destination(destination), fence)
    };
    match write {
        Write::Stand { destination, fence, paused, at, say } => {
            fence.map_or(Ok(()), |fence| check(journal, *destination, fence))?;
            let is_news = stand(&journal.base, *destination, paused.as_ref(), *at).await?;
            said::say_news(journal, say.as_deref(), is_news).await
        }
        Write::Degrade { destination, fence, degraded, at, say } => {
            check(journal, *destination, *fence)?;
            let is_news = degrade(&journal.base, *destination, *degraded, *at).await?;
            said::say_news(journal, say.as_deref(), is_news).await
        }
        _ => Ok(Wrote::Done),
    }
}

/// What operators (and the hub for them) decided; tenant 0 where the row itself names it.
pub(crate) async fn log(
    base: &Base,
    tenant: i64,
    at: Millis,
    what: &str,
    about: i64,
    note: &str,
) -> Result<(), Fault> {
    base.execute(
        "INSERT INTO operator_log (tenant, at, what, about, note) VALUES ($1, $2, $3, $4, $5)",
        &[&tenant, &at.0, &what, &about, &clean(note)],
    )
    .await?;
    Ok(())
}

/// Of each queue the head that is due first; the oldest of those. Exact where nothing was retried.
const STANDING: &str = "SELECT d.id, d.tenant, d.paused_code, d.paused, d.degraded_at,
    (SELECT coalesce(sum(n), 0)::bigint FROM counts c WHERE c.about = d.id AND c.place = 0) AS pending,
    (SELECT coalesce(sum(n), 0)::bigint FROM counts c WHERE c.about = d.id AND c.place = 4) AS dead,
    (SELECT min(h.created_at) FROM unnest($1::bigint[]) AS q (queue) CROSS JOIN LATERAL
        (SELECT w.created_at FROM deliveries w WHERE w.destination = d.id AND w.queue = q.queue AND w.due IS NOT NULL
         ORDER BY w.due, w.id LIMIT 1) AS h) AS oldest
    FROM destinations d";

fn queues() -> Vec<i64> {
    Queue::ALL.into_iter().map(|queue| queue as i64).collect()
}

pub(crate) async fn list(base: &Base, tenant: Option<&Name>) -> Result<Vec<StandingRow>, Fault> {
    let sql = format!(
        "{STANDING} WHERE $2::text IS NULL OR d.tenant = (SELECT id FROM tenants WHERE name = $2) ORDER BY d.id LIMIT 10000"
    );
    let mut found = vec![];
    for row in &base.rows(&sql, &[&queues(), &tenant.map(|name| clean(name.as_str()))]).await? {
        found.push(standing_of(base, row).await?);
    }
    Ok(found)
}

pub(crate) async fn one(base: &Base, destination: DestinationId) -> Result<Option<StandingRow>, Fault> {
    let sql = format!("{STANDING} WHERE d.id = $2");
    match base.row(&sql, &[&queues(), &destination.0]).await? {
        Some(row) => standing_of(base, &row).await.map(Some),
        None => Ok(None),
    }
}

async fn standing_of(base: &Base, row: &Row) -> Result<StandingRow, Fault> {
    let id: i64 = get(row, "id")?;
    let count = |column: &str| Ok::<u64, Fault>(u64::try_from(get::<i64, _>(row, column)?).unwrap_or(0));
    Ok(StandingRow {
        destination: DestinationId(id),
        tenant: base.tenant_name(get(row, "tenant")?).await?,
        name: base.name(id).await?,
        paused: reason(row, "paused_code", "paused")?,
        degraded: super::base::maybe_millis(row, "degraded_at")?,
        pending: count("pending")?,
        dead: count("dead")?,
        oldest: super::base::maybe_millis(row, "oldest")?,
    })
}

/// Running sums only; sizes of queues are added by the handle.
pub(crate) async fn sizes(base: &Base) -> Result<Sizes, Fault> {
    let sql =
        "SELECT (SELECT count(*) FROM unrouted), (SELECT min(opened_at) FROM segments WHERE state IN (0, 1)),
        pg_database_size(current_database())";
    let Some(row) = base.row(sql, &[]).await? else { return Ok(Sizes::default()) };
    let size = |row: StandingRow| DestinationSize {
        destination: row.destination,
        tenant: row.tenant,
        name: row.name,
        pending: row.pending,
        dead: row.dead,
    };
    Ok(Sizes {
        destinations: list(base, None).await?.into_iter().map(size).collect(),
        unrouted: u64::try_from(get::<i64, _>(&row, 0)?).unwrap_or(0),
        dedupe_from: get::<Option<i64>, _>(&row, 1)?.map(Millis),
        file_bytes: u64::try_from(get::<i64, _>(&row, 2)?).unwrap_or(0),
        ..Sizes::default()
    })
}

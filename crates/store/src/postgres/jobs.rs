//! Jobs: long work page by page, each page and its cursor in one transaction.
//!
//! A job's lease row is locked before its own row, and both before what a page changes.

use mailspan_core::limits::{JOBS_KEPT_MAX, JOBS_OPEN_MAX};
use mailspan_core::{DeliveryId, DestinationId, Millis, State};
use tokio_postgres::Row;

use super::base::{Base, Fault, clean, get};
use super::journal::Journal;
use super::{leases, offer, standing};
use crate::sqlite::base::page as page_rows;
use crate::sqlite::jobs::{NEVER, VERSION, lease_of};
use crate::write::Wrote;
use crate::{JobFilter, JobRow, JobState, NewJob, Page, PageWork};

/// Whoever makes a job holds this until its commit: nodes together keep the bound of open jobs.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('mailspan jobs'), hashtext(current_schema()))";

/// The tenant is made already.
pub(crate) async fn make(base: &Base, job: &NewJob) -> Result<Wrote, Fault> {
    base.batch(LOCK).await?;
    let sql = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE due IS NOT NULL LIMIT $1) AS open";
    let row = base.row(sql, &[&(JOBS_OPEN_MAX as i64)]).await?;
    let open: i64 = row.map_or(Ok(0), |row| get(&row, 0))?;
    if open >= JOBS_OPEN_MAX as i64 {
        let text = format!("{open} jobs have not ended: wait for one, or cancel one");
        return Err(Fault::refused("too_many_jobs", text));
    }
    let tenant = base.made_tenant(job.tenant.as_str()).await?;
    let made = base
        .written(
            "INSERT INTO jobs (tenant, kind, argument, due, state, v) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
            &[
                &tenant,
                &clean(&job.kind),
                &clean(&job.argument),
                &job.at.0,
                &(JobState::Running as i64),
                &VERSION,
            ],
        )
        .await?;
    let id: i64 = made.first().map_or(Ok(0), |row| get(row, 0))?;
    base.execute("DELETE FROM jobs WHERE id <= $1 AND due IS NULL", &[&(id - JOBS_KEPT_MAX)]).await?;
    // Without the argument: it may name a person, and the log is kept for years.
    standing::log(base, tenant, job.at, &clean(&format!("job {}", job.kind)), id, "").await?;
    Ok(Wrote::Key { id })
}

/// Pauses, resumes or cancels what has not ended.
pub(crate) async fn stand(
    journal: &mut Journal,
    id: i64,
    state: JobState,
    note: &str,
    at: Millis,
) -> Result<Wrote, Fault> {
    let (tenant, before) = state_of(&journal.base, id).await?;
    if before.has_ended() {
        return Err(Fault::refused(
            "job_ended",
            format!("job {id} has ended already: it is {}", before.name()),
        ));
    }
    let due = match state {
        JobState::Running => Some(at.0),
        JobState::Paused => Some(NEVER),
        _ => None,
    };
    let sql = "UPDATE jobs SET state = $2, due = $3, note = $4 WHERE id = $1";
    journal.base.execute(sql, &[&id, &(state as i64), &due, &remark(note)]).await?;
    if state.has_ended() {
        leases::drop(&journal.base, &mut journal.leases, &lease_of(id)).await?;
    }
    standing::log(&journal.base, tenant, at, &format!("job {}", state.name()), id, note).await?;
    Ok(Wrote::Done)
}

fn remark(note: &str) -> Option<std::borrow::Cow<'_, str>> {
    Some(note).filter(|note| !note.is_empty()).map(clean)
}

/// Locks the job's row.
async fn state_of(base: &Base, id: i64) -> Result<(i64, JobState), Fault> {
    let Some(row) = base.row("SELECT tenant, state FROM jobs WHERE id = $1 FOR UPDATE", &[&id]).await? else {
        return Err(Fault::refused("not_found", format!("there is no job {id}")));
    };
    let state = JobState::from_number(get(&row, 1)?).ok_or_else(|| Fault::unreadable("job", id))?;
    Ok((get(&row, 0)?, state))
}

/// The work of a page with its cursor.
pub(crate) async fn page(journal: &mut Journal, page: &Page) -> Result<Wrote, Fault> {
    leases::check(&journal.leases, &lease_of(page.job), page.fence)?;
    let (_, state) = state_of(&journal.base, page.job).await?;
    if state != JobState::Running {
        let text = format!("job {} is {}", page.job, state.name());
        return Err(Fault::refused("job_not_running", text));
    }
    let (done, destinations) = match &page.work {
        PageWork::Count { matched } => (*matched, vec![]),
        PageWork::Offer { items, again } => offer::reopen_page(journal, items, *again, page.at).await?,
        PageWork::Discard { deliveries, unserved, note } => {
            (discard(journal, deliveries, *unserved, note, page.at).await?, vec![])
        }
    };
    let (state, note) = match &page.end {
        Some((state, note)) => (*state, remark(note)),
        None => (JobState::Running, None),
    };
    let sql = "UPDATE jobs SET cursor = $2, done = done + $3, total = $4, state = $5, due = $6, note = $7
               WHERE id = $1";
    journal
        .base
        .execute(
            sql,
            &[
                &page.job,
                &clean(&page.cursor),
                &i64::try_from(done).unwrap_or(i64::MAX),
                &page.total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)),
                &(state as i64),
                &page.end.is_none().then_some(page.at.0),
                &note,
            ],
        )
        .await?;
    if page.end.is_some() {
        leases::drop(&journal.base, &mut journal.leases, &lease_of(page.job)).await?;
    }
    Ok(Wrote::Paged { done, destinations })
}

/// What is no dead letter any more is passed over.
async fn discard(
    journal: &mut Journal,
    ids: &[DeliveryId],
    unserved: Option<DestinationId>,
    note: &str,
    at: Millis,
) -> Result<u64, Fault> {
    let asked: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let sql = "SELECT id FROM deliveries
               WHERE id = ANY($1) AND (state = $2 OR (state = 0 AND destination = $3)) ORDER BY id FOR UPDATE";
    let unserved_id = unserved.map(|of| of.0);
    let found = journal.base.rows(sql, &[&asked, &(State::Dead as i64), &unserved_id]).await?;
    for row in &found {
        offer::discard(journal, DeliveryId(get(row, 0)?), unserved, note, at).await?;
    }
    Ok(found.len() as u64)
}

const COLUMNS: &str = "id, tenant, kind, argument, cursor, done, total, state, note";

pub(crate) async fn list(base: &Base, filter: &JobFilter) -> Result<Vec<JobRow>, Fault> {
    let tenant = match &filter.tenant {
        None => None,
        Some(name) => match base.tenant(name.as_str()).await? {
            None => return Ok(vec![]),
            known => known,
        },
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE id < $1 AND ($2::bigint IS NULL OR tenant = $2) ORDER BY id DESC LIMIT $3"
    );
    let before = filter.before.unwrap_or(i64::MAX);
    jobs_of(base, &base.rows(&sql, &[&before, &tenant, &page_rows(filter.limit)]).await?).await
}

pub(crate) async fn by_id(base: &Base, id: i64) -> Result<Option<JobRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = $1");
    match base.row(&sql, &[&id]).await? {
        Some(row) => job_of(base, &row).await.map(Some),
        None => Ok(None),
    }
}

pub(crate) async fn running(base: &Base) -> Result<Vec<JobRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE due IS NOT NULL AND state = 0 ORDER BY due LIMIT $1");
    let mut found = jobs_of(base, &base.rows(&sql, &[&(JOBS_OPEN_MAX as i64)]).await?).await?;
    found.sort_by_key(|job| job.id);
    Ok(found)
}

async fn jobs_of(base: &Base, rows: &[Row]) -> Result<Vec<JobRow>, Fault> {
    let mut found = vec![];
    for row in rows {
        found.push(job_of(base, row).await?);
    }
    Ok(found)
}

async fn job_of(base: &Base, row: &Row) -> Result<JobRow, Fault> {
    let id: i64 = get(row, "id")?;
    Ok(JobRow {
        id,
        tenant: base.tenant_name(get(row, "tenant")?).await?,
        kind: get(row, "kind")?,
        argument: get(row, "argument")?,
        cursor: get(row, "cursor")?,
        done: u64::try_from(get::<i64, _>(row, "done")?).unwrap_or(0),
        total: get::<Option<i64>, _>(row, "total")?.and_then(|total| u64::try_from(total).ok()),
        state: JobState::from_number(get(row, "state")?).ok_or_else(|| Fault::unreadable("job", id))?,
        note: get(row, "note")?,
    })
}

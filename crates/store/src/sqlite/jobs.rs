//! Jobs: long work page by page, each page and its cursor in one transaction.

use mailspan_core::limits::{JOBS_KEPT_MAX, JOBS_OPEN_MAX};
use mailspan_core::{DeliveryId, DestinationId, Millis, State};
use rusqlite::{OptionalExtension, Row, params};

use super::base::{Base, Fault, page as page_rows};
use super::group::Group;
use super::{leases, offer, standing};
use crate::write::Wrote;
use crate::{JobFilter, JobRow, JobState, NewJob, Page, PageWork};

pub(crate) const VERSION: i64 = 1;

/// A job that has not ended has a due time; one that is paused, never.
pub(crate) const NEVER: i64 = i64::MAX;

pub(crate) fn lease_of(job: i64) -> String {
    format!("job/{job}")
}

pub(crate) fn make(base: &Base, job: &NewJob) -> Result<Wrote, Fault> {
    let open: i64 = base
        .sql("SELECT count(*) FROM (SELECT 1 FROM jobs WHERE due IS NOT NULL LIMIT ?1)")?
        .query_row([JOBS_OPEN_MAX as i64], |row| row.get(0))?;
    if open >= JOBS_OPEN_MAX as i64 {
        let text = format!("{open} jobs have not ended: wait for one, or cancel one");
        return Err(Fault::refused("too_many_jobs", text));
    }
    let tenant = base.tenant_or_new(job.tenant.as_str())?;
    base.sql("INSERT INTO jobs (tenant, kind, argument, due, state, v) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![tenant, job.kind, job.argument, job.at.0, JobState::Running as i64, VERSION])?;
    let id = base.conn.last_insert_rowid();
    base.sql("DELETE FROM jobs WHERE id <= ?1 AND due IS NULL")?.execute([id - JOBS_KEPT_MAX])?;
    // Without the argument: it may name a person, and the log is kept for years.
    standing::log(base, tenant, job.at, &format!("job {}", job.kind), id, "")?;
    Ok(Wrote::Key { id })
}

/// Pauses, resumes or cancels what has not ended.
pub(crate) fn stand(base: &Base, id: i64, state: JobState, note: &str, at: Millis) -> Result<Wrote, Fault> {
    let (tenant, before) = state_of(base, id)?;
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
    base.sql("UPDATE jobs SET state = ?2, due = ?3, note = ?4 WHERE id = ?1")?.execute(params![
        id,
        state as i64,
        due,
        Some(note).filter(|note| !note.is_empty())
    ])?;
    if state.has_ended() {
        base.sql("DELETE FROM leases WHERE name = ?1")?.execute([lease_of(id)])?;
    }
    standing::log(base, tenant, at, &format!("job {}", state.name()), id, note)?;
    Ok(Wrote::Done)
}

fn state_of(base: &Base, id: i64) -> Result<(i64, JobState), Fault> {
    let found: Option<(i64, i64)> = base
        .sql("SELECT tenant, state FROM jobs WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((tenant, state)) = found else {
        return Err(Fault::refused("not_found", format!("there is no job {id}")));
    };
    let state = JobState::from_number(state).ok_or_else(|| Fault::unreadable("job", id))?;
    Ok((tenant, state))
}

/// The work of a page with its cursor.
pub(crate) fn page(group: &mut Group, page: &Page) -> Result<Wrote, Fault> {
    leases::check(&group.base, &lease_of(page.job), page.fence)?;
    let (_, state) = state_of(&group.base, page.job)?;
    if state != JobState::Running {
        let text = format!("job {} is {}", page.job, state.name());
        return Err(Fault::refused("job_not_running", text));
    }
    let (done, destinations) = match &page.work {
        PageWork::Count { matched } => (*matched, vec![]),
        PageWork::Offer { items, again } => offer::reopen_page(group, items, *again, page.at)?,
        PageWork::Discard { deliveries, unserved, note } => {
            (discard(group, deliveries, *unserved, note, page.at)?, vec![])
        }
    };
    let base = &group.base;
    let (state, note) = match &page.end {
        Some((state, note)) => (*state, Some(note.as_str()).filter(|note| !note.is_empty())),
        None => (JobState::Running, None),
    };
    base.sql(
        "UPDATE jobs SET cursor = ?2, done = done + ?3, total = ?4, state = ?5, due = ?6, note = ?7 WHERE id = ?1",
    )?
    .execute(params![
        page.job,
        page.cursor,
        i64::try_from(done).unwrap_or(i64::MAX),
        page.total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)),
        state as i64,
        page.end.is_none().then_some(page.at.0),
        note,
    ])?;
    if page.end.is_some() {
        base.sql("DELETE FROM leases WHERE name = ?1")?.execute([lease_of(page.job)])?;
    }
    Ok(Wrote::Paged { done, destinations })
}

/// What is no dead letter any more is passed over, but for what is pending for `unserved`.
fn discard(
    group: &mut Group,
    ids: &[DeliveryId],
    unserved: Option<DestinationId>,
    note: &str,
    at: Millis,
) -> Result<u64, Fault> {
    let mut done = 0;
    for id in ids {
        let can_be = group
            .base
            .sql(
                "SELECT 1 FROM deliveries WHERE id = ?1 AND (state = ?2 OR (state = 0 AND destination = ?3))",
            )?
            .exists(params![id.0, State::Dead as i64, unserved.map(|of| of.0)])?;
        if can_be {
            offer::discard(group, *id, unserved, note, at)?;
            done += 1;
        }
    }
    Ok(done)
}

const COLUMNS: &str = "id, tenant, kind, argument, cursor, done, total, state, note";

pub(crate) fn list(base: &Base, filter: &JobFilter) -> Result<Vec<JobRow>, Fault> {
    let tenant = match &filter.tenant {
        None => None,
        Some(name) => match base.tenant(name.as_str())? {
            None => return Ok(vec![]),
            known => known,
        },
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE id < ?1 AND (?2 IS NULL OR tenant = ?2) ORDER BY id DESC LIMIT ?3"
    );
    let mut statement = base.sql(&sql)?;
    let before = filter.before.unwrap_or(i64::MAX);
    let mut rows = statement.query(params![before, tenant, page_rows(filter.limit)])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        found.push(job_of(base, row)?);
    }
    Ok(found)
}

pub(crate) fn by_id(base: &Base, id: i64) -> Result<Option<JobRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1");
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(|row| job_of(base, row)).transpose()
}

pub(crate) fn running(base: &Base) -> Result<Vec<JobRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE due IS NOT NULL AND state = 0 ORDER BY due LIMIT ?1");
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query([JOBS_OPEN_MAX as i64])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        found.push(job_of(base, row)?);
    }
    found.sort_by_key(|job: &JobRow| job.id);
    Ok(found)
}

fn job_of(base: &Base, row: &Row) -> Result<JobRow, Fault> {
    let id: i64 = row.get("id")?;
    Ok(JobRow {
        id,
        tenant: base.tenant_name(row.get("tenant")?)?,
        kind: row.get("kind")?,
        argument: row.get("argument")?,
        cursor: row.get("cursor")?,
        done: u64::try_from(row.get::<_, i64>("done")?).unwrap_or(0),
        total: row.get::<_, Option<i64>>("total")?.and_then(|total| u64::try_from(total).ok()),
        state: JobState::from_number(row.get("state")?).ok_or_else(|| Fault::unreadable("job", id))?,
        note: row.get("note")?,
    })
}

//! What was turned away: whole requests in a ring a source, elements in quarantine.

use mailspan_core::limits::{REFUSED_BODY_BYTES_MAX, REFUSED_KEPT_MAX};
use mailspan_core::{Millis, Name, Reason};
use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault, page};
use super::counts::Place;
use super::group::Group;
use crate::write::{RefusedRequest, Wrote};
use crate::{NameKind, RefusedRow, UnreadableRow};

const RING: i64 = REFUSED_KEPT_MAX as i64;

/// An element's id: its request, and its place among the elements of it that cannot be read.
pub(crate) fn unreadable_id(request: i64, position: usize) -> Result<i64, Fault> {
    match i64::try_from(position) {
        Ok(position) if position < 8_192 => Ok(request << 13 | position),
        _ => Err(Fault::refused(
            "too_many_elements",
            "a request has at most 8,192 elements: send smaller batches",
        )),
    }
}

/// The oldest of the source goes when the ring is full: writing costs the same then.
pub(crate) fn keep(group: &mut Group, request: &RefusedRequest) -> Result<Wrote, Fault> {
    let base = &group.base;
    let headers = serde_json::to_string(&request.headers)
        .map_err(|error| Fault::refused("unwritable_headers", error.to_string()))?;
    let tenant = base.tenant_or_new(request.tenant.as_str())?;
    let source = base.number_or_new(tenant, NameKind::Source as u8, request.source.as_str())?;
    let written: Option<i64> = base
        .sql("SELECT n FROM counts WHERE about = ?1 AND place = ?2")?
        .query_row(params![source, Place::Refused.number()], |row| row.get(0))
        .optional()?;
    let n = written.unwrap_or(0) + group.counts.waiting(source, Place::Refused);
    let body = &request.body[..request.body.len().min(REFUSED_BODY_BYTES_MAX)];
    base.sql(
        "INSERT OR REPLACE INTO refused (id, n, tenant, source, at, failed, text, hint, headers, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        source * RING + n % RING,
        n,
        tenant,
        source,
        request.at.0,
        request.check,
        request.text,
        request.hint,
        headers,
        body,
    ])?;
    group.counts.raise(source, Place::Refused, 1);
    Ok(Wrote::Done)
}

/// Newest first.
pub(crate) fn list(base: &Base, source: Option<&Name>, limit: usize) -> Result<Vec<RefusedRow>, Fault> {
    let mut statement = base.sql(
        "SELECT id, source, at, failed, text, hint, headers, body, tenant FROM refused
         WHERE ?1 IS NULL OR source IN (SELECT id FROM names WHERE kind = 1 AND name = ?1)
         ORDER BY at DESC, n DESC LIMIT ?2",
    )?;
    let mut rows = statement.query(params![source.map(|name| name.as_str()), page(limit)])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let headers: String = row.get(6)?;
        found.push(RefusedRow {
            id,
            tenant: base.tenant_name(row.get(8)?)?,
            source: base.name(row.get(1)?)?,
            at: Millis(row.get(2)?),
            check: row.get(3)?,
            text: row.get(4)?,
            hint: row.get(5)?,
            headers: serde_json::from_str(&headers).map_err(|_| Fault::unreadable("refused request", id))?,
            body: row.get(7)?,
        });
    }
    Ok(found)
}

/// Newest first.
pub(crate) fn unreadable(
    base: &Base,
    limit: usize,
    before: Option<i64>,
) -> Result<Vec<UnreadableRow>, Fault> {
    let mut statement = base.sql(
        "SELECT id, source, received_at, reason_code, reason, raw, part, tenant FROM unreadable
         WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let mut rows = statement.query(params![before.unwrap_or(i64::MAX), page(limit)])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let packed: Vec<u8> = row.get(5)?;
        let raw =
            crate::pack::unsqueeze(&packed).ok_or_else(|| Fault::unreadable("quarantined element", id))?;
        found.push(UnreadableRow {
            id,
            tenant: base.tenant_name(row.get(7)?)?,
            source: base.name(row.get(1)?)?,
            received_at: Millis(row.get(2)?),
            part: row.get(6)?,
            reason: Reason { code: row.get(3)?, text: row.get(4)? },
            raw: String::from_utf8_lossy(&raw).into_owned(),
        });
    }
    Ok(found)
}

//! What was turned away: whole requests in a ring a source, elements in quarantine.

use std::collections::BTreeMap;

use mailspan_core::limits::{REFUSED_BODY_BYTES_MAX, REFUSED_KEPT_MAX};
use mailspan_core::{Name, Reason};

use super::base::{Base, Fault, clean, get, millis};
use crate::sqlite::base::page;
use crate::sqlite::counts::Place;
use crate::write::RefusedRequest;
use crate::{NameKind, RefusedRow, UnreadableRow};

const RING: i64 = REFUSED_KEPT_MAX as i64;

/// Keeps all of a group. The oldest of the source goes when the ring is full. The sum of a source, one for all
/// nodes, says where in the ring the next one goes; it is locked last and in one order.
pub(crate) async fn keep(base: &Base, requests: &[&RefusedRequest]) -> Result<(), Fault> {
    let mut of_source: BTreeMap<(i64, i64), Vec<&RefusedRequest>> = BTreeMap::new();
    for request in requests {
        let tenant = base.made_tenant(request.tenant.as_str()).await?;
        let source = base.made_number(tenant, NameKind::Source as u8, request.source.as_str()).await?;
        of_source.entry((source, tenant)).or_default().push(request);
    }
    for ((source, tenant), requests) in of_source {
        let rows = base
            .written(
                "INSERT INTO counts (about, place, shard, n) VALUES ($1, $2, 0, $3)
                 ON CONFLICT (about, place, shard) DO UPDATE SET n = counts.n + excluded.n RETURNING n",
                &[&source, &Place::Refused.number(), &(requests.len() as i64)],
            )
            .await?;
        let written: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
        let newest = &requests[requests.len().saturating_sub(REFUSED_KEPT_MAX)..];
        insert(base, source, tenant, written - newest.len() as i64, newest).await?;
    }
    Ok(())
}

async fn insert(
    base: &Base,
    source: i64,
    tenant: i64,
    first: i64,
    requests: &[&RefusedRequest],
) -> Result<(), Fault> {
    let ns: Vec<i64> = (first..).take(requests.len()).collect();
    let ids: Vec<i64> = ns.iter().map(|n| source * RING + n % RING).collect();
    let times: Vec<i64> = requests.iter().map(|one| one.at.0).collect();
    let checks: Vec<_> = requests.iter().map(|one| clean(&one.check)).collect();
    let texts: Vec<_> = requests.iter().map(|one| clean(&one.text)).collect();
    let hints: Vec<_> = requests.iter().map(|one| one.hint.as_deref().map(clean)).collect();
    let mut headers = vec![];
    for one in requests {
        let written = serde_json::to_string(&one.headers);
        headers.push(written.map_err(|error| Fault::refused("unwritable_headers", error.to_string()))?);
    }
    let bodies: Vec<&[u8]> =
        requests.iter().map(|one| &one.body[..one.body.len().min(REFUSED_BODY_BYTES_MAX)]).collect();
    base.execute(
        "INSERT INTO refused (id, n, tenant, source, at, failed, text, hint, headers, body)
         SELECT r.id, r.n, $3, $4, r.at, r.failed, r.text, r.hint, r.headers, r.body
         FROM unnest($1::bigint[], $2::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::bytea[]) AS r (id, n, at, failed, text, hint, headers, body)
         ON CONFLICT (id) DO UPDATE SET n = excluded.n, tenant = excluded.tenant, at = excluded.at,
            failed = excluded.failed, text = excluded.text, hint = excluded.hint, headers = excluded.headers,
            body = excluded.body",
        &[&ids, &ns, &tenant, &source, &times, &checks, &texts, &hints, &headers, &bodies],
    )
    .await?;
    Ok(())
}

/// Newest first.
pub(crate) async fn list(base: &Base, source: Option<&Name>, limit: usize) -> Result<Vec<RefusedRow>, Fault> {
    let rows = base
        .rows(
            "SELECT id, tenant, source, at, failed, text, hint, headers, body FROM refused
             WHERE $1::text IS NULL OR source IN (SELECT id FROM names WHERE kind = 1 AND name = $1)
             ORDER BY at DESC, n DESC LIMIT $2",
            &[&source.map(|name| clean(name.as_str())), &page(limit)],
        )
        .await?;
    let mut found = vec![];
    for row in &rows {
        let id = get(row, "id")?;
        let headers: &str = get(row, "headers")?;
        found.push(RefusedRow {
            id,
            tenant: base.tenant_name(get(row, "tenant")?).await?,
            source: base.name(get(row, "source")?).await?,
            at: millis(row, "at")?,
            check: get(row, "failed")?,
            text: get(row, "text")?,
            hint: get(row, "hint")?,
            headers: serde_json::from_str(headers).map_err(|_| Fault::unreadable("refused request", id))?,
            body: get(row, "body")?,
        });
    }
    Ok(found)
}

/// Newest first.
pub(crate) async fn unreadable(
    base: &Base,
    limit: usize,
    before: Option<i64>,
) -> Result<Vec<UnreadableRow>, Fault> {
    let rows = base
        .rows(
            "SELECT id, tenant, source, received_at, reason_code, reason, raw, part FROM unreadable
             WHERE id < $1 ORDER BY id DESC LIMIT $2",
            &[&before.unwrap_or(i64::MAX), &page(limit)],
        )
        .await?;
    let mut found = vec![];
    for row in &rows {
        let id: i64 = get(row, "id")?;
        let packed: &[u8] = get(row, "raw")?;
        let raw =
            crate::pack::unsqueeze(packed).ok_or_else(|| Fault::unreadable("quarantined element", id))?;
        found.push(UnreadableRow {
            id,
            tenant: base.tenant_name(get(row, "tenant")?).await?,
            source: base.name(get(row, "source")?).await?,
            received_at: millis(row, "received_at")?,
            part: super::base::small(row, "part")?,
            reason: Reason { code: get(row, "reason_code")?, text: get(row, "reason")? },
            raw: String::from_utf8_lossy(&raw).into_owned(),
        });
    }
    Ok(found)
}

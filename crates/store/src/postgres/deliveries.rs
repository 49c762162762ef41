//! Deliveries and attempts as they are listed.

use mailspan_core::{Cause, Class, DeliveryId, EventId, Offer, Progress, Seq, State};
use tokio_postgres::Row;

use super::base::{Base, Fault, clean, digest, get, maybe_millis, millis, reason, small};
use super::{events, persons};
use crate::sqlite::base::page;
use crate::sqlite::envelope;
use crate::sqlite::offer::of_row;
use crate::{AttemptRow, DeliveryFilter, DeliveryRow, NameKind};

/// A person's events that are looked through for their deliveries.
const PERSON_EVENTS_MAX: usize = 10_000;

/// Named one by one, as everywhere: a column that a later version adds must not change what a prepared statement
/// gives.
const COLUMNS: &str = "d.id, d.tenant, d.route, d.destination, d.class, d.cause, d.state, d.due, d.attempts,
    d.crashes, d.reason_code, d.reason, d.carried_by, d.created_at, d.changed_at,
    e.id AS event_id, e.type AS event_type, e.packed AS event_packed";

pub(crate) async fn by_id(base: &Base, id: DeliveryId) -> Result<Option<DeliveryRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM deliveries d JOIN events e ON e.seq = d.event WHERE d.id = $1");
    match base.row(&sql, &[&id.0]).await? {
        Some(row) => delivery_of(base, &row).await.map(Some),
        None => Ok(None),
    }
}

/// Newest first.
pub(crate) async fn list(base: &Base, filter: &DeliveryFilter) -> Result<Vec<DeliveryRow>, Fault> {
    let seqs: Option<Vec<i64>> = match (filter.event, &filter.subject) {
        (Some(id), _) => Some(events::seq_of(base, id).await?.map(|seq| seq.0).into_iter().collect()),
        (None, _) if !filter.events.is_empty() => Some(filter.events.iter().map(|seq| seq.0).collect()),
        (None, Some(subject)) => {
            let mut seqs = vec![];
            for person in persons::numbers_of(base, filter.tenant.as_ref(), subject).await? {
                seqs.extend(events::of_person(base, person, i64::MAX, PERSON_EVENTS_MAX).await?);
            }
            Some(seqs)
        }
        (None, None) => None,
    };
    let tenant = match &filter.tenant {
        None => None,
        Some(name) => match base.tenant(name.as_str()).await? {
            None => return Ok(vec![]),
            known => known,
        },
    };
    let destinations: Option<Vec<i64>> = match &filter.destination {
        None => None,
        Some(name) => {
            let sql = "SELECT id FROM names WHERE kind = $1 AND name = $2";
            let kind = NameKind::Destination as i64;
            let rows = base.rows(sql, &[&kind, &clean(name.as_str())]).await?;
            Some(rows.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?)
        }
    };
    // Written out: a partial index is used only where its condition stands in the text.
    let state = match filter.state {
        None => String::new(),
        Some(state) => format!("AND d.state = {}", state as i64),
    };
    // Ids first: where rows must be sorted, only their ids are.
    let sql = format!(
        "SELECT {COLUMNS} FROM (SELECT d.id FROM deliveries d WHERE d.id < $1
            AND ($2::bigint[] IS NULL OR d.event = ANY($2)) AND ($3::bigint IS NULL OR d.tenant = $3)
            AND ($4::bigint[] IS NULL OR d.destination = ANY($4)) {state} ORDER BY d.id DESC LIMIT $5) AS w
         JOIN deliveries d ON d.id = w.id JOIN events e ON e.seq = d.event ORDER BY d.id DESC"
    );
    let before = filter.before.unwrap_or(i64::MAX);
    let mut found = vec![];
    for row in &base.rows(&sql, &[&before, &seqs, &tenant, &destinations, &page(filter.limit)]).await? {
        found.push(delivery_of(base, row).await?);
    }
    Ok(found)
}

async fn delivery_of(base: &Base, row: &Row) -> Result<DeliveryRow, Fault> {
    let id: i64 = get(row, "id")?;
    let unreadable = || Fault::unreadable("delivery", id);
    let packed: &[u8] = get(row, "event_packed")?;
    // A damaged event must still show its deliveries.
    let subject = envelope::unpack(packed).and_then(|e| e.subject.shown().map(str::to_owned));
    Ok(DeliveryRow {
        id: DeliveryId(id),
        event_id: EventId(u128::from_be_bytes(digest(row, "event_id")?)),
        event_type: base.name(get(row, "event_type")?).await?.as_str().to_owned(),
        subject,
        tenant: base.tenant_name(get(row, "tenant")?).await?,
        route: base.name(get(row, "route")?).await?,
        destination: base.name(get(row, "destination")?).await?,
        class: Class::from_number(get(row, "class")?).ok_or_else(unreadable)?,
        cause: Cause::from_number(get(row, "cause")?).ok_or_else(unreadable)?,
        state: State::from_number(get(row, "state")?).ok_or_else(unreadable)?,
        due: maybe_millis(row, "due")?,
        attempts: small(row, "attempts")?,
        crashes: small(row, "crashes")?,
        reason: reason(row, "reason_code", "reason")?,
        carried_by: get::<Option<i64>, _>(row, "carried_by")?.map(DeliveryId),
        created_at: millis(row, "created_at")?,
        changed_at: millis(row, "changed_at")?,
    })
}

pub(crate) async fn offer_of(base: &Base, id: DeliveryId) -> Result<Option<Offer>, Fault> {
    let row = base
        .row(
            "SELECT d.event, d.route, d.destination, e.type FROM deliveries d JOIN events e ON e.seq = d.event
             WHERE d.id = $1",
            &[&id.0],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (seq, event_type) = (Seq(get(&row, 0)?), base.event_type(get(&row, 3)?).await?);
    let class = events::class_of(base, seq, &event_type).await?;
    Ok(Some(of_row(seq, get(&row, 1)?, get(&row, 2)?, class)))
}

pub(crate) async fn progress(base: &Base, id: DeliveryId) -> Result<Vec<Progress>, Fault> {
    let row = base.row("SELECT progress FROM deliveries WHERE id = $1", &[&id.0]).await?;
    let Some(row) = row else { return Ok(vec![]) };
    match get::<Option<&[u8]>, _>(&row, 0)? {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|_| Fault::unreadable("delivery", id.0)),
        None => Ok(vec![]),
    }
}

/// Oldest first: those it is linked to, and its last one.
pub(crate) async fn attempts(base: &Base, id: DeliveryId) -> Result<Vec<AttemptRow>, Fault> {
    let rows = base
        .rows(
            "SELECT at, ms, items, status, request, answer FROM attempts
             WHERE id IN (SELECT attempt FROM tries WHERE delivery = $1
                          UNION SELECT last_attempt FROM deliveries WHERE id = $1)
             ORDER BY id LIMIT 1000",
            &[&id.0],
        )
        .await?;
    let mut attempts = vec![];
    for row in &rows {
        let request: Option<&[u8]> = get(row, "request")?;
        attempts.push(AttemptRow {
            at: millis(row, "at")?,
            took_ms: small(row, "ms")?,
            items: small(row, "items")?,
            status: u16::try_from(small(row, "status")?).unwrap_or(0),
            request: request.and_then(crate::pack::unsqueeze),
            answer: get(row, "answer")?,
        });
    }
    Ok(attempts)
}

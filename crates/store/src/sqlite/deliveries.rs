//! Deliveries and attempts as they are listed.

use mailspan_core::{Cause, Class, DeliveryId, EventId, Millis, Offer, Progress, Seq, State};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Row, params, params_from_iter};

use super::base::{Base, Fault, maybe_millis, millis, page, reason};
use super::{envelope, events, offer, persons};
use crate::{AttemptRow, DeliveryFilter, DeliveryRow, NameKind};

/// A person's events that are looked through for their deliveries.
const PERSON_EVENTS_MAX: usize = 10_000;

const COLUMNS: &str = "d.*, e.id AS event_id, e.type AS event_type, e.packed AS event_packed";

pub(crate) fn by_id(base: &Base, id: DeliveryId) -> Result<Option<DeliveryRow>, Fault> {
    let sql =
        format!("SELECT {COLUMNS} FROM deliveries d CROSS JOIN events e ON e.seq = d.event WHERE d.id = ?1");
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query([id.0])?;
    rows.next()?.map(|row| delivery_of(base, row)).transpose()
}

/// Newest first.
pub(crate) fn list(base: &Base, filter: &DeliveryFilter) -> Result<Vec<DeliveryRow>, Fault> {
    let Some(narrow) = Narrow::of(base, filter)? else { return Ok(vec![]) };
    if let Some(id) = filter.event {
        let Some(seq) = events::seq_of(base, id)? else { return Ok(vec![]) };
        return of_events(base, &narrow, &[seq.0]);
    }
    if !filter.events.is_empty() {
        let seqs: Vec<i64> = filter.events.iter().map(|seq| seq.0).collect();
        return of_events(base, &narrow, &seqs);
    }
    if let Some(subject) = &filter.subject {
        let mut seqs = vec![];
        for person in persons::numbers_of(base, filter.tenant.as_ref(), subject)? {
            seqs.extend(events::of_person(base, person, i64::MAX, PERSON_EVENTS_MAX)?);
        }
        return of_events(base, &narrow, &seqs);
    }
    let index = match filter.state {
        Some(State::Dead) => "INDEXED BY deliveries_dead",
        Some(State::Pending) => "INDEXED BY deliveries_lane",
        _ => "NOT INDEXED",
    };
    narrow.read(base, index, None)
}

fn of_events(base: &Base, narrow: &Narrow, seqs: &[i64]) -> Result<Vec<DeliveryRow>, Fault> {
    let mut rows = vec![];
    for seq in seqs {
        rows.extend(narrow.read(base, "INDEXED BY deliveries_once", Some(*seq))?);
    }
    rows.sort_by_key(|row: &DeliveryRow| std::cmp::Reverse(row.id));
    rows.truncate(narrow.limit as usize);
    Ok(rows)
}

/// A filter in numbers.
struct Narrow {
    tenant: Option<i64>,
    destinations: Option<Vec<i64>>,
    state: Option<State>,
    before: i64,
    limit: i64,
}

impl Narrow {
    /// `None` where nothing can match.
    fn of(base: &Base, filter: &DeliveryFilter) -> Result<Option<Narrow>, Fault> {
        let tenant = match &filter.tenant {
            None => None,
            Some(name) => match base.tenant(name.as_str())? {
                None => return Ok(None),
                known => known,
            },
        };
        let destinations = match &filter.destination {
            None => None,
            Some(name) => {
                let mut statement = base.sql("SELECT id FROM names WHERE kind = ?1 AND name = ?2")?;
                let ids = statement
                    .query_map(params![NameKind::Destination as u8, name.as_str()], |row| row.get(0))?;
                Some(ids.collect::<Result<Vec<i64>, _>>()?)
            }
        };
        let before = filter.before.unwrap_or(i64::MAX);
        Ok(Some(Narrow { tenant, destinations, state: filter.state, before, limit: page(filter.limit) }))
    }

    fn read(&self, base: &Base, index: &str, event: Option<i64>) -> Result<Vec<DeliveryRow>, Fault> {
        let mut conditions = vec!["d.id < ?".to_owned()];
        let mut values = vec![Value::Integer(self.before)];
        if let Some(seq) = event {
            conditions.push("d.event = ?".to_owned());
            values.push(Value::Integer(seq));
        }
        if let Some(tenant) = self.tenant {
            conditions.push("d.tenant = ?".to_owned());
            values.push(Value::Integer(tenant));
        }
        if let Some(state) = self.state {
            // Written out: a partial index is used only where its condition stands in the text.
            conditions.push(format!("d.state = {}", state as i64));
        }
        if let Some(ids) = &self.destinations {
            let marks = vec!["?"; ids.len()].join(", ");
            conditions.push(format!("d.destination IN ({marks})"));
            values.extend(ids.iter().map(|id| Value::Integer(*id)));
        }
        // Ids first: where rows must be sorted, only their ids are.
        let sql = format!(
            "SELECT {COLUMNS} FROM deliveries d CROSS JOIN events e ON e.seq = d.event
             WHERE d.id IN (SELECT d.id FROM deliveries d {index} WHERE {} ORDER BY d.id DESC LIMIT {})
             ORDER BY d.id DESC",
            conditions.join(" AND "),
            self.limit
        );
        let mut statement = base.sql(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut found = vec![];
        while let Some(row) = rows.next()? {
            found.push(delivery_of(base, row)?);
        }
        Ok(found)
    }
}

fn delivery_of(base: &Base, row: &Row) -> Result<DeliveryRow, Fault> {
    let id: i64 = row.get("id")?;
    let unreadable = || Fault::unreadable("delivery", id);
    let packed: Vec<u8> = row.get("event_packed")?;
    // A damaged event must still show its deliveries.
    let subject = envelope::unpack(&packed).and_then(|e| e.subject.shown().map(str::to_owned));
    Ok(DeliveryRow {
        id: DeliveryId(id),
        event_id: EventId(u128::from_be_bytes(row.get("event_id")?)),
        event_type: base.name(row.get("event_type")?)?.as_str().to_owned(),
        subject,
        tenant: base.tenant_name(row.get("tenant")?)?,
        route: base.name(row.get("route")?)?,
        destination: base.name(row.get("destination")?)?,
        class: Class::from_number(row.get("class")?).ok_or_else(unreadable)?,
        cause: Cause::from_number(row.get("cause")?).ok_or_else(unreadable)?,
        state: State::from_number(row.get("state")?).ok_or_else(unreadable)?,
        due: maybe_millis(row, "due")?,
        attempts: row.get("attempts")?,
        crashes: row.get("crashes")?,
        reason: reason(row, "reason_code", "reason")?,
        carried_by: row.get::<_, Option<i64>>("carried_by")?.map(DeliveryId),
        created_at: millis(row, "created_at")?,
        changed_at: millis(row, "changed_at")?,
    })
}

pub(crate) fn offer_of(base: &Base, id: DeliveryId) -> Result<Option<Offer>, Fault> {
    let mut statement = base.sql(
        "SELECT d.event, d.route, d.destination, e.type FROM deliveries d CROSS JOIN events e ON e.seq = d.event
         WHERE d.id = ?1",
    )?;
    let found: Option<(i64, i64, i64, i64)> = statement
        .query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((event, route, destination, event_type)) = found else { return Ok(None) };
    let class = events::class_of(base, Seq(event), &base.event_type(event_type)?)?;
    Ok(Some(offer::of_row(Seq(event), route, destination, class)))
}

pub(crate) fn progress(base: &Base, id: DeliveryId) -> Result<Vec<Progress>, Fault> {
    let mut statement = base.sql("SELECT progress FROM deliveries WHERE id = ?1")?;
    let packed: Option<Option<Vec<u8>>> = statement.query_row([id.0], |row| row.get(0)).optional()?;
    match packed.flatten() {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| Fault::unreadable("delivery", id.0)),
        None => Ok(vec![]),
    }
}

/// Oldest first: those it is linked to, and its last one.
pub(crate) fn attempts(base: &Base, id: DeliveryId) -> Result<Vec<AttemptRow>, Fault> {
    let mut statement = base.sql(
        "SELECT at, ms, items, status, request, answer FROM attempts
         WHERE id IN (SELECT attempt FROM tries WHERE delivery = ?1
                      UNION SELECT last_attempt FROM deliveries WHERE id = ?1)
         ORDER BY id LIMIT 1000",
    )?;
    let mut rows = statement.query([id.0])?;
    let mut attempts = vec![];
    while let Some(row) = rows.next()? {
        let request: Option<Vec<u8>> = row.get(4)?;
        attempts.push(AttemptRow {
            at: Millis(row.get(0)?),
            took_ms: row.get(1)?,
            items: row.get(2)?,
            status: row.get(3)?,
            request: request.and_then(|packed| crate::pack::unsqueeze(&packed)),
            answer: row.get(5)?,
        });
    }
    Ok(attempts)
}

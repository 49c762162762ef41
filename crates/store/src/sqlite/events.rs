//! Events as they are read.

use mailspan_core::limits::PAGE_ROWS_MAX;
use mailspan_core::{Class, Digest, Event, EventId, EventType, Millis, Seq};
use rusqlite::{OptionalExtension, Row, params};

use super::accept::{REQUEST_REDACTED, TEST};
use super::base::{Base, Fault, page};
use super::recent::Recent;
use super::route::{UNMATCHED, transmission_hash};
use super::{envelope, persons};
use crate::pack::unpack_request;
use crate::{EventFilter, EventRow, NameKind, RequestRow};

/// Columns that [`event_of`] reads, of a table named `e`. They stand first in a statement: by position they are
/// found at once, by name only after a comparison of texts each.
pub(crate) const EVENT_COLUMNS: &str =
    "e.seq, e.id, e.tenant, e.source, e.type, e.happened_at, e.received_at, e.flags, e.packed";
/// How many there are.
pub(crate) const EVENT_COLUMNS_N: usize = 9;

pub(crate) fn event_of(base: &Base, row: &Row) -> Result<Event, Fault> {
    let seq: i64 = row.get(0)?;
    let packed = row.get_ref(8)?.as_blob().map_err(|_| Fault::unreadable("event", seq))?;
    let envelope = envelope::unpack(packed).ok_or_else(|| Fault::unreadable("event", seq))?;
    Ok(Event {
        seq: Some(Seq(seq)),
        id: EventId(u128::from_be_bytes(row.get(1)?)),
        tenant: base.tenant_name(row.get(2)?)?,
        source: base.name(row.get(3)?)?,
        event_type: base.event_type(row.get(4)?)?,
        subject: envelope.subject,
        time: Millis(row.get(5)?),
        received_at: Millis(row.get(6)?),
        test: row.get::<_, i64>(7)? & TEST != 0,
        transmission: envelope.transmission,
        recipient_role: envelope.recipient_role,
        data: envelope.data.into(),
        extensions: envelope.extensions.map(Into::into),
    })
}

/// Those that wait for the router, the lowest first; `limit` is not cut. What `recent` still has is not read.
pub(crate) fn unrouted(base: &Base, limit: usize, recent: &Recent) -> Result<Vec<Event>, Fault> {
    let seqs: Vec<Seq> = base
        .sql("SELECT seq FROM unrouted ORDER BY seq LIMIT ?1")?
        .query_map([limit as i64], |row| row.get(0).map(Seq))?
        .collect::<Result<_, _>>()?;
    let mut events = Vec::with_capacity(seqs.len());
    for (seq, kept) in seqs.iter().zip(recent.take(&seqs)) {
        let found = match kept {
            Some(event) => Ok(Some(event)),
            None => by_seq(base, *seq),
        };
        match found {
            Ok(event) => events.extend(event),
            // One damaged row must not stop the router: it stays, and shows as waiting.
            Err(Fault::Trouble(trouble)) => tracing::error!(%trouble, "a waiting event was passed over"),
            Err(fault) => return Err(fault),
        }
    }
    Ok(events)
}

pub(crate) fn by_seq(base: &Base, seq: Seq) -> Result<Option<Event>, Fault> {
    let sql = format!("SELECT {EVENT_COLUMNS} FROM events e WHERE e.seq = ?1");
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query([seq.0])?;
    rows.next()?.map(|row| event_of(base, row)).transpose()
}

/// As the router says. Of one that cannot be read what its type says: it is passed over when it is claimed.
pub(crate) fn class_of(base: &Base, seq: Seq, event_type: &EventType) -> Result<Class, Fault> {
    if let Some(class) = mailspan_core::class_of_type(event_type) {
        return Ok(class);
    }
    match by_seq(base, seq) {
        Ok(Some(event)) => Ok(mailspan_core::class_of(&event)),
        Ok(None) | Err(Fault::Trouble(_)) => Ok(event_type.class()),
        Err(fault) => Err(fault),
    }
}

pub(crate) fn by_id(base: &Base, id: EventId) -> Result<Option<EventRow>, Fault> {
    match seq_of(base, id)? {
        Some(seq) => row_of(base, seq),
        None => Ok(None),
    }
}

pub(crate) fn seq_of(base: &Base, id: EventId) -> Result<Option<Seq>, Fault> {
    let mut statement = base.sql("SELECT seq FROM events WHERE id = ?1")?;
    Ok(statement.query_row([id.0.to_be_bytes()], |row| row.get(0).map(Seq)).optional()?)
}

fn row_of(base: &Base, seq: Seq) -> Result<Option<EventRow>, Fault> {
    let Some(event) = by_seq(base, seq)? else { return Ok(None) };
    let mut statement = base.sql(
        "SELECT (SELECT 1 FROM unrouted WHERE seq = ?1), (SELECT place FROM without_delivery WHERE seq = ?1),
         (SELECT count(*) FROM deliveries WHERE event = ?1)",
    )?;
    let (waits, nowhere, deliveries): (Option<i64>, Option<i64>, u32) =
        statement.query_row([seq.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let place = match (waits, nowhere) {
        (Some(_), _) => "waiting",
        (None, Some(UNMATCHED)) => "unmatched",
        (None, Some(_)) => "test",
        (None, None) => "routed",
    };
    let several_recipients = is_for_several(base, &event)?;
    Ok(Some(EventRow { event, place, deliveries, several_recipients }))
}

/// True when the send that the event speaks of was seen with more than one recipient.
pub(crate) fn is_for_several(base: &Base, event: &Event) -> Result<bool, Fault> {
    let Some(transmission) = &event.transmission else { return Ok(false) };
    let Some(tenant) = base.tenant(event.tenant.as_str())? else { return Ok(false) };
    let source = base.number(tenant, NameKind::Source as u8, event.source.as_str())?;
    let mut statement = base.sql("SELECT several FROM transmissions WHERE source = ?1 AND hash = ?2")?;
    let several: Option<i64> =
        statement.query_row(params![source, transmission_hash(transmission)], |row| row.get(0)).optional()?;
    Ok(several == Some(1))
}

/// Newest first.
pub(crate) fn list(base: &Base, filter: &EventFilter) -> Result<Vec<EventRow>, Fault> {
    let before = filter.before.unwrap_or(i64::MAX);
    let limit = page(filter.limit) as usize;
    let seqs = match &filter.subject {
        Some(subject) => {
            let mut seqs = vec![];
            for person in persons::numbers_of(base, filter.tenant.as_ref(), subject)? {
                seqs.extend(of_person(base, person, before, PAGE_ROWS_MAX)?);
            }
            seqs.extend(waiting_for(base, subject, before)?);
            seqs.sort_by(|a, b| b.cmp(a));
            seqs.dedup();
            seqs
        }
        None => matching(base, filter, before, limit)?,
    };
    let mut rows = vec![];
    for seq in seqs {
        if rows.len() == limit {
            break;
        }
        rows.extend(row_of(base, Seq(seq))?.filter(|row| fits(&row.event, filter)));
    }
    Ok(rows)
}

fn fits(event: &Event, filter: &EventFilter) -> bool {
    filter.tenant.as_ref().is_none_or(|tenant| *tenant == event.tenant)
        && filter.source.as_ref().is_none_or(|source| *source == event.source)
        && filter.event_type.as_ref().is_none_or(|event_type| *event_type == event.event_type.as_str())
}

/// The `seq` of a person's events below `before`, newest first: one probe a bucket.
pub(crate) fn of_person(base: &Base, person: i64, before: i64, limit: usize) -> Result<Vec<i64>, Fault> {
    let bucket = |sql: &str| -> Result<Option<i64>, Fault> {
        Ok(base.sql(sql)?.query_row([], |row| row.get(0)).optional()?)
    };
    let first = bucket("SELECT bucket FROM person_events ORDER BY bucket LIMIT 1")?;
    let last = bucket("SELECT bucket FROM person_events ORDER BY bucket DESC LIMIT 1")?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(vec![]) };
    let mut statement = base.sql(
        "SELECT seq FROM person_events WHERE bucket = ?1 AND person = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4",
    )?;
    let mut seqs: Vec<i64> = vec![];
    for bucket in (first..=last.min(before >> persons::BUCKET_BITS)).rev() {
        let room = limit - seqs.len();
        let found = statement.query_map(params![bucket, person, before, room as i64], |row| row.get(0))?;
        seqs.extend(found.collect::<Result<Vec<i64>, _>>()?);
        if seqs.len() >= limit {
            break;
        }
    }
    Ok(seqs)
}

/// Events that are not routed yet are not linked to their person: the newest of them are looked through.
fn waiting_for(base: &Base, subject: &str, before: i64) -> Result<Vec<i64>, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM unrouted u CROSS JOIN events e ON e.seq = u.seq
         WHERE u.seq < ?1 ORDER BY u.seq DESC LIMIT ?2"
    );
    let wanted = mailspan_core::Subject::read(subject);
    let wanted = crate::prepare::identities(&wanted, &base.key);
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query(params![before, PAGE_ROWS_MAX as i64])?;
    let mut seqs = vec![];
    while let Some(row) = rows.next()? {
        let event = event_of(base, row)?;
        let known = crate::prepare::identities(&event.subject, &base.key);
        let same = |one: Option<[u8; 16]>, other: Option<[u8; 16]>| one.is_some() && one == other;
        if same(known.address, wanted.address) || same(known.external_id, wanted.external_id) {
            seqs.extend(event.seq.map(|seq| seq.0));
        }
    }
    Ok(seqs)
}

fn matching(base: &Base, filter: &EventFilter, before: i64, limit: usize) -> Result<Vec<i64>, Fault> {
    let mut statement = base.sql(
        "SELECT e.seq FROM events e
         WHERE e.seq < ?1
           AND (?2 IS NULL OR e.tenant = (SELECT id FROM tenants WHERE name = ?2))
           AND (?3 IS NULL OR e.source IN (SELECT id FROM names WHERE kind = 1 AND name = ?3))
           AND (?4 IS NULL OR e.type IN (SELECT id FROM names WHERE kind = 4 AND name = ?4))
         ORDER BY e.seq DESC LIMIT ?5",
    )?;
    let tenant = filter.tenant.as_ref().map(|name| name.as_str());
    let source = filter.source.as_ref().map(|name| name.as_str());
    let seqs = statement
        .query_map(params![before, tenant, source, filter.event_type, limit as i64], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(seqs)
}

pub(crate) fn request_of(base: &Base, id: EventId) -> Result<Option<RequestRow>, Fault> {
    let mut statement = base.sql(
        "SELECT r.id, r.received_at, r.credential, r.digest, r.redacted, r.packed
         FROM events e CROSS JOIN requests r ON r.id = e.request WHERE e.id = ?1",
    )?;
    let mut rows = statement.query([id.0.to_be_bytes()])?;
    rows.next()?.map(request_row).transpose()
}

/// Columns: id, received_at, credential, digest, redacted, packed.
pub(crate) fn request_row(row: &Row) -> Result<RequestRow, Fault> {
    let number: i64 = row.get(0)?;
    let packed: Vec<u8> = row.get(5)?;
    let request = unpack_request(&packed).ok_or_else(|| Fault::unreadable("request", number))?;
    Ok(RequestRow {
        received_at: Millis(row.get(1)?),
        credential: row.get(2)?,
        digest: Digest(row.get(3)?).to_string(),
        redacted: row.get::<_, i64>(4)? & REQUEST_REDACTED != 0,
        ..request
    })
}

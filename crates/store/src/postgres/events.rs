//! Events as they are read.

use std::collections::HashSet;

use mailspan_core::limits::PAGE_ROWS_MAX;
use mailspan_core::{Class, Digest, Event, EventId, EventType, Seq, Subject};
use tokio_postgres::Row;

use super::base::{Base, Fault, clean, digest, get, millis};
use super::persons;
use crate::pack::unpack_request;
use crate::prepare::identities;
use crate::sqlite::accept::{REQUEST_REDACTED, TEST};
use crate::sqlite::base::page;
use crate::sqlite::envelope;
use crate::sqlite::persons::BUCKET_BITS;
use crate::sqlite::route::{UNMATCHED, transmission_hash};
use crate::{EventFilter, EventRow, NameKind, RequestRow};

/// Columns that [`event_of`] reads, of a table named `e`.
pub(crate) const EVENT_COLUMNS: &str = "e.seq, e.id AS event_id, e.tenant AS event_tenant, e.source, e.type,
    e.happened_at, e.received_at, e.flags AS event_flags, e.packed";

pub(crate) async fn event_of(base: &Base, row: &Row) -> Result<Event, Fault> {
    let seq: i64 = get(row, "seq")?;
    let packed: &[u8] = get(row, "packed")?;
    let envelope = envelope::unpack(packed).ok_or_else(|| Fault::unreadable("event", seq))?;
    Ok(Event {
        seq: Some(Seq(seq)),
        id: EventId(u128::from_be_bytes(digest(row, "event_id")?)),
        tenant: base.tenant_name(get(row, "event_tenant")?).await?,
        source: base.name(get(row, "source")?).await?,
        event_type: base.event_type(get(row, "type")?).await?,
        subject: envelope.subject,
        time: millis(row, "happened_at")?,
        received_at: millis(row, "received_at")?,
        test: get::<i64, _>(row, "event_flags")? & TEST != 0,
        transmission: envelope.transmission,
        recipient_role: envelope.recipient_role,
        data: envelope.data.into(),
        extensions: envelope.extensions.map(Into::into),
    })
}

/// Those that wait for the router, the lowest first; `limit` is not cut. No cursor: what another node commits
/// late comes with its low numbers at the next look.
pub(crate) async fn unrouted(base: &Base, limit: usize) -> Result<Vec<Event>, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM unrouted u JOIN events e ON e.seq = u.seq ORDER BY u.seq LIMIT $1"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut events = vec![];
    for row in &base.rows(&sql, &[&limit]).await? {
        match event_of(base, row).await {
            Ok(event) => events.push(event),
            // One damaged row must not stop the router: it stays, and shows as waiting.
            Err(Fault::Trouble(trouble)) => tracing::error!(%trouble, "a waiting event was passed over"),
            Err(fault) => return Err(fault),
        }
    }
    Ok(events)
}

pub(crate) async fn by_seq(base: &Base, seq: Seq) -> Result<Option<Event>, Fault> {
    let sql = format!("SELECT {EVENT_COLUMNS} FROM events e WHERE e.seq = $1");
    match base.row(&sql, &[&seq.0]).await? {
        Some(row) => event_of(base, &row).await.map(Some),
        None => Ok(None),
    }
}

/// As the router says. Of one that cannot be read what its type says: it is passed over when it is claimed.
pub(crate) async fn class_of(base: &Base, seq: Seq, event_type: &EventType) -> Result<Class, Fault> {
    if let Some(class) = mailspan_core::class_of_type(event_type) {
        return Ok(class);
    }
    match by_seq(base, seq).await {
        Ok(Some(event)) => Ok(mailspan_core::class_of(&event)),
        Ok(None) | Err(Fault::Trouble(_)) => Ok(event_type.class()),
        Err(fault) => Err(fault),
    }
}

pub(crate) async fn by_id(base: &Base, id: EventId) -> Result<Option<EventRow>, Fault> {
    match seq_of(base, id).await? {
        Some(seq) => row_of(base, seq).await,
        None => Ok(None),
    }
}

pub(crate) async fn seq_of(base: &Base, id: EventId) -> Result<Option<Seq>, Fault> {
    let row = base.row("SELECT seq FROM events WHERE id = $1", &[&&id.0.to_be_bytes()[..]]).await?;
    row.map(|row| get(&row, 0).map(Seq)).transpose()
}

async fn row_of(base: &Base, seq: Seq) -> Result<Option<EventRow>, Fault> {
    let Some(event) = by_seq(base, seq).await? else { return Ok(None) };
    let row = base
        .row(
            "SELECT EXISTS (SELECT 1 FROM unrouted WHERE seq = $1) AS waits,
                (SELECT place FROM without_delivery WHERE seq = $1) AS nowhere,
                (SELECT count(*) FROM deliveries WHERE event = $1) AS deliveries",
            &[&seq.0],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let place = match (get(&row, "waits")?, get(&row, "nowhere")?) {
        (true, _) => "waiting",
        (false, Some(UNMATCHED)) => "unmatched",
        (false, Some(_)) => "test",
        (false, None) => "routed",
    };
    let several_recipients = several(base, [&event]).await?.contains(&seq);
    Ok(Some(EventRow {
        event,
        place,
        deliveries: super::base::small(&row, "deliveries")?,
        several_recipients,
    }))
}

/// Those whose send was seen with more than one recipient.
pub(crate) async fn several(
    base: &Base,
    events: impl IntoIterator<Item = &Event> + Send,
) -> Result<HashSet<Seq>, Fault> {
    let (mut seqs, mut sources, mut hashes) = (vec![], vec![], vec![]);
    let asked: Vec<&Event> = events.into_iter().filter(|event| event.transmission.is_some()).collect();
    for event in asked {
        let (Some(seq), Some(transmission)) = (event.seq, &event.transmission) else { continue };
        let Some(tenant) = base.tenant(event.tenant.as_str()).await? else { continue };
        let source = base.number(tenant, NameKind::Source as u8, event.source.as_str()).await?;
        let Some(source) = source else { continue };
        seqs.push(seq.0);
        sources.push(source);
        hashes.push(transmission_hash(transmission).to_vec());
    }
    if seqs.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = base
        .rows(
            "SELECT a.seq FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS a (seq, source, hash)
             JOIN transmissions t ON t.source = a.source AND t.hash = a.hash WHERE t.several = 1",
            &[&seqs, &sources, &hashes],
        )
        .await?;
    rows.iter().map(|row| get(row, 0).map(Seq)).collect()
}

/// Newest first.
pub(crate) async fn list(base: &Base, filter: &EventFilter) -> Result<Vec<EventRow>, Fault> {
    let before = filter.before.unwrap_or(i64::MAX);
    let limit = page(filter.limit) as usize;
    let seqs = match &filter.subject {
        Some(subject) => {
            let mut seqs = vec![];
            for person in persons::numbers_of(base, filter.tenant.as_ref(), subject).await? {
                seqs.extend(of_person(base, person, before, PAGE_ROWS_MAX).await?);
            }
            seqs.extend(waiting_for(base, subject, before).await?);
            seqs.sort_by(|a, b| b.cmp(a));
            seqs.dedup();
            seqs
        }
        None => matching(base, filter, before, limit).await?,
    };
    let mut rows = vec![];
    for seq in seqs {
        if rows.len() == limit {
            break;
        }
        rows.extend(row_of(base, Seq(seq)).await?.filter(|row| fits(&row.event, filter)));
    }
    Ok(rows)
}

fn fits(event: &Event, filter: &EventFilter) -> bool {
    filter.tenant.as_ref().is_none_or(|tenant| *tenant == event.tenant)
        && filter.source.as_ref().is_none_or(|source| *source == event.source)
        && filter.event_type.as_ref().is_none_or(|wanted| wanted == event.event_type.as_str())
}

/// The newest of a person's events, bucket by bucket from the newest one.
pub(crate) async fn of_person(
    base: &Base,
    person: i64,
    before: i64,
    limit: usize,
) -> Result<Vec<i64>, Fault> {
    let sql = "SELECT min(bucket), max(bucket) FROM person_events";
    let Some(row) = base.row(sql, &[]).await? else { return Ok(vec![]) };
    let (Some(first), Some(last)) = (get::<Option<i64>, _>(&row, 0)?, get::<Option<i64>, _>(&row, 1)?) else {
        return Ok(vec![]);
    };
    let last = last.min(before >> BUCKET_BITS);
    let rows = base
        .rows(
            "SELECT p.seq FROM generate_series($1::bigint, $2::bigint, -1) WITH ORDINALITY AS b (bucket, n)
             CROSS JOIN LATERAL (SELECT e.seq FROM person_events e WHERE e.bucket = b.bucket AND e.person = $3
                AND e.seq < $4 ORDER BY e.seq DESC LIMIT $5) AS p
             LIMIT $5",
            &[&last, &first, &person, &before, &(limit as i64)],
        )
        .await?;
    rows.iter().map(|row| get(row, 0)).collect()
}

/// Events that are not routed yet are not linked to their person: the newest of them are looked through.
async fn waiting_for(base: &Base, subject: &str, before: i64) -> Result<Vec<i64>, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM unrouted u JOIN events e ON e.seq = u.seq
         WHERE u.seq < $1 ORDER BY u.seq DESC LIMIT $2"
    );
    let wanted = identities(&Subject::read(subject), &base.key);
    let mut seqs = vec![];
    for row in &base.rows(&sql, &[&before, &(PAGE_ROWS_MAX as i64)]).await? {
        let event = event_of(base, row).await?;
        let known = identities(&event.subject, &base.key);
        let same = |one: Option<[u8; 16]>, other: Option<[u8; 16]>| one.is_some() && one == other;
        if same(known.address, wanted.address) || same(known.external_id, wanted.external_id) {
            seqs.extend(event.seq.map(|seq| seq.0));
        }
    }
    Ok(seqs)
}

async fn matching(base: &Base, filter: &EventFilter, before: i64, limit: usize) -> Result<Vec<i64>, Fault> {
    let rows = base
        .rows(
            "SELECT e.seq FROM events e
             WHERE e.seq < $1
               AND ($2::text IS NULL OR e.tenant = (SELECT id FROM tenants WHERE name = $2))
               AND ($3::text IS NULL OR e.source IN (SELECT id FROM names WHERE kind = 1 AND name = $3))
               AND ($4::text IS NULL OR e.type IN (SELECT id FROM names WHERE kind = 4 AND name = $4))
             ORDER BY e.seq DESC LIMIT $5",
            &[
                &before,
                &filter.tenant.as_ref().map(|name| clean(name.as_str())),
                &filter.source.as_ref().map(|name| clean(name.as_str())),
                &filter.event_type.as_deref().map(clean),
                &(limit as i64),
            ],
        )
        .await?;
    rows.iter().map(|row| get(row, 0)).collect()
}

pub(crate) async fn request_of(base: &Base, id: EventId) -> Result<Option<RequestRow>, Fault> {
    let row = base
        .row(
            "SELECT r.id, r.received_at, r.credential, r.digest, r.redacted, r.packed
             FROM events e JOIN requests r ON r.id = e.request WHERE e.id = $1",
            &[&&id.0.to_be_bytes()[..]],
        )
        .await?;
    row.map(|row| request_row(&row)).transpose()
}

/// Columns: id, received_at, credential, digest, redacted, packed.
pub(crate) fn request_row(row: &Row) -> Result<RequestRow, Fault> {
    let packed: &[u8] = get(row, "packed")?;
    let unreadable = || get(row, "id").map_or_else(|fault| fault, |id| Fault::unreadable("request", id));
    let request = unpack_request(packed).ok_or_else(unreadable)?;
    Ok(RequestRow {
        received_at: millis(row, "received_at")?,
        credential: get(row, "credential")?,
        digest: Digest(digest(row, "digest")?).to_string(),
        redacted: get::<i64, _>(row, "redacted")? & REQUEST_REDACTED != 0,
        ..request
    })
}

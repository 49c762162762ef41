//! The provider's log of a transmission against what was settled here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mailspan_connectors::contract::{Log, Parsed};
use mailspan_connectors::signature::digest;
use mailspan_core::limits::{PAGE_ROWS_MAX, RECONCILE_EVENTS_MAX};
use mailspan_core::{Event, EventId, Millis, Reason, Seq, State};
use mailspan_store::{DeliveryFilter, DeliveryRow, EventFilter, Receipt, Trouble};
use serde_json::{Value, json};

use super::ask::ask;
use super::compare::{Compared, Difference, What, compare, difference};
use crate::app::App;
use crate::deliver::sign;
use crate::hub::{Asked, Source};
use crate::intake::door::{keep_of, read_contacts};
use crate::intake::receive::arrived_all;
use crate::runtime;

/// An event comes some time after it happened; a clock may be wrong by an hour.
const EARLIER_MS: i64 = 3_600_000;
/// Where the log lists nothing, so far back.
const BACK_MS: i64 = 31 * 86_400_000;
/// Events whose deliveries are read by one statement.
const EVENTS_AT_ONCE: usize = 500;

/// Why there is nothing to compare.
pub enum Failed {
    /// The provider gave no log.
    Log(Reason),
    Store(Trouble),
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Failed {
        Failed::Store(trouble)
    }
}

/// Compares, and with `repair` accepts what is missing here, as if its webhooks had brought it.
pub async fn reconcile(
    app: &App,
    source: &Arc<Source>,
    (asked, log): (&Asked, &Arc<dyn Log>),
    transmission: &str,
    repair: bool,
) -> Result<Value, Failed> {
    let answer =
        ask(app, source, asked, log.ask(transmission)).await.map_err(|lost| Failed::Log(lost.why))?;
    let body = digest(&answer.body);
    let (log, wanted) = (log.clone(), transmission.to_owned());
    let read = runtime::blocking(move || log.read(&wanted, &answer)).await;
    let panicked = || Reason::new("panicked", "reading the log panicked: please report this");
    let parsed = read.ok_or_else(panicked).and_then(|read| read).map_err(Failed::Log)?;
    let first = parsed.arrivals.iter().filter_map(|arrival| arrival.time).min();
    let (here, complete) = events_of(app, source, transmission, first).await?;
    // Both may be long.
    let compared = runtime::blocking(move || {
        let compared = compare(&parsed.arrivals, &here);
        (compared, parsed, here)
    });
    let panicked = || Reason::new("panicked", "comparing the log panicked: please report this");
    let (Compared { agreed, not_compared, mut differences }, parsed, here) =
        compared.await.ok_or_else(panicked).map_err(Failed::Log)?;
    let waiting = deliveries(app, &here, &mut differences).await?;
    let (listed, unreadable) = (parsed.arrivals.len(), parsed.unreadable.len());
    let missing: BTreeSet<usize> = differences.iter().filter_map(|one| one.part).collect();
    let mut repaired = 0;
    if repair && !missing.is_empty() {
        repaired = accept(app, source, asked, parsed, &missing, body).await?;
    }
    Ok(json!({
        "source": source.name, "transmission": transmission, "listed": listed, "here": here.len(),
        "agreed": agreed, "not_compared": not_compared, "unreadable": unreadable,
        "deliveries_pending": waiting, "complete": complete, "repaired": repaired, "differences": differences,
    }))
}

/// The events of the transmission, newest first; false where older ones were not looked at.
async fn events_of(
    app: &App,
    source: &Source,
    transmission: &str,
    first: Option<Millis>,
) -> Result<(Vec<Event>, bool), Trouble> {
    let since = match first {
        Some(first) => first.0.saturating_sub(EARLIER_MS),
        None => runtime::now().0.saturating_sub(BACK_MS),
    };
    let (mut found, mut before, mut looked_at) = (Vec::new(), None, 0);
    loop {
        let filter = EventFilter {
            tenant: Some(source.tenant.clone()),
            source: Some(source.name.clone()),
            before,
            limit: PAGE_ROWS_MAX,
            ..EventFilter::default()
        };
        let page = app.store.events(filter).await?;
        looked_at += page.len();
        let ended =
            page.len() < PAGE_ROWS_MAX || page.last().is_some_and(|row| row.event.received_at.0 < since);
        before = page.last().and_then(|row| row.event.seq).map(|seq| seq.0);
        let events = page.into_iter().map(|row| row.event);
        found.extend(events.filter(|event| event.transmission.as_deref() == Some(transmission)));
        if ended || looked_at >= RECONCILE_EVENTS_MAX {
            return Ok((found, ended));
        }
    }
}

/// Names those that failed; how many are under way.
async fn deliveries(app: &App, here: &[Event], differences: &mut Vec<Difference>) -> Result<usize, Trouble> {
    let mut waiting = 0;
    for part in here.chunks(EVENTS_AT_ONCE) {
        let of: HashMap<EventId, &Event> = part.iter().map(|event| (event.id, event)).collect();
        let events: Vec<Seq> = part.iter().filter_map(|event| event.seq).collect();
        let mut before = None;
        while !events.is_empty() {
            let events = events.clone();
            let filter = DeliveryFilter { events, before, limit: PAGE_ROWS_MAX, ..DeliveryFilter::default() };
            let rows = app.store.deliveries(filter).await?;
            before = rows.last().map(|row| row.id.0);
            let is_end = rows.len() < PAGE_ROWS_MAX;
            waiting += rows.iter().filter(|row| row.state == State::Pending).count();
            let is_failed = |row: &DeliveryRow| matches!(row.state, State::Dead | State::Discarded);
            let failed = rows.into_iter().filter(is_failed);
            differences.extend(failed.filter_map(|row| Some(failed_delivery(of.get(&row.event_id)?, row))));
            if is_end {
                break;
            }
        }
    }
    Ok(waiting)
}

fn failed_delivery(event: &Event, row: DeliveryRow) -> Difference {
    let (recipient, at) = (row.subject.unwrap_or_default(), Some(event.time.iso()));
    let base = difference(What::FailedDelivery, recipient, event.event_type.as_str(), at);
    Difference {
        event_id: Some(event.id.to_string()),
        delivery: Some(row.id.0.to_string()),
        destination: Some(row.destination.to_string()),
        reason: row.reason.map(|reason| reason.to_string()),
        ..base
    }
}

async fn accept(
    app: &App,
    source: &Arc<Source>,
    asked: &Asked,
    parsed: Parsed,
    missing: &BTreeSet<usize>,
    body: mailspan_core::Digest,
) -> Result<usize, Trouble> {
    let now = runtime::now();
    let arrivals = parsed.arrivals.into_iter().filter(|arrival| missing.contains(&arrival.part)).collect();
    let parsed = Parsed { arrivals, unreadable: Vec::new() };
    let mut ids = || EventId::v7(now, runtime::random_u128());
    let (arrivals, unreadable) = arrived_all(source, parsed, body, now, &mut ids);
    let mut receipt = Receipt {
        tenant: source.tenant.clone(),
        source: source.name.clone(),
        credential: sign::name_of(&asked.auth).to_owned(),
        received_at: now,
        digest: body,
        packed: None,
        arrivals,
        unreadable,
        idempotency: None,
        round: None,
        say: Vec::new(),
    };
    read_contacts(app, &mut receipt).await?;
    let (accepted, _) = keep_of(app, source, Box::new(receipt)).await?;
    app.metrics.accepted(&source.name, &accepted);
    Ok(accepted.ids.len())
}

//! The hub's own events: what an operator should hear of, routed like any other.
//!
//! What follows from a write (a dead letter, a destination that was paused or failed, a job that ended, a complaint) is
//! accepted with that write: said once, whatever dies meanwhile. What is found anew at each start (a quota that is nearly
//! used, a destination that is gone) is said once a day.

use std::sync::Arc;

use mailspan_connectors::signature::digest;
use mailspan_core::limits::SAY_TRIES_MAX;
use mailspan_core::{
    DestinationId, Digest, Event, EventId, EventType, Millis, Name, RawValue, Reason, Subject,
};
use mailspan_engine::Notice;
use mailspan_store::{Arrived, DeliveryRow, JobRow, JobState, Receipt, Say, Trouble};
use serde_json::{Value, json};

use crate::app::{App, Live};
use crate::hub::{SYSTEM, Source};
use crate::intake::door::keep;
use crate::runtime;

/// Until it is tried again to keep an event.
const AGAIN_MS: u64 = 1_000;

/// What is to be said of a delivery of this tenant that becomes a dead letter; nothing where no route takes it. One
/// about a system event is only logged: a route of system events into a broken destination would feed itself.
pub fn of_dead(live: &Live, tenant: &Name) -> Option<Say<DeliveryRow>> {
    let event = event(live, "system.dead_letter", tenant, &Value::Null)?;
    Some(Say { event, data: dead_letter })
}

fn dead_letter(row: &DeliveryRow) -> Option<String> {
    let data = json!({
        "delivery": row.id.0.to_string(),
        "event_id": row.event_id,
        "type": row.event_type,
        "subject": row.subject,
        "route": row.route,
        "destination": row.destination,
        "attempts": row.attempts,
        "reason": row.reason.as_ref().map(|reason| &reason.code),
        "text": row.reason.as_ref().map(|reason| &reason.text),
        "next": format!("mailspan dead-letters show {}", row.id.0),
    });
    (!row.event_type.starts_with("system.")).then(|| data.to_string())
}

/// What is to be said of a destination that is paused, or sends again.
pub fn of_standing(live: &Live, destination: DestinationId, paused: Option<&Reason>) -> Option<Box<Event>> {
    let settings = live.destinations.get(&destination)?;
    let name = &settings.name;
    let (event_type, next) = match paused {
        Some(_) => {
            ("system.destination_paused", format!("mend it, then mailspan destinations resume {name}"))
        }
        None => ("system.destination_resumed", String::new()),
    };
    let data = json!({
        "destination": name,
        "reason": paused.map(|reason| &reason.code),
        "text": paused.map(|reason| &reason.text),
        "next": next,
    });
    event(live, event_type, &settings.tenant, &data)
}

/// What is to be said of a source that is not asked any more: only an operator can help.
pub fn of_source_paused(
    live: &Live,
    tenant: &Name,
    source: &Name,
    credential: &str,
    why: &Reason,
) -> Option<Box<Event>> {
    let data = json!({
        "source": source,
        "credential": credential,
        "reason": why.code,
        "text": why.text,
        "next": format!("mend it, then mailspan sources poll {source}"),
    });
    event(live, "system.source_paused", tenant, &data)
}

/// What is to be said of a job of this tenant that is over: done, failed or cancelled.
pub fn of_job(live: &Live, tenant: &Name) -> Option<Say<JobRow>> {
    let event = event(live, "system.job_ended", tenant, &Value::Null)?;
    Some(Say { event, data: job_ended })
}

fn job_ended(row: &JobRow) -> Option<String> {
    let failed = row.state == JobState::Failed;
    let data = json!({
        "job": row.id.to_string(),
        "kind": row.kind,
        "state": row.state.name(),
        "failed": failed,
        "done": row.done,
        "total": row.total,
        "text": row.note.as_ref().filter(|note| !note.is_empty()),
        "next": if failed { format!("mailspan jobs show {}", row.id) } else { String::new() },
    });
    Some(data.to_string())
}

/// What is to be said where somebody called a mail spam. It does not say who: the event that it names does.
pub fn of_complaint(live: &Live, source: &Source, complaint: EventId) -> Option<Box<Event>> {
    let next = format!("mailspan events show {complaint}");
    let data = json!({ "source": source.name, "event_id": complaint, "next": next });
    event(live, "system.complaint", &source.tenant, &data)
}

/// What is to be said of a breaker that opened or closed, with the write that keeps it.
pub fn of_breaker(live: &Live, destination: DestinationId, what: &Notice) -> Option<Box<Event>> {
    let settings = live.destinations.get(&destination)?;
    let (name, tenant) = (&settings.name, &settings.tenant);
    match what {
        Notice::BreakerOpened { reason, probe_at } => {
            let data = json!({ "destination": name, "reason": reason.code, "text": reason.text, "probe_at": probe_at.rfc3339() });
            event(live, "system.destination_degraded", tenant, &data)
        }
        Notice::BreakerClosed => {
            event(live, "system.destination_recovered", tenant, &json!({ "destination": name }))
        }
        Notice::QuotaInDanger { .. } => None,
    }
}

/// Four fifths of what may be used of a day are used. A process that ends finds the same when it counts what the store
/// knows of the day.
pub async fn quota_in_danger(
    app: &App,
    tenant: &Name,
    destination: &Name,
    used: u64,
    daily: u32,
    resets: Millis,
) {
    let resets = resets.rfc3339();
    let data = json!({ "destination": destination, "used": used, "daily": daily, "resets": resets });
    // A desk that is opened again on the same day finds the same: it is said once.
    let once = digest(format!("quota\0{destination}\0{resets}").as_bytes());
    say(app, "system.quota_in_danger", tenant, &data, once).await;
}

/// A destination left the configuration while deliveries wait for it. Said once a day, however often the hub is
/// started without it.
pub async fn disabled(app: &App, tenant: &Name, destination: &Name, pending: u64) {
    let data = json!({
        "destination": destination,
        "pending": pending,
        "next": format!("put it back, or mailspan dead-letters discard --all --destination {destination} --note WHY"),
    });
    let day = runtime::now().0.div_euclid(86_400_000);
    let once = digest(format!("disabled\0{destination}\0{day}").as_bytes());
    say(app, "system.destination_disabled", tenant, &data, once).await;
}

/// Keeps an event that no write goes with; a store that is away is asked again. Not where it was said before (`once`).
async fn say(app: &App, event_type: &'static str, tenant: &Name, data: &Value, once: Digest) {
    let Some(event) = event(&app.live(), event_type, tenant, data) else { return };
    for _ in 0..SAY_TRIES_MAX {
        match keep(app, Box::new(receipt((*event).clone(), once))).await {
            Ok(_) => return,
            Err(Trouble::Broken(why)) if !app.stopping() => {
                tracing::warn!("an event of the hub itself waits: {why}");
                runtime::sleep(AGAIN_MS).await;
            }
            Err(Trouble::Busy) if !app.stopping() => runtime::sleep(AGAIN_MS).await,
            // It was kept, and the store could not say so.
            Err(Trouble::Refused(reason)) if reason.code == "event_id_exists" => return,
            Err(trouble) => {
                tracing::warn!("an event of the hub itself could not be kept: {trouble}");
                return;
            }
        }
    }
    tracing::error!("an event of the hub itself was given up: the store has been away for too long");
}

/// Nothing where no route takes it: what nobody asked for is not written.
fn event(live: &Live, event_type: &'static str, tenant: &Name, data: &Value) -> Option<Box<Event>> {
    let (source, event_type) = (Name::new(SYSTEM), EventType::known(event_type));
    if !live.hub.routes.iter().any(|route| route.takes(tenant, &source, &event_type)) {
        return None;
    }
    let now = runtime::now();
    let data = RawValue::from_string(data.to_string()).ok()?;
    Some(Box::new(Event {
        seq: None,
        id: EventId::v7(now, runtime::random_u128()),
        tenant: tenant.clone(),
        source,
        event_type,
        subject: Subject::nobody(),
        time: now,
        received_at: now,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: Arc::from(data),
    }))
}

fn receipt(event: Event, once: Digest) -> Receipt {
    Receipt {
        tenant: event.tenant.clone(),
        source: event.source.clone(),
        credential: SYSTEM.to_owned(),
        received_at: event.received_at,
        digest: digest(event.data.get().as_bytes()),
        packed: None,
        arrivals: vec![Arrived { event, part: 0, dedupe: Some(once), contact: None }],
        unreadable: Vec::new(),
        idempotency: None,
        round: None,
        say: Vec::new(),
    }
}

//! The hub's own events: what an operator should hear of, routed like any other.

use std::sync::Arc;

use mailspan_connectors::signature::digest;
use mailspan_core::{DeliveryId, Event, EventId, EventType, Name, RawValue, Reason, Subject};
use mailspan_engine::Notice;
use mailspan_store::{Arrived, DeliveryRow, JobState, Receipt};
use serde_json::{Value, json};

use crate::app::App;
use crate::hub::SYSTEM;
use crate::intake::door::keep;
use crate::runtime;

/// A delivery became a dead letter. One about a system event is only logged: a route of system events
/// into a broken destination would feed itself.
pub async fn dead_letter(app: &App, id: DeliveryId) {
    let row: DeliveryRow = match app.store.delivery(id).await {
        Ok(Some(row)) if !row.event_type.starts_with("system.") => row,
        _ => return,
    };
    let data = json!({
        "delivery": id.0.to_string(),
        "event_id": row.event_id,
        "type": row.event_type,
        "subject": row.subject,
        "route": row.route,
        "destination": row.destination,
        "attempts": row.attempts,
        "reason": row.reason.as_ref().map(|reason| &reason.code),
        "text": row.reason.as_ref().map(|reason| &reason.text),
        "next": format!("mailspan dead-letters show {}", id.0),
    });
    say(app, "system.dead_letter", &row.tenant, &data).await;
}

/// A destination was paused, or sends again.
pub async fn standing(app: &App, tenant: &Name, destination: &Name, paused: Option<&Reason>) {
    let (event_type, next) = match paused {
        Some(_) => {
            ("system.destination_paused", format!("mend it, then mailspan destinations resume {destination}"))
        }
        None => ("system.destination_resumed", String::new()),
    };
    let data = json!({
        "destination": destination,
        "reason": paused.map(|reason| &reason.code),
        "text": paused.map(|reason| &reason.text),
        "next": next,
    });
    say(app, event_type, tenant, &data).await;
}

/// A source is not asked any more: only an operator can help.
pub async fn source_paused(app: &App, tenant: &Name, source: &Name, credential: &str, why: &Reason) {
    let data = json!({
        "source": source,
        "credential": credential,
        "reason": why.code,
        "text": why.text,
        "next": format!("mend it, then mailspan sources poll {source}"),
    });
    say(app, "system.source_paused", tenant, &data).await;
}

/// A breaker opened or closed, a quota is in danger.
pub async fn notice(app: &App, tenant: &Name, destination: &Name, what: &Notice) {
    let (event_type, data) = match what {
        Notice::BreakerOpened { reason, probe_at } => (
            "system.destination_degraded",
            json!({ "destination": destination, "reason": reason.code, "text": reason.text, "probe_at": probe_at.rfc3339() }),
        ),
        Notice::BreakerClosed => ("system.destination_recovered", json!({ "destination": destination })),
        Notice::QuotaInDanger { used, daily, resets } => (
            "system.quota_in_danger",
            json!({ "destination": destination, "used": used, "daily": daily, "resets": resets.rfc3339() }),
        ),
    };
    say(app, event_type, tenant, &data).await;
}

/// A job is over: done, failed or cancelled.
pub async fn job_ended(app: &App, id: i64) {
    let row = match app.store.job(id).await {
        Ok(Some(row)) if row.state.has_ended() => row,
        _ => return,
    };
    let failed = row.state == JobState::Failed;
    let data = json!({
        "job": id.to_string(),
        "kind": row.kind,
        "state": row.state.name(),
        "failed": failed,
        "done": row.done,
        "total": row.total,
        "text": row.note.filter(|note| !note.is_empty()),
        "next": if failed { format!("mailspan jobs show {id}") } else { String::new() },
    });
    say(app, "system.job_ended", &row.tenant, &data).await;
}

/// Keeps the event where a route takes it; what nobody asked for is not written.
async fn say(app: &App, event_type: &'static str, tenant: &Name, data: &Value) {
    let (source, event_type) = (Name::new(SYSTEM), EventType::known(event_type));
    if !app.live().hub.routes.iter().any(|route| route.takes(tenant, &source, &event_type)) {
        return;
    }
    let now = runtime::now();
    let text = data.to_string();
    let digest = digest(text.as_bytes());
    let Ok(data) = RawValue::from_string(text) else { return };
    let event = Event {
        seq: None,
        id: EventId::v7(now, runtime::random_u128()),
        tenant: tenant.clone(),
        source: source.clone(),
        event_type,
        subject: Subject::nobody(),
        time: now,
        received_at: now,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: Arc::from(data),
    };
    let receipt = Receipt {
        tenant: tenant.clone(),
        source,
        credential: SYSTEM.to_owned(),
        received_at: now,
        digest,
        packed: None,
        arrivals: vec![Arrived { event, part: 0, dedupe: None, contact: None }],
        unreadable: Vec::new(),
        idempotency: None,
        round: None,
    };
    if let Err(trouble) = keep(app, Box::new(receipt)).await {
        tracing::warn!("an event of the hub itself could not be kept: {trouble}");
    }
}

//! `/v1/deliveries`: look, replay, discard.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use mailspan_core::{Cause, Class, DeliveryId, DestinationId, Name, Offer, State as DeliveryState};
use mailspan_store::{AttemptRow, DeliveryFilter, DeliveryRow, Store, Write};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::contacts::links::without_tokens;
use crate::deliver;
use crate::http::auth::Caller;
use crate::http::body::OptionalJson;
use crate::http::path::Segment;
use crate::http::problem::Problem;
use crate::http::v1::kept;
use crate::http::v1::query::{Query, page};
use crate::runtime;

/// How a delivery is shown everywhere.
pub fn shown(row: &DeliveryRow) -> Value {
    json!({
        "id": row.id.0.to_string(),
        "event_id": row.event_id,
        "type": row.event_type,
        "subject": row.subject,
        "tenant": row.tenant,
        "route": row.route,
        "destination": row.destination,
        "class": row.class.name(),
        "cause": match row.cause { Cause::Live => "live", Cause::Backfill => "backfill", Cause::Replay => "replay" },
        "state": row.state.name(),
        "carried_by": row.carried_by.map(|carrier| carrier.0.to_string()),
        "attempts": row.attempts,
        "crashes": row.crashes,
        "due": row.due.map(|due| due.iso()),
        "last_error": row.reason.as_ref().map(|reason| reason.text.clone()),
        "reason": row.reason.as_ref().map(|reason| reason.code.clone()),
        "created_at": row.created_at.iso(),
        "changed_at": row.changed_at.iso(),
    })
}

fn attempt(row: &AttemptRow) -> Value {
    json!({
        "at": row.at.iso(),
        "took_ms": row.took_ms,
        "items": row.items,
        "status": row.status,
        "request": row.request.as_ref().map(|bytes| without_tokens(&String::from_utf8_lossy(bytes)).into_owned()),
        "answer": row.answer.as_deref().map(without_tokens),
    })
}

pub async fn list(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let query = Query::read(query.as_deref(), &["subject", "destination", "state", "event", "tenant"])?;
    let state = query.get("state").map(|name| {
        DeliveryState::from_name(name).ok_or_else(|| {
            let names = DeliveryState::ALL.map(DeliveryState::name).join(", ");
            Problem::bad(format!("parameter `state`: expected one of {names}"))
        })
    });
    let limit = query.limit()?;
    let filter = DeliveryFilter {
        tenant: caller.tenant.clone().or_else(|| query.get("tenant").map(Name::new)),
        subject: query.get("subject").map(str::to_owned),
        destination: query.get("destination").map(Name::new),
        state: state.transpose()?,
        event: query.get("event").map(str::parse).transpose().map_err(Problem::bad)?,
        before: query.before()?,
        limit,
        ..DeliveryFilter::default()
    };
    let rows = app.store.deliveries(filter).await?;
    let last = rows.last().map(|row| row.id.0);
    Ok(Json(page(rows.iter().map(shown).collect(), limit, last)))
}

pub(super) async fn find(app: &App, caller: &Caller, id: &str) -> Result<DeliveryRow, Problem> {
    let number = id.parse().map_err(|_| {
        Problem::bad(format!("`{}` is no delivery id: expected a number", mailspan_core::clip(id, 40)))
    })?;
    let row = app.store.delivery(DeliveryId(number)).await?;
    row.filter(|row| caller.sees(&row.tenant))
        .ok_or_else(|| Problem::not_found(format!("there is no delivery {number}")))
}

/// A delivery with its attempts, the last kept request whole, and the last answer.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let row = find(&app, &caller, &id).await?;
    let attempts = app.store.attempts(row.id).await?;
    let mut value = shown(&row);
    value["history"] = attempts.iter().map(attempt).collect();
    let live = app.live();
    let destination = live.hub.destination(row.destination.as_str()).map(|arc| &**arc);
    let with_request = attempts.iter().rev().find_map(|attempt| attempt.request.as_deref());
    value["last_request"] = json!(with_request.map(|request| kept::whole(destination, request)));
    value["last_status"] = json!(attempts.last().map(|attempt| attempt.status));
    value["last_answer"] =
        json!(attempts.last().and_then(|attempt| attempt.answer.as_deref().map(without_tokens)));
    Ok(Json(value))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// Do again what is done already.
    again: bool,
}

/// Opens the delivery again: the same event, today's route and map, the key that it always had.
pub async fn replay(
    State(app): State<App>,
    caller: Caller,
    Segment(id): Segment,
    OptionalJson(body): OptionalJson<Replay>,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let row = find(&app, &caller, &id).await?;
    let again = body.again;
    let offer = app.store.offer_of(row.id).await?;
    let offer = offer.ok_or_else(|| Problem::not_found("its event was dropped by retention"))?;
    let live = app.live();
    let gone = |what: &str, name: &Name| {
        let detail = format!("{what} `{name}` is not in the configuration: put it back, then replay");
        Problem::new(StatusCode::CONFLICT, "not_configured", detail)
    };
    if !live.routes.contains_key(&offer.route) {
        return Err(gone("route", &row.route));
    }
    let Some(destination) = live.destinations.get(&offer.destination) else {
        return Err(gone("destination", &row.destination));
    };
    // Consent keeps its order also where the receiver does not care for any.
    let ordered = destination.ordered || offer.class == Class::Consent;
    let offer = Offer { cause: Cause::Replay, ordered, ..offer };
    if row.state == DeliveryState::Pending {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "pending",
            format!("delivery {} is pending already", row.id.0),
        ));
    }
    if row.state == DeliveryState::Delivered && !again {
        let detail = format!(
            "delivery {} is delivered: to send it once more, under the same idempotency key, say `again` (--again)",
            row.id.0
        );
        return Err(Problem::new(StatusCode::CONFLICT, "delivered", detail));
    }
    deliver::offer::offer(&app, vec![offer], again).await?;
    Ok(Json(shown(&find(&app, &caller, &id).await?)))
}

/// By this process's configuration, or, where several share a store, by another one that holds its lease.
pub(super) async fn is_served(app: &App, destination: DestinationId) -> Result<bool, Problem> {
    if app.live().destinations.contains_key(&destination) {
        return Ok(true);
    }
    if matches!(app.store, Store::Sqlite(_)) {
        return Ok(false);
    }
    let (name, now) = (format!("destination/{}", destination.0), runtime::now());
    Ok(app.store.leases().await?.iter().any(|lease| lease.name == name && lease.until > now))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discard {
    note: String,
}

/// Gives a dead letter up, with a note; also what waits for a destination that is not in the configuration any more.
pub async fn discard(
    State(app): State<App>,
    caller: Caller,
    Segment(id): Segment,
    OptionalJson(body): OptionalJson<Discard>,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let row = find(&app, &caller, &id).await?;
    let offer = app.store.offer_of(row.id).await?.filter(|_| row.state == DeliveryState::Pending);
    let unserved = match offer.map(|offer| offer.destination) {
        Some(destination) if !is_served(&app, destination).await? => Some(destination),
        _ => None,
    };
    let at = runtime::now();
    app.store.write(Write::Discard { delivery: row.id, unserved, note: body.note, at }).await?;
    Ok(Json(shown(&find(&app, &caller, &id).await?)))
}

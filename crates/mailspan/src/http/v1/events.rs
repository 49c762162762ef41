//! `/v1/events`: the journal.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use mailspan_core::{EventId, Name, cloudevents};
use mailspan_store::{DeliveryFilter, EventFilter, EventRow, RequestRow};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::app::App;
use crate::contacts::links::without_tokens;
use crate::http::auth::Caller;
use crate::http::path::Segment;
use crate::http::problem::Problem;
use crate::http::v1::query::{Query, page};
use crate::route::explain as explained;

fn shown(row: &EventRow) -> Value {
    let event = &row.event;
    json!({
        "id": event.id,
        "seq": event.seq.map(|seq| seq.0.to_string()),
        "tenant": event.tenant,
        "source": event.source,
        "type": event.event_type.as_str(),
        "subject": event.subject.shown(),
        "time": event.time.iso(),
        "received_at": event.received_at.iso(),
        "place": row.place,
        "deliveries": row.deliveries,
    })
}

pub async fn list(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let query = Query::read(query.as_deref(), &["source", "type", "subject", "tenant"])?;
    let limit = query.limit()?;
    let filter = EventFilter {
        tenant: caller.tenant.clone().or_else(|| query.get("tenant").map(Name::new)),
        source: query.get("source").map(Name::new),
        event_type: query.get("type").map(str::to_owned),
        subject: query.get("subject").map(str::to_owned),
        before: query.before()?,
        limit,
    };
    let rows = app.store.events(filter).await?;
    let last = rows.last().and_then(|row| row.event.seq).map(|seq| seq.0);
    Ok(Json(page(rows.iter().map(shown).collect(), limit, last)))
}

async fn find(app: &App, caller: &Caller, id: &str) -> Result<EventRow, Problem> {
    let id: EventId = id.parse().map_err(Problem::bad)?;
    let row = app.store.event(id).await?.filter(|row| caller.sees(&row.event.tenant));
    row.ok_or_else(|| Problem::not_found(format!("there is no event {id}")))
}

/// The event to the letter, with the raw request that it came in; confirmation links without their token.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let row = find(&app, &caller, &id).await?;
    let request = app.store.request_of(row.event.id).await?;
    let mut value = shown(&row);
    // Numbers above 2^53 survive: the event is embedded as text.
    let event = RawValue::from_string(cloudevents::write(&row.event));
    let text = event.as_ref().map(|raw| raw.get()).unwrap_or_default();
    value["event_json"] = json!(without_tokens(text));
    value["several_recipients"] = json!(row.several_recipients);
    value["request"] = request.as_ref().map(raw_request).unwrap_or_default();
    Ok(Json(value))
}

fn raw_request(row: &RequestRow) -> Value {
    let shown = |(name, value): &(String, String)| (name.clone(), without_tokens(value).into_owned());
    let headers: Vec<(String, String)> = row.headers.iter().map(shown).collect();
    json!({
        "received_at": row.received_at.iso(),
        "credential": row.credential,
        "digest": row.digest,
        "redacted": row.redacted,
        "method": row.method,
        "path": without_tokens(&row.path),
        "query": row.query,
        "headers": headers,
        "body": without_tokens(&String::from_utf8_lossy(&row.body)),
    })
}

/// Which routes matched, which did not and by which condition, what became of each delivery.
pub async fn explain(
    State(app): State<App>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let row = find(&app, &caller, &id).await?;
    let filter = DeliveryFilter { event: Some(row.event.id), limit: 1_000, ..DeliveryFilter::default() };
    let deliveries = app.store.deliveries(filter).await?;
    let mut value = shown(&row);
    let (live, several) = (app.live(), row.several_recipients);
    let explain = move || explained::routes(&live, &row.event, &deliveries);
    value["routes"] = app.turns.explain(explain).await.ok_or_else(|| {
        let detail = "a condition broke on this event: see the program of each route";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "condition_broke", detail)
    })?;
    value["several_recipients"] = json!(several);
    Ok(Json(value))
}

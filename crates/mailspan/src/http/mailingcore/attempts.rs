//! What was delivered to a webhook endpoint; a test of it, and delivering again.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use mailspan_core::limits::ENDPOINT_ANSWER_CHARS_MAX;
use mailspan_core::{
    Cause, Event, EventId, EventType, Name, Offer, RawValue, Request, State as DeliveryState, Subject,
};
use mailspan_maps::mailingcore::webhook;
use mailspan_store::{DeliveryFilter, DeliveryRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::contacts::{answer, id_of};
use super::endpoints::find;
use super::errors::{ApiError, ErrorBody};
use super::gate::Call;
use super::list::number;
use super::shape::Meta;
use crate::app::App;
use crate::contacts::endpoints::{Endpoint, route_name};
use crate::deliver::{self, sign};
use crate::runtime;

type Id = Result<Path<String>, axum::extract::rejection::PathRejection>;
type Ids = Result<Path<(String, String)>, axum::extract::rejection::PathRejection>;

const PAGE: (usize, usize) = (20, 100);

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// 1 to 100; 20 where nothing is said.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    pub limit: Option<String>,
}

/// One event to one endpoint; changed in place by each attempt.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookDelivery {
    pub id: String,
    pub endpoint_id: String,
    pub event_id: String,
    #[schema(example = "contact.unsubscribed")]
    pub event: String,
    #[schema(value_type = Object)]
    pub payload: serde_json::Value,
    pub status_code: Option<u16>,
    pub response_body: Option<String>,
    pub attempt: u32,
    /// Of the last attempt, whatever became of it.
    pub delivered_at: Option<String>,
    pub created_at: String,
    /// PENDING, SUCCESS or FAILED.
    #[schema(example = "SUCCESS")]
    pub status: String,
    pub next_attempt_at: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryPage {
    pub data: Vec<WebhookDelivery>,
    pub meta: Meta,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestOut {
    /// True for a 2xx answer.
    pub delivered: bool,
    pub status_code: Option<u16>,
    pub response_body: Option<String>,
    /// Why no answer came.
    pub error: Option<String>,
}

/// List what was delivered
///
/// The newest first.
#[utoipa::path(
    get, path = "/webhooks/endpoints/{id}/deliveries", tag = "webhooks",
    params(("id" = String, Path), DeliveryQuery),
    responses(
        (status = 200, body = DeliveryPage), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn list(
    State(app): State<App>,
    call: Call,
    id: Id,
    query: Result<Query<DeliveryQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<DeliveryPage>, ApiError> {
    call.needs("webhooks:manage")?;
    let endpoint = find(&app, &call, id).await?;
    let Query(query) = query.map_err(|rejected| ApiError::bad(rejected.body_text()))?;
    let limit = number("limit", query.limit.as_deref(), PAGE)?;
    let mut data = Vec::with_capacity(limit);
    for row in rows(&app, &call, &endpoint, limit).await? {
        data.push(shown(&app, &endpoint, &row).await?);
    }
    Ok(Json(DeliveryPage { data, meta: Meta { limit, ..Meta::default() } }))
}

/// Send a test webhook
///
/// One signed request with an event of type `webhook.test`, at once and once.
#[utoipa::path(
    post, path = "/webhooks/endpoints/{id}/test", tag = "webhooks", params(("id" = String, Path)),
    responses(
        (status = 200, body = TestOut), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn test(State(app): State<App>, call: Call, id: Id) -> Result<Json<TestOut>, ApiError> {
    call.needs("webhooks:manage")?;
    let endpoint = find(&app, &call, id).await?;
    let live = app.live();
    let destination = live.hub.destination(&endpoint.id).cloned().ok_or_else(|| {
        ApiError::new(StatusCode::CONFLICT, "the endpoint is switched off: switch it on, then test it")
    })?;
    if let Some(why) = destination.held() {
        return Err(ApiError::new(StatusCode::CONFLICT, why.text.clone()));
    }
    let event = sample(&call);
    let key = mailspan_core::Key::derive(event.id, "test", &endpoint.id, 0);
    let request = Request {
        method: "POST",
        path: String::new(),
        headers: vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            (mailspan_core::KEY.to_owned(), key.to_string()),
        ],
        body: webhook(&event, None).into(),
    };
    let signed = sign::sign(&destination, request, runtime::now())
        .map_err(|reason| ApiError::new(StatusCode::CONFLICT, reason.text))?;
    Ok(Json(match live.egress.send(&destination.target, signed).await {
        Ok(answer) => TestOut {
            delivered: (200..300).contains(&answer.status),
            status_code: Some(answer.status),
            response_body: Some(cut(&String::from_utf8_lossy(&answer.body))),
            error: None,
        },
        Err(lost) => {
            TestOut { delivered: false, status_code: None, response_body: None, error: Some(lost.why.text) }
        }
    }))
}

/// Deliver again
///
/// The same event under the same ids, signed anew.
#[utoipa::path(
    post, path = "/webhooks/endpoints/{id}/deliveries/{deliveryId}/redeliver", tag = "webhooks",
    params(("id" = String, Path), ("deliveryId" = String, Path)),
    responses(
        (status = 202, body = WebhookDelivery), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn redeliver(State(app): State<App>, call: Call, ids: Ids) -> Result<Response, ApiError> {
    call.needs("webhooks:manage")?;
    let Path((id, delivery)) = ids.map_err(|_| ApiError::bad("the ids in the path are not UTF-8"))?;
    let endpoint = find(&app, &call, Ok(Path(id))).await?;
    let delivery = id_of(Ok(Path(delivery)))?;
    let missing = || ApiError::not_found("Delivery");
    let event: EventId = delivery.get(..36).and_then(|id| id.parse().ok()).ok_or_else(missing)?;
    let row = of_event(&app, &call, &endpoint, event).await?.ok_or_else(missing)?;
    if key(&endpoint, row.event_id) != delivery {
        return Err(missing());
    }
    if row.state == DeliveryState::Pending {
        return Err(ApiError::new(StatusCode::CONFLICT, "it is still being delivered"));
    }
    if !endpoint.active {
        let text = "the endpoint is switched off: switch it on, then deliver again";
        return Err(ApiError::new(StatusCode::CONFLICT, text));
    }
    let offer = app.store.offer_of(row.id).await?.ok_or_else(missing)?;
    let offers = vec![Offer { cause: Cause::Replay, ..offer }];
    deliver::offer::offer(&app, offers, true).await?;
    let row = of_event(&app, &call, &endpoint, event).await?.ok_or_else(missing)?;
    Ok(answer(StatusCode::ACCEPTED, shown(&app, &endpoint, &row).await?))
}

async fn rows(
    app: &App,
    call: &Call,
    endpoint: &Endpoint,
    limit: usize,
) -> Result<Vec<DeliveryRow>, ApiError> {
    let filter = DeliveryFilter {
        tenant: Some(call.tenant.clone()),
        destination: Some(Name::new(&endpoint.id)),
        limit,
        ..DeliveryFilter::default()
    };
    Ok(app.store.deliveries(filter).await?)
}

async fn of_event(
    app: &App,
    call: &Call,
    endpoint: &Endpoint,
    event: EventId,
) -> Result<Option<DeliveryRow>, ApiError> {
    let filter = DeliveryFilter {
        tenant: Some(call.tenant.clone()),
        destination: Some(Name::new(&endpoint.id)),
        event: Some(event),
        limit: 1,
        ..DeliveryFilter::default()
    };
    Ok(app.store.deliveries(filter).await?.pop())
}

/// The idempotency key, which is the `X-MailingCore-Delivery-Id` of every attempt.
fn key(endpoint: &Endpoint, event: EventId) -> String {
    mailspan_core::Key::derive(event, route_name(&endpoint.id).as_str(), &endpoint.id, 0).to_string()
}

async fn shown(app: &App, endpoint: &Endpoint, row: &DeliveryRow) -> Result<WebhookDelivery, ApiError> {
    let attempts = app.store.attempts(row.id).await?;
    let last = attempts.last();
    let event = app.store.event(row.event_id).await?;
    let payload = match &event {
        Some(found) => {
            let person = app.store.person(&row.tenant, &found.event.subject).await?;
            serde_json::from_str(&webhook(&found.event, person.as_ref())).unwrap_or_default()
        }
        None => serde_json::Value::Null,
    };
    let status = match row.state {
        DeliveryState::Pending => "PENDING",
        DeliveryState::Delivered => "SUCCESS",
        _ => "FAILED",
    };
    Ok(WebhookDelivery {
        id: key(endpoint, row.event_id),
        endpoint_id: endpoint.id.clone(),
        event_id: format!("evt_{}", row.event_id),
        event: row.event_type.clone(),
        payload,
        status_code: last.map(|attempt| attempt.status).filter(|status| *status > 0),
        response_body: last.and_then(|attempt| attempt.answer.as_deref()).map(cut),
        attempt: row.attempts,
        delivered_at: last.map(|attempt| attempt.at.iso()),
        created_at: row.created_at.iso(),
        status: status.to_owned(),
        next_attempt_at: row.due.filter(|_| row.state == DeliveryState::Pending).map(|due| due.iso()),
    })
}

fn cut(text: &str) -> String {
    text.chars().take(ENDPOINT_ANSWER_CHARS_MAX).collect()
}

fn sample(call: &Call) -> Event {
    let now = runtime::now();
    Event {
        seq: None,
        id: EventId::v7(now, runtime::random_u128()),
        tenant: call.tenant.clone(),
        source: Name::new("contacts"),
        event_type: EventType::known("webhook.test"),
        subject: Subject::nobody(),
        time: now,
        received_at: now,
        test: true,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: RawValue::NULL.to_owned().into(),
    }
}

//! `/webhooks/endpoints`: where a tenant is told of its events.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use mailspan_core::{Millis, Name, Secret};
use mailspan_maps::mailingcore::TYPES;
use mailspan_store::{EndpointRow, EndpointWrite, Write};
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};
use utoipa::ToSchema;

use super::contacts::{answer, id_of};
use super::errors::{ApiError, ErrorBody};
use super::gate::Call;
use super::input::json;
use super::shape::{Meta, Removed};
use crate::app::App;
use crate::begun::to_its_end;
use crate::contacts::endpoints::{ENDPOINTS_MAX, Endpoint, about, hint};
use crate::contacts::names;
use crate::contacts::seal::{SealError, Seals};
use crate::hub::Hub;
use crate::{reload, runtime};

type Id = Result<Path<String>, axum::extract::rejection::PathRejection>;

/// Characters of a secret: a shorter one can be guessed, a short one is warned about.
const SECRET_CHARS: (usize, usize, usize) = (16, 32, 256);
const URL_BYTES_MAX: usize = 2_048;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointInput {
    /// https, a public address; judged again at each delivery.
    #[schema(example = "https://your-saas.example/webhooks", format = "uri", max_length = 2048)]
    pub url: String,
    #[schema(example = json!(["contact.unsubscribed", "email.bounced"]), min_items = 1)]
    pub events: Vec<String>,
    /// 16 to 256 printable characters; made where it is not given.
    #[serde(default)]
    #[schema(min_length = 16, max_length = 256, pattern = "^[!-~]+$")]
    pub secret: Option<String>,
    /// The headers of Standard Webhooks beside MailingCore's.
    #[serde(default)]
    pub standard_webhooks: bool,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ToggleInput {
    /// Sets it; without it the state flips.
    pub is_active: Option<bool>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RotateInput {
    /// 16 to 256 printable characters; made where it is not given.
    #[schema(min_length = 16, max_length = 256, pattern = "^[!-~]+$")]
    pub secret: Option<String>,
    /// From when on it signs (ISO 8601); at once where it is not given.
    #[schema(format = "date-time")]
    pub from: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointOut {
    pub id: String,
    pub url: String,
    pub events: Vec<String>,
    pub is_active: bool,
    pub standard_webhooks: bool,
    /// The whole secret, in this answer alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Its last four characters.
    pub secret_hint: String,
    /// From when on a rotated secret signs.
    pub next_secret_from: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    /// What should be seen: a short secret.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointPage {
    pub data: Vec<EndpointOut>,
    pub meta: Meta,
}

/// List webhook endpoints
#[utoipa::path(
    get, path = "/webhooks/endpoints", tag = "webhooks",
    responses(
        (status = 200, body = EndpointPage), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
)]
pub async fn list(State(app): State<App>, call: Call) -> Result<Json<EndpointPage>, ApiError> {
    call.needs("webhooks:manage")?;
    let data: Vec<EndpointOut> =
        of_tenant(&app, &call).await?.iter().map(|(_, endpoint)| shown(endpoint, None)).collect();
    let meta = Meta { limit: ENDPOINTS_MAX, total: Some(data.len() as u64), ..Meta::default() };
    Ok(Json(EndpointPage { data, meta }))
}

/// Make a webhook endpoint
///
/// The answer holds the secret, once.
#[utoipa::path(
    post, path = "/webhooks/endpoints", tag = "webhooks", request_body = EndpointInput,
    responses(
        (status = 201, body = EndpointOut), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
)]
pub async fn create(State(app): State<App>, call: Call) -> Result<Response, ApiError> {
    call.needs("webhooks:manage")?;
    let input: EndpointInput = json(&call.raw.body)?;
    let url = checked_url(&input.url, &app.live().hub)?;
    names_nobody(&app, &call, &url).await?;
    let events = checked_events(&input.events)?;
    let secret = secret(input.secret)?;
    if of_tenant(&app, &call).await?.len() >= ENDPOINTS_MAX {
        let text = format!("a tenant has at most {ENDPOINTS_MAX} webhook endpoints");
        return Err(ApiError::new(StatusCode::CONFLICT, text));
    }
    let mut endpoint = Endpoint::new(new_id(), url, events, &secret, runtime::now());
    endpoint.standard_webhooks = input.standard_webhooks;
    keep_secret(&app, &call, &endpoint.id, false, &secret).await?;
    keep(&app, &call, &endpoint).await?;
    Ok(answer(StatusCode::CREATED, shown(&endpoint, Some(secret))))
}

/// Switch an endpoint on or off
///
/// While it is off nothing is queued for it, and what waits is given up.
#[utoipa::path(
    patch, path = "/webhooks/endpoints/{id}/toggle", tag = "webhooks", request_body(content = Option<ToggleInput>),
    params(("id" = String, Path)),
    responses(
        (status = 200, body = EndpointOut), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 415, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
)]
pub async fn toggle(State(app): State<App>, call: Call, id: Id) -> Result<Json<EndpointOut>, ApiError> {
    call.needs("webhooks:manage")?;
    let mut endpoint = find(&app, &call, id).await?;
    let input: ToggleInput = optional(&call.raw.body)?;
    endpoint.active = input.is_active.unwrap_or(!endpoint.active);
    endpoint.updated_at = runtime::now();
    keep(&app, &call, &endpoint).await?;
    Ok(Json(shown(&endpoint, None)))
}

/// Remove an endpoint
///
/// What waits for it is given up.
#[utoipa::path(
    delete, path = "/webhooks/endpoints/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses(
        (status = 200, body = Removed), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn remove(State(app): State<App>, call: Call, id: Id) -> Result<Json<Removed>, ApiError> {
    call.needs("webhooks:manage")?;
    let endpoint = find(&app, &call, id).await?;
    write(&app, &call, &endpoint, None).await?;
    for next in [false, true] {
        let sealed = mailspan_store::SealedWrite {
            tenant: call.tenant.clone(),
            about: about(&endpoint.id, next),
            key_id: String::new(),
            sealed: Vec::new(),
            at: runtime::now(),
        };
        app.store.write(Write::Sealed(sealed)).await?;
    }
    Ok(Json(Removed { removed: true }))
}

/// Give an endpoint another secret
///
/// The old one signs until `from`, so that a receiver can be told before.
#[utoipa::path(
    post, path = "/webhooks/endpoints/{id}/rotate-secret", tag = "webhooks", request_body(content = Option<RotateInput>),
    params(("id" = String, Path)),
    responses(
        (status = 200, body = EndpointOut), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ),
)]
pub async fn rotate(State(app): State<App>, call: Call, id: Id) -> Result<Json<EndpointOut>, ApiError> {
    call.needs("webhooks:manage")?;
    let mut endpoint = find(&app, &call, id).await?;
    let input: RotateInput = optional(&call.raw.body)?;
    let secret = secret(input.secret)?;
    let now = runtime::now();
    let from = match input.from.as_deref() {
        None => now,
        Some(text) => Millis::parse_rfc3339(text)
            .ok_or_else(|| ApiError::bad("from: is a time like 2026-06-30T12:00:00.000Z"))?,
    };
    if endpoint.next_from.is_some_and(|from| from <= now) {
        promote(&app, &call, &endpoint.id).await?;
        endpoint.secret_hint = endpoint.hint_at(now).to_owned();
    }
    (endpoint.next_from, endpoint.next_hint) = (None, None);
    if from <= now {
        keep_secret(&app, &call, &endpoint.id, false, &secret).await?;
        endpoint.secret_hint = hint(&secret);
    } else {
        keep_secret(&app, &call, &endpoint.id, true, &secret).await?;
        (endpoint.next_from, endpoint.next_hint) = (Some(from), Some(hint(&secret)));
    }
    endpoint.updated_at = now;
    keep(&app, &call, &endpoint).await?;
    Ok(Json(shown(&endpoint, Some(secret))))
}

/// The secret that has signed since its time becomes the current one.
async fn promote(app: &App, call: &Call, id: &str) -> Result<(), ApiError> {
    let seals = seals(app)?;
    let sealed = app.store.sealed_all().await?;
    let next = about(id, true);
    if let Some(row) = sealed.iter().find(|row| row.tenant == call.tenant && row.about == next) {
        let secret = seals.open(row).map_err(broken)?;
        keep_secret(app, call, id, false, secret.expose()).await?;
    }
    Ok(())
}

async fn keep_secret(app: &App, call: &Call, id: &str, next: bool, secret: &str) -> Result<(), ApiError> {
    let secret = Secret::new(secret.to_owned());
    let write = seals(app)?.seal(&call.tenant, &about(id, next), &secret).map_err(broken)?;
    app.store.write(Write::Sealed(write)).await?;
    Ok(())
}

fn seals(app: &App) -> Result<Seals, ApiError> {
    let live = app.live();
    Seals::of(&live.hub.storage, &live.hub.store_keys).map_err(broken)
}

fn broken(why: SealError) -> ApiError {
    tracing::error!("a secret cannot be sealed or opened: {why}");
    match why {
        SealError::NoKey => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this hub has no store key to keep secrets under: its operator sets [storage] key",
        ),
        _ => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the secret cannot be kept just now"),
    }
}

async fn keep(app: &App, call: &Call, endpoint: &Endpoint) -> Result<(), ApiError> {
    let settings = serde_json::to_string(endpoint).map_err(|error| ApiError::bad(error.to_string()))?;
    write(app, call, endpoint, Some(settings)).await
}

/// Writes the row, and has the hub serve what is there now.
async fn write(
    app: &App,
    call: &Call,
    endpoint: &Endpoint,
    settings: Option<String>,
) -> Result<(), ApiError> {
    let gives_up = settings.is_none() || !endpoint.active;
    let write = EndpointWrite {
        tenant: call.tenant.clone(),
        name: Name::new(&endpoint.id),
        settings,
        gives_up,
        at: runtime::now(),
    };
    let own = app.clone();
    to_its_end(async move {
        own.store.write(Write::Endpoint(write)).await?;
        reload::endpoints(&own).await.map_err(|why| {
            tracing::error!("a webhook endpoint was kept and is not served yet: {why}");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "it is kept, and not served yet")
        })
    })
    .await
}

pub async fn of_tenant(app: &App, call: &Call) -> Result<Vec<(EndpointRow, Endpoint)>, ApiError> {
    let rows = app.store.endpoints().await?;
    let own = rows.into_iter().filter(|row| row.tenant == call.tenant);
    Ok(own
        .filter_map(|row| serde_json::from_str(&row.settings).ok().map(|endpoint| (row, endpoint)))
        .collect())
}

pub async fn find(app: &App, call: &Call, id: Id) -> Result<Endpoint, ApiError> {
    let id = id_of(id)?;
    let found = of_tenant(app, call).await?.into_iter().find(|(_, endpoint)| endpoint.id == id);
    found.map(|(_, endpoint)| endpoint).ok_or_else(|| ApiError::not_found("Webhook endpoint"))
}

fn shown(endpoint: &Endpoint, secret: Option<String>) -> EndpointOut {
    let short = secret.as_ref().is_some_and(|secret| secret.chars().count() < SECRET_CHARS.1);
    let warning = format!("the secret has less than {} characters", SECRET_CHARS.1);
    EndpointOut {
        id: endpoint.id.clone(),
        url: endpoint.url.clone(),
        events: endpoint.events.clone(),
        is_active: endpoint.active,
        standard_webhooks: endpoint.standard_webhooks,
        secret,
        secret_hint: endpoint.hint_at(runtime::now()).to_owned(),
        next_secret_from: endpoint.next_from.map(|at| at.iso()),
        created_at: endpoint.created_at.iso(),
        updated_at: endpoint.updated_at.iso(),
        warnings: if short { vec![warning] } else { Vec::new() },
    }
}

/// Nothing, and `null`, is all defaults.
fn optional<T: Default + serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = body.trim_ascii();
    if body.is_empty() || body == b"null" { Ok(T::default()) } else { json(body) }
}

fn secret(given: Option<String>) -> Result<String, ApiError> {
    let Some(secret) = given else {
        let random = [runtime::random_u128().to_be_bytes(), runtime::random_u128().to_be_bytes()].concat();
        return Ok(format!("whsec_{}", mailspan_connectors::signature::hex(&random)));
    };
    let chars = secret.chars().count();
    let (least, _, most) = SECRET_CHARS;
    match (least..=most).contains(&chars) && secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(secret),
        false => Err(ApiError::bad(format!("secret: has {least} to {most} printable ASCII characters"))),
    }
}

fn checked_events(events: &[String]) -> Result<Vec<String>, ApiError> {
    let mut seen: Vec<String> = Vec::with_capacity(events.len());
    for event in events {
        if !TYPES.contains(&event.as_str()) {
            return Err(ApiError::bad(format!(
                "events: `{}` is not one of {}",
                mailspan_core::clip(event, 40),
                TYPES.join(", ")
            )));
        }
        if seen.contains(event) {
            return Err(ApiError::bad(format!("events: `{event}` is there twice")));
        }
        seen.push(event.clone());
    }
    if seen.is_empty() { Err(ApiError::bad("events: is empty: name at least one")) } else { Ok(seen) }
}

/// https on port 443 or above 1,023, without user and password. In clear only where the operator allowed
/// the address by `[egress] allow`, or runs with `--dev`.
fn checked_url(text: &str, hub: &Hub) -> Result<String, ApiError> {
    let bad = |why: &str| ApiError::bad(format!("url: {why}"));
    if text.len() > URL_BYTES_MAX {
        return Err(bad("has at most 2048 bytes"));
    }
    let url = Url::parse(text.trim()).map_err(|_| bad("is no URL"))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(bad("must hold no user, password or fragment"));
    }
    // An erasure walks through no settings: they must not name a person.
    if url.as_str().replace("%40", "@").contains('@') {
        return Err(bad("must hold no e-mail address: an erasure could not reach it"));
    }
    let port = url.port_or_known_default().unwrap_or(0);
    let allowed = match url.host() {
        Some(url::Host::Ipv4(ip)) => hub.egress_allow.iter().any(|allow| allow.covers(ip.into(), port)),
        Some(url::Host::Ipv6(ip)) => hub.egress_allow.iter().any(|allow| allow.covers(ip.into(), port)),
        _ => false,
    };
    match url.scheme() {
        "https" if port == 443 || port >= 1_024 || allowed => {}
        "https" => return Err(bad("has port 443 or one above 1023")),
        "http" if hub.dev || allowed => {}
        "http" => return Err(bad("must be https")),
        _ => return Err(bad("must be https")),
    }
    Ok(url.to_string())
}

/// An endpoint is the tenant's and stays when a person is erased: its URL must not name one. Words that may be
/// anybody's are let through, as an erasure leaves them in what is not the person's own.
async fn names_nobody(app: &App, call: &Call, text: &str) -> Result<(), ApiError> {
    let bad = |what: &str| ApiError::bad(format!("url: holds {what}: an erasure could not take it out"));
    let Ok(url) = Url::parse(text) else { return Ok(()) };
    if [url.path(), url.query().unwrap_or_default()]
        .iter()
        .any(|part| part.contains('@') || part.contains("%40"))
    {
        return Err(bad("an address"));
    }
    let words = format!("{}/{}", url.path(), url.query().unwrap_or_default());
    let words: Vec<String> = words
        .split(['/', '?', '&', '='])
        .filter_map(|word| form_urlencoded::parse(word.as_bytes()).next().map(|(word, _)| word.into_owned()))
        .collect();
    match names::a_contact(app, &call.tenant, words.iter().map(String::as_str)).await? {
        true => Err(bad("the external id of a contact")),
        false => Ok(()),
    }
}

fn new_id() -> String {
    format!("ep_{}", &crate::contacts::door::new_uid()[1..])
}

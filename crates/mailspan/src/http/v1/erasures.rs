//! `/v1/erasures` and `/v1/persons/export`: who is erased, how far that is, the certificate; and what is held.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use mailspan_core::limits::PAGE_ROWS_MAX;
use mailspan_core::{Name, Subject};
use mailspan_store::{DeliveryFilter, ErasureRow, EventFilter};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::erase::{self, certificate, list, person};
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::v1::fields::tenant_of;
use crate::http::v1::query::{Query, page};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// An address or external id.
    subject: String,
    #[serde(default)]
    dry_run: bool,
}

/// Lines of a list of erasures, of another copy of this store.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    lines: Vec<String>,
}

fn may(caller: &Caller, scope: &str, else_scope: &str) -> Result<(), Problem> {
    if caller.may(scope) { Ok(()) } else { caller.needs(else_scope) }
}

pub async fn begin(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(ask): Json<Ask>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    may(&caller, "contacts:write", "operate")?;
    let tenant = tenant_of(&caller, &headers)?;
    let text = ask.subject.trim();
    let subject = Subject::read(text);
    let nobody = || Problem::not_found("nobody is known by this address or external id");
    if ask.dry_run {
        return Ok((StatusCode::OK, Json(would(&app, &tenant, text).await?.ok_or_else(nobody)?)));
    }
    if !erase::erase(&app, &tenant, &subject, &caller.name, "api").await? {
        return Err(nobody());
    }
    let row = app.store.erasures(Some(tenant), None, 1).await?.pop();
    Ok((StatusCode::ACCEPTED, Json(row.as_ref().map(shown).unwrap_or_default())))
}

/// What an erasure would remove, and whom it would ask.
async fn would(app: &App, tenant: &Name, text: &str) -> Result<Option<Value>, Problem> {
    let subject = Subject::read(text);
    let key = mailspan_core::contact::ContactKey::Subject {
        address: subject.address.clone(),
        external_id: subject.external_id.clone(),
    };
    let contact = app.store.contact(tenant, &key).await?;
    let person = app.store.person(tenant, &subject).await?;
    let Some(number) = contact.as_ref().map(|row| row.person).or(person.map(|person| person.id)) else {
        return Ok(None);
    };
    let (of, subject) = (Some(tenant.clone()), Some(text.to_owned()));
    let filter = EventFilter {
        tenant: of.clone(),
        subject: subject.clone(),
        limit: PAGE_ROWS_MAX,
        ..EventFilter::default()
    };
    let events = app.store.events(filter).await?.len();
    let filter = DeliveryFilter { tenant: of, subject, limit: PAGE_ROWS_MAX, ..DeliveryFilter::default() };
    let deliveries = app.store.deliveries(filter).await?.len();
    let facts = app.store.facts_of(tenant, number, 0, PAGE_ROWS_MAX).await?.len();
    let kin = app.store.kin(number).await?;
    let has_more = [events, deliveries, facts].contains(&PAGE_ROWS_MAX);
    let live = app.live();
    let reached = certificate::reached(&live, tenant);
    Ok(Some(json!({
        "dry_run": true,
        "contact": contact.is_some(),
        "identities": kin.subjects.len(),
        "confirmations": kin.confirmations.len(),
        "events": events,
        "deliveries": deliveries,
        "facts_kept_as_proof": facts,
        "more": has_more,
        "destinations": reached,
        "not_asked": certificate::not_asked(&live, tenant, &reached.iter().collect()),
    })))
}

pub async fn list(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    may(&caller, "contacts:read", "read")?;
    let query = Query::read(query.as_deref(), &["tenant"])?;
    let tenant = caller.tenant.clone().or_else(|| query.get("tenant").map(Name::new));
    let limit = query.limit()?;
    let rows = app.store.erasures(tenant, query.before()?, limit).await?;
    let last = rows.last().map(|row| row.id);
    Ok(Json(page(rows.iter().map(shown).collect(), limit, last)))
}

pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<Json<Value>, Problem> {
    may(&caller, "contacts:read", "read")?;
    let row = app.store.erasure(id).await?.filter(|row| caller.sees(&row.tenant));
    let row = row.ok_or_else(|| Problem::not_found(format!("there is no erasure {id}")))?;
    Ok(Json(shown(&row)))
}

fn shown(row: &ErasureRow) -> Value {
    let certificate: Value =
        row.certificate.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    json!({
        "id": row.id,
        "tenant": row.tenant,
        "stage": row.stage.name(),
        "asked_at": row.asked_at.iso(),
        "asked_by": row.asked_by,
        "done_at": row.done_at.map(|at| at.iso()),
        "event": row.event.map(|id| id.to_string()),
        "removed": row.removed,
        "certificate": certificate,
    })
}

/// Keyed hashes of all who were erased, as `FILE.erased` has them.
pub async fn identities(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.needs_whole("read")?;
    let (mut lines, mut after) = (vec![], None);
    loop {
        let rows = app.store.erased_hashes(after).await?;
        let Some(last) = rows.last().cloned() else { break };
        lines.extend(rows.iter().map(|one| list::line(one).trim_end().to_owned()));
        after = Some(last);
    }
    Ok(Json(json!({ "lines": lines })))
}

/// Erases those of a list who are here, and of whose erasure this store does not know.
pub async fn again(
    State(app): State<App>,
    caller: Caller,
    Json(listed): Json<Listed>,
) -> Result<Json<Value>, Problem> {
    caller.needs_whole("admin")?;
    let hashes: Vec<_> = listed.lines.iter().filter_map(|line| list::parse(line)).collect();
    let erased = erase::erase_listed(&app, hashes).await?;
    Ok(Json(json!({ "erased": erased })))
}

pub async fn export(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    may(&caller, "contacts:read", "read")?;
    let tenant = tenant_of(&caller, &headers)?;
    let query = Query::read(query.as_deref(), &["subject"])?;
    let missing = || Problem::bad("parameter `subject`: an address or external id");
    let subject = query.get("subject").ok_or_else(missing)?;
    let live = app.live();
    let own = live.hub.sources.iter().filter(|source| source.tenant == tenant);
    let sources: Vec<_> = own.map(|source| source.name.clone()).collect();
    let found = person::export(&app.store, &tenant, &sources, subject).await?;
    found.map(Json).ok_or_else(|| Problem::not_found("nobody is known by this address or external id"))
}

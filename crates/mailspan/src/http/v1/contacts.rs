//! `/v1/contacts/report`: how many subscribed, by source and page; `/v1/contacts/export`: contacts with what proves
//! their consent, as an import takes them.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use mailspan_core::Name;
use mailspan_core::contact::Evidence;
use mailspan_store::{ContactFilter, ContactPage, ContactRow, ProofRow};
use serde_json::{Value, json};

use crate::app::App;
use crate::http::auth::Caller;
use crate::http::mailingcore::shape::ContactOut;
use crate::http::problem::Problem;
use crate::http::v1::fields::tenant_of;
use crate::http::v1::query::Query;

pub async fn report(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    if !caller.may("contacts:read") {
        caller.needs("read")?;
    }
    let tenant = tenant_of(&caller, &headers)?;
    let rows = app.store.subscription_counts(&tenant).await?;
    Ok(Json(json!({ "items": rows, "next": null })))
}

/// A page of a tenant's contacts: those of the API, with when and how they agreed and why they are suppressed. `next`
/// is the `after` of the next page; null at the end.
pub async fn export(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let tenant = tenant_of(&caller, &headers)?;
    let query = Query::read(query.as_deref(), &["after"])?;
    let page = ContactPage::After { rev: query.number("after")?.unwrap_or(0), limit: query.limit()? };
    let filter = ContactFilter { tenant: Some(tenant.clone()), ..ContactFilter::default() };
    let list = app.store.contacts(filter, page).await?;
    let proofs = app.store.proofs(&tenant, &list.rows).await?;
    let next = list.more.then(|| list.rev.to_string());
    let items: Vec<Value> =
        list.rows.into_iter().zip(proofs).map(|(row, proof)| exported(&tenant, row, proof)).collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

fn exported(tenant: &Name, row: ContactRow, proof: ProofRow) -> Value {
    // Of who never agreed, or agreed and was forgotten, there is nothing to prove.
    let agreed = proof.agreed.filter(|_| row.contact.opt_in || row.contact.unsubscribed_at.is_some());
    let suppressed = proof.suppressed.filter(|_| row.contact.suppressed_at.is_some());
    let out = ContactOut::new(tenant.as_str(), row.contact);
    let mut value = serde_json::to_value(out).unwrap_or_default();
    let (at, evidence) = agreed.map(|(at, proof)| (at.iso(), proof)).unzip();
    let evidence = evidence.unwrap_or_default();
    value["consentAt"] = json!(at);
    value["consentNote"] = json!(at.as_ref().and_then(|_| note(&evidence)));
    value["consentIp"] = json!(evidence.ip);
    value["consentPage"] = json!(evidence.page);
    value["consentTextHash"] = json!(evidence.text_hash);
    value["suppressedFor"] = json!(suppressed.map(|reason| reason.name()));
    value
}

/// How the person agreed, also where nothing else says it: an import takes no consent without a trace.
fn note(evidence: &Evidence) -> Option<String> {
    let told = match &evidence.actor {
        Some(actor) => format!("{}, {actor}", evidence.origin),
        None => evidence.origin.clone(),
    };
    evidence.note.clone().or(Some(told)).filter(|note| !note.is_empty())
}

//! What is kept for proof and diagnosis: ledger, refused requests, quarantined elements, audit.

use axum::Json;
use axum::extract::{RawQuery, State};
use mailspan_core::Name;
use mailspan_store::{Fact, FactFilter, RefusedRow, UnreadableRow};
use serde_json::{Value, json};

use crate::app::App;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::v1::query::{Query, page};

fn fact(fact: &Fact) -> Value {
    let answers: Vec<Value> = fact
        .answers
        .iter()
        .map(|(destination, verdict, at)| json!({ "destination": destination, "verdict": verdict, "at": at.iso() }))
        .collect();
    json!({
        "id": fact.id.to_string(),
        "tenant": fact.tenant,
        "subject": fact.subject,
        "what": fact.what.name(),
        "permission": fact.what.permission(),
        "evidence": fact.evidence,
        "happened_at": fact.happened_at.iso(),
        "learned_at": fact.learned_at.iso(),
        "event_id": fact.event_id,
        "request_digest": fact.digest,
        "answers": answers,
    })
}

/// The compliance log, oldest first; `after` is the cursor.
pub async fn ledger(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    caller.needs("read")?;
    let query = Query::read(query.as_deref(), &["subject", "after"])?;
    let limit = query.limit()?;
    let filter = FactFilter {
        tenant: caller.tenant.clone(),
        subject: query.get("subject").map(str::to_owned),
        after: query.number("after")?.unwrap_or(0),
        limit,
    };
    let rows = app.store.facts(filter).await?;
    let last = rows.last().map(|row| row.id);
    Ok(Json(page(rows.iter().map(fact).collect(), limit, last)))
}

fn refused_row(row: &RefusedRow) -> Value {
    json!({
        "id": row.id.to_string(),
        "source": row.source,
        "at": row.at.iso(),
        "check": row.check,
        "text": row.text,
        "hint": row.hint,
        "headers": row.headers,
        "body": String::from_utf8_lossy(&row.body),
    })
}

/// Requests that were refused, newest first: which check failed, and what would have matched.
pub async fn refused(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    caller.needs_whole("read")?;
    let query = Query::read(query.as_deref(), &["source"])?;
    let limit = query.limit()?;
    let rows = app.store.refused(query.get("source").map(Name::new), limit).await?;
    Ok(Json(page(rows.iter().map(refused_row).collect(), limit, None)))
}

fn unreadable_row(row: &UnreadableRow) -> Value {
    json!({
        "source": row.source,
        "received_at": row.received_at.iso(),
        "part": row.part,
        "reason": row.reason.code,
        "text": row.reason.text,
        "raw": row.raw,
    })
}

/// Elements of batches that could not be read, newest first.
pub async fn quarantined(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    caller.needs_whole("read")?;
    let query = Query::read(query.as_deref(), &[])?;
    let limit = query.limit()?;
    let rows = app.store.unreadable(limit, query.before()?).await?;
    let last = rows.last().map(|row| row.id);
    Ok(Json(page(rows.iter().map(unreadable_row).collect(), limit, last)))
}

/// The sums by place, over all that was ever accepted.
pub async fn audit(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.needs_whole("read")?;
    Ok(Json(json!(app.store.audit().await?)))
}

//! `/v1/contacts/report`: how many subscribed, by source and page.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::http::v1::fields::tenant_of;

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

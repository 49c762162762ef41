//! `POST /v1/deliveries/{id}/correct`: a dead letter's event is sent anew as its operator mended it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use mailspan_connectors::api::event_from_json;
use mailspan_connectors::contract::{Arrival, Dedupe};
use mailspan_connectors::signature::digest;
use mailspan_core::limits::EVENT_DATA_BYTES_MAX;
use mailspan_core::{Event, EventId, Millis, RawRequest, RawValue, State as DeliveryState};
use mailspan_store::{Arrived, DeliveryRow, Idempotency, Receipt, Write};
use serde_json::{Value, json};

use crate::app::App;
use crate::begun::to_its_end;
use crate::http::auth::Caller;
use crate::http::path::Segment;
use crate::http::problem::Problem;
use crate::http::v1::deliveries::{find, shown};
use crate::intake::door;
use crate::runtime;

/// Accepts the corrected event as a new one of the same source, then discards the dead letter with the
/// note that names it. The same correction again, after a crash between the two, makes no second event.
pub async fn correct(
    State(app): State<App>,
    caller: Caller,
    Segment(id): Segment,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    caller.needs("operate")?;
    let row = find(&app, &caller, &id).await?;
    if row.state != DeliveryState::Dead {
        let detail =
            format!("delivery {} is {}: only a dead letter can be corrected", row.id.0, row.state.name());
        return Err(Problem::new(StatusCode::CONFLICT, "not_dead", detail));
    }
    let original = app.store.event(row.event_id).await?;
    let original = original.ok_or_else(|| Problem::not_found("its event was dropped by retention"))?.event;
    let now = runtime::now();
    let event = corrected(&original, &body, now)?;
    let receipt = receipt(&caller, &row, event, body, now);
    let (own, delivery) = (app.clone(), row.id);
    let event_id = to_its_end(async move {
        let (accepted, _) = door::keep(&own, Box::new(receipt)).await?;
        let event_id =
            accepted.ids.first().ok_or_else(|| Problem::bad("the corrected event was not kept"))?;
        let note = format!("replaced by event {event_id}");
        own.store.write(Write::Discard { delivery, unserved: None, note, at: now }).await?;
        own.has_moved();
        Ok::<_, Problem>(*event_id)
    })
    .await?;
    let mut value = shown(&find(&app, &caller, &id).await?);
    value["replaced_by"] = json!(event_id);
    Ok(Json(value))
}

fn corrected(original: &Event, body: &[u8], now: Millis) -> Result<Event, Problem> {
    let bad = |text: String| Problem::new(StatusCode::BAD_REQUEST, "bad_body", text);
    let text = std::str::from_utf8(body).map_err(|_| bad("the corrected event is not UTF-8".to_owned()))?;
    let arrival: Arrival = event_from_json(text, 0, Dedupe::Never).map_err(|reason| bad(reason.text))?;
    let is_systems = |name: &str| name.starts_with("system.");
    if is_systems(arrival.event_type.as_str()) != is_systems(original.event_type.as_str()) {
        return Err(bad("field \"type\": types of the family `system` are the hub's own".to_owned()));
    }
    let data = marked(&arrival.data, original.id).map_err(bad)?;
    if data.get().len() > EVENT_DATA_BYTES_MAX {
        return Err(bad(format!("the event's data has more than {EVENT_DATA_BYTES_MAX} bytes")));
    }
    Ok(Event {
        seq: None,
        id: EventId::v7(now, runtime::random_u128()),
        tenant: original.tenant.clone(),
        source: original.source.clone(),
        event_type: arrival.event_type,
        subject: arrival.subject,
        time: arrival.time.unwrap_or(original.time),
        received_at: now,
        test: original.test,
        transmission: original.transmission.clone(),
        recipient_role: original.recipient_role,
        data: data.into(),
        extensions: original.extensions.clone(),
    })
}

/// The data with `correction_of`: the member that a route's condition can ask for. Other members stay to
/// the letter.
fn marked(data: &RawValue, original: EventId) -> Result<Box<RawValue>, String> {
    let mut members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(data.get()).map_err(|error| format!("field \"data\": {error}"))?;
    let mark = RawValue::from_string(format!("\"{original}\"")).map_err(|error| error.to_string())?;
    members.insert("correction_of".to_owned(), mark);
    let text = serde_json::to_string(&members).map_err(|error| error.to_string())?;
    RawValue::from_string(text).map_err(|error| error.to_string())
}

fn receipt(caller: &Caller, row: &DeliveryRow, event: Event, body: Bytes, now: Millis) -> Receipt {
    let body_digest = digest(&body);
    let path = format!("/v1/deliveries/{}/correct", row.id.0);
    let request = RawRequest {
        method: "POST".to_owned(),
        url: path.clone(),
        path,
        query: String::new(),
        headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
        body,
        received_at: now,
    };
    Receipt {
        tenant: event.tenant.clone(),
        source: event.source.clone(),
        credential: caller.name.clone(),
        received_at: now,
        digest: body_digest,
        packed: Some(mailspan_store::pack_request(&request, &[])),
        arrivals: vec![Arrived { event, part: 0, dedupe: None, contact: None }],
        unreadable: Vec::new(),
        idempotency: Some(Idempotency {
            api_key: caller.key_id,
            key: format!("correct/{}/{body_digest}", row.id.0),
            body: body_digest,
            tell: None,
        }),
        round: None,
        say: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_set_and_all_else_stays_to_the_letter() {
        let check = |data: &str, expected: &str| {
            let data = RawValue::from_string(data.to_owned()).unwrap();
            let expected = expected.replace("ID", &EventId(7).to_string());
            assert_eq!(marked(&data, EventId(7)).unwrap().get(), expected);
        };
        check("{}", r#"{"correction_of":"ID"}"#);
        check(
            r#"{"n": 12345678901234567890.10, "correction_of": "other", "a": [1,  2]}"#,
            r#"{"a":[1,  2],"correction_of":"ID","n":12345678901234567890.10}"#,
        );
    }
}

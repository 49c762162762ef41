//! Events as MailingCore's webhooks write them: `{id, type, createdAt, tenantId, data}`.
//!
//! Names and members are those of the vendor's page «webhooks: event catalog»; `toEmail` stands beside `to`
//! as its page on bounces reads it.

use mailspan_core::{Address, Event, Person};
use serde_json::{Map, Value, json};

/// The types that endpoints can ask for.
pub const TYPES: [&str; 8] = [
    "email.sent",
    "email.delivered",
    "email.opened",
    "email.clicked",
    "email.bounced",
    "email.complained",
    "email.failed",
    "contact.unsubscribed",
];

/// The body of one webhook. Total: members that the event does not have are `null` or absent.
pub fn webhook(event: &Event, person: Option<&Person>) -> String {
    let data: Value = serde_json::from_str(event.data.get()).unwrap_or(Value::Null);
    let inner = match event.event_type.as_str() {
        "contact.unsubscribed" => unsubscribed(event, person, &data),
        "webhook.test" => json!({ "test": true }),
        _ => mail(event, person, &data),
    };
    json!({
        "id": format!("evt_{}", event.id),
        "type": event.event_type.as_str(),
        "createdAt": event.received_at.iso(),
        "tenantId": event.tenant,
        "data": inner,
    })
    .to_string()
}

fn unsubscribed(event: &Event, person: Option<&Person>, data: &Value) -> Value {
    let contact = &data["contact"];
    let origin = data["origin"].as_str().filter(|origin| matches!(*origin, "hosted_page" | "one_click"));
    json!({
        "contactId": contact["id"],
        "externalId": external_id(event, person, data),
        "email": address(event, person),
        "unsubscribedAt": event.time.iso(),
        "source": origin.unwrap_or("api"),
    })
}

fn mail(event: &Event, person: Option<&Person>, data: &Value) -> Value {
    let word = event.event_type.as_str().strip_prefix("email.").unwrap_or_default();
    let to = address(event, person);
    let log_id =
        first(data, &["email_log_id", "message_id"]).or_else(|| event.transmission.clone().map(Value::from));
    let mut inner: Map<String, Value> = Map::new();
    let mut set = |name: &str, value: Value| {
        inner.insert(name.to_owned(), value);
    };
    set("emailLogId", log_id.unwrap_or_else(|| Value::from(event.id.to_string())));
    set("to", to.clone());
    set("toEmail", to);
    set("subject", first(data, &["subject"]).unwrap_or(Value::Null));
    set("status", Value::from(word.to_uppercase()));
    set("tags", data.get("tags").filter(|tags| tags.is_array()).cloned().unwrap_or_else(|| json!([])));
    set(
        "metadata",
        data.get("correlation").filter(|map| map.is_object()).cloned().unwrap_or_else(|| json!({})),
    );
    set("templateVersionId", first(data, &["template_version_id"]).unwrap_or(Value::Null));
    set("occurredAt", Value::from(event.time.iso()));
    set("externalId", external_id(event, person, data));
    match word {
        "opened" => {
            set("userAgent", first(data, &["user_agent"]).unwrap_or(Value::Null));
            set("ip", first(data, &["ip"]).unwrap_or(Value::Null));
        }
        "clicked" => {
            set("linkUrl", first(data, &["url"]).unwrap_or(Value::Null));
            set("linkId", first(data, &["link_id"]).unwrap_or(Value::Null));
        }
        "bounced" => {
            let hard = data["bounce"].as_str() == Some("hard");
            set("bounceType", Value::from(if hard { "hard" } else { "soft" }));
            set("diagnostic", first(data, &["reason", "diagnostic"]).unwrap_or(Value::Null));
        }
        "complained" => {
            set(
                "complaintFeedbackType",
                first(data, &["feedback_type"]).unwrap_or_else(|| Value::from("abuse")),
            );
        }
        "failed" => set("reason", first(data, &["reason"]).unwrap_or(Value::Null)),
        _ => {}
    }
    Value::Object(inner)
}

fn address(event: &Event, person: Option<&Person>) -> Value {
    let known = person.and_then(|person| person.subject.address.as_ref());
    event
        .subject
        .address
        .as_ref()
        .or(known)
        .map_or(Value::Null, |address: &Address| Value::from(address.as_str()))
}

fn external_id(event: &Event, person: Option<&Person>, data: &Value) -> Value {
    let known = person.and_then(|person| person.subject.external_id.clone());
    let given = event.subject.external_id.clone().or(known).map(Value::from);
    given.or_else(|| data["contact"].get("external_id").cloned()).unwrap_or(Value::Null)
}

/// The first member that is a text or a number, as text.
fn first(data: &Value, names: &[&str]) -> Option<Value> {
    names.iter().find_map(|name| match data.get(name) {
        Some(Value::String(text)) => Some(Value::from(text.as_str())),
        Some(Value::Number(number)) => Some(Value::from(number.to_string())),
        _ => None,
    })
}

//! Webhooks to arrivals (vendor pages webhooks/webhooks-event-catalog and deliverability/bounces-complaints).

use mailspan_core::json::{self, Node, Value};
use mailspan_core::{EventType, RawRequest, RawValue};

use super::contact;
use crate::contract::{Arrival, BadBody, Dedupe, Parsed};
use crate::reading::{self, bad, found, word};

/// Exactly eight types are documented; others are kept as unknown.
const TYPES: [&str; 8] = [
    "email.sent",
    "email.delivered",
    "email.opened",
    "email.clicked",
    "email.bounced",
    "email.complained",
    "email.failed",
    "contact.unsubscribed",
];

/// What goes on to `data` under another name.
const WORDS: [(&str, &str); 12] = [
    ("message_id", "emailLogId"),
    ("subject", "subject"),
    ("status", "status"),
    ("url", "linkUrl"),
    ("link_id", "linkId"),
    ("user_agent", "userAgent"),
    ("ip", "ip"),
    ("feedback", "complaintFeedbackType"),
    ("template_version_id", "templateVersionId"),
    ("campaign_id", "campaignId"),
    ("contact_id", "contactId"),
    ("recipient_locale", "locale"),
];

/// Reads one event, or an array of them. `tenant` is the only one that is taken, `delivery` the id of the
/// request.
pub fn parse(
    request: &RawRequest,
    tenant: Option<&str>,
    delivery: Option<String>,
) -> Result<Parsed, BadBody> {
    let root = reading::body(request)?;
    let elements = match &root.value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(_) => vec![&root],
        _ => return Err(bad(format!("expected an event (an object), found {}", found(Some(&root))))),
    };
    reading::bounded(elements.len())?;
    let single = elements.len() == 1;
    let mut parsed = Parsed::default();
    for (part, node) in elements.into_iter().enumerate() {
        let id = delivery.as_ref().map(|id| if single { id.clone() } else { format!("{id}\0{part}") });
        match arrival(node, part, tenant, id) {
            Ok(arrival) => parsed.arrivals.push(arrival),
            Err((code, text)) => parsed.unreadable.push(reading::unreadable(part, code, text, node)),
        }
    }
    Ok(parsed)
}

type Problem = (&'static str, String);

fn arrival(
    node: &Node,
    part: usize,
    tenant: Option<&str>,
    delivery: Option<String>,
) -> Result<Arrival, Problem> {
    if node.as_object().is_none() {
        return Err(("no_event", format!("expected an event (an object), found {}", found(Some(node)))));
    }
    let kind = word(node.get("type").filter(|node| node.as_str().is_some())).ok_or_else(|| {
        ("no_kind", format!("field \"type\": expected the type of event, found {}", found(node.get("type"))))
    })?;
    let theirs = word(node.get("tenantId"));
    if let (Some(ours), Some(theirs)) = (tenant, &theirs)
        && ours != theirs
    {
        let text = format!("it is of the tenant `{theirs}`, and `tenant_id` of this source is another");
        return Err(("other_tenant", text));
    }
    let data = node.get("data").filter(|data| data.as_object().is_some());
    let data = data.ok_or_else(|| {
        ("no_data", format!("field \"data\": expected an object, found {}", found(node.get("data"))))
    })?;
    let event_type = known(&kind);
    let subject = contact::subject(data).map_err(|text| ("no_recipient", text))?;
    let instant = data.first_of(&["occurredAt", "unsubscribedAt"]).or_else(|| node.get("createdAt"));
    let told = told(node, data, &kind, event_type, &subject).map_err(|text| ("too_large", text))?;
    Ok(Arrival {
        extensions: None,
        part,
        event_type: EventType::known(event_type),
        time: instant.and_then(reading::time),
        data: told,
        test: false,
        transmission: word(data.get("emailLogId")),
        recipient_role: None,
        dedupe: match (word(node.get("id")), delivery) {
            (Some(id), _) | (None, Some(id)) => Dedupe::Id(id),
            (None, None) => Dedupe::Body,
        },
        subject,
    })
}

fn known(kind: &str) -> &'static str {
    match TYPES.iter().find(|known| **known == kind) {
        Some(known) => known,
        None if kind.starts_with("contact.") => "contact.unknown",
        None => "email.unknown",
    }
}

fn told(
    node: &Node,
    data: &Node,
    kind: &str,
    event_type: &str,
    subject: &mailspan_core::Subject,
) -> Result<Box<RawValue>, String> {
    let mut members = vec![("provider", json::quote("mailingcore")), ("kind", json::quote(kind))];
    for (ours, theirs) in WORDS {
        members.extend(word(data.get(theirs)).map(|text| (ours, json::quote(&text))));
    }
    let reason = word(data.first_of(&["diagnostic", "reason"]));
    if event_type == "email.bounced" {
        members.push(("bounce", json::quote(finality(data))));
    }
    let unsubscribed = event_type == "contact.unsubscribed";
    let reason = if unsubscribed { word(data.get("source")).or(reason) } else { reason };
    members.extend(reason.map(|reason| ("reason", json::quote(&reason))));
    if unsubscribed {
        members.push(("contact", unsubscribed_contact(data, subject)));
        members.push(("origin", json::quote("mailingcore")));
    }
    let tags = data.get("tags").filter(|tags| tags.as_array().is_some());
    members.extend(tags.map(|tags| ("tags", tags.raw.to_owned())));
    let metadata = data.get("metadata").filter(|meta| meta.as_object().is_some_and(|all| !all.is_empty()));
    members.extend(metadata.map(|meta| ("correlation", meta.raw.to_owned())));
    members.push(("raw", node.raw.to_owned()));
    reading::data(json::object(members))
}

/// `source` of this event is how somebody unsubscribed, not where the contact came from.
fn unsubscribed_contact(data: &Node, subject: &mailspan_core::Subject) -> String {
    let mut members = vec![("opt_in", "false".to_owned())];
    members.extend(subject.address.as_ref().map(|address| ("email", json::quote(address.as_str()))));
    members.extend(subject.external_id.as_ref().map(|id| ("external_id", json::quote(id))));
    members.extend(data.get("unsubscribedAt").map(|at| ("unsubscribed_at", at.raw.to_owned())));
    json::object(members)
}

/// Both spellings are documented: `hard` in the catalogue, `HARD` beside it. What is not hard is soft.
fn finality(data: &Node) -> &'static str {
    let text = word(data.get("bounceType")).unwrap_or_default();
    if text.eq_ignore_ascii_case("hard") { "hard" } else { "soft" }
}

//! Webhooks to arrivals (vendor pages «webhooks, outgoing calls» and «get webhooks»). They may have no body,
//! no event name and no id: what is configured comes as URL parameters, as a flat JSON object, or both.

use std::collections::BTreeMap;

use mailspan_core::json::{self, Node, Value};
use mailspan_core::{Address, EventType, Millis, RawRequest, RawValue, Subject};

use super::words::meaning;
use crate::contract::{Arrival, BadBody, Dedupe, Parsed};
use crate::reading::{self, bad, found, word};

/// Objects in which a body may keep its fields.
const NESTED: [&str; 5] = ["contact", "standard_fields", "custom_fields", "standardFields", "customFields"];
/// Standard fields of a contact, in the spelling of Maileon.
const STANDARD: [&str; 16] = [
    "ADDRESS",
    "BIRTHDAY",
    "CITY",
    "COUNTRY",
    "FIRSTNAME",
    "FULLNAME",
    "GENDER",
    "HNR",
    "LASTNAME",
    "NAMEDAY",
    "ORGANIZATION",
    "REGION",
    "SALUTATION",
    "STATE",
    "TITLE",
    "ZIP",
];

/// Reads one event, or an array of them; `event` is the one that the source is for.
pub fn parse(request: &RawRequest, event: Option<&str>) -> Result<Parsed, BadBody> {
    let query = query(&request.query);
    let mut parsed = Parsed::default();
    if request.body.iter().all(u8::is_ascii_whitespace) {
        let raw = json::object(query.iter().map(|(name, value)| (name.as_str(), json::quote(value))));
        let node = json::parse(raw.as_bytes()).map_err(|error| bad(format!("the query: {error}")))?;
        take(&node, 0, &query, event, &mut parsed);
        return Ok(parsed);
    }
    let root = reading::body(request)?;
    let elements = match &root.value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(_) => vec![&root],
        _ => return Err(bad(format!("expected an event (an object), found {}", found(Some(&root))))),
    };
    reading::bounded(elements.len())?;
    for (part, node) in elements.into_iter().enumerate() {
        take(node, part, &query, event, &mut parsed);
    }
    Ok(parsed)
}

fn take(node: &Node, part: usize, query: &Query, event: Option<&str>, parsed: &mut Parsed) {
    match arrival(&Webhook { node, query }, part, event) {
        Ok(arrival) => parsed.arrivals.push(arrival),
        Err((code, text)) => parsed.unreadable.push(reading::unreadable(part, code, text, node)),
    }
}

type Query = BTreeMap<String, String>;

/// The parameters of the URL; of a repeated name the last. Maileon does not always escape the `+` of an
/// address, which has no blanks: there it stays.
fn query(text: &str) -> Query {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(&name.replace('+', " "));
        let plus = if name.to_ascii_lowercase().contains("email") {
            value.to_owned()
        } else {
            value.replace('+', " ")
        };
        (name, decoded(&plus))
    };
    text.split('&').filter(|part| !part.is_empty()).take(200).map(pair).collect()
}

/// Percent-decoding; what is no escape stays as it is.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let hex = |at: usize| bytes.get(at).and_then(|byte| (*byte as char).to_digit(16));
    while let Some(byte) = bytes.get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A webhook with the places where its parameters may stand: the body goes before the URL.
struct Webhook<'n, 'a> {
    node: &'n Node<'a>,
    query: &'n Query,
}

impl Webhook<'_, '_> {
    /// The first of some names, in whatever case; not empty.
    fn word(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.field(name))
    }

    fn field(&self, name: &str) -> Option<String> {
        let objects = std::iter::once(Some(self.node)).chain(NESTED.iter().map(|key| self.node.get(key)));
        let of_body = objects.flatten().find_map(|object| {
            let members = object.as_object()?;
            members
                .iter()
                .rev()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .and_then(|(_, node)| word(Some(node)))
        });
        let of_query =
            || self.query.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        of_body.or_else(|| of_query().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    }
}

type Problem = (&'static str, String);

fn arrival(webhook: &Webhook, part: usize, event: Option<&str>) -> Result<Arrival, Problem> {
    if webhook.node.as_object().is_none() {
        let found = found(Some(webhook.node));
        return Err(("no_event", format!("expected an event (an object), found {found}")));
    }
    let named =
        event.map(str::to_owned).or_else(|| webhook.word(&["type", "event", "eventType", "event_type"]));
    let kind = named.ok_or_else(|| {
        let text = "nothing names the event: add `?type=unsubscription` (doi, bounce, …) to the webhook's URL at \
            Maileon, or set `event` for this source";
        ("no_kind", text.to_owned())
    })?;
    let subject = subject(webhook)?;
    let event_type = event_type(webhook, &kind);
    let stamp = webhook.word(&["timestamp"]);
    let data = data(webhook, &kind, event_type, &subject).map_err(|text| ("too_large", text))?;
    Ok(Arrival {
        extensions: None,
        part,
        event_type: EventType::known(event_type),
        time: stamp.as_deref().and_then(instant),
        data,
        test: false,
        transmission: webhook.word(&["transaction_id", "msg_id"]),
        recipient_role: None,
        dedupe: dedupe(webhook, event_type, &subject, stamp),
        subject,
    })
}

fn subject(webhook: &Webhook) -> Result<Subject, Problem> {
    let email = webhook.word(&["email"]);
    let address = match &email {
        // Where a `+` was read as a blank on the way: an address has none.
        Some(text) => {
            Address::parse(text).or_else(|_| Address::parse(&text.trim().replace(' ', "+"))).map(Some)
        }
        None => Ok(None),
    };
    let address = address.map_err(|why| ("bad_recipient", format!("field \"email\": {why}")))?;
    let external_id = webhook
        .word(&["external_id", "externalId", "eid"])
        .filter(|id| id.len() <= mailspan_core::limits::EXTERNAL_ID_BYTES_MAX);
    if address.is_none() && external_id.is_none() {
        let text =
            "neither \"email\" nor \"external_id\" stands in it: choose both for the webhook at Maileon";
        return Err(("no_recipient", text.to_owned()));
    }
    Ok(Subject { address, external_id })
}

/// An unsubscription by complaint is a complaint.
fn event_type(webhook: &Webhook, kind: &str) -> &'static str {
    let known = meaning(kind).unwrap_or("email.unknown");
    let method = webhook.word(&["method", "source"]).unwrap_or_default().to_ascii_lowercase();
    if known == "contact.unsubscribed" && method.starts_with("complaint") {
        "email.complained"
    } else {
        known
    }
}

/// Maileon gives no event id. Without a time and a message nothing tells a repeat from the next unsubscription
/// of the same person, so nothing is taken for one: consent can be told twice, but not be missed.
fn dedupe(webhook: &Webhook, event_type: &str, subject: &Subject, stamp: Option<String>) -> Dedupe {
    let message = webhook.word(&["msg_id", "transaction_id"]);
    if stamp.is_none() && message.is_none() {
        return Dedupe::Never;
    }
    let address = subject.address.as_ref().map(Address::key);
    let whom = address.or_else(|| subject.external_id.clone()).unwrap_or_default();
    let mut fields =
        vec![event_type.to_owned(), whom, stamp.unwrap_or_default(), message.unwrap_or_default()];
    fields.extend(webhook.word(&["property"]));
    fields.extend(webhook.word(&["new_value"]));
    Dedupe::Fields(fields)
}

/// RFC 3339, a number, or `yyyy-mm-dd hh:mm:ss` as Maileon writes it, which is taken as UTC.
fn instant(text: &str) -> Option<Millis> {
    if let Ok(number) = text.parse::<f64>() {
        return Millis::from_number(number);
    }
    Millis::parse_rfc3339(text).or_else(|| {
        let at: jiff::civil::DateTime = text.trim().replacen(' ', "T", 1).parse().ok()?;
        Some(Millis(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond()))
    })
}

fn data(webhook: &Webhook, kind: &str, event_type: &str, subject: &Subject) -> Result<Box<RawValue>, String> {
    let mut members = vec![("provider", json::quote("maileon")), ("kind", json::quote(kind))];
    let mut text = |name: &'static str, value: Option<String>| {
        members.extend(value.map(|value| (name, json::quote(&value))));
    };
    text("message_id", webhook.word(&["msg_id"]));
    text("transaction_id", webhook.word(&["transaction_id"]));
    text("url", webhook.word(&["url", "link"]));
    text("reason", webhook.word(&["reason", "method", "source", "bounce_message", "description"]));
    if event_type == "email.bounced" {
        text("bounce", Some(finality(webhook).to_owned()));
        text("bounce_code", webhook.word(&BOUNCE));
    }
    if matches!(event_type, "contact.confirmed" | "contact.unsubscribed" | "contact.updated") {
        members.push(("contact", contact(webhook, event_type, subject)));
        members.push(("origin", json::quote("maileon")));
    }
    members.push(("raw", webhook.node.raw.to_owned()));
    reading::data(json::object(members))
}

const BOUNCE: [&str; 5] = ["bounce_code", "code", "status_code", "status", "bounce_type"];

/// The list of Maileon's codes is not published: class 5 of RFC 3463 is hard, and where Maileon says so.
fn finality(webhook: &Webhook) -> &'static str {
    let hard = BOUNCE.iter().filter_map(|name| webhook.field(name)).any(|text| {
        let text = text.to_ascii_lowercase();
        text == "hard"
            || text == "permanent"
            || text.starts_with("5.")
            || (text.len() == 3 && text.starts_with('5'))
    });
    if hard { "hard" } else { "soft" }
}

/// What the webhook says of the contact. A first click on the confirmation link is a double opt-in; a changed
/// field is its new value alone.
fn contact(webhook: &Webhook, event_type: &str, subject: &Subject) -> String {
    let mut members = Vec::new();
    members.extend(subject.address.as_ref().map(|address| ("email", json::quote(address.as_str()))));
    members.extend(subject.external_id.as_ref().map(|id| ("external_id", json::quote(id))));
    match event_type {
        "contact.confirmed" => {
            let level = webhook.word(&["permission"]).filter(|level| matches!(level.as_str(), "4" | "5"));
            members.push(("opt_in", "true".to_owned()));
            members.push(("permission", level.unwrap_or_else(|| "4".to_owned())));
        }
        "contact.unsubscribed" => members.push(("opt_in", "false".to_owned())),
        _ => members.extend(changed(webhook)),
    }
    json::object(members)
}

/// `property` and `new_value` as a member of the contact.
fn changed(webhook: &Webhook) -> Option<(&'static str, String)> {
    let property = webhook.word(&["property"])?;
    let value = json::quote(&webhook.field("new_value").unwrap_or_default());
    let upper = property.trim().to_ascii_uppercase();
    if upper == "LOCALE" {
        return Some(("locale", value));
    }
    let standard = STANDARD.iter().find(|name| **name == upper);
    let name = standard.map_or(property.as_str(), |name| *name);
    let place = if standard.is_some() { "standard" } else { "custom" };
    Some((place, json::object([(name, value)])))
}

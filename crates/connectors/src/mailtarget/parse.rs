//! Bodies of both generations to arrivals (`mailtarget` sheet, 3.1 and 4.1).

use mailspan_core::json::{self, Node, Value};
use mailspan_core::{Address, EventType, Millis, RawRequest, RecipientRole, Span, Subject, clip};

use super::bounce::{Evidence, finality};
use super::vocabulary::{meaning, normal};
use crate::contract::{Arrival, BadBody, Dedupe, Parsed};
use crate::reading::{self, bad, found, word};

/// The dashboard's «Send Test Batch» is told by these two together, never by size or shape.
const TEST_BATCH: &str = "645c2177e3b86a0001887bc6";
const TEST_FIRST_EVENT: &str = "92356927693813856";

/// Keys of which an event has at least one.
const KNOWN: [&str; 7] =
    ["event", "status", "eventId", "transmissionId", "messageId", "recipient", "recipientMeta"];

/// Reads a single event, an array of events, or a batch `{"events": […]}`.
pub fn parse(request: &RawRequest, max_age: Option<Span>) -> Result<Parsed, BadBody> {
    let root = reading::body(request)?;
    let (elements, test) = elements(&root)?;
    reading::bounded(elements.len())?;
    let oldest = match max_age {
        Some(span) if !test => Some((Millis(request.received_at.0.saturating_sub_unsigned(span.ms)), span)),
        _ => None,
    };
    let mut parsed = Parsed::default();
    for (part, node) in elements.into_iter().enumerate() {
        match arrival(node, part, test, oldest) {
            Ok(arrival) => parsed.arrivals.push(arrival),
            Err((code, text)) => parsed.unreadable.push(reading::unreadable(part, code, text, node)),
        }
    }
    Ok(parsed)
}

fn elements<'n, 'a>(root: &'n Node<'a>) -> Result<(Vec<&'n Node<'a>>, bool), BadBody> {
    match &root.value {
        Value::Array(items) => Ok((items.iter().collect(), false)),
        Value::Object(_) => match root.get("events") {
            Some(events) => {
                let items = events.as_array().ok_or_else(|| {
                    bad(format!("field \"events\": expected an array, found {}", found(Some(events))))
                })?;
                Ok((items.iter().collect(), is_test(root, items)))
            }
            None if KNOWN.iter().any(|key| root.get(key).is_some()) => Ok((vec![root], false)),
            None => Err(bad("the object is no event: it has no field \"event\", \"status\" or \"events\"")),
        },
        _ => Err(bad(format!(
            "expected an event, an array of events or {{\"events\": […]}}, found {}",
            found(Some(root))
        ))),
    }
}

fn is_test(root: &Node, items: &[Node]) -> bool {
    let first = items.first().and_then(|item| word(item.get("eventId")));
    word(root.get("batchId")).as_deref() == Some(TEST_BATCH) && first.as_deref() == Some(TEST_FIRST_EVENT)
}

/// An element with the places where its generation puts things.
struct Element<'n, 'a> {
    node: &'n Node<'a>,
    raw: Option<&'n Node<'a>>,
}

impl Element<'_, '_> {
    /// The first of some keys, in `raw` (where generation A puts what is special to a kind) or beside it.
    fn word(&self, keys: &[&str]) -> Option<String> {
        self.raw.and_then(|raw| word(raw.first_of(keys))).or_else(|| word(self.node.first_of(keys)))
    }
}

const CLASS: [&str; 4] =
    ["bounceClassificationCode", "bounce_classification_code", "bounceClass", "bounce_class"];
const REASON: [&str; 5] = ["reason", "rawReason", "raw_reason", "bounceReason", "description"];
const CODE: [&str; 5] = ["errorCode", "error_code", "statusCode", "status_code", "enhancedStatusCode"];
const URL: [&str; 4] = ["url", "targetLinkUrl", "target_link_url", "link"];

pub type Problem = (&'static str, String);

/// One element of either generation; `oldest`: what happened before is put aside.
pub fn arrival(
    node: &Node,
    part: usize,
    test: bool,
    oldest: Option<(Millis, Span)>,
) -> Result<Arrival, Problem> {
    if node.as_object().is_none() {
        return Err(("no_event", format!("expected an event (an object), found {}", found(Some(node)))));
    }
    let element = Element { node, raw: node.get("raw").filter(|raw| raw.as_object().is_some()) };
    let kind = word(node.first_of(&["event", "status"]).filter(|node| node.as_str().is_some())).ok_or_else(
        || {
            let found = found(node.first_of(&["event", "status"]));
            ("no_kind", format!("field \"event\" (or \"status\"): expected the kind of event, found {found}"))
        },
    )?;
    let recipient = recipient(node)?;
    let time = node.get("timestamp").and_then(reading::time);
    if let (Some((oldest, span)), Some(time)) = (oldest, time)
        && time < oldest
    {
        return Err(("too_old", format!("it happened at {}, more than {span} ago", time.rfc3339())));
    }
    let meaning = meaning(&kind);
    let normal = meaning.map_or_else(|| normal(&kind), |meaning| meaning.word.to_owned());
    let url = if normal == "click" { element.word(&URL) } else { None };
    let data = data(&element, &kind, &normal, url.as_deref()).map_err(|text| ("too_large", text))?;
    Ok(Arrival {
        part,
        event_type: EventType::known(meaning.map_or("email.unknown", |meaning| meaning.event_type)),
        dedupe: dedupe(node, normal, time, &recipient, url),
        subject: Subject { address: Some(recipient), external_id: None },
        time,
        data,
        test,
        transmission: word(node.get("transmissionId")),
        recipient_role: role(node),
        extensions: None,
    })
}

fn recipient(node: &Node) -> Result<Address, Problem> {
    let field = node.get("recipient");
    let text = field.and_then(Node::as_str).ok_or_else(|| {
        ("no_recipient", format!("field \"recipient\": expected an address, found {}", found(field)))
    })?;
    Address::parse(text).map_err(|why| ("bad_recipient", format!("field \"recipient\": {why}")))
}

fn role(node: &Node) -> Option<RecipientRole> {
    match node.get("recipientType")?.as_str()?.trim().to_ascii_lowercase().as_str() {
        "to" | "original" => Some(RecipientRole::To),
        "cc" => Some(RecipientRole::Cc),
        "bcc" => Some(RecipientRole::Bcc),
        _ => None,
    }
}

/// `eventId`; else kind, transmission (or message), instant and recipient, and the URL of a click:
/// the three-part recipe of the vendor's guide would merge the recipients of one transmission.
fn dedupe(
    node: &Node,
    kind: String,
    time: Option<Millis>,
    recipient: &Address,
    url: Option<String>,
) -> Dedupe {
    if let Some(id) = word(node.get("eventId")) {
        return Dedupe::Id(id);
    }
    let Some(send) = word(node.get("transmissionId")).or_else(|| word(node.get("messageId"))) else {
        return Dedupe::Body;
    };
    let time = match time {
        Some(time) => time.0.to_string(),
        None => word(node.get("timestamp")).unwrap_or_default(),
    };
    let mut fields = vec![kind, send, time, recipient.key()];
    fields.extend(url);
    Dedupe::Fields(fields)
}

fn data(
    element: &Element,
    kind: &str,
    normal: &str,
    url: Option<&str>,
) -> Result<Box<mailspan_core::RawValue>, String> {
    let node = element.node;
    let reason = element.word(&REASON);
    let class = element.word(&CLASS);
    let mut members = vec![("provider", json::quote("mailtarget")), ("kind", json::quote(kind))];
    let mut text = |key: &'static str, value: Option<&str>| {
        members.extend(value.map(|value| (key, json::quote(value))));
    };
    text("message_id", word(node.get("messageId")).as_deref());
    text("transmission_id", word(node.get("transmissionId")).as_deref());
    text("url", url);
    text("reason", reason.as_deref());
    if matches!(normal, "bounce" | "soft_bounce" | "out_of_band") {
        let texts = texts(element);
        let single = node.get("event").is_some_and(|event| event.as_str().is_some());
        let evidence = Evidence { word: normal, single, class: class.as_deref(), texts: &texts };
        text("bounce", Some(finality(&evidence)));
        text("bounce_class", class.as_deref());
    }
    text("user_agent", element.word(&["userAgent", "user_agent"]).as_deref());
    text("ip", element.word(&["ip", "ipAddress", "ip_address"]).as_deref());
    text("recipient_type", word(node.get("recipientType")).as_deref());
    text("campaign_id", word(node.get("campaignId")).as_deref());
    members.extend(correlation(node).map(|object| ("correlation", object)));
    members.push(("raw", node.raw.to_owned()));
    reading::data(json::object(members))
}

/// Every text that may hold a status: all spellings, as `reason` and `rawReason` may stand together.
fn texts(element: &Element) -> Vec<String> {
    let places = [element.raw, Some(element.node)];
    let keys = || REASON.iter().chain(&CODE);
    places
        .into_iter()
        .flatten()
        .flat_map(|node| keys().filter_map(|key| word(node.get(key))))
        .map(|text| clip(&text, 2_000).into_owned())
        .collect()
}

/// The sender's metadata as the text of an object: `metadata` is one, `recipientMeta` is one inside a
/// string. Empty, null and what is not JSON count as none; the element is kept whole in `raw`.
fn correlation(node: &Node) -> Option<String> {
    [node.get("metadata"), node.get("recipientMeta")].into_iter().flatten().find_map(|meta| {
        match &meta.value {
            Value::Object(members) if !members.is_empty() => Some(meta.raw.to_owned()),
            Value::String(text) => {
                let inner = json::parse(text.as_bytes()).ok()?;
                inner.as_object().filter(|members| !members.is_empty())?;
                Some(inner.raw.to_owned())
            }
            _ => None,
        }
    })
}

//! Events that an application sends itself: plain JSON and CloudEvents 1.0 (structured, batched, binary).

use mailspan_core::cloudevents::{self, BATCHED, STRUCTURED};
use mailspan_core::json::{self, Node, Value as Json};
use mailspan_core::limits::EXTERNAL_ID_BYTES_MAX;
use mailspan_core::{EventType, Millis, Named, RawRequest, Reason, Subject, clip};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::contract::{
    Arrival, BadBody, BadSetting, Dedupe, Kind, Parsed, Sample, SampleOf, Source, SourceKind, Verified,
    schema_of, settings,
};
use crate::reading::{self, bad, found, word};

mod binary;

pub static KIND: Kind = Kind {
    name: "api",
    title: "Events API",
    about: "`POST /v1/events` with an API key of scope `events:write`. Takes plain JSON \
        `{\"type\": …, \"subject\": …, \"time\": …, \"id\": …, \"data\": {…}}`, an array of these or `{\"events\": […]}`, \
        and CloudEvents 1.0 in structured, batched and binary mode. `type` is needed; `subject` is the person's address \
        or external id; `time` is when it happened; `data.correlation` is passed on as it is. Repeats are told by `id` \
        (CloudEvents: by `source` and `id`); an event without an id is never a duplicate, `Idempotency-Key` covers the \
        whole request. A single event that cannot be read is refused with the name of the field; in a batch it is put \
        aside and the others are kept. Rules: cloudevents.io, JSON format and HTTP binding 1.0.2.",
    source: Some(SourceKind {
        schema: schema_of::<Settings>,
        needs_secret: false,
        needs_parse: false,
        build,
    }),
    sink: None,
    ask: None,
};

/// The `api` kind has no settings of its own: keys are made by `mailspan keys create`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

fn build(value: &Value) -> Result<Box<dyn Source>, BadSetting> {
    let Settings {} = settings(value)?;
    Ok(Box::new(Api))
}

struct Api;

impl Source for Api {
    /// Lets everything in: the API key is checked by the HTTP layer, before this is called. A caller
    /// that has not checked a key MUST NOT take this for a proof of anything.
    fn verify(&self, _: &RawRequest, _: &[Named], _: Millis, _: bool) -> Verified {
        Verified::By { credential: "api".to_owned() }
    }

    fn parse(&self, request: &RawRequest) -> Result<Parsed, BadBody> {
        let media = media_type(request);
        if media != STRUCTURED && media != BATCHED && request.header("ce-specversion").is_some() {
            let arrival = binary::arrival(request, &media).map_err(bad)?;
            return Ok(Parsed { arrivals: vec![arrival], unreadable: Vec::new() });
        }
        let root = reading::body(request)?;
        if media == STRUCTURED && root.as_object().is_some() {
            versioned(&root, &media).map_err(bad)?;
        }
        match batch(&root, &media)? {
            None => {
                let arrival = event(&root, 0, Dedupe::Never).map_err(bad)?;
                Ok(Parsed { arrivals: vec![arrival], unreadable: Vec::new() })
            }
            Some(items) => many(items, &media),
        }
    }

    fn sign(&self, _: &RawRequest, _: &Named, _: Millis) -> Vec<(String, String)> {
        Vec::new()
    }

    fn sample(&self, of: &SampleOf) -> Sample {
        let body = serde_json::json!({
            "type": "app.sample", "subject": "sample@example.com", "time": of.now.rfc3339(),
            "data": { "sample": of.id },
        });
        Sample { query: String::new(), headers: Vec::new(), body: body.to_string() }
    }

    fn request_id(&self, _: &RawRequest) -> Option<String> {
        None
    }
}

/// The content type without its parameters, in lower case; empty where there is none.
fn media_type(request: &RawRequest) -> String {
    let text = request.header("content-type").unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn batch<'n, 'a>(root: &'n Node<'a>, media: &str) -> Result<Option<&'n [Node<'a>]>, BadBody> {
    match &root.value {
        Json::Array(_) if media == STRUCTURED => {
            Err(bad(format!("content type {STRUCTURED} is one event, found an array: send it as {BATCHED}")))
        }
        Json::Array(items) => Ok(Some(items)),
        _ if media == BATCHED => {
            Err(bad(format!("content type {BATCHED} is an array of events, found {}", found(Some(root)))))
        }
        Json::Object(_) if root.get("type").is_none() => match root.get("events") {
            None => Ok(None),
            Some(events) => events.as_array().map(Some).ok_or_else(|| {
                bad(format!("field \"events\": expected an array, found {}", found(Some(events))))
            }),
        },
        Json::Object(_) => Ok(None),
        _ => Err(bad(format!(
            "expected an event, an array or {{\"events\": […]}}, found {}",
            found(Some(root))
        ))),
    }
}

/// CloudEvents 1.0.2, 3.1: what calls itself one has `specversion`.
fn versioned(node: &Node, media: &str) -> Result<(), String> {
    let is_missing = node.as_object().is_some() && node.get("specversion").is_none();
    if is_missing && (media == STRUCTURED || media == BATCHED) {
        return Err(format!(
            "field \"specversion\": content type {media} needs \"1.0\" there; plain events are sent as application/json"
        ));
    }
    Ok(())
}

fn many(items: &[Node], media: &str) -> Result<Parsed, BadBody> {
    reading::bounded(items.len())?;
    let mut parsed = Parsed::default();
    for (part, node) in items.iter().enumerate() {
        match versioned(node, media).and_then(|()| event(node, part, Dedupe::Never)) {
            Ok(arrival) => parsed.arrivals.push(arrival),
            Err(text) => parsed.unreadable.push(reading::unreadable(part, "bad_event", text, node)),
        }
    }
    Ok(parsed)
}

/// Reads one event from JSON text, as a VRL `parse` program or an application writes it: `type`, and
/// where known `id`, `subject`, `time` (RFC 3339, or a number of seconds or milliseconds), `data`
/// (anything but an object becomes `{"value": …}`). With `specversion` it is a CloudEvent. An `id`
/// makes [`Dedupe::Id`]; without one the default given stands. The reason names the field.
pub fn event_from_json(text: &str, part: usize, default_dedupe: Dedupe) -> Result<Arrival, Reason> {
    let node = json::parse(text.as_bytes())
        .map_err(|error| Reason::new("bad_event", format!("the event is not JSON that we take: {error}")))?;
    event(&node, part, default_dedupe).map_err(|text| Reason::new("bad_event", text))
}

fn event(node: &Node, part: usize, default_dedupe: Dedupe) -> Result<Arrival, String> {
    if node.as_object().is_none() {
        return Err(format!("expected an event (an object), found {}", found(Some(node))));
    }
    if let Some(name) = twice(node) {
        return Err(format!(
            "field \"{}\": it is given twice, and only one of them can be meant",
            clip(name, 40)
        ));
    }
    let cloud = node.get("specversion").is_some();
    let dedupe = if cloud { Some(cloud_dedupe(node)?) } else { id(node)?.map(Dedupe::Id) };
    Ok(Arrival {
        part,
        event_type: event_type(node.get("type"))?,
        subject: subject(node.get("subject"))?,
        time: time(node.get("time"), cloud)?,
        data: reading::data(data(node, cloud)?)?,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: cloudevents::extensions(node).filter(|_| cloud),
        dedupe: dedupe.unwrap_or(default_dedupe),
    })
}

/// A member of the event itself that is there twice; what is in its data stays as it is.
fn twice<'a>(node: &'a Node) -> Option<&'a str> {
    let mut seen = std::collections::HashSet::new();
    let mut names = node.as_object()?.iter().map(|(name, _)| name.as_ref());
    names.find(|name| !seen.insert(*name))
}

fn wrong(field: &str, expected: &str, node: Option<&Node>) -> String {
    format!("field \"{field}\": expected {expected}, found {}", found(node))
}

fn event_type(node: Option<&Node>) -> Result<EventType, String> {
    let text = node.and_then(Node::as_str).ok_or_else(|| wrong("type", "text like app.signed_up", node))?;
    EventType::parse(text).map_err(|why| format!("field \"type\": {why}"))
}

/// Null counts as absent. A number is taken by its digits: external ids often are.
fn subject(node: Option<&Node>) -> Result<Subject, String> {
    let Some(node) = node.filter(|node| node.value != Json::Null) else { return Ok(Subject::nobody()) };
    if !matches!(node.value, Json::String(_) | Json::Number) {
        return Err(wrong("subject", "an address or an external id", Some(node)));
    }
    let Some(text) = word(Some(node)) else { return Ok(Subject::nobody()) };
    let subject = Subject::read(&text);
    if subject == Subject::nobody() {
        return Err(format!(
            "field \"subject\": an external id has at most {EXTERNAL_ID_BYTES_MAX} bytes, this one {}",
            text.len()
        ));
    }
    Ok(subject)
}

fn time(node: Option<&Node>, cloud: bool) -> Result<Option<Millis>, String> {
    let Some(node) = node.filter(|node| node.value != Json::Null) else { return Ok(None) };
    let numbers = !cloud || node.as_str().is_some();
    match reading::time(node).filter(|_| numbers) {
        Some(time) => Ok(Some(time)),
        None if node.as_str().is_some_and(|text| text.trim_start().starts_with("9999-12-3")) => {
            Err(wrong("time", "an instant before 9999-12-30T22:00:00Z", Some(node)))
        }
        None => Err(wrong("time", "an instant like \"2026-05-08T03:14:15Z\"", Some(node))),
    }
}

fn id(node: &Node) -> Result<Option<String>, String> {
    let Some(id) = node.get("id").filter(|id| id.value != Json::Null) else { return Ok(None) };
    if !matches!(id.value, Json::String(_) | Json::Number) {
        return Err(wrong("id", "text", Some(id)));
    }
    let text =
        word(Some(id)).ok_or_else(|| "field \"id\": it is empty; leave it out or fill it".to_owned())?;
    if text.len() > ID_BYTES_MAX {
        return Err(format!(
            "field \"id\": at most {ID_BYTES_MAX} bytes are taken, these are {}",
            text.len()
        ));
    }
    Ok(Some(text))
}

/// Ids are hashed, so this only keeps messages and logs in hand.
const ID_BYTES_MAX: usize = 1_024;

/// CloudEvents 1.0.2, 3.1: `source` and `id` together are unique, and both are required.
fn cloud_dedupe(node: &Node) -> Result<Dedupe, String> {
    let version = node.get("specversion");
    if !version.and_then(Node::as_str).is_some_and(|text| text.starts_with("1.")) {
        return Err(wrong("specversion", "\"1.0\"", version));
    }
    let source = node.get("source");
    let text = source.and_then(Node::as_str).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| wrong("source", "text like \"/app\"", source))?;
    let id = id(node)?.ok_or_else(|| wrong("id", "text that is unique for the source", node.get("id")))?;
    Ok(Dedupe::Id(format!("{}\0{id}", clip(text, ID_BYTES_MAX))))
}

/// The text of an object.
fn data(node: &Node, cloud: bool) -> Result<String, String> {
    if let Some(encoded) = node.get("data_base64").filter(|_| cloud) {
        let text = encoded.as_str().filter(|text| crate::signature::unbase64(text).is_some());
        let text = text.ok_or_else(|| wrong("data_base64", "base64", Some(encoded)))?;
        return Ok(json::object([("data_base64", json::quote(text))]));
    }
    Ok(match node.get("data").map(|data| (data, &data.value)) {
        None | Some((_, Json::Null)) => "{}".to_owned(),
        Some((data, Json::Object(_))) => data.raw.to_owned(),
        Some((data, _)) => json::object([("value", data.raw.to_owned())]),
    })
}

//! Standard Webhooks: any sender that signs as standard-webhooks.com says (Svix, Resend, many others).

use mailspan_core::json::{Node, Value as Json};
use mailspan_core::{Address, EventType, Millis, Named, RawRequest, Span, Subject};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::contract::{
    Arrival, BadBody, BadSetting, Dedupe, Kind, Parsed, Sample, SampleOf, Source, SourceKind, Verified,
    schema_of, settings, too_narrow,
};
use crate::reading::{self, at, bad, found};
use crate::signature::recipe::fresh_id;
use crate::signature::{presets::TOLERANCE_MS, standard, verdict};

pub static KIND: Kind = Kind {
    name: "standard_webhooks",
    title: "Standard Webhooks",
    about: "Any sender that signs as Standard Webhooks says: `webhook-id`, `webhook-timestamp` and \
        `webhook-signature` (or the `svix-` names). Secrets are `whsec_` and base64 (HMAC-SHA256, `v1`) or `whpk_` and \
        a public key (ed25519, `v1a`); several may be live, and a header may carry several signatures. The timestamp \
        may be `tolerance` away from our clock, either way. Without a `parse` program the event's type is the body's \
        `type` (`app.unknown` where it is none), its data is `data`, its subject `subject` or the address in \
        `data.email` or `data.user.email`; CloudEvents in JSON are read as such. Repeats are told by `webhook-id`. \
        Rules: standard-webhooks.com, spec 1.0.0.",
    source: Some(SourceKind { schema: schema_of::<Settings>, needs_secret: true, needs_parse: false, build }),
    sink: None,
    ask: None,
};

/// Settings of a source that signs as Standard Webhooks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How far the timestamp may be from our clock, either way. Default: "5m".
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub tolerance: Option<Span>,
}

fn build(value: &Value) -> Result<Box<dyn Source>, BadSetting> {
    let settings: Settings = settings(value)?;
    if settings.tolerance.is_some_and(|span| span.ms < 1_000) {
        return Err(too_narrow());
    }
    Ok(Box::new(StandardWebhooks { tolerance_ms: settings.tolerance.map_or(TOLERANCE_MS, |span| span.ms) }))
}

struct StandardWebhooks {
    tolerance_ms: u64,
}

impl Source for StandardWebhooks {
    fn verify(&self, request: &RawRequest, secrets: &[Named], now: Millis, explain: bool) -> Verified {
        verdict(standard::verify(request, secrets, now, self.tolerance_ms, explain))
    }

    fn parse(&self, request: &RawRequest) -> Result<Parsed, BadBody> {
        let root = reading::body(request)?;
        let id = self.request_id(request);
        let elements = match &root.value {
            Json::Array(items) => items.iter().collect(),
            Json::Object(_) => vec![&root],
            _ => return Err(bad(format!("expected an object, found {}", found(Some(&root))))),
        };
        reading::bounded(elements.len())?;
        let single = elements.len() == 1;
        let mut parsed = Parsed::default();
        for (part, node) in elements.into_iter().enumerate() {
            let dedupe = match &id {
                None => Dedupe::Body,
                Some(id) if single => Dedupe::Id(id.clone()),
                Some(id) => Dedupe::Id(format!("{id}\0{part}")),
            };
            match arrival(node, part, dedupe) {
                Ok(arrival) => parsed.arrivals.push(arrival),
                Err(text) => parsed.unreadable.push(reading::unreadable(part, "bad_event", text, node)),
            }
        }
        Ok(parsed)
    }

    fn sign(&self, request: &RawRequest, secret: &Named, now: Millis) -> Vec<(String, String)> {
        let id = self.request_id(request).unwrap_or_else(|| fresh_id(request, now));
        let seconds = now.0.div_euclid(1_000);
        let signature = standard::sign(std::slice::from_ref(secret), &id, seconds, &request.body);
        let [id_header, stamp_header, header] = standard::HEADERS[0];
        vec![
            (id_header.to_owned(), id),
            (stamp_header.to_owned(), seconds.to_string()),
            (header.to_owned(), signature),
        ]
    }

    fn sample(&self, of: &SampleOf) -> Sample {
        let body = serde_json::json!({
            "type": "app.sample", "subject": "sample@example.com", "timestamp": of.now.rfc3339(),
            "data": { "sample": of.id },
        });
        Sample { query: String::new(), headers: Vec::new(), body: body.to_string() }
    }

    fn request_id(&self, request: &RawRequest) -> Option<String> {
        let [id, ..] = standard::headers_of(request);
        request.header(id).map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned)
    }
}

fn arrival(node: &Node, part: usize, dedupe: Dedupe) -> Result<Arrival, String> {
    if node.as_object().is_none() {
        return Err(format!("expected an event (an object), found {}", found(Some(node))));
    }
    let data = node.get("data").filter(|data| data.as_object().is_some()).unwrap_or(node);
    Ok(Arrival {
        part,
        event_type: event_type(node),
        subject: subject(node),
        time: node.first_of(&["timestamp", "time"]).and_then(reading::time),
        data: reading::data(data.raw.to_owned())?,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        dedupe,
    })
}

fn event_type(node: &Node) -> EventType {
    match node.first_of(&["type"]) {
        None => EventType::known("app.received"),
        Some(word) => word
            .as_str()
            .and_then(|text| EventType::parse(text.trim()).ok())
            .unwrap_or_else(|| EventType::known("app.unknown")),
    }
}

/// The address that is named; else what `subject` says.
fn subject(node: &Node) -> Subject {
    let named = ["subject", "data.email", "data.user.email"];
    let address = named.iter().find_map(|path| Address::parse(at(node, path)?.as_str()?).ok());
    match address {
        Some(address) => Subject { address: Some(address), external_id: None },
        None => reading::word(node.get("subject")).map_or_else(Subject::nobody, |text| Subject::read(&text)),
    }
}

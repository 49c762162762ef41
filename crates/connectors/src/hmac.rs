//! Senders that sign each request with a shared secret, told by a preset or spelled out.

mod samples;
mod scheme;

use mailspan_core::json::{Node, Value as Json};
use mailspan_core::{Address, EventType, Millis, Named, RawRequest, Subject, json};
use serde_json::Value;

use crate::contract::{
    Arrival, BadBody, BadSetting, Dedupe, Kind, Parsed, Sample, SampleOf, Source, SourceKind, Verified,
    schema_of, settings,
};
use crate::reading::{self, at, bad, found, word};
use crate::signature::presets::Handshake;
use crate::signature::recipe::{self, Scheme};
use crate::signature::verdict;

pub(crate) use samples::mailingcore as mailingcore_sample;
pub use scheme::{DedupeSetting, Settings, TimestampSetting};

pub static KIND: Kind = Kind {
    name: "hmac",
    title: "HMAC-signed webhooks",
    about: "Any sender that signs requests with a shared secret. `preset` names a known one: stripe, github, shopify, \
        woocommerce, hubspot_v1, hubspot_v2, hubspot_v3, zendesk, greenhouse, typeform, slack, intercom, pagerduty, \
        mailingcore. Or spell the scheme: `header`, `prefix`, `encoding` (hex, base64), `algorithm` (sha256, sha1, \
        sha256_plain), `signed` with {body}, {timestamp}, {id}, {method}, {url}, {secret}, where the `timestamp` stands \
        and its unit, `tolerance`, a `separator` where the header is a list of parts. What is set beside a preset \
        replaces that part of it. `dedupe` says what tells repeats: a header or paths in the body; else the body itself. \
        Without a `parse` program each JSON object is an event `app.{preset}` (else `app.received`) with the object as \
        its data. Signatures inside the body, over URL and form, and asymmetric ones come later.",
    source: Some(SourceKind { schema: schema_of::<Settings>, needs_secret: true, needs_parse: false, build }),
    sink: None,
    ask: None,
};

fn build(value: &Value) -> Result<Box<dyn Source>, BadSetting> {
    let settings: Settings = settings(value)?;
    Ok(Box::new(settings.resolve()?))
}

/// A source as configured.
pub(crate) struct Hmac {
    scheme: Scheme,
    dedupe: Option<Same>,
    handshake: Option<Handshake>,
    event_type: EventType,
    preset: Option<&'static str>,
}

/// What tells a repeat.
pub(crate) enum Same {
    /// A header, in lower case.
    Header(String),
    /// Paths in the body (of an element, where the body is an array).
    Body(Vec<String>),
}

/// The longest challenge that is echoed: Slack's have 52 characters.
const CHALLENGE_BYTES_MAX: usize = 256;

impl Source for Hmac {
    fn verify(&self, request: &RawRequest, secrets: &[Named], now: Millis, explain: bool) -> Verified {
        if self.handshake == Some(Handshake::Woocommerce) && is_form_ping(request) {
            return handshake(String::new());
        }
        let judged = recipe::verify(&self.scheme, request, secrets, now, explain);
        match (&self.handshake, &judged) {
            (Some(Handshake::Slack), Ok(_)) => match challenge(request) {
                Some(challenge) => handshake(challenge),
                None => verdict(judged),
            },
            _ => verdict(judged),
        }
    }

    fn parse(&self, request: &RawRequest) -> Result<Parsed, BadBody> {
        let root = reading::body(request)?;
        let elements = match &root.value {
            Json::Array(items) => items.iter().collect(),
            Json::Object(_) => vec![&root],
            _ => {
                return Err(bad(format!(
                    "expected an object or an array of objects, found {}",
                    found(Some(&root))
                )));
            }
        };
        reading::bounded(elements.len())?;
        let single = elements.len() == 1;
        let mut parsed = Parsed::default();
        for (part, node) in elements.into_iter().enumerate() {
            match self.arrival(request, node, part, single) {
                Ok(arrival) => parsed.arrivals.push(arrival),
                Err(text) => parsed.unreadable.push(reading::unreadable(part, "bad_event", text, node)),
            }
        }
        Ok(parsed)
    }

    fn sign(&self, request: &RawRequest, secret: &Named, now: Millis) -> Vec<(String, String)> {
        let mut headers = recipe::sign(&self.scheme, request, secret, now);
        if let Some(Same::Header(name)) = &self.dedupe
            && request.header(name).is_none()
            && headers.iter().all(|(header, _)| header != name)
        {
            headers.push((name.clone(), recipe::fresh_id(request, now)));
        }
        headers
    }

    fn sample(&self, of: &SampleOf) -> Sample {
        samples::sample(self.preset, of)
    }

    fn request_id(&self, request: &RawRequest) -> Option<String> {
        match self.dedupe.as_ref()? {
            Same::Header(name) => request.header(name).and_then(|id| {
                let id = id.trim();
                (!id.is_empty()).then(|| id.to_owned())
            }),
            Same::Body(paths) => {
                let root = json::parse(&request.body).ok()?;
                let fields = fields(&root, paths)?;
                Some(fields.join("\0"))
            }
        }
    }
}

impl Hmac {
    fn arrival(
        &self,
        request: &RawRequest,
        node: &Node,
        part: usize,
        single: bool,
    ) -> Result<Arrival, String> {
        if node.as_object().is_none() {
            return Err(format!("expected an object, found {}", found(Some(node))));
        }
        let dedupe = match &self.dedupe {
            None => None,
            Some(Same::Header(_)) => self.request_id(request).map(|id| match single {
                true => Dedupe::Id(id),
                false => Dedupe::Id(format!("{id}\0{part}")),
            }),
            Some(Same::Body(paths)) => {
                fields(node, paths).map(|fields| match <[String; 1]>::try_from(fields) {
                    Ok([id]) => Dedupe::Id(id),
                    Err(fields) => Dedupe::Fields(fields),
                })
            }
        };
        Ok(Arrival {
            part,
            event_type: self.event_type.clone(),
            subject: subject(node),
            time: None,
            data: reading::data(node.raw.to_owned())?,
            test: false,
            transmission: None,
            recipient_role: None,
            extensions: None,
            dedupe: dedupe.unwrap_or(Dedupe::Body),
        })
    }
}

/// The values at all paths, or nothing where one is missing.
fn fields(node: &Node, paths: &[String]) -> Option<Vec<String>> {
    paths.iter().map(|path| word(at(node, path))).collect()
}

/// The address at one of the places where senders put their customer's.
fn subject(node: &Node) -> Subject {
    let places = ["email", "customer.email", "billing.email", "data.email", "user.email", "data.user.email"];
    let address = places.iter().find_map(|path| Address::parse(at(node, path)?.as_str()?).ok());
    Subject { address, external_id: None }
}

fn handshake(body: String) -> Verified {
    Verified::Handshake { status: 200, content_type: "text/plain; charset=utf-8", body }
}

/// Slack's `url_verification` (api.slack.com/events/url_verification): printable ASCII only is echoed.
fn challenge(request: &RawRequest) -> Option<String> {
    let root = json::parse(&request.body).ok()?;
    if root.get("type")?.as_str()? != "url_verification" {
        return None;
    }
    let challenge = root.get("challenge")?.as_str()?;
    let fits = challenge.len() <= CHALLENGE_BYTES_MAX && challenge.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| challenge.to_owned())
}

/// WooCommerce's first ping: nothing but `webhook_id=` and digits. It is not signed and says nothing.
fn is_form_ping(request: &RawRequest) -> bool {
    let digits = request.body.strip_prefix(b"webhook_id=");
    digits.is_some_and(|digits| (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit))
}

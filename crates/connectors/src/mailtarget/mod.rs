//! Mailtarget: delivery and engagement events of a mailing platform.

mod bounce;
mod log;
mod parse;
mod vocabulary;

use mailspan_core::{Millis, Named, RawRequest, Span};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::contract::{
    AskKind, BadBody, BadSetting, Kind, Parsed, Sample, SampleOf, Source, SourceKind, Verified, schema_of,
    settings,
};
use crate::signature::recipe::{Piece, Scheme, sign, verify};
use crate::signature::{Algorithm, Encoding, verdict};

pub static KIND: Kind = Kind {
    name: "mailtarget",
    title: "Mailtarget",
    about: "Delivery, engagement and complaint events of the Mailtarget platform, in both payload generations: \
        single events (`event`, `metadata`) and batches (`batchId`, `status`, `recipientMeta`). The signature is \
        `X-Mailtarget-Signature`, the hex HMAC-SHA256 of the raw body under any of `secrets`; list two while a \
        security policy is rotated. Nothing in the signature says when it was made, so repeats are told by `eventId`, \
        else by event, transmission, time and recipient (and the URL of a click). The dashboard's test batch is kept, \
        marked as a test and delivered nowhere. Rules: docs-mailtarget.pages.dev, concepts/webhooks and \
        operations/webhooks.",
    source: Some(SourceKind { schema: schema_of::<Settings>, needs_secret: true, needs_parse: false, build }),
    sink: None,
    ask: Some(AskKind {
        // The dashboard API, which keeps the log; the numbers of its limits are not published.
        base_url: "https://apiconfig.mailtarget.co/v1",
        rate: (60, 60_000),
        timeout_ms: 30_000,
        poll: None,
        log: Some(log::build),
    }),
};

/// Settings of a Mailtarget source.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Events older than this are put aside, like "30d". Off by default: retries are late by nature.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub max_age: Option<Span>,
}

fn build(value: &Value) -> Result<Box<dyn Source>, BadSetting> {
    let settings: Settings = settings(value)?;
    Ok(Box::new(Mailtarget { max_age: settings.max_age, scheme: scheme() }))
}

struct Mailtarget {
    max_age: Option<Span>,
    scheme: Scheme,
}

/// Bare hex over the raw body; `sha256=` and upper case are taken too.
fn scheme() -> Scheme {
    Scheme {
        header: "x-mailtarget-signature".to_owned(),
        prefix: "sha256=".to_owned(),
        prefix_optional: true,
        separator: None,
        encoding: Encoding::Hex,
        algorithm: Algorithm::Sha256,
        signed: vec![Piece::Body],
        timestamp: None,
        id: None,
        tolerance_ms: 0,
    }
}

impl Source for Mailtarget {
    fn verify(&self, request: &RawRequest, secrets: &[Named], now: Millis, explain: bool) -> Verified {
        verdict(verify(&self.scheme, request, secrets, now, explain))
    }

    fn parse(&self, request: &RawRequest) -> Result<Parsed, BadBody> {
        parse::parse(request, self.max_age)
    }

    fn sign(&self, request: &RawRequest, secret: &Named, now: Millis) -> Vec<(String, String)> {
        let bare = Scheme { prefix: String::new(), ..self.scheme.clone() };
        sign(&bare, request, secret, now)
    }

    fn sample(&self, of: &SampleOf) -> Sample {
        let body = serde_json::json!({
            "transmissionId": format!("sample-{}", of.id), "messageId": of.id, "event": "click",
            "timestamp": of.now.rfc3339(), "recipient": "sample@example.com", "campaignId": null,
            "metadata": { "crm_contact_id": "1", "crm_deal_id": "2", "crm_owner": "owner@example.com" },
            "raw": { "url": "https://example.com/offer" },
        });
        Sample { query: String::new(), headers: Vec::new(), body: body.to_string() }
    }

    fn request_id(&self, _: &RawRequest) -> Option<String> {
        None
    }
}

//! Maileon: a mailing platform that keeps contacts. Destination, and source of unsigned webhooks.

mod call;
mod judge;
mod parse;
mod report;
mod settings;
mod words;
mod write;

use std::sync::Arc;

use mailspan_core::{Answer, Millis, Named, RawRequest, Request, Verdict};
use serde_json::Value;

use crate::contract::{
    BadBody, BadSetting, Item, Judgement, Kind, Known, Parsed, Plan, Policy, Refusal, Sample, SampleOf, Sink,
    SinkKind, Source, SourceKind, Verified, schema_of, settings,
};
use call::{Call, call_of};
use settings::{Settings, SourceSettings};

/// The kind `maileon`.
pub static KIND: Kind = Kind {
    name: "maileon",
    title: "Maileon",
    about: "Contacts and consent of a Maileon account (XQueue), REST API 1.0. As a destination: a fresh opt-in is \
        written by itself with its permission, everything else of a contact by batch synchronisation, which brings \
        nobody back who has unsubscribed there; opt-outs unsubscribe, erasures delete. It needs an API key with the \
        privileges GET, POST, PUT and DELETE as `auth = { kind = \"key\", key = … }`. As a source: its webhooks, \
        which nobody signs, so they come to a secret path (`access = { kind = \"path\", … }`); they may have no \
        body and do not name their event, so each has a URL of its own with `?type=unsubscription` or a source of \
        its own with `event`. Rules: support.maileon.com and maileon.dev, REST API 1.0 (contacts, synchronize \
        contacts, unsubscribe, webhooks).",
    source: Some(SourceKind {
        schema: schema_of::<SourceSettings>,
        needs_secret: true,
        needs_parse: false,
        build: build_source,
    }),
    sink: Some(SinkKind {
        schema: schema_of::<Settings>,
        // Maileon documents no limits: these are ours.
        defaults: Policy {
            coalesces: true,
            rate: (10, 1_000),
            concurrency: 4,
            batch: 1_000,
            batch_wait_ms: 1_000,
            timeout_ms: 30_000,
            merges: false,
        },
        base_url: "https://api.maileon.com/1.0",
        audience: true,
        build,
    }),
    ask: None,
};

fn build(settings: &Value) -> Result<Arc<dyn Sink>, BadSetting> {
    Ok(Arc::new(Maileon { settings: Settings::read(settings)? }))
}

struct Maileon {
    settings: Settings,
}

impl Sink for Maileon {
    fn plan(&self, items: &[Item], _: &Known) -> Plan {
        let settle = |takes, verdict| Plan::Settle { takes, verdict };
        let Some(first) = items.first() else {
            return settle(vec![], Verdict::skipped("no_items", "nothing was offered"));
        };
        match call_of(&self.settings, first) {
            Err(verdict) => settle(vec![0], verdict),
            Ok(Call::Synchronise { permission }) => {
                let (request, takes) = write::synchronise(&self.settings, permission, items);
                Plan::Send { request, takes }
            }
            Ok(call) => Plan::Send { request: write::one(&self.settings, &call, first), takes: vec![0] },
        }
    }

    fn judge(&self, items: &[Item], answer: &Answer) -> Judgement {
        judge::judge(&self.settings, items, answer)
    }

    fn probe(&self) -> Request {
        write::bare("GET", "/ping".to_owned())
    }

    fn batch_key(&self, item: &Item) -> Option<String> {
        match call_of(&self.settings, item) {
            Ok(Call::Synchronise { permission }) => Some(format!("synchronise {}", permission.unwrap_or(0))),
            _ => None,
        }
    }
}

fn build_source(value: &Value) -> Result<Box<dyn Source>, BadSetting> {
    let settings: SourceSettings = settings(value)?;
    settings.check()?;
    Ok(Box::new(Webhooks { event: settings.event }))
}

struct Webhooks {
    /// The one event that comes to this source.
    event: Option<String>,
}

impl Source for Webhooks {
    /// Maileon signs nothing. A secret path is looked at before this is asked.
    fn verify(&self, _: &RawRequest, _: &[Named], _: Millis, _: bool) -> Verified {
        let text = "Maileon signs nothing: leave `secrets` out, and set \
            access = { kind = \"path\", secret = { env = \"NAME\" } }";
        Verified::Refused(Refusal { check: "no_signature", text: text.to_owned(), hint: None })
    }

    fn parse(&self, request: &RawRequest) -> Result<Parsed, BadBody> {
        parse::parse(request, self.event.as_deref())
    }

    fn sign(&self, _: &RawRequest, _: &Named, _: Millis) -> Vec<(String, String)> {
        Vec::new()
    }

    fn sample(&self, of: &SampleOf) -> Sample {
        let body = serde_json::json!({
            "email": "sample@example.com", "external_id": of.id, "timestamp": of.now.rfc3339(),
        });
        let query = match self.event {
            Some(_) => String::new(),
            None => "type=unsubscription".to_owned(),
        };
        Sample { query, headers: Vec::new(), body: body.to_string() }
    }

    fn request_id(&self, _: &RawRequest) -> Option<String> {
        None
    }
}

//! MailingCore: a mailing platform that keeps contacts. Destination, source of webhooks, and poll.

mod answer;
mod bulk;
mod call;
mod contact;
mod judge;
mod parse;
mod poll;
mod settings;
mod write;

use std::sync::Arc;

use mailspan_core::{Answer, Millis, Named, RawRequest, Request, Verdict};
use serde_json::Value;

use crate::contract::{
    AskKind, BadBody, BadSetting, Item, Judgement, Kind, Known, Parsed, Plan, Policy, Sample, SampleOf, Sink,
    SinkKind, Source, SourceKind, Verified, schema_of, settings, too_narrow,
};
use crate::signature::recipe::{Scheme, sign, verify};
use crate::signature::{presets, verdict};
use call::{Call, call_of};
use settings::{Settings, SourceSettings};

const BASE_URL: &str = "https://api.mailingcore.com";

/// The kind `mailingcore`.
pub static KIND: Kind = Kind {
    name: "mailingcore",
    title: "MailingCore",
    about: "Contacts and consent of a MailingCore account. As a destination: contacts are upserted (up to 1,000 in \
        one bulk call), opt-outs and erasures are written by external id, suppressions are pushed; it needs a key \
        with the scopes contacts:read, contacts:write and suppressions:write as `auth = { kind = \"bearer\", \
        token = … }`. As a source: its eight webhook types, signed with `X-MailingCore-Signature` \
        (`t=…,v1=…`, HMAC-SHA256 of time and raw body) under any of `secrets`; with `auth` it is also asked for the contacts that have changed, every \
        15 minutes. Rules: mailingcore.com/en/docs, sections newsletter, webhooks, deliverability and api.",
    source: Some(SourceKind {
        schema: schema_of::<SourceSettings>,
        needs_secret: true,
        needs_parse: false,
        build: build_source,
    }),
    sink: Some(SinkKind {
        schema: schema_of::<Settings>,
        // The documented limit of a key: 300 requests in 60 seconds.
        defaults: Policy {
            coalesces: true,
            rate: (300, 60_000),
            concurrency: 4,
            batch: 1_000,
            batch_wait_ms: 1_000,
            timeout_ms: 30_000,
            merges: false,
        },
        base_url: BASE_URL,
        audience: true,
        build,
    }),
    ask: Some(AskKind {
        base_url: BASE_URL,
        rate: (300, 60_000),
        timeout_ms: 30_000,
        poll: Some(poll::build),
        log: None,
    }),
};

fn build(settings: &Value) -> Result<Arc<dyn Sink>, BadSetting> {
    Ok(Arc::new(MailingCore { settings: Settings::read(settings)? }))
}

struct MailingCore {
    settings: Settings,
}

impl Sink for MailingCore {
    fn plan(&self, items: &[Item], _: &Known) -> Plan {
        let settle = |takes, verdict| Plan::Settle { takes, verdict };
        let Some(first) = items.first() else {
            return settle(vec![], Verdict::skipped("no_items", "nothing was offered"));
        };
        let call = match call_of(&self.settings, first) {
            Ok(call) => call,
            Err(verdict) => return settle(vec![0], verdict),
        };
        let (mut request, takes) = match call {
            Call::Upsert => write::upsert(&self.settings, items),
            other => (write::one(&other, first), vec![0]),
        };
        write::add_tenant(self.settings.tenant_id.as_deref(), &mut request);
        Plan::Send { request, takes }
    }

    fn judge(&self, items: &[Item], answer: &Answer) -> Judgement {
        judge::judge(&self.settings, items, answer)
    }

    fn probe(&self) -> Request {
        let mut request = write::get("/contacts?limit=1".to_owned());
        write::add_tenant(self.settings.tenant_id.as_deref(), &mut request);
        request
    }

    fn batch_key(&self, item: &Item) -> Option<String> {
        matches!(call_of(&self.settings, item), Ok(Call::Upsert)).then(|| "upsert".to_owned())
    }
}

fn build_source(value: &Value) -> Result<Box<dyn Source>, BadSetting> {
    let settings: SourceSettings = settings(value)?;
    settings.check()?;
    if settings.tolerance.is_some_and(|span| span.ms < 1_000) {
        return Err(too_narrow());
    }
    let preset = presets::find("mailingcore").ok().and_then(presets::Preset::scheme);
    let mut scheme = preset.ok_or_else(|| BadSetting {
        path: vec![],
        text: "the signature scheme of MailingCore cannot be read: report this".to_owned(),
    })?;
    if let Some(span) = settings.tolerance {
        scheme.tolerance_ms = span.ms;
    }
    Ok(Box::new(Webhooks { scheme, tenant_id: settings.tenant_id }))
}

struct Webhooks {
    scheme: Scheme,
    tenant_id: Option<String>,
}

impl Source for Webhooks {
    fn verify(&self, request: &RawRequest, secrets: &[Named], now: Millis, explain: bool) -> Verified {
        verdict(verify(&self.scheme, request, secrets, now, explain))
    }

    fn parse(&self, request: &RawRequest) -> Result<Parsed, BadBody> {
        parse::parse(request, self.tenant_id.as_deref(), self.request_id(request))
    }

    fn sign(&self, request: &RawRequest, secret: &Named, now: Millis) -> Vec<(String, String)> {
        sign(&self.scheme, request, secret, now)
    }

    fn sample(&self, of: &SampleOf) -> Sample {
        crate::hmac::mailingcore_sample(of, self.tenant_id.as_deref().unwrap_or("sample"))
    }

    fn request_id(&self, request: &RawRequest) -> Option<String> {
        let id = request.header("x-mailingcore-delivery-id")?.trim();
        (!id.is_empty()).then(|| id.to_owned())
    }
}

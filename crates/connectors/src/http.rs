//! Any system with an HTTP address: the event, a map's result or the operations of the built-in map.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use mailspan_core::{Answer, Operation, Reason, Request, Signal, Verdict, clip};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::contract::{
    BadSetting, Item, Judgement, Kind, Known, Plan, Policy, Sink, SinkKind, by_status, retry_after,
    schema_of, settings,
};
use crate::left::left;

/// The kind `http`.
pub static KIND: Kind = Kind {
    name: "http",
    title: "HTTP",
    about: "Sends to any system with an HTTP address (`url`): without a map the event as CloudEvents JSON \
        (structured; with `batch = { max = … }` several as one CloudEvents batch), with a map its result, with \
        `map = \"crm\"` the built-in operations as JSON. Every request carries an idempotency key that is the \
        same for every attempt. Success is 2xx; 408, 425, 429 and 5xx are tried again; 401 and 403 pause the \
        destination: `errors` can say so of others, of 410 for instance; 3xx is not followed; \
        other answers are refusals. `success` and `errors` change that.",
    source: None,
    sink: Some(SinkKind {
        schema: schema_of::<Settings>,
        defaults: Policy {
            rate: (50, 1_000),
            concurrency: 64,
            batch: 1,
            batch_wait_ms: 200,
            timeout_ms: 15_000,
            merges: false,
            coalesces: false,
        },
        base_url: "",
        audience: false,
        build,
    }),
    ask: None,
};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";

/// The settings of a destination of kind `http`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    method: Method,
    /// The statuses that mean success: numbers, or ranges like `"200-299"`. A 2xx that is not among
    /// them is a refusal. Default: every 2xx.
    #[serde(default)]
    success: Option<Vec<StatusText>>,
    /// What other statuses (or ranges, like `"500-599"`) mean; a single status goes before a range.
    #[serde(default)]
    errors: BTreeMap<String, Then>,
    /// The name of the header with the idempotency key; empty for none.
    #[serde(default = "default_idempotency_header")]
    idempotency_header: String,
    #[serde(default)]
    batch_format: BatchFormat,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
enum Method {
    #[default]
    #[serde(rename = "POST")]
    Post,
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "PATCH")]
    Patch,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "it is no status: write one like 404 or a range like \"500-599\"")]
enum StatusText {
    Status(u16),
    Range(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Then {
    /// Try again by the calendar.
    Retry,
    /// A dead letter at once.
    Refuse,
    /// Pause the destination and keep its queue.
    Pause,
    /// As good as delivered.
    Done,
    /// End the delivery as skipped.
    Skip,
}

/// How several items stand in one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum BatchFormat {
    /// A JSON array where several items meet in one call, the bare item where it is alone.
    #[default]
    Auto,
    /// A JSON array, also for one item.
    Array,
    /// One item a line (`application/x-ndjson`).
    Lines,
}

fn default_idempotency_header() -> String {
    "idempotency-key".to_owned()
}

/// Statuses from one to another, both included.
type Statuses = (u16, u16);

struct Http {
    method: &'static str,
    success: Option<Vec<Statuses>>,
    /// The narrowest range first.
    errors: Vec<(Statuses, Then)>,
    idempotency_header: String,
    batch_format: BatchFormat,
}

fn build(value: &Value) -> Result<Arc<dyn Sink>, BadSetting> {
    let read: Settings = settings(value)?;
    let mut errors = Vec::new();
    for (text, then) in read.errors {
        let statuses = statuses(&text).map_err(|why| bad(&["errors", &text], why))?;
        errors.push((statuses, then));
    }
    errors.sort_by_key(|((from, to), _)| to - from);
    let success = match read.success {
        None => None,
        Some(texts) if texts.is_empty() => {
            let text = "with an empty list every answer is a refusal: name a status, like [200, 202], or leave it out";
            return Err(bad(&["success"], text.to_owned()));
        }
        Some(texts) => {
            let mut ranges = Vec::new();
            for (position, text) in texts.iter().enumerate() {
                let text = match text {
                    StatusText::Status(status) => status.to_string(),
                    StatusText::Range(text) => text.clone(),
                };
                ranges.push(statuses(&text).map_err(|why| bad(&["success", &position.to_string()], why))?);
            }
            Some(ranges)
        }
    };
    let header = read.idempotency_header.trim().to_ascii_lowercase();
    check_header(&header).map_err(|why| bad(&["idempotency_header"], why))?;
    Ok(Arc::new(Http {
        method: match read.method {
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
        },
        success,
        errors,
        idempotency_header: header,
        batch_format: read.batch_format,
    }))
}

fn bad(path: &[&str], text: String) -> BadSetting {
    BadSetting { path: path.iter().map(|key| (*key).to_owned()).collect(), text }
}

fn statuses(text: &str) -> Result<Statuses, String> {
    let help =
        || format!("`{}` is no status: write one like 404 or a range like \"500-599\"", clip(text, 40));
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from <= to => Ok((from, to)),
        _ => Err(help()),
    }
}

/// RFC 9110, 5.6.2, without the headers that others write.
fn check_header(name: &str) -> Result<(), String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let taken =
        ["authorization", "connection", "content-length", "content-type", "host", "transfer-encoding"];
    if name.len() > 100 || !name.bytes().all(token) {
        return Err(format!("`{}` is no header name: write one like \"Idempotency-Key\"", clip(name, 60)));
    }
    if taken.contains(&name) {
        return Err(format!("the header {name} is written by the hub: choose another, or \"\" for none"));
    }
    Ok(())
}

impl Sink for Http {
    fn plan(&self, items: &[Item], _: &Known) -> Plan {
        let Some(first) = items.first() else {
            return Plan::Settle {
                takes: vec![],
                verdict: Verdict::skipped("no_items", "nothing was offered"),
            };
        };
        let key = self.batch_key(first);
        let takes = match &key {
            None => vec![0],
            Some(key) => self.shared(items, key),
        };
        let bodies: Vec<Body> = takes.iter().map(|&at| body_of(&items[at])).collect();
        let (content_type, body) = match (bodies.as_slice(), self.batch_format, &key) {
            ([one], BatchFormat::Auto, _) | ([one], _, None) => (one.content_type.clone(), one.text.clone()),
            (all, format, _) => joined(all, format),
        };
        let mut headers = vec![("content-type".to_owned(), content_type)];
        let keys: Vec<&str> = takes.iter().map(|&at| &*items[at].key.0).collect();
        let key = key_of(&keys);
        if self.idempotency_header != default_idempotency_header() {
            headers.push((mailspan_core::KEY.to_owned(), key.clone()));
        }
        if !self.idempotency_header.is_empty() {
            headers.push((self.idempotency_header.clone(), key));
        }
        let request = Request { method: self.method, path: String::new(), headers, body: body.into() };
        Plan::Send { request, takes }
    }

    fn judge(&self, items: &[Item], answer: &Answer) -> Judgement {
        Judgement { left: left(answer), ..in_halves(self.judged(items, answer), answer) }
    }

    /// `HEAD` on the URL: nothing is sent that a receiver could take for an event. Any answer but 401
    /// and 403 (405 and 404 too, since many receivers know `POST` only) shows that it is reachable.
    fn probe(&self) -> Request {
        Request { method: "HEAD", path: String::new(), headers: vec![], body: Default::default() }
    }

    fn batch_key(&self, item: &Item) -> Option<String> {
        let body = body_of(item);
        let media = body.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let json = media == "application/json" || media.ends_with("+json");
        // A body that is no JSON would spoil the array for the others.
        (json && media != BATCHED && serde_json::from_str::<&mailspan_core::RawValue>(&body.text).is_ok())
            .then_some(media)
    }
}

impl Http {
    fn judged(&self, items: &[Item], answer: &Answer) -> Judgement {
        let status = answer.status;
        let within = |(from, to): Statuses| (from..=to).contains(&status);
        if let Some((_, then)) = self.errors.iter().find(|(statuses, _)| within(*statuses)) {
            return decided(*then, items.len(), answer);
        }
        if let Some(success) = &self.success {
            if success.iter().any(|statuses| within(*statuses)) {
                return decided(Then::Done, items.len(), answer);
            }
            if (200..300).contains(&status) {
                return decided(Then::Refuse, items.len(), answer);
            }
        }
        by_status(answer, items.len())
    }

    /// Positions of the items that go with the first: one of each person, in the order given.
    fn shared(&self, items: &[Item], key: &str) -> Vec<usize> {
        let mut persons = HashSet::new();
        let mut takes = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let fits = at == 0 || self.batch_key(item).as_deref() == Some(key);
            if fits && item.person.is_none_or(|person| persons.insert(person.id)) {
                takes.push(at);
            }
        }
        takes
    }
}

/// A batch that is refused whole: one of several may be the reason, the others go on without it.
fn in_halves(judgement: Judgement, answer: &Answer) -> Judgement {
    let is_refused = |verdict: &Verdict| matches!(verdict, Verdict::Reject { .. });
    if judgement.verdicts.len() < 2
        || judgement.signal.is_some()
        || !judgement.verdicts.iter().all(is_refused)
    {
        return judgement;
    }
    let verdict = Verdict::Retry { after_ms: None, reason: Reason::new("split", shown(answer)) };
    let verdicts = vec![verdict; judgement.verdicts.len()];
    Judgement { verdicts, signal: Some(Signal::Split), ..judgement }
}

struct Body {
    content_type: String,
    text: String,
}

fn body_of(item: &Item) -> Body {
    if let Operation::Send { content_type, body } = item.operation {
        return Body { content_type: content_type.clone(), text: body.clone() };
    }
    let mut value = serde_json::to_value(item.operation).unwrap_or_default();
    if let (Value::Object(members), Some(person)) = (&mut value, item.person) {
        let address = person.subject.address.as_ref().map(|address| address.as_str());
        let shown = serde_json::json!({"address": address, "external_id": person.subject.external_id});
        members.insert("person".to_owned(), shown);
    }
    Body { content_type: "application/json".to_owned(), text: value.to_string() }
}

/// Bodies that are JSON, to the letter: numbers of any size survive.
fn joined(bodies: &[Body], format: BatchFormat) -> (String, String) {
    let texts = bodies.iter().map(|body| body.text.trim());
    if format == BatchFormat::Lines {
        // Within JSON a line break can stand between tokens only.
        let lines = texts.map(|text| text.replace(['\n', '\r'], " ") + "\n");
        return ("application/x-ndjson".to_owned(), lines.collect());
    }
    let events = bodies.iter().all(|body| body.content_type.to_ascii_lowercase().starts_with(STRUCTURED));
    let content_type = if events { BATCHED } else { "application/json" };
    (content_type.to_owned(), format!("[{}]", texts.collect::<Vec<_>>().join(",")))
}

/// One key as it is; of several the digest, whatever their order: the same items in another order are the same.
fn key_of(keys: &[&str]) -> String {
    match keys {
        [one] => (*one).to_owned(),
        many => {
            let mut many = many.to_vec();
            many.sort_unstable();
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, many.join("\n").as_bytes());
            digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
        }
    }
}

fn decided(then: Then, items: usize, answer: &Answer) -> Judgement {
    let after_ms = retry_after(answer);
    let text = shown(answer);
    let (verdict, signal) = match then {
        Then::Done => (Verdict::Done, None),
        Then::Skip => (Verdict::skipped("by_setting", text), None),
        Then::Refuse => (Verdict::reject("refused", text), None),
        Then::Retry => {
            let signal = after_ms.map(|ms| Signal::Throttled { until: answer.at.plus(ms) });
            (Verdict::Retry { after_ms, reason: Reason::new("unavailable", text) }, signal)
        }
        Then::Pause => {
            let (code, text) = match answer.status {
                401 | 403 => ("unauthorized", text),
                _ => ("by_setting", text),
            };
            let reason = Reason::new(code, text);
            (Verdict::Retry { after_ms: None, reason: reason.clone() }, Some(Signal::Stop { reason }))
        }
    };
    Judgement { verdicts: vec![verdict; items], signal, ..Judgement::default() }
}

fn shown(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("HTTP {} {}", answer.status, clip(&body, 300)).trim_end().to_owned()
}

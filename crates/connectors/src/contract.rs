//! What a connector is: a static value and up to three pairs of pure functions.
//!
//! A connector MUST NOT do I/O, read a clock or draw randomness; every function MUST be total: any
//! bytes give a value or a reason, never a panic.

use std::collections::HashMap;
use std::sync::Arc;

use mailspan_core::{
    Address, Answer, EventType, Key, Millis, Name, Named, Operation, Person, RawRequest, RawValue, Reason,
    RecipientRole, Request, Signal, Step, Subject, Verdict, clip,
};
use serde_json::Value;

/// One kind of system. Listed in [`crate::registry`].
pub struct Kind {
    /// The word in configuration (`kind = "…"`).
    pub name: &'static str,
    pub title: &'static str,
    /// A paragraph of reference: what it does, what it needs, where its rules come from.
    pub about: &'static str,
    /// JSON Schema of the kind's own settings as a source; `None` where it is none.
    pub source: Option<SourceKind>,
    pub sink: Option<SinkKind>,
    /// How a source of this kind is asked for what its webhooks did not tell.
    pub ask: Option<AskKind>,
}

pub struct SourceKind {
    /// JSON Schema of the settings, without those that every source has
    /// (`kind`, `path`, `secrets`, `parse`, `tenant`).
    pub schema: fn() -> Value,
    /// False for a kind that needs no signing secret (`api`: keys are the hub's own).
    pub needs_secret: bool,
    /// True where a VRL `parse` program must be given: the kind has no parser of its own.
    pub needs_parse: bool,
    pub build: fn(&Value) -> Result<Box<dyn Source>, BadSetting>,
}

pub struct SinkKind {
    /// JSON Schema of the settings, without those that every destination has (`kind`, `rate`,
    /// `concurrency`, `timeout`, `retry`, `retry_after_max`, `batch`, `order`, `auth`, `sign`,
    /// `headers`, `base_url`/`url`, `client_certificate`, `ca`, `tenant`).
    pub schema: fn() -> Value,
    pub defaults: Policy,
    /// The base URL where the configuration names none; empty when it must.
    pub base_url: &'static str,
    /// True for a system that keeps contacts and their consent: its default map is «audience», not «crm».
    pub audience: bool,
    pub build: fn(&Value) -> Result<Arc<dyn Sink>, BadSetting>,
}

/// A poll from the settings of its source.
pub type BuildPoll = fn(&Value) -> Result<Arc<dyn Poll>, BadSetting>;

/// Where and how often a source of this kind may be asked, and what it can be asked for.
pub struct AskKind {
    /// The base URL where the configuration names none.
    pub base_url: &'static str,
    /// So many requests in so many milliseconds.
    pub rate: (u32, u64),
    pub timeout_ms: u64,
    /// What has changed, page by page; from the settings of the source.
    pub poll: Option<BuildPoll>,
    /// The events of one transmission.
    pub log: Option<fn() -> Arc<dyn Log>>,
}

/// Limits that a destination starts with; each can be set.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// So many requests in so many milliseconds.
    pub rate: (u32, u64),
    pub concurrency: u32,
    /// Items in one call at most.
    pub batch: u32,
    /// How long a batch waits to fill, in milliseconds.
    pub batch_wait_ms: u64,
    pub timeout_ms: u64,
    /// True when one call may carry several items of one person: the sink merges them.
    pub merges: bool,
    /// True where the newest update of a profile may carry those that wait before it.
    pub coalesces: bool,
}

/// A setting that was refused: where (keys and indices from the kind's own table) and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSetting {
    pub path: Vec<String>,
    pub text: String,
}

/// Reads settings of a derived type; the error's path points at the value.
pub fn settings<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, BadSetting> {
    serde_path_to_error::deserialize(value).map_err(|error| BadSetting {
        path: error.path().iter().filter_map(segment).collect(),
        text: error.inner().to_string(),
    })
}

fn segment(segment: &serde_path_to_error::Segment) -> Option<String> {
    match segment {
        serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
        serde_path_to_error::Segment::Map { key } => Some(key.clone()),
        _ => None,
    }
}

/// A window in which no request can arrive.
pub fn too_narrow() -> BadSetting {
    BadSetting {
        path: vec!["tolerance".to_owned()],
        text: "a tolerance under a second would refuse everything: write \"5m\", as most senders advise"
            .to_owned(),
    }
}

/// The schema of a settings type, as `SourceKind::schema` and `SinkKind::schema` want it.
pub fn schema_of<T: schemars::JsonSchema>() -> Value {
    schemars::schema_for!(T).to_value()
}

// ---- sources -----------------------------------------------------------------------------------

pub trait Source: Send + Sync {
    /// Who sent it. `secrets` are those live now; an empty list or an empty secret verifies nothing.
    /// With `explain`, a refusal names the usual mutilation that would have matched: milliseconds for a large
    /// body, so callers bound how often they ask.
    fn verify(&self, request: &RawRequest, secrets: &[Named], now: Millis, explain: bool) -> Verified;

    /// What it says. Called after `verify`, and only where no VRL `parse` program is given.
    fn parse(&self, request: &RawRequest) -> Result<Parsed, BadBody>;

    /// Signs a sample as the sender would, for `events send` and the sandbox: the headers to add.
    fn sign(&self, request: &RawRequest, secret: &Named, now: Millis) -> Vec<(String, String)>;

    /// A request as this sender makes it, about nobody who exists, for `events send`; `sign` comes after.
    fn sample(&self, of: &SampleOf) -> Sample;

    /// The dedupe key that the request itself carries (a delivery id in a header), where the
    /// scheme has one; used for events of a VRL `parse` program.
    fn request_id(&self, request: &RawRequest) -> Option<String>;
}

/// What tells one sample from another.
#[derive(Debug, Clone)]
pub struct SampleOf {
    /// 16 hex digits, drawn by the caller.
    pub id: String,
    pub now: Millis,
}

impl SampleOf {
    /// A number of the id that JavaScript can hold (2^53).
    pub fn number(&self) -> u64 {
        u64::from_str_radix(&self.id, 16).unwrap_or(1) >> 12
    }

    /// The id in the form of a UUID of version 8 (RFC 9562, 5.8: vendors' own).
    pub fn uuid(&self) -> String {
        let digits = format!("{:0>16}", self.id);
        let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
        format!("{}-{}-8{}-8000-{:0>12}", part(0, 8), part(8, 12), part(12, 15), part(15, 16))
    }

    pub fn seconds(&self) -> i64 {
        self.now.0.div_euclid(1_000)
    }

    /// The time without an offset, as shops write it.
    pub fn local(&self) -> String {
        self.now.rfc3339().trim_end_matches('Z').to_owned()
    }
}

/// A request to be signed and posted; its content type is JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Without `?`.
    pub query: String,
    /// In lower case, beside those that signing adds.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// The name of the secret that matched.
    By {
        credential: String,
    },
    Refused(Refusal),
    /// A set-up request of the sender: answered at once, nothing is kept.
    Handshake {
        status: u16,
        content_type: &'static str,
        body: String,
    },
}

/// For the operator only; the caller learns 401 and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A stable code: `no_signature`, `malformed_signature`, `mismatch`, `timestamp_out_of_window`, …
    pub check: &'static str,
    pub text: String,
    /// Which usual mutilation would have matched.
    pub hint: Option<String>,
}

#[derive(Debug, Default)]
pub struct Parsed {
    pub arrivals: Vec<Arrival>,
    pub unreadable: Vec<Unreadable>,
}

/// The whole body cannot be read: answered 400 with this text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBody {
    pub text: String,
}

/// An element of a batch that cannot be read: quarantined, the others are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Position in the batch.
    pub part: usize,
    pub reason: Reason,
    /// The element as it came.
    pub raw: String,
}

/// An event before the journal gives it an id.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Position in the batch.
    pub part: usize,
    pub event_type: EventType,
    pub subject: Subject,
    /// When it happened, if the sender says.
    pub time: Option<Millis>,
    /// An object.
    pub data: Box<RawValue>,
    pub test: bool,
    pub transmission: Option<String>,
    pub recipient_role: Option<RecipientRole>,
    /// Of a CloudEvent: see [`mailspan_core::cloudevents::extensions`].
    pub extensions: Option<Box<RawValue>>,
    pub dedupe: Dedupe,
}

/// What makes two arrivals at one source the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dedupe {
    /// The provider's event id.
    Id(String),
    /// A recipe of fields, each already in its normal form.
    Fields(Vec<String>),
    /// The bytes of the body (and the position in it).
    Body,
    /// Never a duplicate.
    Never,
}

// ---- polls --------------------------------------------------------------------------------------

/// Asks a source page by page for what has changed. Pure: whoever drives it sends the requests, keeps the
/// cursor with each page's events, and waits [`Poll::every_ms`] between two rounds.
pub trait Poll: Send + Sync {
    /// Between the end of a round and the next.
    fn every_ms(&self) -> u64;

    /// The request for the next page. `cursor` is what [`Poll::read`] gave; the empty text begins.
    /// Credentials are added after it.
    fn ask(&self, cursor: &str) -> Request;

    /// What was answered to [`Poll::ask`] with the same cursor. `source` is the name of the source.
    fn read(&self, source: &Name, cursor: &str, answer: &Answer) -> Read;
}

#[derive(Debug)]
pub enum Read {
    Page(Page),
    /// No page: asked again from this cursor, not before the vendor's time where it named one.
    Again {
        cursor: String,
        after_ms: Option<u64>,
        reason: Reason,
    },
    /// Only the operator can help: a credential, an address, a setting.
    Stop {
        reason: Reason,
    },
}

#[derive(Debug)]
pub struct Page {
    /// To be accepted as if a request had brought them; dedupe makes a second reading harmless.
    pub parsed: Parsed,
    /// Where to go on; kept in the same transaction as the events.
    pub cursor: String,
    /// False at the end of a round.
    pub more: bool,
}

/// What a provider keeps of one transmission: its events, in one answer.
pub trait Log: Send + Sync {
    /// Credentials are added after it.
    fn ask(&self, transmission: &str) -> Request;

    /// The same arrivals, by their dedupe keys, that the webhooks of these events make: one that is accepted
    /// is known when its webhook comes late.
    fn read(&self, transmission: &str, answer: &Answer) -> Result<Parsed, Reason>;
}

// ---- sinks -------------------------------------------------------------------------------------

pub trait Sink: Send + Sync {
    /// Takes the first item and all that can share its request (one person once, unless the kind
    /// merges); what it leaves is offered again. `items` is not empty.
    fn plan(&self, items: &[Item], known: &Known) -> Plan;

    /// One verdict for each item taken, in that order. `items` are those that `takes` named.
    fn judge(&self, items: &[Item], answer: &Answer) -> Judgement;

    /// What `destinations test` sends: harmless, shows that address and credential work.
    fn probe(&self) -> Request;

    /// Groups items that can never share a call apart, and lets the engine gather a batch:
    /// the same text for items that one call could carry. The default is one item a call.
    fn batch_key(&self, item: &Item) -> Option<String>;
}

#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub key: &'a Key,
    pub person: Option<&'a Person>,
    pub operation: &'a Operation,
    pub step: Option<&'a Step>,
    /// The route has another place for a notice that this destination cannot give: then, and only then, the
    /// kind may say [`Verdict::handed_on`].
    pub elsewhere: bool,
}

impl Item<'_> {
    pub fn address(&self) -> Option<&Address> {
        self.person?.subject.address.as_ref()
    }
}

/// A look-up that several items share: the owner of an address, an association type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question(pub String);

/// Answers to questions, from a bounded cache of the engine.
#[derive(Debug, Clone, Default)]
pub struct Known(pub HashMap<Question, String>);

impl Known {
    pub fn get(&self, question: &str) -> Option<&str> {
        self.0.get(&Question(question.to_owned())).map(String::as_str)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// `takes` are positions in `items`, the first item among them.
    Send { request: Request, takes: Vec<usize> },
    /// The first item needs an answer first; the judgement of this request carries it.
    Ask { question: Question, request: Request },
    /// A verdict without an exchange: skipped or rejected.
    Settle { takes: Vec<usize>, verdict: Verdict },
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judgement {
    /// One for each item taken; for the answer to a question, empty when it was answered.
    pub verdicts: Vec<Verdict>,
    pub signal: Option<Signal>,
    /// What the vendor says is left of a limit.
    pub left: Option<Left>,
    /// The answer to the question asked.
    pub answer: Option<(Question, String)>,
}

/// The vendor's own word on its limit: so many more requests until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub requests: u64,
    pub until: Millis,
}

/// The common table of verdicts (`vendors` sheet, section 0.1); a `judge` says only what its vendor
/// does otherwise. 2xx done; 3xx a refusal that shows the target; 401 and 403 stop; 408, 425, 429
/// and 5xx retry, 429 and a `Retry-After` throttle; other 4xx a refusal.
pub fn by_status(answer: &Answer, items: usize) -> Judgement {
    let shown = || {
        let body = String::from_utf8_lossy(&answer.body);
        let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("HTTP {} {}", answer.status, clip(&body, 300)).trim_end().to_owned()
    };
    let after = retry_after(answer);
    let (verdict, signal) = match answer.status {
        200..=299 => (Verdict::Done, None),
        300..=399 => {
            let target = answer.header("location").unwrap_or("nowhere");
            let text = format!("HTTP {} to {}: redirects are not followed", answer.status, clip(target, 200));
            (Verdict::reject("redirect", text), None)
        }
        401 | 403 => {
            let reason = Reason::new("unauthorized", shown());
            let verdict = Verdict::Retry { after_ms: None, reason: reason.clone() };
            (verdict, Some(Signal::Stop { reason }))
        }
        429 => {
            let signal = after.map(|ms| Signal::Throttled { until: answer.at.plus(ms) });
            (Verdict::Retry { after_ms: after, reason: Reason::new("throttled", shown()) }, signal)
        }
        408 | 425 | 500..=599 => {
            let signal = after.map(|ms| Signal::Throttled { until: answer.at.plus(ms) });
            (Verdict::Retry { after_ms: after, reason: Reason::new("unavailable", shown()) }, signal)
        }
        _ => (Verdict::reject("refused", shown()), None),
    };
    Judgement { verdicts: vec![verdict; items], signal, ..Judgement::default() }
}

/// `Retry-After` in milliseconds from the answer: delta-seconds, or an HTTP date in any of its three forms
/// (RFC 9110, 10.2.3 and 5.6.7). Some send a fraction: its whole second is waited for. What ends after the last time that can be written ends then.
pub fn retry_after(answer: &Answer) -> Option<u64> {
    let text = answer.header("retry-after")?.trim();
    let most = LAST.since(answer.at);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_number(whole) && is_number(fraction) {
        let more = u64::from(fraction.bytes().any(|b| b != b'0'));
        let seconds = whole.parse::<u64>().map_or(u64::MAX, |seconds| seconds.saturating_add(more));
        return Some(seconds.saturating_mul(1_000).min(most));
    }
    Some(Millis(http_date_ms(text)?).since(answer.at).min(most))
}

/// 9999-12-30T21:59:59Z: the last second that can be written whatever the zone (RFC 3339 has four digits a year).
const LAST: Millis = Millis(253_402_207_199_000);

fn http_date_ms(text: &str) -> Option<i64> {
    let imf = "%a, %d %b %Y %H:%M:%S GMT";
    let rfc850 = "%A, %d-%b-%y %H:%M:%S GMT";
    let asctime = "%a %b %e %H:%M:%S %Y";
    let read = |format| jiff::civil::DateTime::strptime(format, text).ok();
    let at = read(imf).or_else(|| read(rfc850)).or_else(|| read(asctime))?;
    // The last days of the year 9999 are beyond what can be counted: as good as never.
    Some(at.to_zoned(jiff::tz::TimeZone::UTC).map_or(i64::MAX, |at| at.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        let headers = vec![("retry-after".to_owned(), text.to_owned())];
        let answer = Answer { at: Millis(784_111_700_000), status: 503, headers, body: vec![], cut: false };
        assert_eq!(retry_after(&answer), expected, "{text}");
    }

    #[test]
    fn all_forms_of_retry_after_are_read() {
        check("120", Some(120_000));
        check("2.5", Some(3_000));
        check("2.0", Some(2_000));
        check(".5", None);
        check("2.", None);
        let most = 253_402_207_199_000 - 784_111_700_000;
        check("18446744073709551616", Some(most));
        check("99999999999999999", Some(most));
        assert_eq!(Millis(784_111_700_000).plus(most).rfc3339(), "9999-12-30T21:59:59Z");
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(77_000));
        check("Sunday, 06-Nov-94 08:49:37 GMT", Some(77_000));
        check("Sun Nov  6 08:49:37 1994", Some(77_000));
        check("Sat, 05 Nov 1994 08:49:37 GMT", Some(0));
        assert!(retry_after_of("Fri, 31 Dec 9999 23:59:59 GMT") > Some(1 << 40));
        check("soon", None);
        check("", None);
        check("-5", None);
    }

    fn retry_after_of(text: &str) -> Option<u64> {
        let headers = vec![("retry-after".to_owned(), text.to_owned())];
        retry_after(&Answer { at: Millis(784_111_700_000), status: 503, headers, body: vec![], cut: false })
    }
}

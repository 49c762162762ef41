//! The sinks against their fixtures: these operations, this request; this answer, these verdicts.

use std::{collections::BTreeMap, sync::Arc};

use mailspan_connectors::contract::{Item, Known, Plan, Question, Sink};
use mailspan_connectors::{fuzzing_sinks, registry};
use mailspan_core::{
    Address, Answer, Formerly, Key, Millis, Operation, Person, PersonId, Request, Signal, Step, Subject,
    Verdict,
};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
#[path = "sinks/prepare.rs"]
mod prepare;

const AT: Millis = Millis(1_700_000_000_123);

#[derive(Deserialize, Clone)]
struct Part {
    key: String,
    address: Option<String>,
    external_id: Option<String>,
    /// Addresses and external ids that the person had before, the newest first.
    #[serde(default)]
    before: [Vec<String>; 2],
    step: Option<String>,
    op: Operation,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestCase {
    name: String,
    #[serde(default)]
    settings: Option<Value>,
    items: Vec<String>,
    #[serde(default)]
    known: BTreeMap<String, String>,
    /// The route has a `notify` URL.
    #[serde(default)]
    elsewhere: bool,
    send: Option<Sent>,
    ask: Option<Asked>,
    settle: Option<String>,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Sent {
    method: String,
    path: String,
    takes: Vec<usize>,
    headers: Option<BTreeMap<String, String>>,
    body: Option<Value>,
    text: Option<String>,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Asked {
    question: String,
    method: String,
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerCase {
    name: String,
    #[serde(default)]
    settings: Option<Value>,
    items: Vec<String>,
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Value,
    verdicts: Vec<String>,
    signal: Option<String>,
    left: Option<(u64, u64)>,
    answer: Option<(String, String)>,
    #[serde(default)]
    says: Vec<String>,
}

/// Items with everything that they borrow.
struct Held {
    parts: Vec<(Key, Option<Person>, Operation, Option<Step>)>,
    elsewhere: bool,
}

impl Held {
    fn new(parts: &[Part]) -> Held {
        Held { parts: parts.iter().map(hold).collect(), elsewhere: false }
    }

    fn items(&self) -> Vec<Item<'_>> {
        self.parts
            .iter()
            .map(|(key, person, operation, step)| Item {
                key,
                person: person.as_ref(),
                operation,
                step: step.as_ref(),
                elsewhere: self.elsewhere,
            })
            .collect()
    }
}

fn hold(part: &Part) -> (Key, Option<Person>, Operation, Option<Step>) {
    let address = part.address.as_deref().map(|text| Address::parse(text).expect("a good address"));
    let before = part.before[0].iter().map(|text| Address::parse(text).expect("a good address"));
    let addresses = before.map(|address| (address, AT));
    let shown = address.as_ref().map(Address::key).or(part.external_id.clone());
    let person = shown.map(|shown| Person {
        id: PersonId(shown.bytes().fold(7, |sum, byte| sum * 31 % 1_000_003 + i64::from(byte))),
        subject: Subject { address, external_id: part.external_id.clone() },
        opens: 0,
        clicks: 0,
        opted_out_at: None,
        opted_in_at: None,
        suppressed: false,
        erased: false,
        formerly: Formerly {
            addresses: addresses.collect(),
            external_ids: part.before[1].iter().map(|id| (id.clone(), AT)).collect(),
            taken: Vec::new(),
        },
    });
    (Key(part.key.as_str().into()), person, part.op.clone(), part.step.clone().map(Step))
}

fn fixture<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let text = match name {
        "hubspot/items.json" => include_str!("../fixtures/hubspot/items.json"),
        "hubspot/requests.json" => include_str!("../fixtures/hubspot/requests.json"),
        "hubspot/answers.json" => include_str!("../fixtures/hubspot/answers.json"),
        "http/items.json" => include_str!("../fixtures/http/items.json"),
        "http/requests.json" => include_str!("../fixtures/http/requests.json"),
        "http/answers.json" => include_str!("../fixtures/http/answers.json"),
        "mailingcore/items.json" => include_str!("../fixtures/mailingcore_sink/items.json"),
        "mailingcore/requests.json" => include_str!("../fixtures/mailingcore_sink/requests.json"),
        "mailingcore/answers.json" => include_str!("../fixtures/mailingcore_sink/answers.json"),
        "maileon/items.json" => include_str!("../fixtures/maileon_sink/items.json"),
        "maileon/requests.json" => include_str!("../fixtures/maileon_sink/requests.json"),
        "maileon/answers.json" => include_str!("../fixtures/maileon_sink/answers.json"),
        other => panic!("no fixture {other}: name it here"),
    };
    serde_json::from_str(text).unwrap_or_else(|error| panic!("fixtures/{name}: {error}"))
}

fn sink(kind: &str, settings: &Option<Value>) -> Arc<dyn Sink> {
    let sink = registry::kind(kind).and_then(|kind| kind.sink.as_ref()).expect("a kind with a sink");
    let settings = settings.clone().unwrap_or(json!({}));
    (sink.build)(&settings).unwrap_or_else(|bad| panic!("{settings}: {bad:?}"))
}

fn pick(kind: &str, names: &[String]) -> Held {
    let all: BTreeMap<String, Part> = fixture(&format!("{kind}/items.json"));
    let named = |name: &String| all.get(name).unwrap_or_else(|| panic!("no item {name}: add it")).clone();
    Held::new(&names.iter().map(named).collect::<Vec<_>>())
}

fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Done => "done".to_owned(),
        Verdict::Skipped { reason } => format!("skipped {}", reason.code),
        Verdict::Reject { reason } => format!("reject {}", reason.code),
        Verdict::Next { step, .. } => format!("next {}", step.0),
        Verdict::Retry { after_ms: None, reason } => format!("retry {}", reason.code),
        Verdict::Retry { after_ms: Some(ms), reason } => format!("retry {} {ms}", reason.code),
    }
}

fn short_signal(signal: &Signal) -> String {
    match signal {
        Signal::Throttled { until } => format!("throttled {}", until.since(AT)),
        Signal::Reauth { .. } => "reauth".to_owned(),
        Signal::Stop { reason } => format!("stop {}", reason.code),
        Signal::Split => "split".to_owned(),
    }
}

fn check_request(kind: &str, case: &RequestCase) {
    let sink = sink(kind, &case.settings);
    let mut held = pick(kind, &case.items);
    held.elsewhere = case.elsewhere;
    let known =
        case.known.iter().map(|(question, answer)| (Question(question.clone()), answer.clone())).collect();
    let name = &case.name;
    match sink.plan(&held.items(), &Known(known)) {
        Plan::Send { request, takes } => {
            let sent = case.send.as_ref().unwrap_or_else(|| panic!("{name}: unexpected {request:?}"));
            let headers = request.headers.iter().cloned().collect();
            let got = Sent {
                takes,
                headers: sent.headers.as_ref().map(|_| headers),
                body: sent.body.as_ref().map(|_| body_of(&request)),
                text: sent.text.as_ref().map(|_| String::from_utf8_lossy(&request.body).into_owned()),
                method: request.method.to_owned(),
                path: request.path,
            };
            assert_eq!(&got, sent, "{name}");
        }
        Plan::Ask { question, request } => {
            let got =
                Asked { question: question.0, method: request.method.to_owned(), path: request.path.clone() };
            assert_eq!(Some(got), case.ask, "{name}");
        }
        Plan::Settle { takes, verdict } => {
            assert_eq!(takes, [0], "{name}");
            assert_eq!(Some(short(&verdict)), case.settle, "{name}");
        }
    }
}

fn body_of(request: &Request) -> Value {
    serde_json::from_slice(&request.body).expect("the body of a request is JSON")
}

fn check_answer(kind: &str, case: &AnswerCase) {
    let sink = sink(kind, &case.settings);
    let held = pick(kind, &case.items);
    let body = match &case.body {
        Value::String(text) => text.clone(),
        json => json.to_string(),
    };
    let headers = case.headers.clone().into_iter().collect();
    let answer = Answer { at: AT, status: case.status, headers, body: body.into_bytes(), cut: false };
    let judged = sink.judge(&held.items(), &answer);
    let name = &case.name;
    assert_eq!(judged.verdicts.iter().map(short).collect::<Vec<_>>(), case.verdicts, "{name}: {judged:?}");
    assert_eq!(judged.signal.as_ref().map(short_signal), case.signal, "{name}: {judged:?}");
    assert_eq!(judged.left.map(|left| (left.requests, left.until.since(AT))), case.left, "{name}");
    assert_eq!(judged.answer.clone().map(|(question, answer)| (question.0, answer)), case.answer, "{name}");
    let said = format!("{judged:?}");
    for text in &case.says {
        assert!(said.contains(text), "{name}: says nothing of `{text}`: {said}");
    }
}

#[test]
fn hubspot_gets_these_requests() {
    let cases: Vec<RequestCase> = fixture("hubspot/requests.json");
    cases.iter().for_each(|case| check_request("hubspot", case));
}

#[test]
fn answers_of_hubspot_mean_this() {
    let cases: Vec<AnswerCase> = fixture("hubspot/answers.json");
    cases.iter().for_each(|case| check_answer("hubspot", case));
}

#[test]
fn http_destinations_get_these_requests() {
    let cases: Vec<RequestCase> = fixture("http/requests.json");
    cases.iter().for_each(|case| check_request("http", case));
}

#[test]
fn answers_of_http_destinations_mean_this() {
    let cases: Vec<AnswerCase> = fixture("http/answers.json");
    cases.iter().for_each(|case| check_answer("http", case));
}

#[test]
fn audiences_get_these_requests_and_their_answers_mean_this() {
    for kind in ["mailingcore", "maileon"] {
        let requests: Vec<RequestCase> = fixture(&format!("{kind}/requests.json"));
        requests.iter().for_each(|case| check_request(kind, case));
        let answers: Vec<AnswerCase> = fixture(&format!("{kind}/answers.json"));
        answers.iter().for_each(|case| check_answer(kind, case));
    }
}

#[test]
fn a_batch_has_at_most_a_hundred_inputs() {
    let part = |n: usize| Part {
        key: format!("k-{n}"),
        address: Some(format!("p{n}@example.com")),
        external_id: None,
        before: Default::default(),
        step: None,
        op: Operation::SetFields { fields: [("open_count".to_owned(), json!(n))].into(), record: None },
    };
    let held = Held::new(&(0..130).map(part).collect::<Vec<_>>());
    let plan = sink("hubspot", &None).plan(&held.items(), &Known::default());
    let Plan::Send { request, takes } = plan else { panic!("{plan:?}") };
    assert_eq!(takes, (0..100).collect::<Vec<_>>());
    assert_eq!(body_of(&request)["inputs"].as_array().map(Vec::len), Some(100));
}

/// Walks an operation through its steps against the answers of a HubSpot where all goes well.
#[test]
fn a_note_counts_only_when_it_hangs() {
    let sink = sink("hubspot", &None);
    let op = json!({"op": "log_activity", "title": "t", "body": "b", "at": 5, "deal": "55"});
    let mut part = Part {
        key: "k-1".to_owned(),
        address: Some("ann@example.com".to_owned()),
        external_id: None,
        before: Default::default(),
        step: None,
        op: serde_json::from_value(op).expect("an operation"),
    };
    let mut paths = Vec::new();
    for _ in 0..9 {
        let held = Held::new(std::slice::from_ref(&part));
        let Plan::Send { request, .. } = sink.plan(&held.items(), &Known::default()) else {
            panic!("no request")
        };
        paths.push(request.path.clone());
        let body = body_of(&request);
        let input = &body["inputs"][0];
        let mut result = json!({"id": "700", "properties": input["properties"]});
        if input["from"].is_object() {
            result = json!({"from": input["from"], "to": input["to"]});
        }
        let body = json!({"status": "COMPLETE", "results": [result]}).to_string().into_bytes();
        let answer = Answer { at: AT, status: 200, headers: vec![], body, cut: false };
        let judged = sink.judge(&held.items(), &answer);
        match &judged.verdicts[..] {
            [Verdict::Next { step, .. }] => part.step = Some(step.0.clone()),
            [Verdict::Done] => break,
            other => panic!("after {paths:?}: {other:?}"),
        }
    }
    assert_eq!(
        paths,
        [
            "/crm/objects/2026-03/contacts/batch/read",
            "/crm/objects/2026-03/notes/batch/upsert",
            "/crm/associations/2026-03/notes/contacts/batch/create",
            "/crm/associations/2026-03/notes/deals/batch/associate/default",
        ]
    );
}

#[test]
fn items_that_share_a_call_have_the_same_batch_key() {
    let key = |kind: &str, name: &str| {
        let held = pick(kind, &[name.to_owned()]);
        sink(kind, &None).batch_key(&held.items()[0])
    };
    assert_eq!(key("hubspot", "set-ann"), key("hubspot", "set-bob"));
    assert_ne!(key("hubspot", "set-ann"), key("hubspot", "set-record"));
    assert_eq!(key("hubspot", "log-ann"), key("hubspot", "tell"));
    assert_eq!(key("hubspot", "erase-ann"), None);
    assert_eq!(key("hubspot", "set-nobody"), None);
    assert_eq!(key("http", "event-1").as_deref(), Some("application/cloudevents+json"));
    assert_eq!(key("http", "body-1"), key("http", "body-2"));
    assert_eq!(key("http", "text"), None);
    assert_eq!(key("http", "no-json"), None);
}

#[test]
fn probes_are_harmless() {
    let probe = sink("hubspot", &None).probe();
    assert_eq!((probe.method, probe.path.as_str()), ("GET", "/crm/objects/2026-03/contacts?limit=1"));
    let probe = sink("http", &None).probe();
    assert_eq!((probe.method, probe.path.as_str()), ("HEAD", ""));
}

#[test]
fn bad_settings_of_http_point_at_their_place() {
    let build = registry::kind("http").and_then(|kind| kind.sink.as_ref()).expect("a sink").build;
    for (settings, path, word) in [
        (json!({"method": "GET"}), vec!["method"], "POST"),
        (json!({"success": [200, "2xx"]}), vec!["success", "1"], "2xx"),
        (json!({"success": [99]}), vec!["success", "0"], "99"),
        (json!({"errors": {"404": "ignore"}}), vec!["errors", "404"], "ignore"),
        (json!({"errors": {"500-400": "retry"}}), vec!["errors", "500-400"], "500-400"),
        (json!({"idempotency_header": "x y"}), vec!["idempotency_header"], "x y"),
        (json!({"idempotency_header": "Host"}), vec!["idempotency_header"], "host"),
        (json!({"batch_format": "xml"}), vec!["batch_format"], "xml"),
    ] {
        let bad = build(&settings).err().unwrap_or_else(|| panic!("{settings} was accepted"));
        assert_eq!(bad.path, path, "{settings}: {}", bad.text);
        assert!(bad.text.contains(word), "{settings}: {}", bad.text);
    }
}

/// Fixture answers with a few bytes changed, and some cut short, for every kind of operation: 10,000 a judge.
#[test]
fn judges_are_total_on_mutated_answers() {
    let mut random = mailspan_core::SplitMix64(0x6d61_696c);
    for kind in ["hubspot", "http", "mailingcore", "maileon"] {
        let cases = fixture::<Vec<AnswerCase>>(&format!("{kind}/answers.json"));
        for round in 0..10_000_usize {
            fuzzing_sinks::judge(&mutated(&cases[round % cases.len()], &mut random));
        }
    }
}

fn mutated(case: &AnswerCase, random: &mut mailspan_core::SplitMix64) -> Vec<u8> {
    let status = case.status.saturating_sub(100).to_be_bytes();
    let mut data = vec![random.next_u64() as u8, random.next_u64() as u8, status[0], status[1]];
    for (name, value) in &case.headers {
        data.extend(format!("{name}: {value}\n").bytes());
    }
    data.extend(b"\n\n");
    data.extend(case.body.to_string().bytes());
    for _ in 0..random.below(4) {
        let at = 4 + random.below(data.len() as u64 - 4) as usize;
        data[at] = random.next_u64() as u8;
    }
    if random.chance(10) {
        data.truncate(4 + random.below(data.len() as u64 - 4) as usize);
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn judges_are_total_on_anything(data in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzzing_sinks::judge(&data);
    }
}

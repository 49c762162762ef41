//! Entry of fuzzers and mutation tests into the judges: any answer gives one verdict an item.

use std::sync::{Arc, LazyLock};

use mailspan_core::{
    Address, Answer, Consent, Key, Millis, Name, Operation, Person, PersonId, Step, Subject, fields,
};
use serde_json::json;

use crate::contract::{Item, Known, Plan, Question, Read, Sink};
use crate::{http, hubspot, maileon, mailingcore};

const AT: Millis = Millis(1_700_000_000_123);

/// Judges an answer that the bytes spell out for items that they choose: the first byte chooses the
/// operations, the second how many, two more the status; then headers, an empty line, the body.
/// Panics where a judge breaks its contract.
pub fn judge(data: &[u8]) {
    let Some((&[kind, count, high, low], rest)) = data.split_first_chunk::<4>() else { return };
    let status = 100 + u16::from_be_bytes([high, low]) % 500;
    let (head, body) = match rest.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&rest[..at], &rest[at + 2..]),
        None => (&rest[..0], rest),
    };
    let answer = Answer { at: AT, status, headers: headers(head), body: body.to_vec(), cut: kind > 127 };
    let items = Items::choose(kind, usize::from(count) % 8 + 1);
    for sink in sinks().iter() {
        check(&**sink, &items.view(), &answer);
    }
}

/// Reads a page of a poll: two bytes for the status, a line for the cursor, the body. Panics where the poll
/// breaks its contract.
pub fn poll(data: &[u8]) {
    let Some((&[high, low], rest)) = data.split_first_chunk::<2>() else { return };
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let cursor = String::from_utf8_lossy(&rest[..end]);
    let body = rest.get(end + 1..).unwrap_or_default().to_vec();
    let status = if high == 0 { 200 } else { 100 + u16::from_be_bytes([high, low]) % 500 };
    let answer = Answer { at: AT, status, headers: vec![], body, cut: low > 250 };
    let built =
        mailingcore::KIND.ask.as_ref().and_then(|ask| (ask.poll?)(&json!({"poll": {"page": 2}})).ok());
    let Some(poll) = built else { return };
    assert!(poll.ask(&cursor).path.starts_with("/contacts?"), "a poll asks for contacts");
    if let Read::Page(page) = poll.read(&Name::new("core"), &cursor, &answer) {
        assert_ne!(poll.ask(&page.cursor).path, "", "a cursor can be asked with");
    }
}

/// Plans and judges as the engine does, and checks that every item is accounted for.
fn check(sink: &dyn Sink, items: &[Item], answer: &Answer) {
    let mut known = Known::default();
    for owner in ["alice@example.com", "bob@example.com"] {
        if answer.cut {
            known.0.insert(Question(format!("owner:{owner}")), "31".to_owned());
        }
    }
    let _ = sink.judge(&[], answer);
    let asked = match sink.plan(items, &known) {
        Plan::Settle { .. } => return,
        Plan::Ask { .. } => vec![items[0]],
        Plan::Send { takes, .. } => {
            assert_eq!(takes.first(), Some(&0), "a plan takes the first item");
            assert!(takes.windows(2).all(|pair| pair[0] < pair[1]), "a plan takes each item once");
            takes.iter().map(|&at| items[at]).collect()
        }
    };
    let judged = sink.judge(&asked, answer);
    let answered = judged.answer.is_some() && judged.verdicts.is_empty();
    assert!(answered || judged.verdicts.len() == asked.len(), "a judge gives one verdict an item");
}

/// Every sink kind, in the settings that change what it does.
fn sinks() -> &'static [Arc<dyn Sink>] {
    static SINKS: LazyLock<Vec<Arc<dyn Sink>>> = LazyLock::new(build_sinks);
    &SINKS
}

fn build_sinks() -> Vec<Arc<dyn Sink>> {
    let build = |kind: &'static crate::contract::Kind, settings: serde_json::Value| {
        kind.sink.as_ref().and_then(|sink| (sink.build)(&settings).ok())
    };
    [
        build(&hubspot::KIND, json!({})),
        build(&hubspot::KIND, json!({"subscription_id": 7, "note_key": "event_key"})),
        build(
            &http::KIND,
            json!({"errors": {"404": "skip", "500-599": "pause"}, "success": [200, "202-204"]}),
        ),
        build(&http::KIND, json!({})),
        build(&mailingcore::KIND, json!({})),
        build(&mailingcore::KIND, json!({"push_suppressions": false, "tenant_id": "clx1"})),
        build(&maileon::KIND, json!({})),
        build(&maileon::KIND, json!({"push_suppressions": true, "doi": true})),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn headers(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head);
    let line = |line: &str| line.split_once(':').map(|(n, v)| (n.trim().to_lowercase(), v.trim().to_owned()));
    text.lines().take(16).filter_map(line).collect()
}

struct Items {
    parts: Vec<(Key, Option<Person>, Operation, Option<Step>)>,
    elsewhere: bool,
}

impl Items {
    fn choose(kind: u8, count: usize) -> Items {
        let part = |n: usize| {
            let address = Address::parse(&format!("p{}@example.com", n % 3)).ok();
            let person = Person {
                id: PersonId(n as i64),
                subject: Subject { address, external_id: (kind > 63).then(|| format!("u-{}", n % 3)) },
                opens: 1,
                clicks: 0,
                opted_out_at: None,
                opted_in_at: None,
                suppressed: false,
                erased: false,
                formerly: mailspan_core::Formerly::default(),
            };
            let (operation, steps) = operation(kind, n);
            let step =
                steps.get(usize::from(kind) / 16 % (steps.len() + 1)).map(|step| Step((*step).to_owned()));
            (Key(format!("key-{n}").into()), (n != 5).then_some(person), operation, step)
        };
        Items { parts: (0..count).map(part).collect(), elsewhere: kind & 64 != 0 }
    }

    fn view(&self) -> Vec<Item<'_>> {
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

/// The operation and the steps it can be at.
fn operation(kind: u8, n: usize) -> (Operation, &'static [&'static str]) {
    let facts = [(fields::OPEN_COUNT.to_owned(), json!(n)), (fields::EMAIL_STATUS.to_owned(), json!(null))];
    let record = (n % 2 == 1).then(|| (1_000 + n).to_string());
    match kind % 8 {
        0 => (Operation::SetFields { fields: facts.into(), record: None }, &[]),
        1 => (Operation::SetFields { fields: facts.into(), record }, &[]),
        2 => {
            let mut fields: mailspan_core::Fields = facts.into();
            let (opt_in, old) = (json!(n.is_multiple_of(2)), json!("old@example.com"));
            fields.extend((kind > 63).then(|| (fields::OPT_IN.to_owned(), opt_in)));
            fields.extend((kind > 127).then(|| (fields::PREVIOUS_EMAIL.to_owned(), old)));
            (Operation::UpsertContact { fields }, &["suppress", "unknown"])
        }
        3 => {
            let consent = if kind > 191 { Consent::DoNotContact } else { Consent::OptOut };
            (Operation::SetConsent { consent, at: AT, reason: None }, &["id:clx1", "suppress", "unknown"])
        }
        4 => {
            let (title, body) = ("Email clicked".to_owned(), "https://example.com".to_owned());
            let deal = (n.is_multiple_of(3)).then(|| "77".to_owned());
            let steps = &["contact:17", "note:1/contact:17", "note:1/deal", "drop:1"];
            (Operation::LogActivity { title, body, at: AT, record, deal }, steps)
        }
        5 => {
            let owner = Some(if n == 2 { "bob@example.com" } else { "alice@example.com" }.to_owned());
            let steps = &["contact:17", "contact:-", "task:1/contact:17"];
            (Operation::NotifyOwner { owner, title: "t".to_owned(), text: "x".to_owned(), at: AT }, steps)
        }
        6 => (Operation::EraseContact, &[]),
        _ => {
            let content_type = "application/cloudevents+json".to_owned();
            (Operation::Send { content_type, body: format!("{{\"n\":{n}}}") }, &[])
        }
    }
}

//! Systems that keep contacts: bulk calls in which nobody is lost, and the poll that finds what webhooks never
//! told.

use std::sync::Arc;

use mailspan_connectors::contract::{Dedupe, Item, Known, Page, Plan, Poll, Read, Sink};
use mailspan_connectors::registry;
use mailspan_core::{
    Address, Answer, Fields, Key, Millis, Name, Operation, Person, PersonId, SplitMix64, Subject, Verdict,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// 2026-06-30T12:00:10Z.
const AT: Millis = Millis(1_782_820_810_000);

fn sink(kind: &str) -> Arc<dyn Sink> {
    let sink = registry::kind(kind).and_then(|kind| kind.sink.as_ref()).expect("a kind with a sink");
    (sink.build)(&json!({})).expect("good settings")
}

fn poll(settings: Value) -> Arc<dyn Poll> {
    let ask = registry::kind("mailingcore").and_then(|kind| kind.ask.as_ref()).expect("a kind that is asked");
    (ask.poll.expect("a kind with a poll"))(&settings).expect("good settings")
}

fn answer(status: u16, body: Value) -> Answer {
    Answer { at: AT, status, headers: vec![], body: body.to_string().into_bytes(), cut: false }
}

/// Upserts of so many people, some of whom share an address or an external id.
struct Crowd(Vec<(Key, Person, Operation)>);

impl Crowd {
    fn new(count: usize, addresses: usize, ids: usize) -> Crowd {
        let one = |n: usize| {
            let email = format!("p{}@example.com", n % addresses);
            let subject = Subject { address: Address::parse(&email).ok(), external_id: None };
            let (id, opens, clicks) = (PersonId(n as i64), 0, 0);
            let person = Person {
                id,
                subject,
                opens,
                clicks,
                opted_out_at: None,
                opted_in_at: None,
                suppressed: false,
                erased: false,
                formerly: mailspan_core::Formerly::default(),
            };
            let mut fields = Fields::from([("email".to_owned(), json!(email))]);
            if ids > 0 {
                fields.insert("external_id".to_owned(), json!(format!("u-{}", n % ids)));
            }
            (Key(format!("k-{n}").into()), person, Operation::UpsertContact { fields })
        };
        Crowd((0..count).map(one).collect())
    }

    fn items(&self) -> Vec<Item<'_>> {
        let item = |(key, person, operation)| Item {
            key,
            person: Some(person),
            operation,
            step: None,
            elsewhere: false,
        };
        self.0.iter().map(|(key, person, operation)| item((key, person, operation))).collect()
    }
}

fn sent(sink: &dyn Sink, items: &[Item]) -> (String, Vec<usize>) {
    match sink.plan(items, &Known::default()) {
        Plan::Send { request, takes } => (String::from_utf8_lossy(&request.body).into_owned(), takes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bulk_call_carries_a_thousand() {
    for (kind, row) in [("mailingcore", "\"email\":"), ("maileon", "<email>")] {
        let crowd = Crowd::new(1_200, 1_200, 0);
        let (body, takes) = sent(&*sink(kind), &crowd.items());
        assert_eq!((takes.len(), body.matches(row).count()), (1_000, 1_000), "{kind}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the answer, N contacts in are N verdicts out; one is done only where the summary accounts for
    /// all of them.
    #[test]
    fn nobody_is_lost_in_a_bulk_call(
        count in 2_usize..30, addresses in 1_usize..30, ids in 0_usize..30,
        created in 0_u64..30, updated in 0_u64..5, failed in prop::collection::vec((0_u64..40, 0_usize..3), 0..6),
        says_failed in prop::option::of(0_u64..6),
    ) {
        let crowd = Crowd::new(count, addresses, ids);
        let all = crowd.items();
        let sink = sink("mailingcore");
        let (_, takes) = sent(&*sink, &all);
        let taken: Vec<Item> = takes.iter().map(|at| all[*at]).collect();
        let rows: Vec<Value> = failed.iter().map(|(index, status)| {
            let status = [409, 500, 400][*status];
            json!({"index": index, "statusCode": status, "message": "x"})
        }).collect();
        let mut body = json!({"created": created, "updated": updated, "errors": rows});
        if let Some(says) = says_failed {
            body["failed"] = json!(says);
        }
        let judged = sink.judge(&taken, &answer(200, body));
        prop_assert_eq!(judged.verdicts.len(), taken.len());
        let done = judged.verdicts.iter().filter(|verdict| **verdict == Verdict::Done).count() as u64;
        prop_assert!(taken.len() == 1 || done == 0 || done == created + updated);
    }

    /// Any cursor and any answer give a value, and what a page says of its end is kept.
    #[test]
    fn a_poll_is_total(cursor in ".{0,40}", status in 100_u16..600, body in ".{0,200}", cut in any::<bool>()) {
        let poll = poll(json!({}));
        let request = poll.ask(&cursor);
        prop_assert!(request.path.starts_with("/contacts?updatedSince="));
        let answer = Answer { at: AT, status, headers: vec![], body: body.into_bytes(), cut };
        let _ = poll.read(&Name::new("core"), &cursor, &answer);
    }
}

fn row(id: &str, changed: &str, more: Value) -> Value {
    let mut row = json!({
        "id": id, "email": format!("{id}@example.com"), "externalId": null, "optIn": true,
        "createdAt": "2026-01-01T00:00:00.000Z", "updatedAt": changed, "attributes": {"n": 1.50},
    });
    let members = more.as_object().cloned().unwrap_or_default();
    row.as_object_mut().expect("an object").extend(members);
    row
}

fn page(poll: &dyn Poll, cursor: &str, answer: &Answer) -> Page {
    match poll.read(&Name::new("core"), cursor, answer) {
        Read::Page(page) => page,
        other => panic!("{other:?}"),
    }
}

fn types(page: &Page) -> Vec<&str> {
    page.parsed.arrivals.iter().map(|arrival| arrival.event_type.as_str()).collect()
}

#[test]
fn a_round_reads_all_pages_and_the_next_begins_a_minute_before_its_end() {
    let poll = poll(json!({"tenant_id": "clx1", "poll": {"page": 2}}));
    assert_eq!(poll.every_ms(), 900_000);
    let first = poll.ask("");
    assert_eq!(first.path, "/contacts?updatedSince=1970-01-01T00%3A00%3A00.000Z&cursor=&limit=2");
    assert!(first.headers.contains(&("x-tenant-id".to_owned(), "clx1".to_owned())));
    let rows =
        [row("a", "2026-06-30T11:00:00.000Z", json!({})), row("b", "2026-06-30T11:30:00.000Z", json!({}))];
    let one = page(&*poll, "", &answer(200, json!({"data": rows, "meta": {"nextCursor": "x=/"}})));
    assert!(one.more);
    assert_eq!(
        types(&one),
        ["contact.updated", "contact.subscribed", "contact.updated", "contact.subscribed"]
    );
    assert_eq!(
        poll.ask(&one.cursor).path,
        "/contacts?updatedSince=1970-01-01T00%3A00%3A00.000Z&cursor=x%3D%2F&limit=2"
    );
    let last = page(&*poll, &one.cursor, &answer(200, json!({"data": [], "meta": {"nextCursor": null}})));
    assert!(!last.more && last.parsed.arrivals.is_empty());
    // No clock was told: the latest change that was seen decides.
    assert_eq!(
        poll.ask(&last.cursor).path,
        "/contacts?updatedSince=2026-06-30T11%3A29%3A00.000Z&cursor=&limit=2"
    );
    // MailingCore's clock at the beginning of the round, where it is told.
    let mut dated = answer(200, json!({"items": [], "nextCursor": null}));
    dated.headers.push(("date".to_owned(), "Tue, 30 Jun 2026 12:00:10 GMT".to_owned()));
    let round = page(&*poll, &last.cursor, &dated);
    assert_eq!(
        poll.ask(&round.cursor).path,
        "/contacts?updatedSince=2026-06-30T11%3A59%3A10.000Z&cursor=&limit=2"
    );
}

#[test]
fn the_next_page_is_found_in_every_envelope() {
    let two =
        [row("a", "2026-06-30T11:00:00.000Z", json!({})), row("b", "2026-06-30T11:30:00.000Z", json!({}))];
    let one = &two[..1];
    for (body, next) in [
        (json!({"data": two, "meta": {"nextCursor": "n1"}}), Some("cursor=n1")),
        (json!({"items": two, "nextCursor": "n1"}), Some("cursor=n1")),
        (json!({"data": two, "meta": {"cursor": "n1"}}), Some("cursor=n1")),
        (json!({"data": two, "meta": {"nextCursor": null}}), None),
        (json!({"data": two, "meta": {"page": 1, "totalPages": 2}}), Some("page=2")),
        (json!({"data": two, "meta": {"page": 1, "totalPages": 1}}), None),
        (json!(two), Some("page=2")),
        (json!(one), None),
        (json!([]), None),
        (json!({"data": [], "meta": {"nextCursor": "n1"}}), None),
    ] {
        let poll = poll(json!({"poll": {"page": 2}}));
        let page = page(&*poll, "", &answer(200, body.clone()));
        let asked = poll.ask(&page.cursor).path;
        match next {
            Some(next) => assert!(page.more && asked.contains(&format!("&{next}&")), "{body}: {asked}"),
            None => assert!(!page.more, "{body}: {asked}"),
        }
    }
    // A list that does not know pages is the same again.
    let counted = poll(json!({"poll": {"page": 2}}));
    let first = page(&*counted, "", &answer(200, json!(two)));
    let second = page(&*counted, &first.cursor, &answer(200, json!(two)));
    assert!(first.more && !second.more, "a round without an end");
    // The same cursor again ends the round instead of going round for ever.
    let poll = poll(json!({}));
    let body = json!({"data": two, "nextCursor": "n1"});
    let first = page(&*poll, "", &answer(200, body.clone()));
    assert!(!page(&*poll, &first.cursor, &answer(200, body)).more);
}

fn check_row(more: Value, expected: &[(&str, Option<&str>)]) {
    let row = row("a", "2026-06-30T11:00:00.000Z", more);
    let read = page(&*poll(json!({})), "", &answer(200, json!([row])));
    let got: Vec<(String, Option<String>)> = read
        .parsed
        .arrivals
        .iter()
        .map(|arrival| (arrival.event_type.to_string(), arrival.time.map(Millis::rfc3339)))
        .collect();
    let expected: Vec<(String, Option<String>)> =
        expected.iter().map(|(name, at)| ((*name).to_owned(), at.map(str::to_owned))).collect();
    assert_eq!(got, expected, "{row}");
}

#[test]
fn a_row_becomes_what_it_says_of_consent() {
    let changed = Some("2026-06-30T11:00:00Z");
    check_row(
        json!({}),
        &[("contact.updated", changed), ("contact.subscribed", Some("2026-01-01T00:00:00Z"))],
    );
    check_row(json!({"createdAt": null}), &[("contact.updated", changed)]);
    let out = json!({"optIn": false, "unsubscribedAt": "2026-06-29T10:00:00.000Z"});
    check_row(out, &[("contact.unsubscribed", Some("2026-06-29T10:00:00Z"))]);
    check_row(json!({"optIn": false}), &[("contact.unsubscribed", changed)]);
    check_row(json!({"optIn": false, "unsubscribedAt": null}), &[("contact.updated", changed)]);
    check_row(
        json!({"optIn": false, "createdAt": "2026-06-30T11:00:00.000Z"}),
        &[("contact.updated", changed)],
    );
    check_row(json!({"optIn": null}), &[("contact.updated", changed)]);
}

#[test]
fn a_row_read_again_is_the_same_event_and_a_changed_one_another() {
    let dedupe = |changed: &str| -> Vec<Dedupe> {
        let read = page(&*poll(json!({})), "", &answer(200, json!([row("a", changed, json!({}))])));
        read.parsed.arrivals.into_iter().map(|arrival| arrival.dedupe).collect()
    };
    let (one, two) = (dedupe("2026-06-30T11:00:00.000Z"), dedupe("2026-06-30T11:00:01.000Z"));
    assert_eq!(one, dedupe("2026-06-30T11:00:00.000Z"));
    assert!(one[0] != two[0] && one[1] == two[1], "{one:?} {two:?}");
}

#[test]
fn the_data_of_a_row_keeps_its_spelling_and_says_no_opt_in_of_an_update() {
    let more = json!({"locale": "de", "suppressedAt": null, "externalId": "u-1"});
    let mut body = row("a", "2026-06-30T11:00:00.000Z", more).to_string();
    body = format!("[{}]", body.replace("{\"n\":1.5}", "{\"n\":1.50,\"k\":92356927693813856123}"));
    let answered = Answer { body: body.into_bytes(), ..answer(200, json!(null)) };
    let read = page(&*poll(json!({})), "", &answered);
    let data = read.parsed.arrivals[0].data.get();
    assert!(data.contains(r#""attributes":{"n":1.50,"k":92356927693813856123}"#), "{data}");
    assert!(data.contains(r#""origin":"core""#) && data.contains(r#""suppressed_at":null"#), "{data}");
    assert!(!data.contains("\"opt_in\"") && data.contains(r#""external_id":"u-1""#), "{data}");
    let told: Value = serde_json::from_str(read.parsed.arrivals[1].data.get()).expect("JSON");
    assert_eq!(told["contact"]["opt_in"], true);
}

#[test]
fn a_row_that_cannot_be_read_does_not_stop_the_others() {
    let rows =
        json!([7, {"id": "x"}, {"email": "no address"}, row("a", "2026-06-30T11:00:00.000Z", json!({}))]);
    let read = page(&*poll(json!({})), "", &answer(200, rows));
    assert_eq!((read.parsed.unreadable.len(), read.parsed.arrivals.len()), (3, 2));
}

fn check_refusal(cursor: &str, answer: Answer, expected: &str) {
    let shown = match poll(json!({"poll": {"page": 100}})).read(&Name::new("core"), cursor, &answer) {
        Read::Page(_) => "page".to_owned(),
        Read::Again { cursor, after_ms, reason } => {
            let path = poll(json!({"poll": {"page": 100}})).ask(&cursor).path;
            format!("again {} {after_ms:?} {}", reason.code, path.split_once("Z&").expect("a query").1)
        }
        Read::Stop { reason } => format!("stop {}", reason.code),
    };
    assert_eq!(shown, expected);
}

#[test]
fn a_poll_that_is_refused_goes_on_where_it_was_or_asks_the_operator() {
    let at = r#"{"v":1,"since":0,"cursor":"n1"}"#;
    let with = |status, name: &str, value: &str| {
        let headers = vec![(name.to_owned(), value.to_owned())];
        Answer { headers, ..answer(status, json!({})) }
    };
    check_refusal(at, answer(401, json!({})), "stop unauthorized");
    check_refusal(at, answer(403, json!({"message": "scope"})), "stop unauthorized");
    check_refusal(at, answer(404, json!({})), "stop no_address");
    check_refusal(
        at,
        answer(400, json!({"message": "bad cursor"})),
        "again cursor_refused None cursor=&limit=100",
    );
    check_refusal("", answer(400, json!({"message": "bad limit"})), "stop refused");
    check_refusal(at, with(429, "retry-after", "7"), "again throttled Some(7000) cursor=n1&limit=100");
    check_refusal(
        at,
        with(429, "x-ratelimit-reset", "1782820840"),
        "again throttled Some(30000) cursor=n1&limit=100",
    );
    check_refusal(at, answer(503, json!({})), "again unavailable None cursor=n1&limit=100");
    check_refusal(at, answer(200, json!({"x": 1})), "again bad_answer None cursor=n1&limit=100");
    check_refusal(at, answer(200, json!("x")), "again bad_answer None cursor=n1&limit=100");
    let cut = Answer { cut: true, ..answer(200, json!([])) };
    check_refusal(at, cut.clone(), "again too_large Some(0) cursor=n1&limit=50");
    check_refusal(r#"{"v":1,"since":0,"rows":1}"#, cut, "stop too_large");
}

#[test]
fn settings_that_make_no_sense_point_at_their_place() {
    for (settings, path) in [
        (json!({"poll": {"page": 0}}), "poll.page"),
        (json!({"poll": {"page": 501}}), "poll.page"),
        (json!({"poll": {"every": "10ms"}}), "poll.every"),
        (json!({"poll": {"every": "32d"}}), "poll.every"),
        (json!({"poll": {"overlap": "soon"}}), "poll.overlap"),
        (json!({"tenant_id": "a b"}), "tenant_id"),
        (json!({"tolerance": "10ms"}), "tolerance"),
    ] {
        let source = registry::kind("mailingcore").and_then(|kind| kind.source.as_ref()).expect("a source");
        let bad = (source.build)(&settings).err().unwrap_or_else(|| panic!("{settings} was accepted"));
        assert_eq!(bad.path.join("."), path, "{settings}: {}", bad.text);
    }
    let event = registry::kind("maileon").and_then(|kind| kind.source.as_ref()).expect("a source");
    assert_eq!((event.build)(&json!({"event": "x"})).err().expect("no event").path, ["event"]);
    let sink = registry::kind("maileon").and_then(|kind| kind.sink.as_ref()).expect("a sink");
    let bad = (sink.build)(&json!({"attributes": {"plan": "ab"}})).err().expect("no name");
    assert_eq!(bad.path, ["attributes", "plan"]);
}

/// Pages with a few bytes changed: 10,000 of them.
#[test]
fn a_poll_is_total_on_mutated_pages() {
    let poll = poll(json!({}));
    let mut random = SplitMix64(0x706f_6c6c);
    let rows =
        [row("a", "2026-06-30T11:00:00.000Z", json!({"unsubscribedAt": null})), row("b", "x", json!({}))];
    let whole = json!({"data": rows, "meta": {"nextCursor": "n1", "totalPages": 3}}).to_string().into_bytes();
    for _ in 0..10_000 {
        let mut body = whole.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(body.len() as u64) as usize;
            body[at] = random.next_u64() as u8;
        }
        body.truncate(1 + random.below(body.len() as u64 * 2) as usize);
        let answer = Answer { body, ..answer(200, json!(null)) };
        if let Read::Page(page) = poll.read(&Name::new("core"), "", &answer) {
            poll.ask(&page.cursor);
        }
    }
}

//! A store with rows in every table, and the look at it that finds all of them again: after a move, and when a
//! newer version opens what an earlier one wrote.

use mailspan_core::{
    Attempt, Class, DestinationId, Digest, EventId, Millis, Name, Outcome, Progress, Queue, RawRequest,
    Reason, Settlement, State, Subject, Verdict,
};
use mailspan_store::{
    Arrived, Audit, EventFilter, FactFilter, Idempotency, Keep, NewKey, Receipt, RefusedRequest, Towards,
    Unread, Write, Wrote, pack_request,
};

use crate::harness::{Harness, NOW, SEGMENT_KEYS, accepted, event, receipt, routed, settlement};

const DAY: i64 = 86_400_000;
/// Events 1 to this one are old: retention drops them.
const OLD: u64 = 20;
/// The last event; more than two segments of keys.
const LAST: u64 = 130;
const KINDS: [&str; 4] = ["email.opened", "contact.unsubscribed", "email.clicked", "app.order"];

/// Rows in every table of the first schema. The stores in `tests/fixtures/stores` were filled by it, so it stays
/// as it is; rows of later tables are written by functions of their own.
pub async fn fill(hub: &Harness) {
    let (crm, own) = (hub.destination("crm").await, hub.destination("own").await);
    let old = (1..=OLD).map(|n| event(n, "email.opened", &who(n))).collect();
    hub.store.write(Write::Accept(Box::new(whole(old)))).await.unwrap();
    hub.route_all(crm).await;
    let done = hub.all().await.iter().map(|row| settlement(row.id, delivered(), vec![])).collect();
    hub.settle(crm, done).await.unwrap();
    let keep = Keep { now: Millis(NOW.0 + 100 * DAY), requests_ms: 0, events_ms: 0, dedupe_ms: 1_000 * DAY };
    while !matches!(hub.store.write(Write::Retain(keep)).await.unwrap(), Wrote::Retained { rows: 0 }) {}

    // One by one: a segment is closed between two requests.
    for n in OLD + 1..=LAST {
        hub.store.write(Write::Accept(Box::new(whole(vec![newer(n)])))).await.unwrap();
    }
    hub.accept(vec![newer(LAST)]).await;
    let mut odd = whole(vec![]);
    odd.unreadable = vec![Unread { part: 0, reason: Reason::new("bad", "no object"), raw: "[".to_owned() }];
    hub.store.write(Write::Accept(Box::new(odd))).await.unwrap();
    hub.store.write(Write::Accept(Box::new(asked()))).await.unwrap();
    route(hub, crm, own).await;
    settle_some(hub, crm).await;
    records(hub, own).await;
}

fn who(n: u64) -> String {
    format!("a{}@b.co", n % 9)
}

/// With a transmission, so that it is known how many its recipients were; each tenth is a test.
fn newer(n: u64) -> Arrived {
    let mut one = event(n, KINDS[n as usize % KINDS.len()], &who(n));
    one.event.transmission = Some(format!("t{}", n % 30));
    one.event.test = n.is_multiple_of(10);
    one
}

fn whole(arrivals: Vec<Arrived>) -> Receipt {
    let request = RawRequest {
        method: "POST".to_owned(),
        url: String::new(),
        path: "/in/mailtarget".to_owned(),
        query: String::new(),
        headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
        body: bytes::Bytes::from_static(b"{\"a\":1}"),
        received_at: NOW,
    };
    Receipt { packed: Some(pack_request(&request, &[])), ..receipt(arrivals) }
}

fn asked() -> Receipt {
    let mut asked = receipt(vec![event(500, "app.order", "a1@b.co")]);
    asked.idempotency =
        Some(Idempotency { api_key: 1, key: "k".to_owned(), body: Digest([1; 16]), tell: None });
    asked
}

fn delivered() -> Outcome {
    Outcome::Ended { state: State::Delivered, reason: None }
}

/// Most go to `crm`, some to both, some nowhere; the last wait for the router.
async fn route(hub: &Harness, crm: DestinationId, own: DestinationId) {
    let (route, fence) = (hub.route_id("r").await, hub.lease("router").await);
    let waiting = hub.store.unrouted(1_000).await.unwrap();
    let routed = waiting.into_iter().rev().skip(5).rev().map(|event| {
        let n = event.id.0;
        let (to, class) = (if event.test || n % 7 == 0 { None } else { Some(crm) }, event.event_type.class());
        let mut one = routed(event, route, to);
        if n % 5 == 0 && to.is_some() {
            let failed = (n % 3 == 0).then(|| Reason::new("condition", "a \0 in it"));
            one.to.push(Towards { say: None, route, destination: own, class, failed, ordered: n % 2 == 0 });
        }
        one
    });
    hub.store.write(Write::Route { fence, routed: routed.collect() }).await.unwrap();
}

/// Of the heads at `crm`: some delivered, some dead, some to be tried again, the others as they are.
async fn settle_some(hub: &Harness, crm: DestinationId) {
    let fence = hub.lease(&format!("destination/{}", crm.0)).await;
    for round in 0..4 {
        let claims = hub.claim(crm).await;
        let settle = |(place, claim): (usize, &mailspan_store::Claim)| {
            let again = Outcome::Again {
                due: Millis(NOW.0 + 1_000),
                queue: Queue::Retry,
                class: Class::Activity,
                reason: Some(Reason::new("busy", "503")),
            };
            let outcome = match (place + round) % 4 {
                0 | 1 => delivered(),
                2 => Outcome::Ended { state: State::Dead, reason: Some(Reason::new("bad", "422")) },
                _ => again,
            };
            let progress = vec![Progress { verdict: Some(Verdict::Done), ..Progress::default() }];
            Settlement { attempt: Some(0), ..settlement(claim.delivery, outcome, progress) }
        };
        let settlements: Vec<Settlement> = claims.iter().enumerate().map(settle).collect();
        let (request, answer) = (Some(b"{}".to_vec()), Some("no \0 way".to_owned()));
        let attempts = vec![Attempt { at: NOW, took_ms: 1, items: 3, status: 422, request, answer }];
        let write = Write::Settle { say: vec![], destination: crm, fence, settlements, attempts, at: NOW };
        hub.store.write(write).await.unwrap();
    }
    let rows = hub.all().await;
    let dead = rows.iter().find(|row| row.state == State::Dead).unwrap();
    let note = "given up".to_owned();
    hub.store.write(Write::Discard { unserved: None, delivery: dead.id, note, at: NOW }).await.unwrap();
}

async fn records(hub: &Harness, own: DestinationId) {
    let paused = Some(Reason::new("operator", "by hand"));
    hub.store
        .write(Write::Stand { fence: None, say: None, destination: own, paused, at: NOW })
        .await
        .unwrap();
    let refused = RefusedRequest {
        tenant: Name::default_tenant(),
        source: Name::new("mailtarget"),
        at: NOW,
        check: "signature".to_owned(),
        text: "no signature".to_owned(),
        hint: Some("send one".to_owned()),
        headers: vec![("a".to_owned(), "b".to_owned())],
        body: bytes::Bytes::from_static(b"{}"),
    };
    hub.store.write(Write::Refused(Box::new(refused))).await.unwrap();
    let key = NewKey {
        tenant: Name::default_tenant(),
        hash: [3; 32],
        shown: "mk_abc".to_owned(),
        scopes: vec!["events:write".to_owned()],
        note: "of the app".to_owned(),
        created_at: NOW,
        expires_at: None,
    };
    hub.store.write(Write::Key(key)).await.unwrap();
}

/// What can be read of it, as text: the same before and after.
pub async fn shown(hub: &Harness) -> Vec<String> {
    let store = &hub.store;
    let mut shown = vec![format!("{:?}", hub.audit_adds_up().await)];
    for row in hub.all().await {
        shown.push(format!("{row:?} {:?}", store.progress(row.id).await.unwrap()));
        shown.push(format!("{:?}", store.attempts(row.id).await.unwrap()));
    }
    let events = store.events(EventFilter { limit: 1_000, ..Default::default() }).await.unwrap();
    for row in &events {
        let request = store.request_of(row.event.id).await.unwrap();
        shown.push(format!("{:?} {} {} {}", row.event, row.place, row.deliveries, row.several_recipients));
        shown
            .push(format!("{:?}", request.map(|request| (request.body, request.credential, request.digest))));
    }
    for n in 0..9 {
        let person = store.person(&Name::default_tenant(), &Subject::read(&who(n))).await.unwrap();
        shown.push(format!("{person:?}"));
    }
    let facts = store.facts(FactFilter { limit: 1_000, ..Default::default() }).await.unwrap();
    assert!(facts.iter().any(|fact| !fact.answers.is_empty()), "no destination answered a fact");
    shown.push(format!("{facts:?}"));
    for row in store.unreadable(10, None).await.unwrap() {
        shown.push(format!("{} {} {:?}", row.raw, row.part, row.reason));
    }
    for row in store.refused(None, 10).await.unwrap() {
        shown.push(format!("{row:?}"));
    }
    shown.push(format!("{:?}", store.keys().await.unwrap()));
    shown.push(format!("{:?}", store.key_by_hash([3; 32]).await.unwrap().unwrap()));
    shown.push(format!("{:?}", store.destinations(None).await.unwrap()));
    shown.into_iter().map(|text| text.replace("\\0", "\u{fffd}")).collect()
}

/// Goes on with it as a hub does: what was seen is a duplicate, what waits is delivered, all adds up.
pub async fn goes_on(hub: &Harness) {
    let before = hub.audit_adds_up().await;
    assert_filled(&before);
    let all = || (1..=LAST).map(|n| if n <= OLD { event(n, "email.opened", &who(n)) } else { newer(n) });
    let answer = hub.accept(all().collect()).await;
    assert_eq!((answer.duplicates, answer.ids.len()), (LAST, 0), "what was seen before is a duplicate");
    match hub.store.write(Write::Accept(Box::new(asked()))).await.unwrap() {
        Wrote::Accepted { accepted, again: true } => assert_eq!(accepted.ids, [EventId(500)]),
        other => panic!("the first answer does not come again: {other:?}"),
    }
    // Numbers go on: no row of another event is met.
    let fresh = (1_000..1_000 + 2 * SEGMENT_KEYS as u64).map(|n| event(n, "contact.unsubscribed", &who(n)));
    for one in fresh {
        let got = accepted(hub.store.write(Write::Accept(Box::new(whole(vec![one])))).await);
        assert_eq!(got.ids.len(), 1);
    }
    let own = hub.destination("own").await;
    let crm = hub.destination("crm").await;
    hub.store
        .write(Write::Stand { fence: None, say: None, destination: own, paused: None, at: NOW })
        .await
        .unwrap();
    hub.route_all(crm).await;
    for destination in [crm, own] {
        loop {
            let claims = hub.claim(destination).await;
            if claims.is_empty() {
                break;
            }
            let done = claims.iter().map(|claim| settlement(claim.delivery, delivered(), vec![])).collect();
            hub.settle(destination, done).await.unwrap();
        }
    }
    let after = hub.audit_adds_up().await;
    assert_eq!((after.pending, after.waiting), (0, 0), "{after:?}");
    assert_eq!(after.dead, before.dead);
    assert!(after.delivered > before.delivered + before.pending);
    let key = match hub
        .store
        .write(Write::Stand { fence: None, say: None, destination: own, paused: None, at: NOW })
        .await
    {
        Ok(_) => {
            hub.store.name(&Name::default_tenant(), mailspan_store::NameKind::Source, &Name::new("new")).await
        }
        Err(trouble) => panic!("{trouble}"),
    };
    assert!(key.unwrap() > own.0, "a number was given twice");
}

/// Nothing that [`fill`] writes is missing.
fn assert_filled(audit: &Audit) {
    let found = [
        ("waiting", audit.waiting),
        ("unmatched", audit.unmatched),
        ("test", audit.test),
        ("duplicates", audit.duplicates),
        ("quarantined", audit.quarantined),
        ("refused", audit.refused),
        ("pending", audit.pending),
        ("delivered", audit.delivered),
        ("dead", audit.dead),
        ("discarded", audit.discarded),
    ];
    for (what, count) in found {
        assert!(count > 0, "nothing is {what}: {audit:?}");
    }
    assert_eq!((audit.dropped_events, audit.dropped_deliveries), (OLD, OLD), "{audit:?}");
}

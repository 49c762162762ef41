//! Retention.

use mailspan_core::{EventId, Millis, RawRequest, State};
use mailspan_store::{Keep, Write, Wrote, pack_request};

use crate::harness::{Harness, NOW, SEGMENT_KEYS, ended, event, receipt};

const DAY: i64 = 86_400_000;

async fn retain(hub: &Harness, now: i64) -> usize {
    let keep =
        Keep { now: Millis(NOW.0 + now), requests_ms: 30 * DAY, events_ms: 90 * DAY, dedupe_ms: 30 * DAY };
    let mut total = 0;
    loop {
        match hub.store.write(Write::Retain(keep)).await.unwrap() {
            Wrote::Retained { rows: 0 } => return total,
            Wrote::Retained { rows } => total += rows,
            other => panic!("{other:?}"),
        }
        hub.audit_adds_up().await;
    }
}

fn request() -> RawRequest {
    RawRequest {
        method: "POST".to_owned(),
        url: String::new(),
        path: "/in/mailtarget".to_owned(),
        query: String::new(),
        headers: vec![],
        body: bytes::Bytes::from_static(b"{}"),
        received_at: NOW,
    }
}

async fn fill(hub: &Harness, events: u64) {
    let crm = hub.destination("crm").await;
    for n in 0..events {
        let mut one = receipt(vec![event(n, "email.opened", &format!("a{}@b.co", n % 7))]);
        one.packed = Some(pack_request(&request(), &[]));
        hub.store.write(Write::Accept(Box::new(one))).await.unwrap();
    }
    hub.route_all(crm).await;
    loop {
        let claims = hub.claim(crm).await;
        if claims.is_empty() {
            break;
        }
        let done = claims.iter().map(|claim| ended(claim.delivery, State::Delivered)).collect();
        hub.settle(crm, done).await.unwrap();
    }
}

pub async fn retention_keeps_the_audit_adding_up(hub: Harness) {
    fill(&hub, 120).await;
    assert_eq!(retain(&hub, DAY).await, 0);
    assert!(hub.store.request_of(EventId(1)).await.unwrap().is_some());
    retain(&hub, 31 * DAY).await;
    assert!(hub.store.request_of(EventId(1)).await.unwrap().is_none());
    assert!(hub.store.event(EventId(1)).await.unwrap().is_some());
    retain(&hub, 91 * DAY).await;
    assert!(hub.store.event(EventId(1)).await.unwrap().is_none());
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.accepted, audit.dropped_events, audit.routed), (120, 120, 0));
    assert_eq!((audit.deliveries, audit.dropped_deliveries, audit.delivered), (120, 120, 0));
    let hub = hub.reopened().await;
    assert_eq!(hub.audit_adds_up().await.dropped_events, 120);
}

/// The raw request that a fact of consent came with is its proof; others go at their time. An erasure reaches it still.
pub async fn what_proves_a_fact_stays(hub: Harness) {
    hub.destination("crm").await;
    for (n, event_type) in
        [(1, "email.opened"), (2, "contact.unsubscribed"), (3, "email.opened"), (4, "contact.subscribed")]
    {
        let mut one = receipt(vec![event(n, event_type, "a@b.co")]);
        one.packed = Some(pack_request(&request(), &[]));
        let arrived = &mut one.arrivals[0];
        arrived.contact = mailspan_core::contact::read_event(&arrived.event, format!("c{n:024}"), true)
            .filter(|_| n == 4)
            .map(Box::new);
        hub.store.write(Write::Accept(Box::new(one))).await.unwrap();
    }
    retain(&hub, 31 * DAY).await;
    for (n, stays) in [(1, false), (2, true), (3, false), (4, true)] {
        let found = hub.store.request_of(EventId(n)).await.unwrap();
        assert_eq!(found.as_ref().is_some(), stays, "request of event {n}");
        assert!(!found.is_some_and(|row| row.redacted), "nothing was taken out of {n}");
    }
}

/// Proofs are kept for good, and are many: a round does not read those again that an earlier one passed.
pub async fn what_stays_for_good_is_read_once(hub: Harness) {
    let mut proof = receipt(vec![event(1, "contact.unsubscribed", "a@b.co")]);
    proof.packed = Some(pack_request(&request(), &[]));
    hub.store.write(Write::Accept(Box::new(proof))).await.unwrap();
    // More than one step looks at.
    let copies = hub
        .past(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5100)
             INSERT INTO requests (id, tenant, source, credential, received_at, digest, redacted, packed)
             SELECT 1000 + n.i, r.tenant, r.source, r.credential, r.received_at, r.digest, r.redacted, r.packed
             FROM requests r CROSS JOIN n WHERE r.id = 1",
        )
        .await;
    assert_eq!(copies, 5_100);
    let looks = retain(&hub, 31 * DAY).await;
    assert!(looks > 0, "a step that only looks counts as one");
    assert_eq!(retain(&hub, 31 * DAY).await, 0, "the proofs were read again");
    // What comes later, under a higher number, goes at its time.
    let later = format!(
        "INSERT INTO requests (id, tenant, source, credential, received_at, digest, redacted, packed)
         SELECT 9000, tenant, source, credential, {}, digest, 0, packed FROM requests WHERE id = 1",
        NOW.0 + DAY
    );
    assert_eq!(hub.past(&later).await, 1);
    let is_there = async || hub.past("UPDATE requests SET redacted = 0 WHERE id = 9000").await == 1;
    assert_eq!((retain(&hub, 31 * DAY).await, is_there().await), (0, true));
    retain(&hub, 32 * DAY).await;
    assert!(!is_there().await, "it is passed over");
    assert!(hub.store.request_of(EventId(1)).await.unwrap().is_some());
}

pub async fn what_needs_a_human_stays(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept((0..4).map(|n| event(n, "app.x", &format!("a{n}@b.co"))).collect()).await;
    hub.route_all(crm).await;
    let rows = hub.all().await;
    hub.settle(crm, vec![ended(rows[0].id, State::Dead), ended(rows[1].id, State::Delivered)]).await.unwrap();
    hub.accept(vec![event(9, "app.x", "z@b.co")]).await;
    retain(&hub, 500 * DAY).await;
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.dead, audit.pending, audit.waiting, audit.dropped_events), (1, 2, 1, 1));
    hub.store
        .write(Write::Discard { unserved: None, delivery: rows[0].id, note: String::new(), at: NOW })
        .await
        .unwrap();
    retain(&hub, 500 * DAY).await;
    assert_eq!(hub.audit_adds_up().await.dropped_events, 2);
}

pub async fn numbers_are_never_given_twice(hub: Harness) {
    fill(&hub, 3).await;
    retain(&hub, 500 * DAY).await;
    let hub = hub.reopened().await;
    hub.accept(vec![event(50, "app.x", "a@b.co")]).await;
    let seq = hub.store.unrouted(1).await.unwrap()[0].seq.unwrap().0;
    assert_eq!(seq, 4, "1 to 3 were given before");
    let crm = hub.destination("crm").await;
    hub.route_all(crm).await;
    assert_eq!(hub.all().await[0].id.0, 4);
}

pub async fn dedupe_keys_go_after_their_time(hub: Harness) {
    fill(&hub, 3 * SEGMENT_KEYS as u64).await;
    let all = || (0..3 * SEGMENT_KEYS as u64).map(|n| event(n, "app.x", "a@b.co")).collect::<Vec<_>>();
    assert_eq!(hub.accept(all()).await.ids.len(), 0);
    retain(&hub, 31 * DAY).await;
    let mut late = receipt(all());
    late.received_at = Millis(NOW.0 + 31 * DAY);
    for (n, arrived) in late.arrivals.iter_mut().enumerate() {
        arrived.event.id = EventId(10_000 + n as u128);
    }
    let answer = crate::harness::accepted(hub.store.write(Write::Accept(Box::new(late))).await);
    // The open one is closed at the first step and goes with the next round, thirty days later.
    assert_eq!(answer.ids.len() as u64 + answer.duplicates, 3 * SEGMENT_KEYS as u64);
    assert!(
        answer.ids.len() as i64 >= 2 * SEGMENT_KEYS,
        "{} of the old keys were forgotten",
        answer.ids.len()
    );
    hub.audit_adds_up().await;
}

/// More of what must stay than one step looks at: the round still comes to what lies behind it, and ends.
pub async fn what_stays_hides_nothing_behind_it(hub: Harness) {
    let crm = hub.destination("crm").await;
    for page in 0..2 {
        let arrivals = (0..3_000).map(|n| event(page * 3_000 + n, "app.x", &format!("a{page}-{n}@b.co")));
        hub.accept(arrivals.collect()).await;
    }
    hub.route_all(crm).await;
    hub.accept(vec![event(9_000, "app.x", "z@b.co")]).await;
    let router = hub.lease("router").await;
    let unmatched =
        crate::harness::routed(hub.store.unrouted(1).await.unwrap().remove(0), hub.route_id("r").await, None);
    hub.store.write(Write::Route { fence: router, routed: vec![unmatched] }).await.unwrap();
    assert!(retain(&hub, 500 * DAY).await > 0);
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.pending, audit.dropped_events, audit.unmatched), (6_000, 1, 0));
}

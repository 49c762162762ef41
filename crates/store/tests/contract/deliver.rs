//! Router, lanes, settlements, replays, leases.

use mailspan_core::{
    Attempt, Cause, Class, DeliveryId, Elsewhere, EventId, Millis, Name, Offer, Outcome, Progress, Queue,
    RawValue, Reason, Room, Settlement, State, Step, Subject, Verdict,
};
use mailspan_engine::Fence;
use mailspan_store::{Claim, DeliveryFilter, FactFilter, Trouble, Walk, Write, Wrote};

use crate::harness::{Harness, NOW, ended, event, routed, settlement};
use crate::jobs;
use crate::nodes::take;

pub async fn an_event_goes_through_its_places(hub: Harness) {
    let crm = hub.destination("crm").await;
    let route = hub.route_id("r").await;
    let mut test = event(3, "email.opened", "t@b.co");
    test.event.test = true;
    hub.accept(vec![event(1, "email.opened", "a@b.co"), event(2, "email.opened", "a@b.co"), test]).await;
    let fence = hub.lease("router").await;
    let mut events = hub.store.unrouted(10).await.unwrap();
    let seqs: Vec<_> = events.iter().map(|event| event.seq.unwrap().0).collect();
    assert_eq!(seqs, [1, 2, 3]);
    let to = [Some(crm), None, Some(crm)];
    let batch = events.drain(..).zip(to).map(|(event, to)| routed(event, route, to)).collect();
    let wrote = hub.store.write(Write::Route { fence, routed: batch }).await.unwrap();
    assert!(matches!(wrote, Wrote::Offered { destinations } if destinations == [crm]));

    for (id, place, deliveries) in [(1, "routed", 1), (2, "unmatched", 0), (3, "test", 0)] {
        let row = hub.store.event(EventId(id)).await.unwrap().unwrap();
        assert_eq!((row.place, row.deliveries), (place, deliveries), "event {id}");
    }
    let person = hub.store.person(&Name::default_tenant(), &Subject::read("a@b.co")).await.unwrap().unwrap();
    assert_eq!((person.opens, person.clicks), (2, 0));
    let claims = hub.claim(crm).await;
    assert_eq!((claims.len(), claims[0].event.id, claims[0].class), (1, EventId(1), Class::Activity));
    assert_eq!(claims[0].person.as_ref(), Some(&person));
    assert_eq!(hub.store.work().await.unwrap(), [crm]);
    hub.settle(crm, vec![ended(claims[0].delivery, State::Delivered)]).await.unwrap();
    assert_eq!(hub.store.work().await.unwrap(), []);
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.routed, audit.unmatched, audit.test, audit.delivered), (1, 1, 1, 1));

    // A backfill finds the unmatched one, and never makes a second row.
    let class = Class::Activity;
    let offers: Vec<_> = [1, 2, 3]
        .map(|n| Offer {
            event: mailspan_core::Seq(n),
            route,
            destination: crm,
            class,
            cause: Cause::Backfill,
            ordered: true,
        })
        .into();
    for _ in 0..2 {
        hub.store.write(Write::Offer { offers: offers.clone(), again: false, at: NOW }).await.unwrap();
        let audit = hub.audit_adds_up().await;
        assert_eq!((audit.routed, audit.unmatched, audit.test, audit.pending), (2, 0, 1, 1));
    }
}

pub async fn a_route_under_an_old_fence_or_twice_is_refused_whole(hub: Harness) {
    let crm = hub.destination("crm").await;
    let route = hub.route_id("r").await;
    hub.accept(vec![event(1, "app.x", "a@b.co"), event(2, "app.x", "a@b.co")]).await;
    let fence = hub.lease("router").await;
    let events = hub.store.unrouted(10).await.unwrap();
    let batch = |fence| {
        let routed = events.iter().map(|event| routed(event.clone(), route, Some(crm))).collect();
        Write::Route { fence, routed }
    };
    assert_eq!(hub.store.write(batch(Fence(fence.0 + 1))).await.unwrap_err(), Trouble::FenceLost);
    assert_eq!(hub.store.unrouted(10).await.unwrap().len(), 2);
    hub.store.write(batch(fence)).await.unwrap();
    assert_eq!(hub.store.write(batch(fence)).await.unwrap_err(), Trouble::FenceLost);
    assert_eq!(hub.all().await.len(), 2);
    hub.audit_adds_up().await;
}

pub async fn a_settle_under_an_old_fence_is_refused_whole(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    hub.route_all(crm).await;
    let delivery = hub.claim(crm).await[0].delivery;
    let lease =
        |owner, now| Write::Lease { name: format!("destination/{}", crm.0), owner, now, until: Millis(100) };
    hub.store.write(lease(1, Millis(0))).await.unwrap();
    hub.store.write(lease(2, Millis(100))).await.unwrap();
    let settle = |fence| {
        let attempts =
            vec![Attempt { at: NOW, took_ms: 1, items: 1, status: 200, request: None, answer: None }];
        let settlements = vec![ended(delivery, State::Delivered)];
        Write::Settle { destination: crm, fence: Fence(fence), settlements, attempts, at: NOW }
    };
    assert_eq!(hub.store.write(settle(1)).await.unwrap_err(), Trouble::FenceLost);
    assert_eq!(hub.all().await[0].state, State::Pending);
    hub.store.write(settle(2)).await.unwrap();
    assert_eq!(hub.all().await[0].state, State::Delivered);
    // Settled before: left as it is.
    hub.store.write(settle(2)).await.unwrap();
    hub.audit_adds_up().await;
}

pub async fn a_lane_has_one_head_and_lanes_run_beside_each_other(hub: Harness) {
    let crm = hub.destination("crm").await;
    let arrivals = vec![
        event(1, "email.opened", "a@b.co"),
        event(2, "email.opened", "a@b.co"),
        event(3, "email.bounced", "a@b.co"),
        event(4, "email.opened", "c@b.co"),
        event(5, "app.x", ""),
        event(6, "app.x", ""),
    ];
    hub.accept(arrivals).await;
    hub.route_all(crm).await;
    let ids = |claims: Vec<mailspan_store::Claim>| {
        let mut ids: Vec<_> = claims.iter().map(|claim| claim.event.id.0).collect();
        ids.sort();
        ids
    };
    assert_eq!(
        ids(hub.claim(crm).await),
        [1, 3, 4, 5, 6],
        "2 waits behind 1; nobody's events wait for nothing"
    );
    let first = hub.all().await[0].id;
    let wrote = hub.settle(crm, vec![ended(first, State::Dead)]).await.unwrap();
    assert!(matches!(wrote, Wrote::Settled { promoted: true, .. }), "a dead one steps aside");
    assert_eq!(ids(hub.claim(crm).await), [2, 3, 4, 5, 6]);
    let filter = DeliveryFilter { state: Some(State::Dead), ..Default::default() };
    assert_eq!(hub.store.deliveries(filter).await.unwrap().len(), 1);
    let filter = DeliveryFilter { subject: Some("a@b.co".to_owned()), limit: 2, ..Default::default() };
    let newest = hub.store.deliveries(filter).await.unwrap();
    assert_eq!(newest.iter().map(|row| row.event_id.0).collect::<Vec<_>>(), [3, 2]);
    let filter =
        DeliveryFilter { event: Some(EventId(4)), destination: Some(Name::new("crm")), ..Default::default() };
    assert_eq!(hub.store.deliveries(filter).await.unwrap().len(), 1);
}

pub async fn a_class_that_is_lowered_frees_the_consent_lane(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![
        event(1, "email.opened", "a@b.co"),
        event(2, "email.complained", "a@b.co"),
        event(3, "contact.subscribed", "a@b.co"),
    ])
    .await;
    hub.route_all(crm).await;
    let rows = hub.all().await;
    let lowered =
        Outcome::Again { due: Millis(NOW.0 + 50), queue: Queue::Retry, class: Class::Activity, reason: None };
    let progress = vec![
        Progress { verdict: Some(Verdict::Done), ..Progress::default() },
        Progress { step: Some(Step("task:1".to_owned())), ..Progress::default() },
    ];
    let wrote = hub.settle(crm, vec![settlement(rows[1].id, lowered, progress.clone())]).await.unwrap();
    assert!(matches!(wrote, Wrote::Settled { promoted: true, .. }));
    let rows = hub.all().await;
    assert_eq!(rows.iter().map(|row| row.due.is_some()).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(hub.store.progress(rows[1].id).await.unwrap(), progress);
    hub.settle(crm, vec![ended(rows[0].id, State::Delivered)]).await.unwrap();
    assert!(hub.all().await[1].due.is_some(), "it goes next in the lower lane");
    let claims = hub.claim(crm).await;
    let claim = claims.iter().find(|claim| claim.delivery == rows[1].id).unwrap();
    assert_eq!((claim.progress.as_slice(), claim.class, claim.attempts), (&progress[..], Class::Activity, 1));

    // What remained could not be done: the consent was answered all the same.
    hub.settle(crm, vec![ended(rows[1].id, State::Dead)]).await.unwrap();
    let opt_in = Outcome::Ended {
        state: State::Skipped,
        reason: Some(Reason::new("superseded", "older than the opt-out")),
    };
    hub.settle(crm, vec![settlement(rows[2].id, opt_in, vec![])]).await.unwrap();
    let facts = hub.store.facts(FactFilter::default()).await.unwrap();
    assert_eq!((facts[0].answers[0].0.as_str(), facts[0].answers[0].1.as_str()), ("crm", "delivered"));
    assert_eq!(facts[1].answers[0].1, "skipped: older than the opt-out");
    hub.audit_adds_up().await;
}

pub async fn a_replay_keeps_what_is_done(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "email.opened", "a@b.co"), event(2, "email.opened", "a@b.co")]).await;
    hub.route_all(crm).await;
    let rows = hub.all().await;
    let done = Progress { verdict: Some(Verdict::Done), ..Progress::default() };
    let refused = Progress { verdict: Some(Verdict::reject("bad", "no")), ..Progress::default() };
    let dead = Outcome::Ended { state: State::Dead, reason: Some(Reason::new("bad", "no")) };
    hub.settle(crm, vec![settlement(rows[0].id, dead.clone(), vec![done.clone(), refused.clone()])])
        .await
        .unwrap();
    assert_eq!(hub.store.progress(rows[0].id).await.unwrap(), [done.clone(), refused.clone()]);

    let offer = hub.store.offer_of(rows[0].id).await.unwrap().unwrap();
    let replay = |again| Write::Offer { offers: vec![offer.clone()], again, at: Millis(NOW.0 + 9) };
    let wrote = hub.store.write(replay(false)).await.unwrap();
    assert!(matches!(wrote, Wrote::Offered { destinations } if destinations.is_empty()), "2 is the head now");
    let row = hub.all().await.remove(0);
    assert_eq!((row.state, row.cause, row.attempts, row.due), (State::Pending, Cause::Replay, 0, None));
    assert_eq!(row.reason, None);
    let open = Progress { verdict: None, ..Progress::default() };
    assert_eq!(hub.store.progress(row.id).await.unwrap(), [done.clone(), open]);

    // It goes next, before what came later; a second replay leaves the pending row as it is.
    hub.store.write(replay(true)).await.unwrap();
    assert_eq!(hub.store.progress(row.id).await.unwrap().len(), 2);
    hub.settle(crm, vec![ended(rows[1].id, State::Delivered)]).await.unwrap();
    assert!(hub.all().await[0].due.is_some());
    hub.settle(crm, vec![ended(rows[0].id, State::Delivered)]).await.unwrap();

    // Nothing is left to do in what was delivered, unless it is to be done again.
    hub.store.write(replay(false)).await.unwrap();
    assert_eq!(hub.all().await[0].state, State::Delivered);
    hub.store.write(replay(true)).await.unwrap();
    assert_eq!(hub.all().await[0].state, State::Pending);
    hub.audit_adds_up().await;
}

pub async fn only_a_dead_letter_is_discarded(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    hub.route_all(crm).await;
    let id = hub.all().await[0].id;
    let discard = |delivery| Write::Discard { delivery, note: "typo".to_owned(), at: NOW };
    for (delivery, code) in [(id, "not_dead"), (DeliveryId(99), "not_found")] {
        match hub.store.write(discard(delivery)).await {
            Err(Trouble::Refused(reason)) => assert_eq!(reason.code, code),
            other => panic!("{other:?}"),
        }
    }
    hub.settle(crm, vec![ended(id, State::Dead)]).await.unwrap();
    hub.store.write(discard(id)).await.unwrap();
    let row = hub.store.delivery(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason.unwrap().text.as_str()), (State::Discarded, "typo"));
    assert_eq!(hub.audit_adds_up().await.discarded, 1);
}

pub async fn attempts_are_found_from_their_delivery(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "app.x", "a@b.co"), event(2, "app.x", "c@b.co")]).await;
    hub.route_all(crm).await;
    let rows = hub.all().await;
    let fence = hub.lease(&format!("destination/{}", crm.0)).await;
    let attempt = |status, request: Option<&str>| Attempt {
        at: NOW,
        took_ms: 3,
        items: 2,
        status,
        request: request.map(|text| text.as_bytes().to_vec()),
        answer: (status != 200).then(|| "busy".to_owned()),
    };
    let settle = |settlements, attempt| Write::Settle {
        destination: crm,
        fence,
        settlements,
        attempts: vec![attempt],
        at: NOW,
    };
    let busy = Some(Reason::new("busy", "503"));
    let again =
        Outcome::Again { due: NOW, queue: Queue::Retry, class: Class::Activity, reason: busy.clone() };
    let tried = |row: usize, outcome, attempts| Settlement {
        attempt: Some(0),
        attempts,
        ..settlement(rows[row].id, outcome, vec![])
    };
    let done = || Outcome::Ended { state: State::Delivered, reason: None };
    let both = vec![tried(0, again, 1), tried(1, done(), 1)];
    hub.store.write(settle(both, attempt(503, Some("POST /notes")))).await.unwrap();
    hub.store.write(settle(vec![tried(0, Outcome::Progressed, 2)], attempt(202, None))).await.unwrap();
    let row = hub.store.delivery(rows[0].id).await.unwrap().unwrap();
    assert_eq!((row.state, row.due, row.attempts, row.reason), (State::Pending, Some(NOW), 2, busy));
    hub.store.write(settle(vec![tried(0, done(), 3)], attempt(200, None))).await.unwrap();
    let statuses =
        |rows: Vec<mailspan_store::AttemptRow>| rows.iter().map(|row| row.status).collect::<Vec<_>>();
    let first = hub.store.attempts(rows[0].id).await.unwrap();
    assert_eq!(first[0].request.as_deref(), Some(&b"POST /notes"[..]));
    assert_eq!(first[0].answer.as_deref(), Some("busy"));
    assert_eq!(statuses(first), [503, 202, 200]);
    assert_eq!(statuses(hub.store.attempts(rows[1].id).await.unwrap()), [503]);
    assert_eq!(hub.store.delivery(rows[0].id).await.unwrap().unwrap().attempts, 3);
}

pub async fn a_claim_says_when_to_come_again(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept((0..5).map(|n| event(n, "app.x", &format!("a{n}@b.co"))).collect()).await;
    hub.route_all(crm).await;
    let room = |activity| [0, 0, activity, 0, 0, 0];
    let (claims, next) = hub.store.claim(crm, room(3), NOW).await.unwrap();
    assert_eq!((claims.len(), next), (3, Some(NOW)), "two more are due now");
    assert_eq!(hub.store.claim(crm, room(0), NOW).await.unwrap().1, Some(NOW));
    let (claims, next) = hub.store.claim(crm, room(9), NOW).await.unwrap();
    assert_eq!((claims.len(), next), (5, None));
    let later =
        Outcome::Again { due: Millis(NOW.0 + 70), queue: Queue::Retry, class: Class::Activity, reason: None };
    hub.settle(crm, vec![settlement(claims[0].delivery, later, vec![])]).await.unwrap();
    let (claims, next) = hub.store.claim(crm, [9; 6], NOW).await.unwrap();
    assert_eq!((claims.len(), next), (4, Some(Millis(NOW.0 + 70))));
    let (claims, next) = hub.store.claim(crm, [9; 6], Millis(NOW.0 + 70)).await.unwrap();
    assert_eq!((claims.len(), next), (5, None));
}

pub async fn the_newest_of_a_queue_come_beside_the_oldest(hub: Harness) {
    let crm = hub.destination("crm").await;
    // Each a millisecond later than the one before; the last two of persons who have one before.
    let at = |n: u64, who: u64| {
        let mut arrived = event(n, "app.x", &format!("a{who}@b.co"));
        arrived.event.received_at = Millis(NOW.0 - 100 + n as i64);
        arrived
    };
    hub.accept((1..=9).map(|n| at(n, n)).chain([at(10, 1), at(11, 9)]).collect()).await;
    hub.route_all(crm).await;
    let rows = hub.all().await;
    let claim = async |oldest, newest, held: &[usize]| {
        let room = Room { oldest: [0, 0, oldest, 0, 0, 0], newest: [0, 0, newest, 0, 0, 0] };
        let mut held: Vec<_> = held.iter().map(|n| rows[n - 1].id).collect();
        held.sort();
        let claimed = hub.store.claim_beside(crm, room, NOW, held).await.unwrap();
        let number = |claim: &Claim| rows.iter().position(|row| row.id == claim.delivery).unwrap() + 1;
        let of = |newest| claimed.claims.iter().filter(|one| one.newest == newest).map(number).collect();
        let (old, new): (Vec<_>, Vec<_>) = (of(false), of(true));
        (old, new, claimed.came[Queue::Activity as usize])
    };
    assert_eq!(claim(3, 2, &[]).await, (vec![1, 2, 3], vec![9, 8], 3));
    assert_eq!(claim(0, 3, &[8, 1]).await, (vec![], vec![9, 7], 0), "what is held takes room");
    assert_eq!(claim(7, 4, &[]).await, (vec![1, 2, 3, 4, 5], vec![9, 8, 7, 6], 7), "each comes once");

    // The next of a lane is due since it came: it has no place before what is older, nor before what is newer.
    let done = |n: usize| ended(rows[n - 1].id, State::Delivered);
    hub.settle(crm, vec![done(1), done(9)]).await.unwrap();
    assert_eq!(claim(2, 3, &[]).await, (vec![2, 3], vec![11, 10, 8], 2));
    // What is due later is at neither end.
    let later = Outcome::Again {
        due: Millis(NOW.0 + 9),
        queue: Queue::Activity,
        class: Class::Activity,
        reason: None,
    };
    hub.settle(crm, vec![settlement(rows[10].id, later, vec![])]).await.unwrap();
    assert_eq!(claim(1, 1, &[]).await, (vec![2], vec![10], 1));
}

pub async fn a_replay_stands_in_the_class_that_the_router_gave(hub: Harness) {
    let crm = hub.destination("crm").await;
    let contact = |n, event_type, data: &str| {
        let mut arrived = event(n, event_type, &format!("a{n}@b.co"));
        arrived.event.data = RawValue::from_string(data.to_owned()).unwrap().into();
        arrived
    };
    hub.accept(vec![
        contact(1, "contact.created", r#"{"opt_in": true}"#),
        contact(2, "contact.created", r#"{"locale": "de"}"#),
        contact(3, "contact.updated", r#"{"contact": {"opt_in": false}, "changed": ["opt_in"]}"#),
        contact(4, "email.opened", r#"{"opt_in": true}"#),
    ])
    .await;
    hub.route_all(crm).await;
    let expected = [Class::Consent, Class::Profile, Class::Consent, Class::Activity];
    let rows = hub.all().await;
    let mut single = vec![];
    for row in &rows {
        single.push(hub.store.offer_of(row.id).await.unwrap().unwrap().class);
    }
    assert_eq!(single, expected);
    let walk = Walk { states: State::ALL.to_vec(), ..jobs::walk(crm) };
    let walked = hub.store.walk(walk).await.unwrap();
    assert_eq!(walked.rows.iter().map(|row| row.offer.class).collect::<Vec<_>>(), expected);
}

pub async fn a_send_to_two_people_is_marked(hub: Harness) {
    let crm = hub.destination("crm").await;
    let sent = |n, subject: &str, transmission: &str| {
        let mut arrived = event(n, "email.opened", subject);
        arrived.event.transmission = Some(transmission.to_owned());
        arrived
    };
    hub.accept(vec![
        sent(1, "a@b.co", "t1"),
        sent(2, "A@b.co", "t1"),
        sent(3, "a@b.co", "t2"),
        sent(4, "c@b.co", "t2"),
    ])
    .await;
    hub.route_all(crm).await;
    for (id, several) in [(1, false), (2, false), (3, true), (4, true)] {
        let row = hub.store.event(EventId(id)).await.unwrap().unwrap();
        assert_eq!(row.several_recipients, several, "event {id}");
    }
    let claims = hub.claim(crm).await;
    assert!(claims.iter().any(|claim| claim.several_recipients && claim.event.id == EventId(4)));
}

pub async fn leases_only_grow(hub: Harness) {
    let lease = |owner, now, until| Write::Lease {
        name: "job/1".to_owned(),
        owner,
        now: Millis(now),
        until: Millis(until),
    };
    let cases = [
        (lease(1, 0, 10), Some(1)),
        (lease(2, 5, 20), None),
        (lease(1, 9, 30), Some(1)),
        (lease(2, 30, 40), Some(2)),
        (lease(1, 35, 50), None),
        (lease(1, 40, 50), Some(3)),
    ];
    for (write, expected) in cases {
        let shown = format!("{write:?}");
        match hub.store.write(write).await.unwrap() {
            Wrote::Lease { fence } => assert_eq!(fence, expected.map(Fence), "{shown}"),
            other => panic!("{other:?}"),
        }
    }
    // After a restart nobody else lives: the lease is free, and still grows.
    let hub = hub.reopened().await;
    match hub.store.write(lease(9, 41, 60)).await.unwrap() {
        Wrote::Lease { fence } => assert_eq!(fence, Some(Fence(4))),
        other => panic!("{other:?}"),
    }
}

pub async fn a_paused_destination_says_so(hub: Harness) {
    let crm = hub.destination("crm").await;
    assert_eq!(hub.destination("crm").await, crm);
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    hub.route_all(crm).await;
    let reason = Reason::new("unauthorized", "token `CRM_TOKEN` was refused");
    hub.store.write(Write::Stand { destination: crm, paused: Some(reason.clone()), at: NOW }).await.unwrap();
    let row = hub.store.standing(crm).await.unwrap().unwrap();
    assert_eq!((row.paused, row.pending, row.dead, row.oldest), (Some(reason), 1, 0, Some(NOW)));
    hub.store.write(Write::Stand { destination: crm, paused: None, at: NOW }).await.unwrap();
    assert_eq!(hub.store.destinations(None).await.unwrap()[0].paused, None);
    assert_eq!(hub.store.destinations(Some(Name::new("nobody"))).await.unwrap().len(), 0);
    let sizes = hub.store.sizes().await.unwrap();
    assert_eq!((sizes.destinations[0].pending, sizes.unrouted), (1, 0));
    assert!(sizes.file_bytes + sizes.wal_bytes > 0);
}

pub async fn what_was_sent_lately_is_counted(hub: Harness) {
    let crm = hub.destination("crm").await;
    let other = hub.destination("other").await;
    assert_eq!(hub.store.sent_since(crm, NOW).await.unwrap(), Some(0));
    let fence = hub.lease(&format!("destination/{}", crm.0)).await;
    let attempt = |at: i64| Attempt {
        at: NOW.plus(at as u64),
        took_ms: 1,
        items: 1,
        status: 200,
        request: None,
        answer: None,
    };
    let attempts = vec![attempt(0), attempt(10), attempt(20)];
    let write = Write::Settle { destination: crm, fence, settlements: vec![], attempts, at: NOW };
    hub.store.write(write).await.unwrap();
    assert_eq!(hub.store.sent_since(crm, NOW.plus(10)).await.unwrap(), Some(2));
    assert_eq!(hub.store.sent_since(other, NOW).await.unwrap(), Some(0));
}

pub async fn what_is_handed_on_is_offered_once_with_its_settlement(hub: Harness) {
    let (crm, chat) = (hub.destination("crm").await, hub.destination("chat").await);
    hub.accept(vec![event(1, "email.complained", "a@b.co"), event(2, "email.complained", "")]).await;
    hub.route_all(crm).await;
    let rows = hub.all().await;
    let elsewhere = Elsewhere { destination: chat, class: Class::Consent };
    let told = |id, outcome| Settlement {
        hand_on: Some(elsewhere),
        ..settlement(
            id,
            outcome,
            vec![Progress { verdict: Some(Verdict::handed_on("nobody is known")), ..Progress::default() }],
        )
    };
    let again = Outcome::Again { due: NOW, queue: Queue::Retry, class: Class::Consent, reason: None };
    let done = || Outcome::Ended { state: State::Delivered, reason: None };
    let wrote = hub.settle(crm, vec![told(rows[0].id, again), told(rows[1].id, done())]).await.unwrap();
    assert!(matches!(wrote, Wrote::Settled { offered, .. } if offered == [chat]));
    // The same again, as after a crash before the engine heard of it, and with its end.
    for _ in 0..2 {
        let wrote = hub.settle(crm, vec![told(rows[0].id, done()), told(rows[1].id, done())]).await.unwrap();
        assert!(matches!(wrote, Wrote::Settled { offered, .. } if offered.is_empty()));
    }
    let told_there = hub.claim(chat).await;
    let mut events: Vec<_> = told_there.iter().map(|claim| claim.event.id.0).collect();
    events.sort();
    assert_eq!(events, [1, 2]);
    assert!(told_there.iter().all(|claim| claim.class == Class::Consent && claim.cause == Cause::Live));
    assert_eq!(hub.store.work().await.unwrap(), [chat]);
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.deliveries, audit.delivered, audit.pending, audit.routed), (4, 2, 2, 2));
    hub.settle(chat, told_there.iter().map(|claim| ended(claim.delivery, State::Delivered)).collect())
        .await
        .unwrap();

    // A replay leaves alone what was told, unless all is wanted again; and then it is told here or there, not twice.
    let offer = Offer {
        ordered: true,
        event: mailspan_core::Seq(1),
        route: hub.route_id("r").await,
        destination: crm,
        class: Class::Consent,
        cause: Cause::Replay,
    };
    for (again, claims) in [(false, 0), (true, 1)] {
        hub.store.write(Write::Offer { offers: vec![offer.clone()], again, at: NOW }).await.unwrap();
        assert_eq!(hub.claim(crm).await.len(), claims, "again: {again}");
    }
    let wrote = hub.settle(crm, vec![told(rows[0].id, done())]).await.unwrap();
    assert!(matches!(wrote, Wrote::Settled { offered, .. } if offered.is_empty()));
    assert_eq!(hub.audit_adds_up().await.delivered, 4);
}

pub async fn leases_are_renewed_together_and_only_by_their_owner(hub: Harness) {
    let take = async |name: &str, owner| {
        let until = Millis(NOW.0 + 1_000);
        let write = Write::Lease { name: name.to_owned(), owner, now: NOW, until };
        match hub.store.write(write).await.unwrap() {
            Wrote::Lease { fence } => fence.map(|fence| fence.0),
            other => panic!("{other:?}"),
        }
    };
    let renew = async |names: &[&str], owner, until| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        match hub.store.write(Write::Renew { names, owner, until: Millis(until) }).await.unwrap() {
            Wrote::Renewed { fences } => fences.into_iter().map(|fence| fence.map(|fence| fence.0)).collect(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((take("a", 1).await, take("b", 1).await, take("c", 2).await), (Some(1), Some(1), Some(1)));
    let far = NOW.0 + 5_000_000;
    let fences: Vec<Option<i64>> = renew(&["c", "b", "never", "a"], 1, far).await;
    assert_eq!(fences, [None, Some(1), None, Some(1)], "in the order of the names");
    let until = async |name: &str| {
        hub.store.leases().await.unwrap().into_iter().find(|row| row.name == name).unwrap().until.0
    };
    assert_eq!((until("a").await, until("b").await, until("c").await), (far, far, NOW.0 + 1_000));
    assert!(hub.store.leases().await.unwrap().iter().all(|row| row.name != "never"), "a renewal makes none");
    // Run out and not taken by another: it goes on under its fence. Beside other writes it is the same.
    let fences: Vec<Option<i64>> = renew(&["a"], 1, NOW.0 - 1).await;
    assert_eq!(fences, [Some(1)]);
    let (fences, made) = tokio::join!(renew(&["a", "b"], 1, far), hub.destination("crm"));
    let fences: Vec<Option<i64>> = fences;
    assert_eq!(fences, [Some(1), Some(1)]);

    hub.accept(vec![event(1, "email.opened", "a@b.co")]).await;
    let before = hub.store.look(vec![made]).await.unwrap();
    hub.route_all(made).await;
    hub.lease(&format!("destination/{}", made.0)).await;
    let reason = Reason::new("operator", "paused by hand");
    hub.store.write(Write::Stand { destination: made, paused: Some(reason.clone()), at: NOW }).await.unwrap();
    let after = hub.store.look(vec![made]).await.unwrap();
    assert_eq!((before.unrouted, after.unrouted), (true, false));
    assert_eq!(after.standings[&made], (Some(reason), 1));
    assert_eq!(after.leases, hub.store.leases().await.unwrap());
    assert_eq!(hub.store.look(vec![]).await.unwrap().standings.len(), 0);
}

pub async fn a_lease_that_is_given_up_is_free(hub: Harness) {
    let give_up = |name: &str, owner| Write::Release { name: name.to_owned(), owner };
    let shown = async || {
        let rows = hub.store.leases().await.unwrap();
        rows.into_iter().map(|row| (row.name, row.owner, row.until.0)).collect::<Vec<_>>()
    };
    for (name, owner) in [("destination/7", 1), ("node/01", 1), ("node/02", 2)] {
        assert!(take(&hub, name, owner, 0, 50).await.is_some());
    }
    let row = |name: &str, owner, until| (name.to_owned(), owner, until);
    let nodes = [row("node/01", 1, 50), row("node/02", 2, 50)];
    let all = [vec![row("destination/7", 1, 50)], nodes.to_vec()].concat();
    assert_eq!(shown().await, all);
    // Of another, and of one that there is not: nothing changes.
    for (name, owner) in [("destination/7", 2), ("node/02", 1), ("destination/8", 1)] {
        hub.store.write(give_up(name, owner)).await.unwrap();
    }
    assert_eq!(shown().await, all);
    hub.store.write(give_up("destination/7", 1)).await.unwrap();
    hub.store.write(give_up("node/01", 1)).await.unwrap();
    assert_eq!(shown().await, [row("destination/7", 1, 0), row("node/02", 2, 50)]);
    assert_eq!(take(&hub, "destination/7", 2, 1, 50).await, Some(Fence(2)), "the fence grows all the same");
}

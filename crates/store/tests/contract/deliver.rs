//! Router, lanes, settlements, replays.

use mailspan_core::{
    Attempt, Cause, Class, DeliveryId, Elsewhere, EventId, Millis, Name, Offer, Outcome, Progress, Queue,
    Reason, Seq, Settlement, State, Step, Subject, Verdict,
};
use mailspan_engine::Fence;
use mailspan_store::{DeliveryFilter, FactFilter, Trouble, Write, Wrote};

use crate::harness::{Harness, NOW, ended, event, routed, settlement};

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
        Write::Settle { say: vec![], destination: crm, fence: Fence(fence), settlements, attempts, at: NOW }
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
    let some: Vec<Seq> = newest.iter().rev().map(|row| Seq(row.event_id.0 as i64)).collect();
    let of_some = async |limit, before| {
        let filter = DeliveryFilter { events: some.clone(), limit, before, ..Default::default() };
        hub.store.deliveries(filter).await.unwrap().iter().map(|row| row.event_id.0).collect::<Vec<_>>()
    };
    assert_eq!(of_some(10, None).await, [3, 2]);
    assert_eq!(of_some(1, None).await, [3]);
    assert_eq!(of_some(10, Some(newest[0].id.0)).await, [2]);
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
    let discard = |delivery| Write::Discard { unserved: None, delivery, note: "typo".to_owned(), at: NOW };
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
        say: vec![],
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

/// The retry of an opt-in may be an hour away: it must not hold up the opt-out behind it.
pub async fn who_waits_behind_a_retry_of_consent_makes_it_due(hub: Harness) {
    let crm = hub.destination("crm").await;
    let in_an_hour =
        |class| Outcome::Again { due: Millis(NOW.0 + 3_600_000), queue: Queue::Retry, class, reason: None };
    for (n, event_type, class) in
        [(1, "contact.unsubscribed", Class::Consent), (3, "email.opened", Class::Activity)]
    {
        hub.accept(vec![event(n, event_type, "a@b.co")]).await;
        hub.route_all(crm).await;
        let head = hub.claim(crm).await.pop().unwrap();
        assert_eq!((head.event.id, head.class), (EventId(n.into()), class));
        hub.settle(crm, vec![settlement(head.delivery, in_an_hour(class), vec![])]).await.unwrap();
        assert_eq!(hub.claim(crm).await.len(), 0, "it is due in an hour");
        hub.accept(vec![event(n + 1, event_type, "a@b.co")]).await;
        let offered = hub.route_all(crm).await;
        if class == Class::Activity {
            assert_eq!((offered.len(), hub.claim(crm).await.len()), (0, 0), "others keep to their calendar");
            continue;
        }
        assert_eq!(offered, [crm]);
        for n in [n, n + 1] {
            let claims = hub.claim(crm).await;
            assert_eq!(claims.iter().map(|claim| claim.event.id).collect::<Vec<_>>(), [EventId(n.into())]);
            hub.settle(crm, vec![ended(claims[0].delivery, State::Delivered)]).await.unwrap();
        }
    }
    hub.audit_adds_up().await;
}

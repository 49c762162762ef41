//! What the hub says of itself is kept with the write that it is about, or not at all.

use mailspan_core::{DeliveryId, Digest, Event, Millis, Name, Outcome, Reason, State};
use mailspan_engine::Fence;
use mailspan_store::{
    Arrived, DeliveryRow, JobRow, JobState, NewJob, Receipt, RoundMark, Say, Towards, Trouble, Write, Wrote,
    round_lease,
};

use crate::harness::{Harness, NOW, accepted, ended, event, receipt, settlement};
use crate::rounds::mark;

const SYSTEM: &str = "system";

fn system(n: u64, event_type: &'static str) -> Box<Event> {
    Box::new(Event { source: Name::new(SYSTEM), ..event(9_000 + n, event_type, "").event })
}

fn dead(n: u64) -> Say<DeliveryRow> {
    Say { event: system(n, "system.dead_letter"), data: |row| Some(format!("{{\"delivery\":{}}}", row.id.0)) }
}

/// What was said and waits to be routed: its type and its data.
async fn said(hub: &Harness) -> Vec<(String, String)> {
    let waiting = hub.store.unrouted(100).await.unwrap().into_iter();
    let own = waiting.filter(|event| event.source.as_str() == SYSTEM);
    own.map(|event| (event.event_type.as_str().to_owned(), event.data.get().to_owned())).collect()
}

fn of_dead(row: &DeliveryRow) -> (String, String) {
    ("system.dead_letter".to_owned(), format!("{{\"delivery\":{}}}", row.id.0))
}

pub async fn a_dead_letter_is_said_with_its_settlement_and_once(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "app.x", "a@b.co"), event(2, "app.x", "c@b.co")]).await;
    hub.route_all(crm).await;
    let rows = hub.all().await;
    let fence = hub.lease(&format!("destination/{}", crm.0)).await;
    let refused = Some(Reason::new("refused", "HTTP 422"));
    let settle = |fence, n: u64, at: u64| {
        let outcome = Outcome::Ended { state: State::Dead, reason: refused.clone() };
        let settlements = vec![settlement(rows[0].id, outcome, vec![]), ended(rows[1].id, State::Delivered)];
        let say = vec![(rows[0].id, dead(n)), (rows[1].id, dead(n + 1)), (DeliveryId(999), dead(n + 2))];
        Write::Settle { destination: crm, fence, settlements, attempts: vec![], at: NOW.plus(at), say }
    };
    assert_eq!(hub.store.write(settle(Fence(fence.0 - 1), 1, 1)).await.unwrap_err(), Trouble::FenceLost);
    assert_eq!(said(&hub).await, [], "an old fence says nothing");
    hub.store.write(settle(fence, 1, 2)).await.unwrap();
    assert_eq!(said(&hub).await, [of_dead(&rows[0])]);
    // The store could not say that it was done: the same is given again.
    hub.store.write(settle(fence, 11, 3)).await.unwrap();
    assert_eq!(said(&hub).await.len(), 1, "it is said once");
    let hub = hub.reopened().await;
    assert_eq!(said(&hub).await.len(), 1);
    assert_eq!(hub.audit_adds_up().await.accepted, 3);
}

pub async fn a_condition_that_fails_is_said_with_its_dead_letter(hub: Harness) {
    let crm = hub.destination("crm").await;
    let (route, other) = (hub.route_id("r").await, hub.route_id("other").await);
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    let fence = hub.lease("router").await;
    let event = hub.store.unrouted(10).await.unwrap().remove(0);
    let class = event.event_type.class();
    let failed = Some(Reason::new("condition", "no such field"));
    let to = vec![
        Towards { route, destination: crm, class, failed: None, say: None, ordered: true },
        Towards { route: other, destination: crm, class, failed, say: Some(dead(1)), ordered: true },
    ];
    let times = mailspan_core::LastTimes::default();
    let routed = vec![mailspan_store::Routed { event, to, opens: 0, clicks: 0, times }];
    hub.store.write(Write::Route { fence, routed }).await.unwrap();
    let rows = hub.all().await;
    let failed: Vec<_> = rows.iter().filter(|row| row.state == State::Dead).collect();
    assert_eq!((failed.len(), rows.len()), (1, 2));
    assert_eq!(said(&hub).await, [of_dead(failed[0])]);
    hub.audit_adds_up().await;
}

pub async fn a_pause_under_an_old_fence_is_refused_and_says_nothing(hub: Harness) {
    let crm = hub.destination("crm").await;
    let lease = |owner, now: i64| Write::Lease {
        name: format!("destination/{}", crm.0),
        owner,
        now: Millis(now),
        until: Millis(now + 10),
    };
    hub.store.write(lease(1, 0)).await.unwrap();
    hub.store.write(lease(2, 20)).await.unwrap();
    let stand = |fence: Option<i64>, paused: bool, n| Write::Stand {
        destination: crm,
        fence: fence.map(Fence),
        paused: paused.then(|| Reason::new("unauthorized", "HTTP 410")),
        at: NOW,
        say: Some(system(n, "system.destination_paused")),
    };
    let paused = async || hub.store.standing(crm).await.unwrap().unwrap().paused.is_some();
    let fences = [1, 2].map(Fence);
    let old = hub.store.write(stand(Some(fences[0].0), true, 1)).await;
    assert_eq!((old.unwrap_err(), paused().await), (Trouble::FenceLost, false), "its time was over");
    assert_eq!(said(&hub).await.len(), 0);
    hub.store.write(stand(Some(fences[1].0), true, 2)).await.unwrap();
    assert_eq!((paused().await, said(&hub).await.len()), (true, 1));
    hub.store.write(stand(Some(fences[1].0), true, 3)).await.unwrap();
    assert_eq!(said(&hub).await.len(), 1, "it is no news");
    hub.store.write(stand(None, false, 4)).await.unwrap();
    assert_eq!((paused().await, said(&hub).await.len()), (false, 2), "an operator needs no lease");
}

pub async fn the_end_of_a_job_is_said_with_it(hub: Harness) {
    let tenant = Name::default_tenant();
    let new = NewJob { tenant, kind: "replay".to_owned(), argument: "{}".to_owned(), at: NOW };
    let Wrote::Key { id } = hub.store.write(Write::Job(new)).await.unwrap() else { panic!("no number") };
    let data = |row: &JobRow| Some(format!("{{\"job\":{},\"state\":\"{}\"}}", row.id, row.state.name()));
    let stand = |state, n| Write::JobStand {
        id,
        state,
        note: String::new(),
        at: NOW,
        say: Some(Say { event: system(n, "system.job_ended"), data }),
    };
    hub.store.write(stand(JobState::Paused, 1)).await.unwrap();
    assert_eq!(said(&hub).await, [], "it has not ended");
    hub.store.write(stand(JobState::Cancelled, 2)).await.unwrap();
    let told = ("system.job_ended".to_owned(), format!("{{\"job\":{id},\"state\":\"cancelled\"}}"));
    assert_eq!(said(&hub).await, [told]);
}

pub async fn what_waits_for_nobody_can_be_given_up(hub: Harness) {
    let (crm, other) = (hub.destination("crm").await, hub.destination("other").await);
    hub.accept((1..4).map(|n| event(n, "app.x", "a@b.co")).collect()).await;
    hub.route_all(crm).await;
    let rows = hub.all().await;
    let discard = |at: usize, unserved| Write::Discard {
        delivery: rows[at].id,
        unserved,
        note: "it is gone for good".to_owned(),
        at: NOW,
    };
    for unserved in [None, Some(other)] {
        let refused = hub.store.write(discard(0, unserved)).await.unwrap_err();
        assert!(matches!(&refused, Trouble::Refused(reason) if reason.code == "not_dead"), "{refused}");
    }
    hub.store.write(discard(1, Some(crm))).await.unwrap();
    hub.store.write(discard(0, Some(crm))).await.unwrap();
    let heads: Vec<_> = hub.claim(crm).await.iter().map(|claim| claim.delivery).collect();
    assert_eq!(heads, [rows[2].id], "the next of the lane is its head");
    let states: Vec<_> = hub.all().await.iter().map(|row| row.state).collect();
    assert_eq!(states, [State::Discarded, State::Discarded, State::Pending]);
    hub.audit_adds_up().await;
}

pub async fn a_breaker_that_opens_is_said_with_what_is_kept_and_once(hub: Harness) {
    let crm = hub.destination("crm").await;
    let lease = |owner, now: i64| Write::Lease {
        name: format!("destination/{}", crm.0),
        owner,
        now: Millis(now),
        until: Millis(now + 10),
    };
    hub.store.write(lease(1, 0)).await.unwrap();
    hub.store.write(lease(2, 20)).await.unwrap();
    let degrade = |fence: i64, degraded: bool, n| {
        let say = Some(system(n, "system.destination_degraded"));
        Write::Degrade { destination: crm, fence: Fence(fence), degraded, at: NOW.plus(n), say }
    };
    let stands = async |hub: &Harness| {
        let row = hub.store.standing(crm).await.unwrap().unwrap();
        (row.degraded, said(hub).await.len())
    };
    assert_eq!(hub.store.write(degrade(1, true, 1)).await.unwrap_err(), Trouble::FenceLost);
    assert_eq!(stands(&hub).await, (None, 0), "an old fence says nothing");
    hub.store.write(degrade(2, false, 2)).await.unwrap();
    assert_eq!(stands(&hub).await, (None, 0), "it was well");
    hub.store.write(degrade(2, true, 3)).await.unwrap();
    hub.store.write(degrade(2, true, 4)).await.unwrap();
    assert_eq!(stands(&hub).await, (Some(NOW.plus(3)), 1), "it is said once");
    let hub = hub.reopened().await;
    assert_eq!(stands(&hub).await, (Some(NOW.plus(3)), 1), "the next owner knows");
    hub.store.write(lease(3, 40)).await.unwrap();
    hub.store.write(degrade(3, false, 5)).await.unwrap();
    assert_eq!(stands(&hub).await, (None, 2));
    assert_eq!(hub.audit_adds_up().await.accepted, 2);
}

pub async fn what_is_said_of_an_event_is_accepted_with_it_and_once(hub: Harness) {
    let one = |n| {
        let dedupe = Some(Digest([7; 16]));
        let arrived = Arrived { dedupe, ..event(n, "email.complained", "a@b.co") };
        let say = vec![(arrived.event.id, system(n, "system.complaint"))];
        Write::Accept(Box::new(Receipt { say, ..receipt(vec![arrived]) }))
    };
    let first = accepted(hub.store.write(one(1)).await);
    assert_eq!(first.ids.len(), 1, "the sender hears of its own events");
    assert_eq!(said(&hub).await.len(), 1);
    let hub = hub.reopened().await;
    assert_eq!(said(&hub).await.len(), 1, "it is as durable as the complaint");
    let again = accepted(hub.store.write(one(2)).await);
    assert_eq!((again.ids.len(), again.duplicates), (0, 1));
    assert_eq!(said(&hub).await.len(), 1, "a copy says nothing");
    assert_eq!(hub.audit_adds_up().await.accepted, 2);
}

pub async fn a_source_that_pauses_says_so_with_its_round_and_once(hub: Harness) {
    let about = hub.source().await;
    let fence = hub.lease(&round_lease(about)).await;
    let pause = |n| RoundMark {
        paused: Some(Reason::new("unauthorized", "HTTP 401")),
        say: Some(system(n, "system.source_paused")),
        ..mark(about, fence, "one")
    };
    let old = RoundMark { fence: Fence(fence.0 - 1), ..pause(1) };
    assert_eq!(hub.store.write(Write::Round(Box::new(old))).await.unwrap_err(), Trouble::FenceLost);
    assert_eq!(said(&hub).await, [], "an old fence says nothing");
    hub.store.write(Write::Round(Box::new(pause(2)))).await.unwrap();
    hub.store.write(Write::Round(Box::new(pause(3)))).await.unwrap();
    assert_eq!(said(&hub).await.len(), 1, "it is said once");
    hub.audit_adds_up().await;
}

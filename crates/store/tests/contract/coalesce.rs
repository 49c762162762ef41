//! What waits behind the head of a lane, what was spent today, and replays without an order.

use mailspan_core::limits::CARRIED_MAX;
use mailspan_core::{Attempt, Cause, Class, DeliveryId, Millis, Offer, Outcome, State};
use mailspan_store::{DeliveryFilter, Write, Wrote};

use crate::harness::{Harness, NOW, ended, event, settlement};

fn waiting(found: &[(DeliveryId, mailspan_store::Claim)]) -> Vec<(i64, i64)> {
    found.iter().map(|(head, claim)| (head.0, claim.delivery.0)).collect()
}

pub async fn what_waits_behind_a_head_is_carried_with_it(hub: Harness) {
    let crm = hub.destination("crm").await;
    let profile = |n, who| event(n, "email.delivered", who);
    let more = vec![event(4, "email.opened", "a@b.co"), profile(5, "c@b.co"), profile(6, "a@b.co")];
    hub.accept((1..=3).map(|n| profile(n, "a@b.co")).chain(more).collect()).await;
    hub.route_all(crm).await;
    let heads: Vec<DeliveryId> = hub.claim(crm).await.iter().map(|claim| claim.delivery).collect();
    let found = hub.store.behind(crm, heads.clone()).await.unwrap();
    assert_eq!(waiting(&found), [(1, 2), (1, 3), (1, 6)], "of the same person and class: {heads:?}");
    assert_eq!(found[2].1.event.id.0, 6);
    assert_eq!(found[0].1.person.as_ref().map(|person| person.opens), Some(1));
    let none = hub.store.behind(hub.destination("other").await, vec![DeliveryId(1)]).await.unwrap();
    assert!(none.is_empty());
    assert!(hub.store.behind(crm, vec![DeliveryId(2)]).await.unwrap().is_empty(), "2 is no head");

    // The newest two stay: what is carried leaves from the middle, and the next of the lane follows.
    let by = |id: i64| Outcome::CarriedBy { delivery: DeliveryId(id) };
    let fence = hub.lease(&format!("destination/{}", crm.0)).await;
    let attempt = Attempt { at: NOW, took_ms: 3, items: 2, status: 200, request: None, answer: None };
    let carried = |id: i64| mailspan_core::Settlement {
        attempt: Some(0),
        ..settlement(DeliveryId(id), if id == 3 { done() } else { by(3) }, vec![])
    };
    let settlements = vec![carried(3), carried(2), carried(1)];
    let attempts = vec![attempt];
    let settle =
        Write::Settle { say: vec![], destination: crm, fence, settlements, attempts, at: Millis(NOW.0 + 5) };
    let wrote = hub.store.write(settle).await.unwrap();
    assert!(matches!(wrote, Wrote::Settled { promoted: true, .. }), "6 is the head now");
    let rows = hub.all().await;
    let shown: Vec<_> = rows.iter().map(|row| (row.state, row.carried_by, row.due.is_some())).collect();
    let coalesced = (State::Coalesced, Some(DeliveryId(3)), false);
    assert_eq!(shown[..3], [coalesced, coalesced, (State::Delivered, None, false)]);
    assert_eq!(shown[5], (State::Pending, None, true));
    for id in 1..=3 {
        assert_eq!(hub.store.attempts(DeliveryId(id)).await.unwrap().len(), 1, "each shows the exchange");
    }
    let filter = DeliveryFilter { state: Some(State::Coalesced), ..DeliveryFilter::default() };
    assert_eq!(hub.store.deliveries(filter).await.unwrap().len(), 2);
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.coalesced, audit.delivered, audit.pending), (2, 1, 3));

    // Given a second time it changes nothing; opened again it names nobody.
    let settlements = vec![carried(3), carried(2), carried(1)];
    let again =
        Write::Settle { say: vec![], destination: crm, fence, settlements, attempts: vec![], at: NOW };
    assert!(matches!(hub.store.write(again).await.unwrap(), Wrote::Settled { promoted: false, .. }));
    assert_eq!(hub.audit_adds_up().await.coalesced, 2);
    let offer = hub.store.offer_of(DeliveryId(1)).await.unwrap().unwrap();
    hub.store.write(Write::Offer { offers: vec![offer], again: false, at: NOW }).await.unwrap();
    let row = hub.store.delivery(DeliveryId(1)).await.unwrap().unwrap();
    assert_eq!((row.state, row.carried_by), (State::Pending, None));
    hub.audit_adds_up().await;
}

fn done() -> Outcome {
    Outcome::Ended { state: State::Delivered, reason: None }
}

pub async fn what_waits_is_read_within_bounds(hub: Harness) {
    let crm = hub.destination("crm").await;
    let events = (1..=100).map(|n| event(n, "email.delivered", ["a@b.co", "c@b.co"][n as usize % 2]));
    hub.accept(events.collect()).await;
    hub.route_all(crm).await;
    let heads: Vec<DeliveryId> = hub.claim(crm).await.iter().map(|claim| claim.delivery).collect();
    assert_eq!(heads.len(), 2);
    let found = hub.store.behind(crm, heads).await.unwrap();
    assert_eq!(found.len(), 2 * CARRIED_MAX);
    let first: Vec<i64> = waiting(&found).iter().filter(|(head, _)| *head == 1).map(|(_, id)| *id).collect();
    assert_eq!(first, (1..=CARRIED_MAX as i64).map(|n| 2 * n + 1).collect::<Vec<_>>());
    // One that ends in the middle leaves no gap behind it.
    hub.settle(crm, vec![ended(DeliveryId(3), State::Dead)]).await.unwrap();
    let found = hub.store.behind(crm, vec![DeliveryId(1)]).await.unwrap();
    assert_eq!((waiting(&found)[0], found.len()), ((1, 5), CARRIED_MAX));
    hub.audit_adds_up().await;
}

pub async fn what_was_spent_today_outlives_the_process(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    hub.route_all(crm).await;
    let fence = hub.lease(&format!("destination/{}", crm.0)).await;
    let hour = 3_600_000;
    let begins = Millis(NOW.0.div_euclid(hour) * hour);
    for (at, times) in [(-1, 7), (0, 2), (1, 1), (hour, 4), (hour + 5, 1)] {
        let at = Millis(begins.0 + at);
        let attempt = Attempt { at, took_ms: 1, items: 1, status: 503, request: None, answer: None };
        let again = Outcome::Again {
            due: NOW,
            queue: mailspan_core::Queue::Retry,
            class: Class::Activity,
            reason: None,
        };
        let settlements = vec![settlement(DeliveryId(1), again, vec![])];
        let attempts = vec![attempt; times];
        let settle = Write::Settle { say: vec![], destination: crm, fence, settlements, attempts, at };
        hub.store.write(settle).await.unwrap();
    }
    let hub = hub.reopened().await;
    for (since, expected) in [(0, 8), (hour, 5), (hour + 800_000, 5), (hour + 900_000, 0)] {
        let since = Millis(begins.0 + since);
        assert_eq!(hub.store.spent_since(crm, since).await.unwrap(), expected, "{since:?}");
    }
    assert_eq!(hub.store.spent_since(hub.destination("other").await, begins).await.unwrap(), 0);
}

pub async fn where_order_does_not_count_a_replay_waits_for_nobody(hub: Harness) {
    let crm = hub.destination("crm").await;
    let route = hub.route_id("r").await;
    hub.accept((1..=3).map(|n| event(n, "app.x", "a@b.co")).collect()).await;
    hub.route_all(crm).await;
    hub.settle(crm, vec![ended(DeliveryId(1), State::Dead)]).await.unwrap();
    let offer = hub.store.offer_of(DeliveryId(1)).await.unwrap().unwrap();
    assert!(offer.ordered);
    let offer = Offer { ordered: false, ..offer };
    let wrote = hub.store.write(Write::Offer { offers: vec![offer], again: false, at: NOW }).await.unwrap();
    assert!(matches!(wrote, Wrote::Offered { destinations } if destinations == [crm]));
    let dues: Vec<bool> = hub.all().await.iter().map(|row| row.due.is_some()).collect();
    assert_eq!(dues, [true, true, false], "opened again beside the head of its lane");
    // What a backfill makes anew, too.
    let other = hub.destination("other").await;
    let class = Class::Activity;
    let offer = |n| Offer {
        event: mailspan_core::Seq(n),
        route,
        destination: other,
        class,
        cause: Cause::Backfill,
        ordered: false,
    };
    let offers = vec![offer(1), offer(2)];
    hub.store.write(Write::Offer { offers, again: false, at: NOW }).await.unwrap();
    let dues: Vec<bool> = hub.all().await.iter().skip(3).map(|row| row.due.is_some()).collect();
    assert_eq!(dues, [true, true]);
    hub.audit_adds_up().await;
}

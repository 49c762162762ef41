//! How far an unsubscribe has come.

use mailspan_core::{
    Class, DestinationId, EventId, Millis, Name, Outcome, Progress, Queue, State, Step, Verdict,
};
use mailspan_store::{DeliveryFilter, Routed, Towards, Write, Wrote};

use crate::harness::{Harness, NOW, ended, event, routed, settlement};

/// Settling takes place five milliseconds after what is accepted.
const AFTER: u64 = 5;

async fn route_to(hub: &Harness, to: &[DestinationId]) {
    let route = hub.route_id("r").await;
    let fence = hub.lease("router").await;
    let events = hub.store.unrouted(100).await.unwrap();
    let all = events.into_iter().map(|event| {
        let class = event.event_type.class();
        let towards = |destination: &DestinationId| Towards {
            route,
            destination: *destination,
            class,
            failed: None,
            ordered: true,
        };
        Routed { to: to.iter().map(towards).collect(), ..routed(event, route, None) }
    });
    let routed = all.collect();
    hub.store.write(Write::Route { fence, routed }).await.unwrap();
}

async fn delivery(hub: &Harness, n: u64, destination: &str) -> mailspan_core::DeliveryId {
    let destination = Some(Name::new(destination));
    let filter =
        DeliveryFilter { event: Some(EventId(u128::from(n))), destination, ..DeliveryFilter::default() };
    hub.store.deliveries(filter).await.unwrap()[0].id
}

async fn end(hub: &Harness, n: u64, (name, id): (&str, DestinationId), state: State) -> Vec<u64> {
    let one = ended(delivery(hub, n, name).await, state);
    known(hub.settle(id, vec![one]).await.unwrap())
}

fn known(wrote: Wrote) -> Vec<u64> {
    match wrote {
        Wrote::Settled { known_after_ms, .. } => known_after_ms,
        other => panic!("{other:?}"),
    }
}

pub async fn an_unsubscribe_is_known_when_the_last_destination_has_been_told(hub: Harness) {
    let (crm, app) = (hub.destination("crm").await, hub.destination("app").await);
    let (crm, app) = (("crm", crm), ("app", app));
    let arrivals = vec![
        event(1, "contact.unsubscribed", "a@b.co"),
        event(2, "contact.subscribed", "b@b.co"),
        event(3, "email.opened", "c@b.co"),
        event(4, "email.complained", "d@b.co"),
    ];
    hub.accept(arrivals).await;
    let under_way = async |expected: usize, when: &str| {
        let found = hub.store.unsubscribes_under_way().await.unwrap();
        assert_eq!(found, vec![NOW; expected], "{when}");
    };
    under_way(2, "nothing is routed: an opt-in and an opening are no unsubscribes").await;
    route_to(&hub, &[crm.1, app.1]).await;
    under_way(2, "both wait at two destinations each, and count once").await;

    assert!(end(&hub, 1, crm, State::Delivered).await.is_empty(), "the application is left");
    under_way(2, "the application is left").await;
    assert_eq!(end(&hub, 1, app, State::Skipped).await, [AFTER]);
    under_way(1, "the complaint is left").await;
    for destination in [crm, app] {
        for n in [2, 3] {
            assert!(end(&hub, n, destination, State::Delivered).await.is_empty(), "no unsubscribe");
        }
    }

    // A dead letter knows nothing until it is replayed and ends well.
    assert!(end(&hub, 4, app, State::Dead).await.is_empty());
    assert!(end(&hub, 4, crm, State::Delivered).await.is_empty());
    under_way(1, "the dead letter is left").await;
    replay(&hub, delivery(&hub, 4, "app").await).await;
    under_way(1, "it is pending again").await;
    assert_eq!(end(&hub, 4, app, State::Delivered).await, [AFTER]);
    under_way(0, "all know").await;

    // A replay of what is known tells nobody anything new.
    replay(&hub, delivery(&hub, 1, "crm").await).await;
    under_way(0, "a replay of what is known").await;
    assert!(end(&hub, 1, crm, State::Delivered).await.is_empty());

    // Nor does an event that says again what the person has said: a system that was told tells it back.
    hub.accept(vec![event(5, "contact.unsubscribed", "a@b.co"), event(6, "email.complained", "d@b.co")])
        .await;
    under_way(0, "both are repeats").await;
    route_to(&hub, &[crm.1]).await;
    assert!(end(&hub, 5, crm, State::Delivered).await.is_empty());
    let more = [
        (7, "email.complained", "a@b.co"),
        (8, "contact.subscribed", "d@b.co"),
        (9, "email.complained", "d@b.co"),
    ];
    hub.accept(more.map(|(n, kind, subject)| event(n, kind, subject)).into()).await;
    under_way(2, "a complaint is more than an unsubscribe, and after an opt-in all is new").await;
    hub.audit_adds_up().await;
}

async fn replay(hub: &Harness, id: mailspan_core::DeliveryId) {
    let offer = hub.store.offer_of(id).await.unwrap().unwrap();
    let write = Write::Offer { offers: vec![offer], again: true, at: Millis(NOW.0 + 2) };
    hub.store.write(write).await.unwrap();
}

/// What remains of a delivery after its consent was done is in a lower class and hides nothing.
pub async fn an_unsubscribe_is_known_though_something_else_remains(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "email.complained", "a@b.co"), event(2, "email.complained", "b@b.co")]).await;
    hub.route_all(crm).await;
    let lowered = Outcome::Again { due: NOW, queue: Queue::Retry, class: Class::Activity, reason: None };
    let with = |verdict| {
        let rest = Progress { step: Some(Step("task:1".to_owned())), ..Progress::default() };
        vec![Progress { verdict: Some(verdict), ..Progress::default() }, rest]
    };
    let (one, two) = (delivery(&hub, 1, "crm").await, delivery(&hub, 2, "crm").await);
    let told = hub.settle(crm, vec![settlement(one, lowered.clone(), with(Verdict::Done))]).await.unwrap();
    assert_eq!(known(told), [AFTER]);
    let refused =
        hub.settle(crm, vec![settlement(two, lowered, with(Verdict::reject("bad", "no")))]).await.unwrap();
    assert!(known(refused).is_empty(), "the opt-out was refused");
    assert!(known(hub.settle(crm, vec![ended(one, State::Delivered)]).await.unwrap()).is_empty());
    assert!(known(hub.settle(crm, vec![ended(two, State::Dead)]).await.unwrap()).is_empty());
    assert_eq!(hub.store.unsubscribes_under_way().await.unwrap(), [NOW], "the dead letter");
}

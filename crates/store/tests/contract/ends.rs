//! The two ends of a queue, and the class that a replay stands in.

use mailspan_core::{Class, Millis, Outcome, Queue, RawValue, Room, State};
use mailspan_store::{Claim, Walk};

use crate::harness::{Harness, NOW, ended, event, settlement};
use crate::jobs;

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

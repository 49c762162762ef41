//! What is reported late or comes back: events older than an erasure, erasures by one identity, echoes.

use mailspan_core::contact::{
    Change, Contact, ContactKey, ContactWrite, Mirror, Turn, formerly, formerly_erased, read_event,
};
use mailspan_core::{Millis, RawValue, State};
use mailspan_store::{Arrived, EventFilter};

use crate::contacts::{address, contact, update, upsert, write};
use crate::harness::{Harness, NOW, ended, event, uid};

const ANN: &str = "ann@example.com";

/// Another source says it, `later` milliseconds after [`NOW`].
fn reported(n: u64, event_type: &'static str, later: i64, data: &str) -> Arrived {
    let mut one = event(n, event_type, ANN);
    one.event.time = Millis(NOW.0 + later);
    one.event.data = RawValue::from_string(data.to_owned()).unwrap().into();
    one.contact = read_event(&one.event, uid(n), true).map(Box::new);
    one
}

async fn ann(hub: &Harness) -> Option<Contact> {
    contact(hub, ContactKey::Address(address(ANN))).await.map(|row| row.contact)
}

async fn turn(hub: &Harness, arrived: Arrived) -> Turn {
    hub.accept(vec![arrived]).await.contacts.remove(0).turn
}

pub async fn what_is_older_than_an_erasure_is_void(hub: Harness) {
    let crm = hub.destination("crm").await;
    write(&hub, 1, ContactWrite { opt_in: Some(true), ..upsert(1, Some(ANN), Some("u-1")) }).await;
    write(&hub, 4, ContactWrite { erase: true, ..upsert(4, Some(ANN), None) }).await;
    for (n, event_type) in [(10, "contact.subscribed"), (11, "contact.updated"), (12, "email.complained")] {
        assert_eq!(turn(&hub, reported(n, event_type, 3, "{}")).await, Turn::Ignored, "{event_type}");
    }
    assert_eq!(ann(&hub).await, None, "who was erased is back");
    hub.route_all(crm).await;
    let told: Vec<String> = hub.all().await.into_iter().map(|row| row.event_type).collect();
    assert_eq!(told, ["contact.erased"], "destinations are told of who was erased");
    // Who comes later is somebody new, of whom the old opt-out says nothing.
    assert_eq!(turn(&hub, reported(13, "contact.subscribed", 5, "{}")).await, Turn::Created);
    assert_eq!(turn(&hub, reported(14, "contact.unsubscribed", 2, "{}")).await, Turn::Ignored);
    let new = ann(&hub).await.unwrap();
    assert!(new.opt_in && new.suppressed_at.is_some(), "{new:?}");
    hub.route_all(crm).await;
    hub.audit_adds_up().await;
}

/// Whoever is told of an erasure may know the person by either identity, whichever the request named.
pub async fn an_erasure_is_told_by_all_that_is_known(hub: Harness) {
    write(&hub, 1, upsert(1, Some(ANN), Some("u-1"))).await;
    hub.accept(vec![reported(2, "contact.erased", 2, "{}")]).await;
    // Nobody is known by these any more, and yet a destination may know somebody.
    hub.accept(vec![reported(3, "contact.erased", 3, r#"{"external_id":"u-2"}"#)]).await;
    let rows = hub.store.events(EventFilter { limit: 10, ..Default::default() }).await.unwrap();
    let subjects = rows.iter().rev().filter(|row| row.event.event_type.as_str() == "contact.erased");
    let subjects: Vec<_> = subjects.map(|row| row.event.subject.clone()).collect();
    let ids: Vec<_> = subjects.iter().map(|subject| subject.external_id.as_deref()).collect();
    assert_eq!(ids, [Some("u-1"), Some("u-2")]);
    assert!(subjects.iter().all(|subject| subject.address == Some(address(ANN))), "{subjects:?}");
}

/// Destinations that have not heard of a change know the person by what it was called before; not by what somebody
/// else is called now.
pub async fn an_erasure_is_told_by_what_the_person_was_called(hub: Harness) {
    let (bob, cyd) = ("bob@example.com", "cyd@example.com");
    write(&hub, 1, upsert(1, Some(ANN), Some("u-1"))).await;
    write(&hub, 2, upsert(2, Some(bob), Some("u-1"))).await;
    write(&hub, 3, upsert(3, Some(cyd), Some("u-1"))).await;
    let renamed = ContactWrite { external_id: Change::Set("u-2".to_owned()), ..update(4, "u-1") };
    write(&hub, 4, renamed).await;
    let row = contact(&hub, ContactKey::ExternalId("u-2".to_owned())).await.unwrap();
    let known = hub.store.contacts_of(vec![row.person]).await.unwrap().remove(&row.person).unwrap();
    let known = formerly(&known);
    let emails: Vec<_> = known.addresses.iter().map(|(address, _)| address.as_str()).collect();
    let ids: Vec<_> = known.external_ids.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!((emails, ids, known.taken.len()), (vec![bob, ANN], vec!["u-1"], 0));
    // Somebody else.
    write(&hub, 5, upsert(5, Some(bob), Some("u-9"))).await;
    let known = hub.store.contacts_of(vec![row.person]).await.unwrap().remove(&row.person).unwrap();
    let known = formerly(&known);
    assert_eq!((known.addresses.len(), known.taken), (1, vec![address(bob)]));
    write(&hub, 6, ContactWrite { erase: true, ..update(6, "u-2") }).await;
    let rows = hub.store.events(EventFilter { limit: 10, ..Default::default() }).await.unwrap();
    let erased = rows.iter().find(|row| row.event.event_type.as_str() == "contact.erased").unwrap();
    assert_eq!(erased.event.subject.external_id.as_deref(), Some("u-2"));
    let told = formerly_erased(erased.event.data.get(), NOW);
    let emails: Vec<_> = told.addresses.iter().map(|(address, _)| address.as_str()).collect();
    assert_eq!((emails, told.external_ids), (vec![ANN], vec![("u-1".to_owned(), NOW)]));
}

/// An account reports the opt-out that the hub wrote there: after a newer opt-in it takes nothing back.
pub async fn an_echo_states_nothing(hub: Harness) {
    let crm = hub.destination("crm").await;
    for (n, opt_in) in [(1, true), (2, false)] {
        write(&hub, n, ContactWrite { opt_in: Some(opt_in), ..upsert(n, Some(ANN), None) }).await;
    }
    hub.route_all(crm).await;
    for _ in 0..2 {
        let claims = hub.claim(crm).await;
        let ends = claims.iter().map(|claim| ended(claim.delivery, State::Delivered)).collect();
        hub.settle(crm, ends).await.unwrap();
    }
    write(&hub, 3, ContactWrite { opt_in: Some(true), ..upsert(3, Some(ANN), None) }).await;
    let by_program = |n: u64, later: i64| {
        let mut one = reported(n, "contact.unsubscribed", later, r#"{"reason":"api"}"#);
        if let Some(write) = &mut one.contact {
            write.mirror = Some(Mirror { destinations: vec![crm], repeats: true });
        }
        one
    };
    assert_eq!(turn(&hub, by_program(10, 6)).await, Turn::Unchanged);
    assert!(ann(&hub).await.unwrap().opt_in, "the hub's own opt-out took back what was granted after it");
    // Later than an echo can be: another program did it.
    assert_eq!(turn(&hub, by_program(11, 300_000)).await, Turn::Updated);
    let out = ann(&hub).await.unwrap();
    assert!(!out.opt_in && out.suppressed_at.is_none(), "{out:?}");
    hub.audit_adds_up().await;
}

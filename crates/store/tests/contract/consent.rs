//! What consent and its ways back into the hub must withstand: clocks that are ahead, repeats without end, echoes,
//! links and addresses that have changed hands, and what arrives after an erasure.

use mailspan_core::contact::{
    CONTACTS, Change, ContactKey, ContactWrite, Mirror, Permission, Stated, Suppressed, Turn, WriteMode,
    read_event,
};
use mailspan_core::limits::{ECHO_SKEW_MS, FACTS_MAX};
use mailspan_core::{
    Address, DestinationId, ECHOED, Millis, Name, OUTLIVED, RawRequest, RawValue, State, Subject,
};
use mailspan_store::{Arrived, EventFilter, FactFilter, Write, pack_request};

use serde_json::json;

use crate::contacts::{address, contact, said, update, upsert, write, write_all};
use crate::harness::{Harness, NOW, accepted, ended, event, receipt, uid};

/// What another source tells of a person, at so many milliseconds after [`NOW`].
fn told(n: u64, event_type: &'static str, subject: &str, at: i64) -> Arrived {
    let mut arrived = event(n, event_type, subject);
    arrived.event.time = Millis(NOW.0 + at);
    arrived.event.data = RawValue::from_string("{}".to_owned()).unwrap().into();
    arrived.contact = read_event(&arrived.event, uid(n), true).map(Box::new);
    arrived
}

async fn by_email(hub: &Harness, email: &str) -> Option<mailspan_core::contact::Contact> {
    contact(hub, ContactKey::Address(address(email))).await.map(|row| row.contact)
}

async fn count_of_facts(hub: &Harness) -> usize {
    hub.store.facts(FactFilter { limit: 10_000, ..Default::default() }).await.unwrap().len()
}

async fn last_type(hub: &Harness) -> String {
    let rows = hub.store.events(EventFilter { limit: 1, ..Default::default() }).await.unwrap();
    rows[0].event.event_type.as_str().to_owned()
}

/// A sender's clock is an hour ahead, or it lies: what is taken back after it was received stays taken back.
pub async fn a_fact_of_tomorrow_counts_from_when_it_was_learned(hub: Harness) {
    write(&hub, 1, upsert(1, Some("a@b.co"), Some("u-1"))).await;
    let mut ahead = receipt(vec![told(2, "contact.confirmed", "a@b.co", 3_600_000)]);
    ahead.received_at = Millis(NOW.0 + 10);
    ahead.arrivals[0].event.received_at = ahead.received_at;
    accepted(hub.store.write(Write::Accept(Box::new(ahead))).await);
    assert_eq!(by_email(&hub, "a@b.co").await.unwrap().permission, Permission::Double);
    let facts = hub.store.facts(FactFilter::default()).await.unwrap();
    assert_eq!(facts[0].happened_at, Millis(NOW.0 + 3_600_000), "what was said is kept as it was said");
    let out = write(&hub, 20, ContactWrite { opt_in: Some(false), ..update(20, "u-1") }).await;
    assert!(!out.contact.unwrap().opt_in, "an opt-out had no effect on an opt-in of the future");
    // Read back from the store it is the same, and the times that plan deliveries are not ahead either.
    write(
        &hub,
        30,
        ContactWrite { locale: mailspan_core::contact::Change::Set("en".to_owned()), ..update(30, "u-1") },
    )
    .await;
    assert!(!by_email(&hub, "a@b.co").await.unwrap().opt_in);
    let person = hub.store.person(&Name::default_tenant(), &Subject::read("a@b.co")).await.unwrap().unwrap();
    assert!(person.opted_in_at < person.opted_out_at, "{person:?}");
    hub.audit_adds_up().await;
}

/// A level that was confirmed years ago is not forgotten over what is told every hour; what changes nothing is no fact.
pub async fn what_decides_is_never_forgotten(hub: Harness) {
    let make = ContactWrite {
        stated: vec![Stated::OptIn(Some(Permission::DoublePlus))],
        ..upsert(1, Some("a@b.co"), Some("u-1"))
    };
    write(&hub, 1, make).await;
    let before = count_of_facts(&hub).await;
    let wish = |n| {
        let wish = ContactWrite {
            permission: Some(Permission::Single),
            opt_in: Some(true),
            ..upsert(n, Some("a@b.co"), Some("u-1"))
        };
        said(n, wish)
    };
    let outcomes = write_all(&hub, (2..40).map(wish).collect()).await.contacts;
    assert!(outcomes.iter().all(|one| one.turn == Turn::Unchanged), "a weaker wish changed something");
    assert_eq!(count_of_facts(&hub).await, before, "a wish that changes nothing left facts");
    // Events are facts each, more than are read one by one.
    let many = FACTS_MAX as u64 + 40;
    for page in 0..4 {
        let part = many / 4;
        let range = 1_000 + page * part..1_000 + (page + 1) * part;
        let arrivals = range.map(|n| told(n, "contact.subscribed", "a@b.co", n as i64)).collect();
        hub.accept(arrivals).await;
    }
    assert!(count_of_facts(&hub).await > FACTS_MAX);
    let at = |n: i64, more| ContactWrite { at: Millis(NOW.0 + n), ..more };
    let locale = mailspan_core::contact::Change::Set("en".to_owned());
    let kept =
        write(&hub, 90, at(5_000, ContactWrite { locale, ..update(90, "u-1") })).await.contact.unwrap();
    assert_eq!(kept.permission, Permission::DoublePlus, "the newest facts pushed out what was confirmed");
    let out = write(&hub, 91, at(6_000, ContactWrite { opt_in: Some(false), ..update(91, "u-1") })).await;
    assert!(!out.contact.unwrap().opt_in);
    // Taken back is taken back: a level alone says nothing of an agreement.
    let level = ContactWrite { permission: Some(Permission::Single), ..update(92, "u-1") };
    assert!(
        !write(&hub, 92, at(7_000, level.clone())).await.contact.unwrap().opt_in,
        "a level opted somebody in"
    );
    let anew = ContactWrite { opt_in: Some(true), ..level };
    let anew = write(&hub, 93, at(8_000, anew)).await.contact.unwrap();
    assert_eq!((anew.opt_in, anew.permission), (true, Permission::Single));
    hub.audit_adds_up().await;
}

fn raw(body: &str) -> Vec<u8> {
    let request = RawRequest {
        method: "POST".to_owned(),
        url: String::new(),
        path: "/in/mailtarget".to_owned(),
        query: String::new(),
        headers: vec![],
        body: body.to_owned().into(),
        received_at: NOW,
    };
    pack_request(&request, &[])
}

/// What happened before an erasure makes nobody, whenever it arrives, and nothing of it says who it was.
pub async fn what_happened_before_an_erasure_makes_nobody(hub: Harness) {
    let (tenant, crm) = (Name::default_tenant(), hub.destination("crm").await);
    let (ann, id) = ("ann@outlived.example", "u-outlived");
    write(&hub, 1, ContactWrite { opt_in: Some(true), ..upsert(1, Some(ann), Some(id)) }).await;
    write(&hub, 10, ContactWrite { erase: true, ..update(10, id) }).await;
    hub.route_all(crm).await;
    let late = |n, event_type: &'static str, at| {
        let mut late = told(n, event_type, ann, at);
        let data = format!(
            r#"{{"contact":{{"email":"{ann}","external_id":"{id}","standard":{{"FIRSTNAME":"Ann"}}}}}}"#
        );
        late.event.data = RawValue::from_string(data).unwrap().into();
        late.contact = read_event(&late.event, uid(n), true).map(Box::new);
        late
    };
    for (n, event_type) in [(20, "contact.subscribed"), (21, "contact.created"), (22, "contact.unsubscribed")]
    {
        let mut sent = receipt(vec![late(n, event_type, 9)]);
        sent.received_at = Millis(NOW.0 + 30);
        sent.packed = Some(raw(ann));
        let told = accepted(hub.store.write(Write::Accept(Box::new(sent))).await);
        assert_eq!((told.ids.len(), &told.contacts[0].contact), (1, &None), "{event_type}");
        assert_eq!(last_type(&hub).await, OUTLIVED);
    }
    // By the external id alone, and what is no contact's: nobody is made of it when it is routed, and it is emptied.
    hub.accept(vec![told(23, "contact.subscribed", id, 9), told(24, "email.opened", ann, 9)]).await;
    hub.route_all(crm).await;
    assert_eq!(hub.store.person(&tenant, &Subject::read(ann)).await.unwrap(), None);
    assert_eq!(by_email(&hub, ann).await, None);
    for needle in [ann, id, "FIRSTNAME"] {
        assert_eq!(hub.tables_with(needle).await, Default::default(), "{needle} came back");
    }
    let rows = hub.store.events(EventFilter { limit: 20, ..Default::default() }).await.unwrap();
    let outlived = rows.iter().filter(|row| row.event.event_type.as_str() == OUTLIVED);
    assert!(
        outlived.clone().all(|row| row.event.subject == Subject::nobody() && row.event.data.get() == "null")
    );
    assert_eq!(outlived.count(), 5);
    assert!(
        !hub.all().await.iter().any(|row| row.event_type == "email.opened" && row.state == State::Pending)
    );
    // Who signs up afterwards is somebody new, and suppressed until that is lifted.
    let anew = hub.accept(vec![late(30, "contact.subscribed", 11)]).await.contacts.remove(0);
    let anew = anew.contact.unwrap();
    assert_eq!((anew.uid.clone(), anew.opt_in, anew.suppressed_at.is_some()), (uid(30), true, true));
    hub.accept(vec![late(31, "contact.unsubscribed", 8)]).await;
    assert!(
        by_email(&hub, ann).await.unwrap().opt_in,
        "an opt-out of the erased person took the new one's consent"
    );
    hub.audit_adds_up().await;
}

/// A confirmation that another source reports lifts an unsubscription: the hub says so itself, with the newest opt-in,
/// which was told as none while the address was suppressed. Once, and the sender is told of its own event alone.
pub async fn what_a_reported_confirmation_lifts_is_told(hub: Harness) {
    write(&hub, 1, ContactWrite { opt_in: Some(true), ..upsert(1, Some("a@b.co"), Some("u-1")) }).await;
    hub.accept(vec![told(2, "contact.unsubscribed", "a@b.co", 5)]).await;
    let mut anew = upsert(8, Some("a@b.co"), Some("u-1"));
    anew.opt_in = Some(true);
    write(&hub, 8, anew).await;
    assert!(by_email(&hub, "a@b.co").await.unwrap().suppressed_at.is_some());
    let accepted = hub.accept(vec![told(9, "contact.confirmed", "a@b.co", 7)]).await;
    assert_eq!(accepted.ids.len(), 1, "the sender is told of its own event");
    let rows = hub.store.events(EventFilter { limit: 2, ..Default::default() }).await.unwrap();
    let said = &rows[0].event;
    assert_eq!((said.event_type.as_str(), said.source.as_str()), ("contact.updated", CONTACTS));
    assert_eq!(said.time, Millis(NOW.0 + 8), "of the newest opt-in");
    assert_eq!(said.subject.external_id.as_deref(), Some("u-1"));
    let data: serde_json::Value = serde_json::from_str(said.data.get()).unwrap();
    let changed: Vec<&str> =
        data["changed"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    assert!(changed.contains(&"opt_in") && changed.contains(&"suppressed_at"), "{changed:?}");
    assert_eq!((&data["contact"]["suppressed_at"], &data["contact"]["opt_in"]), (&json!(null), &json!(true)));
    assert_eq!(rows[1].event.event_type.as_str(), "contact.confirmed");
    // An unsubscription that happened before, and comes late, is void: whoever told of it is told so.
    hub.accept(vec![told(10, "contact.unsubscribed", "a@b.co", 6)]).await;
    let rows = hub.store.events(EventFilter { limit: 2, ..Default::default() }).await.unwrap();
    let types: Vec<&str> = rows.iter().map(|row| row.event.event_type.as_str()).collect();
    assert_eq!(types, ["contact.updated", "contact.unsubscribed"]);
    assert_eq!(by_email(&hub, "a@b.co").await.unwrap().suppressed_at, None);
    // What lifts nothing says nothing.
    hub.accept(vec![told(11, "contact.confirmed", "a@b.co", 9)]).await;
    assert_eq!(last_type(&hub).await, "contact.confirmed");
    hub.audit_adds_up().await;
}

/// After a lift nothing visible changes when somebody confirms, and destinations were told that nobody had agreed.
pub async fn who_confirms_after_a_lift_is_told(hub: Harness) {
    let double = || vec![Stated::OptIn(Some(Permission::Double))];
    let confirm = |n| ContactWrite { stated: double(), ..upsert(n, Some("a@b.co"), None) };
    write(&hub, 1, confirm(1)).await;
    let follow = |n: u64, suppress| {
        let key = ContactKey::Address(address("a@b.co"));
        let write = ContactWrite::new(key, WriteMode::Follow, uid(n), Millis(NOW.0 + n as i64), "api");
        ContactWrite { suppress, ..write }
    };
    write(&hub, 2, follow(2, Change::Set(Suppressed::Manual))).await;
    write(&hub, 3, follow(3, Change::Clear)).await;
    let outcome = write(&hub, 4, confirm(4)).await;
    assert_eq!((outcome.turn, last_type(&hub).await.as_str()), (Turn::Updated, "contact.updated"));
    assert_eq!(write(&hub, 5, confirm(5)).await.turn, Turn::Unchanged, "it was told once");
    // Who agreed in the millisecond of the lift was told as none too.
    write(&hub, 6, follow(6, Change::Set(Suppressed::Manual))).await;
    write(&hub, 7, confirm(7)).await;
    write(&hub, 7, follow(7, Change::Clear)).await;
    assert_eq!(write(&hub, 8, confirm(8)).await.turn, Turn::Updated);
    hub.audit_adds_up().await;
}

/// Addresses that an erased person had before are suppressed with the last one, and stand in the list of who was
/// erased; save those that somebody else has by now.
pub async fn a_former_address_is_erased_with_its_person(hub: Harness) {
    let tenant = Name::default_tenant();
    for (n, email) in [(1, "first@b.co"), (2, "second@b.co"), (3, "last@b.co")] {
        write(&hub, n, upsert(n, Some(email), Some("u-1"))).await;
    }
    write(&hub, 4, upsert(4, Some("second@b.co"), Some("u-2"))).await;
    assert_eq!(hub.store.erased_hashes(None).await.unwrap(), []);
    write(&hub, 10, ContactWrite { erase: true, ..update(10, "u-1") }).await;
    let reason = |email: &str| {
        let (store, tenant, address) = (hub.store.clone(), tenant.clone(), address(email));
        async move { store.suppression_of(&tenant, &address).await.unwrap().map(|row| (row.reason, row.address)) }
    };
    assert_eq!(reason("first@b.co").await, Some((Suppressed::Erasure, None)));
    assert_eq!(reason("last@b.co").await, Some((Suppressed::Erasure, None)));
    assert_eq!(reason("second@b.co").await, None, "somebody else has it");
    assert_eq!(hub.store.erased_hashes(None).await.unwrap().len(), 3, "the external id and two addresses");
    let again = write(&hub, 20, upsert(20, Some("first@b.co"), None)).await.contact.unwrap();
    assert!(again.suppressed_at.is_some());
    hub.audit_adds_up().await;
}

/// A link confirms the address that it was mailed to and no other, and an address that was never confirmed is not.
pub async fn a_link_confirms_the_address_that_it_went_to(hub: Harness) {
    let mut signup = upsert(1, Some("a@b.co"), Some("u-1"));
    signup.ask = crate::contacts::ask(1, 1);
    write_all(&hub, vec![said(1, signup)]).await;
    write(&hub, 2, upsert(2, Some("victim@b.co"), Some("u-1"))).await;
    let confirm = |n: u64| {
        let key = ContactKey::Token([1; 32]);
        ContactWrite::new(key, WriteMode::Update, uid(n), Millis(NOW.0 + n as i64), "confirm")
    };
    let refused = write(&hub, 3, confirm(3)).await;
    assert!(matches!(&refused.turn, Turn::Refused(reason) if reason.code == "token_expired"), "{refused:?}");
    // Back at the old address, the link stays what it is.
    write(&hub, 4, upsert(4, Some("a@b.co"), Some("u-1"))).await;
    assert!(matches!(write(&hub, 5, confirm(5)).await.turn, Turn::Refused(_)));
    assert_eq!(by_email(&hub, "a@b.co").await.unwrap().permission, Permission::None);

    let double = ContactWrite { permission: Some(Permission::Double), ..update(6, "u-1") };
    assert_eq!(write(&hub, 6, double).await.contact.unwrap().permission, Permission::Double);
    let moved = write(&hub, 7, upsert(7, Some("other@b.co"), Some("u-1"))).await.contact.unwrap();
    assert_eq!(
        (moved.opt_in, moved.permission),
        (true, Permission::Single),
        "nobody has confirmed this address"
    );
    let whole =
        ContactWrite { permission: Some(Permission::Double), ..upsert(8, Some("third@b.co"), Some("u-1")) };
    assert_eq!(
        write(&hub, 8, whole).await.contact.unwrap().permission,
        Permission::Double,
        "the caller says so"
    );
    hub.audit_adds_up().await;
}

/// An account's webhook of an opt-out, as it comes from where the hub writes to.
fn back(n: u64, at: i64, crm: DestinationId, repeats: bool) -> Arrived {
    let mut back = told(n, "contact.unsubscribed", "a@b.co", at);
    if let Some(write) = &mut back.contact {
        write.mirror = Some(Mirror { destinations: vec![crm], repeats });
    }
    back
}

async fn deliver_all(hub: &Harness, crm: DestinationId) {
    for _ in 0..8 {
        let claims = hub.claim(crm).await;
        let settlements = claims.iter().map(|claim| ended(claim.delivery, State::Delivered)).collect();
        hub.settle(crm, settlements).await.unwrap();
    }
}

/// What the hub wrote comes back as somebody's own word: it is kept as an echo, and changes nothing.
pub async fn an_echo_is_no_news(hub: Harness) {
    let crm = hub.destination("crm").await;
    write(&hub, 1, ContactWrite { opt_in: Some(true), ..upsert(1, Some("a@b.co"), Some("u-1")) }).await;
    write(&hub, 2, ContactWrite { opt_in: Some(false), ..update(2, "u-1") }).await;
    // Not routed yet, and the application has changed its mind already.
    write(&hub, 3, ContactWrite { opt_in: Some(true), ..update(3, "u-1") }).await;
    let state = || async {
        let contact = by_email(&hub, "a@b.co").await.unwrap();
        (contact.opt_in, contact.suppressed_at.is_some())
    };
    hub.accept(vec![back(10, 10, crm, false)]).await;
    assert_eq!((state().await, last_type(&hub).await.as_str()), ((true, false), ECHOED));
    // On its way, then settled there: what the account tells of that time is its echo, however late it comes.
    hub.route_all(crm).await;
    hub.accept(vec![back(11, 11, crm, false)]).await;
    assert_eq!(state().await, (true, false));
    deliver_all(&hub, crm).await;
    hub.accept(vec![back(12, 12, crm, false)]).await;
    assert_eq!((state().await, last_type(&hub).await.as_str()), ((true, false), ECHOED));
    // Of another account, or later than the write can have taken, it is somebody's word.
    let other = hub.destination("other").await;
    let facts = count_of_facts(&hub).await;
    hub.accept(vec![back(13, 13, other, true)]).await;
    assert_eq!((state().await, count_of_facts(&hub).await), ((false, true), facts + 1));
    hub.route_all(crm).await;
    deliver_all(&hub, crm).await;
    write(&hub, 40, ContactWrite { opt_in: Some(true), at: Millis(NOW.0 + 40), ..update(40, "u-1") }).await;
    hub.accept(vec![back(14, 2 * ECHO_SKEW_MS, crm, false)]).await;
    assert_eq!((state().await, last_type(&hub).await.as_str()), ((false, true), "contact.unsubscribed"));
    hub.audit_adds_up().await;
}

/// An opt-out by the application stays one without a suppression, though the account repeats it; what the person
/// says there suppresses the address.
pub async fn an_account_that_repeats_an_opt_out_suppresses_nobody(hub: Harness) {
    let crm = hub.destination("crm").await;
    write(&hub, 1, ContactWrite { opt_in: Some(true), ..upsert(1, Some("a@b.co"), Some("u-1")) }).await;
    write(&hub, 2, ContactWrite { opt_in: Some(false), ..update(2, "u-1") }).await;
    let facts = count_of_facts(&hub).await;
    hub.accept(vec![back(10, 10_000_000, crm, true)]).await;
    let row = by_email(&hub, "a@b.co").await.unwrap();
    assert_eq!((row.opt_in, row.suppressed_at, count_of_facts(&hub).await), (false, None, facts));
    let anew = ContactWrite { opt_in: Some(true), at: Millis(NOW.0 + 20_000_000), ..update(11, "u-1") };
    assert!(write(&hub, 11, anew).await.contact.unwrap().opt_in);
    let mut own = back(12, 30_000_000, crm, true);
    own.contact.as_mut().unwrap().mirror = None;
    hub.accept(vec![own]).await;
    let row = by_email(&hub, "a@b.co").await.unwrap();
    assert_eq!((row.opt_in, row.suppressed_at.is_some()), (false, true));
    hub.audit_adds_up().await;
}

/// Whoever is mapped for is known to be suppressed, and an address that is no contact is told of too.
pub async fn a_suppression_is_known_where_deliveries_are_made(hub: Harness) {
    let crm = hub.destination("crm").await;
    write(&hub, 1, ContactWrite { opt_in: Some(true), ..upsert(1, Some("a@b.co"), Some("u-1")) }).await;
    let key = |email: &str| ContactKey::Address(Address::parse(email).unwrap());
    let block = |n: u64, email: &str, reason| {
        let write = ContactWrite::new(key(email), WriteMode::Follow, uid(n), Millis(NOW.0 + n as i64), "api");
        ContactWrite { suppress: mailspan_core::contact::Change::Set(reason), ..write }
    };
    write(&hub, 2, block(2, "a@b.co", Suppressed::Complaint)).await;
    let data = |row: &mailspan_store::EventRow| -> serde_json::Value {
        serde_json::from_str(row.event.data.get()).unwrap()
    };
    let rows = hub.store.events(EventFilter { limit: 1, ..Default::default() }).await.unwrap();
    assert_eq!(data(&rows[0])["suppressed_for"], "complaint");
    write(&hub, 3, block(3, "z@b.co", Suppressed::Bounce)).await;
    let rows = hub.store.events(EventFilter { limit: 1, ..Default::default() }).await.unwrap();
    assert_eq!(rows[0].event.event_type.as_str(), "contact.suppression_changed");
    assert_eq!(rows[0].event.subject, Subject::read("z@b.co"));
    assert_eq!(data(&rows[0])["suppressed_for"], "bounce");
    hub.route_all(crm).await;
    let claims = hub.claim(crm).await;
    let suppressed = |text: &str| {
        let of = |claim: &&mailspan_store::Claim| claim.event.subject.address == Some(address(text));
        claims.iter().find(of).and_then(|claim| claim.person.clone()).map(|person| person.suppressed)
    };
    assert_eq!((suppressed("a@b.co"), suppressed("z@b.co")), (Some(true), Some(false)));
    let person = hub.store.person(&Name::default_tenant(), &Subject::read("u-1")).await.unwrap().unwrap();
    assert!(person.suppressed);
    hub.audit_adds_up().await;
}

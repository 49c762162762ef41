//! Contacts: matching, what is told of them, consent in any order, confirmations, erasure.

use std::collections::BTreeSet;

use mailspan_core::contact::{
    Ask, CONTACTS, Change, Contact, ContactKey, ContactOutcome, ContactWrite, Permission, Stated, Suppressed,
    Turn, WriteMode, read_event,
};
use mailspan_core::{Address, Millis, Name, RawValue, SplitMix64, State, Subject};
use mailspan_store::{
    Accepted, Arrived, ContactRow, DeliveryFilter, EventFilter, FactFilter, Receipt, Write,
};

use crate::harness::{Harness, NOW, accepted, event, receipt, uid};

pub fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// By the external id where one is given, else by the address, as the API does.
pub fn upsert(n: u64, email: Option<&str>, id: Option<&str>) -> ContactWrite {
    let key = ContactKey::Subject { address: email.map(address), external_id: id.map(str::to_owned) };
    at(n, ContactWrite::new(key, WriteMode::Upsert, uid(n), NOW, "api"))
}

pub fn update(n: u64, id: &str) -> ContactWrite {
    at(n, ContactWrite::new(ContactKey::Id(id.to_owned()), WriteMode::Update, uid(n), NOW, "api"))
}

fn at(n: u64, write: ContactWrite) -> ContactWrite {
    ContactWrite { at: Millis(NOW.0 + n as i64), ..write }
}

/// An event of the hub's own source, with what it says.
pub fn said(n: u64, write: ContactWrite) -> Arrived {
    Arrived { dedupe: None, contact: Some(Box::new(write)), ..event(n, "contact.updated", "") }
}

pub fn bulk(arrivals: Vec<Arrived>) -> Receipt {
    Receipt { source: Name::new(CONTACTS), ..receipt(arrivals) }
}

pub async fn write_all(hub: &Harness, arrivals: Vec<Arrived>) -> Accepted {
    accepted(hub.store.write(Write::Accept(Box::new(bulk(arrivals)))).await)
}

pub async fn write(hub: &Harness, n: u64, write: ContactWrite) -> ContactOutcome {
    let mut accepted = write_all(hub, vec![said(n, write)]).await;
    assert_eq!(accepted.contacts.len(), 1);
    accepted.contacts.remove(0)
}

fn refused(outcome: &ContactOutcome) -> &str {
    match &outcome.turn {
        Turn::Refused(reason) => &reason.code,
        other => panic!("{other:?}"),
    }
}

pub async fn contact(hub: &Harness, key: ContactKey) -> Option<ContactRow> {
    hub.store.contact(&Name::default_tenant(), &key).await.unwrap()
}

pub async fn by_email(hub: &Harness, email: &str) -> Option<Contact> {
    contact(hub, ContactKey::Address(address(email))).await.map(|row| row.contact)
}

pub async fn types(hub: &Harness) -> Vec<String> {
    let rows = hub.store.events(EventFilter { limit: 100, ..Default::default() }).await.unwrap();
    rows.iter().rev().map(|row| row.event.event_type.as_str().to_owned()).collect()
}

/// MailingCore, «upsert contact»: by the external id where one is given, else by the address.
pub async fn the_matching_table(hub: Harness) {
    // Neither is known.
    let a = write(&hub, 1, upsert(1, Some("a@b.co"), None)).await;
    assert_eq!((a.turn, a.contact.unwrap().uid.clone()), (Turn::Created, uid(1)));
    // No external id, the address is known: it keeps what it has.
    let again = write(&hub, 2, upsert(2, Some("A@b.co"), None)).await;
    assert_eq!((again.turn, again.contact.unwrap().uid.clone()), (Turn::Unchanged, uid(1)));
    // An external id that nobody has, on a contact without one: adopted.
    let adopted = write(&hub, 3, upsert(3, Some("a@b.co"), Some("u-1"))).await;
    assert_eq!(adopted.turn, Turn::Updated);
    assert_eq!(adopted.contact.unwrap().external_id.as_deref(), Some("u-1"));
    let kept = write(&hub, 4, upsert(4, Some("a@b.co"), None)).await;
    assert_eq!(kept.contact.unwrap().external_id.as_deref(), Some("u-1"));
    // Both lead to the same contact.
    assert_eq!(write(&hub, 5, upsert(5, Some("a@b.co"), Some("u-1"))).await.turn, Turn::Unchanged);
    // The address has another external id.
    let other = write(&hub, 6, upsert(6, Some("a@b.co"), Some("u-2"))).await;
    assert_eq!((refused(&other), &other.contact), ("external_id_conflict", &None));
    // A known external id with a new address: the address changes.
    let moved = write(&hub, 7, upsert(7, Some("new@b.co"), Some("u-1"))).await;
    assert_eq!((moved.turn, moved.contact.unwrap().uid.clone()), (Turn::Updated, uid(1)));
    assert_eq!(by_email(&hub, "a@b.co").await, None);
    assert_eq!(by_email(&hub, "new@b.co").await.unwrap().uid, uid(1));
    // Neither is known, with an external id; then its external id with the address of another.
    assert_eq!(write(&hub, 8, upsert(8, Some("c@b.co"), Some("u-3"))).await.turn, Turn::Created);
    let taken = write(&hub, 9, upsert(9, Some("new@b.co"), Some("u-3"))).await;
    assert_eq!(refused(&taken), "address_conflict");
    // By the id of the API or the external id; the first wins.
    let mut named = upsert(10, Some("d@b.co"), Some(&uid(8)));
    named.locale = Change::Set("en".to_owned());
    write(&hub, 10, named).await;
    let found = contact(&hub, ContactKey::Id(uid(8))).await.unwrap().contact;
    assert_eq!(found.address, Some(address("c@b.co")));
    assert_eq!(contact(&hub, ContactKey::Id("u-3".to_owned())).await.unwrap().contact.uid, uid(8));
    let mut change = update(11, "u-3");
    change.external_id = Change::Set("u-1".to_owned());
    assert_eq!(refused(&write(&hub, 11, change).await), "external_id_conflict");
    assert_eq!(refused(&write(&hub, 12, update(12, "nobody")).await), "not_found");
    let only = ContactWrite { mode: WriteMode::CreateOnly, ..upsert(13, Some("new@b.co"), None) };
    assert_eq!(write(&hub, 13, only).await.turn, Turn::Ignored);
    hub.audit_adds_up().await;
}

/// One event a change, none where nothing changed; consent wins; a duplicate says nothing.
pub async fn what_changes_is_told_once(hub: Harness) {
    let make = ContactWrite { opt_in: Some(true), ..upsert(1, Some("a@b.co"), Some("u-1")) };
    write(&hub, 1, make.clone()).await;
    assert_eq!(write(&hub, 2, ContactWrite { at: Millis(NOW.0 + 2), ..make }).await.turn, Turn::Unchanged);
    let named = ContactWrite { locale: Change::Set("en".to_owned()), ..update(3, "u-1") };
    write(&hub, 3, named).await;
    let out = ContactWrite { opt_in: Some(false), locale: Change::Clear, ..update(4, "u-1") };
    assert!(!write(&hub, 4, out).await.contact.unwrap().opt_in);
    write(&hub, 5, ContactWrite { opt_in: Some(true), ..update(5, "u-1") }).await;
    let moved = upsert(6, Some("new@b.co"), Some("u-1"));
    write(&hub, 6, moved).await;
    let expected = [
        "contact.created",
        "contact.updated",
        "contact.unsubscribed",
        "contact.subscribed",
        "contact.updated",
    ];
    assert_eq!(types(&hub).await, expected);

    let rows = hub.store.events(EventFilter { limit: 10, ..Default::default() }).await.unwrap();
    let data: serde_json::Value = serde_json::from_str(rows[0].event.data.get()).unwrap();
    assert_eq!(data["changed"], serde_json::json!(["email"]));
    assert_eq!(
        (&data["previous"]["email"], &data["contact"]["email"]),
        (&"a@b.co".into(), &"new@b.co".into())
    );
    assert_eq!((&data["contact"]["id"], &data["origin"]), (&uid(1).into(), &"api".into()));
    let subject = &rows[0].event.subject;
    assert_eq!(
        (subject.address.clone(), subject.external_id.as_deref()),
        (Some(address("new@b.co")), Some("u-1"))
    );
    let created: serde_json::Value = serde_json::from_str(rows[4].event.data.get()).unwrap();
    assert_eq!((&created["contact"]["opt_in"], &created["contact"]["permission"]), (&true.into(), &2.into()));

    // The same facts with their evidence, and beside the person.
    let facts = hub.store.facts(FactFilter::default()).await.unwrap();
    let whats: Vec<_> = facts.iter().map(|fact| fact.what.name()).collect();
    assert_eq!(whats, ["opt_in", "opt_out", "opt_in", "address_changed"]);
    assert_eq!(facts[1].event_id, rows[2].event.id);
    assert_eq!(facts[1].evidence.as_ref().unwrap().origin, "api");
    let person =
        hub.store.person(&Name::default_tenant(), &Subject::read("new@b.co")).await.unwrap().unwrap();
    assert_eq!(person.opted_out_at, Some(Millis(NOW.0 + 4)));
    assert_eq!(person.subject.address, Some(address("new@b.co")));
    let row = contact(&hub, ContactKey::Id("u-1".to_owned())).await.unwrap();
    let kept = hub.store.facts_of(&Name::default_tenant(), row.person, 0, 10).await.unwrap();
    assert_eq!(kept.len(), 4);
    assert_eq!(hub.audit_adds_up().await.accepted, 5);
}

/// What a mailing platform and an application tell: a key for each, so a repeat is a duplicate.
pub fn happened(n: u64, event_type: &'static str, permission: Option<u8>) -> Arrived {
    let mut arrived = event(n, event_type, "a@b.co");
    let data = permission.map_or("{}".to_owned(), |level| format!("{{\"permission\":{level}}}"));
    arrived.event.data = RawValue::from_string(data).unwrap().into();
    arrived.event.time = Millis(NOW.0 + n as i64);
    arrived.contact = read_event(&arrived.event, uid(7), true).map(Box::new);
    arrived
}

pub async fn consent_is_the_same_in_any_order(hub: Harness) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    println!("SEED={seed}");
    let mut random = SplitMix64(seed);
    let kinds = [
        ("contact.subscribed", None),
        ("contact.subscribed", Some(3)),
        ("contact.confirmed", Some(4)),
        ("contact.confirmed", Some(5)),
        ("contact.unsubscribed", None),
        ("email.complained", None),
    ];
    for round in 0..25 {
        let facts: Vec<(u64, usize)> = (0..1 + random.below(6))
            .map(|_| (random.below(4), random.below(kinds.len() as u64) as usize))
            .collect();
        let mut told = vec![];
        for order in 0..4 {
            // A tenant each: nothing is shared.
            let tenant = Name::new(&format!("t{round}-{order}"));
            let mut facts: Vec<_> = facts.iter().chain(&facts[..facts.len() / 2]).copied().collect();
            for place in (1..facts.len()).rev() {
                facts.swap(place, random.below(place as u64 + 1) as usize);
            }
            // It is known first: what follows is followed.
            let mut first = bulk(vec![said(0, upsert(0, Some("a@b.co"), None))]);
            first.tenant = tenant.clone();
            first.arrivals[0].event.id = mailspan_core::EventId(u128::from(random.next_u64()));
            hub.store.write(Write::Accept(Box::new(first))).await.unwrap();
            for (n, kind) in &facts {
                let (event_type, permission) = kinds[*kind];
                let mut sent = receipt(vec![happened(*n, event_type, permission)]);
                sent.tenant = tenant.clone();
                sent.arrivals[0].event.id = mailspan_core::EventId(u128::from(random.next_u64()));
                // The same fact again is a duplicate, or comes under another key and is the same fact.
                sent.arrivals[0].dedupe = None;
                hub.store.write(Write::Accept(Box::new(sent))).await.unwrap();
            }
            let key = ContactKey::Address(address("a@b.co"));
            let row = hub.store.contact(&tenant, &key).await.unwrap().unwrap().contact;
            let suppressed = hub.store.suppression_of(&tenant, &address("a@b.co")).await.unwrap();
            let person = hub.store.person(&tenant, &Subject::read("a@b.co")).await.unwrap().unwrap();
            told.push((
                (row.opt_in, row.permission, row.unsubscribed_at, row.suppressed_at.is_some()),
                suppressed.map(|row| row.reason),
                (person.opted_in_at, person.opted_out_at),
                facts,
            ));
        }
        for other in &told[1..] {
            assert_eq!((&other.0, &other.1, &other.2), (&told[0].0, &told[0].1, &told[0].2), "{told:?}");
        }
    }
    hub.audit_adds_up().await;
}

/// The event stays as it came, the contact follows it; who is not known is not made, but is remembered.
pub async fn contacts_follow_what_happened(hub: Harness) {
    let make = ContactWrite {
        stated: vec![Stated::OptIn(Some(Permission::Double))],
        ..upsert(1, Some("a@b.co"), None)
    };
    write(&hub, 1, make).await;
    let complaint = happened(10, "email.complained", None);
    let accepted = hub.accept(vec![complaint, happened(10, "email.complained", None)]).await;
    assert_eq!((accepted.ids.len(), accepted.duplicates), (1, 1));
    let turns: Vec<_> = accepted.contacts.iter().map(|outcome| outcome.turn.clone()).collect();
    assert_eq!(turns, [Turn::Updated, Turn::Unchanged]);
    let row = by_email(&hub, "a@b.co").await.unwrap();
    assert_eq!((row.opt_in, row.permission), (false, Permission::None));
    assert_eq!(
        (row.suppressed_at, row.unsubscribed_at),
        (Some(Millis(NOW.0 + 10)), Some(Millis(NOW.0 + 10)))
    );
    assert_eq!(types(&hub).await, ["contact.created", "email.complained"]);
    // A confirmation does not lift a complaint, nor does an older one count.
    hub.accept(vec![happened(12, "contact.confirmed", None), happened(9, "contact.confirmed", None)]).await;
    let row = by_email(&hub, "a@b.co").await.unwrap();
    assert_eq!((row.opt_in, row.permission), (true, Permission::Double));
    assert!(row.suppressed_at.is_some());

    let mut stranger = happened(20, "contact.unsubscribed", None);
    stranger.event.subject = Subject::read("z@b.co");
    stranger.contact = read_event(&stranger.event, uid(20), true).map(Box::new);
    let outcome = hub.accept(vec![stranger]).await.contacts.remove(0);
    assert_eq!((outcome.turn, outcome.contact), (Turn::Unchanged, None));
    assert_eq!(by_email(&hub, "z@b.co").await, None);
    // Made later, an older wish does not bring it in.
    let late = ContactWrite {
        stated: vec![Stated::OptIn(None)],
        at: Millis(NOW.0 + 15),
        ..upsert(21, Some("z@b.co"), None)
    };
    let made = write(&hub, 21, late).await.contact.unwrap();
    assert!(!made.opt_in && made.suppressed_at.is_some(), "{made:?}");
    let facts =
        hub.store.facts(FactFilter { subject: Some("z@b.co".to_owned()), ..Default::default() }).await;
    let whats: Vec<_> = facts.unwrap().iter().map(|fact| fact.what.name()).collect();
    assert_eq!(whats, ["opt_out", "opt_in"], "an opt-out says that the address is suppressed");
    hub.audit_adds_up().await;
}

pub async fn conflicts_in_a_bulk_keep_the_good_ones(hub: Harness) {
    write(&hub, 1, upsert(1, Some("a@b.co"), Some("u-1"))).await;
    let rows = vec![
        said(2, upsert(2, Some("b@b.co"), Some("u-2"))),
        said(3, upsert(3, Some("a@b.co"), Some("u-9"))),
        said(
            4,
            ContactWrite { locale: Change::Set("it".to_owned()), ..upsert(4, Some("b@b.co"), Some("u-2")) },
        ),
        said(5, upsert(5, Some("a@b.co"), Some("u-1"))),
        said(6, upsert(6, Some("b@b.co"), Some("u-1"))),
        said(7, upsert(7, Some("c@b.co"), None)),
    ];
    let accepted = write_all(&hub, rows).await;
    let turns: Vec<_> = accepted
        .contacts
        .iter()
        .map(|outcome| match &outcome.turn {
            Turn::Refused(reason) => reason.code.clone(),
            other => format!("{other:?}"),
        })
        .collect();
    let expected = ["Created", "external_id_conflict", "Updated", "Unchanged", "address_conflict", "Created"];
    assert_eq!(turns, expected);
    assert_eq!(accepted.ids.len(), 3);
    assert_eq!(by_email(&hub, "b@b.co").await.unwrap().locale.as_deref(), Some("it"));
    assert_eq!(by_email(&hub, "a@b.co").await.unwrap().external_id.as_deref(), Some("u-1"));
    assert_eq!(hub.audit_adds_up().await.accepted, 4);
}

/// The old address leads to nobody; who was known by the new one is the same person from now on.
pub async fn a_changed_address_moves(hub: Harness) {
    write(&hub, 1, ContactWrite { opt_in: Some(true), ..upsert(1, Some("old@b.co"), Some("u-1")) }).await;
    let mut out = event(30, "contact.unsubscribed", "new@b.co");
    out.event.time = Millis(NOW.0 + 30);
    hub.accept(vec![out]).await;
    let moved = write(&hub, 40, upsert(40, Some("new@b.co"), Some("u-1"))).await.contact.unwrap();
    assert!(!moved.opt_in, "what the person said under the new address counts");
    let tenant = Name::default_tenant();
    let person = |text: &str| {
        let (store, tenant, subject) = (hub.store.clone(), tenant.clone(), Subject::read(text));
        async move { store.person(&tenant, &subject).await.unwrap() }
    };
    assert_eq!(person("old@b.co").await, None);
    assert_eq!(person("new@b.co").await.unwrap().id, person("u-1").await.unwrap().id);
    let row = contact(&hub, ContactKey::ExternalId("u-1".to_owned())).await.unwrap();
    let facts = hub.store.facts_of(&tenant, row.person, 0, 10).await.unwrap();
    let whats: Vec<_> = facts.iter().map(|fact| fact.what.name()).collect();
    assert_eq!(whats, ["opt_in", "opt_out", "address_changed"]);
    // A suppression stays with its address.
    let blocked = ContactWrite { suppress: Change::Set(Suppressed::Manual), ..update(41, "u-1") };
    assert!(write(&hub, 41, blocked).await.contact.unwrap().suppressed_at.is_some());
    assert!(
        write(&hub, 42, upsert(42, Some("third@b.co"), Some("u-1")))
            .await
            .contact
            .unwrap()
            .suppressed_at
            .is_none()
    );
    let back = write(&hub, 43, upsert(43, Some("new@b.co"), None)).await;
    assert_eq!(back.turn, Turn::Created);
    assert!(back.contact.unwrap().suppressed_at.is_some());
    hub.audit_adds_up().await;
}

pub fn ask(n: u64, token: u8) -> Option<Box<Ask>> {
    let mut asked = event(1_000 + n, "contact.confirmation_asked", "a@b.co").event;
    asked.data = RawValue::from_string("{\"token\":\"t\"}".to_owned()).unwrap().into();
    Some(Box::new(Ask {
        token: [token; 32],
        expires_at: Millis(NOW.0 + 100),
        gives: Permission::DoublePlus,
        mailing: Some("doi".to_owned()),
        again: false,
        event: asked,
    }))
}

pub async fn a_confirmation_counts_once(hub: Harness) {
    let signup = |n, token| {
        let mut write = ContactWrite { ask: ask(n, token), ..upsert(n, Some("a@b.co"), None) };
        write.evidence.page = Some("/form".to_owned());
        write.evidence.source = Some("signup".to_owned());
        write
    };
    let accepted = write_all(&hub, vec![said(1, signup(1, 1))]).await;
    assert_eq!((accepted.ids.len(), accepted.contacts[0].asked), (2, true));
    // Known and not confirmed yet: asked again, nothing else to tell.
    let again = write_all(&hub, vec![said(2, signup(2, 2))]).await;
    assert_eq!((again.ids.len(), again.contacts[0].turn.clone()), (1, Turn::Unchanged));
    assert_eq!(
        types(&hub).await,
        ["contact.created", "contact.confirmation_asked", "contact.confirmation_asked"]
    );
    let row = hub.store.confirmation(&[2; 32]).await.unwrap().unwrap();
    assert_eq!(
        (row.address, row.used_at, row.gives),
        (Some(address("a@b.co")), None, Permission::DoublePlus)
    );
    assert!(hub.store.confirmation(&[9; 32]).await.unwrap().is_none());

    let confirm = |n: u64, token: u8| {
        at(n, ContactWrite::new(ContactKey::Token([token; 32]), WriteMode::Update, uid(n), NOW, "confirm"))
    };
    assert_eq!(refused(&write(&hub, 3, confirm(3, 9)).await), "token_unknown");
    let confirmed = write(&hub, 4, confirm(4, 2)).await.contact.unwrap();
    assert_eq!((confirmed.opt_in, confirmed.permission), (true, Permission::DoublePlus));
    assert_eq!(refused(&write(&hub, 5, confirm(5, 2)).await), "token_used");
    assert_eq!(refused(&write(&hub, 100, confirm(100, 1)).await), "token_expired");
    assert_eq!(types(&hub).await.pop().unwrap(), "contact.confirmed");
    // Who has confirmed is not asked again.
    assert!(!write(&hub, 6, signup(6, 3)).await.asked);
    let counts = hub.store.subscription_counts(&Name::default_tenant()).await.unwrap();
    let one = &counts[0];
    assert_eq!(
        (counts.len(), one.source.as_deref(), one.page.as_deref()),
        (1, Some("signup"), Some("/form"))
    );
    assert_eq!((one.asked, one.confirmed, one.contacts), (2, 1, 1));
    hub.audit_adds_up().await;
}

/// What identifies the person is in no table any more; that it must not be mailed is.
pub async fn an_erasure_forgets_the_address(hub: Harness) {
    let (tenant, crm) = (Name::default_tenant(), hub.destination("crm").await);
    let make = ContactWrite { opt_in: Some(true), ..upsert(1, Some("ann@erased.example"), Some("u-erased")) };
    write(&hub, 1, make).await;
    let mut blocked = happened(2, "contact.unsubscribed", None);
    blocked.event.subject = Subject::read("ann@erased.example");
    blocked.contact = read_event(&blocked.event, uid(2), true).map(Box::new);
    let opened = |n| event(n, "email.opened", "ann@erased.example");
    hub.accept(vec![blocked, opened(3), opened(4)]).await;
    hub.route_all(crm).await;
    assert!(!hub.tables_with("ann@erased.example").await.is_empty());

    let erase = ContactWrite { erase: true, ..update(10, "u-erased") };
    let outcome = write(&hub, 10, erase.clone()).await;
    assert_eq!((outcome.turn, outcome.contact), (Turn::Erased, None));
    assert_eq!(refused(&write(&hub, 11, erase).await), "not_found");
    hub.route_all(crm).await;
    for needle in ["ann@erased.example", "u-erased"] {
        assert_eq!(hub.tables_with(needle).await, BTreeSet::new(), "{needle} is still there");
    }
    let row = hub.store.suppression_of(&tenant, &address("ann@erased.example")).await.unwrap().unwrap();
    assert_eq!((row.address, row.reason), (None, Suppressed::Erasure));
    assert_eq!(hub.store.person(&tenant, &Subject::read("ann@erased.example")).await.unwrap(), None);
    // The event tells destinations whom to erase; its lane is the person's.
    let rows = hub.store.deliveries(DeliveryFilter { limit: 10, ..Default::default() }).await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| (row.event_type.as_str(), row.state)).collect();
    let expected = [
        ("contact.erased", State::Pending),
        ("email.opened", State::Discarded),
        ("email.opened", State::Discarded),
        ("contact.unsubscribed", State::Pending),
        ("contact.created", State::Discarded),
    ];
    assert_eq!(states, expected);
    assert_eq!(rows[1].reason.as_ref().unwrap().code, "erased");
    let claims = hub.claim(crm).await;
    assert_eq!(claims.len(), 1, "the consent before it goes first");
    assert!(claims[0].person.as_ref().unwrap().erased);
    let told = hub.store.event(rows[0].event_id).await.unwrap().unwrap().event;
    assert_eq!(told.subject.address, Some(address("ann@erased.example")));
    assert_eq!(told.subject.external_id.as_deref(), Some("u-erased"));
    let facts = hub.store.facts(FactFilter::default()).await.unwrap();
    assert!(facts.iter().any(|fact| fact.what == Stated::Erased) && facts.len() >= 3, "{facts:?}");

    // Made anew it is another person, and suppressed from the start.
    let again =
        ContactWrite { opt_in: Some(true), ..upsert(20, Some("ann@erased.example"), Some("u-erased")) };
    let again = write(&hub, 20, again).await.contact.unwrap();
    assert_eq!(
        (again.uid.clone(), again.opt_in, again.suppressed_at),
        (uid(20), true, Some(Millis(NOW.0 + 10)))
    );
    hub.audit_adds_up().await;
}

//! What is said again: a stronger reason for a suppression, a consent with other proof.

use mailspan_core::contact::{
    Change, ContactKey, ContactWrite, Permission, Stated, Suppressed, Turn, WriteMode,
};
use mailspan_core::{Millis, Name, RawRequest, Subject};
use mailspan_store::{EventFilter, FactFilter, Write, pack_request};

use crate::contacts::{address, bulk, by_email, happened, said, types, update, upsert, write};
use crate::harness::{Harness, NOW, accepted, uid};

fn about(n: u64, email: &str, suppress: Change<Suppressed>) -> ContactWrite {
    let key = ContactKey::Address(address(email));
    let write = ContactWrite::new(key, WriteMode::Follow, uid(n), Millis(NOW.0 + n as i64), "api");
    ContactWrite { suppress, ..write }
}

async fn reason(hub: &Harness, email: &str) -> Option<Suppressed> {
    let row = hub.store.suppression_of(&Name::default_tenant(), &address(email)).await.unwrap();
    row.map(|row| row.reason)
}

/// Type and `suppressed_for` of the newest event.
async fn told(hub: &Harness) -> (String, serde_json::Value) {
    let rows = hub.store.events(EventFilter { limit: 1, ..Default::default() }).await.unwrap();
    let data: serde_json::Value = serde_json::from_str(rows[0].event.data.get()).unwrap();
    (rows[0].event.event_type.as_str().to_owned(), data["suppressed_for"].clone())
}

/// A complaint, a bounce or a word by hand takes the place of an unsubscription, is told, and is lifted by hand alone.
pub async fn a_stronger_reason_takes_the_place_of_an_unsubscription(hub: Harness) {
    use Suppressed::{Bounce, Complaint, Manual, Unsubscribe};
    for (n, reason_now) in [(100, Complaint), (200, Bounce), (300, Manual)] {
        let (email, id) = (format!("{}@b.co", reason_now.name()), format!("u-{n}"));
        write(&hub, n, ContactWrite { opt_in: Some(true), ..upsert(n, Some(&email), Some(&id)) }).await;
        let out = about(n + 1, &email, Change::Set(Unsubscribe));
        write(&hub, n + 1, ContactWrite { stated: vec![Stated::OptOut], ..out }).await;
        assert_eq!(reason(&hub, &email).await, Some(Unsubscribe));
        // At the same moment too: systems that keep the reason are told of another one.
        let stronger = ContactWrite {
            at: Millis(NOW.0 + n as i64 + 1),
            ..about(n + 3, &email, Change::Set(reason_now))
        };
        assert_eq!(write(&hub, n + 3, stronger).await.turn, Turn::Updated, "{reason_now:?}");
        assert_eq!(told(&hub).await, ("contact.updated".to_owned(), reason_now.name().into()));
        // A confirmation opts in, and lifts nothing; nor does a later unsubscription make it weaker.
        let confirmed = vec![Stated::OptIn(Some(Permission::Double))];
        let row = write(&hub, n + 5, ContactWrite { stated: confirmed, ..update(n + 5, &id) }).await;
        assert_eq!(reason(&hub, &email).await, Some(reason_now));
        assert!(row.contact.is_some_and(|contact| contact.opt_in && contact.suppressed_at.is_some()));
        write(&hub, n + 7, about(n + 7, &email, Change::Set(Unsubscribe))).await;
        assert_eq!(reason(&hub, &email).await, Some(reason_now));
        write(&hub, n + 9, about(n + 9, &email, Change::Clear)).await;
        assert_eq!(reason(&hub, &email).await, None);
    }
    // Of an address that is no contact too.
    write(&hub, 400, about(400, "z@b.co", Change::Set(Unsubscribe))).await;
    write(&hub, 401, about(401, "z@b.co", Change::Set(Complaint))).await;
    assert_eq!(told(&hub).await, ("contact.suppression_changed".to_owned(), "complaint".into()));
    hub.audit_adds_up().await;
}

/// Who is opted in and agrees again to something else leaves a fact with that proof; the same again leaves none.
pub async fn a_consent_that_is_renewed_is_a_fact_with_its_proof(hub: Harness) {
    let wish = |n: u64, version: Option<&str>, hash: Option<&str>| {
        let mut wish = ContactWrite { opt_in: Some(true), ..upsert(n, Some("a@b.co"), Some("u-1")) };
        wish.evidence.consent_version = version.map(str::to_owned);
        wish.evidence.text_hash = hash.map(str::to_owned);
        // Of the machine that calls, another each night.
        wish.evidence.ip = Some(format!("10.0.0.{}", n % 200));
        wish
    };
    let versions = || async {
        let facts = hub.store.facts(FactFilter::default()).await.unwrap();
        let version =
            |fact: &mailspan_store::Fact| fact.evidence.clone().and_then(|proof| proof.consent_version);
        facts.iter().map(version).collect::<Vec<_>>()
    };
    let (one, two) = (Some("v1".to_owned()), Some("v2".to_owned()));
    write(&hub, 1, wish(1, Some("v1"), None)).await;
    for n in 2..6 {
        assert_eq!(
            write(&hub, n, wish(n, Some("v1").filter(|_| n % 2 == 0), None)).await.turn,
            Turn::Unchanged
        );
    }
    assert_eq!(versions().await, std::slice::from_ref(&one), "what says nothing new left a fact");
    write(&hub, 10, wish(10, Some("v2"), None)).await;
    write(&hub, 11, wish(11, Some("v2"), None)).await;
    assert_eq!(versions().await, [one.clone(), two.clone()]);
    write(&hub, 12, wish(12, Some("v2"), Some("00"))).await;
    assert_eq!(versions().await, [one, two.clone(), two]);
    // In one transaction too, and the level that is stated with it is kept though an opt-out of before comes late.
    let level = ContactWrite { permission: Some(Permission::Double), ..wish(20, Some("v3"), None) };
    let again = ContactWrite { permission: Some(Permission::Double), ..wish(22, Some("v4"), None) };
    let both = vec![crate::contacts::said(20, level), crate::contacts::said(22, again)];
    crate::contacts::write_all(&hub, both).await;
    assert_eq!(versions().await.len(), 5);
    let late = ContactWrite { stated: vec![Stated::OptOut], ..update(21, "u-1") };
    let row = write(&hub, 30, late).await.contact.unwrap();
    assert_eq!((row.opt_in, row.permission), (true, Permission::Double));
    // After an opt-out a wish is an agreement, whatever its proof.
    write(&hub, 40, ContactWrite { opt_in: Some(false), ..update(40, "u-1") }).await;
    let row = write(&hub, 41, wish(41, Some("v4"), None)).await.contact.unwrap();
    assert!(row.opt_in);
    assert_eq!(versions().await.len(), 8);
    hub.audit_adds_up().await;
}

/// An export shows when and how somebody agreed, and why the address is not mailed.
pub async fn what_stands_behind_a_contact_is_read_with_it(hub: Harness) {
    let agree = |n: u64, page: &str| {
        let mut agree = ContactWrite { opt_in: Some(true), ..upsert(n, Some("a@b.co"), Some("u-1")) };
        agree.evidence.page = Some(page.to_owned());
        agree
    };
    write(&hub, 1, agree(1, "/a")).await;
    write(&hub, 2, agree(2, "/b")).await;
    write(&hub, 3, about(3, "a@b.co", Change::Set(Suppressed::Bounce))).await;
    write(&hub, 4, upsert(4, Some("z@b.co"), None)).await;
    let page = mailspan_store::ContactPage::After { rev: 0, limit: 10 };
    let mut rows = hub.store.contacts(Default::default(), page).await.unwrap().rows;
    rows.sort_by_key(|row| row.contact.created_at);
    let proofs = hub.store.proofs(&Name::default_tenant(), &rows).await.unwrap();
    let agreed = proofs[0].agreed.clone().map(|(at, proof)| (at, proof.page));
    assert_eq!(agreed, Some((Millis(NOW.0 + 2), Some("/b".to_owned()))));
    assert_eq!(proofs[0].suppressed, Some(Suppressed::Bounce));
    assert_eq!(proofs[1], mailspan_store::ProofRow::default());
    assert_eq!(hub.store.proofs(&Name::new("nobody"), &rows).await.unwrap().len(), 2);
}

/// A request that proves a consent and changes nothing makes no event: it is found by the fact that it left, among others
/// that came before and after it.
pub async fn a_request_that_only_proves_is_found_by_its_fact(hub: Harness) {
    let tenant = Name::default_tenant();
    let agreed = |n: u64, page: &str| {
        let mut wish = ContactWrite { opt_in: Some(true), ..upsert(n, Some("a@b.co"), Some("u-1")) };
        wish.evidence.page = Some(page.to_owned());
        let mut sent = bulk(vec![said(n, wish)]);
        sent.received_at = Millis(NOW.0 + n as i64 * 1_000);
        sent.arrivals[0].event.received_at = sent.received_at;
        sent.digest = mailspan_core::Digest([n as u8; 16]);
        sent.packed = Some(pack_request(&raw(page, sent.received_at), &[]));
        sent
    };
    // The first makes the contact, and so an event.
    for (n, page) in [(1, "/first"), (60, "/second"), (61, "/third"), (120, "/fourth")] {
        accepted(hub.store.write(Write::Accept(Box::new(agreed(n, page)))).await);
    }
    let rows = hub.store.events(EventFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!(rows.len(), 1, "only the first tells something");
    let person = hub.store.person(&tenant, &Subject::read("a@b.co")).await.unwrap().unwrap();
    let facts = hub.store.facts_of(&tenant, person.id, 0, 10).await.unwrap();
    let mut pages = vec![];
    for fact in &facts {
        let proof = hub.store.proof(&tenant, fact.learned_at, &fact.digest).await.unwrap();
        pages.extend(proof.map(|row| String::from_utf8_lossy(&row.body).into_owned()));
    }
    assert_eq!(pages, ["/first", "/second", "/third", "/fourth"]);
    let other = Name::new("other");
    let fact = &facts[1];
    assert!(hub.store.proof(&other, fact.learned_at, &fact.digest).await.unwrap().is_none());
    let later = Millis(fact.learned_at.0 + 1);
    assert!(hub.store.proof(&tenant, later, &fact.digest).await.unwrap().is_none());
    assert!(hub.store.proof(&tenant, fact.learned_at, "no digest").await.unwrap().is_none());
}

fn raw(body: &str, received_at: Millis) -> RawRequest {
    RawRequest {
        method: "PUT".to_owned(),
        url: String::new(),
        path: "/contacts".to_owned(),
        query: String::new(),
        headers: vec![],
        body: body.to_owned().into(),
        received_at,
    }
}

pub async fn suppressions_are_listed_and_lifted(hub: Harness) {
    let tenant = Name::default_tenant();
    write(&hub, 1, ContactWrite { opt_in: Some(true), ..upsert(1, Some("a@b.co"), None) }).await;
    let follow = |n: u64, email: &str, suppress| {
        let key = ContactKey::Address(address(email));
        let write = ContactWrite::new(key, WriteMode::Follow, uid(n), Millis(NOW.0 + n as i64), "api");
        ContactWrite { suppress, ..write }
    };
    let set = Change::Set(Suppressed::Manual);
    let outcome = write(&hub, 2, follow(2, "a@b.co", set.clone())).await;
    assert_eq!(outcome.turn, Turn::Updated);
    let row = outcome.contact.unwrap();
    assert_eq!((row.opt_in, row.suppressed_at), (true, Some(Millis(NOW.0 + 2))));
    assert_eq!(
        write(&hub, 3, follow(3, "a@b.co", Change::Set(Suppressed::Bounce))).await.turn,
        Turn::Unchanged
    );
    // Who is no contact can be suppressed too: whoever mails the address is told.
    assert_eq!(write(&hub, 4, follow(4, "z@b.co", set)).await.contact, None);
    assert_eq!(types(&hub).await, ["contact.created", "contact.updated", "contact.suppression_changed"]);
    let filter =
        |after, limit| mailspan_store::SuppressionFilter { tenant: Some(tenant.clone()), after, limit };
    let listed = hub.store.suppressions(filter(0, 1)).await.unwrap();
    assert_eq!((listed[0].address.clone(), listed[0].reason), (Some(address("a@b.co")), Suppressed::Manual));
    let next = hub.store.suppressions(filter(listed[0].id, 10)).await.unwrap();
    assert_eq!((next.len(), next[0].address.clone()), (1, Some(address("z@b.co"))));
    // Lifted: the opt-in stays what it was.
    let row = write(&hub, 5, follow(5, "A@b.co", Change::Clear)).await.contact.unwrap();
    assert_eq!((row.opt_in, row.suppressed_at), (true, None));
    assert_eq!(hub.store.suppression_of(&tenant, &address("a@b.co")).await.unwrap(), None);
    let facts = hub.store.facts(FactFilter::default()).await.unwrap();
    let whats: Vec<_> = facts.iter().map(|fact| fact.what.name()).collect();
    assert_eq!(whats, ["opt_in", "suppressed", "suppressed", "suppression_lifted"]);
    assert_eq!(facts[1].evidence.as_ref().unwrap().note.as_deref(), Some("manual"));
    // Unsubscribed on a page, confirmed anew later: that one is lifted by the confirmation.
    hub.accept(vec![happened(10, "contact.unsubscribed", None)]).await;
    assert!(by_email(&hub, "a@b.co").await.unwrap().suppressed_at.is_some());
    hub.accept(vec![happened(11, "contact.confirmed", None)]).await;
    let row = by_email(&hub, "a@b.co").await.unwrap();
    assert_eq!((row.opt_in, row.suppressed_at, row.unsubscribed_at), (true, None, None));
    hub.audit_adds_up().await;
}

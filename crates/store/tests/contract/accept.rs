//! The door: dedupe, idempotency, quarantine, consent, persons, keys, what was refused.

use mailspan_core::contact::{Change, ContactOutcome, ContactWrite, Stated, Turn};
use mailspan_core::{Address, Digest, EventId, Millis, Name, RawRequest, Reason, Subject};
use mailspan_engine::Fence;
use mailspan_store::{
    Accepted, Answered, EventFilter, FactFilter, Idempotency, NewKey, RefusedRequest, Tell, Trouble, Unread,
    Write, Wrote, pack_request,
};

use crate::contacts::{bulk, said, upsert};

use crate::harness::{Harness, NOW, accepted, event, receipt};

pub async fn what_is_accepted_is_read_back(hub: Harness) {
    let request = RawRequest {
        method: "POST".to_owned(),
        url: String::new(),
        path: "/in/mailtarget".to_owned(),
        query: String::new(),
        headers: vec![("x-signature".to_owned(), b"ab".to_vec())],
        body: bytes::Bytes::from_static(b"[{\"n\":92356927693813856123}]"),
        received_at: NOW,
    };
    let mut sent = receipt(vec![event(1, "email.opened", "Ann@example.org")]);
    sent.packed = Some(pack_request(&request, &[]));
    sent.unreadable = vec![Unread { part: 1, reason: Reason::new("bad", "no object"), raw: "[".to_owned() }];
    let answer = accepted(hub.store.write(Write::Accept(Box::new(sent))).await);
    assert_eq!((answer.ids.as_slice(), answer.quarantined), (&[EventId(1)][..], 1));

    let row = hub.store.event(EventId(1)).await.unwrap().unwrap();
    assert_eq!((row.place, row.deliveries), ("waiting", 0));
    assert_eq!(row.event.subject, Subject::read("Ann@example.org"));
    assert_eq!(row.event.data.get(), "{\"n\":1}");
    let kept = hub.store.request_of(EventId(1)).await.unwrap().unwrap();
    assert_eq!((kept.body.as_slice(), kept.credential.as_str()), (&request.body[..], "secret one"));
    assert_eq!(kept.digest, Digest([7; 16]).to_string());
    let element = hub.store.unreadable(10, None).await.unwrap().remove(0);
    assert_eq!((element.raw.as_str(), element.part, element.reason.code.as_str()), ("[", 1, "bad"));

    // By subject, while it waits too; and not for another.
    let about = |subject: &str| EventFilter { subject: Some(subject.to_owned()), ..Default::default() };
    assert_eq!(hub.store.events(about("ann@EXAMPLE.org")).await.unwrap().len(), 1);
    assert_eq!(hub.store.events(about("bob@example.org")).await.unwrap().len(), 0);
    let of_type = EventFilter { event_type: Some("email.clicked".to_owned()), ..Default::default() };
    assert_eq!(hub.store.events(of_type).await.unwrap().len(), 0);
    hub.audit_adds_up().await;
}

pub async fn duplicates_are_counted_not_kept(hub: Harness) {
    hub.accept(vec![event(1, "email.opened", "a@b.co"), event(1, "email.opened", "a@b.co")]).await;
    let answer =
        hub.accept(vec![event(1, "email.opened", "a@b.co"), event(2, "email.opened", "a@b.co")]).await;
    assert_eq!((answer.ids.as_slice(), answer.duplicates), (&[EventId(2)][..], 1));
    // Another source may use the same ids; without a key nothing is a duplicate.
    let mut other = receipt(vec![event(1, "email.opened", "a@b.co")]);
    other.source = Name::new("other");
    other.arrivals[0].event.id = EventId(100);
    assert_eq!(accepted(hub.store.write(Write::Accept(Box::new(other))).await).ids.len(), 1);
    for id in [201, 202] {
        let mut keyless = event(9, "app.x", "a@b.co");
        keyless.dedupe = None;
        keyless.event.id = EventId(id);
        assert_eq!(hub.accept(vec![keyless]).await.ids.len(), 1);
    }
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.accepted, audit.duplicates, audit.waiting), (5, 2, 5));
}

pub async fn dedupe_reaches_over_closed_segments_and_a_restart(hub: Harness) {
    for n in 0..260 {
        hub.accept(vec![event(n, "app.x", "a@b.co")]).await;
    }
    let all = || (0..260).map(|n| event(n, "app.x", "a@b.co")).collect::<Vec<_>>();
    assert_eq!(hub.accept(all()).await.duplicates, 260);
    let hub = hub.reopened().await;
    let answer = hub.accept(all()).await;
    assert_eq!((answer.duplicates, answer.ids.len()), (260, 0));
    assert_eq!(hub.accept(vec![event(260, "app.x", "a@b.co")]).await.ids.len(), 1);
    hub.audit_adds_up().await;
}

pub async fn the_first_answer_comes_again_for_the_same_key(hub: Harness) {
    let asked = |n: u64, body: u8, at: i64| {
        let mut asked = receipt(vec![event(n, "app.x", "a@b.co")]);
        asked.arrivals[0].dedupe = None;
        asked.received_at = Millis(NOW.0 + at);
        asked.idempotency =
            Some(Idempotency { api_key: 1, key: "k".to_owned(), body: Digest([body; 16]), tell: None });
        Write::Accept(Box::new(asked))
    };
    let first = accepted(hub.store.write(asked(1, 1, 0)).await);
    match hub.store.write(asked(2, 1, 1_000)).await {
        Ok(Wrote::Accepted { accepted, again: true }) => assert_eq!(accepted, first),
        other => panic!("{other:?}"),
    }
    match hub.store.write(asked(3, 2, 1_000)).await {
        Err(Trouble::Refused(reason)) => assert_eq!(reason.code, "idempotency_conflict"),
        other => panic!("{other:?}"),
    }
    let a_day = 86_400_000;
    match hub.store.write(asked(4, 2, a_day)).await {
        Ok(Wrote::Accepted { accepted, again: false }) => assert_eq!(accepted.ids, [EventId(4)]),
        other => panic!("{other:?}"),
    }
    assert_eq!(hub.audit_adds_up().await.accepted, 2);
}

pub async fn an_answer_that_names_a_person_comes_again_until_the_erasure(hub: Harness) {
    let body = |outcomes: &[ContactOutcome]| -> Option<Answered> {
        let contact =
            outcomes[0].contact.as_ref().filter(|_| !matches!(outcomes[0].turn, Turn::Refused(_)))?;
        let about = Subject { address: contact.address.clone(), external_id: contact.external_id.clone() };
        Some(Answered { status: 200, body: format!("{:?}", contact.locale), about: vec![about] })
    };
    let asked = |n: u64, key: &str, write: ContactWrite| {
        let tell = Tell { suppression: None, body: Box::new(move |outcomes, _| body(outcomes)) };
        let mut asked = bulk(vec![said(n, write)]);
        asked.idempotency =
            Some(Idempotency { api_key: 1, key: key.to_owned(), body: Digest([1; 16]), tell: Some(tell) });
        Write::Accept(Box::new(asked))
    };
    let put = |n: u64, locale: &str| ContactWrite {
        locale: Change::Set(locale.to_owned()),
        ..upsert(n, Some("ann.erasable@b.co"), Some("u-1"))
    };
    let text = |accepted: &Accepted| accepted.told.as_ref().map(|told| told.body.clone());
    let first = accepted(hub.store.write(asked(1, "k", put(1, "es"))).await);
    assert_eq!((text(&first).as_deref(), first.ids.len()), (Some("Some(\"es\")"), 1));
    crate::contacts::write(&hub, 2, put(2, "fr")).await;
    match hub.store.write(asked(3, "k", put(3, "es"))).await {
        Ok(Wrote::Accepted { accepted, again: true }) => assert_eq!(text(&accepted), text(&first)),
        other => panic!("{other:?}"),
    }
    // A refusal keeps nothing: under the same key it is judged anew.
    let nobody = || crate::contacts::update(4, "nobody");
    for _ in 0..2 {
        match hub.store.write(asked(4, "k2", nobody())).await {
            Ok(Wrote::Accepted { accepted, again: false }) => assert_eq!(accepted.told, None),
            other => panic!("{other:?}"),
        }
    }
    let erase = ContactWrite { erase: true, ..crate::contacts::update(5, "u-1") };
    crate::contacts::write(&hub, 5, erase).await;
    match hub.store.write(asked(6, "k", put(6, "es"))).await {
        Err(Trouble::Refused(reason)) => assert_eq!(reason.code, "answer_erased"),
        other => panic!("{other:?}"),
    }
    hub.audit_adds_up().await;
}

/// The bad one fails after it has changed something, so its group is run again.
pub async fn one_bad_write_fails_alone_in_its_group(hub: Harness) {
    hub.accept(vec![event(0, "app.x", "a@b.co")]).await;
    let fence = hub.lease("router").await;
    let waiting = hub.store.unrouted(1).await.unwrap();
    let mut twice = vec![];
    for event in waiting.iter().chain(&waiting) {
        twice.push(crate::harness::routed(event.clone(), hub.route_id("r").await, None));
    }
    let good = (1..60).map(|n| {
        let store = hub.store.clone();
        async move { store.write(Write::Accept(Box::new(receipt(vec![event(n, "app.x", "a@b.co")])))).await }
    });
    let store = hub.store.clone();
    let bad = async move { store.write(Write::Route { fence, routed: twice }).await };
    let tasks = tokio::task::LocalSet::new();
    let good = tasks.run_until(async {
        let handles: Vec<_> = good.map(tokio::task::spawn_local).collect();
        let bad = tokio::task::spawn_local(bad);
        let mut ids = vec![];
        for handle in handles {
            ids.extend(accepted(handle.await.unwrap()).ids);
        }
        assert_eq!(bad.await.unwrap().unwrap_err(), Trouble::FenceLost);
        ids
    });
    assert_eq!(good.await.len(), 59);
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.accepted, audit.waiting), (60, 60));
    assert_eq!(fence, Fence(1));
}

pub async fn an_id_that_exists_is_refused_alone(hub: Harness) {
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    let mut given = event(2, "contact.unsubscribed", "a@b.co");
    given.event.id = EventId(1);
    let good = (10..30).map(|n| receipt(vec![event(n, "app.x", "a@b.co")]));
    let sent = good.chain([receipt(vec![event(9, "app.x", "a@b.co"), given])]).map(|receipt| {
        let store = hub.store.clone();
        tokio::spawn(async move { store.write(Write::Accept(Box::new(receipt))).await })
    });
    let mut answers = vec![];
    for answer in sent.collect::<Vec<_>>() {
        answers.push(answer.await.unwrap());
    }
    match answers.pop() {
        Some(Err(Trouble::Refused(reason))) => {
            assert_eq!(reason.code, "event_id_exists");
            assert!(reason.text.contains(&EventId(1).to_string()), "{}", reason.text);
        }
        other => panic!("{other:?}"),
    }
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    // Nothing of the refused request is kept: its other event comes again under its key.
    assert_eq!(hub.accept(vec![event(9, "app.x", "a@b.co")]).await.ids, [EventId(9)]);
    assert_eq!(hub.store.facts(FactFilter::default()).await.unwrap().len(), 0);
    assert_eq!(hub.audit_adds_up().await.accepted, 22);
}

pub async fn consent_is_known_from_the_answer_on(hub: Harness) {
    let (tenant, ann) = (Name::default_tenant(), Subject::read("ann@example.org"));
    hub.accept(vec![event(5, "contact.unsubscribed", "ann@example.org")]).await;
    hub.accept(vec![
        event(3, "email.complained", "ANN@example.org"),
        event(4, "contact.confirmed", "ann@example.org"),
    ])
    .await;
    let mut test = event(9, "contact.unsubscribed", "test@example.org");
    test.event.test = true;
    hub.accept(vec![test, event(6, "contact.subscribed", "")]).await;

    let person = hub.store.person(&tenant, &ann).await.unwrap().unwrap();
    assert_eq!(
        person.opted_out_at,
        Some(Millis(NOW.0 - 1_000 + 5)),
        "the latest opt-out counts, whatever came last"
    );
    assert_eq!(person.opted_in_at, Some(Millis(NOW.0 - 1_000 + 4)));
    assert_eq!(hub.store.person(&tenant, &Subject::read("test@example.org")).await.unwrap(), None);

    let facts = hub.store.facts(FactFilter::default()).await.unwrap();
    let whats: Vec<_> = facts.iter().map(|fact| fact.what).collect();
    assert_eq!(whats, [Stated::OptOut, Stated::DoNotContact, Stated::OptIn(None), Stated::OptIn(None)]);
    assert_eq!(facts[0].subject.as_deref(), Some("ann@example.org"));
    assert_eq!(
        (facts[0].event_id, facts[0].digest.as_str()),
        (EventId(5), Digest([7; 16]).to_string().as_str())
    );
    assert_eq!(facts[3].subject, None);
    let filter =
        FactFilter { subject: Some("ann@example.org".to_owned()), after: facts[0].id, ..Default::default() };
    assert_eq!(hub.store.facts(filter).await.unwrap().len(), 2);
}

pub async fn two_identities_are_one_person(hub: Harness) {
    let tenant = Name::default_tenant();
    let both =
        Subject { address: Address::parse("ann@example.org").ok(), external_id: Some("cus_1".to_owned()) };
    let mut arrived = event(2, "app.x", "");
    arrived.event.subject = both.clone();
    hub.accept(vec![event(1, "app.x", "ann@example.org"), arrived, event(3, "app.x", "cus_1")]).await;
    let crm = hub.destination("crm").await;
    hub.route_all(crm).await;
    let ids = [both, Subject::read("cus_1"), Subject::read("Ann@example.org")];
    let mut persons = vec![];
    for subject in &ids {
        persons.push(hub.store.person(&tenant, subject).await.unwrap().unwrap());
    }
    assert!(persons.iter().all(|person| *person == persons[0]), "{persons:?}");
    assert_eq!(persons[0].subject.external_id.as_deref(), Some("cus_1"));
    let filter = EventFilter { subject: Some("cus_1".to_owned()), ..Default::default() };
    assert_eq!(hub.store.events(filter).await.unwrap().len(), 3);
}

pub async fn the_ring_of_refused_keeps_the_newest(hub: Harness) {
    let refused = |n: usize, source: &str| {
        Write::Refused(Box::new(RefusedRequest {
            tenant: Name::default_tenant(),
            source: Name::new(source),
            at: Millis(NOW.0 + n as i64),
            check: "signature".to_owned(),
            text: n.to_string(),
            hint: None,
            headers: vec![("a".to_owned(), "b".to_owned())],
            body: vec![b'x'; 20_000].into(),
        }))
    };
    let (one, other) = (hub.store.clone(), Name::new("other"));
    hub.store.write(refused(0, "other")).await.unwrap();
    let writes = (0..1_010).map(|n| {
        let store = one.clone();
        let write = refused(n, "s");
        tokio::spawn(async move { store.write(write).await })
    });
    for handle in writes.collect::<Vec<_>>() {
        handle.await.unwrap().unwrap();
    }
    let kept = hub.store.refused(Some(Name::new("s")), 1_000).await.unwrap();
    assert_eq!((kept.len(), kept[0].text.as_str(), kept[999].text.as_str()), (1_000, "1009", "10"));
    assert_eq!(kept[0].body.len(), 16 << 10);
    assert_eq!(hub.store.refused(Some(other), 10).await.unwrap().len(), 1);
    assert_eq!(hub.audit_adds_up().await.refused, 1_011);
}

pub async fn keys_are_found_by_hash_and_revoked(hub: Harness) {
    let key = |hash| {
        Write::Key(NewKey {
            tenant: Name::default_tenant(),
            hash: [hash; 32],
            shown: "ms_ab".to_owned(),
            scopes: vec!["events:write".to_owned()],
            note: "app".to_owned(),
            created_at: NOW,
            expires_at: None,
        })
    };
    let Ok(Wrote::Key { id }) = hub.store.write(key(1)).await else { panic!("no key") };
    assert!(matches!(hub.store.write(key(1)).await, Err(Trouble::Refused(_))));
    hub.store.write(Write::KeyUsed { id, at: NOW }).await.unwrap();
    hub.store.write(Write::RevokeKey { id, at: NOW }).await.unwrap();
    let row = hub.store.key_by_hash([1; 32]).await.unwrap().unwrap();
    assert_eq!((row.revoked_at, row.last_used_at, row.scopes.len()), (Some(NOW), Some(NOW), 1));
    assert!(hub.store.key_by_hash([2; 32]).await.unwrap().is_none());
    assert!(matches!(hub.store.write(Write::RevokeKey { id: 99, at: NOW }).await, Err(Trouble::Refused(_))));
    assert_eq!(hub.store.keys().await.unwrap().len(), 1);
}

//! An erasure to its end: the walk, what others keep, what was under way, the certificate.

use mailspan_core::contact::{Change, ContactWrite, read_event};
use mailspan_core::{
    Attempt, DestinationId, EventId, Millis, Name, Outcome, RawRequest, RawValue, Reason, Settlement, State,
    Subject,
};
use mailspan_store::{
    Arrived, Certified, ErasedHash, ErasureStage, EventFilter, RefusedRequest, Store, Unread, Write, Wrote,
    pack_request,
};

use crate::contacts::{update, upsert, write};
use crate::harness::{Harness, NOW, ended, event, receipt, uid};

const ANN: &str = "ann.erasable7@gone.example";
const FORMER: &str = "ann.former-8@gone.example";
const BOB: &str = "bob@stays.example";
/// What must be nowhere in the end.
const NEEDLES: [&str; 5] = [ANN, "ann.erasable7", "u-erased-9", FORMER, "ann.former-8"];

fn with_data(arrived: Arrived, part: u32, data: &str) -> Arrived {
    let event = mailspan_core::Event {
        data: RawValue::from_string(data.to_owned()).unwrap().into(),
        ..arrived.event
    };
    Arrived { event, part, ..arrived }
}

fn raw(body: &str) -> Vec<u8> {
    let request = RawRequest {
        method: "POST".to_owned(),
        url: String::new(),
        path: "/in/mailtarget".to_owned(),
        query: format!("who={}", ANN.replace('@', "%40")),
        headers: vec![("x-about".to_owned(), ANN.as_bytes().to_vec())],
        body: body.to_owned().into(),
        received_at: NOW,
    };
    pack_request(&request, &[])
}

/// A person with all that can be about one; gives the destination.
async fn a_life(hub: &Harness) -> DestinationId {
    let crm = hub.destination("crm").await;
    write(hub, 1, ContactWrite { opt_in: Some(true), ..upsert(1, Some(FORMER), Some("u-erased-9")) }).await;
    let mut moved = upsert(2, Some(ANN), Some("u-erased-9"));
    moved.evidence.ip = Some("203.0.113.77".to_owned());
    moved.opt_in = Some(false);
    write(hub, 2, moved).await;
    let body = format!(r#"[{{"r":"{ANN}","n":1}},{{"r":"{BOB}","n":2,"price":1.50}},{{"nobody":"{ANN}"}}]"#);
    let mut batch = receipt(vec![
        with_data(event(11, "email.opened", ANN), 0, &format!(r#"{{"to":"{ANN}","name":"Ann E."}}"#)),
        with_data(
            event(12, "email.opened", BOB),
            1,
            &format!(r#"{{"n":1.50,"cc":"{}"}}"#, ANN.to_uppercase()),
        ),
    ]);
    batch.packed = Some(raw(&body));
    let reason = Reason::new("no_type", format!("nothing of {ANN}"));
    batch.unreadable = vec![Unread { part: 2, reason, raw: format!(r#"{{"nobody":"{ANN}"}}"#) }];
    hub.store.write(Write::Accept(Box::new(batch))).await.unwrap();
    let refused = RefusedRequest {
        tenant: Name::default_tenant(),
        source: Name::new("mailtarget"),
        at: NOW,
        check: "signature".to_owned(),
        text: "x".to_owned(),
        hint: None,
        headers: vec![("from".to_owned(), ANN.to_owned())],
        body: format!("r={ANN}").into(),
    };
    hub.store.write(Write::Refused(Box::new(refused))).await.unwrap();
    hub.route_all(crm).await;
    for round in 0..4 {
        let claims = hub.claim(crm).await;
        let settlements = claims.iter().enumerate().map(|(n, claim)| Settlement {
            attempt: Some(0),
            outcome: Outcome::Ended {
                state: if n == 0 && round == 0 { State::Dead } else { State::Delivered },
                reason: Some(Reason::new("x", format!("told {ANN} of it"))),
            },
            ..ended(claim.delivery, State::Delivered)
        });
        let settlements: Vec<Settlement> = settlements.collect();
        let fence = hub.lease(&format!("destination/{}", crm.0)).await;
        let request = Some(format!(r#"{{"email":"{ANN}"}}"#).into_bytes());
        let attempts = vec![Attempt {
            at: NOW,
            took_ms: 1,
            items: 1,
            status: 200,
            request,
            answer: Some(format!("ok {ANN}")),
        }];
        let write = Write::Settle { say: vec![], destination: crm, fence, settlements, attempts, at: NOW };
        hub.store.write(write).await.unwrap();
    }
    crm
}

async fn walk(store: &Store) {
    for _ in 0..1_000 {
        match store.write(Write::Erase).await.unwrap() {
            Wrote::Erasing { moved: true } => {}
            Wrote::Erasing { moved: false } => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("the walk does not end");
}

async fn stage(hub: &Harness) -> ErasureStage {
    hub.store.erasure(1).await.unwrap().unwrap().stage
}

/// All that the API shows, as one text.
async fn all_texts(hub: &Harness) -> String {
    let mut text = String::new();
    for row in hub.store.events(EventFilter { limit: 1_000, ..Default::default() }).await.unwrap() {
        text += &format!("{:?} {}\n", row.event.subject, row.event.data.get());
        if let Some(request) = hub.store.request_of(row.event.id).await.unwrap() {
            text += &format!("{request:?} {}\n", String::from_utf8_lossy(&request.body));
        }
    }
    for row in hub.all().await {
        text += &format!("{row:?}\n");
        for attempt in hub.store.attempts(row.id).await.unwrap() {
            let request = attempt.request.clone().unwrap_or_default();
            text += &format!("{attempt:?} {}\n", String::from_utf8_lossy(&request));
        }
    }
    text += &format!("{:?}\n", hub.store.unreadable(100, None).await.unwrap());
    for row in hub.store.refused(None, 100).await.unwrap() {
        text += &format!("{row:?} {}\n", String::from_utf8_lossy(&row.body));
    }
    text + &format!("{:?}", hub.store.facts(mailspan_store::FactFilter::default()).await.unwrap())
}

/// The address, its local part, the external id and the former address are found in no table and no body.
pub async fn nothing_of_the_person_is_found(hub: Harness) {
    a_life_to_its_end(&hub).await;
}

/// What happened before the erasure, comes after its certificate and goes through the router says nothing either.
pub async fn what_comes_late_of_who_is_erased_says_nothing(hub: Harness) {
    let crm = a_life_to_its_end(&hub).await;
    let body = format!(r#"[{{"r":"{ANN}","name":"Ann E."}},{{"r":"{BOB}","n":2}}]"#);
    let mut batch = receipt(vec![
        with_data(event(41, "email.delivered", ANN), 0, &format!(r#"{{"to":"{ANN}","name":"Ann E."}}"#)),
        with_data(event(42, "email.delivered", BOB), 1, r#"{"n":2}"#),
    ]);
    batch.packed = Some(raw(&body));
    let order = r#"{"customer":"u-erased-9","who":"Ann E."}"#;
    let mut alone = receipt(vec![with_data(event(43, "order.created", "u-erased-9"), 0, order)]);
    alone.packed = Some(raw(order));
    for late in [batch, alone] {
        hub.store.write(Write::Accept(Box::new(late))).await.unwrap();
    }
    hub.route_all(crm).await;
    let went: Vec<_> = hub.claim(crm).await.into_iter().map(|claim| claim.event.id).collect();
    assert_eq!(went, [EventId(42)], "Bob's alone goes out");
    for late in [41, 43] {
        let kept = hub.store.event(EventId(late)).await.unwrap().unwrap().event;
        let said = (kept.event_type.as_str(), kept.subject.shown(), kept.data.get());
        assert_eq!(said, (mailspan_core::OUTLIVED, None, "null"));
    }
    check_gone(&hub).await;
    let request = hub.store.request_of(EventId(42)).await.unwrap().unwrap();
    let kept = format!(r#"[{{"erased":true}},{{"r":"{BOB}","n":2}}]"#);
    assert_eq!((String::from_utf8_lossy(&request.body).as_ref(), request.redacted), (kept.as_str(), true));
    assert_eq!(hub.store.person(&Name::default_tenant(), &Subject::read(ANN)).await.unwrap(), None);
    hub.audit_adds_up().await;
}

/// From the first write to the certificate; gives the destination.
async fn a_life_to_its_end(hub: &Harness) -> DestinationId {
    let crm = a_life(hub).await;
    let before = all_texts(hub).await.to_lowercase();
    for needle in NEEDLES {
        assert!(before.contains(needle), "{needle} was never there: the test looks for nothing");
    }
    write(hub, 30, ContactWrite { erase: true, ..update(30, "u-erased-9") }).await;
    walk(&hub.store).await;
    assert_eq!(stage(hub).await, ErasureStage::Asking, "the event is not routed yet");
    hub.route_all(crm).await;
    walk(&hub.store).await;
    assert_eq!(stage(hub).await, ErasureStage::Asking, "a destination has not answered");
    let claims = hub.claim(crm).await;
    let told: Vec<_> =
        claims.iter().filter(|one| one.event.event_type.as_str() == "contact.erased").collect();
    assert_eq!(told[0].event.subject.address.as_ref().unwrap().as_str(), ANN);
    hub.settle(crm, vec![ended(told[0].delivery, State::Delivered)]).await.unwrap();
    walk(&hub.store).await;
    assert_eq!(stage(hub).await, ErasureStage::Certifying);
    let verdicts = hub.store.erasure_verdicts(1).await.unwrap();
    assert_eq!((verdicts.len(), verdicts[0].state), (1, State::Delivered));
    let certified = Certified { id: 1, certificate: "{}".to_owned(), at: NOW };
    hub.store.write(Write::Certify(certified)).await.unwrap();
    let row = hub.store.erasure(1).await.unwrap().unwrap();
    assert_eq!((row.stage, row.unread, row.done_at), (ErasureStage::Done, 0, Some(NOW)));
    for table in ["events", "requests", "unreadable", "refused", "attempts", "deliveries", "ledger"] {
        assert!(row.removed.contains_key(table), "nothing of {table}: {:?}", row.removed);
    }
    check_gone(hub).await;
    check_others(hub).await;
    hub.audit_adds_up().await;
    crm
}

async fn check_gone(hub: &Harness) {
    let after = all_texts(hub).await.to_lowercase();
    for needle in NEEDLES.into_iter().chain(["203.0.113.77", "ann e."]) {
        let place = after.find(needle).map(|at| &after[at.saturating_sub(200)..after.len().min(at + 200)]);
        assert_eq!(place, None, "{needle} is still there");
        assert_eq!(hub.all_tables_with(needle).await, Default::default(), "{needle} is still in a table");
    }
    assert!(hub.all().await.iter().all(|row| row.state != State::Dead || row.event_type != "email.opened"));
}

/// Bob keeps his part of the request, to the letter, and it says that it is not whole.
async fn check_others(hub: &Harness) {
    let of_bob = hub.store.event(EventId(12)).await.unwrap().unwrap().event;
    assert_eq!((of_bob.subject.shown(), of_bob.data.get()), (Some(BOB), r#"{"n":1.50,"cc":"[erased]"}"#));
    let request = hub.store.request_of(EventId(12)).await.unwrap().unwrap();
    let kept = format!(r#"[{{"erased":true}},{{"r":"{BOB}","n":2,"price":1.50}},{{"erased":true}}]"#);
    assert_eq!(String::from_utf8_lossy(&request.body), kept);
    assert!(request.redacted);
    assert_eq!(request.digest, mailspan_core::Digest([7; 16]).to_string(), "the old digest stays");
    let person = hub.store.person(&Name::default_tenant(), &Subject::read(BOB)).await.unwrap();
    assert!(person.is_some_and(|person| !person.erased));
}

/// Events that waited for the router make no new person; a store from a back-up is told whom it has to erase.
pub async fn who_is_erased_is_not_made_again(hub: Harness) {
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "email.opened", ANN)]).await;
    hub.route_all(crm).await;
    hub.accept(vec![event(2, "email.clicked", ANN), event(3, "email.opened", "u-erased-9")]).await;
    let erase = ContactWrite { erase: true, ..upsert(4, Some(ANN), None) };
    write(&hub, 4, erase).await;
    hub.accept(vec![event(5, "email.opened", BOB)]).await;
    hub.route_all(crm).await;
    let tenant = Name::default_tenant();
    assert_eq!(hub.store.person(&tenant, &Subject::read(ANN)).await.unwrap(), None);
    let to_ann: Vec<_> =
        hub.all().await.into_iter().filter(|row| row.event_type == "email.clicked").collect();
    assert!(to_ann.is_empty(), "an event of who was erased went out: {to_ann:?}");
    let hashes = hub.store.erased_hashes(None).await.unwrap();
    assert_eq!(hashes.len(), 1);
    assert_eq!(hub.store.here_again(hashes.clone()).await.unwrap(), vec![], "the store knows of the erasure");
    // Who comes later is somebody new, and stays.
    let mut late = event(6, "email.opened", ANN);
    late.event.received_at = Millis(NOW.0 + 50);
    hub.accept(vec![late]).await;
    hub.route_all(crm).await;
    assert_eq!(hub.store.person(&tenant, &Subject::read(ANN)).await.unwrap(), None, "it happened before");
    let mut later = event(7, "email.opened", ANN);
    (later.event.time, later.event.received_at) = (Millis(NOW.0 + 50), Millis(NOW.0 + 60));
    hub.accept(vec![later]).await;
    hub.route_all(crm).await;
    assert!(hub.store.person(&tenant, &Subject::read(ANN)).await.unwrap().is_some());
    hub.audit_adds_up().await;
}

/// Each page is one transaction with its place: a walk goes on where it stood.
pub async fn a_walk_goes_on_after_a_restart(hub: Harness) {
    let crm = a_life(&hub).await;
    write(&hub, 30, ContactWrite { erase: true, ..update(30, "u-erased-9") }).await;
    hub.route_all(crm).await;
    for _ in 0..3 {
        hub.store.write(Write::Erase).await.unwrap();
    }
    let removed = hub.store.erasure(1).await.unwrap().unwrap().removed;
    let hub = hub.reopened().await;
    assert_eq!(hub.store.erasure(1).await.unwrap().unwrap().removed, removed);
    let claims = hub.claim(crm).await;
    let ends = claims.iter().map(|claim| ended(claim.delivery, State::Dead)).collect();
    hub.settle(crm, ends).await.unwrap();
    walk(&hub.store).await;
    assert_eq!(stage(&hub).await, ErasureStage::Certifying);
    let certified = Certified { id: 1, certificate: "{}".to_owned(), at: NOW };
    hub.store.write(Write::Certify(certified)).await.unwrap();
    check_gone(&hub).await;
    hub.audit_adds_up().await;
}

/// A contact that named the erased person has changed: it stands at the end of the list that pushes go by, and a
/// list of another system that is older than the erasure does not bring the words back.
pub async fn what_others_lose_goes_out_and_does_not_come_back(hub: Harness) {
    let attributes = || -> std::collections::BTreeMap<String, serde_json::Value> {
        [("friend".to_owned(), ANN.into()), ("ref".to_owned(), "u-erased-9".into())].into()
    };
    let mut bob = upsert(1, Some(BOB), Some("u-bob"));
    bob.attributes = Change::Set(attributes());
    write(&hub, 1, bob.clone()).await;
    write(&hub, 2, upsert(2, Some(ANN), Some("u-erased-9"))).await;
    write(&hub, 3, upsert(3, Some("eve@stays.example"), None)).await;
    let rev = listed(&hub, 0).await.iter().map(|row| row.rev).max().unwrap();
    write(&hub, 30, ContactWrite { erase: true, ..update(30, "u-erased-9") }).await;
    walk(&hub.store).await;
    let moved = listed(&hub, rev).await;
    assert_eq!(moved.len(), 1, "a push would not take what was cut out: {moved:?}");
    let contact = &moved[0].contact;
    assert_eq!(contact.address.as_ref().unwrap().as_str(), BOB);
    assert!(contact.fields.attributes.values().all(|value| value == "[erased]"), "{contact:?}");
    assert!(contact.updated_at >= Millis(NOW.0 + 30), "a list of before would count as newer");
    // A row that the account wrote before the erasure, found after it.
    let found = ContactWrite { found: true, at: Millis(NOW.0 + 20), ..bob };
    write(&hub, 40, found).await;
    let now = listed(&hub, rev).await;
    assert_eq!(now[0].contact.fields.attributes, contact.fields.attributes, "the words came back");
    hub.audit_adds_up().await;
}

async fn listed(hub: &Harness, rev: i64) -> Vec<mailspan_store::ContactRow> {
    let page = mailspan_store::ContactPage::After { rev, limit: 10 };
    hub.store.contacts(Default::default(), page).await.unwrap().rows
}

/// A vendor's answer may name anybody, and stands with what it paused for as long as nobody mends that.
pub async fn what_paused_a_source_or_a_destination_names_nobody_who_is_erased(hub: Harness) {
    let (crm, about) = (hub.destination("crm").await, hub.source().await);
    write(&hub, 1, upsert(1, Some(ANN), Some("u-erased-9"))).await;
    let reason = |text: &str| Some(Reason::new("refused", text));
    let fence = hub.lease(&mailspan_store::round_lease(about)).await;
    let words = format!("HTTP 403: {BOB} may not see U-ERASED-9, nor mailto:{ANN}");
    let mark = mailspan_store::RoundMark {
        reason: Some(words.clone()),
        paused: reason(&words),
        ..crate::rounds::mark(about, fence, "c")
    };
    hub.store.write(Write::Round(Box::new(mark))).await.unwrap();
    let paused = reason("HTTP 401: owner of u-erased-9 is gone");
    let stand = Write::Stand { fence: None, say: None, destination: crm, paused, at: NOW };
    hub.store.write(stand).await.unwrap();
    let tables = hub.all_tables_with("u-erased-9").await;
    assert!(tables.contains("rounds") && tables.contains("destinations"), "{tables:?}");
    write(&hub, 30, ContactWrite { erase: true, ..update(30, "u-erased-9") }).await;
    hub.route_all(crm).await;
    for claim in hub.claim(crm).await {
        hub.settle(crm, vec![ended(claim.delivery, State::Delivered)]).await.unwrap();
    }
    walk(&hub.store).await;
    let removed = hub.store.erasure(1).await.unwrap().unwrap().removed;
    assert_eq!((removed.get("rounds"), removed.get("destinations")), (Some(&1), Some(&1)));
    let round = hub.store.rounds().await.unwrap().remove(0);
    assert_eq!(round.reason.unwrap(), format!("HTTP 403: {BOB} may not see [erased], nor mailto:[erased]"));
    assert_eq!(round.paused.unwrap().code, "refused", "it is still paused");
    let certificate = "{}".to_owned();
    hub.store.write(Write::Certify(Certified { id: 1, certificate, at: NOW })).await.unwrap();
    for needle in [ANN, "ann.erasable7", "u-erased-9"] {
        assert_eq!(hub.all_tables_with(needle).await, Default::default(), "{needle} is still in a table");
    }
}

/// As many that wait for a destination as one likes hold nobody up: who comes after them is removed, and all are
/// certified, oldest first, when the destination has answered.
pub async fn more_than_are_walked_together_come_to_their_end(hub: Harness) {
    const COPIES: i64 = 210;
    const LAST: i64 = COPIES + 2;
    let crm = hub.destination("crm").await;
    write(&hub, 1, upsert(1, Some(BOB), None)).await;
    write(&hub, 2, ContactWrite { erase: true, ..upsert(2, Some(BOB), None) }).await;
    hub.route_all(crm).await;
    // As if as many had been asked for: a walk for each of two hundred persons would take long.
    let copies = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {COPIES})
         INSERT INTO erasures (tenant, person, event, asked_at, sealed, progress)
         SELECT x.tenant, x.person, x.event, x.asked_at, x.sealed, x.progress
         FROM erasures x CROSS JOIN n WHERE x.id = 1"
    );
    assert_eq!(hub.past(&copies).await, COPIES as usize);
    write(&hub, 3, upsert(3, Some(ANN), None)).await;
    write(&hub, 4, ContactWrite { erase: true, ..upsert(4, Some(ANN), None) }).await;
    hub.route_all(crm).await;
    assert_eq!(hub.store.open_erasures().await.unwrap().newest, Some(LAST));
    walk(&hub.store).await;
    let rows = hub.store.erasures(None, None, 1_000).await.unwrap();
    assert_eq!((rows.len() as i64, rows[0].id), (LAST, LAST));
    let waiting: Vec<i64> =
        rows.iter().filter(|row| row.stage == ErasureStage::Removing).map(|row| row.id).collect();
    assert_eq!(waiting, Vec::<i64>::new(), "these wait behind those that wait for a destination");
    let mut tables = hub.all_tables_with("ann.erasable7").await;
    // The event that tells of it.
    tables.remove("events");
    assert_eq!(tables, Default::default(), "the last one was not walked");
    assert_eq!(hub.store.open_erasures().await.unwrap().certifying.len(), 0);
    loop {
        let claims = hub.claim(crm).await;
        if claims.is_empty() {
            break;
        }
        let ends = claims.iter().map(|claim| ended(claim.delivery, State::Delivered)).collect();
        hub.settle(crm, ends).await.unwrap();
    }
    let mut certified = vec![];
    loop {
        walk(&hub.store).await;
        let open = hub.store.open_erasures().await.unwrap();
        if open.newest.is_none() {
            break;
        }
        assert!(!open.certifying.is_empty(), "{:?} is open, and nothing can be certified", open.newest);
        for row in open.certifying {
            certified.push(row.id);
            let certificate = "{}".to_owned();
            hub.store.write(Write::Certify(Certified { id: row.id, certificate, at: NOW })).await.unwrap();
        }
    }
    assert_eq!(certified, (1..=LAST).collect::<Vec<_>>(), "each once, oldest first");
    hub.audit_adds_up().await;
}

/// Destinations may know somebody whom the hub does not: the erasure has its walk, its certificate, and finds who
/// signed up meanwhile under the same external id.
pub async fn the_erasure_of_a_stranger_is_followed_to_its_end(hub: Harness) {
    let (tenant, crm) = (Name::default_tenant(), hub.destination("crm").await);
    let mut asked = with_data(
        event(1, "contact.erased", ANN),
        0,
        &format!(r#"{{"contact":{{"email":"{ANN}","external_id":"u-erased-9"}}}}"#),
    );
    asked.contact = read_event(&asked.event, uid(1), true).map(Box::new);
    let mut sent = receipt(vec![asked]);
    sent.packed = Some(raw(ANN));
    hub.store.write(Write::Accept(Box::new(sent))).await.unwrap();
    let row = hub.store.erasure(1).await.unwrap().expect("an erasure of nobody known left no row");
    assert_eq!(row.hashes.len(), 2, "the address and the external id");
    hub.route_all(crm).await;
    walk(&hub.store).await;
    assert_eq!(stage(&hub).await, ErasureStage::Asking);
    let anew = ContactWrite { opt_in: Some(true), ..upsert(20, Some(BOB), Some("u-erased-9")) };
    write(&hub, 20, anew).await;
    let known = |hash: &String| ErasedHash { tenant: tenant.clone(), hash: hash.clone(), at: NOW };
    let found = hub.store.here_anew(row.hashes.iter().map(known).collect()).await.unwrap();
    assert_eq!(found.len(), 1, "who signed up under the same external id is not noticed");
    let claims = hub.claim(crm).await;
    assert_eq!(claims[0].event.subject.external_id.as_deref(), Some("u-erased-9"));
    hub.settle(crm, vec![ended(claims[0].delivery, State::Delivered)]).await.unwrap();
    walk(&hub.store).await;
    assert_eq!(stage(&hub).await, ErasureStage::Certifying);
    let certified = Certified { id: 1, certificate: "{}".to_owned(), at: NOW };
    hub.store.write(Write::Certify(certified)).await.unwrap();
    for needle in [ANN, "ann.erasable7"] {
        assert_eq!(hub.tables_with(needle).await, Default::default(), "{needle} is still there");
    }
    assert!(hub.store.person(&tenant, &Subject::read(BOB)).await.unwrap().is_some());
    hub.audit_adds_up().await;
}

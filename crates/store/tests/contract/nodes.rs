//! Several nodes on one database: only for PostgreSQL.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;

use mailspan_core::{
    Cause, Class, DestinationId, Digest, EventId, Millis, Name, Offer, Outcome, Queue, Seq, SplitMix64,
    State, Subject,
};
use mailspan_engine::Fence;
use mailspan_store::{
    EventFilter, FactFilter, Heard, Idempotency, Keep, OpenError, Trouble, Write, Wrote, open_postgres,
};

use crate::harness::{
    Harness, NOW, accepted, ended, event, postgres, postgres_options, receipt, routed, settlement,
};
use crate::upgrade;

type Done = Pin<Box<dyn Future<Output = ()>>>;
type Case = (&'static str, fn(String) -> Done);

pub fn cases() -> Vec<Case> {
    vec![
        ("same_copies_on_both_are_one_event", |url| Box::pin(same_copies_on_both_are_one_event(url))),
        ("segments_closed_by_one_are_known_to_the_other", |url| {
            Box::pin(segments_closed_by_one_are_known_to_the_other(url))
        }),
        ("one_key_is_answered_once_by_both", |url| Box::pin(one_key_is_answered_once_by_both(url))),
        ("persons_and_names_are_made_once", |url| Box::pin(persons_and_names_are_made_once(url))),
        ("a_lease_is_held_by_one_and_taken_over", |url| Box::pin(a_lease_is_held_by_one_and_taken_over(url))),
        ("an_orderly_end_frees_its_leases", |url| Box::pin(an_orderly_end_frees_its_leases(url))),
        ("leases_of_a_session_that_ended_are_free", |url| {
            Box::pin(leases_of_a_session_that_ended_are_free(url))
        }),
        ("what_is_committed_late_is_routed", |url| Box::pin(what_is_committed_late_is_routed(url))),
        ("the_owner_is_woken", |url| Box::pin(the_owner_is_woken(url))),
        ("a_cut_connection_is_made_again", |url| Box::pin(a_cut_connection_is_made_again(url))),
        ("a_read_that_is_given_up_leaves_nothing_open", |url| {
            Box::pin(a_read_that_is_given_up_leaves_nothing_open(url))
        }),
        ("a_frozen_transaction_gives_its_locks_back", |url| {
            Box::pin(a_frozen_transaction_gives_its_locks_back(url))
        }),
        ("lanes_hold_when_nodes_meet", |url| Box::pin(lanes_hold_when_nodes_meet(url))),
        ("a_day_of_work_scans_no_table", |url| Box::pin(crate::scans::a_day_of_work_scans_no_table(url))),
        ("many_that_start_at_once_migrate_once", |url| {
            Box::pin(upgrade::many_that_start_at_once_migrate_once(url))
        }),
        ("an_older_node_serves_while_a_newer_one_migrates", |url| {
            Box::pin(upgrade::an_older_node_serves_while_a_newer_one_migrates(url))
        }),
        ("columns_and_tables_of_a_later_version_disturb_nobody", |url| {
            Box::pin(upgrade::columns_and_tables_of_a_later_version_disturb_nobody(url))
        }),
        ("a_migration_that_waits_lets_others_through", |url| {
            Box::pin(upgrade::a_migration_that_waits_lets_others_through(url))
        }),
        ("foreign_newer_and_changed_are_left_alone", |url| {
            Box::pin(foreign_newer_and_changed_are_left_alone(url))
        }),
        ("a_job_is_taken_over_with_its_cursor", |url| {
            Box::pin(crate::jobs::a_job_is_taken_over_with_its_cursor(url))
        }),
        ("a_cursor_passes_over_no_contact_that_commits_late", |url| {
            Box::pin(crate::late::a_cursor_passes_over_no_contact_that_commits_late(url))
        }),
        ("a_transaction_that_stays_open_is_overtaken_by_nobody", |url| {
            Box::pin(crate::late::a_transaction_that_stays_open_is_overtaken_by_nobody(url))
        }),
        ("both_say_the_same", |url| Box::pin(crate::same::both_say_the_same(url))),
    ]
}

pub async fn two(url: String) -> (Harness, Harness) {
    (postgres(url.clone()).await, postgres(url).await)
}

/// A connection past the store.
pub async fn plain(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}

async fn same_copies_on_both_are_one_event(url: String) {
    let (one, other) = two(url).await;
    let mut sent = vec![];
    for n in 0..100 {
        for (hub, id) in [(&one, n), (&other, 1_000 + n)] {
            let store = hub.store.clone();
            let mut copy = event(n, "app.x", "a@b.co");
            copy.event.id = EventId(u128::from(id));
            let write = Write::Accept(Box::new(receipt(vec![copy])));
            sent.push(tokio::spawn(async move { store.write(write).await }));
        }
    }
    let (mut ids, mut duplicates) = (0, 0);
    for answer in sent {
        let answer = accepted(answer.await.unwrap());
        ids += answer.ids.len();
        duplicates += answer.duplicates;
    }
    assert_eq!((ids, duplicates), (100, 100));
    assert_eq!(other.store.unrouted(1_000).await.unwrap().len(), 100);
    let audit = one.audit_adds_up().await;
    assert_eq!((audit.accepted, audit.duplicates), (100, 100));
}

async fn segments_closed_by_one_are_known_to_the_other(url: String) {
    let (one, other) = two(url).await;
    for n in 0..260 {
        let hub = if n % 3 == 0 { &other } else { &one };
        hub.accept(vec![event(n, "app.x", "a@b.co")]).await;
    }
    for hub in [&other, &one] {
        for page in 0..4 {
            let copies = (page * 65..page * 65 + 65).map(|n| event(n, "app.x", "a@b.co"));
            assert_eq!(hub.accept(copies.collect()).await.duplicates, 65, "page {page}");
        }
    }
    one.audit_adds_up().await;
}

async fn one_key_is_answered_once_by_both(url: String) {
    let (one, other) = two(url).await;
    let mut sent = vec![];
    for n in 0..40_u64 {
        let store = if n % 2 == 0 { &one } else { &other }.store.clone();
        let mut asked = receipt(vec![event(n, "app.x", "a@b.co")]);
        asked.arrivals[0].dedupe = None;
        let key = format!("k{}", n / 4);
        asked.idempotency = Some(Idempotency { api_key: 1, key, body: Digest([1; 16]), tell: None });
        sent.push(tokio::spawn(async move { store.write(Write::Accept(Box::new(asked))).await }));
    }
    let mut ids: HashMap<usize, HashSet<EventId>> = HashMap::new();
    for (n, answer) in sent.into_iter().enumerate() {
        ids.entry(n / 4).or_default().extend(accepted(answer.await.unwrap()).ids);
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "each key has one answer: {ids:?}");
    assert_eq!(one.audit_adds_up().await.accepted, 10);
}

async fn persons_and_names_are_made_once(url: String) {
    let (one, other) = two(url).await;
    let mut sent = vec![];
    for n in 0..60_u64 {
        let store = if n % 2 == 0 { &one } else { &other }.store.clone();
        let subject = format!("a{}@b.co", n / 6);
        let write = Write::Accept(Box::new(receipt(vec![event(n, "contact.unsubscribed", &subject)])));
        sent.push(tokio::spawn(async move { accepted(store.write(write).await) }));
    }
    for answer in sent {
        assert_eq!(answer.await.unwrap().ids.len(), 1);
    }
    for n in 0..10_i64 {
        let (tenant, who) = (Name::default_tenant(), Subject::read(&format!("a{n}@b.co")));
        let mine = one.store.person(&tenant, &who).await.unwrap().unwrap();
        assert_eq!(Some(&mine), other.store.person(&tenant, &who).await.unwrap().as_ref());
        assert_eq!(mine.opted_out_at, Some(Millis(NOW.0 - 1_000 + n * 6 + 5)), "the latest of six");
        let subject = Some(format!("a{n}@b.co"));
        let facts = one.store.facts(FactFilter { subject, ..Default::default() }).await.unwrap();
        assert_eq!(facts.len(), 6, "all of one person");
    }
    let names = tokio::join!(one.destination("crm"), other.destination("crm"));
    assert_eq!(names.0, names.1);
}

pub async fn take(hub: &Harness, name: &str, owner: u128, now: i64, until: i64) -> Option<Fence> {
    let write = Write::Lease { name: name.to_owned(), owner, now: Millis(now), until: Millis(until) };
    match hub.store.write(write).await.unwrap() {
        Wrote::Lease { fence } => fence,
        other => panic!("{other:?}"),
    }
}

async fn a_lease_is_held_by_one_and_taken_over(url: String) {
    let (one, other) = two(url).await;
    let crm = one.destination("crm").await;
    let route = one.route_id("r").await;
    let owned = format!("destination/{}", crm.0);
    let both = tokio::join!(take(&one, "router", 1, 0, 100), take(&other, "router", 2, 0, 100));
    assert!(both.0.is_some() != both.1.is_some(), "one of them routes: {both:?}");
    assert_eq!(take(&one, &owned, 1, 0, 100).await, Some(Fence(1)));
    assert_eq!(take(&other, &owned, 2, 99, 200).await, None, "it has not run out");
    assert_eq!(take(&one, &owned, 1, 99, 150).await, Some(Fence(1)), "a heartbeat keeps the fence");

    one.accept(vec![event(1, "app.x", "a@b.co")]).await;
    one.route_all(crm).await;
    let delivery = other.claim(crm).await[0].delivery;
    assert_eq!(take(&other, &owned, 2, 150, 300).await, Some(Fence(2)));
    let settle = |fence| {
        let settlements = vec![ended(delivery, State::Delivered)];
        Write::Settle {
            say: vec![],
            destination: crm,
            fence: Fence(fence),
            settlements,
            attempts: vec![],
            at: NOW,
        }
    };
    assert_eq!(one.store.write(settle(1)).await.unwrap_err(), Trouble::FenceLost);
    assert_eq!(one.all().await[0].state, State::Pending);
    other.store.write(settle(2)).await.unwrap();

    // A router that was taken over routes nothing, whatever it has read.
    one.accept(vec![event(2, "app.x", "a@b.co")]).await;
    let old = one.lease("router").await;
    let waiting = one.store.unrouted(10).await.unwrap();
    let new = take(&other, "router", 2, i64::MAX, i64::MAX).await.unwrap();
    assert!(new > old);
    let batch = |fence| {
        let routed = waiting.iter().map(|event| routed(event.clone(), route, Some(crm))).collect();
        Write::Route { fence, routed }
    };
    assert_eq!(one.store.write(batch(old)).await.unwrap_err(), Trouble::FenceLost);
    other.store.write(batch(new)).await.unwrap();
    one.audit_adds_up().await;
}

async fn an_orderly_end_frees_its_leases(url: String) {
    let (one, other) = two(url).await;
    assert_eq!(take(&one, "router", 1, 0, 1_000).await, Some(Fence(1)));
    assert_eq!(take(&other, "router", 2, 1, 1_000).await, None);
    let one = one.reopened().await;
    assert_eq!(take(&other, "router", 2, 2, 1_000).await, Some(Fence(2)));
    assert_eq!(take(&one, "router", 1, 3, 1_000).await, None);
}

/// As when a process is killed: its session ends, and others need not wait for the time of its lease.
async fn leases_of_a_session_that_ended_are_free(url: String) {
    let (one, other) = two(url.clone()).await;
    let mut lost = one.store.lost().unwrap();
    assert_eq!(take(&one, "router", 11, 0, 1_000).await, Some(Fence(1)));
    assert_eq!(take(&other, "router", 12, 1, 1_000).await, None, "its owner lives");
    let past = plain(&url).await;
    let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks
               WHERE locktype = 'advisory' AND objid = 11 AND objsubid = 1";
    assert_eq!(past.query(end, &[]).await.unwrap().len(), 1, "no session stands for the owner");
    assert_eq!(take(&other, "router", 12, 2, 1_000).await, Some(Fence(2)));
    lost.changed().await.unwrap();
    let route = Write::Route { fence: Fence(1), routed: vec![] };
    assert!(one.store.write(route).await.is_err(), "it routes under a fence that it lost");
    // Connected again, it does not get back what another holds, and stands for its owner again.
    let again =
        || Write::Lease { name: "router".to_owned(), owner: 11, now: Millis(3), until: Millis(1_000) };
    let answer = loop {
        match one.store.write(again()).await {
            Err(Trouble::Broken(_)) => tokio::task::yield_now().await,
            answered => break answered.unwrap(),
        }
    };
    assert!(matches!(answer, Wrote::Lease { fence: None }), "{answer:?}");
    assert_eq!(take(&one, "job/1", 11, 0, 1_000).await, Some(Fence(1)));
    assert_eq!(take(&other, "job/1", 12, 4, 1_000).await, None);
}

/// The first node's group has its numbers and waits; the second's gets higher ones and is routed before.
async fn what_is_committed_late_is_routed(url: String) {
    let (one, other) = two(url.clone()).await;
    let crm = one.destination("crm").await;
    one.accept(vec![event(0, "app.x", "z@b.co")]).await;
    other.route_all(crm).await;
    let mut past = plain(&url).await;
    let held = past.transaction().await.unwrap();
    // Sums are written last, by each node in rows of its own.
    held.execute("SELECT * FROM counts WHERE place = 10 FOR UPDATE", &[]).await.unwrap();
    let store = one.store.clone();
    let write = Write::Accept(Box::new(receipt(vec![event(1, "app.x", "a@b.co")])));
    let late = tokio::spawn(async move { store.write(write).await });
    loop {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        if held.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    other.accept(vec![event(2, "app.x", "a@b.co"), event(3, "app.x", "a@b.co")]).await;
    let seqs = |events: Vec<mailspan_core::Event>| {
        events.iter().map(|event| event.seq.unwrap().0).collect::<Vec<_>>()
    };
    assert_eq!(seqs(other.store.unrouted(10).await.unwrap()), [3, 4]);
    other.route_all(crm).await;
    held.commit().await.unwrap();
    assert_eq!(accepted(late.await.unwrap()).ids, [EventId(1)]);
    assert_eq!(seqs(other.store.unrouted(10).await.unwrap()), [2], "a cursor would have passed it");
    other.route_all(crm).await;
    assert_eq!(other.audit_adds_up().await.routed, 4);
}

async fn the_owner_is_woken(url: String) {
    let (one, other) = two(url).await;
    let (crm, own) = (one.destination("crm").await, one.destination("own").await);
    other.lease(&format!("destination/{}", crm.0)).await;
    one.lease(&format!("destination/{}", own.0)).await;
    let mut heard = other.store.listen();
    one.lease("router").await;
    one.accept(vec![event(1, "app.x", "a@b.co"), event(2, "app.x", "c@b.co")]).await;
    let events = one.store.unrouted(10).await.unwrap();
    let route = one.route_id("r").await;
    let routed = events.into_iter().zip([crm, own]).map(|(event, to)| routed(event, route, Some(to)));
    let write = Write::Route { fence: Fence(1), routed: routed.collect() };
    one.store.write(write).await.unwrap();
    assert_eq!(heard.next().await, Heard::Offered(vec![crm]), "its own destination needs no word");

    let mut router = one.store.listen();
    other.accept(vec![event(3, "app.x", "a@b.co")]).await;
    while router.next().await != Heard::Accepted {}

    // The owner of a destination is told what an operator decided elsewhere.
    let reason = mailspan_core::Reason::new("operator", "by hand");
    one.store
        .write(Write::Stand { fence: None, say: None, destination: crm, paused: Some(reason), at: NOW })
        .await
        .unwrap();
    while heard.next().await != Heard::Stood {}
    assert_eq!(other.claim(crm).await.len(), 0, "it holds at once, whoever has heard of it");
    one.store
        .write(Write::Stand { fence: None, say: None, destination: crm, paused: None, at: NOW })
        .await
        .unwrap();
    assert_eq!(other.claim(crm).await.len(), 1);
}

async fn a_cut_connection_is_made_again(url: String) {
    let hub = postgres(url.clone()).await;
    hub.accept(vec![event(0, "app.x", "a@b.co")]).await;
    let past = plain(&url).await;
    for n in 1..6 {
        past.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
            &[],
        )
        .await
        .unwrap();
        // What fails says that the store is broken, and the same again is no second event.
        loop {
            match hub.store.write(Write::Accept(Box::new(receipt(vec![event(n, "app.x", "a@b.co")])))).await {
                Ok(_) => break,
                Err(Trouble::Broken(_)) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                Err(other) => panic!("{other:?}"),
            }
        }
        loop {
            match hub.store.unrouted(100).await {
                Ok(events) => break assert_eq!(events.len() as u64, n + 1),
                Err(Trouble::Broken(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    let audit = hub.audit_adds_up().await;
    assert_eq!(audit.accepted, 6);
}

/// A request that is dropped takes its read along, at whatever step.
async fn a_read_that_is_given_up_leaves_nothing_open(url: String) {
    let hub = postgres(url.clone()).await;
    hub.accept((0..50).map(|n| event(n, "app.x", "a@b.co")).collect()).await;
    for polls in 0..60 {
        let mut read = Box::pin(hub.store.events(EventFilter::default()));
        for _ in 0..polls {
            let ended = std::future::poll_fn(|context| std::task::Poll::Ready(read.as_mut().poll(context)));
            if ended.await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(hub.store.events(EventFilter::default()).await.unwrap().len(), 50);
    let past = plain(&url).await;
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    while past.query_one(open, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// A node that is stopped inside a transaction holds its lease row; the server ends it.
async fn a_frozen_transaction_gives_its_locks_back(url: String) {
    let hub = postgres(url.clone()).await;
    let crm = hub.destination("crm").await;
    hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    let past = plain(&url).await;
    past.batch_execute("SET idle_in_transaction_session_timeout = '1s'; BEGIN").await.unwrap();
    past.execute("SELECT * FROM leases FOR UPDATE", &[]).await.unwrap();
    assert_eq!(hub.route_all(crm).await, [crm]);
    assert!(past.execute("SELECT 1", &[]).await.is_err());
}

/// One node routes and replays, the other owns the destination and settles, both at random and at once, and
/// both drop what is old.
async fn lanes_hold_when_nodes_meet(url: String) {
    let (one, other) = two(url).await;
    let crm = one.destination("crm").await;
    let route = one.route_id("r").await;
    // Retention comes between them: what ended goes, what is offered again stays or is gone.
    let keep = Keep { now: Millis(NOW.0 + 1), requests_ms: 0, events_ms: 0, dedupe_ms: i64::MAX };
    let router = async {
        let mut random = SplitMix64(11);
        for step in 0..60_u64 {
            let kinds = ["email.opened", "email.bounced", "email.complained", "contact.unsubscribed"];
            let arrivals = (0..3).map(|n| {
                let subject = ["a@b.co", "c@b.co", ""][random.below(3) as usize];
                event(step * 3 + n, kinds[random.below(4) as usize], subject)
            });
            one.accept(arrivals.collect()).await;
            one.route_all(crm).await;
            let offers = (0..3).map(|_| Offer {
                event: Seq(1 + random.below(step * 3 + 1) as i64),
                route,
                destination: crm,
                class: [Class::Consent, Class::Profile, Class::Activity][random.below(3) as usize],
                cause: Cause::Replay,
                ordered: true,
            });
            let (offers, again) = (offers.collect(), random.chance(50));
            match one.store.write(Write::Offer { offers, again, at: NOW }).await {
                Ok(_) => {}
                // Numbers have gaps.
                Err(Trouble::Refused(reason)) => assert_eq!(reason.code, "event_gone"),
                Err(other) => panic!("{other:?}"),
            }
            if step % 5 == 4 {
                one.store.write(Write::Retain(keep)).await.unwrap();
            }
        }
    };
    let owner = async {
        let mut random = SplitMix64(12);
        for round in 0..120 {
            if round % 4 == 3 {
                other.store.write(Write::Retain(keep)).await.unwrap();
            }
            let claims = other.claim(crm).await;
            let settlements = claims.iter().map(|claim| {
                let lower = [Class::Profile, Class::Activity][random.below(2) as usize].max(claim.class);
                let outcome = match random.below(5) {
                    0 => Outcome::Ended { state: State::Dead, reason: None },
                    1 => Outcome::Again { due: NOW, queue: Queue::Retry, class: lower, reason: None },
                    2 => Outcome::Progressed,
                    3 => Outcome::CarriedBy { delivery: claim.delivery },
                    _ => Outcome::Ended { state: State::Delivered, reason: None },
                };
                settlement(claim.delivery, outcome, vec![])
            });
            other.settle(crm, settlements.collect()).await.unwrap();
        }
    };
    tokio::join!(router, owner);
    one_head_a_lane(&one, crm).await;
    one.audit_adds_up().await;
}

async fn one_head_a_lane(hub: &Harness, crm: DestinationId) {
    let mut lanes: HashMap<(String, Class), (usize, usize)> = HashMap::new();
    for row in hub.all().await {
        if row.state != State::Pending {
            assert_eq!(row.due, None, "what ended is never due: {row:?}");
            continue;
        }
        let person = row.subject.clone().unwrap_or_else(|| row.event_id.to_string());
        let (work, heads) = lanes.entry((person, row.class)).or_default();
        *work += 1;
        *heads += usize::from(row.due.is_some());
    }
    for (lane, (work, heads)) in lanes {
        assert_eq!(heads, 1, "{lane:?} of {crm:?} has {work} pending and {heads} heads");
    }
}

async fn foreign_newer_and_changed_are_left_alone(url: String) {
    let past = plain(&url).await;
    let start = || async { open_postgres(postgres_options(url.clone())).await.map(drop) };
    past.batch_execute("CREATE TABLE customers (id BIGINT)").await.unwrap();
    assert!(matches!(start().await, Err(OpenError::Foreign { .. })));
    past.batch_execute("DROP TABLE customers").await.unwrap();
    start().await.unwrap();
    past.batch_execute("INSERT INTO migrations VALUES (99, 'x', '', 0)").await.unwrap();
    let newer = start().await.unwrap_err();
    assert!(matches!(newer, OpenError::Newer { found: 99, .. }), "{newer}");
    past.batch_execute("DELETE FROM migrations WHERE number = 99; UPDATE migrations SET digest = ''")
        .await
        .unwrap();
    assert!(matches!(start().await, Err(OpenError::Changed { number: 1, .. })));
    let nowhere = url.replace("/case_", "/no_case_");
    let refused = open_postgres(postgres_options(nowhere)).await.map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Server { .. }), "{refused}");
}

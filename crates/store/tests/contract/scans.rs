//! PostgreSQL: what grows with the store is reached by an index.

use mailspan_core::{Class, DestinationId, EventId, Outcome, Queue, State};
use mailspan_store::{DeliveryFilter, EventFilter, FactFilter, Keep, Walk, Write};

use crate::harness::*;
use crate::nodes::plain;

/// What grows with the store is reached by an index, whatever the planner knew when it planned.
pub async fn a_day_of_work_scans_no_table(url: String) {
    let hub = postgres(url.clone()).await;
    let crm = hub.destination("crm").await;
    a_day_of_work(&hub, crm, 0).await;
    let hub = hub.reopened().await;
    let past = plain(&url).await;
    past.batch_execute("ANALYZE").await.unwrap();
    // Not again at some moment of the server's own: the count would depend on it.
    past.batch_execute(
        "DO $$ DECLARE t text; BEGIN FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema()
         LOOP EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = off)', t); END LOOP; END $$",
    )
    .await
    .unwrap();
    let before = scans(&past).await;
    let entries = entries_read(&past).await;
    for day in 1..4 {
        a_day_of_work(&hub, crm, day).await;
    }
    drop(hub);
    // A backend says what it did when it ends.
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    while past.query_one(others, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let scanned = "a table was read from end to end: look at EXPLAIN of what reads it";
    assert_eq!(scans(&past).await, before, "{scanned}");
    let entries = entries_read(&past).await - entries;
    println!("{entries} index entries");
    assert!(entries < 60_000, "three days of 400 events read {entries} index entries: a plan walks an index");
}

/// Entries of all indexes that statements have read.
async fn entries_read(past: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname <> 'counts'";
    past.query_one(sql, &[]).await.unwrap().get(0)
}

async fn scans(past: &tokio_postgres::Client) -> Vec<(String, i64)> {
    let small = ["unrouted", "destinations", "tenants", "segments", "migrations", "meta", "counts", "leases"];
    let sql =
        "SELECT relname::text, seq_scan FROM pg_stat_user_tables WHERE NOT relname = ANY($1) ORDER BY 1";
    let small: Vec<String> = small.iter().map(|name| (*name).to_owned()).collect();
    let rows = past.query(sql, &[&small]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn a_day_of_work(hub: &Harness, crm: DestinationId, day: u64) {
    let arrivals = (0..400).map(|n| {
        let kind = ["email.opened", "contact.unsubscribed"][usize::from(n % 9 == 0)];
        let mut one = event(day * 1_000 + n, kind, &format!("a{}@b.co", day * 100 + n % 90));
        one.event.transmission = Some(format!("t{day}-{}", n / 2));
        one
    });
    hub.accept(arrivals.collect()).await;
    hub.route_all(crm).await;
    for round in 0..3 {
        let claims = hub.claim(crm).await;
        let settled = claims.iter().enumerate().map(|(n, claim)| {
            let again =
                Outcome::Again { due: NOW, queue: Queue::Retry, class: Class::Activity, reason: None };
            match n % 3 {
                0 => settlement(claim.delivery, again, vec![]),
                1 if round == 0 => ended(claim.delivery, State::Dead),
                _ => ended(claim.delivery, State::Delivered),
            }
        });
        hub.settle(crm, settled.collect()).await.unwrap();
    }
    let id = EventId(u128::from(day * 1_000 + 7));
    let store = &hub.store;
    store.event(id).await.unwrap().unwrap();
    store.request_of(id).await.unwrap();
    let subject = Some(format!("a{}@b.co", day * 100 + 3));
    let filter = DeliveryFilter { subject: subject.clone(), ..Default::default() };
    let delivery = store.deliveries(filter).await.unwrap()[0].id;
    store
        .deliveries(DeliveryFilter { state: Some(State::Dead), limit: 5, ..Default::default() })
        .await
        .unwrap();
    store.deliveries(DeliveryFilter { limit: 5, ..Default::default() }).await.unwrap();
    store.delivery(delivery).await.unwrap().unwrap();
    store.attempts(delivery).await.unwrap();
    store.events(EventFilter { subject: subject.clone(), ..Default::default() }).await.unwrap();
    store.facts(FactFilter { subject, ..Default::default() }).await.unwrap();
    store.work().await.unwrap();
    store.sizes().await.unwrap();
    let offers = vec![store.offer_of(delivery).await.unwrap().unwrap()];
    store.write(Write::Offer { offers, again: true, at: NOW }).await.unwrap();
    let dead = crate::jobs::walk(crm);
    assert!(!store.walk(dead.clone()).await.unwrap().rows.is_empty());
    store.walk(Walk { states: vec![State::Delivered], ..dead }).await.unwrap();
    store.delivery_span().await.unwrap();
    store.replays_pending(crm).await.unwrap();
    store.running_jobs().await.unwrap();
    let keep = Keep { now: NOW, requests_ms: 1, events_ms: 1, dedupe_ms: 1 };
    store.write(Write::Retain(keep)).await.unwrap();
}

//! Versions change while nodes serve: only for PostgreSQL, but for the rule on migrations.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mailspan_core::State;
use mailspan_store::{EventFilter, FactFilter, JobFilter, Keep, OpenError, Write, open_postgres};

use crate::harness::{Harness, NOW, ended, event, postgres, postgres_options};
use crate::nodes::plain;

/// Everything that a node does with its tables, once.
async fn work(hub: &Harness, n: u64) {
    let crm = hub.destination("crm").await;
    let who = format!("p{}@b.co", n % 7);
    hub.accept(vec![event(n, "email.opened", &who), event(n + 1, "contact.unsubscribed", &who)]).await;
    hub.route_all(crm).await;
    let claims = hub.claim(crm).await;
    let settlements = claims.iter().map(|claim| ended(claim.delivery, State::Delivered)).collect();
    hub.settle(crm, settlements).await.unwrap();
    let keep = Keep { now: NOW, requests_ms: 0, events_ms: i64::MAX, dedupe_ms: i64::MAX };
    hub.store.write(Write::Retain(keep)).await.unwrap();
    hub.store.jobs(JobFilter::default()).await.unwrap();
    hub.store.leases().await.unwrap();
    hub.store.keys().await.unwrap();
    hub.store.key_by_hash([7; 32]).await.unwrap();
    hub.store.facts(FactFilter::default()).await.unwrap();
    hub.store.events(EventFilter::default()).await.unwrap();
    hub.store.unreadable(10, None).await.unwrap();
    hub.store.refused(None, 10).await.unwrap();
    hub.store.destinations(None).await.unwrap();
    hub.store.running_jobs().await.unwrap();
    hub.store.delivery_span().await.unwrap();
    if let Some(claim) = claims.first() {
        hub.store.attempts(claim.delivery).await.unwrap();
        hub.store.request_of(claim.event.id).await.unwrap();
        hub.store.event(claim.event.id).await.unwrap();
    }
    hub.all().await;
}

/// A node of this version works, without an error, while `change` changes the tables under it.
async fn while_one_serves(url: String, change: impl AsyncFnOnce()) {
    let hub = postgres(url).await;
    let done = Arc::new(AtomicBool::new(false));
    let is_done = done.clone();
    let serves = async {
        let mut n = 0;
        // Some rounds before, and some after.
        let mut left = 5;
        while left > 0 {
            work(&hub, n).await;
            n += 2;
            left -= u64::from(is_done.load(Ordering::Relaxed));
        }
        n
    };
    let changes = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        change().await;
        done.store(true, Ordering::Relaxed);
    };
    let (n, ()) = tokio::join!(serves, changes);
    let audit = hub.audit_adds_up().await;
    assert_eq!((audit.accepted, audit.pending), (n, 0));
}

/// As it was before a migration of which the statements of this version need nothing: it brings an index.
const BACK: &str = "DROP INDEX deliveries_replays; DELETE FROM migrations WHERE number = 2";

/// The older version is this one without that migration.
pub async fn an_older_node_serves_while_a_newer_one_migrates(url: String) {
    let past = plain(&url).await;
    let change = async || {
        past.batch_execute(BACK).await.unwrap();
        drop(open_postgres(postgres_options(url.clone())).await.unwrap());
    };
    while_one_serves(url.clone(), change).await;
    let sql = "SELECT max(number), to_regclass('deliveries_replays')::text FROM migrations";
    let row = past.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), mailspan_store::SCHEMA);
    assert!(row.get::<_, Option<String>>(1).is_some());
}

/// What the next migrations may do, all at once and to every table, under a node that knows nothing of it.
pub async fn columns_and_tables_of_a_later_version_disturb_nobody(url: String) {
    let past = plain(&url).await;
    let change = async || {
        let tables = past.query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'", &[]);
        for row in tables.await.unwrap() {
            let table: String = row.get(0);
            // One transaction a table: what holds two can meet a node that holds them the other way round.
            let text = format!(
                "BEGIN; ALTER TABLE {table} ADD COLUMN later BIGINT NOT NULL DEFAULT 7;
                 ALTER TABLE {table} ADD COLUMN later_still TEXT; CREATE INDEX {table}_later ON {table} (later); COMMIT"
            );
            past.batch_execute(&text).await.unwrap();
        }
        let text = "CREATE TABLE later (id BIGINT PRIMARY KEY);
            INSERT INTO migrations VALUES (99, 'later', '', 0)";
        past.batch_execute(text).await.unwrap();
    };
    while_one_serves(url.clone(), change).await;
    // One that starts now does not guess what the later version means.
    let refused = open_postgres(postgres_options(url)).await.map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 99, .. }), "{refused}");
}

/// A long transaction at a table holds up the migration, and the migration holds up nobody else.
pub async fn a_migration_that_waits_lets_others_through(url: String) {
    let hub = postgres(url.clone()).await;
    let past = plain(&url).await;
    past.batch_execute(BACK).await.unwrap();
    past.batch_execute("BEGIN; LOCK TABLE deliveries IN ROW EXCLUSIVE MODE").await.unwrap();
    let migrating = tokio::spawn(open_postgres(postgres_options(url.clone())));
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let other = plain(&url).await;
    while other.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // It gives way after its time and tries again; this write got through meanwhile.
    for n in 0..3 {
        work(&hub, n * 2).await;
    }
    assert!(!migrating.is_finished(), "it went past a lock");
    past.batch_execute("COMMIT").await.unwrap();
    drop(migrating.await.unwrap().unwrap());
    hub.audit_adds_up().await;
}

pub async fn many_that_start_at_once_migrate_once(url: String) {
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let options = postgres_options(url.clone());
        starts.spawn(async move { open_postgres(options).await.map(drop) });
    }
    for started in starts.join_all().await {
        started.unwrap();
    }
    let count = plain(&url).await.query_one("SELECT count(*) FROM migrations", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), mailspan_store::SCHEMA);
}

/// Nodes of the older version serve while a migration runs and after it, so it may only add: tables, indexes,
/// sequences, and columns that a writer may leave out.
#[test]
fn migrations_only_add() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut seen = 0;
    for store in ["sqlite", "postgres"] {
        for entry in std::fs::read_dir(folder.join(store)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("0001_") {
                continue;
            }
            seen += 1;
            let all = statements(&std::fs::read_to_string(&path).unwrap());
            for statement in &all {
                assert!(
                    adds(statement) || is_of_a_new_table(statement, &all),
                    "{store}/{name}: `{statement}` may disturb nodes of the older version: only add, or change in two versions"
                );
            }
        }
    }
    assert!(seen > 0, "no migration was found under {}", folder.display());
}

/// A unique index of a table that the same migration makes: nobody writes there yet.
fn is_of_a_new_table(statement: &str, all: &[String]) -> bool {
    let table = statement.strip_prefix("CREATE UNIQUE INDEX ").and_then(|rest| rest.split(' ').nth(2));
    table.is_some_and(|table| all.iter().any(|one| one.starts_with(&format!("CREATE TABLE {table} "))))
}

/// Without comments, white space folded, upper case.
fn statements(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let all = code.join(" ").to_uppercase();
    let folded = all.split(';').map(|one| one.split_whitespace().collect::<Vec<_>>().join(" "));
    folded.filter(|one| !one.is_empty()).collect()
}

fn adds(statement: &str) -> bool {
    let made = ["CREATE TABLE ", "CREATE INDEX ", "CREATE SEQUENCE "];
    let column = statement.starts_with("ALTER TABLE ") && statement.contains(" ADD COLUMN ");
    let may_be_left_out = !statement.contains(" NOT NULL") || statement.contains(" DEFAULT ");
    made.iter().any(|what| statement.starts_with(what))
        || (column && may_be_left_out && !statement.contains(" DROP "))
}

#[test]
fn what_does_not_only_add_is_seen() {
    assert!(adds("CREATE INDEX A ON B (C)") && adds("ALTER TABLE A ADD COLUMN B TEXT"));
    assert!(adds("ALTER TABLE A ADD COLUMN B BIGINT NOT NULL DEFAULT 0"));
    for bad in [
        "ALTER TABLE A ADD COLUMN B TEXT NOT NULL",
        "CREATE UNIQUE INDEX A ON B (C)",
        "ALTER TABLE A DROP COLUMN B",
        "DROP TABLE A",
        "UPDATE A SET B = 1",
        "ALTER TABLE A ALTER COLUMN B TYPE TEXT",
    ] {
        assert!(!adds(bad), "{bad}");
    }
    assert_eq!(statements("-- a;\nCREATE TABLE a\n  (b); -- c\n"), ["CREATE TABLE A (B)"]);
}

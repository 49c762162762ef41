//! Stores that earlier versions wrote, opened by this one: `tests/fixtures/stores/KIND-SCHEMA`, each filled by
//! `full::fill`, and by `full_contacts::fill` since contacts are there, with the code of its schema.
//!
//! **Before** a migration is added, the stores of the schema that was the newest until then are written:
//! `MAILSPAN_WRITE_STORES=1 cargo nextest run -p mailspan-store --test contract stores::`. What is there is never
//! written anew: it stands for the files of users.

use std::path::{Path, PathBuf};

use mailspan_store::{JobFilter, SCHEMA};
use mailspan_testkit::PostgresServer;

use crate::harness::{Harness, postgres, sqlite, sqlite_at};
use crate::{full, full_contacts};

/// Pages of one store's file, packed, and their highest size.
const FILE_BYTES_MAX: usize = 16 << 20;

fn path(kind: &str, schema: i64) -> PathBuf {
    let name = match kind {
        "sqlite" => format!("sqlite-{schema:04}.db.zst"),
        _ => format!("postgres-{schema:04}.sql"),
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores").join(name)
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn writes() -> bool {
    std::env::var_os("MAILSPAN_WRITE_STORES").is_some()
}

fn write_once(path: &Path, bytes: &[u8]) {
    if !path.exists() {
        std::fs::write(path, bytes).unwrap();
        println!("wrote {}", path.display());
    }
}

/// The schemas of the fixtures of a kind; every one before this version's must be there.
fn schemas(kind: &str) -> Vec<i64> {
    let found: Vec<i64> = (1..=SCHEMA).filter(|schema| path(kind, *schema).exists()).collect();
    for schema in 1..SCHEMA {
        assert!(
            found.contains(&schema),
            "{} is missing: at the last commit before migration {:04} (`git worktree add`), run \
             `MAILSPAN_WRITE_STORES=1 cargo nextest run -p mailspan-store --test contract stores::`, and commit \
             what it writes",
            path(kind, schema).display(),
            schema + 1
        );
    }
    found
}

/// Contacts came with this schema.
const WITH_CONTACTS: i64 = 4;

/// What a store that this version filled shows, before contacts were written to it and afterwards.
struct Fresh {
    events: Vec<String>,
    contacts: Vec<String>,
}

async fn fill(hub: &Harness) -> Fresh {
    full::fill(hub).await;
    hub.job().await;
    let events = full::shown(hub).await;
    full_contacts::fill(hub).await;
    Fresh { events, contacts: shown_with_contacts(hub).await }
}

async fn shown_with_contacts(hub: &Harness) -> Vec<String> {
    let mut shown = full::shown(hub).await;
    shown.extend(full_contacts::shown(hub).await);
    shown
}

/// The same rows as a store that this version filled, and it goes on.
async fn check(hub: Harness, schema: i64, fresh: &Fresh) {
    let (found, fresh) = if schema < WITH_CONTACTS {
        (full::shown(&hub).await, &fresh.events)
    } else {
        (shown_with_contacts(&hub).await, &fresh.contacts)
    };
    assert_eq!(&found, fresh, "schema {schema:04}: rows are not read as they were written");
    // Jobs came with the second.
    let jobs = hub.store.jobs(JobFilter::default()).await.unwrap();
    assert_eq!(jobs.len(), usize::from(schema >= 2), "schema {schema:04}");
    full::goes_on(&hub).await;
    hub.job().await;
}

#[test]
fn stores_of_every_schema_open_on_sqlite() {
    run(async {
        let hub = sqlite();
        let fresh = fill(&hub).await;
        let folder = hub.closed();
        if writes() {
            let file = std::fs::read(folder.path().join("hub.db")).unwrap();
            write_once(&path("sqlite", SCHEMA), &zstd::bulk::compress(&file, 19).unwrap());
        }
        for schema in schemas("sqlite") {
            let packed = std::fs::read(path("sqlite", schema)).unwrap();
            let file = folder.path().join(format!("{schema}.db"));
            std::fs::write(&file, zstd::bulk::decompress(&packed, FILE_BYTES_MAX).unwrap()).unwrap();
            check(sqlite_at(&file), schema, &fresh).await;
        }
    });
}

#[test]
fn stores_of_every_schema_open_on_postgres() {
    run(async {
        let server = PostgresServer::start();
        let hub = postgres(server.database("fresh")).await;
        let fresh = fill(&hub).await;
        drop(hub);
        if writes() {
            write_once(&path("postgres", SCHEMA), server.dump("fresh").as_bytes());
        }
        for schema in schemas("postgres") {
            let name = format!("schema_{schema}");
            let url = server.database(&name);
            server.load(&name, &path("postgres", schema));
            check(postgres(url).await, schema, &fresh).await;
        }
    });
}

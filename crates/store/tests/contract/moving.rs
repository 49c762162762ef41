//! Moves between stores: whole, ended in the middle, refused.

use std::path::Path;
use std::sync::Arc;

use mailspan_core::Millis;
use mailspan_store::moving::{MoveError, MoveOptions, MoveReport, Part, Place, Step, move_store};
use mailspan_store::{OpenError, OpenOptions, Write, open};
use mailspan_testkit::PostgresServer;

use crate::harness::{NOW, postgres, sqlite, sqlite_at};
use crate::{full, full_contacts, rounds};

const OPTIONS: MoveOptions = MoveOptions { dry_run: false, page_rows: 7, now: NOW };

fn file(path: &Path) -> Place {
    Place::Sqlite { path: path.to_owned() }
}

fn database(url: &str) -> Place {
    Place::Postgres { url: url.to_owned(), spawn: Arc::new(|task| drop(tokio::spawn(task))) }
}

async fn moved(from: &Place, to: &Place) -> Result<MoveReport, MoveError> {
    move_store(from, to, OPTIONS, &mut |_| {}).await
}

/// A filled store on SQLite that nobody holds, and what is read of it.
async fn filled() -> (tempfile::TempDir, Vec<String>) {
    let hub = sqlite();
    full::fill(&hub).await;
    full_contacts::fill(&hub).await;
    rounds::fill(&hub).await;
    hub.job().await;
    let shown = full::shown(&hub).await;
    (hub.closed(), shown)
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_moved_store_is_the_same_on_every_way_and_goes_on() {
    run(async {
        let server = PostgresServer::start();
        let (folder, shown) = filled().await;
        let at = |name: &str| folder.path().join(name);
        let urls = [server.database("one"), server.database("two")];
        let places = [
            file(&at("hub.db")),
            database(&urls[0]),
            database(&urls[1]),
            file(&at("b.db")),
            file(&at("c.db")),
        ];
        let mut sums = vec![];
        for way in places.windows(2) {
            let report = moved(&way[0], &way[1]).await.unwrap();
            assert!(report.tables.iter().all(|table| table.target == Some(table.source)));
            let empty: Vec<_> = report.tables.iter().filter(|table| table.source.rows == 0).collect();
            assert!(empty.is_empty(), "fill these too in a file beside tests/contract/full.rs: {empty:?}");
            sums.push(report.tables);
        }
        assert!(sums.windows(2).all(|two| two[0] == two[1]), "the same sums on all ways");
        for hub in [postgres(urls[1].clone()).await, sqlite_at(&at("c.db"))] {
            assert_eq!(full::shown(&hub).await, shown);
            full::goes_on(&hub).await;
        }
    });
}

/// Ended after each number of pages, again and again, until it comes through.
#[test]
fn a_move_that_is_ended_anywhere_goes_on_from_there() {
    run(async {
        let server = PostgresServer::start();
        let (folder, shown) = filled().await;
        let (from, url) = (file(&folder.path().join("hub.db")), server.database("target"));
        let mut ended = 0;
        let report = loop {
            let kill = tokio::sync::Notify::new();
            let mut pages = 0;
            let mut said = |step: Step| {
                pages += usize::from(step.part == Part::Copied);
                if pages == 9 {
                    kill.notify_one();
                }
            };
            let target = database(&url);
            tokio::select! {
                biased;
                () = kill.notified() => ended += 1,
                report = move_store(&from, &target, OPTIONS, &mut said) => match report {
                    Ok(report) => break report,
                    // The server has not noticed yet that the last one is gone.
                    Err(MoveError::Busy { .. }) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                    Err(error) => panic!("{error}"),
                },
            }
            let cut = mailspan_store::open_postgres(crate::harness::postgres_options(url.clone())).await;
            assert!(matches!(cut, Err(OpenError::Moving { .. })), "half a store must not be served");
        };
        assert!(ended > 5 && report.resumed, "{ended}");
        let hub = postgres(url).await;
        assert_eq!(full::shown(&hub).await, shown);
        full::goes_on(&hub).await;
    });
}

#[test]
fn what_cannot_be_moved_is_refused_and_stays() {
    run(async {
        let (folder, _) = filled().await;
        let at = |name: &str| folder.path().join(name);
        let (from, to) = (file(&at("hub.db")), file(&at("new.db")));
        let check = |found: Result<MoveReport, MoveError>, part: &str| {
            let text = found.unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        };
        check(moved(&file(&at("none.db")), &to).await, "holds no store");
        std::fs::write(at("text.txt"), "words, many of them").unwrap();
        check(moved(&file(&at("text.txt")), &to).await, "a database of another program");
        assert!(!at("new.db").exists(), "a refused move made its target");

        let hub = sqlite_at(&at("hub.db"));
        check(moved(&from, &to).await, "is held by process");
        drop(hub.closed());
        // Not the target either, and one that has rows already.
        let other = sqlite_at(&at("other.db"));
        other.accept(vec![crate::harness::event(1, "app.x", "a@b.co")]).await;
        check(moved(&from, &file(&at("other.db"))).await, "is held by process");
        drop(other.closed());
        check(moved(&from, &file(&at("other.db"))).await, "is not empty and no move was begun");
        let still = sqlite_at(&at("other.db"));
        assert_eq!(still.audit_adds_up().await.accepted, 1);
        drop(still.closed());
    });
}

#[test]
fn a_source_that_was_used_meanwhile_is_noticed() {
    run(async {
        let server = PostgresServer::start();
        let (folder, _) = filled().await;
        let path = folder.path().join("hub.db");
        let (from, target) = (file(&path), database(&server.database("target")));
        let kill = tokio::sync::Notify::new();
        let mut said = |_: Step| kill.notify_one();
        tokio::select! {
            biased;
            () = kill.notified() => {}
            _ = move_store(&from, &target, OPTIONS, &mut said) => panic!("it was not ended"),
        }
        let hub = sqlite_at(&path);
        hub.accept(vec![crate::harness::event(9_000, "app.x", "a@b.co")]).await;
        drop(hub.closed());
        let error = loop {
            match moved(&from, &target).await {
                Err(MoveError::Busy { .. }) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                other => break other.unwrap_err(),
            }
        };
        assert!(matches!(error, MoveError::OtherSource { .. }), "{error}");
    });
}

#[test]
fn a_served_database_is_not_moved_from_and_a_dry_run_writes_nothing() {
    run(async {
        let server = PostgresServer::start();
        let (url, folder) = (server.database("source"), tempfile::tempdir().unwrap());
        let to = folder.path().join("new.db");
        let hub = postgres(url.clone()).await;
        hub.accept(vec![crate::harness::event(1, "app.x", "a@b.co")]).await;
        let lease = |until| Write::Lease { name: "router".to_owned(), owner: 1, now: NOW, until };
        hub.store.write(lease(Millis(NOW.0 + 5_000))).await.unwrap();
        let served = moved(&database(&url), &file(&to)).await.unwrap_err();
        assert!(matches!(&served, MoveError::Served { lease, .. } if lease == "router"), "{served}");
        drop(hub);
        let dry = MoveOptions { dry_run: true, now: Millis(NOW.0 + 10_000), ..OPTIONS };
        let report = move_store(&database(&url), &file(&to), dry, &mut |_| {}).await.unwrap();
        let events = report.tables.iter().find(|table| table.table == "events").unwrap();
        assert_eq!((events.source.rows, events.target), (1, None));
        assert!(!to.exists());
        assert!(!report.from.contains("hub@"), "{}", report.from);
    });
}

#[test]
fn a_marked_file_is_not_opened() {
    run(async {
        let (folder, _) = filled().await;
        let path = folder.path().join("target.db");
        drop(sqlite_at(&path).closed());
        // As a move that was ended leaves it.
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute("INSERT INTO meta (name, value) VALUES ('moving', x'7b7d')", []).unwrap();
        drop(conn);
        assert!(matches!(open(OpenOptions::new(path.clone(), 1, NOW)), Err(OpenError::Moving { .. })));
        let error = moved(&file(&path), &file(&folder.path().join("x.db"))).await.unwrap_err();
        assert!(matches!(error, MoveError::Unfinished { .. }), "{error}");
    });
}

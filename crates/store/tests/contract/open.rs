//! Start, end, lock, files.

use std::os::unix::fs::PermissionsExt;

use mailspan_core::Millis;
use mailspan_store::{OpenError, OpenOptions, Trouble, Write, holder, open};

use crate::harness::{Harness, NOW, event, receipt};

pub async fn what_was_committed_is_there_after_an_end_without_close(hub: Harness) {
    hub.accept(vec![event(1, "contact.unsubscribed", "a@b.co")]).await;
    let crm = hub.destination("crm").await;
    let hub = hub.reopened().await;
    assert_eq!(hub.destination("crm").await, crm);
    assert_eq!(hub.store.unrouted(10).await.unwrap().len(), 1);
    assert_eq!(hub.accept(vec![event(1, "contact.unsubscribed", "a@b.co")]).await.duplicates, 1);
    let ann = mailspan_core::Subject::read("a@b.co");
    let person = hub.store.person(&mailspan_core::Name::default_tenant(), &ann).await.unwrap();
    assert!(person.unwrap().opted_out_at.is_some(), "the key of identities must be the same after a restart");
    hub.audit_adds_up().await;
}

pub async fn a_closed_store_says_so(hub: Harness) {
    let queued = hub.accept(vec![event(1, "app.x", "a@b.co")]).await;
    assert_eq!(queued.ids.len(), 1);
    hub.store.close();
    let write = Write::Accept(Box::new(receipt(vec![event(2, "app.x", "a@b.co")])));
    assert!(matches!(hub.store.write(write).await, Err(Trouble::Broken(_))));
    assert!(matches!(hub.store.work().await, Err(Trouble::Broken(_))));
    assert_eq!(hub.reopened().await.store.unrouted(10).await.unwrap().len(), 1);
}

/// As a killed process leaves them: the log not folded in, nothing closed.
pub async fn a_copy_of_the_files_at_any_moment_has_what_was_answered(hub: Harness) {
    for n in 0..20 {
        hub.accept(vec![event(n, "contact.unsubscribed", "a@b.co")]).await;
        let copy = tempfile::tempdir().unwrap();
        for name in ["hub.db", "hub.db-wal"] {
            std::fs::copy(hub.folder.path().join(name), copy.path().join(name)).unwrap();
        }
        let (store, writer, readers) = open(OpenOptions::new(copy.path().join("hub.db"), 9, NOW)).unwrap();
        let mut threads = vec![std::thread::spawn(move || writer.run())];
        threads.extend(readers.into_iter().map(|reader| std::thread::spawn(move || reader.run())));
        let audit = store.audit().await.unwrap();
        assert_eq!((audit.accepted, audit.waiting, audit.adds_up), (n + 1, n + 1, true));
        drop(store);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn options(hub: &tempfile::TempDir) -> OpenOptions {
    let mut options = OpenOptions::new(hub.path().join("hub.db"), 1, NOW);
    options.socket = Some(hub.path().join("hub.sock"));
    options
}

#[test]
fn a_second_process_is_told_who_holds_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    assert_eq!(holder(&path).unwrap(), None);
    let opened = open(options(&folder)).unwrap();
    let mut second = options(&folder);
    second.now = Millis(0);
    let Err(OpenError::Held(held)) = open(second) else { panic!("it was opened twice") };
    assert_eq!((held.pid, held.since), (std::process::id(), NOW));
    assert_eq!(held.socket, Some(folder.path().join("hub.sock")));
    assert_eq!(holder(&path).unwrap(), Some(held));
    drop(opened);
    assert_eq!(holder(&path).unwrap(), None);
    open(options(&folder)).unwrap();
}

#[test]
fn files_are_private() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hub.db"), "").unwrap();
    std::fs::set_permissions(folder.path().join("hub.db"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let opened = open(options(&folder)).unwrap();
    let mut seen = vec![];
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
        seen.push(entry.file_name().into_string().unwrap());
    }
    seen.sort();
    assert_eq!(seen, ["hub.db", "hub.db-shm", "hub.db-wal", "hub.db.lock"]);
    drop(opened);
}

#[test]
fn foreign_newer_and_changed_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let change =
        |name: &str, sql: &str| rusqlite::Connection::open(at(name)).unwrap().execute_batch(sql).unwrap();
    let start = |name: &str| open(OpenOptions::new(at(name), 1, NOW)).map(drop);

    change("foreign.db", "CREATE TABLE customers (id)");
    assert!(matches!(start("foreign.db"), Err(OpenError::Foreign { .. })));
    start("newer.db").unwrap();
    change("newer.db", "INSERT INTO migrations VALUES (99, 'x', x'00', 0)");
    assert!(matches!(start("newer.db"), Err(OpenError::Newer { found: 99, .. })));
    start("changed.db").unwrap();
    change("changed.db", "UPDATE migrations SET digest = x'00'");
    assert!(matches!(start("changed.db"), Err(OpenError::Changed { number: 1, .. })));
    std::fs::write(at("text.db"), "this is no database, but a text that is long enough".repeat(20)).unwrap();
    assert!(matches!(start("text.db"), Err(OpenError::Sql { .. })));
    assert!(matches!(start("no/such/folder.db"), Err(OpenError::Io { .. })));
    let shown = start("foreign.db").unwrap_err().to_string();
    assert!(shown.contains("[storage]"), "{shown}");
}

#[test]
fn a_store_of_an_earlier_schema_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    let start = || open(OpenOptions::new(path.clone(), 1, NOW)).map(drop);
    start().unwrap();
    let conn = || rusqlite::Connection::open(&path).unwrap();
    let back =
        "DROP INDEX deliveries_replays; DROP TABLE spent; DELETE FROM migrations WHERE number IN (2, 3)";
    conn().execute_batch(back).unwrap();
    start().unwrap();
    let (index, number): (i64, i64) = conn()
        .query_row(
            "SELECT (SELECT count(*) FROM sqlite_schema WHERE name = 'deliveries_replays'),
             (SELECT max(number) FROM migrations)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!((index, number), (1, mailspan_store::SCHEMA));
}

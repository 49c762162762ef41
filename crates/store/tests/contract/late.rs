//! Contacts that commit late, between nodes.

use mailspan_store::Write;

use crate::harness::accepted;
use crate::nodes::{plain, two};

/// A transaction that has given a contact its `rev` is held open: what commits meanwhile must not stand above it.
pub async fn a_cursor_passes_over_no_contact_that_commits_late(url: String) {
    use crate::audience::follow;
    use crate::contacts::{said, upsert, write_all};
    use crate::harness::uid;
    let (one, other) = two(url.clone()).await;
    let write = |n: u64| vec![said(n, upsert(n, Some(&format!("a{n}@b.co")), None))];
    write_all(&one, write(1)).await;
    let mut seen = std::collections::BTreeMap::new();
    let mut rev = follow(&one.store, 0, 10, &mut seen).await;
    assert_eq!(seen.len(), 1);

    // Any insert into contacts ends up behind a lock that this connection holds.
    let held = plain(&url).await;
    held.batch_execute(
        "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.address = 'a2@b.co' THEN PERFORM pg_advisory_xact_lock(42); END IF; RETURN NULL; END $$;
        CREATE TRIGGER held AFTER INSERT ON contacts FOR EACH ROW EXECUTE FUNCTION held();
        SELECT pg_advisory_lock(42)",
    )
    .await
    .unwrap();
    let slow = {
        let store = one.store.clone();
        tokio::spawn(async move {
            store
                .write(Write::Accept(Box::new(crate::contacts::bulk(vec![said(
                    2,
                    upsert(2, Some("a2@b.co"), None),
                )]))))
                .await
        })
    };
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    while held.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // Its `rev` is given and not committed. Others come after it, not before.
    let quick = {
        let store = other.store.clone();
        tokio::spawn(async move {
            store
                .write(Write::Accept(Box::new(crate::contacts::bulk(vec![said(
                    3,
                    upsert(3, Some("a3@b.co"), None),
                )]))))
                .await
        })
    };
    for _ in 0..20 {
        rev = follow(&other.store, rev, 10, &mut seen).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    held.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    accepted(slow.await.unwrap());
    accepted(quick.await.unwrap());
    follow(&other.store, rev, 10, &mut seen).await;
    assert_eq!(seen.keys().cloned().collect::<Vec<_>>(), [uid(1), uid(2), uid(3)]);
    let mut revs: Vec<_> = seen.values().map(|row| row.rev).collect();
    revs.dedup();
    assert_eq!(revs.len(), 3);
}

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

/// How long a writing transaction stays open: `MAILSPAN_LATE_SECONDS=60` for the minute that is promised, which is
/// past the store's own limits of a lock (10 s) and a statement (30 s).
fn open_for() -> std::time::Duration {
    let seconds = std::env::var("MAILSPAN_LATE_SECONDS").ok().and_then(|text| text.parse().ok());
    std::time::Duration::from_secs(seconds.unwrap_or(2))
}

/// A transaction has taken the lock of those who change contacts, given itself a `rev` and written its row, as a node
/// does that then stands still. Whoever changes contacts meanwhile waits, or is refused and comes again; nobody gets a
/// number that is seen before that row is.
pub async fn a_transaction_that_stays_open_is_overtaken_by_nobody(url: String) {
    use crate::audience::follow;
    use crate::contacts::{bulk, said, upsert, write_all};
    use crate::harness::uid;
    use mailspan_store::Trouble;
    let (one, other) = two(url.clone()).await;
    write_all(&one, vec![said(1, upsert(1, Some("a1@b.co"), None))]).await;
    let mut seen = std::collections::BTreeMap::new();
    let mut rev = follow(&one.store, 0, 10, &mut seen).await;
    let held = plain(&url).await;
    held.batch_execute(&format!(
        "BEGIN;
         SELECT pg_advisory_xact_lock(hashtext('mailspan persons'), hashtext(current_schema()));
         UPDATE tenants SET contact_rev = contact_rev + 1 WHERE id IN (SELECT tenant FROM contacts);
         INSERT INTO contacts (person, tenant, uid, rev, created_at, updated_at, address, opt_in, permission, v)
         SELECT c.person + 1000, c.tenant, '{}', t.contact_rev, c.created_at, c.updated_at, 'a2@b.co', 0, 1, c.v
         FROM contacts c JOIN tenants t ON t.id = c.tenant",
        uid(2)
    ))
    .await
    .unwrap();
    let until = std::time::Instant::now() + open_for();
    let quick = {
        let store = other.store.clone();
        tokio::spawn(async move {
            let mut tries = 1;
            loop {
                let receipt = bulk(vec![said(3, upsert(3, Some("a3@b.co"), None))]);
                match store.write(Write::Accept(Box::new(receipt))).await {
                    Ok(wrote) => return (accepted(Ok(wrote)), tries),
                    Err(Trouble::Busy | Trouble::Broken(_)) => {}
                    Err(trouble) => panic!("{trouble:?}"),
                }
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
    };
    while std::time::Instant::now() < until {
        for hub in [&one, &other] {
            rev = follow(&hub.store, rev, 10, &mut seen).await;
        }
        assert_eq!(
            seen.keys().cloned().collect::<Vec<_>>(),
            [uid(1)],
            "somebody overtook the open transaction"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(!quick.is_finished(), "a contact was changed beside an open change");
    held.batch_execute("COMMIT").await.unwrap();
    let (_, tries) = quick.await.unwrap();
    println!("held for {:?}: the other wrote at its try {tries}", open_for());
    follow(&other.store, rev, 10, &mut seen).await;
    assert_eq!(
        seen.keys().cloned().collect::<Vec<_>>(),
        [uid(1), uid(2), uid(3)],
        "the cursor passed over a row"
    );
    let revs: Vec<_> = [1, 2, 3].map(|n| seen[&uid(n)].rev).to_vec();
    assert!(revs.is_sorted_by(|a, b| a < b), "{revs:?}");
}

//! Migrations: the numbers and names of the SQLite store, applied in one transaction under a lock, so that of
//! several nodes that start at once one migrates and the others wait.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use mailspan_core::Millis;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use crate::OpenError;

/// Number, name, text. A text that was released is never changed.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "journal", include_str!("../../migrations/postgres/0001_journal.sql")),
    (2, "replays", include_str!("../../migrations/postgres/0002_replays.sql")),
    (3, "coalesce_and_quota", include_str!("../../migrations/postgres/0003_coalesce_and_quota.sql")),
    (4, "contacts", include_str!("../../migrations/postgres/0004_contacts.sql")),
    (5, "rounds", include_str!("../../migrations/postgres/0005_rounds.sql")),
    (6, "degraded", include_str!("../../migrations/postgres/0006_degraded.sql")),
];

/// The oldest server that the store is tested with.
const SERVER_MIN: i32 = 150_000;

/// A table that is to be changed is waited for so long. Whoever comes after a change that waits must wait too, so
/// it is short: nodes of the older version serve meanwhile. Their writes wait for a lock up to 10 seconds.
const LOCKS: &str = "SET LOCAL lock_timeout = '2s'";
/// So often a change that found its table in use is tried, a moment apart: others get through in between.
const TRIES: usize = 30;
const AGAIN: Duration = Duration::from_millis(500);

/// Brings the tables of the current schema up to date, or leaves them as they are. Gives the key of identities.
pub(crate) async fn migrate(
    client: &mut Client,
    place: &str,
    seed: u128,
    now: Millis,
) -> Result<Vec<u8>, OpenError> {
    check_server(client, place).await?;
    for _ in 1..TRIES {
        match all(client, place, seed, now).await {
            Err(OpenError::Locked { number, .. }) => {
                tracing::info!(number, "a migration waits for its table")
            }
            done => return done,
        }
        tokio::time::sleep(AGAIN).await;
    }
    all(client, place, seed, now).await
}

async fn all(client: &mut Client, place: &str, seed: u128, now: Millis) -> Result<Vec<u8>, OpenError> {
    let sql = |cause: tokio_postgres::Error| OpenError::server(place, &cause);
    let tx = client.transaction().await.map_err(sql)?;
    // First the lock, then the version: read before, it may be old. It ends with the transaction.
    tx.batch_execute(
        "SELECT pg_advisory_xact_lock(hashtext('mailspan migrations'), hashtext(current_schema()))",
    )
    .await
    .map_err(sql)?;
    let tables = "SELECT (SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()) AS tables,
        to_regclass('migrations') IS NOT NULL AND to_regclass('keys_seen') IS NOT NULL AS ours,
        EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'migrations') AS begun";
    let row = tx.query_one(tables, &[]).await.map_err(sql)?;
    let (tables, ours, begun): (i64, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if tables > 0 && !ours {
        return Err(OpenError::Foreign { path: place.into() });
    }
    if !begun {
        tx.batch_execute(
            "CREATE TABLE migrations (
                number BIGINT PRIMARY KEY, name TEXT NOT NULL, digest BYTEA NOT NULL, applied_at BIGINT NOT NULL)",
        )
        .await
        .map_err(sql)?;
    }
    apply(&tx, place, now).await?;
    tx.execute(
        "INSERT INTO meta (name, value) VALUES ('identity_key', $1) ON CONFLICT DO NOTHING",
        &[&digest_of(&seed.to_le_bytes())],
    )
    .await
    .map_err(sql)?;
    let key = tx.query_one("SELECT value FROM meta WHERE name = 'identity_key'", &[]).await.map_err(sql)?;
    tx.commit().await.map_err(sql)?;
    Ok(key.get(0))
}

async fn check_server(client: &Client, place: &str) -> Result<(), OpenError> {
    let sql = |cause: tokio_postgres::Error| OpenError::server(place, &cause);
    let settings = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
        current_setting('fsync'), current_schema()::text";
    let row = client.query_one(settings, &[]).await.map_err(sql)?;
    let (version, encoding, fsync): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let refuse = |cause: String| Err(OpenError::Server { place: place.to_owned(), cause });
    if version < SERVER_MIN {
        return refuse(format!("its version is {version}: PostgreSQL 15 or newer is needed"));
    }
    if encoding != "UTF8" {
        return refuse(format!("its encoding is {encoding}: make a database WITH ENCODING 'UTF8'"));
    }
    if row.get::<_, Option<&str>>(3).is_none() {
        return refuse(
            "no schema of the search path exists: create it, or leave `search_path` out".to_owned(),
        );
    }
    if fsync != "on" {
        tracing::warn!(
            "fsync of the PostgreSQL server is off: what was acknowledged can be lost with the power"
        );
    }
    Ok(())
}

async fn apply(tx: &Transaction<'_>, place: &str, now: Millis) -> Result<(), OpenError> {
    let sql = |cause: tokio_postgres::Error| OpenError::server(place, &cause);
    let rows = tx.query("SELECT number, digest FROM migrations ORDER BY number", &[]).await.map_err(sql)?;
    let applied: Vec<(i64, Vec<u8>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    check_applied(&applied, place)?;
    for (number, name, text) in
        MIGRATIONS.iter().filter(|(number, ..)| applied.iter().all(|(n, _)| n != number))
    {
        tx.batch_execute(LOCKS).await.map_err(sql)?;
        tx.batch_execute(text).await.map_err(|cause| match cause.code() {
            Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED) => {
                OpenError::Locked { place: place.into(), number: *number }
            }
            _ => sql(cause),
        })?;
        tx.execute(
            "INSERT INTO migrations VALUES ($1, $2, $3, $4)",
            &[number, name, &digest_of(text.as_bytes()), &now.0],
        )
        .await
        .map_err(sql)?;
    }
    Ok(())
}

fn check_applied(applied: &[(i64, Vec<u8>)], place: &str) -> Result<(), OpenError> {
    for (number, digest) in applied {
        match MIGRATIONS.iter().find(|(known, ..)| known == number) {
            None => {
                let known = MIGRATIONS.last().map_or(0, |(number, ..)| *number);
                return Err(OpenError::Newer { path: place.into(), found: *number, known });
            }
            Some((_, _, text)) if digest_of(text.as_bytes()) != *digest => {
                return Err(OpenError::Changed { path: place.into(), number: *number });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn digest_of(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

//! Migrations: numbered texts, applied in one transaction, remembered with their digest.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use mailspan_core::Millis;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::OpenError;
use crate::identity::{self, IdentityKey, StoreKeys};

/// Number, name, text. A text that was released is never changed.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "journal", include_str!("../../migrations/sqlite/0001_journal.sql")),
    (2, "replays", include_str!("../../migrations/sqlite/0002_replays.sql")),
    (3, "coalesce_and_quota", include_str!("../../migrations/sqlite/0003_coalesce_and_quota.sql")),
    (4, "contacts", include_str!("../../migrations/sqlite/0004_contacts.sql")),
    (5, "rounds", include_str!("../../migrations/sqlite/0005_rounds.sql")),
    (6, "degraded", include_str!("../../migrations/sqlite/0006_degraded.sql")),
];
/// The number of the newest migration that this version knows.
pub const SCHEMA: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;
/// `MSPN`: what `file` and other tools may know the file by.
const APPLICATION_ID: i64 = 0x4d53_504e;

/// Brings the tables up to date, or leaves the file as it is.
pub(crate) fn migrate(conn: &mut Connection, path: &Path, seed: u128, now: Millis) -> Result<(), OpenError> {
    let sql = |cause| OpenError::Sql { path: path.to_owned(), cause };
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    let objects: i64 =
        tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sql)?;
    let application: i64 = tx
        .query_row("SELECT application_id FROM pragma_application_id", [], |row| row.get(0))
        .map_err(sql)?;
    if objects > 0 && application != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS migrations (
            number INTEGER PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL, applied_at INTEGER NOT NULL
        ) STRICT",
    )
    .map_err(sql)?;
    let applied = applied(&tx).map_err(sql)?;
    check_applied(&applied, path)?;
    for (number, name, text) in
        MIGRATIONS.iter().filter(|(number, ..)| applied.iter().all(|(n, _)| n != number))
    {
        tx.execute_batch(text).map_err(sql)?;
        tx.execute(
            "INSERT INTO migrations VALUES (?1, ?2, ?3, ?4)",
            params![number, name, digest_of(text), now.0],
        )
        .map_err(sql)?;
    }
    tx.execute(
        "INSERT INTO meta (name, value) VALUES ('identity_key', ?1) ON CONFLICT DO NOTHING",
        params![digest_of_bytes(&seed.to_le_bytes())],
    )
    .map_err(sql)?;
    // The lock on the file proves that no owner lives: the next one need not wait.
    tx.execute("UPDATE leases SET until = 0", []).map_err(sql)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    tx.commit().map_err(sql)
}

/// The key of identities, opened; sealed from now on where it stood there bare and a store key is set.
pub(crate) fn identity_key(
    conn: &Connection,
    path: &Path,
    keys: &StoreKeys,
) -> Result<IdentityKey, OpenError> {
    let sql = |cause| OpenError::Sql { path: path.to_owned(), cause };
    let select = "SELECT value FROM meta WHERE name = 'identity_key'";
    let value: Vec<u8> = conn.query_row(select, [], |row| row.get(0)).map_err(sql)?;
    let kept = identity::read(&value, keys, &path.display().to_string())?;
    if let Some(sealed) = &kept.seal {
        keep_identity_key(conn, sealed).map_err(sql)?;
    }
    Ok(kept.key)
}

pub(crate) fn keep_identity_key(conn: &Connection, sealed: &[u8]) -> rusqlite::Result<()> {
    conn.execute("UPDATE meta SET value = ?1 WHERE name = 'identity_key'", [sealed]).map(|_| ())
}

fn applied(conn: &Connection) -> rusqlite::Result<Vec<(i64, Vec<u8>)>> {
    let mut statement = conn.prepare("SELECT number, digest FROM migrations ORDER BY number")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn check_applied(applied: &[(i64, Vec<u8>)], path: &Path) -> Result<(), OpenError> {
    for (number, digest) in applied {
        match MIGRATIONS.iter().find(|(known, ..)| known == number) {
            None => {
                let known = MIGRATIONS.last().map_or(0, |(number, ..)| *number);
                return Err(OpenError::Newer { path: path.to_owned(), found: *number, known });
            }
            Some((_, _, text)) if digest_of(text) != *digest => {
                return Err(OpenError::Changed { path: path.to_owned(), number: *number });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn digest_of(text: &str) -> Vec<u8> {
    digest_of_bytes(text.as_bytes())
}

fn digest_of_bytes(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

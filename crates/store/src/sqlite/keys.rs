//! API keys, by hash.

use mailspan_core::Millis;
use rusqlite::{Row, params};

use super::base::{Base, Fault, maybe_millis, millis};
use super::standing;
use crate::KeyRow;
use crate::write::{NewKey, Wrote};

pub(crate) fn make(base: &Base, key: &NewKey) -> Result<Wrote, Fault> {
    let known = base.sql("SELECT 1 FROM api_keys WHERE hash = ?1")?.exists([key.hash])?;
    if known {
        return Err(Fault::refused("key_exists", "this key exists already: make another"));
    }
    let scopes = serde_json::to_string(&key.scopes)
        .map_err(|error| Fault::refused("unwritable_scopes", error.to_string()))?;
    let tenant = base.tenant_or_new(key.tenant.as_str())?;
    base.sql(
        "INSERT INTO api_keys (tenant, hash, shown, scopes, note, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        tenant,
        key.hash,
        key.shown,
        scopes,
        key.note,
        key.created_at.0,
        key.expires_at.map(|at| at.0),
    ])?;
    let id = base.conn.last_insert_rowid();
    standing::log(base, tenant, key.created_at, "make key", id, &key.note)?;
    Ok(Wrote::Key { id })
}

/// Revoking twice keeps the first time.
pub(crate) fn revoke(base: &Base, id: i64, at: Millis) -> Result<Wrote, Fault> {
    let found = base
        .sql("UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1")?
        .execute(params![id, at.0])?;
    if found == 0 {
        return Err(Fault::refused(
            "not_found",
            format!("there is no API key {id}: `mailspan keys list` shows them"),
        ));
    }
    standing::log(base, 0, at, "revoke key", id, "")?;
    Ok(Wrote::Done)
}

pub(crate) fn used(base: &Base, id: i64, at: Millis) -> Result<Wrote, Fault> {
    base.sql("UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, 0), ?2) WHERE id = ?1")?
        .execute(params![id, at.0])?;
    Ok(Wrote::Done)
}

pub(crate) fn by_hash(base: &Base, hash: &[u8; 32]) -> Result<Option<KeyRow>, Fault> {
    let mut statement = base.sql("SELECT * FROM api_keys WHERE hash = ?1")?;
    let mut rows = statement.query([hash])?;
    rows.next()?.map(|row| key_of(base, row)).transpose()
}

pub(crate) fn list(base: &Base) -> Result<Vec<KeyRow>, Fault> {
    let mut statement = base.sql("SELECT * FROM api_keys ORDER BY id LIMIT 10000")?;
    let mut rows = statement.query([])?;
    let mut keys = vec![];
    while let Some(row) = rows.next()? {
        keys.push(key_of(base, row)?);
    }
    Ok(keys)
}

fn key_of(base: &Base, row: &Row) -> Result<KeyRow, Fault> {
    let id = row.get("id")?;
    let scopes: String = row.get("scopes")?;
    Ok(KeyRow {
        id,
        tenant: base.tenant_name(row.get("tenant")?)?,
        shown: row.get("shown")?,
        scopes: serde_json::from_str(&scopes).map_err(|_| Fault::unreadable("API key", id))?,
        note: row.get("note")?,
        created_at: millis(row, "created_at")?,
        expires_at: maybe_millis(row, "expires_at")?,
        revoked_at: maybe_millis(row, "revoked_at")?,
        last_used_at: maybe_millis(row, "last_used_at")?,
    })
}

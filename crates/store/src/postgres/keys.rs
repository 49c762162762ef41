//! API keys, by hash.

use mailspan_core::Millis;
use tokio_postgres::Row;

use super::base::{Base, Fault, clean, get, maybe_millis, millis};
use super::standing;
use crate::KeyRow;
use crate::write::{NewKey, Wrote};

pub(crate) async fn make(base: &Base, key: &NewKey) -> Result<Wrote, Fault> {
    let exists = || Fault::refused("key_exists", "this key exists already: make another");
    let scopes = serde_json::to_string(&key.scopes)
        .map_err(|error| Fault::refused("unwritable_scopes", error.to_string()))?;
    let tenant = base.made_tenant(key.tenant.as_str()).await?;
    let rows = base
        .written(
            "INSERT INTO api_keys (tenant, hash, shown, scopes, note, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (hash) DO NOTHING RETURNING id",
            &[
                &tenant,
                &&key.hash[..],
                &clean(&key.shown),
                &scopes,
                &clean(&key.note),
                &key.created_at.0,
                &key.expires_at.map(|at| at.0),
            ],
        )
        .await?;
    let id = get(rows.first().ok_or_else(exists)?, 0)?;
    standing::log(base, tenant, key.created_at, "make key", id, &key.note).await?;
    Ok(Wrote::Key { id })
}

/// Revoking twice keeps the first time.
pub(crate) async fn revoke(base: &Base, id: i64, at: Millis) -> Result<Wrote, Fault> {
    let found = base
        .execute("UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1", &[&id, &at.0])
        .await?;
    if found == 0 {
        return Err(Fault::refused(
            "not_found",
            format!("there is no API key {id}: `mailspan keys list` shows them"),
        ));
    }
    standing::log(base, 0, at, "revoke key", id, "").await?;
    Ok(Wrote::Done)
}

pub(crate) async fn used(base: &Base, id: i64, at: Millis) -> Result<Wrote, Fault> {
    let sql = "UPDATE api_keys SET last_used_at = greatest(last_used_at, $2) WHERE id = $1";
    base.execute(sql, &[&id, &at.0]).await?;
    Ok(Wrote::Done)
}

const COLUMNS: &str = "id, tenant, shown, scopes, note, created_at, expires_at, revoked_at, last_used_at";

pub(crate) async fn by_hash(base: &Base, hash: &[u8; 32]) -> Result<Option<KeyRow>, Fault> {
    match base.row(&format!("SELECT {COLUMNS} FROM api_keys WHERE hash = $1"), &[&&hash[..]]).await? {
        Some(row) => key_of(base, &row).await.map(Some),
        None => Ok(None),
    }
}

pub(crate) async fn list(base: &Base) -> Result<Vec<KeyRow>, Fault> {
    let mut keys = vec![];
    for row in &base.rows(&format!("SELECT {COLUMNS} FROM api_keys ORDER BY id LIMIT 10000"), &[]).await? {
        keys.push(key_of(base, row).await?);
    }
    Ok(keys)
}

async fn key_of(base: &Base, row: &Row) -> Result<KeyRow, Fault> {
    let id = get(row, "id")?;
    let scopes: &str = get(row, "scopes")?;
    Ok(KeyRow {
        id,
        tenant: base.tenant_name(get(row, "tenant")?).await?,
        shown: get(row, "shown")?,
        scopes: serde_json::from_str(scopes).map_err(|_| Fault::unreadable("API key", id))?,
        note: get(row, "note")?,
        created_at: millis(row, "created_at")?,
        expires_at: maybe_millis(row, "expires_at")?,
        revoked_at: maybe_millis(row, "revoked_at")?,
        last_used_at: maybe_millis(row, "last_used_at")?,
    })
}

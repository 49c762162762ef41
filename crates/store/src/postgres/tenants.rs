//! Tenants, declared fields and sealed secrets, as written. The tenant of each is made already.

use super::base::{Base, Fault, clean, get};
use super::standing;
use crate::StoreKey;
use crate::contacts::{FieldWrite, SealedWrite, TenantWrite};
use crate::sqlite::tenants::{no_field_text, other_kind_text};
use crate::write::Wrote;

pub(crate) async fn set(base: &Base, tenant: &TenantWrite) -> Result<Wrote, Fault> {
    let id = base.made_tenant(tenant.name.as_str()).await?;
    base.execute(
        "UPDATE tenants SET settings = $2, made_at = coalesce(made_at, $3) WHERE id = $1",
        &[&id, &clean(&tenant.settings), &tenant.at.0],
    )
    .await?;
    standing::log(base, id, tenant.at, "set tenant", id, "").await?;
    Ok(Wrote::Done)
}

/// A declared field keeps its kind: the values of contacts were checked against it.
pub(crate) async fn field(base: &Base, field: &FieldWrite) -> Result<Wrote, Fault> {
    let tenant = base.made_tenant(field.tenant.as_str()).await?;
    let name = clean(&field.name);
    let sql = "SELECT kind FROM field_kinds WHERE tenant = $1 AND name = $2";
    let known = base.row(sql, &[&tenant, &name]).await?;
    let known: Option<i64> = known.map(|row| get(&row, 0)).transpose()?;
    match (known, field.kind) {
        (None, None) => return Err(Fault::refused("not_found", no_field_text(&field.name))),
        (Some(known), Some(kind)) if known != kind as i64 => {
            return Err(Fault::refused("field_kind_conflict", other_kind_text(&field.name, known)));
        }
        (Some(_), Some(_)) => return Ok(Wrote::Done),
        (None, Some(kind)) => {
            base.execute(
                "INSERT INTO field_kinds (tenant, name, kind, made_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING",
                &[&tenant, &name, &(kind as i64), &field.at.0],
            )
            .await?
        }
        (Some(_), None) => {
            let sql = "DELETE FROM field_kinds WHERE tenant = $1 AND name = $2";
            base.execute(sql, &[&tenant, &name]).await?
        }
    };
    let what = if field.kind.is_some() { "declare field" } else { "drop field" };
    standing::log(base, tenant, field.at, what, tenant, &field.name).await?;
    Ok(Wrote::Done)
}

/// The key of identities, sealed under another store key.
pub(crate) async fn keep_identity_key(base: &Base, under: &StoreKey) -> Result<Wrote, Fault> {
    let sealed = base.key.sealed(under);
    base.execute("UPDATE meta SET value = $1 WHERE name = 'identity_key'", &[&sealed]).await?;
    Ok(Wrote::Done)
}

/// Nothing to be sealed: what was sealed about it goes.
pub(crate) async fn seal(base: &Base, write: &SealedWrite) -> Result<Wrote, Fault> {
    let tenant = base.made_tenant(write.tenant.as_str()).await?;
    let about = clean(&write.about);
    if write.sealed.is_empty() {
        let sql = "DELETE FROM sealed WHERE tenant = $1 AND about = $2";
        base.execute(sql, &[&tenant, &about]).await?;
        return Ok(Wrote::Done);
    }
    base.execute(
        "INSERT INTO sealed (tenant, about, key_id, sealed, made_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant, about) DO UPDATE SET key_id = excluded.key_id, sealed = excluded.sealed,
            made_at = excluded.made_at",
        &[&tenant, &about, &clean(&write.key_id), &write.sealed, &write.at.0],
    )
    .await?;
    Ok(Wrote::Done)
}

//! Tenants, declared fields and sealed secrets, as written.

use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault};
use super::standing;
use crate::contacts::{FieldKind, FieldWrite, SealedWrite, TenantWrite};
use crate::write::Wrote;

pub(crate) fn set(base: &Base, tenant: &TenantWrite) -> Result<Wrote, Fault> {
    let id = base.tenant_or_new(tenant.name.as_str())?;
    base.sql("UPDATE tenants SET settings = ?2, made_at = coalesce(made_at, ?3) WHERE id = ?1")?
        .execute(params![id, tenant.settings, tenant.at.0])?;
    standing::log(base, id, tenant.at, "set tenant", id, "")?;
    Ok(Wrote::Done)
}

/// A declared field keeps its kind: the values of contacts were checked against it.
pub(crate) fn field(base: &Base, field: &FieldWrite) -> Result<Wrote, Fault> {
    let tenant = base.tenant_or_new(field.tenant.as_str())?;
    let known: Option<i64> = base
        .sql("SELECT kind FROM field_kinds WHERE tenant = ?1 AND name = ?2")?
        .query_row(params![tenant, field.name], |row| row.get(0))
        .optional()?;
    match (known, field.kind) {
        (None, None) => return Err(no_field(&field.name)),
        (Some(known), Some(kind)) if known != kind as i64 => return Err(other_kind(&field.name, known)),
        (Some(_), Some(_)) => return Ok(Wrote::Done),
        (None, Some(kind)) => base
            .sql("INSERT INTO field_kinds (tenant, name, kind, made_at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![tenant, field.name, kind as i64, field.at.0])?,
        (Some(_), None) => base
            .sql("DELETE FROM field_kinds WHERE tenant = ?1 AND name = ?2")?
            .execute(params![tenant, field.name])?,
    };
    let what = if field.kind.is_some() { "declare field" } else { "drop field" };
    standing::log(base, tenant, field.at, what, tenant, &field.name)?;
    Ok(Wrote::Done)
}

pub(crate) fn no_field(name: &str) -> Fault {
    Fault::refused("not_found", no_field_text(name))
}

pub(crate) fn no_field_text(name: &str) -> String {
    format!("there is no field `{name}`")
}

fn other_kind(name: &str, known: i64) -> Fault {
    Fault::refused("field_kind_conflict", other_kind_text(name, known))
}

pub(crate) fn other_kind_text(name: &str, known: i64) -> String {
    let kind = FieldKind::from_number(known).map_or("unknown", FieldKind::name);
    format!("the field `{name}` is declared as {kind}: drop it first, or name another")
}

/// Nothing to be sealed: what was sealed about it goes.
pub(crate) fn seal(base: &Base, write: &SealedWrite) -> Result<Wrote, Fault> {
    let tenant = base.tenant_or_new(write.tenant.as_str())?;
    if write.sealed.is_empty() {
        base.sql("DELETE FROM sealed WHERE tenant = ?1 AND about = ?2")?
            .execute(params![tenant, write.about])?;
        return Ok(Wrote::Done);
    }
    base.sql(
        "INSERT INTO sealed (tenant, about, key_id, sealed, made_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (tenant, about) DO UPDATE SET key_id = excluded.key_id, sealed = excluded.sealed,
            made_at = excluded.made_at",
    )?
    .execute(params![tenant, write.about, write.key_id, write.sealed, write.at.0])?;
    Ok(Wrote::Done)
}

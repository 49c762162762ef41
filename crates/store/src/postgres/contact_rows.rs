//! Rows of contacts, suppressions, declared fields, tenants, confirmations, facts and sealed secrets, as read.

use std::collections::{HashMap, HashSet};

use mailspan_core::contact::{Contact, ContactKey, Permission, Stated, Suppressed};
use mailspan_core::{Address, Digest, EventId, Millis, Name, PersonId};
use tokio_postgres::Row;

use super::base::{Base, Fault, clean, digest, get, maybe_millis, millis};
use super::contacts;
use crate::ContactRow;
use crate::contacts::{
    ConfirmationRow, FactRow, FieldKind, FieldRow, SealedRow, SubscriptionCount, SuppressionFilter,
    SuppressionRow, TenantRow,
};
use crate::sqlite::base::page;
pub(crate) use crate::sqlite::contact_rows::CONTACT_COLUMNS;
use crate::sqlite::contact_rows::{evidence, fields_of, left_hash};

pub(crate) fn contact_of(row: &Row) -> Result<Contact, Fault> {
    let unreadable = || Fault::unreadable("contact", get(row, "person").unwrap_or_default());
    let fields: Option<String> = get(row, "fields")?;
    Ok(Contact {
        uid: get(row, "uid")?,
        address: address(row)?,
        external_id: get(row, "external_id")?,
        locale: get(row, "locale")?,
        opt_in: get::<i64, _>(row, "opt_in")? != 0,
        permission: Permission::from_number(get(row, "permission")?).ok_or_else(unreadable)?,
        consent_version: get(row, "consent_version")?,
        source: get(row, "source")?,
        project: get(row, "project")?,
        fields: fields_of(fields.as_deref()).ok_or_else(unreadable)?,
        suppressed_at: maybe_millis(row, "suppressed_at")?,
        unsubscribed_at: maybe_millis(row, "unsubscribed_at")?,
        created_at: millis(row, "created_at")?,
        updated_at: millis(row, "updated_at")?,
    })
}

fn address(row: &Row) -> Result<Option<Address>, Fault> {
    let text: Option<String> = get(row, "address")?;
    Ok(text.and_then(|text| Address::parse(&text).ok()))
}

pub(crate) async fn row_of(base: &Base, row: &Row) -> Result<ContactRow, Fault> {
    Ok(ContactRow {
        person: PersonId(get(row, "person")?),
        tenant: base.tenant_name(get(row, "tenant")?).await?,
        rev: get(row, "rev")?,
        contact: contact_of(row)?,
    })
}

pub(crate) async fn of_persons(
    base: &Base,
    persons: &[PersonId],
) -> Result<HashMap<PersonId, Contact>, Fault> {
    let sql = format!(
        "SELECT p.id AS asked, {CONTACT_COLUMNS} FROM persons p
         JOIN contacts c ON c.person = coalesce(p.same_as, p.id) WHERE p.id = ANY($1)"
    );
    let ids: Vec<i64> = persons.iter().map(|person| person.0).collect();
    let mut found = HashMap::new();
    for row in &base.rows(&sql, &[&ids]).await? {
        let (holder, tenant) = (get(row, "person")?, get(row, "tenant")?);
        let mut contact = contact_of(row)?;
        if !contact.fields.formerly.is_empty() {
            mark_taken(base, tenant, holder, &mut contact).await?;
        }
        found.insert(PersonId(get(row, "asked")?), contact);
    }
    Ok(found)
}

/// See [`crate::Store::gone_of`].
pub(crate) async fn gone_of(base: &Base, persons: &[PersonId]) -> Result<HashSet<PersonId>, Fault> {
    let ids: Vec<i64> = persons.iter().map(|person| person.0).collect();
    let rows = base
        .rows(
            "SELECT p.id FROM persons p JOIN identities i ON i.person = p.id
             JOIN suppressions s ON s.tenant = i.tenant AND s.hash = i.hash
             WHERE p.id = ANY($1) AND s.reason = $2
                AND NOT EXISTS (SELECT 1 FROM contacts c WHERE c.person = coalesce(p.same_as, p.id))",
            &[&ids, &(Suppressed::Erasure as i64)],
        )
        .await?;
    rows.iter().map(|row| Ok(PersonId(get(row, 0)?))).collect()
}

/// Marks what the contact has left and another contact is called by now.
async fn mark_taken(base: &Base, tenant: i64, holder: i64, contact: &mut Contact) -> Result<(), Fault> {
    for left in &mut contact.fields.formerly {
        if let Some(hash) = left_hash(&base.key, left) {
            left.taken = by_hash(base, tenant, hash).await?.is_some_and(|row| row.person.0 != holder);
        }
    }
    Ok(())
}

/// Found as a write that updates it would find it; a token finds nothing.
pub(crate) async fn one(base: &Base, tenant: &Name, key: &ContactKey) -> Result<Option<ContactRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str()).await? else { return Ok(None) };
    match key {
        ContactKey::Id(id) => match by_uid(base, tenant, id).await? {
            Some(row) => Ok(Some(row)),
            None => by_id(base, tenant, id).await,
        },
        ContactKey::ExternalId(id) => by_id(base, tenant, id).await,
        ContactKey::Address(address) => by_address(base, tenant, address).await,
        ContactKey::Subject { address, external_id } => {
            let found = match external_id {
                Some(id) => by_id(base, tenant, id).await?,
                None => None,
            };
            match (found, address) {
                (None, Some(address)) => by_address(base, tenant, address).await,
                (found, _) => Ok(found),
            }
        }
        ContactKey::Token(_) => Ok(None),
    }
}

async fn by_id(base: &Base, tenant: i64, id: &str) -> Result<Option<ContactRow>, Fault> {
    let found = by_hash(base, tenant, base.key.hash(b"external_id", id.as_bytes())).await?;
    Ok(found.filter(|row| row.contact.external_id.as_deref() == Some(id)))
}

async fn by_address(base: &Base, tenant: i64, address: &Address) -> Result<Option<ContactRow>, Fault> {
    let found = by_hash(base, tenant, base.key.hash(b"address", address.key().as_bytes())).await?;
    Ok(found.filter(|row| row.contact.address.as_ref().is_some_and(|own| own.key() == address.key())))
}

async fn by_uid(base: &Base, tenant: i64, uid: &str) -> Result<Option<ContactRow>, Fault> {
    let sql = format!("SELECT {CONTACT_COLUMNS} FROM contacts c WHERE c.tenant = $1 AND c.uid = $2");
    match base.row(&sql, &[&tenant, &clean(uid)]).await? {
        Some(row) => row_of(base, &row).await.map(Some),
        None => Ok(None),
    }
}

async fn by_hash(base: &Base, tenant: i64, hash: [u8; 16]) -> Result<Option<ContactRow>, Fault> {
    let sql = format!(
        "SELECT {CONTACT_COLUMNS} FROM identities i JOIN persons p ON p.id = i.person
         JOIN contacts c ON c.person = coalesce(p.same_as, p.id) WHERE i.tenant = $1 AND i.hash = $2"
    );
    match base.row(&sql, &[&tenant, &&hash[..]]).await? {
        Some(row) => row_of(base, &row).await.map(Some),
        None => Ok(None),
    }
}

pub(crate) async fn suppressions(
    base: &Base,
    filter: &SuppressionFilter,
) -> Result<Vec<SuppressionRow>, Fault> {
    let columns = "SELECT id, tenant, address, reason, source, at FROM suppressions";
    let limit = page(filter.limit);
    let rows = match &filter.tenant {
        None => {
            let sql = format!("{columns} WHERE id > $1 ORDER BY id LIMIT $2");
            base.rows(&sql, &[&filter.after, &limit]).await?
        }
        Some(name) => {
            let Some(tenant) = base.tenant(name.as_str()).await? else { return Ok(vec![]) };
            let sql = format!("{columns} WHERE tenant = $1 AND id > $2 ORDER BY tenant, id LIMIT $3");
            base.rows(&sql, &[&tenant, &filter.after, &limit]).await?
        }
    };
    let mut found = vec![];
    for row in &rows {
        found.push(suppression_row(base, row).await?);
    }
    Ok(found)
}

pub(crate) async fn suppression_of(
    base: &Base,
    tenant: &Name,
    address: &Address,
) -> Result<Option<SuppressionRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str()).await? else { return Ok(None) };
    let hash = base.key.hash(b"address", address.key().as_bytes());
    let sql =
        "SELECT id, tenant, address, reason, source, at FROM suppressions WHERE tenant = $1 AND hash = $2";
    match base.row(sql, &[&tenant, &&hash[..]]).await? {
        Some(row) => suppression_row(base, &row).await.map(Some),
        None => Ok(None),
    }
}

async fn suppression_row(base: &Base, row: &Row) -> Result<SuppressionRow, Fault> {
    let id = get(row, "id")?;
    Ok(SuppressionRow {
        id,
        tenant: base.tenant_name(get(row, "tenant")?).await?,
        address: address(row)?,
        reason: Suppressed::from_number(get(row, "reason")?)
            .ok_or_else(|| Fault::unreadable("suppression", id))?,
        source: get(row, "source")?,
        at: millis(row, "at")?,
    })
}

pub(crate) async fn field_kinds(base: &Base, tenant: &Name) -> Result<Vec<FieldRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str()).await? else { return Ok(vec![]) };
    let sql = "SELECT name, kind, made_at FROM field_kinds WHERE tenant = $1 ORDER BY name COLLATE \"C\" LIMIT 10000";
    let mut found = vec![];
    for row in &base.rows(sql, &[&tenant]).await? {
        let kind = FieldKind::from_number(get(row, 1)?);
        let kind = kind.ok_or_else(|| Fault::unreadable("field of tenant", tenant))?;
        found.push(FieldRow { name: get(row, 0)?, kind, made_at: Millis(get(row, 2)?) });
    }
    Ok(found)
}

/// All of them, or the one of this name.
pub(crate) async fn tenants(base: &Base, name: Option<&Name>) -> Result<Vec<TenantRow>, Fault> {
    let sql = "SELECT name, settings, made_at FROM tenants WHERE $1::text IS NULL OR name = $1 ORDER BY id LIMIT 10000";
    let mut found = vec![];
    for row in &base.rows(sql, &[&name.map(|name| clean(name.as_str()))]).await? {
        let settings: Option<String> = get(row, 1)?;
        found.push(TenantRow {
            name: Name::new(get::<&str, _>(row, 0)?),
            settings: settings.unwrap_or_else(|| "{}".to_owned()),
            made_at: maybe_millis(row, "made_at")?,
        });
    }
    Ok(found)
}

pub(crate) async fn confirmation(base: &Base, token: &[u8; 32]) -> Result<Option<ConfirmationRow>, Fault> {
    let Some((tenant, row)) = contacts::confirmation(base, token).await? else { return Ok(None) };
    let known = base.row("SELECT address, locale FROM contacts WHERE person = $1", &[&row.person]).await?;
    let (address, locale) = match &known {
        Some(known) => (address(known)?, get(known, "locale")?),
        None => (None, None),
    };
    Ok(Some(ConfirmationRow {
        tenant: base.tenant_name(tenant).await?,
        person: PersonId(row.person),
        address,
        locale,
        asked_at: row.asked_at,
        expires_at: row.expires_at,
        used_at: row.used_at,
        gives: row.gives,
    }))
}

/// Of a person and those merged into it, oldest first.
pub(crate) async fn facts_of(
    base: &Base,
    tenant: &Name,
    person: PersonId,
    after: i64,
    limit: usize,
) -> Result<Vec<FactRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str()).await? else { return Ok(vec![]) };
    let rows = base
        .rows(
            "SELECT id, what, permission, happened_at, learned_at, event_id, digest, evidence FROM ledger
             WHERE person IN (SELECT $2::bigint UNION SELECT id FROM persons WHERE same_as = $2)
                AND tenant = $1 AND id > $3
             ORDER BY id LIMIT $4",
            &[&tenant, &person.0, &after, &page(limit)],
        )
        .await?;
    let mut found = vec![];
    for row in &rows {
        let id = get(row, 0)?;
        let what = Stated::from_numbers(get(row, 1)?, get(row, 2)?);
        found.push(FactRow {
            id,
            what: what.ok_or_else(|| Fault::unreadable("fact", id))?,
            happened_at: Millis(get(row, 3)?),
            learned_at: Millis(get(row, 4)?),
            event_id: EventId(u128::from_be_bytes(digest(row, "event_id")?)),
            digest: Digest(digest(row, "digest")?).to_string(),
            evidence: evidence(get::<Option<&str>, _>(row, 7)?).unwrap_or_default(),
        });
    }
    Ok(found)
}

/// By what they are about, or all.
pub(crate) async fn sealed(base: &Base, about: Option<(&Name, &str)>) -> Result<Vec<SealedRow>, Fault> {
    let rows = match about {
        None => base.rows("SELECT * FROM sealed ORDER BY id LIMIT 100000", &[]).await?,
        Some((name, about)) => {
            let Some(tenant) = base.tenant(name.as_str()).await? else { return Ok(vec![]) };
            let sql = "SELECT * FROM sealed WHERE tenant = $1 AND about = $2";
            base.rows(sql, &[&tenant, &clean(about)]).await?
        }
    };
    let mut found = vec![];
    for row in &rows {
        found.push(SealedRow {
            id: get(row, "id")?,
            tenant: base.tenant_name(get(row, "tenant")?).await?,
            about: get(row, "about")?,
            key_id: get(row, "key_id")?,
            sealed: get(row, "sealed")?,
            made_at: millis(row, "made_at")?,
        });
    }
    Ok(found)
}

pub(crate) async fn subscription_counts(base: &Base, tenant: &Name) -> Result<Vec<SubscriptionCount>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str()).await? else { return Ok(vec![]) };
    let rows = base
        .rows(
            "SELECT f.source, f.page, count(*), count(f.used_at), count(DISTINCT c.person)
             FROM confirmations f LEFT JOIN contacts c ON c.person = f.person WHERE f.tenant = $1
             GROUP BY f.source, f.page
             ORDER BY f.source COLLATE \"C\" NULLS FIRST, f.page COLLATE \"C\" NULLS FIRST LIMIT 1000",
            &[&tenant],
        )
        .await?;
    let count = |row: &Row, column: usize| Ok::<_, Fault>(get::<i64, _>(row, column)?.unsigned_abs());
    let mut found = vec![];
    for row in &rows {
        found.push(SubscriptionCount {
            source: get(row, 0)?,
            page: get(row, 1)?,
            asked: count(row, 2)?,
            confirmed: count(row, 3)?,
            contacts: count(row, 4)?,
        });
    }
    Ok(found)
}

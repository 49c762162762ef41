//! Rows of contacts, suppressions, declared fields, tenants, confirmations, facts and sealed secrets, as read.

use std::collections::{HashMap, HashSet};

use mailspan_core::contact::{
    Contact, ContactFields, ContactKey, Evidence, Left, Permission, Stated, Suppressed,
};
use mailspan_core::{Address, Digest, EventId, Millis, Name, PersonId};
use rusqlite::{OptionalExtension, Row, params};

use super::base::{Base, Fault, maybe_millis, millis, page};
use super::contacts;
use crate::ContactRow;
use crate::contacts::{
    ConfirmationRow, FactRow, FieldKind, FieldRow, SealedRow, SubscriptionCount, SuppressionFilter,
    SuppressionRow, TenantRow,
};

/// Columns that [`contact_of`] and [`row_of`] read, of a table named `c`; they stand first, and are read by their
/// places: to look names up would take as long as to read a row.
pub(crate) const CONTACT_COLUMNS: &str = "c.person, c.tenant, c.uid, c.rev, c.created_at, c.updated_at, c.address,
    c.external_id, c.locale, c.opt_in, c.permission, c.consent_version, c.source, c.project, c.unsubscribed_at,
    c.suppressed_at, c.fields";

pub(crate) fn contact_of(row: &Row) -> Result<Contact, Fault> {
    let unreadable = |row: &Row| Fault::unreadable("contact", row.get(0).unwrap_or_default());
    let maybe = |place: usize| Ok::<_, Fault>(row.get::<_, Option<i64>>(place)?.map(Millis));
    let address: Option<String> = row.get(6)?;
    let fields: Option<String> = row.get(16)?;
    Ok(Contact {
        uid: row.get(2)?,
        address: address.and_then(|text| Address::parse(&text).ok()),
        external_id: row.get(7)?,
        locale: row.get(8)?,
        opt_in: row.get::<_, i64>(9)? != 0,
        permission: Permission::from_number(row.get(10)?).ok_or_else(|| unreadable(row))?,
        consent_version: row.get(11)?,
        source: row.get(12)?,
        project: row.get(13)?,
        fields: fields_of(fields.as_deref()).ok_or_else(|| unreadable(row))?,
        suppressed_at: maybe(15)?,
        unsubscribed_at: maybe(14)?,
        created_at: Millis(row.get(4)?),
        updated_at: Millis(row.get(5)?),
    })
}

pub(crate) fn row_of(base: &Base, row: &Row) -> Result<ContactRow, Fault> {
    Ok(ContactRow {
        person: PersonId(row.get(0)?),
        tenant: base.tenant_name(row.get(1)?)?,
        rev: row.get(3)?,
        contact: contact_of(row)?,
    })
}

/// Nothing where there are none.
pub(crate) fn fields_json(fields: &ContactFields) -> Option<String> {
    if *fields == ContactFields::default() { None } else { serde_json::to_string(fields).ok() }
}

pub(crate) fn fields_of(stored: Option<&str>) -> Option<ContactFields> {
    stored.map_or(Some(ContactFields::default()), |json| serde_json::from_str(json).ok())
}

pub(crate) fn of_persons(base: &Base, persons: &[PersonId]) -> Result<HashMap<PersonId, Contact>, Fault> {
    let mut statement = base.sql(&format!(
        "SELECT {CONTACT_COLUMNS} FROM persons p CROSS JOIN contacts c ON c.person = coalesce(p.same_as, p.id)
         WHERE p.id = ?1"
    ))?;
    let mut found = HashMap::new();
    for person in persons {
        let mut rows = statement.query([person.0])?;
        if let Some(row) = rows.next()? {
            let (holder, tenant) = (row.get(0)?, row.get(1)?);
            let mut contact = contact_of(row)?;
            if !contact.fields.formerly.is_empty() {
                mark_taken(base, tenant, holder, &mut contact)?;
            }
            found.insert(*person, contact);
        }
    }
    Ok(found)
}

/// See [`crate::Store::gone_of`].
pub(crate) fn gone_of(base: &Base, persons: &[PersonId]) -> Result<HashSet<PersonId>, Fault> {
    let mut statement = base.sql(
        "SELECT 1 FROM persons p CROSS JOIN identities i INDEXED BY identities_person ON i.person = p.id
         CROSS JOIN suppressions s INDEXED BY suppressions_hash ON s.tenant = i.tenant AND s.hash = i.hash
         WHERE p.id = ?1 AND s.reason = ?2
            AND NOT EXISTS (SELECT 1 FROM contacts c WHERE c.person = coalesce(p.same_as, p.id))",
    )?;
    let mut gone = HashSet::new();
    for person in persons {
        if statement.exists(params![person.0, Suppressed::Erasure as i64])? {
            gone.insert(*person);
        }
    }
    Ok(gone)
}

/// Marks what the contact has left and another contact is called by now.
fn mark_taken(base: &Base, tenant: i64, holder: i64, contact: &mut Contact) -> Result<(), Fault> {
    for left in &mut contact.fields.formerly {
        if let Some(hash) = left_hash(&base.key, left) {
            left.taken = by_hash(base, tenant, hash)?.is_some_and(|row| row.person.0 != holder);
        }
    }
    Ok(())
}

/// Nothing where the name cannot be read: an erasure of somebody else has cut it out.
pub(crate) fn left_hash(key: &crate::identity::IdentityKey, left: &Left) -> Option<[u8; 16]> {
    match (&left.email, &left.external_id) {
        (Some(text), _) => {
            Address::parse(text).ok().map(|address| key.hash(b"address", address.key().as_bytes()))
        }
        (None, Some(id)) => Some(key.hash(b"external_id", id.as_bytes())),
        (None, None) => None,
    }
}

/// Found as a write that updates it would find it; a token finds nothing.
pub(crate) fn one(base: &Base, tenant: &Name, key: &ContactKey) -> Result<Option<ContactRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str())? else { return Ok(None) };
    let id_of = |id: &str| {
        Ok(by_hash(base, tenant, base.key.hash(b"external_id", id.as_bytes()))?
            .filter(|row| row.contact.external_id.as_deref() == Some(id)))
    };
    let of = |address: &Address| -> Result<Option<ContactRow>, Fault> {
        let found = by_hash(base, tenant, base.key.hash(b"address", address.key().as_bytes()))?;
        Ok(found.filter(|row| row.contact.address.as_ref().is_some_and(|own| own.key() == address.key())))
    };
    match key {
        ContactKey::Id(id) => match by_uid(base, tenant, id)? {
            Some(row) => Ok(Some(row)),
            None => id_of(id),
        },
        ContactKey::ExternalId(id) => id_of(id),
        ContactKey::Address(address) => of(address),
        ContactKey::Subject { address, external_id } => {
            let found = external_id.as_deref().map(id_of).transpose()?.flatten();
            match (found, address) {
                (None, Some(address)) => of(address),
                (found, _) => Ok(found),
            }
        }
        ContactKey::Token(_) => Ok(None),
    }
}

fn by_uid(base: &Base, tenant: i64, uid: &str) -> Result<Option<ContactRow>, Fault> {
    let sql = format!("SELECT {CONTACT_COLUMNS} FROM contacts c WHERE c.tenant = ?1 AND c.uid = ?2");
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query(params![tenant, uid])?;
    rows.next()?.map(|row| row_of(base, row)).transpose()
}

fn by_hash(base: &Base, tenant: i64, hash: [u8; 16]) -> Result<Option<ContactRow>, Fault> {
    let sql = format!(
        "SELECT {CONTACT_COLUMNS} FROM identities i CROSS JOIN persons p ON p.id = i.person
         CROSS JOIN contacts c ON c.person = coalesce(p.same_as, p.id) WHERE i.tenant = ?1 AND i.hash = ?2"
    );
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query(params![tenant, hash])?;
    rows.next()?.map(|row| row_of(base, row)).transpose()
}

pub(crate) fn suppressions(base: &Base, filter: &SuppressionFilter) -> Result<Vec<SuppressionRow>, Fault> {
    let tenant = match &filter.tenant {
        None => None,
        Some(name) => match base.tenant(name.as_str())? {
            Some(id) => Some(id),
            None => return Ok(vec![]),
        },
    };
    let columns = "SELECT id, tenant, address, reason, source, at FROM suppressions";
    let sql = match tenant {
        Some(_) => format!(
            "{columns} INDEXED BY suppressions_list WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3"
        ),
        None => format!("{columns} WHERE ?1 IS NULL AND id > ?2 ORDER BY id LIMIT ?3"),
    };
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query(params![tenant, filter.after, page(filter.limit)])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        found.push(suppression_row(base, row)?);
    }
    Ok(found)
}

pub(crate) fn suppression_of(
    base: &Base,
    tenant: &Name,
    address: &Address,
) -> Result<Option<SuppressionRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str())? else { return Ok(None) };
    let hash = base.key.hash(b"address", address.key().as_bytes());
    let mut statement = base.sql(
        "SELECT id, tenant, address, reason, source, at FROM suppressions WHERE tenant = ?1 AND hash = ?2",
    )?;
    let mut rows = statement.query(params![tenant, hash])?;
    rows.next()?.map(|row| suppression_row(base, row)).transpose()
}

fn suppression_row(base: &Base, row: &Row) -> Result<SuppressionRow, Fault> {
    let id = row.get("id")?;
    let address: Option<String> = row.get("address")?;
    Ok(SuppressionRow {
        id,
        tenant: base.tenant_name(row.get("tenant")?)?,
        address: address.and_then(|text| Address::parse(&text).ok()),
        reason: Suppressed::from_number(row.get("reason")?)
            .ok_or_else(|| Fault::unreadable("suppression", id))?,
        source: row.get("source")?,
        at: millis(row, "at")?,
    })
}

pub(crate) fn field_kinds(base: &Base, tenant: &Name) -> Result<Vec<FieldRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str())? else { return Ok(vec![]) };
    let mut statement =
        base.sql("SELECT name, kind, made_at FROM field_kinds WHERE tenant = ?1 ORDER BY name LIMIT 10000")?;
    let mut rows = statement.query([tenant])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        let kind = FieldKind::from_number(row.get(1)?)
            .ok_or_else(|| Fault::unreadable("field of tenant", tenant))?;
        found.push(FieldRow { name: row.get(0)?, kind, made_at: Millis(row.get(2)?) });
    }
    Ok(found)
}

/// All of them, or the one of this name.
pub(crate) fn tenants(base: &Base, name: Option<&Name>) -> Result<Vec<TenantRow>, Fault> {
    let mut statement = base.sql(
        "SELECT name, settings, made_at FROM tenants WHERE ?1 IS NULL OR name = ?1 ORDER BY id LIMIT 10000",
    )?;
    let rows = statement.query_map([name.map(|name| name.as_str())], |row| {
        let settings: Option<String> = row.get(1)?;
        Ok(TenantRow {
            name: Name::new(&row.get::<_, String>(0)?),
            settings: settings.unwrap_or_else(|| "{}".to_owned()),
            made_at: maybe_millis(row, "made_at")?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn confirmation(base: &Base, token: &[u8; 32]) -> Result<Option<ConfirmationRow>, Fault> {
    let Some((tenant, row)) = contacts::confirmation(base, token)? else { return Ok(None) };
    let known: Option<(Option<String>, Option<String>)> = base
        .sql("SELECT address, locale FROM contacts WHERE person = ?1")?
        .query_row([row.person], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (address, locale) = known.unwrap_or_default();
    Ok(Some(ConfirmationRow {
        tenant: base.tenant_name(tenant)?,
        person: PersonId(row.person),
        address: address.and_then(|text| Address::parse(&text).ok()),
        locale,
        asked_at: row.asked_at,
        expires_at: row.expires_at,
        used_at: row.used_at,
        gives: row.gives,
    }))
}

/// Of a person and those merged into it, oldest first.
pub(crate) fn facts_of(
    base: &Base,
    tenant: &Name,
    person: PersonId,
    after: i64,
    limit: usize,
) -> Result<Vec<FactRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str())? else { return Ok(vec![]) };
    let mut statement = base.sql(
        "SELECT id, what, permission, happened_at, learned_at, event_id, digest, evidence
         FROM ledger INDEXED BY ledger_person
         WHERE person IN (SELECT ?2 UNION SELECT id FROM persons WHERE same_as = ?2) AND tenant = ?1 AND id > ?3
         ORDER BY id LIMIT ?4",
    )?;
    let mut rows = statement.query(params![tenant, person.0, after, page(limit)])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let what = Stated::from_numbers(row.get(1)?, row.get(2)?);
        found.push(FactRow {
            id,
            what: what.ok_or_else(|| Fault::unreadable("fact", id))?,
            happened_at: Millis(row.get(3)?),
            learned_at: Millis(row.get(4)?),
            event_id: EventId(u128::from_be_bytes(row.get(5)?)),
            digest: Digest(row.get(6)?).to_string(),
            evidence: evidence(row.get::<_, Option<String>>(7)?.as_deref()).unwrap_or_default(),
        });
    }
    Ok(found)
}

pub(crate) fn evidence(stored: Option<&str>) -> Option<Evidence> {
    stored.and_then(|json| serde_json::from_str(json).ok())
}

/// By what they are about, or all.
pub(crate) fn sealed(base: &Base, about: Option<(&Name, &str)>) -> Result<Vec<SealedRow>, Fault> {
    let tenant = match about {
        None => None,
        Some((name, _)) => match base.tenant(name.as_str())? {
            Some(id) => Some(id),
            None => return Ok(vec![]),
        },
    };
    let mut statement = base.sql(match tenant {
        Some(_) => "SELECT * FROM sealed WHERE tenant = ?1 AND about = ?2",
        None => "SELECT * FROM sealed WHERE ?1 IS NULL AND ?2 IS NULL ORDER BY id LIMIT 100000",
    })?;
    let mut rows = statement.query(params![tenant, about.map(|(_, about)| about)])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        found.push(SealedRow {
            id: row.get("id")?,
            tenant: base.tenant_name(row.get("tenant")?)?,
            about: row.get("about")?,
            key_id: row.get("key_id")?,
            sealed: row.get("sealed")?,
            made_at: millis(row, "made_at")?,
        });
    }
    Ok(found)
}

pub(crate) fn subscription_counts(base: &Base, tenant: &Name) -> Result<Vec<SubscriptionCount>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str())? else { return Ok(vec![]) };
    let mut statement = base.sql(
        "SELECT f.source, f.page, count(*), count(f.used_at), count(DISTINCT c.person)
         FROM confirmations f LEFT JOIN contacts c ON c.person = f.person
         WHERE f.tenant = ?1 GROUP BY f.source, f.page ORDER BY f.source, f.page LIMIT 1000",
    )?;
    let count = |row: &Row, column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)?.unsigned_abs());
    let rows = statement.query_map([tenant], |row| {
        Ok(SubscriptionCount {
            source: row.get(0)?,
            page: row.get(1)?,
            asked: count(row, 2)?,
            confirmed: count(row, 3)?,
            contacts: count(row, 4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

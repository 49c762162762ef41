//! Lists of contacts: by `rev` behind a cursor, or by numbered pages.

use mailspan_core::limits::{CONTACT_PAGES_MAX, CONTACT_ROWS_LOOKED_AT_MAX};
use mailspan_core::{Address, Millis, Name, PersonId};
use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault, page};
use super::contact_rows::{CONTACT_COLUMNS, evidence, row_of};
use super::contacts;
use crate::{ContactFilter, ContactList, ContactPage, ProofRow};

/// Conditions of the filter; ?1 is the tenant. A locale of '' asks for those without one.
const FITS: &str = "(?2 IS NULL OR c.locale IS nullif(?2, '')) AND (?3 IS NULL OR c.opt_in = ?3)
    AND (?4 IS NULL OR c.project IS ?4)";

/// What the filter asks for, as parameters.
struct Wanted<'a> {
    tenant: i64,
    locale: Option<&'a str>,
    opt_in: Option<i64>,
    project: Option<&'a str>,
}

pub(crate) fn list(base: &Base, filter: &ContactFilter, part: ContactPage) -> Result<ContactList, Fault> {
    let name = filter.tenant.clone().unwrap_or_else(mailspan_core::Name::default_tenant);
    let Some(tenant) = base.tenant(name.as_str())? else { return Ok(nothing(part)) };
    let wanted = Wanted {
        tenant,
        locale: filter.locale.as_ref().map(|locale| locale.as_deref().unwrap_or("")),
        opt_in: filter.opt_in.map(i64::from),
        project: filter.project.as_deref(),
    };
    let since = match filter.updated_since {
        None => 0,
        Some(since) => match first_since(base, tenant, since.0)? {
            Some(rev) => rev - 1,
            None => return Ok(nothing(part)),
        },
    };
    match part {
        ContactPage::After { rev, limit } => after(base, &wanted, rev.max(since), page(limit) as usize),
        ContactPage::Numbered { page: number, limit } => numbered(base, &wanted, since, number, page(limit)),
    }
}

/// An empty list: the cursor stays where it is.
pub(crate) fn nothing(part: ContactPage) -> ContactList {
    match part {
        ContactPage::After { rev, .. } => ContactList { rev, ..ContactList::default() },
        ContactPage::Numbered { .. } => ContactList { total: Some(0), ..ContactList::default() },
    }
}

/// `updated_at` grows with `rev`: those changed since then are the ones from this `rev` on.
fn first_since(base: &Base, tenant: i64, since: i64) -> Result<Option<i64>, Fault> {
    let mut statement = base.sql(
        "SELECT rev FROM contacts INDEXED BY contacts_updated
         WHERE tenant = ?1 AND updated_at >= ?2 ORDER BY updated_at, rev LIMIT 1",
    )?;
    Ok(statement.query_row(params![tenant, since], |row| row.get(0)).optional()?)
}

fn after(base: &Base, wanted: &Wanted, rev: i64, limit: usize) -> Result<ContactList, Fault> {
    let sql = format!(
        "SELECT {CONTACT_COLUMNS}, {FITS} AS fits FROM contacts c INDEXED BY contacts_rev
         WHERE c.tenant = ?1 AND c.rev > ?5 ORDER BY c.rev LIMIT ?6"
    );
    let mut statement = base.sql(&sql)?;
    let looked_at_max = CONTACT_ROWS_LOOKED_AT_MAX as i64 + 1;
    let Wanted { tenant, locale, opt_in, project } = wanted;
    let mut rows = statement.query(params![tenant, locale, opt_in, project, rev, looked_at_max])?;
    let mut list = ContactList { rev, ..ContactList::default() };
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        if list.rows.len() == limit || looked_at == CONTACT_ROWS_LOOKED_AT_MAX {
            list.more = true;
            break;
        }
        looked_at += 1;
        list.rev = row.get(3)?;
        if row.get::<_, bool>(17)? {
            list.rows.push(row_of(base, row)?);
        }
    }
    Ok(list)
}

fn numbered(base: &Base, wanted: &Wanted, since: i64, number: u64, limit: i64) -> Result<ContactList, Fault> {
    let Wanted { tenant, locale, opt_in, project } = wanted;
    let total: i64 = base
        .sql(&format!("SELECT count(*) FROM contacts c WHERE c.tenant = ?1 AND c.rev > ?5 AND {FITS}"))?
        .query_row(params![tenant, locale, opt_in, project, since], |row| row.get(0))?;
    let total = total.unsigned_abs();
    let passed = number.saturating_sub(1).saturating_mul(limit.unsigned_abs());
    let mut list = ContactList { total: Some(total), ..ContactList::default() };
    if passed >= CONTACT_PAGES_MAX.min(total) {
        return Ok(list);
    }
    let sql = format!(
        "SELECT {CONTACT_COLUMNS} FROM contacts c INDEXED BY contacts_person
         WHERE c.tenant = ?1 AND c.rev > ?5 AND {FITS} ORDER BY c.person LIMIT ?6 OFFSET ?7"
    );
    let mut statement = base.sql(&sql)?;
    let mut rows =
        statement.query(params![tenant, locale, opt_in, project, since, limit, passed.cast_signed()])?;
    while let Some(row) = rows.next()? {
        list.rows.push(row_of(base, row)?);
    }
    list.more = passed + (list.rows.len() as u64) < total;
    Ok(list)
}

/// The newest fact that agrees, of a person and those merged into it, and why the address is suppressed.
pub(crate) fn proofs(
    base: &Base,
    tenant: &Name,
    asked: &[(PersonId, Option<Address>)],
) -> Result<Vec<ProofRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str())? else {
        return Ok(vec![ProofRow::default(); asked.len()]);
    };
    let mut newest = base.sql(
        "SELECT min(happened_at, learned_at) AS at, evidence FROM ledger INDEXED BY ledger_person
         WHERE person IN (SELECT ?1 UNION SELECT id FROM persons WHERE same_as = ?1)
            AND (what = 0 OR what = 7 AND permission <> 1)
         ORDER BY at DESC, id DESC LIMIT 1",
    )?;
    let mut proofs = Vec::with_capacity(asked.len());
    for (person, address) in asked {
        let mut rows = newest.query([person.0])?;
        let agreed = match rows.next()? {
            Some(row) => {
                let proof = evidence(row.get::<_, Option<String>>(1)?.as_deref()).unwrap_or_default();
                Some((Millis(row.get(0)?), proof))
            }
            None => None,
        };
        let hash = address.as_ref().map(|address| base.key.hash(b"address", address.key().as_bytes()));
        let suppressed = match hash {
            Some(hash) => contacts::suppression(base, tenant, &hash)?.map(|row| row.reason),
            None => None,
        };
        proofs.push(ProofRow { agreed, suppressed });
    }
    Ok(proofs)
}

//! Lists of contacts: by `rev` behind a cursor, or by numbered pages.

use std::collections::HashMap;

use mailspan_core::contact::Suppressed;
use mailspan_core::limits::{CONTACT_PAGES_MAX, CONTACT_ROWS_LOOKED_AT_MAX};
use mailspan_core::{Address, Millis, Name, PersonId};

use super::base::{Base, Fault, clean, digest, get};
use super::contact_rows::{CONTACT_COLUMNS, row_of};
use crate::audience::Hash;
use crate::sqlite::base::page;
use crate::sqlite::contact_list::nothing;
use crate::sqlite::contact_rows::evidence;
use crate::{ContactFilter, ContactList, ContactPage, ProofRow};

/// Conditions of the filter; $1 is the tenant. A locale of '' asks for those without one.
const FITS: &str = "($2::text IS NULL OR c.locale IS NOT DISTINCT FROM nullif($2, ''))
    AND ($3::bigint IS NULL OR c.opt_in = $3) AND ($4::text IS NULL OR c.project IS NOT DISTINCT FROM $4)";

/// What the filter asks for, as parameters.
struct Wanted {
    tenant: i64,
    locale: Option<String>,
    opt_in: Option<i64>,
    project: Option<String>,
}

pub(crate) async fn list(
    base: &Base,
    filter: &ContactFilter,
    part: ContactPage,
) -> Result<ContactList, Fault> {
    let name = filter.tenant.clone().unwrap_or_else(mailspan_core::Name::default_tenant);
    let Some(tenant) = base.tenant(name.as_str()).await? else { return Ok(nothing(part)) };
    let locale = filter.locale.as_ref().map(|locale| locale.as_deref().unwrap_or(""));
    let wanted = Wanted {
        tenant,
        locale: locale.map(|locale| clean(locale).into_owned()),
        opt_in: filter.opt_in.map(i64::from),
        project: filter.project.as_deref().map(|project| clean(project).into_owned()),
    };
    let since = match filter.updated_since {
        None => 0,
        Some(since) => match first_since(base, tenant, since.0).await? {
            Some(rev) => rev - 1,
            None => return Ok(nothing(part)),
        },
    };
    match part {
        ContactPage::After { rev, limit } => after(base, &wanted, rev.max(since), page(limit) as usize).await,
        ContactPage::Numbered { page: number, limit } => {
            numbered(base, &wanted, since, number, page(limit)).await
        }
    }
}

/// `updated_at` grows with `rev`: those changed since then are the ones from this `rev` on.
async fn first_since(base: &Base, tenant: i64, since: i64) -> Result<Option<i64>, Fault> {
    let row = base
        .row(
            "SELECT rev FROM contacts WHERE tenant = $1 AND updated_at >= $2
             ORDER BY tenant, updated_at, rev LIMIT 1",
            &[&tenant, &since],
        )
        .await?;
    row.map(|row| get(&row, 0)).transpose()
}

async fn after(base: &Base, wanted: &Wanted, rev: i64, limit: usize) -> Result<ContactList, Fault> {
    let sql = format!(
        "SELECT c.* FROM (SELECT * FROM contacts WHERE tenant = $1 AND rev > $5 ORDER BY tenant, rev LIMIT $6) AS c
         WHERE {FITS} ORDER BY c.rev LIMIT $7"
    );
    let Wanted { tenant, locale, opt_in, project } = wanted;
    let looked_at_max = CONTACT_ROWS_LOOKED_AT_MAX as i64;
    let one_more = limit as i64 + 1;
    let mut rows =
        base.rows(&sql, &[tenant, locale, opt_in, project, &rev, &looked_at_max, &one_more]).await?;
    let is_full = rows.len() > limit;
    rows.truncate(limit);
    let mut list = ContactList { rev, more: is_full, ..ContactList::default() };
    for row in &rows {
        list.rows.push(row_of(base, row).await?);
    }
    if let (true, Some(last)) = (is_full, list.rows.last()) {
        list.rev = last.rev;
        return Ok(list);
    }
    // What was looked at and did not fit is passed over by the next page.
    let seen = base
        .row(
            "SELECT max(rev), count(*) FROM
                (SELECT rev FROM contacts WHERE tenant = $1 AND rev > $2 ORDER BY tenant, rev LIMIT $3) AS c",
            &[tenant, &rev, &looked_at_max],
        )
        .await?;
    if let Some(seen) = seen {
        list.rev = get::<Option<i64>, _>(&seen, 0)?.unwrap_or(rev);
        list.more = get::<i64, _>(&seen, 1)? == looked_at_max;
    }
    Ok(list)
}

async fn numbered(
    base: &Base,
    wanted: &Wanted,
    since: i64,
    number: u64,
    limit: i64,
) -> Result<ContactList, Fault> {
    let Wanted { tenant, locale, opt_in, project } = wanted;
    let sql = format!("SELECT count(*) FROM contacts c WHERE c.tenant = $1 AND c.rev > $5 AND {FITS}");
    let row = base.row(&sql, &[tenant, locale, opt_in, project, &since]).await?;
    let total = row.map(|row| get::<i64, _>(&row, 0)).transpose()?.unwrap_or(0).unsigned_abs();
    let passed = number.saturating_sub(1).saturating_mul(limit.unsigned_abs());
    let mut list = ContactList { total: Some(total), ..ContactList::default() };
    if passed >= CONTACT_PAGES_MAX.min(total) {
        return Ok(list);
    }
    let sql = format!(
        "SELECT {CONTACT_COLUMNS} FROM contacts c WHERE c.tenant = $1 AND c.rev > $5 AND {FITS}
         ORDER BY c.tenant, c.person LIMIT $6 OFFSET $7"
    );
    let offset = passed.cast_signed();
    for row in &base.rows(&sql, &[tenant, locale, opt_in, project, &since, &limit, &offset]).await? {
        list.rows.push(row_of(base, row).await?);
    }
    list.more = passed + (list.rows.len() as u64) < total;
    Ok(list)
}

/// The newest fact that agrees, of a person and those merged into it, and why the address is suppressed.
pub(crate) async fn proofs(
    base: &Base,
    tenant: &Name,
    asked: &[(PersonId, Option<Address>)],
) -> Result<Vec<ProofRow>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str()).await? else {
        return Ok(vec![ProofRow::default(); asked.len()]);
    };
    let persons: Vec<i64> = asked.iter().map(|(person, _)| person.0).collect();
    let newest = "SELECT p.id AS person, l.at, l.evidence FROM unnest($1::bigint[]) AS p (id)
         CROSS JOIN LATERAL (
            SELECT least(l.happened_at, l.learned_at) AS at, l.evidence FROM ledger l
            WHERE l.person IN (SELECT p.id UNION SELECT k.id FROM persons k WHERE k.same_as = p.id)
                AND (l.what = 0 OR l.what = 7 AND l.permission <> 1)
            ORDER BY at DESC, l.id DESC LIMIT 1) AS l";
    let mut agreed = HashMap::new();
    for row in &base.rows(newest, &[&persons]).await? {
        let proof = evidence(get::<Option<&str>, _>(row, "evidence")?).unwrap_or_default();
        agreed.insert(get::<i64, _>(row, "person")?, (Millis(get(row, "at")?), proof));
    }
    let hash_of = |address: &Address| base.key.hash(b"address", address.key().as_bytes());
    let hashes: Vec<Hash> = asked.iter().filter_map(|(_, address)| address.as_ref().map(hash_of)).collect();
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash[..]).collect();
    let mut suppressed: HashMap<Hash, Suppressed> = HashMap::new();
    let sql = "SELECT id, hash, reason FROM suppressions WHERE tenant = $1 AND hash = ANY($2)";
    for row in &base.rows(sql, &[&tenant, &hashes]).await? {
        let reason = Suppressed::from_number(get(row, "reason")?)
            .ok_or_else(|| Fault::unreadable("suppression", get(row, "id").unwrap_or_default()))?;
        suppressed.insert(digest(row, "hash")?, reason);
    }
    let of = |(person, address): &(PersonId, Option<Address>)| ProofRow {
        agreed: agreed.get(&person.0).cloned(),
        suppressed: address.as_ref().and_then(|address| suppressed.get(&hash_of(address)).copied()),
    };
    Ok(asked.iter().map(of).collect())
}

//! The audience: what writes of contacts touch is read, and what they changed is written, a statement a table.

use std::collections::{BTreeMap, BTreeSet};

use mailspan_core::contact::{ContactWrite, Fact, Permission, Stated, Suppressed};
use mailspan_core::limits::FACTS_MAX;
use mailspan_core::{Class, DestinationId, Millis, State};
use tokio_postgres::Row;

use super::base::{Base, Fault, clean, digest, get, maybe_millis, millis};
use super::contact_rows::{CONTACT_COLUMNS, contact_of};
use super::erase;
use super::persons::lock_rows;
use crate::audience::{Asked, Audience, Confirmation, Hash, Known, NewFact, PersonRow, Suppression};
use crate::prepare::{Prepared, What};
use crate::sqlite::contact_rows::fields_json;
use crate::sqlite::contacts::{CONTACT_VERSION, ERASED, ERASED_TEXT};
use crate::sqlite::counts::{Counts, Place};
use crate::sqlite::leases::of_destination;
use crate::write::Write;

/// An erasure ends deliveries in lanes of any destination of the tenant.
pub(crate) async fn leases_to_erase(base: &Base, writes: &[Prepared]) -> Result<Vec<String>, Fault> {
    let mut tenants = vec![];
    for write in writes {
        if matches!(write.what, What::Write(Write::Erase)) {
            let rows = base.rows("SELECT DISTINCT tenant FROM erasures WHERE done_at IS NULL", &[]).await?;
            for row in &rows {
                tenants.push(get(row, 0)?);
            }
        }
        let What::Accept { receipt, .. } = &write.what else { continue };
        let erases = |write: &ContactWrite| write.erase;
        if receipt.arrivals.iter().any(|arrived| arrived.contact.as_deref().is_some_and(erases)) {
            tenants.push(base.made_tenant(receipt.tenant.as_str()).await?);
        }
    }
    if tenants.is_empty() {
        return Ok(vec![]);
    }
    let rows = base.rows("SELECT id FROM destinations WHERE tenant = ANY($1)", &[&tenants]).await?;
    rows.iter().map(|row| Ok(of_destination(DestinationId(get(row, 0)?)))).collect()
}

/// The audience as far as these writes speak of it. Under the lock of persons.
pub(crate) async fn open(base: &Base, tenant: i64, writes: &[&ContactWrite]) -> Result<Audience, Fault> {
    let free = base.numbers("persons_id", writes.len()).await?;
    let floor = base
        .row("SELECT updated_at FROM contacts WHERE tenant = $1 ORDER BY rev DESC LIMIT 1", &[&tenant])
        .await?;
    let floor = floor.map(|row| get(&row, 0)).transpose()?;
    let mut audience = Audience::new(base.key.clone(), free, Millis(floor.unwrap_or(i64::MIN)));
    let asked = audience.asked(writes);
    read_keys(base, tenant, &asked, &mut audience).await?;
    read_all_persons(base, &mut audience).await?;
    read_identities(base, tenant, &audience.unread_hashes(&asked), &mut audience).await?;
    read_all_persons(base, &mut audience).await?;
    let hashes: Vec<Vec<u8>> = audience.addressed(&asked).iter().map(|hash| hash.to_vec()).collect();
    let rows = base
        .rows(
            "SELECT hash, id, address, reason, source, at FROM suppressions WHERE tenant = $1 AND hash = ANY($2)",
            &[&tenant, &hashes],
        )
        .await?;
    for row in &rows {
        audience.suppressions.read(digest(row, "hash")?, suppression_of(row)?);
    }
    super::no_news::read(base, tenant, writes, &asked, &mut audience).await?;
    Ok(audience)
}

/// Until none is spoken of that is not read: two rounds, as no merge leads to another. Bounded, should a row be
/// missing.
async fn read_all_persons(base: &Base, audience: &mut Audience) -> Result<(), Fault> {
    for _ in 0..4 {
        let unread: Vec<i64> = audience.unread_persons().into_iter().collect();
        if unread.is_empty() {
            break;
        }
        read_persons(base, &unread, audience).await?;
    }
    Ok(())
}

pub(super) async fn read_identities(
    base: &Base,
    tenant: i64,
    hashes: &BTreeSet<Hash>,
    audience: &mut Audience,
) -> Result<(), Fault> {
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash[..]).collect();
    if hashes.is_empty() {
        return Ok(());
    }
    let sql = "SELECT hash, person FROM identities WHERE tenant = $1 AND hash = ANY($2)";
    for row in &base.rows(sql, &[&tenant, &hashes]).await? {
        audience.identities.read(digest(row, "hash")?, get(row, 1)?);
    }
    Ok(())
}

async fn read_keys(base: &Base, tenant: i64, asked: &Asked, audience: &mut Audience) -> Result<(), Fault> {
    read_identities(base, tenant, &asked.hashes, audience).await?;
    if !asked.uids.is_empty() {
        let uids: Vec<_> = asked.uids.iter().map(|uid| clean(uid)).collect();
        let sql = "SELECT uid, person FROM contacts WHERE tenant = $1 AND uid = ANY($2)";
        for row in &base.rows(sql, &[&tenant, &uids]).await? {
            audience.read_uid(get(row, 0)?, get(row, 1)?);
        }
    }
    for token in &asked.tokens {
        if let Some(row) = confirmation(base, token).await?.filter(|row| row.0 == tenant) {
            audience.confirmations.read(*token, row.1);
        }
    }
    Ok(())
}

/// With those merged into them, their facts and their contacts.
async fn read_persons(base: &Base, persons: &[i64], audience: &mut Audience) -> Result<(), Fault> {
    let rows = base
        .rows(
            "SELECT id, address, external_id, same_as, erased, opted_in_at, opted_out_at FROM persons
             WHERE id = ANY($1) UNION SELECT id, address, external_id, same_as, erased, opted_in_at, opted_out_at
             FROM persons WHERE same_as = ANY($1)",
            &[&persons],
        )
        .await?;
    let mut new = vec![];
    for row in &rows {
        let id: i64 = get(row, 0)?;
        if audience.persons.get(&id).is_some() {
            continue;
        }
        new.push(id);
        audience.read_person(
            id,
            PersonRow {
                address: get(row, 1)?,
                external_id: get(row, 2)?,
                same_as: get(row, 3)?,
                erased: get::<i64, _>(row, 4)? != 0,
                opted_in_at: maybe_millis(row, "opted_in_at")?,
                opted_out_at: maybe_millis(row, "opted_out_at")?,
            },
        );
    }
    read_facts(base, &new, audience).await?;
    let sql = format!("SELECT {CONTACT_COLUMNS} FROM contacts c WHERE c.person = ANY($1)");
    for row in &base.rows(&sql, &[&new]).await? {
        audience.read_contact(get(row, "person")?, contact_of(row)?);
    }
    Ok(())
}

/// The newest, and of a person with more than these the latest of each kind and level. A fact happened no later
/// than it was learned of.
async fn read_facts(base: &Base, persons: &[i64], audience: &mut Audience) -> Result<(), Fault> {
    let newest = "SELECT l.person, l.id, least(l.happened_at, l.learned_at), l.what, l.permission, l.evidence
         FROM unnest($1::bigint[]) AS p (id)
         CROSS JOIN LATERAL (SELECT * FROM ledger l WHERE l.person = p.id ORDER BY l.happened_at DESC LIMIT $2) AS l";
    let latest = "SELECT l.person, max(l.id), max(least(l.happened_at, l.learned_at)), l.what, l.permission,
            NULL::text
         FROM ledger l WHERE l.person = ANY($1) GROUP BY l.person, l.what, l.permission";
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    let mut rows = base.rows(newest, &[&persons, &(FACTS_MAX as i64)]).await?;
    for row in &rows {
        *counts.entry(get(row, 0)?).or_default() += 1;
    }
    let many: Vec<i64> =
        counts.into_iter().filter(|(_, count)| *count >= FACTS_MAX).map(|(person, _)| person).collect();
    if !many.is_empty() {
        rows.extend(base.rows(latest, &[&many]).await?);
    }
    for row in &rows {
        let what = Stated::from_numbers(get(row, 3)?, get(row, 4)?);
        let what = what.ok_or_else(|| Fault::unreadable("fact", get(row, 1).unwrap_or_default()))?;
        audience.read_fact(get(row, 0)?, Fact { at: Millis(get(row, 2)?), what }, get(row, 5)?);
    }
    Ok(())
}

fn suppression_of(row: &Row) -> Result<Suppression, Fault> {
    let reason = Suppressed::from_number(get(row, "reason")?)
        .ok_or_else(|| Fault::unreadable("suppression", get(row, "id").unwrap_or_default()))?;
    let (address, source) = (get(row, "address")?, get(row, "source")?);
    Ok(Suppression { address, reason, source, at: millis(row, "at")? })
}

/// With its tenant.
pub(crate) async fn confirmation(
    base: &Base,
    token: &[u8; 32],
) -> Result<Option<(i64, Confirmation)>, Fault> {
    let row = base.row("SELECT * FROM confirmations WHERE token = $1", &[&&token[..]]).await?;
    let Some(row) = &row else { return Ok(None) };
    let person = get(row, "person")?;
    let gives = Permission::from_number(get(row, "gives")?)
        .ok_or_else(|| Fault::unreadable("confirmation of person", person))?;
    let confirmation = Confirmation {
        person,
        asked_at: millis(row, "asked_at")?,
        expires_at: millis(row, "expires_at")?,
        used_at: maybe_millis(row, "used_at")?,
        gives,
        mailing: get(row, "mailing")?,
        source: get(row, "source")?,
        page: get(row, "page")?,
    };
    Ok(Some((get(row, "tenant")?, confirmation)))
}

/// Writes what changed.
pub(crate) async fn keep(
    base: &Base,
    counts: &mut Counts,
    tenant: i64,
    audience: &Audience,
    at: Millis,
) -> Result<(), Fault> {
    if !audience.erased.is_empty() {
        let erased: Vec<i64> = audience.erased.iter().copied().collect();
        base.execute("DELETE FROM identities WHERE person = ANY($1)", &[&erased]).await?;
        discard(base, counts, &erased, at).await?;
    }
    keep_persons(base, tenant, audience).await?;
    keep_contacts(base, tenant, audience).await?;
    keep_suppressions(base, tenant, audience).await?;
    if !audience.moved.is_empty() {
        let moved: Vec<i64> = audience.moved.iter().copied().collect();
        let sql = "UPDATE confirmations SET expires_at = asked_at WHERE person = ANY($1) AND used_at IS NULL";
        base.execute(sql, &[&moved]).await?;
    }
    for (token, row) in audience.confirmations.written() {
        base.execute(
            "INSERT INTO confirmations (token, tenant, person, asked_at, expires_at, used_at, gives, mailing, source, page)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (token) DO UPDATE SET used_at = excluded.used_at",
            &[
                &&token[..],
                &tenant,
                &row.person,
                &row.asked_at.0,
                &row.expires_at.0,
                &row.used_at.map(|at| at.0),
                &(row.gives as i64),
                &row.mailing.as_deref().map(clean),
                &row.source.as_deref().map(clean),
                &row.page.as_deref().map(clean),
            ],
        )
        .await?;
    }
    Ok(())
}

async fn keep_persons(base: &Base, tenant: i64, audience: &Audience) -> Result<(), Fault> {
    let gone: Vec<&[u8]> = audience.identities.dropped().map(|hash| &hash[..]).collect();
    if !gone.is_empty() {
        base.execute("DELETE FROM identities WHERE tenant = $1 AND hash = ANY($2)", &[&tenant, &gone])
            .await?;
    }
    let (ids, rows): (Vec<i64>, Vec<&PersonRow>) =
        audience.persons.written().map(|(id, row)| (*id, row)).unzip();
    if !ids.is_empty() {
        lock_rows(base, &ids).await?;
        let texts = |value: fn(&PersonRow) -> Option<&str>| -> Vec<_> {
            rows.iter().map(|row| value(row).map(clean)).collect()
        };
        let of =
            |value: fn(&PersonRow) -> Option<i64>| -> Vec<_> { rows.iter().map(|row| value(row)).collect() };
        base.execute(
            "INSERT INTO persons (id, tenant, address, external_id, same_as, erased, opted_in_at, opted_out_at)
             SELECT id, $8::bigint, address, external_id, same_as, erased, opted_in, opted_out
             FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
                AS r (id, address, external_id, same_as, erased, opted_in, opted_out)
             ON CONFLICT (id) DO UPDATE SET address = excluded.address, external_id = excluded.external_id,
                same_as = excluded.same_as, erased = excluded.erased,
                opted_in_at = greatest(persons.opted_in_at, excluded.opted_in_at),
                opted_out_at = greatest(persons.opted_out_at, excluded.opted_out_at)",
            &[
                &ids,
                &texts(|row| row.address.as_deref()),
                &texts(|row| row.external_id.as_deref()),
                &of(|row| row.same_as),
                &of(|row| Some(i64::from(row.erased))),
                &of(|row| row.opted_in_at.map(|at| at.0)),
                &of(|row| row.opted_out_at.map(|at| at.0)),
                &tenant,
            ],
        )
        .await?;
    }
    let (hashes, persons): (Vec<&[u8]>, Vec<i64>) =
        audience.identities.written().map(|(hash, person)| (&hash[..], *person)).unzip();
    if !hashes.is_empty() {
        base.execute(
            "INSERT INTO identities (tenant, hash, person)
             SELECT $3::bigint, hash, person FROM unnest($1::bytea[], $2::bigint[]) AS r (hash, person)
             ON CONFLICT (tenant, hash) DO UPDATE SET person = excluded.person",
            &[&hashes, &persons, &tenant],
        )
        .await?;
    }
    Ok(())
}

async fn keep_contacts(base: &Base, tenant: i64, audience: &Audience) -> Result<(), Fault> {
    let gone: Vec<i64> = audience.contacts.dropped().copied().collect();
    if !gone.is_empty() {
        base.execute("DELETE FROM contacts WHERE person = ANY($1)", &[&gone]).await?;
    }
    let contacts = audience.written_contacts();
    if contacts.is_empty() {
        return Ok(());
    }
    let count = contacts.len() as i64;
    let sql = "UPDATE tenants SET contact_rev = contact_rev + $2 WHERE id = $1 RETURNING contact_rev";
    let rows = base.written(sql, &[&tenant, &count]).await?;
    let last: i64 = get(rows.first().ok_or_else(|| Fault::unreadable("tenant", tenant))?, 0)?;
    let revs: Vec<i64> = (last - count + 1..=last).collect();
    type Row<'a> = (i64, &'a mailspan_core::contact::Contact);
    let of = |value: fn(&Row) -> i64| contacts.iter().map(value).collect::<Vec<i64>>();
    let maybe = |value: fn(&Row) -> Option<i64>| contacts.iter().map(value).collect::<Vec<Option<i64>>>();
    let texts = |value: for<'a> fn(&'a Row) -> Option<&'a str>| -> Vec<_> {
        contacts.iter().map(|row| value(row).map(clean)).collect()
    };
    let uids: Vec<_> = contacts.iter().map(|row| clean(&row.1.uid)).collect();
    // JSON has no zero character but as an escape.
    let fields: Vec<Option<String>> = contacts.iter().map(|row| fields_json(&row.1.fields)).collect();
    base.execute(
        "INSERT INTO contacts (person, tenant, uid, rev, created_at, updated_at, address, external_id, locale, opt_in,
            permission, consent_version, source, project, unsubscribed_at, suppressed_at, fields, v)
         SELECT person, $17::bigint, uid, rev, created_at, updated_at, address, external_id, locale, opt_in, permission,
            consent_version, source, project, unsubscribed_at, suppressed_at, fields, $18::bigint
         FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[],
            $8::text[], $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::bigint[],
            $15::bigint[], $16::text[])
            AS r (person, uid, rev, created_at, updated_at, address, external_id, locale, opt_in, permission,
            consent_version, source, project, unsubscribed_at, suppressed_at, fields)
         ON CONFLICT (person) DO UPDATE SET rev = excluded.rev, updated_at = excluded.updated_at,
            address = excluded.address, external_id = excluded.external_id, locale = excluded.locale,
            opt_in = excluded.opt_in, permission = excluded.permission, consent_version = excluded.consent_version,
            source = excluded.source, project = excluded.project, unsubscribed_at = excluded.unsubscribed_at,
            suppressed_at = excluded.suppressed_at, fields = excluded.fields, v = excluded.v",
        &[
            &of(|row| row.0),
            &uids,
            &revs,
            &of(|row| row.1.created_at.0),
            &of(|row| row.1.updated_at.0),
            &texts(|row| row.1.address.as_ref().map(|address| address.as_str())),
            &texts(|row| row.1.external_id.as_deref()),
            &texts(|row| row.1.locale.as_deref()),
            &of(|row| i64::from(row.1.opt_in)),
            &of(|row| row.1.permission as i64),
            &texts(|row| row.1.consent_version.as_deref()),
            &texts(|row| row.1.source.as_deref()),
            &texts(|row| row.1.project.as_deref()),
            &maybe(|row| row.1.unsubscribed_at.map(|at| at.0)),
            &maybe(|row| row.1.suppressed_at.map(|at| at.0)),
            &fields,
            &tenant,
            &CONTACT_VERSION,
        ],
    )
    .await?;
    Ok(())
}

async fn keep_suppressions(base: &Base, tenant: i64, audience: &Audience) -> Result<(), Fault> {
    let gone: Vec<&[u8]> = audience.suppressions.dropped().map(|hash| &hash[..]).collect();
    if !gone.is_empty() {
        base.execute("DELETE FROM suppressions WHERE tenant = $1 AND hash = ANY($2)", &[&tenant, &gone])
            .await?;
    }
    let (hashes, rows): (Vec<&[u8]>, Vec<&Suppression>) =
        audience.suppressions.written().map(|(hash, row)| (&hash[..], row)).unzip();
    if hashes.is_empty() {
        return Ok(());
    }
    let addresses: Vec<_> = rows.iter().map(|row| row.address.as_deref().map(clean)).collect();
    let reasons: Vec<i64> = rows.iter().map(|row| row.reason as i64).collect();
    let sources: Vec<_> = rows.iter().map(|row| row.source.as_deref().map(clean)).collect();
    let times: Vec<i64> = rows.iter().map(|row| row.at.0).collect();
    base.execute(
        "INSERT INTO suppressions (tenant, hash, address, reason, source, at)
         SELECT $6::bigint, hash, address, reason, source, at
         FROM unnest($1::bytea[], $2::text[], $3::bigint[], $4::text[], $5::bigint[])
            AS r (hash, address, reason, source, at)
         ON CONFLICT (tenant, hash) DO UPDATE SET address = excluded.address, reason = excluded.reason,
            source = excluded.source, at = excluded.at",
        &[&hashes, &addresses, &reasons, &sources, &times, &tenant],
    )
    .await?;
    Ok(())
}

/// Under the lock of persons: numbers in the order of commits.
pub(crate) async fn keep_facts(base: &Base, tenant: i64, facts: &[NewFact]) -> Result<(), Fault> {
    if facts.is_empty() {
        return Ok(());
    }
    let ids = base.numbers("ledger_id", facts.len()).await?;
    let of = |value: fn(&NewFact) -> i64| facts.iter().map(value).collect::<Vec<i64>>();
    let persons: Vec<Option<i64>> = facts.iter().map(|fact| fact.person).collect();
    let levels: Vec<Option<i64>> =
        facts.iter().map(|fact| fact.what.permission().map(|level| level as i64)).collect();
    let event_ids: Vec<Vec<u8>> = facts.iter().map(|fact| fact.event_id.0.to_be_bytes().to_vec()).collect();
    let digests: Vec<&[u8]> = facts.iter().map(|fact| &fact.digest.0[..]).collect();
    let evidence: Vec<&str> = facts.iter().map(|fact| fact.evidence.as_str()).collect();
    base.execute(
        "INSERT INTO ledger (id, tenant, person, what, permission, happened_at, learned_at, event, event_id, digest, evidence)
         SELECT id, $11::bigint, person, what, permission, happened_at, learned_at, event, event_id, digest, evidence
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bytea[], $9::bytea[], $10::text[])
            AS r (id, person, what, permission, happened_at, learned_at, event, event_id, digest, evidence)",
        &[
            &ids,
            &persons,
            &of(|fact| fact.what.number()),
            &levels,
            &of(|fact| fact.at.0),
            &of(|fact| fact.learned.0),
            &of(|fact| fact.seq),
            &event_ids,
            &digests,
            &evidence,
            &tenant,
        ],
    )
    .await?;
    Ok(())
}

/// Who is erased, by which event, and when that was asked for; destinations are told by the event.
pub(crate) async fn keep_erasures(
    base: &Base,
    tenant: i64,
    erasures: &[(Known, i64, Millis)],
) -> Result<(), Fault> {
    for (Known { identity, hashes }, seq, at) in erasures {
        let persons: Vec<i64> = identity.persons.iter().copied().collect();
        let mut hashes = hashes.clone();
        for hash in erase::hashes_of(base, &persons).await? {
            hashes.entry(hash).or_default();
        }
        erase::keep(base, tenant, *seq, *at, identity, &hashes).await?;
    }
    Ok(())
}

/// Nothing but consent goes out any more. A lane below it is left empty, so none of them needs another head.
async fn discard(base: &Base, counts: &mut Counts, persons: &[i64], at: Millis) -> Result<(), Fault> {
    let rows = base
        .written(
            "UPDATE deliveries SET state = $2, due = NULL, reason_code = $3, reason = $4, progress = NULL,
                changed_at = $6
             WHERE person = ANY($1) AND state = 0 AND class <> $5 RETURNING destination",
            &[&persons, &(State::Discarded as i64), &ERASED, &ERASED_TEXT, &(Class::Consent as i64), &at.0],
        )
        .await?;
    for row in &rows {
        let destination: i64 = get(row, 0)?;
        counts.raise(destination, Place::Delivery(State::Pending), -1);
        counts.raise(destination, Place::Delivery(State::Discarded), 1);
    }
    Ok(())
}

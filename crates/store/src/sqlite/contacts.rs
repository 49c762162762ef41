//! The audience: what writes of contacts touch is read, and what they changed is written.

use std::sync::LazyLock;

use mailspan_core::contact::{ContactWrite, Fact, Permission, Stated, Suppressed};
use mailspan_core::{Class, Millis, State};
use rusqlite::{OptionalExtension, Row, Statement, params};

use super::base::{Base, Fault, maybe_millis};
use super::contact_rows::{CONTACT_COLUMNS, contact_of, fields_json};
use super::counts::{Counts, Place};
use super::held::{Held, Lent};
use crate::audience::{Asked, Audience, Confirmation, Hash, Known, NewFact, PersonRow, Suppression};
use mailspan_core::limits::FACTS_MAX;

pub(crate) const CONTACT_VERSION: i64 = 1;
pub(crate) const ERASED: &str = "erased";
pub(crate) const ERASED_TEXT: &str = "the person was erased";

/// The audience as far as these writes speak of it.
pub(crate) fn open(base: &Held, tenant: i64, writes: &[&ContactWrite]) -> Result<Audience, Fault> {
    let highest: i64 =
        base.sql("SELECT coalesce(max(id), 0) FROM persons")?.query_row([], |row| row.get(0))?;
    let free = (1..=writes.len() as i64).map(|n| highest + n).collect();
    let floor: Option<i64> = base
        .sql("SELECT updated_at FROM contacts WHERE tenant = ?1 ORDER BY rev DESC LIMIT 1")?
        .query_row([tenant], |row| row.get(0))
        .optional()?;
    let mut audience = Audience::new(base.key.clone(), free, Millis(floor.unwrap_or(i64::MIN)));
    let asked = audience.asked(writes);
    read_keys(base, tenant, &asked, &mut audience)?;
    read_persons(base, &mut audience)?;
    read_identities(base, tenant, audience.unread_hashes(&asked), &mut audience)?;
    read_persons(base, &mut audience)?;
    let mut statement = base.sql(SUPPRESSION)?;
    for hash in audience.addressed(&asked) {
        if let Some(row) = suppression_by(&mut statement, tenant, &hash)? {
            audience.suppressions.read(hash, row);
        }
    }
    super::no_news::read(base, tenant, writes, &asked, &mut audience)?;
    Ok(audience)
}

/// Until none is spoken of that is not read: two rounds, as no merge leads to another. Bounded, should a row be
/// missing.
fn read_persons(base: &Held, audience: &mut Audience) -> Result<(), Fault> {
    for _ in 0..4 {
        let unread = audience.unread_persons();
        if unread.is_empty() {
            break;
        }
        let mut reads = Reads::prepare(base)?;
        for person in unread {
            reads.person(base, person, audience)?;
        }
    }
    Ok(())
}

pub(super) fn read_identities(
    base: &Held,
    tenant: i64,
    hashes: impl IntoIterator<Item = Hash>,
    audience: &mut Audience,
) -> Result<(), Fault> {
    let mut statement = base.sql("SELECT person FROM identities WHERE tenant = ?1 AND hash = ?2")?;
    for hash in hashes {
        let person: Option<i64> = statement.query_row(params![tenant, hash], |row| row.get(0)).optional()?;
        if let Some(person) = person {
            audience.identities.read(hash, person);
        }
    }
    Ok(())
}

fn read_keys(base: &Held, tenant: i64, asked: &Asked, audience: &mut Audience) -> Result<(), Fault> {
    read_identities(base, tenant, asked.hashes.iter().copied(), audience)?;
    for uid in &asked.uids {
        let mut statement = base.sql("SELECT person FROM contacts WHERE tenant = ?1 AND uid = ?2")?;
        let person: Option<i64> = statement.query_row(params![tenant, uid], |row| row.get(0)).optional()?;
        if let Some(person) = person {
            audience.read_uid(uid, person);
        }
    }
    for token in &asked.tokens {
        if let Some(row) = confirmation(base, token)?.filter(|row| row.0 == tenant) {
            audience.confirmations.read(*token, row.1);
        }
    }
    Ok(())
}

const PERSON: &str =
    "SELECT id, address, external_id, same_as, erased, opted_in_at, opted_out_at FROM persons WHERE id = ?1";
const MERGED: &str =
    "SELECT id, address, external_id, same_as, erased, opted_in_at, opted_out_at FROM persons
     WHERE same_as = ?1";
/// A fact happened no later than it was learned of.
const NEWEST_FACTS: &str = "SELECT id, min(happened_at, learned_at), what, permission, evidence
     FROM ledger INDEXED BY ledger_person WHERE person = ?1 ORDER BY happened_at DESC LIMIT ?2";
const LATEST_FACTS: &str = "SELECT max(id), max(min(happened_at, learned_at)), what, permission, NULL
     FROM ledger INDEXED BY ledger_person WHERE person = ?1 GROUP BY what, permission LIMIT ?2";

static CONTACT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {CONTACT_COLUMNS} FROM contacts c WHERE c.person = ?1"));

/// What is read of each person, prepared once for all of them.
struct Reads<'h, 'b> {
    own: Lent<'h, 'b>,
    merged: Lent<'h, 'b>,
    facts: Lent<'h, 'b>,
    contact: Lent<'h, 'b>,
}

impl<'h, 'b> Reads<'h, 'b> {
    fn prepare(base: &'h Held<'b>) -> Result<Reads<'h, 'b>, Fault> {
        let (own, merged, facts) = (base.sql(PERSON)?, base.sql(MERGED)?, base.sql(NEWEST_FACTS)?);
        Ok(Reads { own, merged, facts, contact: base.sql(CONTACT.as_str())? })
    }

    /// With those merged into it, its facts and its contact.
    fn person(&mut self, base: &Held, person: i64, audience: &mut Audience) -> Result<(), Fault> {
        for statement in [&mut self.own, &mut self.merged] {
            let mut rows = statement.query([person])?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                if audience.persons.get(&id).is_some() {
                    continue;
                }
                audience.read_person(id, person_row(row)?);
                // Of a person with more than these the latest of each kind and level.
                if read_facts(&mut self.facts, id, audience)? >= FACTS_MAX {
                    read_facts(&mut *base.sql(LATEST_FACTS)?, id, audience)?;
                }
            }
        }
        let mut rows = self.contact.query([person])?;
        if let Some(row) = rows.next()? {
            audience.read_contact(person, contact_of(row)?);
        }
        Ok(())
    }
}

fn person_row(row: &Row) -> rusqlite::Result<PersonRow> {
    Ok(PersonRow {
        address: row.get(1)?,
        external_id: row.get(2)?,
        same_as: row.get(3)?,
        erased: row.get::<_, i64>(4)? != 0,
        opted_in_at: row.get::<_, Option<i64>>(5)?.map(Millis),
        opted_out_at: row.get::<_, Option<i64>>(6)?.map(Millis),
    })
}

/// How many there were.
fn read_facts(statement: &mut Statement, person: i64, audience: &mut Audience) -> Result<usize, Fault> {
    let mut rows = statement.query(params![person, FACTS_MAX as i64])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let what = Stated::from_numbers(row.get(2)?, row.get(3)?)
            .ok_or_else(|| Fault::unreadable("fact", row.get(0).unwrap_or_default()))?;
        let evidence = row.get_ref(4)?.as_str().ok();
        audience.read_fact(person, Fact { at: Millis(row.get(1)?), what }, evidence);
        count += 1;
    }
    Ok(count)
}

const SUPPRESSION: &str =
    "SELECT id, address, reason, source, at FROM suppressions WHERE tenant = ?1 AND hash = ?2";

pub(crate) fn suppression(base: &Base, tenant: i64, hash: &Hash) -> Result<Option<Suppression>, Fault> {
    suppression_by(&mut *base.sql(SUPPRESSION)?, tenant, hash)
}

fn suppression_by(statement: &mut Statement, tenant: i64, hash: &Hash) -> Result<Option<Suppression>, Fault> {
    let mut rows = statement.query(params![tenant, hash])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let reason = Suppressed::from_number(row.get(2)?)
        .ok_or_else(|| Fault::unreadable("suppression", row.get(0).unwrap_or_default()))?;
    Ok(Some(Suppression { address: row.get(1)?, reason, source: row.get(3)?, at: Millis(row.get(4)?) }))
}

/// With its tenant.
pub(crate) fn confirmation(base: &Base, token: &[u8; 32]) -> Result<Option<(i64, Confirmation)>, Fault> {
    let mut statement = base.sql(
        "SELECT tenant, person, asked_at, expires_at, used_at, gives, mailing, source, page
         FROM confirmations WHERE token = ?1",
    )?;
    let mut rows = statement.query([token])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let gives = Permission::from_number(row.get(5)?)
        .ok_or_else(|| Fault::unreadable("confirmation of person", row.get(1).unwrap_or_default()))?;
    let confirmation = Confirmation {
        person: row.get(1)?,
        asked_at: Millis(row.get(2)?),
        expires_at: Millis(row.get(3)?),
        used_at: maybe_millis(row, "used_at")?,
        gives,
        mailing: row.get(6)?,
        source: row.get(7)?,
        page: row.get(8)?,
    };
    Ok(Some((row.get(0)?, confirmation)))
}

/// Writes what changed, and the facts.
pub(crate) fn keep(
    base: &Held,
    counts: &mut Counts,
    tenant: i64,
    audience: &Audience,
    facts: &[NewFact],
    at: Millis,
) -> Result<(), Fault> {
    for person in &audience.erased {
        base.sql("DELETE FROM identities WHERE person = ?1")?.execute([person])?;
        discard(base, counts, *person, at)?;
    }
    keep_persons(base, tenant, audience)?;
    keep_contacts(base, tenant, audience)?;
    keep_suppressions(base, tenant, audience)?;
    for person in &audience.moved {
        base.sql("UPDATE confirmations SET expires_at = asked_at WHERE person = ?1 AND used_at IS NULL")?
            .execute([person])?;
    }
    for (token, row) in audience.confirmations.written() {
        base.sql(
            "INSERT INTO confirmations (token, tenant, person, asked_at, expires_at, used_at, gives, mailing, source, page)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (token) DO UPDATE SET used_at = excluded.used_at",
        )?
        .execute(params![
            token,
            tenant,
            row.person,
            row.asked_at.0,
            row.expires_at.0,
            row.used_at.map(|at| at.0),
            row.gives as i64,
            row.mailing,
            row.source,
            row.page,
        ])?;
    }
    keep_facts(base, tenant, facts)
}

fn keep_persons(base: &Held, tenant: i64, audience: &Audience) -> Result<(), Fault> {
    for hash in audience.identities.dropped() {
        base.sql("DELETE FROM identities WHERE tenant = ?1 AND hash = ?2")?.execute(params![tenant, hash])?;
    }
    let mut keep_person = base.sql(
        "INSERT INTO persons (id, tenant, address, external_id, same_as, erased, opted_in_at, opted_out_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (id) DO UPDATE SET address = excluded.address, external_id = excluded.external_id,
            same_as = excluded.same_as, erased = excluded.erased, opted_in_at = excluded.opted_in_at,
            opted_out_at = excluded.opted_out_at",
    )?;
    for (person, row) in audience.persons.written() {
        keep_person.execute(params![
            person,
            tenant,
            row.address,
            row.external_id,
            row.same_as,
            i64::from(row.erased),
            row.opted_in_at.map(|at| at.0),
            row.opted_out_at.map(|at| at.0),
        ])?;
    }
    let mut keep_identity = base.sql(
        "INSERT INTO identities (tenant, hash, person) VALUES (?1, ?2, ?3)
         ON CONFLICT (tenant, hash) DO UPDATE SET person = excluded.person",
    )?;
    for (hash, person) in audience.identities.written() {
        keep_identity.execute(params![tenant, hash, person])?;
    }
    Ok(())
}

fn keep_contacts(base: &Held, tenant: i64, audience: &Audience) -> Result<(), Fault> {
    for person in audience.contacts.dropped() {
        base.sql("DELETE FROM contacts WHERE person = ?1")?.execute([person])?;
    }
    let contacts = audience.written_contacts();
    if contacts.is_empty() {
        return Ok(());
    }
    let last: i64 = base
        .sql("UPDATE tenants SET contact_rev = contact_rev + ?2 WHERE id = ?1 RETURNING contact_rev")?
        .query_row(params![tenant, contacts.len() as i64], |row| row.get(0))?;
    let mut new = base.sql(NEW_CONTACT)?;
    let mut changed = base.sql(CHANGED_CONTACT)?;
    for (rev, (person, contact)) in (last - contacts.len() as i64 + 1..).zip(contacts) {
        // What is known to be there is changed where it stands: an insert would look its id up in an index first.
        let statement = if audience.with_contact.contains(&person) { &mut changed } else { &mut new };
        statement.execute(params![
            person,
            tenant,
            contact.uid,
            rev,
            contact.created_at.0,
            contact.updated_at.0,
            contact.address.as_ref().map(|address| address.as_str()),
            contact.external_id,
            contact.locale,
            i64::from(contact.opt_in),
            contact.permission as i64,
            contact.consent_version,
            contact.source,
            contact.project,
            contact.unsubscribed_at.map(|at| at.0),
            contact.suppressed_at.map(|at| at.0),
            fields_json(&contact.fields),
            CONTACT_VERSION,
        ])?;
    }
    Ok(())
}

const NEW_CONTACT: &str = "INSERT INTO contacts (person, tenant, uid, rev, created_at, updated_at, address,
        external_id, locale, opt_in, permission, consent_version, source, project, unsubscribed_at, suppressed_at,
        fields, v)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
/// Numbered as in [`NEW_CONTACT`]: what never changes is passed over.
const CHANGED_CONTACT: &str = "UPDATE contacts SET rev = ?4, updated_at = ?6, address = ?7, external_id = ?8,
        locale = ?9, opt_in = ?10, permission = ?11, consent_version = ?12, source = ?13, project = ?14,
        unsubscribed_at = ?15, suppressed_at = ?16, fields = ?17, v = ?18
     WHERE person = ?1";

fn keep_suppressions(base: &Held, tenant: i64, audience: &Audience) -> Result<(), Fault> {
    for hash in audience.suppressions.dropped() {
        base.sql("DELETE FROM suppressions WHERE tenant = ?1 AND hash = ?2")?
            .execute(params![tenant, hash])?;
    }
    let mut keep = base.sql(
        "INSERT INTO suppressions (tenant, hash, address, reason, source, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (tenant, hash) DO UPDATE SET address = excluded.address, reason = excluded.reason,
            source = excluded.source, at = excluded.at",
    )?;
    for (hash, row) in audience.suppressions.written() {
        keep.execute(params![tenant, hash, row.address, row.reason as i64, row.source, row.at.0])?;
    }
    Ok(())
}

fn keep_facts(base: &Held, tenant: i64, facts: &[NewFact]) -> Result<(), Fault> {
    let mut statement = base.sql(
        "INSERT INTO ledger (tenant, person, what, permission, happened_at, learned_at, event, event_id, digest, evidence)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for fact in facts {
        statement.execute(params![
            tenant,
            fact.person,
            fact.what.number(),
            fact.what.permission().map(|level| level as i64),
            fact.at.0,
            fact.learned.0,
            fact.seq,
            fact.event_id.0.to_be_bytes(),
            fact.digest.0,
            fact.evidence,
        ])?;
    }
    Ok(())
}

/// What is erased; destinations are told by the event. Before the identities go.
pub(crate) fn keep_erasure(
    base: &Held,
    tenant: i64,
    seq: i64,
    at: Millis,
    known: Known,
) -> Result<(), Fault> {
    let Known { identity, mut hashes } = known;
    let persons: Vec<i64> = identity.persons.iter().copied().collect();
    for hash in super::erase::hashes_of(base, &persons)? {
        hashes.entry(hash).or_default();
    }
    super::erase::keep(base, tenant, seq, at, &identity, &hashes)
}

/// Nothing but consent goes out any more. A lane below it is left empty, so none of them needs another head.
fn discard(base: &Held, counts: &mut Counts, person: i64, at: Millis) -> Result<(), Fault> {
    let mut statement = base.sql(
        "UPDATE deliveries SET state = ?2, due = NULL, reason_code = ?3, reason = ?4, changed_at = ?5, progress = NULL
         WHERE id IN (SELECT id FROM deliveries INDEXED BY deliveries_lane
            WHERE person = ?1 AND state = 0 AND class <> ?6)
         RETURNING destination",
    )?;
    let (state, class) = (State::Discarded, Class::Consent);
    let mut rows = statement.query(params![person, state as i64, ERASED, ERASED_TEXT, at.0, class as i64])?;
    while let Some(row) = rows.next()? {
        let destination: i64 = row.get(0)?;
        counts.raise(destination, Place::Delivery(State::Pending), -1);
        counts.raise(destination, Place::Delivery(state), 1);
    }
    Ok(())
}

//! Persons and their identities.

use mailspan_core::{Address, Millis, Name, Person, PersonId, Seq, Subject};
use rusqlite::{OptionalExtension, Row, params};

use super::base::{Base, Fault};
use super::held::Held;
use crate::prepare::{Identities, identities};

/// Events are reached from their person by buckets of so many bits of `seq`.
pub(crate) const BUCKET_BITS: u32 = 14;

/// Who a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nobody,
    Person(i64),
    /// The event came before the erasure of the person, and waited.
    Erased(i64),
    /// It happened before the erasure, and came after it: nothing of it may stay.
    Outlived,
}

impl Found {
    pub(crate) fn person(self) -> Option<i64> {
        match self {
            Found::Person(person) | Found::Erased(person) => Some(person),
            Found::Nobody | Found::Outlived => None,
        }
    }
}

/// The person of a subject, made where it is not known; `None` for nobody. With both an address and
/// an external id it is one person: the address decides, the second identity is attached.
pub(crate) fn find_or_make(
    base: &Held,
    tenant: i64,
    subject: &Subject,
    hashes: &Identities,
) -> Result<Option<i64>, Fault> {
    Ok(find_or_make_at(base, tenant, subject, hashes, None)?.person())
}

/// The same for an event with its place in the journal and its time: who was erased after it came, or after it
/// happened, is not made again.
pub(crate) fn find_or_make_at(
    base: &Held,
    tenant: i64,
    subject: &Subject,
    hashes: &Identities,
    event: Option<(Seq, Millis)>,
) -> Result<Found, Fault> {
    let by_address = by_hash(base, tenant, hashes.address)?;
    let by_id = by_hash(base, tenant, hashes.external_id)?;
    let person = match by_address.or(by_id) {
        Some(person) => person,
        None if *hashes == Identities::default() => return Ok(Found::Nobody),
        None => {
            for hash in hashes.address.into_iter().chain(hashes.external_id) {
                if let Some((seq, at)) = event
                    && let Some(found) = super::erase::erased_before(base, tenant, hash, seq.0, at)?
                {
                    return Ok(found);
                }
            }
            make(base, tenant, subject)?
        }
    };
    let new_address = hashes.address.filter(|_| by_address.is_none());
    let new_id = hashes.external_id.filter(|_| by_id.is_none());
    for hash in new_address.into_iter().chain(new_id) {
        attach(base, tenant, hash, person)?;
    }
    let was_known = by_address.or(by_id).is_some();
    if was_known && (new_address.is_some() || new_id.is_some()) {
        base.sql(
            "UPDATE persons SET address = coalesce(address, ?2), external_id = coalesce(external_id, ?3)
             WHERE id = ?1",
        )?
        .execute(params![
            person,
            subject.address.as_ref().map(Address::as_str),
            subject.external_id
        ])?;
    }
    Ok(Found::Person(person))
}

/// The person as known now.
pub(crate) fn by_subject(base: &Base, tenant: &Name, subject: &Subject) -> Result<Option<Person>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str())? else { return Ok(None) };
    let Some(id) = number_of(base, tenant, subject)? else { return Ok(None) };
    let mut statement = base.sql(
        "SELECT p.id, p.address, p.external_id, p.opens, p.clicks, p.opted_out_at, p.opted_in_at, p.erased,
            EXISTS (SELECT 1 FROM contacts c WHERE c.person = coalesce(p.same_as, p.id) AND c.suppressed_at IS NOT NULL)
         FROM persons p WHERE p.id = ?1",
    )?;
    Ok(statement.query_row([id], |row| person_of(row, 0))?)
}

/// The number of a subject's person, where it is known.
pub(crate) fn number_of(base: &Base, tenant: i64, subject: &Subject) -> Result<Option<i64>, Fault> {
    let (base, hashes) = (&Held::new(base), identities(subject, &base.key));
    Ok(by_hash(base, tenant, hashes.address)?.or(by_hash(base, tenant, hashes.external_id)?))
}

/// Numbers of a text (address or external id) as a person, in one tenant or in all.
pub(crate) fn numbers_of(base: &Base, tenant: Option<&Name>, subject: &str) -> Result<Vec<i64>, Fault> {
    let subject = Subject::read(subject);
    let tenants: Vec<i64> = match tenant {
        Some(name) => base.tenant(name.as_str())?.into_iter().collect(),
        None => {
            let mut statement = base.sql("SELECT id FROM tenants")?;
            statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
        }
    };
    let mut numbers = vec![];
    for tenant in tenants {
        numbers.extend(number_of(base, tenant, &subject)?);
    }
    Ok(numbers)
}

/// From nine columns, the first at `at`: number, `address`, `external_id`, `opens`, `clicks`, `opted_out_at`,
/// `opted_in_at`, `erased`, and whether the contact is suppressed; `None` where they are empty (a left join that found nobody).
pub(crate) fn person_of(row: &Row, at: usize) -> rusqlite::Result<Option<Person>> {
    let Some(opens) = row.get::<_, Option<i64>>(at + 3)? else { return Ok(None) };
    let address: Option<String> = row.get(at + 1)?;
    Ok(Some(Person {
        id: PersonId(row.get(at)?),
        subject: Subject {
            address: address.and_then(|text| Address::parse(&text).ok()),
            external_id: row.get(at + 2)?,
        },
        formerly: mailspan_core::Formerly::default(),
        opens: u64::try_from(opens).unwrap_or(0),
        clicks: u64::try_from(row.get::<_, i64>(at + 4)?).unwrap_or(0),
        opted_out_at: row.get::<_, Option<i64>>(at + 5)?.map(Millis),
        opted_in_at: row.get::<_, Option<i64>>(at + 6)?.map(Millis),
        erased: row.get::<_, i64>(at + 7)? != 0,
        suppressed: row.get(at + 8)?,
    }))
}

fn by_hash(base: &Held, tenant: i64, hash: Option<[u8; 16]>) -> Result<Option<i64>, Fault> {
    let Some(hash) = hash else { return Ok(None) };
    let mut statement = base.sql("SELECT person FROM identities WHERE tenant = ?1 AND hash = ?2")?;
    Ok(statement.query_row(params![tenant, hash], |row| row.get(0)).optional()?)
}

fn make(base: &Held, tenant: i64, subject: &Subject) -> Result<i64, Fault> {
    base.sql("INSERT INTO persons (tenant, address, external_id) VALUES (?1, ?2, ?3)")?.execute(params![
        tenant,
        subject.address.as_ref().map(Address::as_str),
        subject.external_id
    ])?;
    Ok(base.conn.last_insert_rowid())
}

fn attach(base: &Held, tenant: i64, hash: [u8; 16], person: i64) -> Result<(), Fault> {
    base.sql("INSERT INTO identities (tenant, hash, person) VALUES (?1, ?2, ?3)")?
        .execute(params![tenant, hash, person])?;
    Ok(())
}

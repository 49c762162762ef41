//! Persons and their identities.

use std::collections::{BTreeMap, HashMap};

use mailspan_core::{Address, Millis, Name, Person, PersonId, Seq, Subject};
use tokio_postgres::Row;

use super::base::{Base, Fault, clean, get, maybe_millis};
use super::erase;
use crate::prepare::{Identities, identities};
use crate::sqlite::persons::Found;

/// Whoever makes persons, attaches identities or appends to the ledger holds this until its commit: one at a time.
pub(crate) const LOCK: &str =
    "SELECT pg_advisory_xact_lock(hashtext('mailspan persons'), hashtext(current_schema()))";

/// A subject with the hashes of its parts.
pub(crate) struct Who<'a> {
    pub tenant: i64,
    pub subject: &'a Subject,
    pub hashes: Identities,
    /// The place of its event in the journal, and its time: who was erased after it came, or after it happened,
    /// is not made again.
    pub event: Option<(Seq, Millis)>,
}

type Known = HashMap<(i64, [u8; 16]), i64>;

/// The person of each subject, made where it is not known; `None` for nobody. With both an address and
/// an external id it is one person: the address decides, the second identity is attached.
pub(crate) async fn find_or_make(base: &Base, whos: &[Who<'_>]) -> Result<Vec<Found>, Fault> {
    let hashes = |who: &Who| {
        [who.hashes.address, who.hashes.external_id]
            .into_iter()
            .flatten()
            .map(|h| (who.tenant, h))
            .collect::<Vec<_>>()
    };
    let asked: Vec<(i64, [u8; 16])> = whos.iter().flat_map(hashes).collect();
    let mut known = read(base, &asked).await?;
    let missing: Vec<_> = asked.iter().copied().filter(|one| !known.contains_key(one)).collect();
    let mut made = Made::default();
    if !missing.is_empty() {
        base.batch(LOCK).await?;
        known.extend(read(base, &missing).await?);
        made.erased = erase::erased(base, &missing).await?;
        made.numbers = base.numbers("persons_id", missing.len()).await?;
        made.numbers.reverse();
    }
    let persons = whos.iter().map(|who| made.person_of(&mut known, who)).collect();
    made.write(base).await?;
    Ok(persons)
}

/// What a call has to write.
#[derive(Default)]
struct Made<'a> {
    /// Numbers to give, the next one last.
    numbers: Vec<i64>,
    /// Persons who were erased, by what they were known by.
    erased: BTreeMap<(i64, [u8; 16]), erase::Gone>,
    persons: Vec<(i64, i64, &'a Subject)>,
    identities: Vec<(i64, [u8; 16], i64)>,
    /// Known persons that got a second identity; what stood first stays.
    attached: HashMap<i64, (Option<&'a str>, Option<&'a str>)>,
}

impl<'a> Made<'a> {
    fn person_of(&mut self, known: &mut Known, who: &Who<'a>) -> Found {
        let tenant = who.tenant;
        let find = |hash: Option<[u8; 16]>| hash.and_then(|hash| known.get(&(tenant, hash)).copied());
        let (by_address, by_id) = (find(who.hashes.address), find(who.hashes.external_id));
        let was_known = by_address.or(by_id);
        let person = match was_known {
            Some(person) => person,
            None if who.hashes == Identities::default() => return Found::Nobody,
            None => {
                let mut hashes = who.hashes.address.into_iter().chain(who.hashes.external_id);
                let gone = |hash| {
                    self.erased.get(&(tenant, hash)).zip(who.event).and_then(|(gone, of)| gone.found(of))
                };
                if let Some(found) = hashes.find_map(gone) {
                    return found;
                }
                let Some(id) = self.numbers.pop() else { return Found::Nobody };
                self.persons.push((id, tenant, who.subject));
                id
            }
        };
        let new_address = who.hashes.address.filter(|_| by_address.is_none());
        let new_id = who.hashes.external_id.filter(|_| by_id.is_none());
        for hash in new_address.into_iter().chain(new_id) {
            known.insert((tenant, hash), person);
            self.identities.push((tenant, hash, person));
        }
        if was_known.is_some() && (new_address.is_some() || new_id.is_some()) {
            let (address, external_id) = self.attached.entry(person).or_default();
            *address = address.or(who.subject.address.as_ref().map(Address::as_str));
            *external_id = external_id.or(who.subject.external_id.as_deref());
        }
        Found::Person(person)
    }

    async fn write(&self, base: &Base) -> Result<(), Fault> {
        if !self.persons.is_empty() {
            let ids: Vec<i64> = self.persons.iter().map(|one| one.0).collect();
            let tenants: Vec<i64> = self.persons.iter().map(|one| one.1).collect();
            let addresses: Vec<Option<&str>> =
                self.persons.iter().map(|one| one.2.address.as_ref().map(Address::as_str)).collect();
            let external: Vec<_> =
                self.persons.iter().map(|one| one.2.external_id.as_deref().map(clean)).collect();
            base.execute(
                "INSERT INTO persons (id, tenant, address, external_id)
                 SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[])",
                &[&ids, &tenants, &addresses, &external],
            )
            .await?;
        }
        if !self.identities.is_empty() {
            let tenants: Vec<i64> = self.identities.iter().map(|one| one.0).collect();
            let hashes: Vec<&[u8]> = self.identities.iter().map(|one| &one.1[..]).collect();
            let persons: Vec<i64> = self.identities.iter().map(|one| one.2).collect();
            base.execute(
                "INSERT INTO identities (tenant, hash, person)
                 SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[])",
                &[&tenants, &hashes, &persons],
            )
            .await?;
        }
        if !self.attached.is_empty() {
            let ids: Vec<i64> = self.attached.keys().copied().collect();
            let addresses: Vec<Option<&str>> = self.attached.values().map(|one| one.0).collect();
            let external: Vec<_> = self.attached.values().map(|one| one.1.map(clean)).collect();
            lock_rows(base, &ids).await?;
            base.execute(
                "UPDATE persons p SET address = coalesce(p.address, v.address),
                    external_id = coalesce(p.external_id, v.external_id)
                 FROM unnest($1::bigint[], $2::text[], $3::text[]) AS v (id, address, external_id) WHERE p.id = v.id",
                &[&ids, &addresses, &external],
            )
            .await?;
        }
        Ok(())
    }
}

/// In order of their number: two nodes that change the same persons do not wait for each other.
pub(crate) async fn lock_rows(base: &Base, ids: &[i64]) -> Result<(), Fault> {
    let sql = "SELECT id FROM persons WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";
    base.rows(sql, &[&ids]).await.map(drop)
}

async fn read(base: &Base, asked: &[(i64, [u8; 16])]) -> Result<Known, Fault> {
    if asked.is_empty() {
        return Ok(Known::new());
    }
    let tenants: Vec<i64> = asked.iter().map(|one| one.0).collect();
    let hashes: Vec<&[u8]> = asked.iter().map(|one| &one.1[..]).collect();
    let rows = base
        .rows(
            "SELECT i.tenant, i.hash, i.person FROM unnest($1::bigint[], $2::bytea[]) AS a (tenant, hash)
             JOIN identities i ON i.tenant = a.tenant AND i.hash = a.hash",
            &[&tenants, &hashes],
        )
        .await?;
    let mut known = Known::new();
    for row in &rows {
        known.insert((get(row, 0)?, super::base::digest(row, "hash")?), get(row, 2)?);
    }
    Ok(known)
}

/// The person as known now.
pub(crate) async fn by_subject(
    base: &Base,
    tenant: &Name,
    subject: &Subject,
) -> Result<Option<Person>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str()).await? else { return Ok(None) };
    let Some(id) = number_of(base, tenant, subject).await? else { return Ok(None) };
    let row = base
        .row(
            "SELECT id AS person, address, external_id, opens, clicks, opted_out_at, opted_in_at, erased,
                (SELECT k.suppressed_at FROM contacts k WHERE k.person = coalesce(p.same_as, p.id)) IS NOT NULL
                    AS suppressed
             FROM persons p WHERE id = $1",
            &[&id],
        )
        .await?;
    row.as_ref().map(person_of).transpose().map(Option::flatten)
}

/// The number of a subject's person, where it is known.
pub(crate) async fn number_of(base: &Base, tenant: i64, subject: &Subject) -> Result<Option<i64>, Fault> {
    let hashes = identities(subject, &base.key);
    let asked: Vec<_> =
        [hashes.address, hashes.external_id].into_iter().flatten().map(|hash| (tenant, hash)).collect();
    let known = read(base, &asked).await?;
    Ok(asked.iter().find_map(|one| known.get(one).copied()))
}

/// Numbers of a text (address or external id) as a person, in one tenant or in all.
pub(crate) async fn numbers_of(base: &Base, tenant: Option<&Name>, subject: &str) -> Result<Vec<i64>, Fault> {
    let subject = Subject::read(subject);
    let tenants: Vec<i64> = match tenant {
        Some(name) => base.tenant(name.as_str()).await?.into_iter().collect(),
        None => {
            let rows = base.rows("SELECT id FROM tenants", &[]).await?;
            rows.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?
        }
    };
    let mut numbers = vec![];
    for tenant in tenants {
        numbers.extend(number_of(base, tenant, &subject).await?);
    }
    Ok(numbers)
}

/// From columns `person`, `address`, `external_id`, `opens`, `clicks`, `opted_out_at`, `opted_in_at`,
/// `erased`, `suppressed`; `None` where they are empty (a left join that found nobody).
pub(crate) fn person_of(row: &Row) -> Result<Option<Person>, Fault> {
    let Some(opens) = get::<Option<i64>, _>(row, "opens")? else { return Ok(None) };
    let address: Option<String> = get(row, "address")?;
    Ok(Some(Person {
        id: PersonId(get(row, "person")?),
        subject: Subject {
            address: address.and_then(|text| Address::parse(&text).ok()),
            external_id: get(row, "external_id")?,
        },
        formerly: mailspan_core::Formerly::default(),
        opens: u64::try_from(opens).unwrap_or(0),
        clicks: u64::try_from(get::<i64, _>(row, "clicks")?).unwrap_or(0),
        opted_out_at: maybe_millis(row, "opted_out_at")?,
        opted_in_at: maybe_millis(row, "opted_in_at")?,
        erased: get::<i64, _>(row, "erased")? != 0,
        suppressed: get(row, "suppressed")?,
    }))
}

/// What consent says of persons: the latest opt-in and opt-out of each.
#[derive(Default)]
pub(crate) struct Latest(HashMap<i64, (Option<i64>, Option<i64>)>);

impl Latest {
    pub(crate) fn opt_in(&mut self, person: i64, at: Millis) {
        let latest = &mut self.0.entry(person).or_default().0;
        *latest = (*latest).max(Some(at.0));
    }

    pub(crate) fn opt_out(&mut self, person: i64, at: Millis) {
        let latest = &mut self.0.entry(person).or_default().1;
        *latest = (*latest).max(Some(at.0));
    }

    pub(crate) async fn write(&self, base: &Base) -> Result<(), Fault> {
        if self.0.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = self.0.keys().copied().collect();
        let ins: Vec<Option<i64>> = self.0.values().map(|one| one.0).collect();
        let outs: Vec<Option<i64>> = self.0.values().map(|one| one.1).collect();
        lock_rows(base, &ids).await?;
        // `greatest` passes over what is null.
        base.execute(
            "UPDATE persons p SET opted_in_at = greatest(p.opted_in_at, v.opt_in),
                opted_out_at = greatest(p.opted_out_at, v.opt_out)
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS v (id, opt_in, opt_out) WHERE p.id = v.id",
            &[&ids, &ins, &outs],
        )
        .await?;
        Ok(())
    }
}

//! Erasures and what is held about a person, as read.

use mailspan_core::{Address, EventId, Millis, Name, Reason, State, Subject};
use rusqlite::{OptionalExtension, Params, params};

use super::base::{Base, Fault, page};
use super::contacts::confirmation;
use crate::erase::{
    ERASURES_TOGETHER_MAX, ErasedHash, ErasureRow, ErasureStage, ErasureVerdict, OpenErasures, Stored,
    from_hex,
};
use crate::erase_reads::{HASHES_PAGE, Kin, KinConfirmation, erased_hash};
use crate::prepare::identities;

pub(crate) fn list(
    base: &Base,
    tenant: Option<&Name>,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<ErasureRow>, Fault> {
    let tenant = match tenant {
        None => None,
        Some(name) => match base.tenant(name.as_str())? {
            None => return Ok(vec![]),
            known => known,
        },
    };
    let which = "x WHERE x.id < ?1 AND (?2 IS NULL OR x.tenant = ?2) ORDER BY x.id DESC LIMIT ?3";
    rows(base, which, params![before.unwrap_or(i64::MAX), tenant, page(limit)])
}

pub(crate) fn open(base: &Base) -> Result<OpenErasures, Fault> {
    let newest = base
        .sql(
            "SELECT id FROM erasures INDEXED BY erasures_open WHERE done_at IS NULL ORDER BY id DESC LIMIT 1",
        )?
        .query_row([], |row| row.get(0))
        .optional()?;
    let which = "x INDEXED BY erasures_open WHERE x.done_at IS NULL AND instr(x.progress, ?1) > 0
         ORDER BY x.id LIMIT ?2";
    let certifying = rows(base, which, params![ErasureStage::Certifying.mark(), ERASURES_TOGETHER_MAX])?;
    Ok(OpenErasures { newest, certifying })
}

/// Of `erasures`, by what follows its name.
fn rows(base: &Base, which: &str, params: impl Params) -> Result<Vec<ErasureRow>, Fault> {
    let sql = format!(
        "SELECT x.id, x.person, (SELECT e.id FROM events e WHERE e.seq = x.event), x.asked_at, x.done_at,
            x.progress, x.certificate, x.tenant FROM erasures {which}"
    );
    let mut statement = base.sql(&sql)?;
    let mut rows = statement.query(params)?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        let event: Option<[u8; 16]> = row.get(2)?;
        let stored = Stored {
            id: row.get(0)?,
            person: row.get(1)?,
            event: event.map(|id| EventId(u128::from_be_bytes(id))),
            asked_at: row.get(3)?,
            done_at: row.get(4)?,
            progress: row.get(5)?,
            certificate: row.get(6)?,
        };
        found.push(stored.row(base.tenant_name(row.get(7)?)?));
    }
    Ok(found)
}

pub(crate) fn verdicts(base: &Base, id: i64) -> Result<Vec<ErasureVerdict>, Fault> {
    let mut statement = base.sql(
        "SELECT d.id, d.destination, d.route, d.state, d.reason_code, d.reason, d.changed_at
         FROM erasures x CROSS JOIN deliveries d INDEXED BY deliveries_once ON d.event = x.event
         WHERE x.id = ?1 ORDER BY d.id",
    )?;
    let mut rows = statement.query([id])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        let code: Option<String> = row.get(4)?;
        let text: Option<String> = row.get(5)?;
        found.push(ErasureVerdict {
            destination: base.name(row.get(1)?)?,
            route: base.name(row.get(2)?)?,
            state: State::from_number(row.get(3)?)
                .ok_or_else(|| Fault::unreadable("delivery", row.get(0).unwrap_or_default()))?,
            reason: code.map(|code| Reason { code, text: text.unwrap_or_default() }),
            at: Millis(row.get(6)?),
        });
    }
    Ok(found)
}

pub(crate) fn hashes(base: &Base, after: Option<&ErasedHash>) -> Result<Vec<ErasedHash>, Fault> {
    let place = match after {
        Some(after) => (
            base.tenant(after.tenant.as_str())?.unwrap_or(0),
            from_hex(&after.hash).map_or(vec![], |hash| hash.to_vec()),
        ),
        None => (0, vec![]),
    };
    let mut statement = base.sql(
        "SELECT tenant, hash, at FROM erased WHERE (tenant, hash) > (?1, ?2) ORDER BY tenant, hash LIMIT ?3",
    )?;
    let mut rows = statement.query(params![place.0, place.1, HASHES_PAGE])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        let hash: Vec<u8> = row.get(1)?;
        found.push(erased_hash(base.tenant_name(row.get(0)?)?, &hash, row.get(2)?));
    }
    Ok(found)
}

/// Who has these identities; `anew`: though the store knows that they were erased.
pub(crate) fn here(
    base: &Base,
    asked: &[(Name, [u8; 16])],
    anew: bool,
) -> Result<Vec<(Name, Subject)>, Fault> {
    let mut found = vec![];
    for (name, hash) in asked {
        let Some(tenant) = base.tenant(name.as_str())? else { continue };
        let mut statement = base.sql(
            "SELECT p.address, p.external_id FROM identities i CROSS JOIN persons p ON p.id = i.person
             WHERE i.tenant = ?1 AND i.hash = ?2
               AND ?3 = EXISTS (SELECT 1 FROM erased d WHERE d.tenant = ?1 AND d.hash = ?2)",
        )?;
        let row: Option<(Option<String>, Option<String>)> = statement
            .query_row(params![tenant, hash, anew], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        found.extend(row.map(|row| (name.clone(), subject(row.0, row.1))));
    }
    Ok(found)
}

pub(crate) fn subject(address: Option<String>, external_id: Option<String>) -> Subject {
    Subject { address: address.and_then(|text| Address::parse(&text).ok()), external_id }
}

pub(crate) fn kin(base: &Base, person: i64) -> Result<Kin, Fault> {
    let mut kin = Kin::default();
    for sql in [
        "SELECT address, external_id, id FROM persons WHERE id = ?1",
        "SELECT address, external_id, id FROM persons INDEXED BY persons_same WHERE same_as = ?1 LIMIT 1000",
    ] {
        let mut statement = base.sql(sql)?;
        let rows = statement.query_map([person], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        for row in rows.collect::<Result<Vec<(_, _, i64)>, _>>()? {
            kin.subjects.push(subject(row.0, row.1));
            kin.confirmations.extend(confirmations(base, row.2)?);
        }
    }
    Ok(kin)
}

fn confirmations(base: &Base, person: i64) -> Result<Vec<KinConfirmation>, Fault> {
    let mut statement = base.sql(
        "SELECT token FROM confirmations INDEXED BY confirmations_person WHERE person = ?1 LIMIT 1000",
    )?;
    let tokens: Vec<[u8; 32]> = statement.query_map([person], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut found = vec![];
    for token in tokens {
        found.extend(confirmation(base, &token)?.map(|(_, row)| KinConfirmation::new(row)));
    }
    Ok(found)
}

pub(crate) fn part_of(base: &Base, id: EventId) -> Result<Option<u32>, Fault> {
    let mut statement = base.sql("SELECT part FROM events WHERE id = ?1")?;
    Ok(statement.query_row([id.0.to_be_bytes()], |row| row.get(0)).optional()?)
}

/// See [`crate::Store::erased_at`].
pub(crate) fn erased_at(base: &Base, tenant: &Name, subject: &Subject) -> Result<Option<Millis>, Fault> {
    let Some(tenant) = base.tenant(tenant.as_str())? else { return Ok(None) };
    let hashes = identities(subject, &base.key);
    let mut statement = base.sql("SELECT at FROM erased WHERE tenant = ?1 AND hash = ?2")?;
    let mut last = None;
    for hash in hashes.address.into_iter().chain(hashes.external_id) {
        let at: Option<i64> = statement.query_row(params![tenant, hash], |row| row.get(0)).optional()?;
        last = last.max(at.map(Millis));
    }
    Ok(last)
}

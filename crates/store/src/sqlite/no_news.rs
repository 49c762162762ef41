//! What tells whether a write is news: who was erased, what was written to accounts that tell of it, and which
//! addresses those who are erased had before.

use mailspan_core::Millis;
use mailspan_core::contact::{ContactWrite, Stated};
use mailspan_core::limits::ECHO_FACTS_MAX;
use rusqlite::{OptionalExtension, params};

use super::base::{Fault, maybe_millis};
use super::contact_rows::evidence;
use super::contacts::read_identities;
use super::held::Held;
use crate::audience::{Asked, Audience, Hash, Written};
use crate::erase::from_hex;

pub(crate) fn read(
    base: &Held,
    tenant: i64,
    writes: &[&ContactWrite],
    asked: &Asked,
    audience: &mut Audience,
) -> Result<(), Fault> {
    let mut erased = base.sql("SELECT at FROM erased WHERE tenant = ?1 AND hash = ?2")?;
    for hash in &asked.hashes {
        let at: Option<i64> = erased.query_row(params![tenant, hash], |row| row.get(0)).optional()?;
        audience.gone.extend(at.map(|at| (*hash, Millis(at))));
    }
    let mirrors = writes.iter().filter_map(|write| write.mirror.as_ref());
    let mut destinations: Vec<i64> =
        mirrors.flat_map(|mirror| &mirror.destinations).map(|destination| destination.0).collect();
    destinations.sort_unstable();
    destinations.dedup();
    let erases = writes.iter().any(|write| write.erase);
    for person in audience.read_persons() {
        for destination in &destinations {
            read_written(base, person, *destination, audience)?;
        }
        if erases {
            read_former(base, tenant, person, audience)?;
        }
    }
    Ok(())
}

/// Opt-ins and opt-outs that went, or are going, to the destination.
fn read_written(base: &Held, person: i64, destination: i64, audience: &mut Audience) -> Result<(), Fault> {
    let mut statement = base.sql(
        "SELECT l.what, l.learned_at, a.at, a.verdict LIKE 'delivered%' OR a.verdict LIKE 'coalesced%',
            EXISTS (SELECT 1 FROM unrouted u WHERE u.seq = l.event)
            OR EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_once
                WHERE d.event = l.event AND d.destination = ?2 AND d.state = 0), l.id, l.permission, l.happened_at
         FROM ledger l INDEXED BY ledger_person
         LEFT JOIN ledger_answers a ON a.fact = l.id AND a.destination = ?2
         WHERE l.person = ?1 AND l.what IN (0, 1, 2) ORDER BY l.happened_at DESC LIMIT ?3",
    )?;
    let mut rows = statement.query(params![person, destination, ECHO_FACTS_MAX as i64])?;
    while let Some(row) = rows.next()? {
        let (what, from, fact) = (row.get(0)?, Millis(row.get(1)?), row.get(5)?);
        let stated = Stated::from_numbers(what, row.get(6)?);
        audience.read_confirmed(person, fact, stated, (Millis(row.get(7)?), from));
        let until = maybe_millis(row, "at")?.filter(|_| matches!(row.get(3), Ok(Some(true))));
        if until.is_some() || row.get(4)? {
            let opts_in = what == Stated::OptIn(None).number();
            let written = Written { fact, destination, opts_in, from, until };
            audience.written.entry(person).or_default().push(written);
        }
    }
    Ok(())
}

/// Addresses that the person had, and that lead to nobody now.
fn read_former(base: &Held, tenant: i64, person: i64, audience: &mut Audience) -> Result<(), Fault> {
    let mut statement =
        base.sql("SELECT evidence FROM ledger INDEXED BY ledger_person WHERE person = ?1 AND what = ?2")?;
    let found = statement.query_map(params![person, Stated::Moved.number()], |row| row.get(0))?;
    let texts: Vec<Option<String>> = found.collect::<Result<_, _>>()?;
    let former = |text: Option<String>| from_hex(&evidence(text.as_deref())?.former?);
    let hashes: Vec<Hash> = texts.into_iter().filter_map(former).collect();
    read_identities(base, tenant, hashes.iter().copied(), audience)?;
    for hash in hashes {
        if audience.identities.get(&hash).is_none() {
            audience.former.entry(person).or_default().push(hash);
        }
    }
    Ok(())
}

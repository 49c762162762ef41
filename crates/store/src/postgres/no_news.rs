//! What tells whether a write is news: who was erased, what was written to accounts that tell of it, and which
//! addresses those who are erased had before.

use std::collections::BTreeSet;

use mailspan_core::Millis;
use mailspan_core::contact::{ContactWrite, Stated};
use mailspan_core::limits::ECHO_FACTS_MAX;

use super::base::{Base, Fault, digest, get, maybe_millis};
use super::contacts::read_identities;
use crate::audience::{Asked, Audience, Hash, Written};
use crate::erase::from_hex;
use crate::sqlite::contact_rows::evidence;

pub(crate) async fn read(
    base: &Base,
    tenant: i64,
    writes: &[&ContactWrite],
    asked: &Asked,
    audience: &mut Audience,
) -> Result<(), Fault> {
    let hashes: Vec<&[u8]> = asked.hashes.iter().map(|hash| &hash[..]).collect();
    let sql = "SELECT hash, at FROM erased WHERE tenant = $1 AND hash = ANY($2)";
    for row in &base.rows(sql, &[&tenant, &hashes]).await? {
        audience.gone.insert(digest(row, "hash")?, Millis(get(row, 1)?));
    }
    let mirrors = writes.iter().filter_map(|write| write.mirror.as_ref());
    let destinations: BTreeSet<i64> =
        mirrors.flat_map(|mirror| &mirror.destinations).map(|destination| destination.0).collect();
    let persons = audience.read_persons();
    for destination in destinations {
        read_written(base, &persons, destination, audience).await?;
    }
    if writes.iter().any(|write| write.erase) {
        read_former(base, tenant, &persons, audience).await?;
    }
    Ok(())
}

/// Opt-ins and opt-outs that went, or are going, to the destination.
async fn read_written(
    base: &Base,
    persons: &[i64],
    destination: i64,
    audience: &mut Audience,
) -> Result<(), Fault> {
    let rows = base
        .rows(
            "SELECT l.person, l.what, l.learned_at, l.id, l.permission, l.happened_at,
                CASE WHEN a.verdict LIKE 'delivered%' OR a.verdict LIKE 'coalesced%' THEN a.at END AS until,
                (SELECT u.seq FROM unrouted u WHERE u.seq = l.event) IS NOT NULL OR (SELECT min(d.id)
                    FROM deliveries d WHERE d.event = l.event AND d.destination = $2 AND d.state = 0) IS NOT NULL
                    AS waits
             FROM unnest($1::bigint[]) AS p (id)
             CROSS JOIN LATERAL (SELECT * FROM ledger l WHERE l.person = p.id AND l.what IN (0, 1, 2)
                ORDER BY l.happened_at DESC LIMIT $3) AS l
             LEFT JOIN ledger_answers a ON a.fact = l.id AND a.destination = $2",
            &[&persons, &destination, &(ECHO_FACTS_MAX as i64)],
        )
        .await?;
    for row in &rows {
        let (what, fact, person) = (get(row, "what")?, get(row, "id")?, get(row, "person")?);
        let from = Millis(get(row, "learned_at")?);
        let stated = Stated::from_numbers(what, get(row, "permission")?);
        audience.read_confirmed(person, fact, stated, (Millis(get(row, "happened_at")?), from));
        let until = maybe_millis(row, "until")?;
        if until.is_some() || get(row, "waits")? {
            let opts_in = what == Stated::OptIn(None).number();
            let written = Written { fact, destination, opts_in, from, until };
            audience.written.entry(person).or_default().push(written);
        }
    }
    Ok(())
}

/// Addresses that the persons had, and that lead to nobody now.
async fn read_former(
    base: &Base,
    tenant: i64,
    persons: &[i64],
    audience: &mut Audience,
) -> Result<(), Fault> {
    let sql = "SELECT person, evidence FROM ledger WHERE person = ANY($1) AND what = $2";
    let mut found: Vec<(i64, Hash)> = vec![];
    for row in &base.rows(sql, &[&persons, &Stated::Moved.number()]).await? {
        let text: Option<&str> = get(row, "evidence")?;
        let former = evidence(text).and_then(|evidence| from_hex(&evidence.former?));
        if let Some(hash) = former {
            found.push((get(row, "person")?, hash));
        }
    }
    let hashes: BTreeSet<Hash> = found.iter().map(|one| one.1).collect();
    read_identities(base, tenant, &hashes, audience).await?;
    for (person, hash) in found {
        if audience.identities.get(&hash).is_none() {
            audience.former.entry(person).or_default().push(hash);
        }
    }
    Ok(())
}

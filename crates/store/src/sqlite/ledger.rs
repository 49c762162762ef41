//! The compliance log: facts of consent, appended, and what each destination answered.

use mailspan_core::contact::Stated;
use mailspan_core::{Consent, Digest, Event, EventId, Millis, Reason, Seq, State, counted_time};
use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault, page};
use super::contact_rows::evidence;
use super::held::Held;
use super::persons;
use crate::FactFilter;
use crate::write::Fact;

/// Appends a fact and moves the person's last opt-out or opt-in forward, in the transaction of its event.
pub(crate) fn append(
    base: &Held,
    tenant: i64,
    person: Option<i64>,
    what: Consent,
    event: &Event,
    seq: Seq,
    digest: Digest,
) -> Result<(), Fault> {
    base.sql(
        "INSERT INTO ledger (tenant, person, what, happened_at, learned_at, event, event_id, digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        tenant,
        person,
        number(what),
        event.time.0,
        event.received_at.0,
        seq.0,
        event.id.0.to_be_bytes(),
        digest.0,
    ])?;
    let Some(person) = person else { return Ok(()) };
    let sql = match what {
        Consent::OptIn => "UPDATE persons SET opted_in_at = max(coalesce(opted_in_at, ?2), ?2) WHERE id = ?1",
        Consent::OptOut | Consent::DoNotContact => {
            "UPDATE persons SET opted_out_at = max(coalesce(opted_out_at, ?2), ?2) WHERE id = ?1"
        }
    };
    base.sql(sql)?.execute(params![person, counted_time(event).0])?;
    Ok(())
}

/// What a destination answered to the fact of an event. `replace`: a later end of the same class counts.
pub(crate) fn answer(
    base: &Held,
    event: Seq,
    destination: i64,
    verdict: &str,
    at: Millis,
    replace: bool,
) -> Result<(), Fault> {
    let fact: Option<i64> = base
        .sql("SELECT id FROM ledger WHERE event = ?1")?
        .query_row([event.0], |row| row.get(0))
        .optional()?;
    let Some(fact) = fact else { return Ok(()) };
    let sql = match replace {
        true => {
            "INSERT OR REPLACE INTO ledger_answers (fact, destination, verdict, at) VALUES (?1, ?2, ?3, ?4)"
        }
        false => {
            "INSERT OR IGNORE INTO ledger_answers (fact, destination, verdict, at) VALUES (?1, ?2, ?3, ?4)"
        }
    };
    base.sql(sql)?.execute(params![fact, destination, verdict, at.0])?;
    Ok(())
}

/// How an end is written: the state, and why where there is a reason.
pub(crate) fn verdict(state: State, reason: Option<&Reason>) -> String {
    match reason {
        Some(reason) => format!("{}: {}", state.name(), reason.text),
        None => state.name().to_owned(),
    }
}

/// Oldest first, after the cursor.
pub(crate) fn list(base: &Base, filter: &FactFilter) -> Result<Vec<Fact>, Fault> {
    let tenant = match &filter.tenant {
        None => None,
        Some(name) => match base.tenant(name.as_str())? {
            Some(id) => Some(id),
            None => return Ok(vec![]),
        },
    };
    let mut facts = vec![];
    match &filter.subject {
        None => read(base, None, tenant, filter, &mut facts)?,
        Some(subject) => {
            for person in persons::numbers_of(base, filter.tenant.as_ref(), subject)? {
                read(base, Some(person), tenant, filter, &mut facts)?;
            }
        }
    }
    facts.sort_by_key(|fact| fact.id);
    facts.truncate(page(filter.limit) as usize);
    for fact in &mut facts {
        fact.answers = answers(base, fact.id)?;
    }
    Ok(facts)
}

fn read(
    base: &Base,
    person: Option<i64>,
    tenant: Option<i64>,
    filter: &FactFilter,
    facts: &mut Vec<Fact>,
) -> Result<(), Fault> {
    let by_person = "SELECT l.*, p.address, p.external_id FROM ledger l INDEXED BY ledger_person
        LEFT JOIN persons p ON p.id = l.person
        WHERE l.person = ?1 AND l.id > ?2 AND (?3 IS NULL OR l.tenant = ?3) ORDER BY l.id LIMIT ?4";
    let all = "SELECT l.*, p.address, p.external_id FROM ledger l LEFT JOIN persons p ON p.id = l.person
        WHERE ?1 IS NULL AND l.id > ?2 AND (?3 IS NULL OR l.tenant = ?3) ORDER BY l.id LIMIT ?4";
    let mut statement = base.sql(if person.is_some() { by_person } else { all })?;
    let mut rows = statement.query(params![person, filter.after, tenant, page(filter.limit)])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get("id")?;
        let address: Option<String> = row.get("address")?;
        facts.push(Fact {
            id,
            tenant: base.tenant_name(row.get("tenant")?)?,
            subject: address.or(row.get("external_id")?),
            what: Stated::from_numbers(row.get("what")?, row.get("permission")?)
                .ok_or_else(|| Fault::unreadable("fact", id))?,
            happened_at: Millis(row.get("happened_at")?),
            learned_at: Millis(row.get("learned_at")?),
            event_id: EventId(u128::from_be_bytes(row.get("event_id")?)),
            digest: Digest(row.get("digest")?).to_string(),
            evidence: evidence(row.get::<_, Option<String>>("evidence")?.as_deref()),
            answers: vec![],
        });
    }
    Ok(())
}

fn answers(base: &Base, fact: i64) -> Result<Vec<(mailspan_core::Name, String, Millis)>, Fault> {
    let mut statement =
        base.sql("SELECT destination, verdict, at FROM ledger_answers WHERE fact = ?1 ORDER BY destination")?;
    let mut rows = statement.query([fact])?;
    let mut answers = vec![];
    while let Some(row) = rows.next()? {
        answers.push((base.name(row.get(0)?)?, row.get(1)?, Millis(row.get(2)?)));
    }
    Ok(answers)
}

/// As stored.
pub(crate) fn number(what: Consent) -> i64 {
    match what {
        Consent::OptIn => 0,
        Consent::OptOut => 1,
        Consent::DoNotContact => 2,
    }
}

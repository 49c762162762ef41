//! The compliance log: facts of consent, appended, and what each destination answered.

use mailspan_core::contact::Stated;
use mailspan_core::{Consent, Digest, Event, EventId, Millis, Seq, counted_time};

use super::base::{Base, Fault, clean, digest, get, millis};
use super::persons::{self, Latest};
use crate::FactFilter;
use crate::sqlite::base::page;
use crate::sqlite::contact_rows::evidence;
use crate::sqlite::ledger::number;
use crate::write::Fact;

/// A fact that an accepted event states.
pub(crate) struct New<'a> {
    pub tenant: i64,
    pub person: Option<i64>,
    pub what: Consent,
    pub event: &'a Event,
    pub seq: i64,
    pub digest: Digest,
}

/// Appends facts and moves each person's last opt-out or opt-in forward, in the transaction of their events.
pub(crate) async fn append(base: &Base, facts: &[New<'_>]) -> Result<(), Fault> {
    if facts.is_empty() {
        return Ok(());
    }
    // Numbers in the order of commits: who reads after the largest one seen skips no fact.
    base.batch(persons::LOCK).await?;
    let ids = base.numbers("ledger_id", facts.len()).await?;
    let of = |value: fn(&New) -> i64| facts.iter().map(value).collect::<Vec<i64>>();
    let persons: Vec<Option<i64>> = facts.iter().map(|fact| fact.person).collect();
    let event_ids: Vec<Vec<u8>> = facts.iter().map(|fact| fact.event.id.0.to_be_bytes().to_vec()).collect();
    let digests: Vec<&[u8]> = facts.iter().map(|fact| &fact.digest.0[..]).collect();
    base.execute(
        "INSERT INTO ledger (id, tenant, person, what, happened_at, learned_at, event, event_id, digest)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::bytea[], $9::bytea[])",
        &[
            &ids,
            &of(|fact| fact.tenant),
            &persons,
            &of(|fact| number(fact.what)),
            &of(|fact| fact.event.time.0),
            &of(|fact| fact.event.received_at.0),
            &of(|fact| fact.seq),
            &event_ids,
            &digests,
        ],
    )
    .await?;
    let mut stated = Latest::default();
    for fact in facts {
        match (fact.person, fact.what) {
            (Some(person), Consent::OptIn) => stated.opt_in(person, counted_time(fact.event)),
            (Some(person), Consent::OptOut | Consent::DoNotContact) => {
                stated.opt_out(person, counted_time(fact.event));
            }
            (None, _) => {}
        }
    }
    stated.write(base).await
}

/// What a destination answered to the fact of an event. `replace`: a later end of the same class counts.
pub(crate) async fn answer(
    base: &Base,
    event: Seq,
    destination: i64,
    verdict: &str,
    at: Millis,
    replace: bool,
) -> Result<(), Fault> {
    base.execute(
        "INSERT INTO ledger_answers (fact, destination, verdict, at)
         SELECT l.id, $2, $3, $4 FROM ledger l WHERE l.event = $1 ORDER BY l.id LIMIT 1
         ON CONFLICT (fact, destination) DO UPDATE SET verdict = excluded.verdict, at = excluded.at WHERE $5",
        &[&event.0, &destination, &clean(verdict), &at.0, &replace],
    )
    .await?;
    Ok(())
}

/// Oldest first, after the cursor.
pub(crate) async fn list(base: &Base, filter: &FactFilter) -> Result<Vec<Fact>, Fault> {
    let tenant = match &filter.tenant {
        None => None,
        Some(name) => match base.tenant(name.as_str()).await? {
            Some(id) => Some(id),
            None => return Ok(vec![]),
        },
    };
    let persons: Option<Vec<i64>> = match &filter.subject {
        None => None,
        Some(subject) => Some(persons::numbers_of(base, filter.tenant.as_ref(), subject).await?),
    };
    let rows = base
        .rows(
            "SELECT l.id, l.tenant, l.what, l.permission, l.happened_at, l.learned_at, l.event_id, l.digest, l.evidence,
                p.address, p.external_id FROM ledger l LEFT JOIN persons p ON p.id = l.person
             WHERE l.id > $1 AND ($2::bigint IS NULL OR l.tenant = $2)
               AND ($3::bigint[] IS NULL OR l.person = ANY($3))
             ORDER BY l.id LIMIT $4",
            &[&filter.after, &tenant, &persons, &page(filter.limit)],
        )
        .await?;
    let mut facts = vec![];
    for row in &rows {
        let id: i64 = get(row, "id")?;
        let address: Option<String> = get(row, "address")?;
        facts.push(Fact {
            id,
            tenant: base.tenant_name(get(row, "tenant")?).await?,
            subject: address.or(get(row, "external_id")?),
            what: Stated::from_numbers(get(row, "what")?, get(row, "permission")?)
                .ok_or_else(|| Fault::unreadable("fact", id))?,
            happened_at: millis(row, "happened_at")?,
            learned_at: millis(row, "learned_at")?,
            event_id: EventId(u128::from_be_bytes(digest(row, "event_id")?)),
            digest: Digest(digest(row, "digest")?).to_string(),
            evidence: evidence(get::<Option<String>, _>(row, "evidence")?.as_deref()),
            answers: vec![],
        });
    }
    add_answers(base, &mut facts).await?;
    Ok(facts)
}

async fn add_answers(base: &Base, facts: &mut [Fact]) -> Result<(), Fault> {
    let ids: Vec<i64> = facts.iter().map(|fact| fact.id).collect();
    let sql = "SELECT fact, destination, verdict, at FROM ledger_answers WHERE fact = ANY($1)
        ORDER BY fact, destination";
    for row in &base.rows(sql, &[&ids]).await? {
        let fact: i64 = get(row, 0)?;
        let answer = (base.name(get(row, 1)?).await?, get(row, 2)?, Millis(get(row, 3)?));
        if let Some(place) = ids.iter().position(|id| *id == fact) {
            facts[place].answers.push(answer);
        }
    }
    Ok(())
}

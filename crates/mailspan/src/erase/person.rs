//! Everything that is held about a person, as JSON.

use std::collections::{BTreeMap, BTreeSet};

use mailspan_core::contact::ContactKey;
use mailspan_core::limits::PAGE_ROWS_MAX;
use mailspan_core::{EventId, Millis, Name, PersonId, Subject};
use mailspan_store::{
    AttemptRow, DeliveryFilter, EventFilter, EventRow, FactFilter, FactRow, KinConfirmation, RequestRow,
    Store, Trouble, Words, element_of,
};
use serde_json::{Value, json};

use super::{proofs, turned_away};

use crate::contacts::links::without_tokens;
use crate::http::mailingcore::shape::ContactOut;

/// Pages of events, deliveries and facts that are read: a person with more is told so (`complete`: false).
const PAGES_MAX: usize = 100;

/// What is not looked through: it names others, is the operator's, or cannot be found by a person.
const NOT_SEARCHED: [&str; 4] = [
    "contacts and events of others that name this person",
    "jobs, notes and keys of operators, and the log",
    "stored requests that made neither an event nor a fact",
    "refused requests of sources that are configured no more",
];

/// Nothing where nobody is known by that address or external id. `sources`: those of the tenant.
pub async fn export(
    store: &Store,
    tenant: &Name,
    sources: &[Name],
    text: &str,
) -> Result<Option<Value>, Trouble> {
    let subject = Subject::read(text);
    let key =
        ContactKey::Subject { address: subject.address.clone(), external_id: subject.external_id.clone() };
    let contact = store.contact(tenant, &key).await?;
    let person = store.person(tenant, &subject).await?;
    if contact.is_none() && person.is_none() {
        return Ok(None);
    }
    let address = contact.as_ref().and_then(|row| row.contact.address.clone()).or(subject.address);
    let suppression = match &address {
        Some(address) => store.suppression_of(tenant, address).await?,
        None => None,
    };
    let number = contact.as_ref().map(|row| row.person).or(person.as_ref().map(|person| person.id));
    let kin = match number {
        Some(number) => store.kin(number).await?,
        None => mailspan_store::Kin::default(),
    };
    let (events, all_events) = events(store, tenant, text).await?;
    let (deliveries, all_deliveries) = deliveries(store, tenant, text).await?;
    let mut known_as = known_as(&kin.subjects, &events);
    if let Some(row) = &contact {
        let before = mailspan_core::contact::formerly(&row.contact);
        known_as.extend(before.addresses.iter().map(|(address, _)| address.as_str().to_owned()));
        known_as.extend(before.external_ids.into_iter().map(|(id, _)| id));
    }
    let words = Words::of(&known_as);
    let away = turned_away::find(store, tenant, sources, &words).await?;
    let (facts, all_facts) = match number {
        Some(number) => facts(store, tenant, number).await?,
        None => (vec![], true),
    };
    let (answers, all_answers) = answers(store, tenant, text).await?;
    let proofs = proofs::find(store, tenant, &facts, &words).await?;
    Ok(Some(json!({
        "tenant": tenant,
        "contact": contact.map(|row| ContactOut::new(tenant.as_str(), row.contact)),
        "person": person.map(|person| json!({
            "address": person.subject.address.as_ref().map(mailspan_core::Address::as_str),
            "external_id": person.subject.external_id,
            "opens": person.opens,
            "clicks": person.clicks,
            "opted_in_at": person.opted_in_at.map(|at| at.rfc3339()),
            "opted_out_at": person.opted_out_at.map(|at| at.rfc3339()),
        })),
        "known_as": known_as,
        "suppression": suppression.map(|row| json!({
            "reason": row.reason.name(), "source": row.source, "at": row.at.rfc3339(),
        })),
        "facts": facts.iter().map(|row| fact(row, answers.get(&row.id))).collect::<Vec<_>>(),
        "proofs": proofs.requests,
        "confirmations": kin.confirmations.iter().map(confirmation).collect::<Vec<_>>(),
        "events": events,
        "deliveries": deliveries,
        "quarantined": away.quarantined,
        "refused": away.refused,
        "complete": all_events && all_deliveries && all_facts && all_answers && away.complete && proofs.complete,
        "not_searched": NOT_SEARCHED,
    })))
}

/// Addresses and ids of the person and of those merged into it, and those that its events call it by.
fn known_as(subjects: &[Subject], events: &[Value]) -> BTreeSet<String> {
    let address = |one: &Subject| one.address.as_ref().map(|address| address.as_str().to_owned());
    let kin = subjects.iter().flat_map(|one| [address(one), one.external_id.clone()]).flatten();
    let told = events.iter().filter_map(|event| event["subject"].as_str().map(str::to_owned));
    kin.chain(told).collect()
}

async fn events(store: &Store, tenant: &Name, subject: &str) -> Result<(Vec<Value>, bool), Trouble> {
    let (mut found, mut before) = (vec![], None);
    for _ in 0..PAGES_MAX {
        let filter = EventFilter {
            tenant: Some(tenant.clone()),
            subject: Some(subject.to_owned()),
            before,
            limit: PAGE_ROWS_MAX,
            ..EventFilter::default()
        };
        let rows = store.events(filter).await?;
        before = rows.last().and_then(|row| row.event.seq).map(|seq| seq.0);
        for row in &rows {
            found.push(event(store, row).await?);
        }
        if rows.len() < PAGE_ROWS_MAX {
            return Ok((found, true));
        }
    }
    Ok((found, false))
}

async fn event(store: &Store, row: &EventRow) -> Result<Value, Trouble> {
    let event = &row.event;
    let request = request(store, event.id).await?;
    Ok(json!({
        "id": event.id.to_string(),
        "source": event.source,
        "type": event.event_type.as_str(),
        "subject": event.subject.shown(),
        "time": event.time.rfc3339(),
        "received_at": event.received_at.rfc3339(),
        // As text: numbers above 2^53 survive.
        "data": without_tokens(event.data.get()),
        "request": request,
    }))
}

/// Of a list that names others, the one element.
async fn request(store: &Store, id: EventId) -> Result<Option<Value>, Trouble> {
    let Some(row): Option<RequestRow> = store.request_of(id).await? else { return Ok(None) };
    let part = store.part_of(id).await?.unwrap_or(0);
    let body = element_of(&row.body, part as usize);
    let mut shown = request_head(&row);
    shown["body"] = json!(without_tokens(&String::from_utf8_lossy(&body)));
    Ok(Some(shown))
}

/// All of a kept request but its body.
pub(super) fn request_head(row: &RequestRow) -> Value {
    json!({
        "received_at": row.received_at.rfc3339(),
        "digest": row.digest,
        "redacted": row.redacted,
        "method": row.method,
        "path": without_tokens(&row.path),
        "query": row.query,
    })
}

async fn deliveries(store: &Store, tenant: &Name, subject: &str) -> Result<(Vec<Value>, bool), Trouble> {
    let (mut found, mut before) = (vec![], None);
    for _ in 0..PAGES_MAX {
        let filter = DeliveryFilter {
            tenant: Some(tenant.clone()),
            subject: Some(subject.to_owned()),
            before,
            limit: PAGE_ROWS_MAX,
            ..DeliveryFilter::default()
        };
        let rows = store.deliveries(filter).await?;
        before = rows.last().map(|row| row.id.0);
        for row in &rows {
            let mut value = crate::http::v1::deliveries::shown(row);
            let attempts = store.attempts(row.id).await?;
            value["attempts"] = attempts.iter().map(attempt).collect();
            found.push(value);
        }
        if rows.len() < PAGE_ROWS_MAX {
            return Ok((found, true));
        }
    }
    Ok((found, false))
}

/// What was sent for several at once names others: it is left out.
fn attempt(row: &AttemptRow) -> Value {
    let alone = row.items <= 1;
    let request = row
        .request
        .as_ref()
        .filter(|_| alone)
        .map(|bytes| without_tokens(&String::from_utf8_lossy(bytes)).into_owned());
    json!({
        "at": row.at.rfc3339(),
        "status": row.status,
        "items": row.items,
        "request": request,
        "answer": row.answer.as_deref().filter(|_| alone).map(without_tokens),
    })
}

/// In the order in which they were learned of; false where there are more.
async fn facts(store: &Store, tenant: &Name, person: PersonId) -> Result<(Vec<FactRow>, bool), Trouble> {
    let (mut found, mut after) = (vec![], 0);
    for _ in 0..PAGES_MAX {
        let rows = store.facts_of(tenant, person, after, PAGE_ROWS_MAX).await?;
        after = rows.last().map_or(after, |row| row.id);
        let is_end = rows.len() < PAGE_ROWS_MAX;
        found.extend(rows);
        if is_end {
            return Ok((found, true));
        }
    }
    Ok((found, false))
}

fn fact(row: &FactRow, answers: Option<&Vec<Value>>) -> Value {
    json!({
        "what": row.what.name(),
        "happened_at": row.happened_at.rfc3339(),
        "learned_at": row.learned_at.rfc3339(),
        "event_id": row.event_id.to_string(),
        "digest": row.digest,
        "evidence": row.evidence,
        "answers": answers.map_or(&[][..], Vec::as_slice),
    })
}

/// What destinations answered to facts, by the number of the fact.
async fn answers(
    store: &Store,
    tenant: &Name,
    subject: &str,
) -> Result<(BTreeMap<i64, Vec<Value>>, bool), Trouble> {
    let shown = |(destination, verdict, at): &(Name, String, Millis)| json!({ "destination": destination, "verdict": verdict, "at": at.rfc3339() });
    let (mut found, mut after) = (BTreeMap::new(), 0);
    for _ in 0..PAGES_MAX {
        let (tenant, subject) = (Some(tenant.clone()), Some(subject.to_owned()));
        let rows = store.facts(FactFilter { tenant, subject, after, limit: PAGE_ROWS_MAX }).await?;
        after = rows.last().map_or(after, |row| row.id);
        found.extend(rows.iter().map(|row| (row.id, row.answers.iter().map(shown).collect())));
        if rows.len() < PAGE_ROWS_MAX {
            return Ok((found, true));
        }
    }
    Ok((found, false))
}

fn confirmation(row: &KinConfirmation) -> Value {
    json!({
        "asked_at": row.asked_at.rfc3339(),
        "expires_at": row.expires_at.rfc3339(),
        "used_at": row.used_at.map(|at| at.rfc3339()),
        "gives": row.gives as i64,
        "mailing": row.mailing,
        "source": row.source,
        "page": row.page,
    })
}

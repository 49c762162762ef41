//! What an answer means (vendor pages api/errors, api/rate-limits, newsletter/upsert-contact).

use mailspan_core::{Answer, Consent, Operation, Reason, Signal, Verdict};
use serde_json::Value;

use super::answer::{self, Fault};
use super::bulk::{self, all, conflict, done};
use super::call::{At, Call, address_of, after_name, call_of, is_id};
use super::settings::Settings;
use crate::contract::{Item, Judgement, by_status};

const HOUR_MS: u64 = 3_600_000;

/// One verdict an item, whatever was answered.
pub fn judge(settings: &Settings, items: &[Item], answer: &Answer) -> Judgement {
    let call = items.first().and_then(|item| call_of(settings, item).ok());
    let mut judged = match (answer.status, items) {
        (200..=299, [item]) => all(items, succeeded(settings, call.as_ref(), item, answer), None),
        (200..=299, _) => bulk::judge(settings, items, answer),
        _ => refused(settings, call.as_ref(), items, answer),
    };
    judged.left = answer::left(answer);
    judged
}

fn succeeded(settings: &Settings, call: Option<&Call>, item: &Item, answer: &Answer) -> Verdict {
    let bad = |what: &str| {
        let shown = Fault::default().shown(answer);
        Verdict::retry("bad_answer", format!("the answer is no {what} of MailingCore: {shown}"))
    };
    match call {
        Some(Call::Upsert) => match answer::contact(answer) {
            Some(_) => done(settings, item),
            None => bad("contact"),
        },
        Some(Call::Find { .. }) => {
            let found = answer::contact(answer);
            match found.as_ref().and_then(|contact| contact.get("id")).and_then(Value::as_str) {
                Some(id) if is_id(id) => At::Found(id).next(),
                _ => bad("contact"),
            }
        }
        Some(Call::Rename { .. }) => At::Named.next(),
        Some(Call::Erase { .. }) => after_name(item, true).err().unwrap_or(Verdict::Done),
        Some(Call::OptIn { .. }) => match item.operation {
            Operation::SetConsent { consent: Consent::DoNotContact, .. } => {
                or_suppressed(settings, item).unwrap_or(Verdict::Done)
            }
            _ => Verdict::Done,
        },
        _ => Verdict::Done,
    }
}

/// On to the suppression list, where that is wanted and the address is known.
fn or_suppressed(settings: &Settings, item: &Item) -> Option<Verdict> {
    (settings.push_suppressions && address_of(item).is_some()).then(|| At::Suppress.next())
}

fn refused(settings: &Settings, call: Option<&Call>, items: &[Item], answer: &Answer) -> Judgement {
    let fault = Fault::of(answer);
    let shown = fault.shown(answer);
    match (answer.status, items) {
        // One contact may be the reason: the others go on without it.
        (400 | 409 | 413 | 422, [_, _, ..]) => {
            all(items, Verdict::retry("split", shown), Some(Signal::Split))
        }
        (404, [item]) => all(items, not_found(settings, call, item, &fault, &shown), None),
        (404, _) => all(items, no_address(), None),
        (409, [_]) => match call {
            // It is there already.
            Some(Call::Suppress { .. }) => all(items, Verdict::Done, None),
            _ => all(items, Verdict::reject("conflict", conflict(&shown)), None),
        },
        (401 | 403, _) => {
            let what = if answer.status == 401 {
                "the key is not valid: set another, then resume"
            } else {
                "give the key the scope, or set `tenant_id` to the key's tenant, then resume"
            };
            let reason = Reason::new("unauthorized", format!("{shown}: {what}"));
            let verdict = Verdict::Retry { after_ms: None, reason: reason.clone() };
            all(items, verdict, Some(Signal::Stop { reason }))
        }
        (429, _) => {
            let wait = answer::wait(answer).or(fault.quota.then_some(HOUR_MS));
            let code = if fault.quota { "quota" } else { "throttled" };
            let signal = wait.map(|ms| Signal::Throttled { until: answer.at.plus(ms) });
            all(items, Verdict::Retry { after_ms: wait, reason: Reason::new(code, shown) }, signal)
        }
        (400..=499, _) if !matches!(answer.status, 408 | 425) => {
            all(items, Verdict::reject("refused", shown), None)
        }
        _ => by_status(answer, items.len()),
    }
}

fn not_found(settings: &Settings, call: Option<&Call>, item: &Item, fault: &Fault, shown: &str) -> Verdict {
    let unknown =
        || Verdict::skipped("unknown_contact", format!("MailingCore does not know the contact: {shown}"));
    match call {
        // A page of a proxy says nothing of a contact.
        _ if !fault.is_envelope => no_address(),
        Some(Call::Lift { .. }) => Verdict::Done,
        Some(Call::Erase { .. }) => match after_name(item, false) {
            Err(next) => next,
            Ok(true) => Verdict::Done,
            Ok(false) => unknown(),
        },
        // It is gone since it was found: the upsert makes it.
        Some(Call::Rename { .. }) => At::Named.next(),
        Some(Call::Find { .. }) if matches!(item.operation, Operation::UpsertContact { .. }) => {
            after_name(item, false).err().unwrap_or_else(|| At::Named.next())
        }
        Some(Call::Find { .. } | Call::OptIn { .. }) => match (item.operation, after_name(item, false)) {
            (_, Err(next)) => next,
            (Operation::SetConsent { consent: Consent::OptIn, .. }, _) => unknown(),
            _ => or_suppressed(settings, item).unwrap_or_else(unknown),
        },
        _ => no_address(),
    }
}

fn no_address() -> Verdict {
    let text = "HTTP 404: there is no such address at MailingCore; check `base_url`, then replay";
    Verdict::reject("no_address", text)
}

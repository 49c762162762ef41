//! What an answer means (vendor pages «Usage guidelines» and «Error handling»; public recorded answers).
//! A 2xx is no success by itself: HubSpot answers 200 and 207 with neither results nor errors at times.

use mailspan_core::{Answer, Reason, Signal, Verdict};
use serde_json::Value;

use super::answer::{Fault, Found, left, list, until_full_hour};
use super::call::{At, Call, after_address, call_of, contact_of, deal_of, gather, is_id};
use super::matching::{Outcome, assign};
use super::settings::Settings;
use super::tasks;
use crate::contract::{Item, Judgement, by_status, retry_after};

/// One verdict an item, whatever was answered; none where the answer is an owner's id.
pub fn judge(settings: &Settings, items: &[Item], answer: &Answer) -> Judgement {
    let call = items.first().and_then(|item| call_of(settings, item).ok());
    let mut judged = match (answer.status, call) {
        (200..=299, Some(call)) => succeeded(settings, call, items, answer),
        (200..=299, None) => by_status(answer, items.len()),
        _ => refused(settings, call, items, answer),
    };
    judged.left = left(answer);
    judged
}

fn succeeded(settings: &Settings, call: Call, items: &[Item], answer: &Answer) -> Judgement {
    let all = |verdict: Verdict| Judgement { verdicts: vec![verdict; items.len()], ..Judgement::default() };
    match call {
        Call::Erase => {
            let after = |item: &Item| after_address(item, true).err().unwrap_or(Verdict::Done);
            return Judgement { verdicts: items.iter().map(after).collect(), ..Judgement::default() };
        }
        Call::DropNote => return all(unknown_contact("the note that was written for it is removed")),
        Call::WriteTask => {
            if let Some(judged) = owner_answer(items, answer) {
                return judged;
            }
        }
        _ => {}
    }
    match answer.json::<Value>() {
        Ok(body) => batch(settings, call, items, answer, &body),
        Err(reason) => all(Verdict::Retry { after_ms: None, reason }),
    }
}

/// The answer to the question for an owner, which comes where a task is to be written.
fn owner_answer(items: &[Item], answer: &Answer) -> Option<Judgement> {
    let (question, owner) = tasks::question(items.first()?)?;
    // An owner that HubSpot does not know is answered with nobody: the task is written all the same.
    let id = tasks::owner_in(answer, &owner).ok()?.unwrap_or_default();
    Some(Judgement { answer: Some((question, id)), ..Judgement::default() })
}

fn batch(settings: &Settings, call: Call, items: &[Item], answer: &Answer, body: &Value) -> Judgement {
    let inputs = gather(settings, call, items, |_| true);
    let results =
        list(body.get("results")).iter().map(|result| Found::read(result, &settings.note_key)).collect();
    let faults: Vec<Fault> = list(body.get("errors")).iter().map(Fault::read).collect();
    let matched = assign(items, &inputs, results, &faults);
    let open = matched.outcomes.iter().filter(|outcome| outcome.is_none()).count();

    let unnamed = format!("HTTP {} names neither a result nor an error for it", answer.status);
    let mut verdicts = vec![Verdict::retry("no_result", unnamed); items.len()];
    for (input, outcome) in inputs.iter().zip(&matched.outcomes) {
        for &at in &input.members {
            match outcome {
                Some(Outcome::Written(id)) => verdicts[at] = written(call, &items[at], id.as_deref()),
                Some(Outcome::Failed(fault)) => {
                    verdicts[at] = failed(settings, call, &items[at], &faults[*fault], 207)
                }
                None => {}
            }
        }
    }
    let signal = match faults.iter().find(|fault| fault.is_missing_scopes()) {
        Some(fault) => Some(Signal::Stop { reason: missing_scopes(fault, answer.status) }),
        // Something was answered, but not about whom: smaller calls tell.
        None if open > 1 && matched.unassigned > 0 => Some(Signal::Split),
        None => None,
    };
    Judgement { verdicts, signal, ..Judgement::default() }
}

fn written(call: Call, item: &Item, id: Option<&str>) -> Verdict {
    let no_id = || Verdict::retry("bad_answer", "the answer names no record id");
    let id = id.filter(|id| is_id(id));
    match (call, At::read(item.step)) {
        (Call::FindContact, _) => match id {
            Some(contact) => At::Contact(Some(contact)).next(),
            None => no_id(),
        },
        (Call::WriteNote, _) => match (id, contact_of(item)) {
            (Some(note), Some(contact)) => At::Note { note, contact }.next(),
            _ => no_id(),
        },
        (Call::HangNote, At::Note { note, .. }) if deal_of(item).is_some() => At::Deal { note }.next(),
        (Call::WriteTask, at) => match (id, at) {
            (Some(task), At::Contact(Some(contact))) => At::Task { task, contact }.next(),
            (Some(_), _) => Verdict::Done,
            (None, _) => no_id(),
        },
        _ => Verdict::Done,
    }
}

/// One item's error, out of a 207 or of a call that carried only this item.
fn failed(settings: &Settings, call: Call, item: &Item, fault: &Fault, status: u16) -> Verdict {
    let shown = format!("HTTP {status} {}", fault.shown());
    let category = fault.category.as_str();
    let is = |words: &[&str]| words.iter().any(|word| category.contains(word));
    if fault.is_not_found() {
        return not_found(call, item, fault, &shown);
    }
    if fault.is_missing_property() {
        return Verdict::reject("missing_property", missing_property(fault, &shown));
    }
    if status == 409 || is(&["CONFLICT", "ALREADY_EXISTS"]) {
        return conflict(call, shown);
    }
    if is(&["RATE_LIMIT"]) {
        return Verdict::Retry { after_ms: Some(10_000), reason: Reason::new("throttled", shown) };
    }
    if is(&["LOCKED"]) {
        return Verdict::Retry { after_ms: Some(2_000), reason: Reason::new("locked", shown) };
    }
    if is(&["INTERNAL", "UNAVAILABLE", "TIMEOUT", "GATEWAY", "MISSING_SCOPES"]) {
        return Verdict::retry("unavailable", shown);
    }
    if is(&["VALIDATION_ERROR"]) || status == 400 {
        return Verdict::reject("validation_error", validation(settings, fault, &shown));
    }
    Verdict::reject("refused", shown)
}

fn not_found(call: Call, item: &Item, fault: &Fault, shown: &str) -> Verdict {
    match (call, At::read(item.step)) {
        // The notice is due all the same; it only hangs on nobody.
        (Call::FindContact, _) if item.operation.name() == "notify_owner" => At::Contact(None).next(),
        (Call::HangTask, _) => Verdict::Done,
        (Call::HangNote, At::Note { note, contact }) => {
            let names = |id: &str| fault.names.iter().any(|name| name == id);
            if names(note) && !names(contact) {
                return Verdict::retry("note_not_found", format!("{shown}: the note that was just written"));
            }
            At::Drop { note }.next()
        }
        (Call::HangNoteOnDeal, _) => Verdict::skipped(
            "unknown_deal",
            format!("the note hangs on its contact, the deal is not there: {shown}"),
        ),
        (Call::WriteNote | Call::WriteTask | Call::Upsert, _) => Verdict::reject("refused", shown),
        (Call::Erase, _) => match after_address(item, false) {
            Err(next) => next,
            Ok(true) => Verdict::Done,
            Ok(false) => unknown_contact(shown),
        },
        _ => unknown_contact(shown),
    }
}

fn unknown_contact(why: &str) -> Verdict {
    Verdict::skipped("unknown_contact", format!("HubSpot does not know the contact: {why}"))
}

/// For an upsert by a unique key somebody else was faster: the next try finds the record.
fn conflict(call: Call, shown: String) -> Verdict {
    match call {
        Call::WriteNote | Call::WriteTask | Call::Upsert => {
            Verdict::Retry { after_ms: Some(1_000), reason: Reason::new("conflict", shown) }
        }
        _ => Verdict::reject("conflict", shown),
    }
}

fn missing_property(fault: &Fault, shown: &str) -> String {
    let names = match fault.properties.as_slice() {
        [] => "a property is".to_owned(),
        [one] => format!("the property {one} is"),
        many => format!("the properties {} are", many.join(", ")),
    };
    format!("{names} missing at HubSpot: run `mailspan destinations prepare`, then replay ({shown})")
}

fn validation(settings: &Settings, fault: &Fault, shown: &str) -> String {
    let key = &settings.note_key;
    if fault.message.contains(key.as_str()) {
        return format!(
            "notes and tasks need the unique property {key}: run `mailspan destinations prepare`, then replay ({shown})"
        );
    }
    let which = match fault.properties.as_slice() {
        [] => String::new(),
        names => format!(", properties {}", names.join(", ")),
    };
    format!("a matter of configuration at HubSpot or in the map{which}: mend it, then replay ({shown})")
}

fn missing_scopes(fault: &Fault, status: u16) -> Reason {
    let scopes = match fault.scopes.as_slice() {
        [] => "a scope".to_owned(),
        scopes => format!("the scope {}", scopes.join(" or ")),
    };
    let text = format!(
        "HTTP {status}: the token lacks {scopes}; add it at HubSpot, then resume ({})",
        fault.shown()
    );
    Reason::new("missing_scopes", text)
}

/// A whole call that was not a success.
fn refused(settings: &Settings, call: Option<Call>, items: &[Item], answer: &Answer) -> Judgement {
    let fault = Fault::of(answer);
    let shown = format!("HTTP {} {}", answer.status, fault.shown());
    let all = |verdict: Verdict, signal: Option<Signal>| Judgement {
        verdicts: vec![verdict; items.len()],
        signal,
        ..Judgement::default()
    };
    let retry =
        |after_ms: Option<u64>, code: &str| Verdict::Retry { after_ms, reason: Reason::new(code, &*shown) };
    match (answer.status, call) {
        (404, _) if !fault.is_envelope => {
            let text = "HTTP 404: there is no such address at HubSpot; check `version` and `base_url`";
            all(Verdict::reject("no_address", text), None)
        }
        (400 | 404 | 409 | 413 | 414 | 422, Some(_)) if items.len() > 1 => {
            all(retry(None, "split"), Some(Signal::Split))
        }
        (400 | 409 | 422, Some(call)) => match items.first() {
            Some(item) => all(failed(settings, call, item, &fault, answer.status), None),
            None => Judgement::default(),
        },
        (404, Some(call)) => match items.first() {
            Some(item) => all(not_found(call, item, &fault, &shown), None),
            None => Judgement::default(),
        },
        (401, _) => {
            let reason = Reason::new("unauthorized", format!("{shown}: HubSpot refused the token"));
            let verdict = Verdict::Retry { after_ms: None, reason: reason.clone() };
            all(verdict, Some(Signal::Reauth { reason }))
        }
        (403, _) if fault.is_missing_scopes() => {
            let reason = missing_scopes(&fault, 403);
            let verdict = Verdict::Retry { after_ms: None, reason: reason.clone() };
            all(verdict, Some(Signal::Stop { reason }))
        }
        (423, _) => all(retry(Some(2_000), "locked"), None),
        (429, _) => {
            let (wait, text) = rate_wait(&fault, answer);
            let reason = Reason::new("throttled", format!("{shown}: {text}"));
            let signal = Signal::Throttled { until: answer.at.plus(wait) };
            all(Verdict::Retry { after_ms: Some(wait), reason }, Some(signal))
        }
        (477, _) => {
            let wait = retry_after(answer).unwrap_or(60_000);
            let reason = Reason::new("moving", format!("{shown}: the account is moving to another region"));
            let signal = Signal::Throttled { until: answer.at.plus(wait) };
            all(Verdict::Retry { after_ms: Some(wait), reason }, Some(signal))
        }
        _ => by_status(answer, items.len()),
    }
}

/// How long a 429 asks to wait. HubSpot names a policy and no time.
fn rate_wait(fault: &Fault, answer: &Answer) -> (u64, &'static str) {
    if let Some(asked) = retry_after(answer) {
        return (asked, "waiting as long as asked");
    }
    match fault.policy.as_str() {
        "SECONDLY" => (1_000, "the limit of a second is used up"),
        "DAILY" => (
            until_full_hour(answer.at),
            "the day's limit of the account is used up; tried again every full hour until its midnight",
        ),
        _ => (10_000, "the limit of ten seconds is used up"),
    }
}

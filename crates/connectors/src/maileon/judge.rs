//! What an answer means (vendor page «HTTP status codes»). Errors are XML, whatever was sent.

use mailspan_core::{Answer, Operation, Reason, Signal, Verdict, clip, xml};
use serde_json::Value;

use super::call::{Call, after_name, after_old, call_of, taken, unknown};
use super::report::{self, all};
use super::settings::Settings;
use crate::contract::{Item, Judgement, by_status};

/// One verdict an item, whatever was answered.
pub fn judge(settings: &Settings, items: &[Item], answer: &Answer) -> Judgement {
    let call = items.first().and_then(|item| call_of(settings, item).ok());
    match (answer.status, &call) {
        (200..=299, Some(Call::Synchronise { .. })) => report::judge(items, answer),
        (200..=299, call) => {
            let verdict = match (accepted(answer), call, items) {
                // The address is written; the opt-in that came with it is a call of its own.
                (Verdict::Done, Some(Call::Move { .. }), [item]) if opts_in(item) => unknown(),
                (Verdict::Done, Some(Call::Leave { .. }), [item]) => after_old(item),
                (Verdict::Done, Some(Call::Unsubscribe(_) | Call::Delete(_)), [item]) => {
                    after_name(item, true).err().unwrap_or(Verdict::Done)
                }
                (verdict, ..) => verdict,
            };
            all(items, verdict, None)
        }
        _ => refused(settings, call.as_ref(), items, answer),
    }
}

fn opts_in(item: &Item) -> bool {
    let Operation::UpsertContact { fields } = item.operation else { return false };
    fields.get(mailspan_core::fields::OPT_IN) == Some(&Value::Bool(true))
}

/// Done, unless a page of a proxy was answered.
fn accepted(answer: &Answer) -> Verdict {
    let shown = String::from_utf8_lossy(&answer.body);
    let start = shown.trim_start().to_ascii_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        let text = format!("the answer is a page, none of Maileon: {}", clip(&shown, 200));
        return Verdict::retry("bad_answer", text);
    }
    Verdict::Done
}

/// `message` of the XML error, of a JSON one, or the body.
fn shown(answer: &Answer) -> String {
    let of_xml = || Some(xml::parse(&answer.body)?.text_of("message")?.to_owned());
    let of_json = || {
        let body: Value = serde_json::from_slice(&answer.body).ok()?;
        body.get("message")?.as_str().map(str::to_owned)
    };
    let text =
        of_xml().or_else(of_json).unwrap_or_else(|| String::from_utf8_lossy(&answer.body).into_owned());
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.is_empty() {
        true => format!("HTTP {}, no reason given", answer.status),
        false => format!("HTTP {}: {}", answer.status, clip(&text, 400)),
    }
}

fn refused(settings: &Settings, call: Option<&Call>, items: &[Item], answer: &Answer) -> Judgement {
    let shown = shown(answer);
    match (answer.status, items) {
        // One contact may be the reason: the others go on without it.
        (400 | 409 | 413 | 422, [_, _, ..]) => {
            all(items, Verdict::retry("split", shown), Some(Signal::Split))
        }
        (401 | 403, _) => {
            let what = if answer.status == 401 {
                "the key is not valid, has expired, or the account is blocked: set another, then resume"
            } else {
                "the key lacks the privilege for this method: add it at Maileon, then resume"
            };
            let reason = Reason::new("unauthorized", format!("{shown}: {what}"));
            let verdict = Verdict::Retry { after_ms: None, reason: reason.clone() };
            all(items, verdict, Some(Signal::Stop { reason }))
        }
        (404, [item]) => all(items, not_found(settings, call, item, &shown), None),
        (409, [item]) if matches!(call, Some(Call::Move { .. })) => all(items, taken(item), None),
        (409, _) => {
            let text = format!(
                "{shown}: another contact has this address or external id; mend it at Maileon, then replay"
            );
            all(items, Verdict::reject("conflict", text), None)
        }
        (400..=499, _) if !matches!(answer.status, 408 | 425 | 429) => {
            all(items, Verdict::reject("refused", shown), None)
        }
        _ => by_status(answer, items.len()),
    }
}

fn not_found(settings: &Settings, call: Option<&Call>, item: &Item, shown: &str) -> Verdict {
    let nobody =
        || Verdict::skipped("unknown_contact", format!("Maileon does not know the contact: {shown}"));
    let marks = settings.push_suppressions && item.address().is_some();
    if let Some(Call::Unsubscribe(_) | Call::Delete(_)) = call {
        match after_name(item, false) {
            Err(next) => return next,
            Ok(true) => return Verdict::Done,
            Ok(false) => {}
        }
    }
    match (call, item.operation) {
        (Some(Call::Move { .. } | Call::Leave { .. }), _) => after_old(item),
        (Some(Call::Unsubscribe(_)), Operation::SetConsent { .. } | Operation::SetFields { .. }) if marks => {
            unknown()
        }
        (Some(Call::Unsubscribe(_) | Call::Delete(_) | Call::Mark { .. }), _) => nobody(),
        _ => Verdict::reject(
            "no_address",
            "HTTP 404: there is no such address at Maileon; check `base_url`, then replay",
        ),
    }
}

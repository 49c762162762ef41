//! The summary of a bulk call, whose shape MailingCore does not document: counts or lists, failures under one
//! of three names. N contacts in, N named: what it does not account for is not taken for done.

use mailspan_core::{Answer, Reason, Signal, Verdict, clip};
use serde_json::Value;

use super::answer::said;
use super::call::{email_of, external_id_of, leaves_an_address};
use super::settings::Settings;
use crate::contract::{Item, Judgement};

/// Verdicts about the items of one bulk call that was answered 2xx.
pub fn judge(settings: &Settings, items: &[Item], answer: &Answer) -> Judgement {
    let body = match answer.json::<Value>() {
        Ok(body) => body,
        Err(reason) => return all(items, Verdict::Retry { after_ms: None, reason }, None),
    };
    let body = body.get("data").filter(|inner| inner.is_object()).unwrap_or(&body);
    let failures = ["errors", "failures", "failed"].iter().find_map(|name| body.get(*name)?.as_array());
    let failures = failures.map(Vec::as_slice).unwrap_or_default();
    let mut verdicts: Vec<Option<Verdict>> = vec![None; items.len()];
    let mut unmatched = 0_u64;
    for failure in failures {
        match position(items, failure) {
            Some(at) => verdicts[at] = Some(failed(failure)),
            None => unmatched += 1,
        }
    }
    let named = verdicts.iter().flatten().count() as u64;
    let accounted = accounted(body, failures.len() as u64).is_some_and(|(written, refused)| {
        refused == named && written.saturating_add(refused) == items.len() as u64
    });
    if accounted && unmatched == 0 {
        let rest =
            |(verdict, item): (Option<Verdict>, &Item)| verdict.unwrap_or_else(|| done(settings, item));
        let verdicts = verdicts.into_iter().zip(items).map(rest).collect();
        return Judgement { verdicts, ..Judgement::default() };
    }
    let text = format!("HTTP {}: the summary does not account for every contact", answer.status);
    let open = Verdict::retry("no_result", text);
    let verdicts = verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(|| open.clone())).collect();
    // A single contact goes by `PUT`, whose answer is documented.
    Judgement { verdicts, signal: Some(Signal::Split), ..Judgement::default() }
}

/// Done, or on to the address that the contact left.
pub fn done(settings: &Settings, item: &Item) -> Verdict {
    if leaves_an_address(settings, item) { super::call::At::Suppress.next() } else { Verdict::Done }
}

pub fn all(items: &[Item], verdict: Verdict, signal: Option<Signal>) -> Judgement {
    Judgement { verdicts: vec![verdict; items.len()], signal, ..Judgement::default() }
}

/// How many were written and how many refused; nothing where the body is no summary.
fn accounted(body: &Value, listed: u64) -> Option<(u64, u64)> {
    let count = |name: &str| match body.get(name)? {
        Value::Array(items) => Some(items.len() as u64),
        number => number.as_u64(),
    };
    let written = [count("created"), count("updated"), count("unchanged")];
    if written == [None; 3] && count("failed").is_none() {
        return None;
    }
    let sum = written.into_iter().flatten().fold(0, u64::saturating_add);
    Some((sum, count("failed").unwrap_or(listed)))
}

/// Whom a failure is about: by address, by external id, by its index.
fn position(items: &[Item], failure: &Value) -> Option<usize> {
    let text = |name: &str| failure.get(name).or_else(|| failure.get("contact")?.get(name))?.as_str();
    let by_email = text("email").and_then(|email| {
        let email = email.trim().to_lowercase();
        items.iter().position(|item| email_of(item).is_some_and(|mine| mine.to_lowercase() == email))
    });
    let by_id = || {
        let id = text("externalId")?;
        items.iter().position(|item| external_id_of(item).as_deref() == Some(id))
    };
    let by_index = || {
        let index = ["index", "row"].iter().find_map(|name| failure.get(*name)?.as_u64())?;
        usize::try_from(index).ok().filter(|index| *index < items.len())
    };
    by_email.or_else(by_id).or_else(by_index)
}

fn failed(failure: &Value) -> Verdict {
    let status = ["statusCode", "status", "code"].iter().find_map(|name| failure.get(*name)?.as_u64());
    let text = ["message", "error", "reason", "detail"].iter().find_map(|name| said(failure.get(*name)?));
    let text = text.unwrap_or_else(|| failure.to_string());
    let shown = format!("{} {}", status.unwrap_or(0), clip(&text, 400));
    let shown = shown.trim_start_matches("0 ").to_owned();
    match status {
        Some(409) => Verdict::reject("conflict", conflict(&shown)),
        Some(408 | 425 | 429 | 500..=599) => {
            Verdict::Retry { after_ms: None, reason: Reason::new("unavailable", shown) }
        }
        _ => Verdict::reject("refused", shown),
    }
}

/// What to do about a 409.
pub fn conflict(shown: &str) -> String {
    format!(
        "{shown}: another contact there has this external id or address; mend it at MailingCore, then replay"
    )
}

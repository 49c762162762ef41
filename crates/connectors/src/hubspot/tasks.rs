//! The notice to an owner: a task that is due at once (specifications «Owners» and «Tasks», 2026-03).

use mailspan_core::{Answer, Operation, Request};
use serde_json::{Value, json};

use super::call::{Input, is_id};
use super::notes::{html, upsert_input};
use super::settings::Settings;
use crate::contract::{Item, Known, Question};
use crate::percent::percent;

/// The question that an item of a task asks, and its owner's address in lower case.
pub fn question(item: &Item) -> Option<(Question, String)> {
    match item.operation {
        Operation::NotifyOwner { owner: Some(owner), .. } => {
            let owner = owner.trim().to_lowercase();
            Some((Question(format!("owner:{owner}")), owner))
        }
        _ => None,
    }
}

/// Its owner was asked for, and the task is to be written here: HubSpot knows the owner, or nobody else can be
/// told.
pub fn is_ready(item: &Item, known: &Known) -> bool {
    let answer = question(item).and_then(|(question, _)| known.0.get(&question));
    answer.is_some_and(|owner| !(owner.is_empty() && item.elsewhere))
}

/// The look-up of an owner's id by address.
pub fn ask_owner(settings: &Settings, owner: &str) -> Request {
    Request {
        method: "GET",
        path: format!("/crm/owners/{}?email={}", settings.version, percent(owner)),
        headers: vec![("accept".to_owned(), "application/json".to_owned())],
        body: Default::default(),
    }
}

/// The id of the owner in the answer to the look-up: `Ok(None)` where HubSpot has no such owner, and
/// `Err` where this is not such an answer. A batch answer always has a `status`, a list of owners has none.
pub fn owner_in(answer: &Answer, owner: &str) -> Result<Option<String>, ()> {
    let body: Value = serde_json::from_slice(&answer.body).map_err(|_| ())?;
    let results = body.get("results").and_then(Value::as_array).ok_or(())?;
    if body.get("status").is_some() || results.iter().any(|result| result.get("properties").is_some()) {
        return Err(());
    }
    let same = |result: &&Value| match result.get("email").and_then(Value::as_str) {
        Some(email) => email.to_lowercase() == owner,
        None => false,
    };
    let archived = |result: &Value| result.get("archived").and_then(Value::as_bool) == Some(true);
    let found = results.iter().filter(same).find(|result| !archived(result));
    let id = found.and_then(|result| match result.get("id") {
        Some(Value::String(id)) => Some(id.clone()),
        Some(Value::Number(id)) => Some(id.to_string()),
        _ => None,
    });
    Ok(id.filter(|id| is_id(id)))
}

/// `tasks/batch/upsert` under the item's key; the task is due when the event happened, so at once. Where
/// HubSpot has no owner of that address and the route has no `notify` URL, the task is nobody's and names whom
/// it was meant for: it stands on the contact, so that somebody is told.
pub fn write(settings: &Settings, items: &[Item], inputs: &[Input], known: &Known) -> Request {
    let inputs = inputs.iter().filter_map(|input| {
        let item = &items[*input.members.first()?];
        let Operation::NotifyOwner { title, text, at, .. } = item.operation else { return None };
        let (question, address) = question(item)?;
        let owner = known.0.get(&question).filter(|id| !id.is_empty());
        let text = match owner {
            Some(_) => text.clone(),
            None => format!("For {address}, who is no user of this account: {text}"),
        };
        let mut properties = json!({
            "hs_timestamp": at.0.to_string(),
            "hs_task_subject": mailspan_core::clip(title, 250),
            "hs_task_body": html("", &text, 10_000).trim_start_matches("<br>"),
            "hs_task_status": "NOT_STARTED",
            "hs_task_priority": "HIGH",
            "hs_task_type": "TODO",
        });
        if let Some(owner) = owner {
            properties["hubspot_owner_id"] = owner.as_str().into();
        }
        Some(upsert_input(settings, item, properties))
    });
    let inputs: Vec<Value> = inputs.collect();
    Request::json(
        "POST",
        format!("/crm/objects/{}/tasks/batch/upsert", settings.version),
        &json!({"inputs": inputs}),
    )
}

//! Opt-out and opt-in through the subscriptions API (specification «Subscriptions», 2026-03): the
//! properties `hs_email_optout…` belong to HubSpot and cannot be written. Repeating a status is harmless.

use mailspan_core::{Consent, Millis, Operation, Request};
use serde_json::{Value, json};

use super::call::Input;
use super::settings::Settings;
use crate::contract::Item;

/// Unsubscribes addresses from all e-mail.
pub fn unsubscribe_all(settings: &Settings, inputs: &[Input]) -> Request {
    let addresses: Vec<&str> = inputs.iter().map(|input| input.id.as_str()).collect();
    let path = format!(
        "/communication-preferences/{}/statuses/batch/unsubscribe-all?channel=EMAIL",
        settings.version
    );
    Request::json("POST", path, &json!({"inputs": addresses}))
}

/// Sets the status of one subscription type. Where items of one address disagree, what happened last counts.
pub fn write_statuses(settings: &Settings, items: &[Item], inputs: &[Input]) -> Request {
    let status = |input: &Input| {
        json!({
            "subscriberIdString": input.id,
            "channel": "EMAIL",
            "subscriptionId": settings.subscription_id,
            "statusState": if opts_in(items, &input.members) { "SUBSCRIBED" } else { "UNSUBSCRIBED" },
        })
    };
    let inputs: Vec<Value> = inputs.iter().map(status).collect();
    let path = format!("/communication-preferences/{}/statuses/batch/write", settings.version);
    Request::json("POST", path, &json!({"inputs": inputs}))
}

/// At the same time an opt-out wins.
fn opts_in(items: &[Item], members: &[usize]) -> bool {
    let said = members.iter().filter_map(|&at| match items[at].operation {
        Operation::SetConsent { consent, at, .. } => Some((*at, *consent != Consent::OptIn)),
        _ => None,
    });
    !said.max().unwrap_or((Millis(0), true)).1
}

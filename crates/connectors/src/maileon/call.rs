//! Which request an item needs next.

use mailspan_core::{Consent, Operation, Step, Verdict, fields};
use serde_json::Value;

use super::settings::Settings;
use crate::contract::Item;

/// A request of Maileon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// An opt-in that the event states: the contact alone, with its permission.
    OptIn,
    /// The contact has a new address: update by the old one.
    Move {
        old: String,
    },
    /// Everything else of a contact, many at once. The permission is for contacts that are new there.
    Synchronise {
        permission: Option<u8>,
    },
    Unsubscribe(Whom),
    /// The unsubscription marker.
    Mark {
        address: String,
    },
    Delete(Whom),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    Address(String),
    ExternalId(String),
}

/// The step after Maileon did not know the old address, or the person to unsubscribe.
const UNKNOWN: &str = "unknown";

/// On to what is done where Maileon does not know whom it was asked about.
pub fn unknown() -> Verdict {
    Verdict::Next { step: Step(UNKNOWN.to_owned()), after_ms: 0 }
}

/// The call that an item needs next, or a verdict where no request is needed.
pub fn call_of(settings: &Settings, item: &Item) -> Result<Call, Verdict> {
    let is_unknown = item.step.is_some_and(|step| step.0 == UNKNOWN);
    match item.operation {
        Operation::UpsertContact { fields } => {
            let email = email_of(item).ok_or_else(no_person)?;
            let old = text(fields, fields::PREVIOUS_EMAIL).filter(|_| !is_unknown);
            match old.filter(|old| old.to_lowercase() != email.to_lowercase()) {
                Some(old) => Ok(Call::Move { old }),
                None if fields.get(fields::OPT_IN) == Some(&Value::Bool(true)) => Ok(Call::OptIn),
                None => Ok(Call::Synchronise { permission: stated(fields).then_some(1) }),
            }
        }
        Operation::SetConsent { consent: Consent::OptIn, .. } => {
            Err(Verdict::skipped("no_call", "an opt-in is written to Maileon by `upsert_contact`"))
        }
        Operation::SetConsent { .. } if is_unknown && settings.push_suppressions => match address_of(item) {
            Some(address) => Ok(Call::Mark { address }),
            None => Err(no_person()),
        },
        Operation::SetConsent { .. } => whom(item).map(Call::Unsubscribe).ok_or_else(no_person),
        Operation::EraseContact => whom(item).map(Call::Delete).ok_or_else(no_person),
        Operation::SetFields { fields, .. } => suppression_call(item, fields, is_unknown),
        Operation::LogActivity { .. } | Operation::NotifyOwner { .. } => {
            Err(Verdict::skipped("no_call", "Maileon is told of contacts, not of activities or tasks"))
        }
        Operation::Send { .. } => {
            Err(Verdict::reject("no_call", "a map for Maileon returns operations, not bodies"))
        }
    }
}

/// Who must not be mailed is unsubscribed: Maileon has no list that others may write to. It brings nobody back.
fn suppression_call(item: &Item, set: &mailspan_core::Fields, is_unknown: bool) -> Result<Call, Verdict> {
    match set.get(fields::SUPPRESSED).and_then(Value::as_bool) {
        Some(true) if is_unknown => {
            address_of(item).map(|address| Call::Mark { address }).ok_or_else(no_person)
        }
        Some(true) => whom(item).map(Call::Unsubscribe).ok_or_else(no_person),
        Some(false) => {
            let text = "a suppression that is lifted opts nobody in: Maileon is told of the next opt-in";
            Err(Verdict::skipped("no_call", text))
        }
        None => {
            Err(Verdict::skipped("no_fields", "Maileon keeps its own bounces and blocks, and takes none"))
        }
    }
}

/// True where the event says that the contact is not opted in.
fn stated(fields: &mailspan_core::Fields) -> bool {
    fields.get(fields::OPT_IN) == Some(&Value::Bool(false))
}

fn no_person() -> Verdict {
    Verdict::skipped("no_person", "Maileon knows people by their address, and the event names none")
}

fn whom(item: &Item) -> Option<Whom> {
    let by_id = || Some(Whom::ExternalId(item.person?.subject.external_id.clone()?));
    address_of(item).map(Whom::Address).or_else(by_id)
}

fn address_of(item: &Item) -> Option<String> {
    Some(item.address()?.as_str().to_owned())
}

/// The contact's address: the one that the operation names, else the person's.
pub fn email_of(item: &Item) -> Option<String> {
    let Operation::UpsertContact { fields } = item.operation else { return address_of(item) };
    text(fields, fields::EMAIL).or_else(|| address_of(item))
}

pub fn external_id_of(item: &Item) -> Option<String> {
    let Operation::UpsertContact { fields } = item.operation else { return None };
    text(fields, fields::EXTERNAL_ID).or_else(|| item.person?.subject.external_id.clone())
}

pub fn text(fields: &mailspan_core::Fields, name: &str) -> Option<String> {
    let text = match fields.get(name)? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

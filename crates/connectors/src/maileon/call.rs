//! Which request an item needs next.

use mailspan_core::{Consent, Operation, Step, Verdict, fields};
use serde_json::Value;

use super::settings::Settings;
use crate::contract::Item;
use crate::names::{Asked, addresses, external_ids, texts};

/// A request of Maileon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// An opt-in that the event states: the contact alone, with its permission.
    OptIn,
    /// The contact has a new address: update by the old one.
    Move {
        old: String,
    },
    /// The contact has a new address, and another contact there has it too: the old one is left, and unsubscribed.
    Leave {
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

/// The step after Maileon knew none of the old addresses, or nobody to unsubscribe.
const UNKNOWN: &str = "unknown";
/// The step before an old address is left, with its place among them.
const TAKEN: &str = "taken:";

/// On to what is done where Maileon does not know whom it was asked about.
pub fn unknown() -> Verdict {
    next(Step(UNKNOWN.to_owned()))
}

fn next(step: Step) -> Verdict {
    Verdict::Next { step, after_ms: 0 }
}

/// How many of the old addresses were asked for, or which of them is left.
fn place(item: &Item) -> usize {
    let taken = item.step.and_then(|step| step.0.strip_prefix(TAKEN)?.parse().ok());
    taken.unwrap_or_else(|| Asked::read(item.step).count)
}

/// The addresses that the contact had before, as the operation names them.
fn olds(item: &Item) -> Vec<String> {
    let (Operation::UpsertContact { fields }, Some(email)) = (item.operation, email_of(item)) else {
        return Vec::new();
    };
    let mut olds = texts(fields, fields::PREVIOUS_EMAIL);
    olds.retain(|old| old.to_lowercase() != email.to_lowercase());
    olds
}

/// After an old address that Maileon does not know, or that was left: the next one, or the contact by its own.
pub fn after_old(item: &Item) -> Verdict {
    let after = place(item) + 1;
    if after < olds(item).len() { next(Asked { count: after, known: false }.step()) } else { unknown() }
}

/// Two contacts there: the one of the old address gets no mail any more, before the other is written.
pub fn taken(item: &Item) -> Verdict {
    next(Step(format!("{TAKEN}{}", place(item))))
}

/// By which names Maileon is asked, in this order; `true`: only where it knew none of those before.
fn asks(item: &Item) -> Vec<(Whom, bool)> {
    let erases = matches!(item.operation, Operation::EraseContact);
    let all = addresses(item.person);
    let again = all.first().filter(|_| all.len() > 1 && !erases).cloned();
    let by_address = all.iter().cloned().map(|address| (Whom::Address(address), false));
    let by_id = external_ids(item.person).into_iter().map(|id| (Whom::ExternalId(id), !erases));
    // A change of address that was on its way may have arrived in between.
    by_address.chain(by_id).chain(again.map(|address| (Whom::Address(address), true))).collect()
}

fn ask_of(item: &Item, asked: Asked) -> Option<(usize, Whom)> {
    let mut left = asks(item).into_iter().enumerate().skip(asked.count);
    left.find(|(_, (_, if_unknown))| !(asked.known && *if_unknown)).map(|(at, (whom, _))| (at, whom))
}

/// After the answer to a question by one name: on to the next one, or whether any was known.
pub fn after_name(item: &Item, known: bool) -> Result<bool, Verdict> {
    let asked = Asked::read(item.step);
    let at = ask_of(item, asked).map_or(asked.count, |(at, _)| at);
    let asked = Asked { count: at, ..asked }.after(known);
    match ask_of(item, asked) {
        Some(_) => Err(next(asked.step())),
        None => Ok(asked.known),
    }
}

/// The call that an item needs next, or a verdict where no request is needed.
pub fn call_of(settings: &Settings, item: &Item) -> Result<Call, Verdict> {
    let is_unknown = item.step.is_some_and(|step| step.0 == UNKNOWN);
    match item.operation {
        Operation::UpsertContact { fields } => {
            email_of(item).ok_or_else(no_person)?;
            let old = olds(item).into_iter().nth(place(item)).filter(|_| !is_unknown);
            let is_taken = item.step.is_some_and(|step| step.0.starts_with(TAKEN));
            match old {
                Some(old) if is_taken => Ok(Call::Leave { old }),
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
    let first = || ask_of(item, Asked::default());
    ask_of(item, Asked::read(item.step)).or_else(first).map(|(_, whom)| whom)
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

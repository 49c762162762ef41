//! Which request an item needs next.

use mailspan_core::limits::EXTERNAL_ID_CHARS_MAX;
use mailspan_core::{Consent, Operation, Step, Verdict, fields};
use serde_json::Value;

use super::settings::Settings;
use crate::contract::Item;
use crate::names::{Asked, external_ids, texts};

/// A request of MailingCore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `PUT /contacts`, or `POST /contacts/bulk` for several.
    Upsert,
    /// The internal id of a contact: `PATCH` is documented for that id only.
    Find {
        external_id: String,
    },
    OptIn {
        id: String,
        opt_in: bool,
    },
    /// The contact has a new external id: an upsert by it would meet the contact that has the old one.
    Rename {
        id: String,
    },
    Suppress {
        address: String,
        reason: &'static str,
    },
    Lift {
        address: String,
    },
    Erase {
        external_id: String,
    },
}

/// How far an operation got. A step that cannot be read is the start: every request may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At<'a> {
    Start,
    /// The contact's internal id is known.
    Found(&'a str),
    /// What remains is the suppression list.
    Suppress,
    /// The contact has its external id.
    Named,
}

impl<'a> At<'a> {
    pub fn read(step: Option<&'a Step>) -> At<'a> {
        match step.map(|step| step.0.as_str()) {
            Some("suppress") => At::Suppress,
            Some("named") => At::Named,
            Some(text) => match text.strip_prefix("id:") {
                Some(id) if is_id(id) => At::Found(id),
                _ => At::Start,
            },
            None => At::Start,
        }
    }

    pub fn next(self) -> Verdict {
        let step = match self {
            At::Start => String::new(),
            At::Found(id) => format!("id:{id}"),
            At::Suppress => "suppress".to_owned(),
            At::Named => "named".to_owned(),
        };
        Verdict::Next { step: Step(step), after_ms: 0 }
    }
}

/// True for an id that fits into a step and a path.
pub fn is_id(id: &str) -> bool {
    (1..=200).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

/// The call that an item needs next, or a verdict where no request is needed.
pub fn call_of(settings: &Settings, item: &Item) -> Result<Call, Verdict> {
    match item.operation {
        Operation::UpsertContact { fields } => match At::read(item.step) {
            At::Suppress => {
                Ok(Call::Suppress { address: previous(fields).ok_or_else(no_person)?, reason: "manual" })
            }
            _ if email_of(item).is_none() => Err(no_person()),
            _ => match external_id_of(item) {
                Some(id) if id.chars().count() > EXTERNAL_ID_CHARS_MAX => Err(Verdict::reject(
                    "external_id_too_long",
                    format!(
                        "MailingCore takes external ids of at most {EXTERNAL_ID_CHARS_MAX} characters: shorten it"
                    ),
                )),
                _ => Ok(upsert(item)),
            },
        },
        Operation::SetConsent { consent, .. } => consent_call(settings, item, *consent),
        Operation::SetFields { fields, .. } => suppression_call(settings, item, fields),
        Operation::EraseContact => match name(item).or_else(|| external_id_of(item)) {
            Some(external_id) => Ok(Call::Erase { external_id }),
            // Somebody asked for it: it may not pass unseen.
            None => Err(Verdict::reject(
                "no_external_id",
                "MailingCore erases a contact by its external id, and this one has none: \
                 erase it in the dashboard of MailingCore, then discard this",
            )),
        },
        Operation::LogActivity { .. } | Operation::NotifyOwner { .. } => {
            Err(Verdict::skipped("no_call", "MailingCore keeps contacts, no activities or tasks"))
        }
        Operation::Send { .. } => {
            Err(Verdict::reject("no_call", "a map for MailingCore returns operations, not bodies"))
        }
    }
}

/// By the external id. Where the contact had others before, they are looked for first, and renamed.
fn upsert(item: &Item) -> Call {
    match At::read(item.step) {
        At::Found(id) => Call::Rename { id: id.to_owned() },
        At::Named => Call::Upsert,
        _ => name(item).map_or(Call::Upsert, |external_id| Call::Find { external_id }),
    }
}

/// The external ids by which MailingCore is asked: of an upsert those before, else the person's.
fn names(item: &Item) -> Vec<String> {
    let Operation::UpsertContact { fields } = item.operation else {
        let mut all = external_ids(item.person);
        // A new external id that was on its way may have arrived in between.
        let erases = matches!(item.operation, Operation::EraseContact);
        let again = all.first().filter(|_| all.len() > 1 && !erases).cloned();
        all.extend(again);
        return all;
    };
    let Some(now) = external_id_of(item) else { return Vec::new() };
    let mut before = texts(fields, fields::PREVIOUS_EXTERNAL_ID);
    before.retain(|id| *id != now);
    before
}

/// The one that comes now.
fn name(item: &Item) -> Option<String> {
    names(item).into_iter().nth(Asked::read(item.step).count)
}

/// After the answer to a question by one of them: on to the next one, or whether any was known.
pub fn after_name(item: &Item, known: bool) -> Result<bool, Verdict> {
    let asked = Asked::read(item.step).after(known);
    match asked.count < names(item).len() {
        true => Err(Verdict::Next { step: asked.step(), after_ms: 0 }),
        false => Ok(asked.known),
    }
}

fn consent_call(settings: &Settings, item: &Item, consent: Consent) -> Result<Call, Verdict> {
    match (At::read(item.step), name(item)) {
        (At::Suppress, _) => suppress(item, reason_of(consent)),
        (At::Found(id), _) => Ok(Call::OptIn { id: id.to_owned(), opt_in: consent == Consent::OptIn }),
        (_, Some(external_id)) => Ok(Call::Find { external_id }),
        (_, None) if consent == Consent::OptIn => Err(Verdict::skipped(
            "no_external_id",
            "MailingCore finds a contact by its external id; an opt-in of others is written by `upsert_contact`",
        )),
        // An upsert would create whoever is not known: the suppression list blocks without that.
        (_, None) if settings.push_suppressions => suppress(item, reason_of(consent)),
        (_, None) => Err(Verdict::skipped(
            "no_external_id",
            "MailingCore finds a contact by its external id, and `push_suppressions` is off",
        )),
    }
}

fn suppression_call(settings: &Settings, item: &Item, set: &mailspan_core::Fields) -> Result<Call, Verdict> {
    let dead = set.get(fields::EMAIL_STATUS).and_then(Value::as_str) == Some("undeliverable");
    let suppressed = set.get(fields::SUPPRESSED).and_then(Value::as_bool);
    if !dead && suppressed.is_none() {
        return Err(Verdict::skipped("no_fields", "MailingCore keeps none of these facts on a contact"));
    }
    if !settings.push_suppressions {
        return Err(Verdict::skipped("by_setting", "`push_suppressions` is off"));
    }
    match suppressed {
        Some(false) => Ok(Call::Lift { address: address_of(item).ok_or_else(no_person)? }),
        Some(true) => suppress(item, reason_for(set)),
        None => suppress(item, "bounce"),
    }
}

fn suppress(item: &Item, reason: &'static str) -> Result<Call, Verdict> {
    Ok(Call::Suppress { address: address_of(item).ok_or_else(no_person)?, reason })
}

/// The hub's own reason, in the words of MailingCore, which are the same.
fn reason_for(set: &mailspan_core::Fields) -> &'static str {
    let given = set.get(fields::SUPPRESSED_FOR).and_then(Value::as_str);
    let known = ["bounce", "complaint", "unsubscribe"].into_iter().find(|word| Some(*word) == given);
    known.unwrap_or("manual")
}

pub fn reason_of(consent: Consent) -> &'static str {
    if consent == Consent::DoNotContact { "complaint" } else { "unsubscribe" }
}

fn no_person() -> Verdict {
    Verdict::skipped("no_person", "MailingCore knows people by their address, and the event names none")
}

pub fn address_of(item: &Item) -> Option<String> {
    Some(item.address()?.as_str().to_owned())
}

/// The contact's address: the one that the operation names, else the person's.
pub fn email_of(item: &Item) -> Option<String> {
    text(item, fields::EMAIL).or_else(|| address_of(item))
}

/// The contact's external id: the one that the operation names, else the person's.
pub fn external_id_of(item: &Item) -> Option<String> {
    text(item, fields::EXTERNAL_ID).or_else(|| item.person?.subject.external_id.clone())
}

fn text(item: &Item, name: &str) -> Option<String> {
    let Operation::UpsertContact { fields } = item.operation else { return None };
    let text = match fields.get(name)? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// The address before the last change.
fn previous(fields: &mailspan_core::Fields) -> Option<String> {
    texts(fields, fields::PREVIOUS_EMAIL).into_iter().next()
}

/// After the upsert of a contact that moved and is known by its address alone: the contact of the old address
/// still stands there, so that address is suppressed.
pub fn leaves_an_address(settings: &Settings, item: &Item) -> bool {
    let Operation::UpsertContact { fields } = item.operation else { return false };
    let moved = |old: String| email_of(item).is_some_and(|new| new.to_lowercase() != old.to_lowercase());
    settings.push_suppressions && external_id_of(item).is_none() && previous(fields).is_some_and(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: At) {
        assert_eq!(At::read(Some(&Step(text.to_owned()))), expected, "{text}");
    }

    #[test]
    fn steps_are_read_back() {
        check("id:clx17", At::Found("clx17"));
        check("suppress", At::Suppress);
        for text in ["", "id:", "id:é", "id:a b", "found"] {
            check(text, At::Start);
        }
    }
}

//! One write applied to one contact: what is kept, what changed, what is said of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::facts::{Fact, Permission, Standing, Stated, standing};
use super::suppression::{Suppression, repeats, stands_anew, suppression};
use super::wishes::{is_freed, stated};
use super::{
    Change, Contact, ContactFields, ContactWrite, ERASED, Evidence, Suppressed, WriteMode, formerly, found,
    told,
};
use crate::{Formerly, Millis, Reason};

/// What the store knows before a write.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The contact, where there is one.
    pub contact: Option<Arc<Contact>>,
    /// Facts of the person.
    pub facts: Vec<Fact>,
    /// Of the newest fact that agrees; nothing where it is not known.
    pub agreed: Option<Evidence>,
    /// Why the address (the new one, where it changes) is suppressed, and since when.
    pub suppressed: Option<(Suppressed, Millis)>,
    /// Of whom is erased: what else others may know them by.
    pub formerly: Formerly,
}

/// What kind of change it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    Created,
    Updated,
    /// Nothing that can be seen.
    Unchanged,
    /// Known, and left as it was, as the write wished.
    Ignored,
    Erased,
    Refused(Reason),
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Applied {
    pub turn: Turn,
    pub after: Option<Arc<Contact>>,
    /// Appended with the time and evidence of the write.
    pub facts: Vec<Stated>,
    /// `Some(Some)`: why the address is suppressed now, and since when; `Some(None)`: it is not any more.
    pub suppression: Option<Option<(Suppressed, Millis)>>,
    pub standing: Standing,
    /// The type and `data` of the hub's own event; nothing where nothing is to be said.
    pub event: Option<(&'static str, Box<RawValue>)>,
    /// A confirmation is to be asked for.
    pub ask: bool,
    /// Nobody is suppressed though destinations may have it otherwise: the event says so.
    pub stands_anew: bool,
}

/// Pure and total. `learned`: when the hub learned of it, the time of the row.
pub fn apply(known: &Known, write: &ContactWrite, learned: Millis) -> Applied {
    match write.found {
        true if found::is_erased(known) => {
            refused(known, Reason::new(ERASED, "who has this address was erased"))
        }
        true => written(known, &found::differing(known, write), learned),
        false => written(known, write, learned),
    }
}

fn written(known: &Known, write: &ContactWrite, learned: Millis) -> Applied {
    let before = known.contact.as_deref();
    if write.erase {
        return erase(known, write);
    }
    match (before, write.mode) {
        (None, WriteMode::Update) => {
            return refused(known, Reason::new("not_found", "there is no such contact"));
        }
        (Some(_), WriteMode::CreateOnly) => return ignored(known, write),
        _ => {}
    }
    let mut facts = stated(known, write);
    let mut all = known.facts.clone();
    all.extend(facts.iter().map(|&what| Fact { at: write.at, what }));
    let standing = standing(&all);
    let suppression = suppression(known, write, &all).filter(|_| !repeats(known, write, &facts));
    let suppressed_at = match suppression {
        Some(now) => now.map(|(_, at)| at),
        None => known.suppressed.map(|(_, at)| at),
    };
    match (&write.suppress, suppression) {
        // An opt-out says it already.
        (Change::Set(_), Some(Some(_))) if !facts.iter().any(|fact| ends_consent(*fact)) => {
            facts.push(Stated::Suppressed);
        }
        (Change::Clear, Some(None)) => facts.push(Stated::SuppressionLifted),
        _ => {}
    }
    let stands_anew = stands_anew(known, write, &facts, suppression);
    if before.is_none() && write.mode == WriteMode::Follow {
        return Applied {
            turn: Turn::Unchanged,
            after: None,
            facts,
            suppression,
            standing,
            event: suppression.map(|now| told::strangers_event(now, &write.evidence.origin)),
            ask: false,
            stands_anew,
        };
    }
    let mut after = changed(before, write, learned);
    formerly::leave(before, &mut after, learned);
    after.opt_in = standing.opt_in();
    after.permission = standing.permission;
    after.suppressed_at = suppressed_at;
    after.unsubscribed_at = standing.opted_out_at.filter(|_| standing.has_left());
    let names = changes(known, write, &after, &facts, suppression, stands_anew);
    let turn = match before {
        None => Turn::Created,
        Some(_) if names.is_empty() => Turn::Unchanged,
        Some(_) => Turn::Updated,
    };
    if turn == Turn::Updated {
        after.updated_at = learned;
    }
    let suppressed = suppression.unwrap_or(known.suppressed).map(|(reason, _)| reason);
    let event = told::event(&turn, before, &after, &names, suppressed, &write.evidence.origin);
    let ask = asks(known, write);
    Applied { turn, after: Some(Arc::new(after)), facts, suppression, standing, event, ask, stands_anew }
}

/// Names of what the hub says has changed: what differs, and what destinations have to be told all the same.
fn changes(
    known: &Known,
    write: &ContactWrite,
    after: &Contact,
    facts: &[Stated],
    suppression: Suppression,
    stands_anew: bool,
) -> Vec<&'static str> {
    let before = known.contact.as_deref();
    let mut names = before.map(|before| told::differences(before, after)).unwrap_or_default();
    let agrees = write.opt_in == Some(true) || facts.iter().any(|fact| matches!(fact, Stated::OptIn(_)));
    let agrees_anew = agrees && before.is_some_and(|before| before.opt_in);
    // While a suppression stood an opt-in was told as none.
    let opts_in = agrees_anew && is_freed(known, &standing(&known.facts)) || stands_anew && after.opt_in;
    if opts_in && !names.contains(&"opt_in") {
        names.push("opt_in");
    }
    // Another reason of the same moment is another suppression: who keeps one by its reason must be told.
    let is_another = before.is_some() && matches!(suppression, Some(Some(_)));
    if (is_another || stands_anew) && !names.contains(&"suppressed_at") {
        names.push("suppressed_at");
    }
    names
}

fn refused(known: &Known, reason: Reason) -> Applied {
    Applied {
        turn: Turn::Refused(reason),
        after: known.contact.clone(),
        facts: Vec::new(),
        suppression: None,
        standing: standing(&known.facts),
        event: None,
        ask: false,
        stands_anew: false,
    }
}

/// A known contact that is to be left alone may still be asked to confirm.
fn ignored(known: &Known, write: &ContactWrite) -> Applied {
    let ask = asks(known, write);
    let facts = if ask { vec![Stated::Asked] } else { Vec::new() };
    Applied { turn: Turn::Ignored, facts, ask, ..refused(known, Reason::new("ignored", "")) }
}

fn erase(known: &Known, write: &ContactWrite) -> Applied {
    let mut facts = known.facts.clone();
    facts.push(Fact { at: write.at, what: Stated::Erased });
    let standing = standing(&facts);
    // An older request that comes late does not make what was void count again.
    let before_that = known.suppressed.filter(|(why, _)| *why == Suppressed::Erasure).map(|(_, at)| at);
    let erased_at = before_that.map_or(write.at, |at| at.max(write.at));
    let Some(before) = &known.contact else {
        return match write.mode {
            WriteMode::Follow | WriteMode::Upsert => Applied {
                turn: Turn::Erased,
                after: None,
                facts: vec![Stated::Erased],
                suppression: Some(Some((Suppressed::Erasure, erased_at))),
                standing,
                // A person without a contact is known to destinations too.
                event: Some(told::erased(json!({}), &known.formerly, &write.evidence.origin)),
                ..refused(known, Reason::new("erased", ""))
            },
            _ => refused(known, Reason::new("not_found", "there is no such contact")),
        };
    };
    let contact = json!({ "id": before.uid, "external_id": before.external_id });
    Applied {
        turn: Turn::Erased,
        after: None,
        facts: vec![Stated::Erased],
        suppression: Some(Some((Suppressed::Erasure, erased_at))),
        standing,
        event: Some(told::erased(contact, &known.formerly, &write.evidence.origin)),
        ask: false,
        stands_anew: false,
    }
}

pub(super) fn ends_consent(fact: Stated) -> bool {
    matches!(fact, Stated::OptOut | Stated::DoNotContact | Stated::Erased)
}

/// Who must not be mailed is not mailed a question either; who has unsubscribed is, as the answer lifts that.
pub(super) fn asks(known: &Known, write: &ContactWrite) -> bool {
    if known.suppressed.is_some_and(|(reason, _)| reason != Suppressed::Unsubscribe) {
        return false;
    }
    let has_confirmed = known.contact.as_ref().is_some_and(|contact| contact.permission.is_double());
    write.ask.as_ref().is_some_and(|ask| ask.again || !has_confirmed)
}

fn changed(before: Option<&Contact>, write: &ContactWrite, learned: Millis) -> Contact {
    let mut contact = before.cloned().unwrap_or_else(|| Contact {
        uid: write.uid.clone(),
        address: None,
        external_id: None,
        locale: None,
        opt_in: false,
        permission: Permission::None,
        consent_version: None,
        source: None,
        project: None,
        fields: ContactFields::default(),
        suppressed_at: None,
        unsubscribed_at: None,
        created_at: learned,
        updated_at: learned,
    });
    if let Some(address) = &write.address {
        let same = contact.address.as_ref().is_some_and(|old| old.key() == address.key());
        if !same {
            contact.address = Some(address.clone());
        }
    }
    set(&mut contact.external_id, &write.external_id);
    set(&mut contact.locale, &write.locale);
    set(&mut contact.consent_version, &write.consent_version);
    set(&mut contact.source, &write.source);
    set(&mut contact.project, &write.project);
    match &write.attributes {
        Change::Keep => {}
        Change::Clear => contact.fields.attributes.clear(),
        Change::Set(attributes) => contact.fields.attributes = attributes.clone(),
    }
    set_fields(&mut contact.fields.standard, &write.standard);
    set_fields(&mut contact.fields.custom, &write.custom);
    contact
}

fn set(value: &mut Option<String>, change: &Change<String>) {
    match change {
        Change::Keep => {}
        Change::Clear => *value = None,
        Change::Set(new) => *value = Some(new.clone()),
    }
}

fn set_fields(fields: &mut BTreeMap<String, Value>, changes: &BTreeMap<String, Change<Value>>) {
    for (name, change) in changes {
        match change {
            Change::Keep => {}
            Change::Clear => {
                fields.remove(name);
            }
            Change::Set(value) => {
                fields.insert(name.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! One write applied to one contact: what is kept, what changed, what is said of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::data::contact_json;
use super::facts::{Fact, Permission, Standing, Stated, standing};
use super::{Change, Contact, ContactFields, ContactWrite, Suppressed, WriteMode};
use crate::{Millis, Reason};

/// What the store knows before a write.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The contact, where there is one.
    pub contact: Option<Contact>,
    /// Facts of the person.
    pub facts: Vec<Fact>,
    /// Why the address (the new one, where it changes) is suppressed, and since when.
    pub suppressed: Option<(Suppressed, Millis)>,
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
    pub after: Option<Contact>,
    /// Appended with the time and evidence of the write.
    pub facts: Vec<Stated>,
    /// `Some(Some)`: the address is suppressed now; `Some(None)`: it is not any more.
    pub suppression: Option<Option<Suppressed>>,
    pub standing: Standing,
    /// The type and `data` of the hub's own event; nothing where nothing is to be said.
    pub event: Option<(&'static str, Value)>,
    /// A confirmation is to be asked for.
    pub ask: bool,
}

/// Pure and total. `learned`: when the hub learned of it, the time of the row.
pub fn apply(known: &Known, write: &ContactWrite, learned: Millis) -> Applied {
    let before = known.contact.as_ref();
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
    let facts = stated(known, write);
    let mut all = known.facts.clone();
    all.extend(facts.iter().map(|&what| Fact { at: write.at, what }));
    let standing = standing(&all);
    let suppression = suppression(known, write);
    let suppressed_at = match suppression {
        Some(Some(_)) => Some(write.at),
        Some(None) => None,
        None => known.suppressed.map(|(_, at)| at),
    };
    if before.is_none() && write.mode == WriteMode::Follow {
        return Applied {
            turn: Turn::Unchanged,
            after: None,
            facts,
            suppression,
            standing,
            event: None,
            ask: false,
        };
    }
    let mut after = changed(before, write, learned);
    after.opt_in = standing.opt_in();
    after.permission = standing.permission;
    after.suppressed_at = suppressed_at;
    after.unsubscribed_at = standing.opted_out_at.filter(|_| standing.has_left());
    let names = before.map(|before| differences(before, &after)).unwrap_or_default();
    let turn = match before {
        None => Turn::Created,
        Some(_) if names.is_empty() => Turn::Unchanged,
        Some(_) => Turn::Updated,
    };
    if turn == Turn::Updated {
        after.updated_at = learned;
    }
    let event = event(&turn, before, &after, &names, &write.evidence.origin);
    let ask = asks(before, write);
    Applied { turn, after: Some(after), facts, suppression, standing, event, ask }
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
    }
}

/// A known contact that is to be left alone may still be asked to confirm.
fn ignored(known: &Known, write: &ContactWrite) -> Applied {
    let ask = asks(known.contact.as_ref(), write);
    let facts = if ask { vec![Stated::Asked] } else { Vec::new() };
    Applied { turn: Turn::Ignored, facts, ask, ..refused(known, Reason::new("ignored", "")) }
}

fn erase(known: &Known, write: &ContactWrite) -> Applied {
    let Some(before) = &known.contact else {
        return match write.mode {
            WriteMode::Follow | WriteMode::Upsert => Applied {
                turn: Turn::Erased,
                after: None,
                facts: vec![Stated::Erased],
                suppression: Some(Some(Suppressed::Erasure)),
                ..refused(known, Reason::new("erased", ""))
            },
            _ => refused(known, Reason::new("not_found", "there is no such contact")),
        };
    };
    let data = json!({
        "contact": { "id": before.uid, "external_id": before.external_id },
        "origin": write.evidence.origin,
    });
    Applied {
        turn: Turn::Erased,
        after: None,
        facts: vec![Stated::Erased],
        suppression: Some(Some(Suppressed::Erasure)),
        standing: standing(&known.facts),
        event: Some(("contact.erased", data)),
        ask: false,
    }
}

/// A wish that is fulfilled already states nothing.
fn stated(known: &Known, write: &ContactWrite) -> Vec<Stated> {
    let now = standing(&known.facts);
    let mut facts: Vec<Stated> = write.stated.clone();
    match write.opt_in {
        Some(true) if !now.opt_in() => facts.push(Stated::OptIn(None)),
        // Said where nothing was said yet too: an older opt-in that comes late must not win.
        Some(false) if now.opt_in() || now.opted_out_at.is_none() => facts.push(Stated::OptOut),
        _ => {}
    }
    facts.retain(|fact| {
        let same = Fact { at: write.at, what: *fact };
        let levelled = matches!(fact, Stated::Level(level) if *level == now.permission);
        !known.facts.contains(&same) && !levelled
    });
    if asks(known.contact.as_ref(), write) {
        facts.push(Stated::Asked);
    }
    facts
}

/// The first reason stays, except that an erasure is the last word.
fn suppression(known: &Known, write: &ContactWrite) -> Option<Option<Suppressed>> {
    let confirmed =
        write.stated.iter().any(|fact| matches!(fact, Stated::OptIn(Some(level)) if level.is_double()));
    match (write.suppress.clone(), known.suppressed) {
        (Change::Set(reason), None) => Some(Some(reason)),
        (Change::Set(_), Some(_)) => None,
        (Change::Clear, Some(_)) => Some(None),
        (Change::Clear, None) => None,
        // Who confirms anew after having unsubscribed may be mailed again.
        (Change::Keep, Some((Suppressed::Unsubscribe, since))) if confirmed && write.at > since => Some(None),
        (Change::Keep, _) => None,
    }
}

fn asks(before: Option<&Contact>, write: &ContactWrite) -> bool {
    let has_confirmed = before.is_some_and(|contact| contact.permission.is_double());
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

fn differences(before: &Contact, after: &Contact) -> Vec<&'static str> {
    let pairs = [
        ("email", before.address != after.address),
        ("external_id", before.external_id != after.external_id),
        ("locale", before.locale != after.locale),
        ("opt_in", before.opt_in != after.opt_in),
        ("permission", before.permission != after.permission),
        ("consent_version", before.consent_version != after.consent_version),
        ("source", before.source != after.source),
        ("project_id", before.project != after.project),
        ("attributes", before.fields.attributes != after.fields.attributes),
        ("standard", before.fields.standard != after.fields.standard),
        ("custom", before.fields.custom != after.fields.custom),
        ("suppressed_at", before.suppressed_at != after.suppressed_at),
        ("unsubscribed_at", before.unsubscribed_at != after.unsubscribed_at),
    ];
    pairs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

fn event(
    turn: &Turn,
    before: Option<&Contact>,
    after: &Contact,
    names: &[&'static str],
    origin: &str,
) -> Option<(&'static str, Value)> {
    let was_in = before.is_some_and(|before| before.opt_in);
    let event_type = match turn {
        Turn::Created => "contact.created",
        Turn::Updated if was_in && !after.opt_in => "contact.unsubscribed",
        Turn::Updated if !was_in && after.opt_in => "contact.subscribed",
        Turn::Updated => "contact.updated",
        _ => return None,
    };
    let old_address = before.and_then(|before| before.address.as_ref()).filter(|_| names.contains(&"email"));
    let mut data = json!({ "contact": contact_json(after), "changed": names, "origin": origin });
    if let Some(address) = old_address {
        data["previous"] = json!({ "email": address.as_str() });
    }
    Some((event_type, data))
}

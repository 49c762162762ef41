//! Which request an item needs next, and which items share one.

use std::collections::HashMap;

use mailspan_core::{Consent, Operation, Step, Verdict};

use super::settings::Settings;
use crate::contract::Item;
use crate::names::{Asked, addresses};

/// HubSpot's limit for every batch call.
pub const INPUTS_MAX: usize = 100;

/// A request of HubSpot. Items of one request have the same call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    UpdateByEmail,
    UpdateByRecord,
    Upsert,
    UnsubscribeAll,
    WriteStatuses,
    Erase,
    /// The record id of a contact, for a note or a task.
    FindContact,
    WriteNote,
    /// The note is written and hangs on nobody: associates it with its contact.
    HangNote,
    HangNoteOnDeal,
    /// The contact is gone: takes the note away that would hang on nobody.
    DropNote,
    /// Needs the owner's id, which is asked for first.
    WriteTask,
    HangTask,
}

impl Call {
    /// What groups items into batches; nothing for what goes alone.
    pub fn batch_key(self) -> Option<&'static str> {
        match self {
            Call::UpdateByEmail => Some("update by email"),
            Call::UpdateByRecord => Some("update by record"),
            Call::Upsert => Some("upsert"),
            Call::UnsubscribeAll => Some("unsubscribe all"),
            Call::WriteStatuses => Some("write statuses"),
            Call::Erase => None,
            Call::FindContact => Some("find contact"),
            Call::WriteNote => Some("write note"),
            Call::HangNote => Some("hang note"),
            Call::HangNoteOnDeal => Some("hang note on deal"),
            Call::DropNote => Some("drop note"),
            Call::WriteTask => Some("write task"),
            Call::HangTask => Some("hang task"),
        }
    }
}

/// How far a note or a task got. A step that cannot be read is the start: every request may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At<'a> {
    Start,
    /// `None`: HubSpot does not know the contact, and a task is written all the same.
    Contact(Option<&'a str>),
    Note {
        note: &'a str,
        contact: &'a str,
    },
    Deal {
        note: &'a str,
    },
    Drop {
        note: &'a str,
    },
    Task {
        task: &'a str,
        contact: &'a str,
    },
}

impl<'a> At<'a> {
    pub fn read(step: Option<&'a Step>) -> At<'a> {
        step.and_then(|step| At::parse(&step.0)).unwrap_or(At::Start)
    }

    fn parse(text: &'a str) -> Option<At<'a>> {
        if text == "contact:-" {
            return Some(At::Contact(None));
        }
        if let Some(contact) = text.strip_prefix("contact:") {
            return is_id(contact).then_some(At::Contact(Some(contact)));
        }
        if let Some(note) = text.strip_prefix("drop:") {
            return is_id(note).then_some(At::Drop { note });
        }
        let (what, rest) = text.split_once('/')?;
        let (kind, id) = what.split_once(':')?;
        match (kind, rest.strip_prefix("contact:")) {
            _ if !is_id(id) => None,
            ("note", None) if rest == "deal" => Some(At::Deal { note: id }),
            ("note", Some(contact)) if is_id(contact) => Some(At::Note { note: id, contact }),
            ("task", Some(contact)) if is_id(contact) => Some(At::Task { task: id, contact }),
            _ => None,
        }
    }

    /// The step as it is kept.
    pub fn step(self) -> Step {
        Step(match self {
            At::Start => String::new(),
            At::Contact(None) => "contact:-".to_owned(),
            At::Contact(Some(contact)) => format!("contact:{contact}"),
            At::Note { note, contact } => format!("note:{note}/contact:{contact}"),
            At::Deal { note } => format!("note:{note}/deal"),
            At::Drop { note } => format!("drop:{note}"),
            At::Task { task, contact } => format!("task:{task}/contact:{contact}"),
        })
    }

    pub fn next(self) -> Verdict {
        Verdict::Next { step: self.step(), after_ms: 0 }
    }
}

/// True for a record id of HubSpot: digits. An id of another CRM in the metadata is none.
pub fn is_id(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// The call that an item needs next, or a verdict where no request is needed.
pub fn call_of(settings: &Settings, item: &Item) -> Result<Call, Verdict> {
    let by_address = |call: Call| item.address().map(|_| call).ok_or_else(no_person);
    match item.operation {
        Operation::SetFields { .. } if record_of(item).is_some() => Ok(Call::UpdateByRecord),
        Operation::SetFields { .. } => by_address(Call::UpdateByEmail),
        Operation::UpsertContact { .. } => by_address(Call::Upsert),
        Operation::SetConsent { consent: Consent::DoNotContact, .. } => by_address(Call::UnsubscribeAll),
        Operation::SetConsent { consent, .. } => match (settings.subscription_id, consent) {
            (Some(_), _) => by_address(Call::WriteStatuses),
            (None, Consent::OptIn) => Err(Verdict::skipped(
                "no_call",
                "HubSpot takes an opt-in for one subscription type only: set `subscription_id` to have it written",
            )),
            (None, _) => by_address(Call::UnsubscribeAll),
        },
        Operation::EraseContact => by_address(Call::Erase),
        Operation::LogActivity { .. } => match At::read(item.step) {
            At::Contact(Some(_)) => Ok(Call::WriteNote),
            At::Note { .. } => Ok(Call::HangNote),
            At::Deal { .. } if deal_of(item).is_some() => Ok(Call::HangNoteOnDeal),
            At::Drop { .. } => Ok(Call::DropNote),
            _ if record_of(item).is_some() => Ok(Call::WriteNote),
            _ => by_address(Call::FindContact),
        },
        Operation::NotifyOwner { owner: None, .. } if item.elsewhere => {
            Err(Verdict::handed_on("the event names no owner (`crm_owner`)"))
        }
        Operation::NotifyOwner { owner: None, .. } => Err(Verdict::skipped(
            "no_owner",
            "the event names no owner (`crm_owner`); a route's `notify` URL is told instead",
        )),
        Operation::NotifyOwner { .. } => match At::read(item.step) {
            At::Contact(_) => Ok(Call::WriteTask),
            At::Task { .. } => Ok(Call::HangTask),
            _ => by_address(Call::FindContact),
        },
        Operation::Send { .. } => {
            Err(Verdict::reject("no_call", "a map for HubSpot returns operations, not bodies: use a CRM map"))
        }
    }
}

fn no_person() -> Verdict {
    Verdict::skipped("no_person", "HubSpot knows people by their address, and the event names none")
}

/// The contact's record id, where the operation names one that HubSpot could have given.
pub fn record_of<'a>(item: &Item<'a>) -> Option<&'a str> {
    match item.operation {
        Operation::SetFields { record, .. } | Operation::LogActivity { record, .. } => {
            record.as_deref().map(str::trim).filter(|id| is_id(id))
        }
        _ => None,
    }
}

pub fn deal_of<'a>(item: &Item<'a>) -> Option<&'a str> {
    match item.operation {
        Operation::LogActivity { deal, .. } => deal.as_deref().map(str::trim).filter(|id| is_id(id)),
        _ => None,
    }
}

/// The contact that a note is written for: found, or named by the operation.
pub fn contact_of<'a>(item: &Item<'a>) -> Option<&'a str> {
    match At::read(item.step) {
        At::Contact(contact) => contact,
        At::Note { contact, .. } | At::Task { contact, .. } => Some(contact),
        _ => record_of(item),
    }
}

/// One input of a batch and the items that it carries.
#[derive(Debug)]
pub struct Input {
    /// What HubSpot knows it by, as sent.
    pub id: String,
    /// The other end of an association; empty otherwise.
    pub to: String,
    /// Positions in the items; not empty.
    pub members: Vec<usize>,
}

/// The inputs that the items of one call make, at most 100: no id stands twice, since HubSpot refuses
/// the whole call then. Plan and judge both build them from the items, so they agree.
pub fn gather(settings: &Settings, call: Call, items: &[Item], takes: impl Fn(&Item) -> bool) -> Vec<Input> {
    let mut inputs: Vec<Input> = Vec::new();
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let most = if call == Call::Erase { 1 } else { INPUTS_MAX };
    for (position, item) in items.iter().enumerate() {
        if call_of(settings, item) != Ok(call) || !takes(item) {
            continue;
        }
        let (id, to) = ends_of(call, item);
        let place = (id.to_lowercase(), to.clone());
        match places.get(&place) {
            Some(&at) => inputs[at].members.push(position),
            None if inputs.len() == most => {}
            None => {
                places.insert(place, inputs.len());
                inputs.push(Input { id, to, members: vec![position] });
            }
        }
    }
    inputs
}

fn ends_of(call: Call, item: &Item) -> (String, String) {
    let address = || item.address().map(|address| address.as_str().to_owned()).unwrap_or_default();
    let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
    match (call, At::read(item.step)) {
        (Call::UpdateByRecord, _) => (owned(record_of(item)), String::new()),
        (Call::WriteNote | Call::WriteTask, _) => (item.key.to_string(), String::new()),
        (Call::HangNoteOnDeal, At::Deal { note }) => (note.to_owned(), owned(deal_of(item))),
        (_, At::Note { note, contact }) => (note.to_owned(), contact.to_owned()),
        (_, At::Drop { note }) => (note.to_owned(), String::new()),
        (_, At::Task { task, contact }) => (task.to_owned(), contact.to_owned()),
        // Each address that HubSpot may know the person by is a request of its own.
        (Call::Erase, _) => {
            let asked = Asked::read(item.step).count;
            (addresses(item.person).into_iter().nth(asked).unwrap_or_else(address), String::new())
        }
        _ => (address(), String::new()),
    }
}

/// After an erasure by one address: on to the next one that the person had, or whether any was known.
pub fn after_address(item: &Item, known: bool) -> Result<bool, Verdict> {
    let asked = Asked::read(item.step).after(known);
    match asked.count < addresses(item.person).len() {
        true => Err(Verdict::Next { step: asked.step(), after_ms: 0 }),
        false => Ok(asked.known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: At) {
        assert_eq!(At::read(Some(&Step(text.to_owned()))), expected, "{text}");
        if expected != At::Start {
            assert_eq!(expected.step().0, text);
        }
    }

    #[test]
    fn steps_are_read_back() {
        check("contact:17", At::Contact(Some("17")));
        check("contact:-", At::Contact(None));
        check("note:1/contact:2", At::Note { note: "1", contact: "2" });
        check("note:1/deal", At::Deal { note: "1" });
        check("drop:1", At::Drop { note: "1" });
        check("task:1/contact:2", At::Task { task: "1", contact: "2" });
        for text in ["", "contact:x", "note:1", "note:/contact:2", "task:1/deal", "note:1/contact:", "é:1/2"]
        {
            check(text, At::Start);
        }
    }
}

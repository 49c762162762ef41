//! What an event says about consent.

use crate::json::{Node, Value};
use crate::{Class, Consent, Event, EventType, Millis, json};

/// The class of an event's lane. Known from the type, save for events that carry a whole contact: where such
/// a contact states an opt-in or opt-out, they stand in line with the other opt-ins and opt-outs of the
/// person, so that none overtakes another. So does what says that an address is suppressed, or is not any more.
pub fn class_of(event: &Event) -> Class {
    class_of_type(&event.event_type).unwrap_or_else(|| {
        let data = json::parse(event.data.get().as_bytes()).ok();
        let states = data.is_some_and(|data| {
            stated_opt_in(&event.event_type, &data).is_some() || changes(&data, "suppressed_at")
        });
        if states { Class::Consent } else { event.event_type.class() }
    })
}

/// The class of every event of a type; nothing where the contact that an event carries decides ([`class_of`]).
pub fn class_of_type(event_type: &EventType) -> Option<Class> {
    let carries_contact =
        matches!(event_type.as_str(), "contact.created" | "contact.updated" | "contact.suppression_changed");
    (!carries_contact).then(|| event_type.class())
}

/// When what an event says happened, as far as consent goes: not after it was received. Who says that
/// somebody agrees tomorrow must not void what that person takes back today.
pub fn counted_time(event: &Event) -> Millis {
    event.time.min(event.received_at)
}

/// The list `changed` names this member.
fn changes(data: &Node<'_>, word: &str) -> bool {
    let changed = data.get("changed").and_then(Node::as_array);
    changed.is_some_and(|list| list.iter().any(|item| item.as_str() == Some(word)))
}

/// The opt-in (true) or opt-out (false) that an event's contact states: `data.contact.opt_in`, or
/// `data.opt_in`. A `contact.updated` whose list `changed` names neither `opt_in` nor `permission` only
/// repeats what is known, and states nothing.
pub fn stated_opt_in(event_type: &EventType, data: &Node<'_>) -> Option<bool> {
    let says = |word: &str| changes(data, word);
    // An empty list names nothing that could be told apart from the rest.
    let lists =
        data.get("changed").and_then(|changed| changed.as_array()).is_some_and(|names| !names.is_empty());
    if event_type.as_str() == "contact.updated" && lists && !says("opt_in") && !says("permission") {
        return None;
    }
    let contact = data.get("contact").filter(|contact| contact.as_object().is_some()).unwrap_or(data);
    match contact.get("opt_in")?.value {
        Value::Bool(opt_in) => Some(opt_in),
        _ => None,
    }
}

/// The event states an opt-in: by its type, or by the contact it carries.
pub fn states_opt_in(event: &Event) -> bool {
    if consent_of(&event.event_type) == Some(Consent::OptIn) {
        return true;
    }
    let carries_contact = matches!(event.event_type.as_str(), "contact.created" | "contact.updated");
    let data = || json::parse(event.data.get().as_bytes()).ok();
    carries_contact && data().is_some_and(|data| stated_opt_in(&event.event_type, &data) == Some(true))
}

/// The consent fact that an event states, if it states one.
pub fn consent_of(event_type: &EventType) -> Option<Consent> {
    match event_type.as_str() {
        "contact.subscribed" | "contact.confirmed" => Some(Consent::OptIn),
        "contact.unsubscribed" => Some(Consent::OptOut),
        "email.complained" => Some(Consent::DoNotContact),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event_type: &'static str, data: &str, expected: Option<bool>) {
        let node = json::parse(data.as_bytes()).expect("the test writes JSON");
        assert_eq!(stated_opt_in(&EventType::known(event_type), &node), expected, "{event_type} {data}");
    }

    #[test]
    fn a_contact_states_an_opt_in_where_it_is_new() {
        check("contact.created", r#"{"contact": {"opt_in": true}}"#, Some(true));
        check("contact.created", r#"{"opt_in": false}"#, Some(false));
        check("contact.updated", r#"{"contact": {"opt_in": true}}"#, Some(true));
        check("contact.updated", r#"{"contact": {"opt_in": true}, "changed": ["locale"]}"#, None);
        check("contact.updated", r#"{"contact": {"opt_in": true}, "changed": ["permission"]}"#, Some(true));
        check("contact.updated", r#"{"contact": {"opt_in": false}, "changed": ["opt_in"]}"#, Some(false));
        check("contact.created", r#"{"contact": {"opt_in": "yes"}, "opt_in": true}"#, None);
        check("contact.created", r#"[]"#, None);
    }
}

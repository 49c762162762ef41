//! A person as known now, and the one rule of consent that needs no store.

use crate::{Address, Consent, Event, Millis, Operation, PersonId, Subject};

/// Whoever an event is about, within a tenant; counts are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub id: PersonId,
    pub subject: Subject,
    pub opens: u64,
    pub clicks: u64,
    /// When the last known opt-out or complaint happened.
    pub opted_out_at: Option<Millis>,
    pub opted_in_at: Option<Millis>,
    pub erased: bool,
    /// The address must not be mailed: while that lasts, no opt-in is told to anybody.
    pub suppressed: bool,
    /// What destinations may know them by still.
    pub formerly: Formerly,
}

/// What somebody was known by before, and nobody else is by now: newest first, each with the time when it was left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Formerly {
    pub addresses: Vec<(Address, Millis)>,
    pub external_ids: Vec<(String, Millis)>,
    /// Addresses that they left and somebody else has now.
    pub taken: Vec<Address>,
}

/// When something last happened to a person, by the time that the events say: whatever the order of
/// arrival, a replay included, it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastTimes {
    pub delivered_at: Option<Millis>,
    pub opened_at: Option<Millis>,
    pub clicked_at: Option<Millis>,
    /// The last hard bounce.
    pub bounced_at: Option<Millis>,
}

impl LastTimes {
    /// What one event says: its time where its type is one of these.
    pub fn of(event: &Event) -> LastTimes {
        let mut times = LastTimes::default();
        match event.event_type.as_str() {
            "email.delivered" => times.delivered_at = Some(event.time),
            "email.opened" => times.opened_at = Some(event.time),
            "email.clicked" => times.clicked_at = Some(event.time),
            "email.bounced" if is_hard(event) => times.bounced_at = Some(event.time),
            _ => {}
        }
        times
    }
}

fn is_hard(event: &Event) -> bool {
    let data = crate::json::parse(event.data.get().as_bytes());
    data.is_ok_and(|data| data.get("bounce").and_then(crate::json::Node::as_str) == Some("hard"))
}

/// An opt-in older than the person's last opt-out is void, however late it is tried (invariant 7), and so is
/// one of a person who is suppressed.
/// Judged when planning, so a retry, a replay and an import fall under one rule.
pub fn superseded(operation: &Operation, person: &Person) -> bool {
    match operation {
        Operation::SetConsent { consent: Consent::OptIn, at, .. } => {
            person.suppressed || person.opted_out_at.is_some_and(|out| out >= *at)
        }
        _ => false,
    }
}

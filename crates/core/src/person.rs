//! A person as known now, and the one rule of consent that needs no store.

use crate::{Consent, Millis, Operation, PersonId, Subject};

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
}

/// An opt-in older than the person's last opt-out is void, however late it is tried (invariant 7).
/// Judged when planning, so a retry, a replay and an import fall under one rule.
pub fn superseded(operation: &Operation, person: &Person) -> bool {
    match operation {
        Operation::SetConsent { consent: Consent::OptIn, at, .. } => {
            person.opted_out_at.is_some_and(|out| out >= *at)
        }
        _ => false,
    }
}

//! Contacts, suppressions, declared fields, tenants: what is asked and what is told.

use mailspan_core::contact::{Contact, Evidence, Stated, Suppressed};
use mailspan_core::{Address, EventId, Millis, Name, PersonId, Reason};

/// A contact with its place in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactRow {
    pub person: PersonId,
    pub tenant: Name,
    /// Grows in the order of commits within the tenant: what cursors stand on.
    pub rev: i64,
    pub contact: Contact,
}

/// Which contacts to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ContactFilter {
    pub tenant: Option<Name>,
    /// `Some(None)`: those without one.
    pub locale: Option<Option<String>>,
    pub opt_in: Option<bool>,
    pub project: Option<String>,
    /// Changed at this time or later.
    pub updated_since: Option<Millis>,
}

/// Which part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContactPage {
    /// By `rev`, those above it: a row that commits late is never passed over.
    After { rev: i64, limit: usize },
    /// By the order of making, from 1; bounded by [`mailspan_core::limits::CONTACT_PAGES_MAX`] rows.
    Numbered { page: u64, limit: usize },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContactList {
    pub rows: Vec<ContactRow>,
    /// Of numbered pages alone: all that the filter takes.
    pub total: Option<u64>,
    /// False where nothing follows.
    pub more: bool,
    /// Where the next page after this one begins: the last `rev` that was looked at. A page may hold fewer rows
    /// than asked for (none even) while more follow: only so many are looked at.
    pub rev: i64,
}

/// What stands behind the state of a contact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProofRow {
    /// When the newest fact that agrees happened, but no later than it was learned of; and what proves it.
    pub agreed: Option<(Millis, Evidence)>,
    /// Why the address is suppressed, where it is.
    pub suppressed: Option<Suppressed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuppressionRow {
    pub id: i64,
    pub tenant: Name,
    /// Nothing after an erasure.
    pub address: Option<Address>,
    pub reason: Suppressed,
    pub source: Option<String>,
    pub at: Millis,
}

/// Newest last, by id.
#[derive(Debug, Clone, Default)]
pub struct SuppressionFilter {
    pub tenant: Option<Name>,
    pub after: i64,
    pub limit: usize,
}

/// A custom field that a tenant declared.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FieldRow {
    pub name: String,
    pub kind: FieldKind,
    pub made_at: Millis,
}

/// Types of custom fields (Maileon, «custom contact fields»). The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FieldKind {
    /// At most 255 characters.
    String = 1,
    /// 32 bits.
    Integer = 2,
    Float = 3,
    /// A day, with or without a time of day.
    Date = 4,
    Boolean = 5,
    Timestamp = 6,
}

impl FieldKind {
    pub const ALL: [FieldKind; 6] = [
        FieldKind::String,
        FieldKind::Integer,
        FieldKind::Float,
        FieldKind::Date,
        FieldKind::Boolean,
        FieldKind::Timestamp,
    ];

    pub fn name(self) -> &'static str {
        ["string", "integer", "float", "date", "boolean", "timestamp"][self as usize - 1]
    }

    pub fn from_number(number: i64) -> Option<FieldKind> {
        FieldKind::ALL.into_iter().find(|kind| i64::from(*kind as u8) == number)
    }
}

/// A tenant as an operator made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    pub name: Name,
    /// JSON, read by the program; `{}` where none was set.
    pub settings: String,
    pub made_at: Option<Millis>,
}

/// A tenant is made, or its settings are replaced.
#[derive(Debug, Clone)]
pub struct TenantWrite {
    pub name: Name,
    pub settings: String,
    pub at: Millis,
}

/// A custom field is declared or dropped. A declared one keeps its kind.
#[derive(Debug, Clone)]
pub struct FieldWrite {
    pub tenant: Name,
    pub name: String,
    /// Nothing: dropped, where no contact carries it any more or not.
    pub kind: Option<FieldKind>,
    pub at: Millis,
}

/// A confirmation that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmationRow {
    pub tenant: Name,
    pub person: PersonId,
    pub address: Option<Address>,
    pub locale: Option<String>,
    pub asked_at: Millis,
    pub expires_at: Millis,
    pub used_at: Option<Millis>,
    /// 4 or 5.
    pub gives: mailspan_core::contact::Permission,
}

/// A secret made through the API, encrypted by the program under its store key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRow {
    pub id: i64,
    pub tenant: Name,
    /// `endpoint/ep_…`, …
    pub about: String,
    /// Which store key it was sealed with.
    pub key_id: String,
    pub sealed: Vec<u8>,
    pub made_at: Millis,
}

/// Replaces what is sealed about the same thing; `sealed` empty: removes it.
#[derive(Debug, Clone)]
pub struct SealedWrite {
    pub tenant: Name,
    pub about: String,
    pub key_id: String,
    pub sealed: Vec<u8>,
    pub at: Millis,
}

/// A fact with all that proves it.
#[derive(Debug, Clone)]
pub struct FactRow {
    pub id: i64,
    pub what: Stated,
    pub happened_at: Millis,
    pub learned_at: Millis,
    pub event_id: EventId,
    /// Of the raw request, hexadecimal.
    pub digest: String,
    pub evidence: Evidence,
}

/// By source and page, how many confirmations were asked for and given.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SubscriptionCount {
    pub source: Option<String>,
    pub page: Option<String>,
    pub asked: u64,
    pub confirmed: u64,
    pub contacts: u64,
}

/// Refusals of a contact write, by code: `not_found`, `external_id_conflict`, `address_conflict`,
/// `token_unknown`, `token_used`, `token_expired`.
pub fn conflict(code: &str, text: impl Into<String>) -> Reason {
    Reason::new(code, text.into())
}

/// A webhook endpoint that the API made: a destination with its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRow {
    pub destination: mailspan_core::DestinationId,
    pub tenant: Name,
    pub name: Name,
    /// JSON, read by the program.
    pub settings: String,
}

/// Makes, changes or removes (`settings` absent) an endpoint.
#[derive(Debug, Clone)]
pub struct EndpointWrite {
    pub tenant: Name,
    pub name: Name,
    pub settings: Option<String>,
    /// What is pending for it is discarded.
    pub gives_up: bool,
    pub at: Millis,
}

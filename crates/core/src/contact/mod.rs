//! A contact: a person in a tenant's audience, and what is written of one.

mod apply;
mod data;
mod facts;
mod formerly;
mod found;
mod renewed;
mod suppression;
mod told;
mod wishes;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Address, DestinationId, Event, Millis, Subject};

pub use apply::{Applied, Known, Turn, apply};
pub use data::{concerns_contacts, contact_json, is_by_program, read_event};
pub use facts::{Fact, Permission, Standing, Stated, standing};
pub use formerly::{Left, formerly, formerly_erased, formerly_json};

/// The name of the hub's own source of contact events: API, intake, import and hosted pages.
pub const CONTACTS: &str = "contacts";

/// The origin of what a confirmation link writes.
pub const CONFIRM: &str = "confirm";

/// The code of a refusal: the address is that of somebody who was erased.
pub const ERASED: &str = "erased";

/// A contact as known now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// As known outside: `c` and 24 lower-case letters and digits.
    pub uid: String,
    pub address: Option<Address>,
    pub external_id: Option<String>,
    pub locale: Option<String>,
    pub opt_in: bool,
    pub permission: Permission,
    pub consent_version: Option<String>,
    pub source: Option<String>,
    pub project: Option<String>,
    pub fields: ContactFields,
    /// When the address was suppressed, while it is.
    pub suppressed_at: Option<Millis>,
    pub unsubscribed_at: Option<Millis>,
    pub created_at: Millis,
    /// Moves with every change that can be seen.
    pub updated_at: Millis,
}

/// What a tenant keeps of a contact beside consent; stored as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactFields {
    /// Free JSON, replaced whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Value>,
    /// Standard fields by name: `FIRSTNAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub standard: BTreeMap<String, Value>,
    /// Fields that the tenant declared.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, Value>,
    /// Addresses and external ids that the contact has left, the newest first: other systems may know it by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formerly: Vec<Left>,
}

/// How a contact is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContactKey {
    /// The id of the API, else the external id.
    Id(String),
    ExternalId(String),
    Address(Address),
    /// By the external id where one is given, else by the address; made where neither is known.
    Subject {
        address: Option<Address>,
        external_id: Option<String>,
    },
    /// By a token of a confirmation link (its SHA-256): counts once, until it expires.
    Token([u8; 32]),
}

/// What is done where the contact is known, and where it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Made or changed.
    Upsert,
    /// Changed; unknown is refused as `not_found`.
    Update,
    /// Made; a known one stays as it is (Maileon's `sync_mode=2`).
    CreateOnly,
    /// What happened elsewhere: a known contact follows, an unknown one is not made. Facts are kept in
    /// either case, under the person.
    Follow,
}

/// What becomes of one value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Change<T> {
    #[default]
    Keep,
    Clear,
    Set(T),
}

/// One write of a contact. What is `Keep` or `None` is left as it is.
#[derive(Debug, Clone)]
pub struct ContactWrite {
    pub key: ContactKey,
    pub mode: WriteMode,
    /// The id of the contact where one is made.
    pub uid: String,
    /// When it happened.
    pub at: Millis,
    pub address: Option<Address>,
    pub external_id: Change<String>,
    pub locale: Change<String>,
    pub consent_version: Change<String>,
    pub source: Change<String>,
    pub project: Change<String>,
    /// Replaced whole.
    pub attributes: Change<BTreeMap<String, Value>>,
    pub standard: BTreeMap<String, Change<Value>>,
    pub custom: BTreeMap<String, Change<Value>>,
    /// The state that is wished: a fact is written where nothing says so yet, and where `true` comes with other proof
    /// than the newest fact that agrees.
    pub opt_in: Option<bool>,
    /// The level that is wished: a fact where it changes something. It opts nobody in who has opted out, unless
    /// `opt_in` says so too.
    pub permission: Option<Permission>,
    /// The address in the evidence is the person's, as the caller says; else it is the caller's own.
    pub ip_given: bool,
    /// Facts that are appended whatever the state is; `at` and evidence are those of the write.
    pub stated: Vec<Stated>,
    /// Suppresses the address for this reason, or lifts a suppression.
    pub suppress: Change<Suppressed>,
    /// Removes the contact, its identities and fields; a suppression without address stays.
    pub erase: bool,
    /// Found by asking a system for its list, not told by it: only what is otherwise here is news, and who was
    /// erased here is not made again.
    pub found: bool,
    /// Asks for a confirmation (double opt-in).
    pub ask: Option<Box<Ask>>,
    /// Where it comes from an account that the hub writes to.
    pub mirror: Option<Mirror>,
    pub evidence: Evidence,
}

/// An account that tells of changes, its hub's own among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Through which the hub writes to it.
    pub destinations: Vec<DestinationId>,
    /// It shows what it holds, or says that the change was made through its API: an opt-out that the hub states
    /// already is no news. Else only what the hub was writing there at that time is none.
    pub repeats: bool,
}

/// Why an address must not be mailed. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Suppressed {
    Bounce = 1,
    Complaint = 2,
    Unsubscribe = 3,
    Manual = 4,
    Erasure = 5,
}

impl Suppressed {
    pub const ALL: [Suppressed; 5] = [
        Suppressed::Bounce,
        Suppressed::Complaint,
        Suppressed::Unsubscribe,
        Suppressed::Manual,
        Suppressed::Erasure,
    ];

    pub fn name(self) -> &'static str {
        ["bounce", "complaint", "unsubscribe", "manual", "erasure"][self as usize - 1]
    }

    pub fn from_number(number: i64) -> Option<Suppressed> {
        Suppressed::ALL.into_iter().find(|reason| i64::from(*reason as u8) == number)
    }

    pub fn from_name(name: &str) -> Option<Suppressed> {
        Suppressed::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// A confirmation to be asked for: kept with the contact, told by an event of its own.
#[derive(Debug, Clone)]
pub struct Ask {
    /// SHA-256 of the token in the link.
    pub token: [u8; 32],
    pub expires_at: Millis,
    /// What a confirmation gives: 4, or 5 with leave to track.
    pub gives: Permission,
    /// Which mail is to be sent; nothing: the tenant's default.
    pub mailing: Option<String>,
    /// Ask again although the contact has confirmed before.
    pub again: bool,
    /// `contact.confirmation_asked`, its data complete.
    pub event: Event,
}

/// What proves a fact: who said it, how, and to which words. Stored beside it as JSON, never edited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// `api`, `bulk`, `intake`, `import`, `hosted_page`, `one_click`, `confirm`, or the source's name.
    pub origin: String,
    /// The name of the key, `visitor`, `job/7`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The address of the sender's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The form or page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent_version: Option<String>,
    /// SHA-256 (hex) of the words that were agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Keyed hash (hexadecimal) of the address that the contact left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<String>,
    /// What the words above do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl ContactWrite {
    /// A write that changes nothing yet.
    pub fn new(key: ContactKey, mode: WriteMode, uid: String, at: Millis, origin: &str) -> ContactWrite {
        ContactWrite {
            key,
            mode,
            uid,
            at,
            address: None,
            external_id: Change::Keep,
            locale: Change::Keep,
            consent_version: Change::Keep,
            source: Change::Keep,
            project: Change::Keep,
            attributes: Change::Keep,
            standard: BTreeMap::new(),
            custom: BTreeMap::new(),
            opt_in: None,
            permission: None,
            ip_given: false,
            stated: Vec::new(),
            suppress: Change::Keep,
            erase: false,
            found: false,
            ask: None,
            mirror: None,
            evidence: Evidence { origin: origin.to_owned(), ..Evidence::default() },
        }
    }
}

/// What became of one write.
#[derive(Debug, Clone, PartialEq)]
pub struct ContactOutcome {
    pub turn: Turn,
    /// As it is now; nothing after an erasure, a refusal, or where it is not known.
    pub contact: Option<Arc<Contact>>,
    /// True where a confirmation was asked for.
    pub asked: bool,
    /// What another source told lifted a suppression: to be told by an event of the hub's own.
    pub lifted: Option<Box<Lifted>>,
}

/// A suppression that a confirmation lifted, for systems that were told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifted {
    pub event_type: &'static str,
    pub subject: Subject,
    /// Of the newest opt-in, where the contact is opted in.
    pub time: Millis,
    /// JSON.
    pub data: String,
}

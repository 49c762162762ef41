//! An erasure after its first transaction: the walk over every table that may name the person, and what is known
//! of it. Both back ends read a page of a table, judge each row here, and write what changed.

mod prune;
mod tables;
mod target;
mod words;

use mailspan_core::{EventId, Millis, Name, PersonId, Reason, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) use prune::Whose;
pub use prune::{element_of, elements_naming};
pub(crate) use tables::{Also, Cell, Change, Column, TABLES, Table, judge, packed_request, told_of_one};
pub(crate) use target::{Identity, Progress, Target, together};
pub use words::Words;

/// Erasures that one walk does together, and as many that are certified at once.
pub(crate) const ERASURES_TOGETHER_MAX: i64 = 100;

/// Where an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErasureStage {
    /// What the hub holds is walked through.
    Removing,
    /// The destinations are asked to erase, and have not all answered.
    Asking,
    /// What was written meanwhile is walked through.
    Checking,
    /// All is done but the certificate.
    Certifying,
    Done,
}

impl ErasureStage {
    pub fn name(self) -> &'static str {
        match self {
            ErasureStage::Removing => "removing",
            ErasureStage::Asking => "asking",
            ErasureStage::Checking => "checking",
            ErasureStage::Certifying => "certifying",
            ErasureStage::Done => "done",
        }
    }

    /// How it stands in a row's `progress`, which the stores look through: a text of somebody's own has its quotation
    /// marks escaped there. A row without `progress` is one that has just begun.
    pub(crate) fn mark(self) -> String {
        format!(r#""stage":"{}""#, self.name())
    }
}

/// What is to do for erasures, apart from the walk.
#[derive(Debug, Clone, Default)]
pub struct OpenErasures {
    /// The last one that was asked for, of those that are not done.
    pub newest: Option<i64>,
    /// Those where all is done but the certificate: the oldest of them, as many as are certified at once.
    pub certifying: Vec<ErasureRow>,
}

#[derive(Debug, Clone)]
pub struct ErasureRow {
    pub id: i64,
    pub tenant: Name,
    pub person: PersonId,
    /// The event that tells the destinations; nothing where retention has dropped it.
    pub event: Option<EventId>,
    pub asked_at: Millis,
    /// Key, visitor or source that asked for it.
    pub asked_by: Option<String>,
    pub stage: ErasureStage,
    /// Rows that were emptied, redacted or removed, by table.
    pub removed: BTreeMap<String, u64>,
    /// Rows that this version could not read, and left.
    pub unread: u64,
    /// Keyed hashes of the addresses and external ids, hexadecimal.
    pub hashes: Vec<String>,
    pub done_at: Option<Millis>,
    /// JSON.
    pub certificate: Option<String>,
}

/// What one destination was asked, and what became of it.
#[derive(Debug, Clone)]
pub struct ErasureVerdict {
    pub destination: Name,
    pub route: Name,
    pub state: State,
    pub reason: Option<Reason>,
    pub at: Millis,
}

/// The last write of an erasure: what was done where.
#[derive(Debug, Clone)]
pub struct Certified {
    pub id: i64,
    /// JSON.
    pub certificate: String,
    pub at: Millis,
}

/// An identity that was erased, by its keyed hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasedHash {
    pub tenant: Name,
    /// Hexadecimal.
    pub hash: String,
    pub at: Millis,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 16 bytes of a hash in hexadecimal.
pub(crate) fn from_hex(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// A row of `erasures`, as both back ends read it.
pub(crate) struct Stored {
    pub id: i64,
    pub person: i64,
    pub event: Option<EventId>,
    pub asked_at: i64,
    pub done_at: Option<i64>,
    pub progress: Option<String>,
    pub certificate: Option<String>,
}

impl Stored {
    pub(crate) fn row(self, tenant: Name) -> ErasureRow {
        let progress = Progress::read(self.progress.as_deref());
        ErasureRow {
            id: self.id,
            tenant,
            person: PersonId(self.person),
            event: self.event,
            asked_at: Millis(self.asked_at),
            asked_by: progress.by,
            stage: progress.stage,
            removed: progress.removed,
            unread: progress.unread,
            hashes: progress.hashes.into_iter().collect(),
            done_at: self.done_at.map(Millis),
            certificate: self.certificate,
        }
    }
}

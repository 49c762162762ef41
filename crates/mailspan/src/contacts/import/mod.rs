//! Imports: rows of a file become writes, page by page, under a job that can go on where it stopped.

mod cells;
pub mod file;
pub mod row;

use mailspan_core::Millis;
use serde::{Deserialize, Serialize};

/// The kind of the job.
pub const IMPORT: &str = "import";

/// What was asked for, as the job's row keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Argument {
    /// The file's name, for people.
    pub file: String,
    /// SHA-256 of the file, hexadecimal: the same file goes on, another one begins anew.
    pub digest: String,
    pub dry_run: bool,
    /// When and how those who are opted in agreed, where the rows do not say it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent_note: Option<String>,
    pub asked_at: Millis,
    pub asked_by: String,
}

/// How far it got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Rows of the file that are behind us.
    pub rows: u64,
    pub created: u64,
    pub updated: u64,
    pub unchanged: u64,
    pub refused: u64,
}

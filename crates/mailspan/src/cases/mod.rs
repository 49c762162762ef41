//! `mailspan test`: cases of «these events, expect these requests», walked purely.

mod compare;
mod vendor;
mod walk;

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

pub use compare::differences;
pub use walk::requests;

/// One case of a file; a file is an array of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The source whose parser reads `body`.
    pub source: String,
    /// What the source receives, to the letter; the signature is not looked at.
    pub body: Box<RawValue>,
    /// Headers that the parser or its program reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// How often the person opened and clicked before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub opens: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clicks: u64,
    /// The CRM knows nobody: an unknown contact is what it answers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unknown_contact: bool,
    #[serde(default)]
    pub expect: Vec<Made>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_false(b: &bool) -> bool {
    !b
}

/// A request that was made, or is expected. In an expectation what is left out may be anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    pub destination: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

pub fn read(file: &Path) -> anyhow::Result<Vec<Case>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no list of cases", file.display()))
}

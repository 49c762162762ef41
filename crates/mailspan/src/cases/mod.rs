//! `mailspan test`: cases of «these events, expect these requests», walked purely.

mod compare;
mod vendor;
mod walk;

use std::path::Path;

use anyhow::Context;
use mailspan_core::json::{self, Node, Value};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use compare::differences;
pub use walk::requests;

/// One case of a file; a file is an array of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The source whose parser reads `body`; `contacts` and `system` are the hub's own, which say what
    /// `POST /v1/events` would take.
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
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    pub destination: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    /// To the letter: numbers above 2^53 survive.
    pub body: Option<Box<RawValue>>,
}

pub fn read(file: &Path) -> anyhow::Result<Vec<Case>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no list of cases", file.display()))
}

/// JSON over several lines with its numbers as they were written; `depth` is that of the line it begins in.
fn pretty(node: &Node, depth: usize) -> String {
    let inside = "  ".repeat(depth + 1);
    let lines = |open: &str, items: Vec<String>, close: &str| match items.is_empty() {
        true => format!("{open}{close}"),
        false => {
            format!("{open}\n{inside}{}\n{}{close}", items.join(&format!(",\n{inside}")), "  ".repeat(depth))
        }
    };
    match &node.value {
        Value::Object(members) => {
            let member = |(name, node): &(std::borrow::Cow<str>, Node)| {
                format!("{}: {}", json::quote(name), pretty(node, depth + 1))
            };
            lines("{", members.iter().map(member).collect(), "}")
        }
        Value::Array(items) => lines("[", items.iter().map(|item| pretty(item, depth + 1)).collect(), "]"),
        _ => node.raw.to_owned(),
    }
}

//! `MAILSPAN_…` variables that stand over the file.

use super::report::Place;
use super::tree::{Data, Entry, Node, Table};

/// A setting that is not secret and differs between machines.
pub struct Override {
    pub variable: &'static str,
    pub section: &'static str,
    pub key: &'static str,
}

/// All of them; `docs/CONFIGURATION.md` lists the same.
pub const OVERRIDES: &[Override] = &[
    Override { variable: "MAILSPAN_SERVER_LISTEN", section: "server", key: "listen" },
    Override { variable: "MAILSPAN_SERVER_OPERATOR_LISTEN", section: "server", key: "operator_listen" },
    Override { variable: "MAILSPAN_SERVER_PUBLIC_URL", section: "server", key: "public_url" },
    Override { variable: "MAILSPAN_ROLE", section: "server", key: "role" },
    Override { variable: "MAILSPAN_STORAGE_URL", section: "storage", key: "url" },
];

/// Puts the variables that are set into the tree; from there on they are read like the file.
pub fn apply(root: &mut Table, env: &dyn Fn(&str) -> Option<String>) {
    for set in OVERRIDES {
        if let Some(text) = env(set.variable) {
            put(root, set, text);
        }
    }
}

fn put(root: &mut Table, set: &Override, text: String) {
    let at = Place::Env(set.variable);
    let node = Node { at: at.clone(), data: Data::Text(text) };
    if !root.has(set.section) {
        let data = Data::Table(Table::default());
        let node = Node { at: at.clone(), data };
        root.entries.push(Entry { key: set.section.to_owned(), key_at: at.clone(), node });
    }
    let section = root.entries.iter_mut().find(|entry| entry.key == set.section);
    // A section that is no table is reported when it is read.
    if let Some(Entry { node: Node { data: Data::Table(table), .. }, .. }) = section {
        table.entries.retain(|entry| entry.key != set.key);
        table.entries.push(Entry { key: set.key.to_owned(), key_at: at, node });
    }
}

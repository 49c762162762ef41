//! `account` and `echo_of`: where a destination's own changes come back from.

use std::collections::HashMap;

use mailspan_core::{Name, clip};

use super::reader::Reader;
use super::tree::{Data, Entry, Table};

/// What a destination can name as its echo: the sources of the file, and those of each account.
pub struct Echoes<'t> {
    sources: &'t Table,
    accounts: HashMap<&'t str, Vec<Name>>,
}

impl<'t> Echoes<'t> {
    pub fn of(sources: &'t Table) -> Echoes<'t> {
        let mut accounts: HashMap<&str, Vec<Name>> = HashMap::new();
        for entry in &sources.entries {
            if let Some(account) = account_of(entry) {
                accounts.entry(account).or_default().push(Name::new(&entry.key));
            }
        }
        Echoes { sources, accounts }
    }
}

/// The sources whose events are not sent to this destination: those it names, and those of its account.
pub fn echo_of(reader: &Reader, table: &Table, echoes: &Echoes) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    let sources = echoes.sources;
    let listed = table.get("echo_of").and_then(|node| reader.texts(node, "write a list of sources"));
    for (item, text) in listed.into_iter().flatten() {
        match sources.has(text) {
            true => names.push(Name::new(text)),
            false => {
                let message = format!("no source is named `{}`", clip(text, 60));
                let known = sources.entries.iter().map(|entry| entry.key.as_str());
                reader.problem(&item.at, message, reader.suggestion(text, known));
            }
        }
    }
    let help = "write account = \"mailingcore\": any name, the same at the source and at the destination";
    let account = table.get("account").and_then(|node| reader.text(node, help));
    let same = account.and_then(|account| echoes.accounts.get(account));
    names.extend(same.into_iter().flatten().cloned());
    names
}

fn account_of(source: &Entry) -> Option<&str> {
    let Data::Table(table) = &source.node.data else { return None };
    match &table.get("account")?.data {
        Data::Text(text) => Some(text),
        _ => None,
    }
}

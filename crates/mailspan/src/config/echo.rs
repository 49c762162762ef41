//! `account` and `echo_of`: where a destination's own changes come back from.

use mailspan_core::{Name, clip};

use super::reader::{Reader, suggestion};
use super::tree::{Data, Entry, Table};

/// The sources whose events are not sent to this destination: those it names, and those of its account.
pub fn echo_of(reader: &Reader, table: &Table, sources: &Table) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    let known: Vec<&str> = sources.entries.iter().map(|entry| entry.key.as_str()).collect();
    let listed = table.get("echo_of").and_then(|node| reader.texts(node, "write a list of sources"));
    for (item, text) in listed.into_iter().flatten() {
        match known.contains(&text) {
            true => names.push(Name::new(text)),
            false => {
                let message = format!("no source is named `{}`", clip(text, 60));
                reader.problem(&item.at, message, suggestion(text, &known));
            }
        }
    }
    let help = "write account = \"mailingcore\": any name, the same at the source and at the destination";
    let account = table.get("account").and_then(|node| reader.text(node, help));
    let same = |entry: &&Entry| account.is_some() && account_of(entry) == account;
    names.extend(sources.entries.iter().filter(same).map(|entry| Name::new(&entry.key)));
    names
}

fn account_of(source: &Entry) -> Option<&str> {
    let Data::Table(table) = &source.node.data else { return None };
    match &table.get("account")?.data {
        Data::Text(text) => Some(text),
        _ => None,
    }
}

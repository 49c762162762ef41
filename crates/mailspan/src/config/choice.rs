//! Tables whose `kind` decides which keys they have: `access`, `auth`, `sign`.

use http::HeaderName;
use mailspan_core::{Named, clip};

use super::reader::{Reader, suggestion};
use super::report::Place;
use super::secrets;
use super::settings::{Setting, names};
use super::tree::{Data, Node, Table};

/// A table whose `kind` decides which keys it has.
pub struct Choice<'n> {
    pub table: &'n Table,
    pub node: &'n Node,
    pub place: &'n str,
    pub kind: &'n str,
}

impl<'n> Choice<'n> {
    /// Reads `kind` and reports keys that it does not have. `kinds` names each kind with its keys.
    pub fn read(
        reader: &Reader,
        node: &'n Node,
        place: &'n str,
        all: &'static [Setting],
        kinds: &[(&'static str, &[&'static str])],
    ) -> Option<Choice<'n>> {
        let words: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
        let example = format!("kind = \"{}\"", words.join("\" or \""));
        if !matches!(node.data, Data::Table(_)) {
            // Text in this place is the credential itself.
            reader.hide(&node.at);
        }
        let key = place.rsplit('.').next().unwrap_or(place);
        let table = reader.table(node, &format!("write {key} = {{ {example}, … }}"))?;
        let kind = reader.required(table, &node.at, "kind", place, &example).and_then(|kind| {
            let word = reader.text(kind, &format!("write {example}"))?;
            let found = kinds.iter().find(|(known, _)| *known == word);
            if found.is_none() {
                let message = format!("unknown kind `{}` of `{place}`", clip(word, 60));
                reader.problem(&kind.at, message, suggestion(word, &words));
            }
            found
        });
        let mut known = match kind {
            Some((_, keys)) => keys.to_vec(),
            None => names(all),
        };
        known.push("kind");
        for entry in table.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            reader.hide(&entry.node.at);
            reader.unknown(entry, place, &known);
        }
        Some(Choice { table, node, place, kind: kind?.0 })
    }

    /// A secret that its user may choose.
    pub fn secret(&self, reader: &Reader, key: &str) -> Option<Named> {
        secrets::read(reader, self.reference(reader, key)?, &format!("{}.{key}", self.place))
    }

    /// A credential that someone else gave.
    pub fn credential(&self, reader: &Reader, key: &str) -> Option<Named> {
        secrets::resolve(reader, self.reference(reader, key)?, &format!("{}.{key}", self.place))
    }

    fn reference(&self, reader: &Reader, key: &str) -> Option<&'n Node> {
        let example = format!("{key} = {{ env = \"NAME\" }}");
        reader.required(self.table, &self.node.at, key, self.place, &example)
    }

    /// Where a key's value stands, or the whole where it is missing.
    pub fn at(&self, key: &str) -> &'n Place {
        self.table.get(key).map_or(&self.node.at, |node| &node.at)
    }

    pub fn text(&self, reader: &Reader, key: &str, example: &str) -> Option<&'n str> {
        let node =
            reader.required(self.table, &self.node.at, key, self.place, &format!("{key} = \"{example}\""))?;
        let text = reader.text(node, &format!("write {key} = \"{example}\""))?;
        if text.is_empty() {
            reader.problem(&node.at, format!("`{key}` is empty"), format!("write {key} = \"{example}\""));
            return None;
        }
        Some(text)
    }

    pub fn optional(&self, reader: &Reader, key: &str, default: &'static str) -> Option<&'n str> {
        match self.table.get(key) {
            Some(node) => reader.text(node, &format!("write text, like {key} = \"{default}\"")),
            None => Some(default),
        }
    }

    pub fn one_of(&self, reader: &Reader, key: &str, words: &[&'static str]) -> Option<&'n str> {
        let Some(node) = self.table.get(key) else { return words.first().copied() };
        let text = reader.text(node, &format!("write {key} = \"{}\"", words.join("\" or \"")))?;
        if words.contains(&text) {
            return Some(text);
        }
        reader.problem(
            &node.at,
            format!("`{}` is no {key} that is known", clip(text, 60)),
            suggestion(text, words),
        );
        None
    }

    pub fn header(&self, reader: &Reader, key: &str) -> Option<String> {
        let text = self.text(reader, key, "x-signature")?;
        let node = self.table.get(key)?;
        header_name(reader, node, text)
    }
}

/// The name of a header, in lower case.
pub fn header_name(reader: &Reader, node: &Node, text: &str) -> Option<String> {
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Some(name.as_str().to_owned()),
        Err(_) => {
            let help = "write letters, digits and `-`, like \"X-Signature\"";
            reader.problem(&node.at, format!("`{}` is no name of a header", clip(text, 60)), help);
            None
        }
    }
}

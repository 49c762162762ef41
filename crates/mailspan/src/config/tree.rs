//! A TOML file as a tree in which every key and value knows its place.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Draft, Place};

#[derive(Debug, Clone)]
pub struct Node {
    pub at: Place,
    pub data: Data,
}

#[derive(Debug, Clone)]
pub enum Data {
    Text(String),
    /// As written, where it does not fit 64 bits: `None`.
    Integer(Option<i64>),
    Float(f64),
    Flag(bool),
    Date(String),
    List(Vec<Node>),
    Table(Table),
}

/// Entries in the order of the file, and where each key stands among them: a file may have ten thousand.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub entries: Vec<Entry>,
    places: HashMap<String, usize>,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub key_at: Place,
    pub node: Node,
}

/// What is no TOML: every syntax error, and the tree where the file can be read in spite of them.
#[derive(Debug)]
pub struct Broken {
    pub drafts: Vec<Draft>,
    pub readable: Option<Table>,
}

/// Reads a whole file; all syntax errors at once.
pub fn parse(text: &str) -> Result<Table, Broken> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(grow(table.get_ref()));
    }
    let twice = |error: &toml::de::Error| error.message().starts_with(TWICE);
    let readable = errors.iter().all(twice).then(|| grow(table.get_ref()));
    let draft = |error: &toml::de::Error| {
        let message = error.message().replace('\n', ", ");
        Draft {
            at: error.span().map_or(Place::Whole, Place::File),
            help: Some(mend(&message).to_owned()),
            message: format!("not TOML: {message}"),
        }
    };
    Err(Broken { drafts: errors.iter().map(draft).collect(), readable })
}

/// How the parser's text on a key that stands twice begins.
const TWICE: &str = "duplicate key";

/// What to do about an error of the parser, by the words that it begins with.
fn mend(message: &str) -> &'static str {
    let found = MENDS.iter().find(|(words, _)| words.iter().any(|begin| message.starts_with(begin)));
    found.map_or("write key = value on a line of its own, text in quotes", |(_, help)| help)
}

const MENDS: [(&[&str], &str); 12] = [
    (&[TWICE], "a key stands once in its table: leave one of them out"),
    (&["invalid literal string"], "close text with the quote that opened it, on the same line"),
    (&["invalid multi-line"], "close text with the three quotes that opened it"),
    (
        &["invalid basic string", "invalid string", "missing escaped", "too few unicode"],
        "close text with the quote that opened it, on the same line; in \"…\" a backslash is written twice",
    ),
    (
        &["unclosed table", "unclosed array table", "missing table open"],
        "write [section.name] on a line of its own",
    ),
    (
        &[
            "unclosed inline",
            "extra comma in inline",
            "missing key for inline",
            "invalid inline",
            "missing comma between key",
        ],
        "write { key = value, key = value }",
    ),
    (
        &["unclosed array", "extra comma in array", "missing comma between array", "unexpected `=` in array"],
        "write [value, value]",
    ),
    (
        &["string values must be quoted", "missing opening quote", "unquoted string"],
        "write the value in quotes",
    ),
    (&["missing value", "key with no value"], "write a value after the `=`, or leave the line out"),
    (
        &["recursion limit", "cannot recurse"],
        "no setting is nested so deep: close the brackets that are open",
    ),
    (
        &["invalid unquoted key", "unquoted keys", "invalid key", "keys cannot"],
        "a key has letters, digits, `_` and `-`; any other one stands in quotes",
    ),
    (
        &[
            "carriage return",
            "invalid comment character",
            "invalid boolean",
            "invalid integer",
            "unexpected leading zero",
        ],
        "write text in quotes, numbers in plain digits, and no control characters",
    ),
];

fn grow(table: &DeTable<'_>) -> Table {
    let mut entries: Vec<(usize, Entry)> = table
        .iter()
        .map(|(key, value)| {
            let entry =
                Entry { key: key.get_ref().to_string(), key_at: Place::File(key.span()), node: node(value) };
            (key.span().start, entry)
        })
        .collect();
    entries.sort_by_key(|(start, _)| *start);
    let mut table = Table::default();
    entries.into_iter().for_each(|(_, entry)| table.put(entry));
    table
}

fn node(value: &Spanned<DeValue<'_>>) -> Node {
    let data = match value.get_ref() {
        DeValue::String(text) => Data::Text(text.to_string()),
        DeValue::Integer(number) => {
            Data::Integer(i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok())
        }
        DeValue::Float(number) => Data::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Data::Flag(*flag),
        DeValue::Datetime(at) => Data::Date(at.to_string()),
        DeValue::Array(list) => Data::List(list.iter().map(node).collect()),
        DeValue::Table(table) => Data::Table(grow(table)),
    };
    Node { at: Place::File(value.span()), data }
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(*self.places.get(key)?)
    }

    /// The same, to be changed.
    pub fn entry_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.entries.get_mut(*self.places.get(key)?)
    }

    /// Adds an entry, or replaces the one of its key.
    pub fn put(&mut self, entry: Entry) {
        match self.entry_mut(&entry.key) {
            Some(old) => *old = entry,
            None => {
                self.places.insert(entry.key.clone(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }
}

impl Node {
    /// What it is, for messages.
    pub fn shape(&self) -> &'static str {
        match self.data {
            Data::Text(_) => "text",
            Data::Integer(_) => "a whole number",
            Data::Float(_) => "a number",
            Data::Flag(_) => "true or false",
            Data::Date(_) => "a date",
            Data::List(_) => "a list",
            Data::Table(_) => "a table",
        }
    }

    /// The same as JSON, for the settings of a kind.
    pub fn json(&self) -> Value {
        match &self.data {
            Data::Text(text) | Data::Date(text) => Value::from(text.as_str()),
            Data::Integer(number) => number.map_or(Value::Null, Value::from),
            Data::Float(number) => Value::from(*number),
            Data::Flag(flag) => Value::from(*flag),
            Data::List(list) => list.iter().map(Node::json).collect(),
            Data::Table(table) => {
                table.entries.iter().map(|entry| (entry.key.clone(), entry.node.json())).collect()
            }
        }
    }

    /// Follows keys and indices as far as they lead.
    pub fn find(&self, path: &[String]) -> &Node {
        let Some((step, rest)) = path.split_first() else { return self };
        let next = match &self.data {
            Data::List(list) => step.parse::<usize>().ok().and_then(|index| list.get(index)),
            Data::Table(table) => table.get(step),
            _ => None,
        };
        next.map_or(self, |next| next.find(rest))
    }
}

/// The bytes of the file where a line and column (from 1, in characters) of a TOML string's value
/// stand. `raw` is the string as written, with its quotes, at `start` in the file.
pub fn inside(raw: &str, start: usize, line: usize, column: usize) -> Range<usize> {
    let (quotes, escapes) = match raw.as_bytes() {
        [b'"', b'"', b'"', ..] if raw.len() >= 6 => (3, true),
        [b'\'', b'\'', b'\'', ..] if raw.len() >= 6 => (3, false),
        [b'"', ..] => (1, true),
        _ => (1, false),
    };
    let end = raw.len().saturating_sub(quotes);
    let mut at = quotes;
    if quotes == 3 {
        // A line break right after the opening quotes belongs to them (TOML 1.0, String).
        at += match raw.get(at..) {
            Some(rest) if rest.starts_with("\r\n") => 2,
            Some(rest) if rest.starts_with('\n') => 1,
            _ => 0,
        };
    }
    let (mut here_line, mut here_column) = (1, 1);
    while at < end {
        let (c, width) = step(&raw[at..end], escapes);
        if (here_line, here_column) == (line, column) && c.is_some() {
            return start + at..start + at + width;
        }
        match c {
            Some('\n') if here_line == line => return start + at..start + at + 1,
            Some('\n') => (here_line, here_column) = (here_line + 1, 1),
            Some(_) => here_column += 1,
            None => {}
        }
        at += width;
    }
    start + end..start + raw.len()
}

/// The next character of a string's value, if the next bytes make one, and how many bytes they are.
fn step(rest: &str, escapes: bool) -> (Option<char>, usize) {
    let Some(first) = rest.chars().next() else { return (None, 1) };
    if first != '\\' || !escapes {
        return (Some(first), first.len_utf8());
    }
    let code = |digits: usize| {
        let number = rest.get(2..2 + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        (number.and_then(char::from_u32).or(Some('\u{fffd}')), (2 + digits).min(rest.len()))
    };
    match rest[1..].chars().next() {
        Some('x') => code(2),
        Some('u') => code(4),
        Some('U') => code(8),
        Some('n') => (Some('\n'), 2),
        Some('"' | '\\' | 't' | 'b' | 'f' | 'r' | 'e') => (Some('.'), 2),
        // A line that ends in a backslash: the break and what is blank after it are no part of the value.
        _ => (None, 1 + rest[1..].len() - rest[1..].trim_start().len()),
    }
}

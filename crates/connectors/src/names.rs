//! What a person is known by at a vendor: by what they are called now, or by what they were called before.

use mailspan_core::{Fields, Person, Step};
use serde_json::Value;

/// The person's address, then those that it had before, the newest first.
pub fn addresses(person: Option<&Person>) -> Vec<String> {
    let Some(person) = person else { return Vec::new() };
    let before = person.formerly.addresses.iter().map(|(address, _)| address);
    person.subject.address.iter().chain(before).map(|address| address.as_str().to_owned()).collect()
}

/// The person's external id, then those that it had before, the newest first.
pub fn external_ids(person: Option<&Person>) -> Vec<String> {
    let Some(person) = person else { return Vec::new() };
    let before = person.formerly.external_ids.iter().map(|(id, _)| id);
    person.subject.external_id.iter().chain(before).cloned().collect()
}

/// A member of an operation that is a text or a list of texts, without blanks around them.
pub fn texts(fields: &Fields, name: &str) -> Vec<String> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let all: Vec<String> = match fields.get(name) {
        Some(Value::Array(values)) => values.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    };
    all.into_iter().filter(|text| !text.is_empty()).collect()
}

/// How many names were asked for, and whether one was known. As a step: `names:2`, `known:2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    pub count: usize,
    pub known: bool,
}

impl Asked {
    /// A step that cannot be read is the start: every request may be repeated.
    pub fn read(step: Option<&Step>) -> Asked {
        let text = step.map(|step| step.0.as_str()).unwrap_or_default();
        let read = |text: &str, known| Some(Asked { count: text.parse().ok()?, known });
        let named = text.strip_prefix("names:").and_then(|text| read(text, false));
        named.or_else(|| text.strip_prefix("known:").and_then(|text| read(text, true))).unwrap_or_default()
    }

    /// After one more, which was known or not.
    pub fn after(self, known: bool) -> Asked {
        Asked { count: self.count.saturating_add(1), known: self.known || known }
    }

    pub fn step(self) -> Step {
        Step(format!("{}:{}", if self.known { "known" } else { "names" }, self.count))
    }
}

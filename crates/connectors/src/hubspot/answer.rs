//! Reads what HubSpot answers: its error envelope and its batch results. Every field may be missing.

use mailspan_core::{Answer, Millis, clip};
use serde_json::Value;

use super::settings::is_property_name;
use crate::contract::Left;

/// An error: the whole answer's, or one of `errors` in a 207.
#[derive(Debug, Default)]
pub struct Fault {
    /// `category` and `subCategory`, in upper case; empty where there is none.
    pub category: String,
    pub sub_category: String,
    pub message: String,
    /// Everything that `context` and `id` name, in lower case: trace ids, record ids, addresses.
    pub names: Vec<String>,
    /// `errors[].code`, in upper case.
    pub codes: Vec<String>,
    /// Properties that the message or a context names.
    pub properties: Vec<String>,
    /// Scopes that are missing.
    pub scopes: Vec<String>,
    /// `policyName` of a 429, in upper case.
    pub policy: String,
    /// False where the body is no envelope of HubSpot (a proxy's page, nothing at all).
    pub is_envelope: bool,
}

impl Fault {
    pub fn of(answer: &Answer) -> Fault {
        serde_json::from_slice(&answer.body).map(|body: Value| Fault::read(&body)).unwrap_or_default()
    }

    pub fn read(body: &Value) -> Fault {
        let mut fault = Fault {
            category: upper(body, "category"),
            sub_category: upper(body, "subCategory"),
            message: body.get("message").and_then(Value::as_str).unwrap_or_default().to_owned(),
            policy: upper(body, "policyName"),
            is_envelope: body.get("status").and_then(Value::as_str) == Some("error")
                || body.get("category").is_some(),
            ..Fault::default()
        };
        if fault.category.is_empty() {
            fault.category = upper(body, "errorType");
        }
        if let Some(id) = body.get("id").and_then(scalar) {
            fault.names.push(id.to_lowercase());
        }
        fault.take_context(body.get("context"));
        for nested in list(body.get("errors")) {
            let code = upper(nested, "code");
            if !code.is_empty() {
                fault.codes.push(code);
            }
            if let Some(message) = nested.get("message").and_then(Value::as_str) {
                fault.take_properties(message);
            }
            fault.take_context(nested.get("context"));
        }
        let message = fault.message.clone();
        fault.take_properties(&message);
        fault
    }

    fn take_context(&mut self, context: Option<&Value>) {
        // The published schema shows a nested context as text: `{missingScopes=[scope1, scope2]}`.
        if let Some(text) = context.and_then(Value::as_str) {
            if let Some((_, scopes)) = text.split_once("Scopes=[") {
                let scopes = scopes.split(']').next().unwrap_or_default();
                self.scopes.extend(scopes.split(',').map(|scope| scope.trim().to_owned()));
            }
            return;
        }
        let Some(context) = context.and_then(Value::as_object) else { return };
        for (key, value) in context {
            let values: Vec<String> = match value {
                Value::Array(values) => values.iter().filter_map(scalar).collect(),
                other => scalar(other).into_iter().collect(),
            };
            if key.to_lowercase().contains("scope") {
                self.scopes.extend(values);
            } else if key.to_lowercase().starts_with("propert") {
                values.iter().for_each(|name| self.take_property(name));
            } else {
                self.names.extend(values.iter().map(|name| name.to_lowercase()));
            }
        }
    }

    /// Names as messages carry them: `Property "x" does not exist`, and `"name":"x"` in a list inside.
    fn take_properties(&mut self, message: &str) {
        for mark in ["Property \"", "\"name\":\""] {
            for rest in message.split(mark).skip(1) {
                let name = rest.split(['"', '\\']).next().unwrap_or_default();
                self.take_property(name);
            }
        }
    }

    fn take_property(&mut self, name: &str) {
        if is_property_name(name) && !self.properties.iter().any(|known| known == name) {
            self.properties.push(name.to_owned());
        }
    }

    /// The object of the request, or an end of an association, is not there.
    pub fn is_not_found(&self) -> bool {
        let says = |text: &str| {
            text.contains("OBJECT_NOT_FOUND")
                || text.contains("NOT_FOUND") && !text.contains("PROPERTY")
                || text.contains("CONTACT_DOESNT_EXIST")
                || text.contains("INVALID_OBJECT_IDS")
        };
        says(&self.category) || says(&self.sub_category)
    }

    pub fn is_missing_property(&self) -> bool {
        self.codes.iter().any(|code| code.contains("PROPERTY_DOESNT_EXIST"))
            || self.sub_category.contains("PROPERTY_DOESNT_EXIST")
            || self.message.contains("PROPERTY_DOESNT_EXIST")
            || self.message.starts_with("Property \"") && self.message.contains("does not exist")
    }

    pub fn is_missing_scopes(&self) -> bool {
        self.category.contains("MISSING_SCOPES")
    }

    /// `VALIDATION_ERROR: Property "x" does not exist`.
    pub fn shown(&self) -> String {
        let message = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        match (self.category.is_empty(), message.is_empty()) {
            (true, true) => "no reason given".to_owned(),
            (true, false) => clip(&message, 400).into_owned(),
            (false, true) => self.category.clone(),
            (false, false) => format!("{}: {}", self.category, clip(&message, 400)),
        }
    }
}

/// What a result of a batch shows of itself.
pub struct Found {
    /// The record's id, where it has one.
    pub id: Option<String>,
    /// The trace id that was given, in lower case.
    pub trace: Option<String>,
    /// Everything that may name the input: ids, addresses, the unique key, the near end of an association.
    pub names: Vec<String>,
}

impl Found {
    pub fn read(result: &Value, note_key: &str) -> Found {
        let id = result.get("id").and_then(scalar);
        let mut names = Vec::new();
        let from = result.get("from").and_then(|from| from.get("id"));
        match from.or_else(|| result.get("fromObjectId")).and_then(scalar) {
            // An association: its own id and its far end could be some other input's.
            Some(from) => names.push(from),
            None => {
                names.extend(id.clone());
                names.extend(result.get("subscriberIdString").and_then(scalar));
            }
        }
        let property =
            |name: &str| result.get("properties").and_then(|all| all.get(name)).and_then(Value::as_str);
        names.extend(property("email").map(str::to_owned));
        names.extend(property(note_key).map(str::to_owned));
        names.extend(
            property("hs_additional_emails").into_iter().flat_map(|all| all.split(';')).map(str::to_owned),
        );
        let names = names.iter().map(|name| name.trim().to_lowercase()).collect();
        let trace = result.get("objectWriteTraceId").and_then(scalar).map(|trace| trace.to_lowercase());
        Found { id, trace, names }
    }
}

/// The array under a key, or nothing.
pub fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What HubSpot says is left of its ten-second limit.
pub fn left(answer: &Answer) -> Option<Left> {
    let number = |name: &str| answer.header(name)?.trim().parse::<u64>().ok();
    let interval = number("x-hubspot-ratelimit-interval-milliseconds").unwrap_or(10_000);
    Some(Left { requests: number("x-hubspot-ratelimit-remaining")?, until: answer.at.plus(interval) })
}

/// How long until the daily limit is worth another try: HubSpot's day begins at midnight of the
/// account's time zone, which nobody tells us, so every full hour.
pub fn until_full_hour(at: Millis) -> u64 {
    const HOUR: i64 = 3_600_000;
    (HOUR - at.0.rem_euclid(HOUR)).unsigned_abs()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn upper(body: &Value, key: &str) -> String {
    body.get(key).and_then(Value::as_str).unwrap_or_default().to_uppercase()
}

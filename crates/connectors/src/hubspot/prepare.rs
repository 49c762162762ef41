//! What HubSpot must have before the first event: properties, unique keys, scopes. Pure: the command
//! sends [`Prepare::checks`], gives the answers to [`Prepare::missing`], and on `--yes` sends
//! [`Prepare::create`].

use std::fmt;

use mailspan_core::{Answer, Request};
use serde_json::{Value, json};

use super::answer::Fault;
use super::settings::{FACTS, FactType, Settings};
use crate::contract::BadSetting;

/// The preparation of one destination.
pub struct Prepare {
    settings: Settings,
}

/// Reads the destination's own settings.
pub fn prepare(settings: &Value) -> Result<Prepare, BadSetting> {
    Ok(Prepare { settings: Settings::read(settings)? })
}

/// A property that the destination writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// `contacts`, `notes` or `tasks`.
    pub object: &'static str,
    pub name: String,
    pub label: &'static str,
    /// HubSpot's `type` and `fieldType`.
    pub types: (&'static str, &'static str),
    /// Values must be unique; can only be set when the property is created.
    pub unique: bool,
    /// The property group that it is created in.
    pub group: String,
}

/// One thing that stands between the destination and its first delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Can be created.
    Property(Property),
    /// The property is there, but its values need not be unique, and that cannot be changed.
    NotUnique { object: &'static str, name: String },
    /// The property is there with a type that cannot hold the fact.
    WrongType { object: &'static str, name: String, has: String, needs: &'static str },
    /// The token may not do this; the scopes as HubSpot names them.
    Scope { what: &'static str, scopes: Vec<String> },
    /// The check itself was not answered.
    Unanswered { what: &'static str, why: String },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Property(property) => {
                let unique = if property.unique { ", unique values" } else { "" };
                write!(f, "property {} of {} ({}{unique})", property.name, property.object, property.types.0)
            }
            Missing::NotUnique { object, name } => write!(
                f,
                "property {name} of {object} has no unique values, which cannot be changed: \
                 set `note_key` to a name that is not taken"
            ),
            Missing::WrongType { object, name, has, needs } => write!(
                f,
                "property {name} of {object} has type {has} instead of {needs}: \
                 name another one under `properties`"
            ),
            Missing::Scope { what, scopes } if scopes.is_empty() => {
                write!(f, "a scope of the token for {what}")
            }
            Missing::Scope { what, scopes } => {
                write!(f, "scope {} of the token, for {what}", scopes.join(" or "))
            }
            Missing::Unanswered { what, why } => write!(f, "{what} could not be checked: {why}"),
        }
    }
}

/// Objects with the property of HubSpot's own whose group a new property joins, and that group's name
/// where the answer does not tell.
const OBJECTS: [(&str, &str, &str); 3] = [
    ("contacts", "email", "contactinformation"),
    ("notes", "hs_note_body", "notesinformation"),
    ("tasks", "hs_task_body", "tasksinformation"),
];
/// What is only looked at, behind the objects: owners and subscription types, then the calls of deliveries.
const LOOKED_AT: [&str; 7] = [
    "owners",
    "subscriptions",
    "reading contacts",
    "writing contacts",
    "writing notes",
    "writing tasks",
    "writing opt-outs",
];

impl Prepare {
    /// Ten requests, none of which changes anything. The last five are calls of deliveries with nothing in them:
    /// HubSpot looks at the scopes of a token first and refuses an empty batch then.
    pub fn checks(&self) -> Vec<Request> {
        let version = &self.settings.version;
        let get = |path: String| Request {
            method: "GET",
            path,
            headers: vec![("accept".to_owned(), "application/json".to_owned())],
            body: Default::default(),
        };
        let mut checks: Vec<Request> = Vec::new();
        for (object, known, _) in OBJECTS {
            let wanted = self.wanted(object);
            let names = wanted.iter().map(|property| property.name.as_str()).chain([known]);
            let inputs: Vec<Value> = names.map(|name| json!({"name": name})).collect();
            let path = format!("/crm/properties/{version}/{object}/batch/read");
            checks.push(Request::json("POST", path, &json!({"archived": false, "inputs": inputs})));
        }
        checks.push(get(format!("/crm/owners/{version}?limit=1")));
        checks.push(get(format!("/communication-preferences/{version}/definitions")));
        let empty = |path: String| Request::json("POST", path, &json!({"inputs": []}));
        for call in
            ["contacts/batch/read", "contacts/batch/update", "notes/batch/upsert", "tasks/batch/upsert"]
        {
            checks.push(empty(format!("/crm/objects/{version}/{call}")));
        }
        let statuses =
            if self.settings.subscription_id.is_some() { "write" } else { "unsubscribe-all?channel=EMAIL" };
        checks.push(empty(format!("/communication-preferences/{version}/statuses/batch/{statuses}")));
        checks
    }

    /// What is missing, from the answers to [`Prepare::checks`] in their order.
    pub fn missing(&self, answers: &[Answer]) -> Vec<Missing> {
        let mut missing = Vec::new();
        for (position, (object, known, group)) in OBJECTS.into_iter().enumerate() {
            let Some(answer) = answers.get(position) else {
                missing.push(Missing::Unanswered { what: object, why: "no answer".to_owned() });
                continue;
            };
            match found(answer) {
                Some(found) => self.compare(object, known, group, &found, &mut missing),
                None => missing.push(unreadable(object, answer)),
            }
        }
        for (position, what) in LOOKED_AT.into_iter().enumerate() {
            let is_empty_batch = position >= 2;
            match answers.get(OBJECTS.len() + position) {
                Some(answer) if (200..300).contains(&answer.status) => {}
                Some(answer) if is_empty_batch && answer.status == 400 => {}
                Some(answer) => missing.push(unreadable(what, answer)),
                None => missing.push(Missing::Unanswered { what, why: "no answer".to_owned() }),
            }
        }
        once(missing)
    }

    /// The requests that create the missing properties, one an object. A scope is given at HubSpot only.
    pub fn create(&self, missing: &[Missing]) -> Vec<Request> {
        let mut requests = Vec::new();
        for (object, ..) in OBJECTS {
            let mine = missing.iter().filter_map(|missing| match missing {
                Missing::Property(property) if property.object == object => Some(creation(property)),
                _ => None,
            });
            let inputs: Vec<Value> = mine.collect();
            if !inputs.is_empty() {
                let path = format!("/crm/properties/{}/{object}/batch/create", self.settings.version);
                requests.push(Request::json("POST", path, &json!({"inputs": inputs})));
            }
        }
        requests
    }

    fn wanted(&self, object: &'static str) -> Vec<Property> {
        if object != "contacts" {
            return vec![Property {
                object,
                name: self.settings.note_key.clone(),
                label: "Mailspan event key",
                types: ("string", "text"),
                unique: true,
                group: String::new(),
            }];
        }
        let facts = FACTS.iter().filter_map(|fact| {
            let types = match fact.fact_type {
                FactType::Time => ("datetime", "date"),
                FactType::Count => ("number", "number"),
                FactType::Text => ("string", "text"),
                FactType::Flag => ("bool", "booleancheckbox"),
            };
            let name = self.settings.property(fact.word)?;
            Some(Property { object, name, label: fact.label, types, unique: false, group: String::new() })
        });
        facts.collect()
    }

    fn compare(
        &self,
        object: &'static str,
        known: &str,
        group: &str,
        found: &[Value],
        missing: &mut Vec<Missing>,
    ) {
        let named = |name: &str| found.iter().find(|result| text(result, "name") == Some(name));
        let group = named(known).and_then(|result| text(result, "groupName")).unwrap_or(group);
        for property in self.wanted(object) {
            let Some(there) = named(&property.name) else {
                missing.push(Missing::Property(Property { group: group.to_owned(), ..property }));
                continue;
            };
            let unique = there.get("hasUniqueValue").and_then(Value::as_bool).unwrap_or(false);
            let has = text(there, "type").unwrap_or_default();
            if property.unique && !unique {
                missing.push(Missing::NotUnique { object, name: property.name });
            } else if !fits(has, property.types.0) {
                let (has, needs) = (has.to_owned(), property.types.0);
                missing.push(Missing::WrongType { object, name: property.name, has, needs });
            }
        }
    }
}

/// A scope that several calls lack is named once, with the first of them.
fn once(missing: Vec<Missing>) -> Vec<Missing> {
    let mut kept: Vec<Missing> = Vec::new();
    for one in missing {
        let named = |other: &Missing| match (&one, other) {
            (Missing::Scope { scopes, .. }, Missing::Scope { scopes: others, .. }) => {
                !scopes.is_empty() && scopes == others
            }
            _ => false,
        };
        if !kept.iter().any(named) {
            kept.push(one);
        }
    }
    kept
}

/// Text holds everything; an answer without a type is believed.
fn fits(has: &str, needs: &str) -> bool {
    has == needs || has == "string" || has.is_empty() || (has == "enumeration" && needs != "datetime")
}

/// The properties that are there; nothing where the answer is none of that kind.
fn found(answer: &Answer) -> Option<Vec<Value>> {
    if !matches!(answer.status, 200 | 207) {
        return None;
    }
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    body.get("results")?.as_array().cloned()
}

fn unreadable(what: &'static str, answer: &Answer) -> Missing {
    let fault = Fault::of(answer);
    if answer.status == 403 {
        return Missing::Scope { what, scopes: fault.scopes };
    }
    Missing::Unanswered { what, why: format!("HTTP {} {}", answer.status, fault.shown()) }
}

fn creation(property: &Property) -> Value {
    let mut body = json!({
        "name": property.name,
        "label": property.label,
        "groupName": property.group,
        "type": property.types.0,
        "fieldType": property.types.1,
    });
    if property.unique {
        body["hasUniqueValue"] = json!(true);
    }
    if property.types.0 == "bool" {
        body["options"] = json!([
            {"label": "Yes", "value": "true", "displayOrder": 0, "hidden": false},
            {"label": "No", "value": "false", "displayOrder": 1, "hidden": false},
        ]);
    }
    body
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

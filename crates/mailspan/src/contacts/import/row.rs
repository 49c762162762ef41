//! One row of an import: its columns, its rules, the write that it makes.

use std::collections::BTreeMap;

use mailspan_core::contact::{
    Change, ContactKey, ContactWrite, Evidence, Permission, Stated, Suppressed, WriteMode,
};
use mailspan_core::limits::CONTACT_LABEL_CHARS_MAX;
use mailspan_core::{Address, Millis, clip};
use mailspan_store::FieldRow;
use serde_json::{Map, Value};

use super::Argument;
use crate::contacts::{door, fields, rules};

/// Columns that a file may have, beside `standard_NAME`, `custom_NAME` and `attribute_NAME`.
pub const COLUMNS: [&str; 20] = [
    "email",
    "external_id",
    "locale",
    "opt_in",
    "permission",
    "consent_at",
    "consent_version",
    "consent_ip",
    "consent_page",
    "consent_text",
    "consent_text_hash",
    "consent_note",
    "unsubscribed_at",
    "suppressed_at",
    "suppressed_for",
    "source",
    "project_id",
    "attributes",
    "standard_fields",
    "custom_fields",
];

/// Characters of `consent_note`: a sentence.
const NOTE_CHARS_MAX: usize = 500;

/// The column that a name in a file means: `externalId` and `External ID` are `external_id`. What an export
/// has beside them is known and passed over.
pub fn column(name: &str) -> Result<Option<String>, String> {
    let name = name.trim();
    let whole = ["standard_fields", "custom_fields"].contains(&snake(name).as_str());
    for prefix in ["standard_", "custom_", "attribute_"].into_iter().filter(|_| !whole) {
        if let Some(rest) = name.strip_prefix(prefix).filter(|rest| !rest.is_empty()) {
            return Ok(Some(format!("{prefix}{rest}")));
        }
    }
    let snake = snake(name);
    if COLUMNS.contains(&snake.as_str()) {
        return Ok(Some(snake));
    }
    let shown_only = ["id", "tenant_id", "created_at", "updated_at"];
    if shown_only.contains(&snake.as_str()) {
        return Ok(None);
    }
    let near = COLUMNS
        .iter()
        .max_by(|one, two| strsim::jaro_winkler(one, &snake).total_cmp(&strsim::jaro_winkler(two, &snake)));
    let near = near.filter(|near| strsim::jaro_winkler(near, &snake) > 0.8);
    let hint = near.map_or_else(String::new, |near| format!(": is it `{near}`?"));
    Err(format!("there is no column `{}`{hint}", clip(name, 60)))
}

/// `externalId`, `External ID` and `external-id` as `external_id`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut was_lower = false;
    for c in name.chars() {
        if c == ' ' || c == '-' || c == '_' {
            if !snake.ends_with('_') {
                snake.push('_');
            }
            was_lower = false;
            continue;
        }
        if c.is_uppercase() && was_lower {
            snake.push('_');
        }
        was_lower = c.is_lowercase() || c.is_ascii_digit();
        snake.extend(c.to_lowercase());
    }
    snake
}

/// The write of one row, by its columns; a refusal says which column and why.
pub fn write(
    values: &Map<String, Value>,
    argument: &Argument,
    declared: &[FieldRow],
    job: i64,
) -> Result<ContactWrite, String> {
    let text = |name: &str| values.get(name).map(shown).filter(|text| !text.trim().is_empty());
    known_columns(values)?;
    let email = text("email").ok_or("email: is required")?;
    let address = Address::parse(&email).map_err(|why| format!("email: {why}"))?;
    let external_id = checked("external_id", text("external_id"), rules::external_id)?;
    let key = ContactKey::Subject { address: Some(address.clone()), external_id: external_id.clone() };
    let stated = stated(text("opt_in"), text("permission"))?;
    let agreed_at = time("consent_at", text("consent_at"), argument)?.or(argument.consent_at);
    let left_at = time("unsubscribed_at", text("unsubscribed_at"), argument)?;
    let left_at = left_at.filter(|_| stated == [Stated::OptOut]);
    let at = left_at.or(agreed_at).unwrap_or(argument.asked_at);
    if at > argument.asked_at {
        return Err("consent_at: is in the future".to_owned());
    }
    let mut write = ContactWrite::new(key, WriteMode::Upsert, door::new_uid(), at, "import");
    write.address = Some(address);
    write.external_id = external_id.map_or(Change::Keep, Change::Set);
    write.locale = checked("locale", text("locale"), rules::locale)?.map_or(Change::Keep, Change::Set);
    let source = label("source", text("source"), CONTACT_LABEL_CHARS_MAX)?;
    let version = label("consent_version", text("consent_version"), CONTACT_LABEL_CHARS_MAX)?;
    write.project =
        label("project_id", text("project_id"), CONTACT_LABEL_CHARS_MAX)?.map_or(Change::Keep, Change::Set);
    write.evidence = Evidence {
        origin: "import".to_owned(),
        actor: Some(format!("{}, job/{job}", argument.asked_by)),
        ip: checked("consent_ip", text("consent_ip"), rules::ip)?,
        page: label("consent_page", text("consent_page"), 255)?,
        source: source.clone(),
        consent_version: version.clone(),
        text_hash: rules::text_hash(text("consent_text").as_deref(), text("consent_text_hash").as_deref())
            .map_err(|why| format!("consent_text_hash: {why}"))?,
        user_agent: None,
        note: label("consent_note", text("consent_note"), NOTE_CHARS_MAX)?
            .or_else(|| argument.consent_note.clone()),
        former: None,
    };
    write.source = source.map_or(Change::Keep, Change::Set);
    write.consent_version = version.map_or(Change::Keep, Change::Set);
    write.stated = stated;
    if write.stated.iter().any(grants) && !proven(&write.evidence, agreed_at) {
        let text = "opt_in: needs consent_at and one of source, consent_version, consent_page, consent_ip, \
                    consent_note (or --consent-at and --consent-note for all rows): who agreed, when and to what \
                    must be kept";
        return Err(text.to_owned());
    }
    write.attributes = attributes(values)?;
    write.standard = prefixed(values, "standard_", fields::standard)?;
    write.custom = prefixed(values, "custom_", |name, value| fields::custom(declared, name, value))?;
    Ok(write)
}

/// What is written beside the row itself, after it and in the same transaction: an agreement from before the opt-out
/// that the row states, and why its address is suppressed.
pub fn beside(
    values: &Map<String, Value>,
    write: &ContactWrite,
    argument: &Argument,
) -> Result<(Option<ContactWrite>, Option<ContactWrite>), String> {
    let text = |name: &str| values.get(name).map(shown).filter(|text| !text.trim().is_empty());
    let left_at = time("unsubscribed_at", text("unsubscribed_at"), argument)?;
    let agreed_at = time("consent_at", text("consent_at"), argument)?;
    let is_out = write.stated == [Stated::OptOut] && left_at.is_some();
    let agreed_at = agreed_at.filter(|at| is_out && left_at.is_some_and(|left| *at < left));
    let agreed = agreed_at.filter(|at| proven(&write.evidence, Some(*at))).map(|at| {
        let again = ContactWrite::new(write.key.clone(), WriteMode::Update, write.uid.clone(), at, "import");
        ContactWrite { stated: vec![Stated::OptIn(None)], evidence: write.evidence.clone(), ..again }
    });
    let since = time("suppressed_at", text("suppressed_at"), argument)?;
    let reason = match text("suppressed_for").as_deref().map(str::trim) {
        Some(_) if since.is_none() => return Err("suppressed_for: needs suppressed_at".to_owned()),
        // Nobody was erased here: what stays is that the address is not mailed.
        None | Some("erasure") => Suppressed::Manual,
        Some(word) => Suppressed::from_name(word)
            .ok_or("suppressed_for: is bounce, complaint, unsubscribe, manual or erasure")?,
    };
    let suppress = since.zip(write.address.clone()).map(|(at, address)| {
        let key = ContactKey::Address(address);
        let mut suppress = ContactWrite::new(key, WriteMode::Follow, write.uid.clone(), at, "import");
        suppress.suppress = Change::Set(reason);
        suppress.evidence.actor.clone_from(&write.evidence.actor);
        suppress
    });
    Ok((agreed, suppress))
}

/// A row that suppresses its address states its level by itself: as a confirmation it would lift what it says.
pub fn unconfirmed(stated: Vec<Stated>) -> Vec<Stated> {
    let apart = |fact| match fact {
        Stated::OptIn(Some(level)) => vec![Stated::OptIn(None), Stated::Level(level)],
        other => vec![other],
    };
    stated.into_iter().flat_map(apart).collect()
}

/// True where a fact would give leave to mail.
pub fn grants(fact: &Stated) -> bool {
    match fact {
        Stated::OptIn(_) => true,
        Stated::Level(level) => *level != Permission::None,
        _ => false,
    }
}

/// An import must not raise a level of its own: what somebody agreed to has a time and a trace.
fn proven(evidence: &Evidence, agreed_at: Option<Millis>) -> bool {
    let traces = [&evidence.source, &evidence.consent_version, &evidence.page, &evidence.ip, &evidence.note];
    agreed_at.is_some() && traces.iter().any(|trace| trace.is_some())
}

fn stated(opt_in: Option<String>, permission: Option<String>) -> Result<Vec<Stated>, String> {
    let opt_in = match opt_in.as_deref().map(|text| text.trim().to_ascii_lowercase()).as_deref() {
        None => None,
        Some("true" | "1" | "yes") => Some(true),
        Some("false" | "0" | "no") => Some(false),
        Some(_) => return Err("opt_in: is true or false".to_owned()),
    };
    let level = match permission {
        None => None,
        Some(text) => {
            let number: Option<i64> = text.trim().parse().ok();
            Some(number.and_then(Permission::from_number).ok_or("permission: is 1 to 6")?)
        }
    };
    Ok(match (opt_in, level) {
        (Some(false), Some(level)) if level != Permission::None => {
            return Err("permission: says more than 1 where opt_in says false".to_owned());
        }
        (Some(false), _) => vec![Stated::OptOut],
        (Some(true), Some(Permission::None)) => {
            return Err("permission: is 1 (none) where opt_in says true".to_owned());
        }
        (Some(true), level) => vec![Stated::OptIn(level)],
        (None, Some(level)) => vec![Stated::Level(level)],
        (None, None) => Vec::new(),
    })
}

/// A member that no column is called would be lost without a word.
fn known_columns(values: &Map<String, Value>) -> Result<(), String> {
    let is_known = |name: &str| column(name).is_ok_and(|known| known.as_deref() == Some(name));
    match values.keys().find(|name| !is_known(name)) {
        Some(name) => Err(format!("there is no column `{}`", clip(name, 60))),
        None => Ok(()),
    }
}

fn time(name: &str, text: Option<String>, argument: &Argument) -> Result<Option<Millis>, String> {
    let Some(text) = text else { return Ok(None) };
    match Millis::parse_rfc3339(text.trim()) {
        None => Err(format!("{name}: is a time like 2026-06-30T12:00:00Z")),
        Some(at) if at > argument.asked_at => Err(format!("{name}: is in the future")),
        Some(at) => Ok(Some(at)),
    }
}

/// An exported row of somebody who is not opted in and never unsubscribed: it says so by an empty
/// `unsubscribed_at`, and states nothing of who is not opted in here either.
pub fn is_silent(values: &Map<String, Value>, write: &ContactWrite) -> bool {
    write.stated == [Stated::OptOut]
        && values.get("unsubscribed_at").is_some_and(|value| shown(value).trim().is_empty())
}

fn label(name: &str, text: Option<String>, max: usize) -> Result<Option<String>, String> {
    checked(name, text, |text| rules::label(text, max))
}

fn checked(
    name: &str,
    text: Option<String>,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Option<String>, String> {
    let Some(text) = text.map(|text| text.trim().to_owned()) else { return Ok(None) };
    check(&text).map_err(|why| format!("{name}: {why}"))?;
    Ok(Some(text))
}

/// `attributes` as an object (or its JSON), and `attribute_NAME` as text.
fn attributes(values: &Map<String, Value>) -> Result<Change<BTreeMap<String, Value>>, String> {
    let mut members: BTreeMap<String, Value> = BTreeMap::new();
    let mut given = false;
    match values.get("attributes") {
        None | Some(Value::Null) => {}
        Some(Value::Object(object)) => {
            given = true;
            members.extend(object.clone());
        }
        Some(Value::String(text)) if text.trim().is_empty() => {}
        Some(Value::String(text)) => {
            let object: Map<String, Value> =
                serde_json::from_str(text).map_err(|_| "attributes: is a JSON object")?;
            if let Ok(node) = mailspan_core::json::parse(text.as_bytes()) {
                rules::exact(&node).map_err(|why| format!("attributes: {why}"))?;
            }
            given = true;
            members.extend(object);
        }
        Some(_) => return Err("attributes: is a JSON object".to_owned()),
    }
    for (name, value) in values {
        if let Some(name) = name.strip_prefix("attribute_").filter(|_| !shown(value).is_empty()) {
            given = true;
            members.insert(name.to_owned(), value.clone());
        }
    }
    rules::attributes(&members).map_err(|why| format!("attributes: {why}"))?;
    Ok(if given { Change::Set(members) } else { Change::Keep })
}

/// An empty cell of a file leaves the field as it is.
fn prefixed(
    values: &Map<String, Value>,
    prefix: &str,
    read: impl Fn(&str, &Value) -> Result<Option<Value>, String>,
) -> Result<BTreeMap<String, Change<Value>>, String> {
    let mut changes = BTreeMap::new();
    for (name, value) in values {
        let Some(name) = name.strip_prefix(prefix).filter(|_| !shown(value).trim().is_empty()) else {
            continue;
        };
        if let Some(value) = read(name, value)? {
            changes.insert(name.to_owned(), Change::Set(value));
        }
    }
    Ok(changes)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn argument() -> Argument {
        Argument {
            file: "a.csv".to_owned(),
            digest: String::new(),
            dry_run: false,
            consent_at: None,
            consent_note: None,
            asked_at: Millis(1_800_000_000_000),
            asked_by: "socket".to_owned(),
        }
    }

    fn check(row: Value, expected: Result<Vec<Stated>, &str>) {
        let Value::Object(values) = &row else { panic!("a row is an object") };
        match (write(values, &argument(), &[], 7), expected) {
            (Ok(write), Ok(facts)) => assert_eq!(write.stated, facts, "{row}"),
            (Err(text), Err(named)) => assert!(text.contains(named), "{row}: {text}"),
            (got, _) => panic!("{row}: {got:?}"),
        }
    }

    #[test]
    fn consent_needs_proof() {
        check(json!({ "email": "a@x.org" }), Ok(vec![]));
        check(json!({ "email": "a@x.org", "opt_in": "true" }), Err("consent_at"));
        check(
            json!({ "email": "a@x.org", "permission": "4", "consent_at": "2020-01-01T00:00:00Z" }),
            Err("consent_at"),
        );
        let proven = json!({ "email": "a@x.org", "opt_in": "yes", "permission": 4, "consent_at": "2020-01-01T00:00:00Z", "source": "fair" });
        check(proven, Ok(vec![Stated::OptIn(Some(Permission::Double))]));
        check(json!({ "email": "a@x.org", "opt_in": "false" }), Ok(vec![Stated::OptOut]));
        check(json!({ "email": "a@x.org", "opt_in": "false", "permission": "3" }), Err("permission"));
        check(
            json!({ "email": "a@x.org", "opt_in": "true", "consent_at": "2199-01-01T00:00:00Z", "source": "x" }),
            Err("future"),
        );
    }

    #[test]
    fn an_address_that_is_none_proves_nothing() {
        check(json!({ "email": "a@x.org", "consent_ip": "203.0.113.7" }), Ok(vec![]));
        check(json!({ "email": "a@x.org", "consent_ip": "not an ip" }), Err("consent_ip"));
    }

    #[test]
    fn columns_are_known_by_their_usual_spellings() {
        for (name, expected) in [
            ("externalId", "external_id"),
            ("External ID", "external_id"),
            ("opt-in", "opt_in"),
            ("EMAIL", "email"),
            ("custom_special date", "custom_special date"),
        ] {
            assert_eq!(column(name), Ok(Some(expected.to_owned())), "{name}");
        }
        assert_eq!(column("updatedAt"), Ok(None));
        assert!(column("e-mial").is_err() && column("emial").unwrap_err().contains("`email`"));
    }
}

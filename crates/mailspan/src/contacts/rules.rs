//! What values of a contact may be, the same at every door.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mailspan_connectors::signature::{hex, sha256};
use mailspan_core::clip;
use mailspan_core::contact::{Change, ContactKey, ContactWrite, Permission, WriteMode};
use mailspan_core::json::{self, Node, Value as Kind};
use mailspan_core::limits::{
    CONTACT_ATTRIBUTES_BYTES_MAX, CONTACT_ATTRIBUTES_DEPTH_MAX, CONTACT_LABEL_CHARS_MAX,
    EXTERNAL_ID_CHARS_MAX,
};
use mailspan_store::FieldRow;
use serde_json::Value;

use super::fields;

/// Locales that contacts may have (MailingCore, «contacts overview»).
pub const LOCALES: [&str; 6] = ["es", "en", "it", "fr", "ca", "de"];

/// External ids stand in paths: of this API beside `bulk`, and of those it writes to, where a URL takes `.` and `..`
/// for folders however they are escaped.
const NO_EXTERNAL_IDS: [&str; 3] = [".", "..", "bulk"];

/// Significant digits that any decimal number keeps (IEEE 754, binary64: 15; what it prints has up to 17).
const DIGITS_MAX: usize = 17;

pub fn locale(text: &str) -> Result<(), String> {
    match LOCALES.contains(&text) {
        true => Ok(()),
        false => Err(format!("`{}` is not one of {}", clip(text, 20), LOCALES.join(", "))),
    }
}

/// The language of a locale as others write it: `de_DE` and `de-AT` are `de`.
pub fn language(text: &str) -> Option<String> {
    let language = text.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    LOCALES.contains(&language.as_str()).then_some(language)
}

pub fn external_id(text: &str) -> Result<(), String> {
    if NO_EXTERNAL_IDS.contains(&text) {
        return Err(format!("`{text}` cannot stand in the path of a URL: choose another"));
    }
    label(text, EXTERNAL_ID_CHARS_MAX)
}

/// A short text: bounded, no control characters.
pub fn label(text: &str, max: usize) -> Result<(), String> {
    if text.chars().count() > max {
        return Err(format!("has at most {max} characters"));
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character".to_owned());
    }
    Ok(())
}

/// The address of a person's machine, as proof of what it sent.
pub fn ip(text: &str) -> Result<(), String> {
    match text.trim().parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(format!("`{}` is no IP address: write it like 203.0.113.7 or 2001:db8::7", clip(text, 60)))
        }
    }
}

pub fn attributes(members: &BTreeMap<String, Value>) -> Result<(), String> {
    let bytes = serde_json::to_string(members).map_or(0, |text| text.len());
    if bytes > CONTACT_ATTRIBUTES_BYTES_MAX {
        return Err(format!("have {bytes} bytes, at most {CONTACT_ATTRIBUTES_BYTES_MAX}"));
    }
    if members.values().any(|value| depth(value) >= CONTACT_ATTRIBUTES_DEPTH_MAX) {
        return Err(format!("have more than {CONTACT_ATTRIBUTES_DEPTH_MAX} levels"));
    }
    Ok(())
}

/// Levels below a value; the parser has bounded them.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Numbers of a document that would be kept with other digits than it writes: refused, as a number that has changed
/// is worse than none. The text begins with the place of the first one.
pub fn exact(node: &Node) -> Result<(), String> {
    match &node.value {
        Kind::Number if !keeps(node.raw) => {
            Err("has a number with more digits than are kept: write it as a text".to_owned())
        }
        Kind::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(at, item)| exact(item).map_err(|why| format!("[{at}]{}{why}", joint(&why)))),
        Kind::Object(members) => members.iter().try_for_each(|(name, member)| {
            exact(member).map_err(|why| format!("{}{}{why}", clip(name, 64), joint(&why)))
        }),
        _ => Ok(()),
    }
}

/// Between a place and what follows it.
fn joint(rest: &str) -> &'static str {
    if rest.starts_with('[') {
        ""
    } else if rest.starts_with("has a number") {
        ": "
    } else {
        "."
    }
}

fn keeps(number: &str) -> bool {
    let is_whole = !number.contains(['.', 'e', 'E']);
    if is_whole {
        return number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    }
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').len() <= DIGITS_MAX
}

/// SHA-256, hexadecimal, of the words that were agreed to: as given, or made of the words themselves. Where both are
/// given they must fit.
pub fn text_hash(text: Option<&str>, hash: Option<&str>) -> Result<Option<String>, String> {
    let made = text.filter(|text| !text.is_empty()).map(|text| hex(&sha256(text.as_bytes())));
    let Some(given) = hash.map(|hash| hash.trim().to_ascii_lowercase()).filter(|hash| !hash.is_empty())
    else {
        return Ok(made);
    };
    if given.len() != 64 || !given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("is a SHA-256: 64 hexadecimal digits".to_owned());
    }
    match made {
        Some(made) if made != given => Err("is not the SHA-256 of the text that is given with it".to_owned()),
        _ => Ok(Some(given)),
    }
}

/// Takes out of what an event says of a contact what no other door would let in; each text names its member. What it
/// says of consent stays. `data`: of the event.
pub fn screen(write: &mut ContactWrite, data: &str, declared: &[FieldRow]) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Change::Set(given) = &mut write.locale
        && let Some(language) = language(given)
    {
        *given = language;
    }
    let short = |text: &String| label(text, CONTACT_LABEL_CHARS_MAX);
    keep(&mut wrong, "locale", &mut write.locale, |text| locale(text));
    keep(&mut wrong, "consent_version", &mut write.consent_version, short);
    keep(&mut wrong, "source", &mut write.source, short);
    let node = json::parse(data.as_bytes()).ok();
    let member = |name: &str| {
        let node = node.as_ref()?;
        node.get("contact").and_then(|contact| contact.get(name)).or_else(|| node.get(name))
    };
    keep(&mut wrong, "attributes", &mut write.attributes, |members| {
        attributes(members).and_then(|()| member("attributes").map_or(Ok(()), exact))
    });
    let had_id = write.external_id != Change::Keep;
    keep(&mut wrong, "external_id", &mut write.external_id, |text| external_id(text));
    if had_id && write.external_id == Change::Keep {
        without_id(write);
    }
    keep_fields(&mut wrong, "standard", &mut write.standard, fields::standard);
    keep_fields(&mut wrong, "custom", &mut write.custom, |name, value| fields::custom(declared, name, value));
    let text = |name: &str| member(name).and_then(Node::as_str);
    wrong.extend(consent(&member));
    if let Some(why) =
        text("consent_ip").filter(|text| !text.trim().is_empty()).and_then(|text| ip(text).err())
    {
        wrong.push(format!("consent_ip: {why}"));
        write.evidence.ip = None;
    }
    match text_hash(text("consent_text"), text("consent_text_hash")) {
        Ok(hash) => write.evidence.text_hash = hash,
        Err(why) => wrong.push(format!("consent_text_hash: {why}")),
    }
    wrong
}

/// What would be a word of consent if it could be read.
fn consent<'a>(member: &impl Fn(&str) -> Option<&'a Node<'a>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let given = |name: &str| member(name).filter(|node| node.value != Kind::Null);
    if given("opt_in").is_some_and(|node| !matches!(node.value, Kind::Bool(_))) {
        wrong.push("opt_in: is true or false".to_owned());
    }
    let level = |node: &Node| node.raw.parse().ok().and_then(Permission::from_number);
    if given("permission").is_some_and(|node| level(node).is_none()) {
        wrong.push("permission: is a number from 1 to 6".to_owned());
    }
    wrong
}

/// By its address alone; where it has none no contact is made, and its facts are kept all the same.
fn without_id(write: &mut ContactWrite) {
    match &mut write.key {
        ContactKey::Subject { address: Some(_), external_id } => *external_id = None,
        _ => write.mode = WriteMode::Follow,
    }
}

fn keep<T>(
    wrong: &mut Vec<String>,
    name: &str,
    change: &mut Change<T>,
    check: impl Fn(&T) -> Result<(), String>,
) {
    if let Change::Set(value) = change
        && let Err(why) = check(value)
    {
        wrong.push(format!("{name}: {why}"));
        *change = Change::Keep;
    }
}

fn keep_fields(
    wrong: &mut Vec<String>,
    prefix: &str,
    changes: &mut BTreeMap<String, Change<Value>>,
    read: impl Fn(&str, &Value) -> Result<Option<Value>, String>,
) {
    for (name, change) in std::mem::take(changes) {
        let value = match &change {
            Change::Set(value) => value.clone(),
            _ => Value::Null,
        };
        match read(&name, &value) {
            Ok(value) => {
                changes.insert(name, value.map_or(Change::Clear, Change::Set));
            }
            Err(why) => wrong.push(format!("{prefix}: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_number(document: &str, expected: Option<&str>) {
        let node = mailspan_core::json::parse(document.as_bytes()).unwrap();
        assert_eq!(exact(&node).err().as_deref(), expected, "{document}");
    }

    #[test]
    fn numbers_are_kept_to_the_digit_or_refused() {
        let why = "has a number with more digits than are kept: write it as a text";
        for kept in [
            "[0, -1, 18446744073709551615, 0.1, 1e300, 100000000000000000000.0]",
            r#""123456789012345678901""#,
        ] {
            check_number(kept, None);
        }
        check_number(r#"{"a":{"b":[1,18446744073709551616]}}"#, Some(&format!("a.b[1]: {why}")));
        check_number("0.12345678901234567891", Some(why));
    }

    #[test]
    fn the_words_agreed_to_are_kept_by_their_hash() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(text_hash(Some("abc"), None), Ok(Some(hash.to_owned())));
        assert_eq!(text_hash(Some("abc"), Some(&hash.to_uppercase())), Ok(Some(hash.to_owned())));
        assert_eq!(text_hash(None, Some(hash)), Ok(Some(hash.to_owned())));
        assert_eq!(text_hash(Some(""), None), Ok(None));
        assert!(text_hash(Some("abd"), Some(hash)).is_err() && text_hash(None, Some("abc")).is_err());
    }

    fn check_consent(data: &str, expected: &[&str]) {
        let key = ContactKey::ExternalId("u".to_owned());
        let mut write =
            ContactWrite::new(key, WriteMode::Follow, String::new(), mailspan_core::Millis(0), "app");
        let wrong = screen(&mut write, data, &[]);
        let names: Vec<&str> = wrong.iter().filter_map(|why| why.split(':').next()).collect();
        assert_eq!(names, expected, "{data}: {wrong:?}");
    }

    #[test]
    fn a_word_of_consent_that_cannot_be_read_is_named() {
        check_consent(r#"{"opt_in":true,"permission":4,"consent_ip":"2001:db8::7"}"#, &[]);
        check_consent(r#"{"contact":{"opt_in":null,"permission":null}}"#, &[]);
        check_consent(r#"{"opt_in":"true"}"#, &["opt_in"]);
        check_consent(r#"{"contact":{"opt_in":1,"permission":9}}"#, &["opt_in", "permission"]);
        for level in ["0", "7", "2.0", "\"4\"", "[]", "18446744073709551616"] {
            check_consent(&format!(r#"{{"permission":{level}}}"#), &["permission"]);
        }
        check_consent(r#"{"consent_ip":"not an ip"}"#, &["consent_ip"]);
    }

    #[test]
    fn external_ids_can_stand_in_a_path() {
        for bad in [".", "..", "bulk", "a\nb", &"x".repeat(129)] {
            assert!(external_id(bad).is_err(), "{bad:?}");
        }
        for good in ["...", "bulk2", "a/b", "ü"] {
            assert_eq!(external_id(good), Ok(()), "{good:?}");
        }
    }
}

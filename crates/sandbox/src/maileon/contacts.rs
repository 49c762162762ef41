//! Single contacts: create or update, move, read, unsubscribe, delete, markers.

use std::collections::BTreeMap;

use mailspan_core::{Address, xml};
use serde_json::{Value, json};

use super::{Answered, Book, reply};

/// A contact as the account knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contact {
    pub id: u64,
    /// In lower case.
    pub email: String,
    pub external_id: Option<String>,
    /// 1 none … 6 other.
    pub permission: u8,
    pub standard: BTreeMap<String, String>,
    pub custom: BTreeMap<String, String>,
    pub src: String,
}

impl Contact {
    pub(crate) fn json(&self) -> Value {
        json!({
            "id": self.id, "email": self.email, "external_id": self.external_id, "permission": self.permission,
            "standard_fields": self.standard, "custom_fields": self.custom, "src": self.src,
        })
    }
}

pub(crate) const STANDARD: [&str; 17] = [
    "ADDRESS",
    "BIRTHDAY",
    "CITY",
    "COUNTRY",
    "FIRSTNAME",
    "FULLNAME",
    "GENDER",
    "HNR",
    "LASTNAME",
    "LOCALE",
    "NAMEDAY",
    "ORGANIZATION",
    "REGION",
    "SALUTATION",
    "STATE",
    "TITLE",
    "ZIP",
];

type Query = BTreeMap<String, String>;

pub(crate) fn act(book: &mut Book, method: &str, path: &[&str], query: &Query, body: &[u8]) -> Answered {
    match (method, path) {
        ("POST", ["email", email] | [email]) => create(book, email, query, body),
        ("PUT", ["email", email]) => update(book, email, query, body),
        ("GET", ["email", email]) => read(book, email),
        ("DELETE", ["email", email, "unsubscribe"]) => match book.unsubscribe(&email.to_lowercase()) {
            true => Ok(reply(200, "")),
            false => Err(unknown()),
        },
        ("DELETE", ["externalid", id, "unsubscribe"]) => {
            let emails = of_external_id(book, id);
            let known = emails.iter().filter(|email| book.unsubscribe(email)).count();
            if known == 0 { Err(unknown()) } else { Ok(reply(200, "")) }
        }
        ("DELETE", ["email", email]) => {
            book.contacts.remove(&email.to_lowercase()).map(|_| reply(200, "")).ok_or_else(unknown)
        }
        ("DELETE", ["externalid", id]) => {
            let emails = of_external_id(book, id);
            emails.iter().for_each(|email| drop(book.contacts.remove(email)));
            if emails.is_empty() { Err(unknown()) } else { Ok(reply(200, "")) }
        }
        ("PUT", ["email", email, "unsubscription"]) => {
            let fresh = book.markers.insert(email.to_lowercase());
            Ok(reply(if fresh { 201 } else { 200 }, ""))
        }
        ("DELETE", ["email", email, "unsubscription"]) => match book.markers.remove(&email.to_lowercase()) {
            true => Ok(reply(200, "")),
            false => Err((404, "no marker".to_owned())),
        },
        _ => Err((405, "method not allowed".to_owned())),
    }
}

fn unknown() -> (u16, String) {
    (404, "contact not found".to_owned())
}

fn of_external_id(book: &Book, id: &str) -> Vec<String> {
    let has = |contact: &&Contact| contact.external_id.as_deref() == Some(id);
    book.contacts.values().filter(has).map(|contact| contact.email.clone()).collect()
}

/// What a body says: JSON here, XML in a synchronisation.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub email: Option<String>,
    pub external_id: Option<String>,
    pub standard: BTreeMap<String, String>,
    pub custom: BTreeMap<String, String>,
}

fn of_json(body: &[u8]) -> Result<Said, (u16, String)> {
    let bad = |text: &str| (400, text.to_owned());
    let body: Value = serde_json::from_slice(body).map_err(|_| bad("the entity is not JSON"))?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let fields = |name: &str| -> Result<BTreeMap<String, String>, (u16, String)> {
        let members = body.get(name).and_then(Value::as_object).into_iter().flatten();
        members
            .map(|(name, value)| match value {
                Value::String(text) => Ok((name.clone(), text.clone())),
                Value::Null => Err(bad("a field must not be null")),
                other => Ok((name.clone(), other.to_string())),
            })
            .collect()
    };
    Ok(Said {
        email: text("email"),
        external_id: text("external_id"),
        standard: fields("standard_fields")?,
        custom: fields("custom_fields")?,
    })
}

/// The first thing that is wrong: the vendor's error code and the field.
pub(crate) fn wrong(book: &Book, said: &Said) -> Option<(u8, String)> {
    if let Some(name) = said.standard.keys().find(|name| !STANDARD.contains(&name.as_str())) {
        return Some((21, name.clone()));
    }
    if let Some(name) = said.custom.keys().find(|name| !book.custom.contains(*name)) {
        return Some((21, name.clone()));
    }
    let long = said.standard.iter().chain(&said.custom).find(|(_, value)| value.chars().count() > 255);
    long.map(|(name, _)| (26, name.clone()))
}

pub(crate) fn is_address(email: &str) -> bool {
    !email.contains('<') && Address::parse(email).is_ok()
}

pub(crate) fn permission(query: &Query) -> Result<Option<u8>, (u16, String)> {
    let Some(text) = query.get("permission") else { return Ok(None) };
    let level = text.parse().ok().filter(|level| (1..=6).contains(level));
    level.map(Some).ok_or_else(|| (400, "permission must be 1 to 6".to_owned()))
}

fn create(book: &mut Book, email: &str, query: &Query, body: &[u8]) -> Answered {
    if !is_address(email) {
        return Err((400, format!("invalid email {email}")));
    }
    let said = of_json(body)?;
    if let Some((_, field)) = wrong(book, &said) {
        return Err((400, format!("invalid field {field}")));
    }
    let level = permission(query)?;
    let email = email.to_lowercase();
    let known = book.contacts.contains_key(&email);
    if known && query.get("sync_mode").map(String::as_str) != Some("1") {
        return Ok(reply(201, &format!("<id>{}</id>", book.contacts[&email].id)));
    }
    let id = write(book, &email, said, level, true);
    if let Some(src) = query.get("src").cloned()
        && let Some(contact) = book.contacts.get_mut(&email)
    {
        contact.src = src;
    }
    book.markers.remove(&email);
    Ok(reply(201, &format!("<id>{id}</id>")))
}

/// Makes or changes a contact; its id. A level of 4 or 5 is never lowered below 4.
pub(crate) fn write(book: &mut Book, email: &str, said: Said, level: Option<u8>, existing_too: bool) -> u64 {
    if !book.contacts.contains_key(email) {
        book.next_id += 1;
        let contact = Contact {
            id: book.next_id,
            email: email.to_owned(),
            external_id: None,
            permission: level.unwrap_or(1),
            standard: BTreeMap::new(),
            custom: BTreeMap::new(),
            src: String::new(),
        };
        book.contacts.insert(email.to_owned(), contact);
    } else if let (Some(level), true) = (level, existing_too)
        && let Some(contact) = book.contacts.get_mut(email)
        && (!matches!(contact.permission, 4 | 5) || matches!((contact.permission, level), (4, 5)))
    {
        contact.permission = level;
    }
    let Some(contact) = book.contacts.get_mut(email) else { return 0 };
    contact.external_id = said.external_id.or(contact.external_id.take());
    contact.standard.extend(said.standard);
    contact.custom.extend(said.custom);
    contact.id
}

fn update(book: &mut Book, old: &str, query: &Query, body: &[u8]) -> Answered {
    let said = of_json(body)?;
    if let Some((_, field)) = wrong(book, &said) {
        return Err((400, format!("invalid field {field}")));
    }
    let level = permission(query)?;
    let old = old.to_lowercase();
    let email = said.email.as_deref().unwrap_or(&old).to_lowercase();
    if !is_address(&email) {
        return Err((400, format!("invalid email {email}")));
    }
    if email != old && book.contacts.contains_key(&email) {
        return Err((409, "another contact has this email".to_owned()));
    }
    let mut contact = book.contacts.remove(&old).ok_or_else(unknown)?;
    contact.email.clone_from(&email);
    book.contacts.insert(email.clone(), contact);
    write(book, &email, said, level, true);
    Ok(reply(200, ""))
}

fn read(book: &Book, email: &str) -> Answered {
    let contact = book.contacts.get(&email.to_lowercase()).ok_or_else(unknown)?;
    let external =
        contact.external_id.as_deref().map(|id| format!("<external_id>{}</external_id>", xml::escaped(id)));
    let body = format!(
        "<contact anonymous=\"false\"><id>{}</id><email>{}</email><permission>{}</permission>{}</contact>",
        contact.id,
        xml::escaped(&contact.email),
        contact.permission,
        external.unwrap_or_default()
    );
    Ok(reply(200, &body))
}

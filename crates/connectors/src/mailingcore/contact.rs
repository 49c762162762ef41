//! A contact as MailingCore shows it, in the words of the hub.

use mailspan_core::json::{self, Node, Value};
use mailspan_core::{Address, Subject};

use crate::reading::{found, word};

/// Members that are handed on to the letter: theirs and the hub's name.
const PLAIN: [(&str, &str); 6] = [
    ("locale", "locale"),
    ("consentVersion", "consent_version"),
    ("source", "source"),
    ("attributes", "attributes"),
    ("suppressedAt", "suppressed_at"),
    ("unsubscribedAt", "unsubscribed_at"),
];

/// Whom an object is about, by `email` (or `to`, `toEmail`) and `externalId`.
pub fn subject(node: &Node) -> Result<Subject, String> {
    let field = node.first_of(&["email", "to", "toEmail"]);
    let address = match field.and_then(Node::as_str) {
        Some(text) => Some(Address::parse(text).map_err(|why| format!("the address of the contact: {why}"))?),
        None => None,
    };
    let external_id =
        word(node.get("externalId")).filter(|id| id.len() <= mailspan_core::limits::EXTERNAL_ID_BYTES_MAX);
    if address.is_none() && external_id.is_none() {
        let found = found(field);
        return Err(format!(
            "expected an address in \"email\" or \"to\", or an \"externalId\", found {found}"
        ));
    }
    Ok(Subject { address, external_id })
}

/// `data.contact`, as the text of an object: what the object says of the contact. `opt_in` is the caller's to
/// judge; null means that it is cleared, a missing member that nothing is said.
pub fn members(node: &Node, subject: &Subject, opt_in: Option<bool>) -> String {
    let mut members = Vec::with_capacity(PLAIN.len() + 3);
    if let Some(address) = &subject.address {
        members.push(("email", json::quote(address.as_str())));
    }
    if let Some(id) = &subject.external_id {
        members.push(("external_id", json::quote(id)));
    }
    members.extend(opt_in.map(|opt_in| ("opt_in", opt_in.to_string())));
    for (theirs, ours) in PLAIN {
        members.extend(node.get(theirs).map(|value| (ours, value.raw.to_owned())));
    }
    json::object(members)
}

/// `optIn`, where it is said.
pub fn opt_in(node: &Node) -> Option<bool> {
    match node.get("optIn")?.value {
        Value::Bool(opt_in) => Some(opt_in),
        _ => None,
    }
}

//! `POST /contacts`: many contacts in XML, and the report about them.

use std::collections::{BTreeMap, BTreeSet};

use mailspan_core::xml::{self, Element};

use super::contacts::{Said, is_address, permission, write, wrong};
use super::{Answered, Book, reply};

type Query = BTreeMap<String, String>;

fn on(query: &Query, name: &str, default: bool) -> bool {
    query.get(name).map_or(default, |text| text == "true")
}

#[derive(Default)]
struct Report {
    new: usize,
    existing: usize,
    unsubscribed: usize,
    invalid: Vec<(Option<String>, u8, String)>,
}

pub(crate) fn synchronise(book: &mut Book, query: &Query, body: &[u8]) -> Answered {
    if on(query, "use_external_id", false) && on(query, "prefer_maileon_id", false) {
        return Err((400, "use_external_id and prefer_maileon_id exclude each other".to_owned()));
    }
    let level = permission(query)?;
    let root = xml::parse(body).filter(|root| root.name == "contacts");
    let root = root.ok_or_else(|| (400, "the entity is no list of contacts".to_owned()))?;
    if book.gate.random.chance(book.gate.faults.empty_results) {
        return Ok(reply(200, "<report><success>true</success></report>"));
    }
    let (mut report, mut seen) = (Report::default(), BTreeSet::new());
    for contact in root.children.iter().filter(|child| child.name == "contact") {
        let said = said(contact);
        let email = said.email.clone().unwrap_or_default().to_lowercase();
        if !seen.insert(email.clone()) {
            continue;
        }
        take(book, query, (said, email), level, &mut report)?;
    }
    Ok(reply(200, &written(&report)))
}

fn take(
    book: &mut Book,
    query: &Query,
    (said, email): (Said, String),
    level: Option<u8>,
    report: &mut Report,
) -> Result<(), (u16, String)> {
    let rejected = book.gate.random.chance(book.gate.faults.reject);
    let fault = match () {
        () if email.is_empty() => Some((2, "email".to_owned())),
        () if !is_address(&email) => Some((3, "email".to_owned())),
        () if rejected => Some((20, "LOCALE".to_owned())),
        () => wrong(book, &said),
    };
    if let Some((code, field)) = fault {
        if !on(query, "ignore_invalid_contacts", false) {
            return Err((400, format!("invalid contact {email}: {field}")));
        }
        report.invalid.push((said.email, code, field));
    } else if book.markers.contains(&email) && !on(query, "reimport_unsubscribed_contacts", true) {
        report.unsubscribed += 1;
    } else {
        let known = book.contacts.contains_key(&email);
        if known {
            report.existing += 1
        } else {
            report.new += 1
        }
        let updates = query.get("sync_mode").map(String::as_str) == Some("1");
        if !known || updates {
            write(book, &email, said, level, on(query, "override_permission", true));
        }
    }
    Ok(())
}

fn said(contact: &Element) -> Said {
    let fields = |name: &str| -> BTreeMap<String, String> {
        let list = contact.child(name).map(|list| list.children.as_slice()).unwrap_or_default();
        let value =
            |field: &Element| field.child("value").map(|value| value.text.clone()).unwrap_or_default();
        list.iter().filter_map(|field| Some((field.text_of("name")?.to_owned(), value(field)))).collect()
    };
    Said {
        email: contact.text_of("email").map(str::to_owned),
        external_id: contact.text_of("external_id").map(str::to_owned),
        standard: fields("standard_fields"),
        custom: fields("custom_fields"),
    }
}

fn written(report: &Report) -> String {
    let rows: String = report
        .invalid
        .iter()
        .map(|(email, code, field)| {
            let (email, field) = (xml::escaped(email.as_deref().unwrap_or_default()), xml::escaped(field));
            format!("<contact><email>{email}</email><error code=\"{code}\"><error_field>{field}</error_field></error></contact>")
        })
        .collect();
    let total = report.new + report.existing + report.unsubscribed + report.invalid.len();
    format!(
        "<report><success>true</success><count_contacts>{total}</count_contacts>\
         <count_new_contacts>{}</count_new_contacts><count_existing_contacts>{}</count_existing_contacts>\
         <count_unsubscribed_contacts>{}</count_unsubscribed_contacts>\
         <count_invalid_contacts>{}</count_invalid_contacts><invalid_contacts>{rows}</invalid_contacts></report>",
        report.new,
        report.existing,
        report.unsubscribed,
        report.invalid.len()
    )
}

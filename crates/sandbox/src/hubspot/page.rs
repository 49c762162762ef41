//! The account for people and for programs: a page of tables, and the same as JSON.

use std::fmt::Write;

use mailspan_core::limits::SANDBOX_PAGE_ROWS_MAX;
use mailspan_core::{Millis, clip};
use serde_json::{Value, json};

use super::book::Book;
use super::model::{Kind, Object};
use super::{Contact, Engagement};
use crate::wire::{escape, page};

/// Records of each kind in the JSON, newest first.
const STATE_ROWS_MAX: usize = 1_000;

pub(crate) fn contact(object: &Object) -> Contact {
    Contact {
        id: object.id.to_string(),
        email: object.properties.get("email").cloned().unwrap_or_default(),
        properties: object.properties.clone(),
    }
}

/// The newest contacts, oldest of them first.
pub(crate) fn contacts(book: &Book, max: usize) -> Vec<Contact> {
    let objects = &book.tables[&Kind::Contacts].objects;
    objects.values().skip(objects.len().saturating_sub(max)).map(contact).collect()
}

/// The newest notes or tasks, oldest of them first.
pub(crate) fn engagements(book: &Book, kind: Kind, max: usize) -> Vec<Engagement> {
    let ids = |id: u64, to: Kind| book.linked(kind, id, to).iter().map(u64::to_string).collect();
    let objects = &book.tables[&kind].objects;
    let shown = objects.values().skip(objects.len().saturating_sub(max));
    shown
        .map(|object| Engagement {
            id: object.id.to_string(),
            properties: object.properties.clone(),
            contacts: ids(object.id, Kind::Contacts),
            deals: ids(object.id, Kind::Deals),
        })
        .collect()
}

/// Everything that can be looked at, as JSON.
pub(crate) fn state(book: &Book) -> Value {
    let mut contacts = contacts(book, STATE_ROWS_MAX);
    let mut notes = engagements(book, Kind::Notes, STATE_ROWS_MAX);
    let mut tasks = engagements(book, Kind::Tasks, STATE_ROWS_MAX);
    contacts.reverse();
    notes.reverse();
    tasks.reverse();
    let statuses: serde_json::Map<String, Value> = book
        .consents
        .0
        .iter()
        .take(STATE_ROWS_MAX)
        .map(|(address, status)| (address.clone(), json!(status)))
        .collect();
    json!({
        "vendor": "hubspot",
        "faults": book.gate.faults.to_string(),
        "requests": book.seen_total,
        "totals": {
            "contacts": book.tables[&Kind::Contacts].objects.len(),
            "notes": book.tables[&Kind::Notes].objects.len(),
            "notes_that_hang_on_nobody": hanging(book),
            "tasks": book.tables[&Kind::Tasks].objects.len(),
            "opted_out": opted_out(book),
        },
        "contacts": contacts,
        "notes": notes,
        "tasks": tasks,
        "statuses": statuses,
        "last_requests": book.seen.iter().rev().take(20).collect::<Vec<_>>(),
    })
}

fn hanging(book: &Book) -> usize {
    let ids = book.tables[&Kind::Notes].objects.keys();
    ids.filter(|id| book.linked(Kind::Notes, **id, Kind::Contacts).is_empty()).count()
}

fn opted_out(book: &Book) -> usize {
    book.consents.0.values().filter(|status| status.unsubscribed_all).count()
}

/// The page for people: newest records first, at most 200 a table.
pub(crate) fn html(book: &Book) -> String {
    let totals = format!(
        "{} contacts, {} notes ({} hang on nobody), {} tasks, {} opted out, {} requests",
        book.tables[&Kind::Contacts].objects.len(),
        book.tables[&Kind::Notes].objects.len(),
        hanging(book),
        book.tables[&Kind::Tasks].objects.len(),
        opted_out(book),
        book.seen_total,
    );
    let mut body = format!("<p>{totals}</p>\n");
    contacts_table(book, &mut body);
    engagements_table(book, Kind::Notes, ["hs_timestamp", "hs_note_body"], &mut body);
    engagements_table(book, Kind::Tasks, ["hs_timestamp", "hs_task_subject"], &mut body);
    opt_outs_table(book, &mut body);
    page("Sandbox HubSpot", &book.gate.faults, &body)
}

fn contacts_table(book: &Book, body: &mut String) {
    let columns = [
        "mt_last_delivered_at",
        "mt_open_count",
        "mt_click_count",
        "mt_email_status",
        "mt_do_not_contact",
        "hs_email_optout",
    ];
    table(
        body,
        "Contacts",
        &["id", "email", "delivered", "opens", "clicks", "status", "do not contact", "opted out", "notes"],
    );
    for contact in contacts(book, SANDBOX_PAGE_ROWS_MAX).iter().rev() {
        let notes = contact.id.parse().map_or(0, |id| book.linked(Kind::Contacts, id, Kind::Notes).len());
        let mut cells = vec![contact.id.clone(), contact.email.clone()];
        cells.extend(columns.iter().map(|name| readable(name, contact.properties.get(*name))));
        cells.push(notes.to_string());
        row(body, &cells);
    }
    body.push_str("</table>\n");
}

fn engagements_table(book: &Book, kind: Kind, columns: [&str; 2], body: &mut String) {
    table(body, kind.name(), &["id", "when", "what", "contacts", "deals"]);
    for item in engagements(book, kind, SANDBOX_PAGE_ROWS_MAX).iter().rev() {
        let mut cells = vec![item.id.clone()];
        cells.extend(columns.iter().map(|name| readable(name, item.properties.get(*name))));
        cells.push(if item.contacts.is_empty() { "nobody".to_owned() } else { item.contacts.join(", ") });
        cells.push(item.deals.join(", "));
        row(body, &cells);
    }
    body.push_str("</table>\n");
}

fn opt_outs_table(book: &Book, body: &mut String) {
    table(body, "Opt-outs", &["address", "since"]);
    let out = book.consents.0.iter().filter(|(_, status)| status.unsubscribed_all);
    for (address, status) in out.take(SANDBOX_PAGE_ROWS_MAX) {
        row(body, &[address.clone(), status.changed_at.map(Millis::rfc3339).unwrap_or_default()]);
    }
    body.push_str("</table>\n");
}

/// A value as people read it: instants as dates, long texts cut.
fn readable(name: &str, value: Option<&String>) -> String {
    let Some(value) = value else { return String::new() };
    match value.parse::<i64>() {
        Ok(ms) if name.ends_with("_at") || name == "hs_timestamp" => Millis(ms).rfc3339(),
        _ => clip(value, 160).into_owned(),
    }
}

fn table(body: &mut String, title: &str, heads: &[&str]) {
    let heads: String = heads.iter().map(|head| format!("<th>{}</th>", escape(head))).collect();
    // Writing into a String cannot fail.
    let _ = write!(body, "<h2>{}</h2>\n<table><tr>{heads}</tr>\n", escape(title));
}

fn row(body: &mut String, cells: &[String]) {
    let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
    let _ = writeln!(body, "<tr>{cells}</tr>");
}

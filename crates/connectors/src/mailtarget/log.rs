//! The log of one transmission's events: `GET /analytic/transmission/{id}/events` (`mailtarget` sheet, 2.7; vendor
//! OpenAPI of the dashboard API).

use std::sync::Arc;

use mailspan_core::json::{self, Node};
use mailspan_core::{Answer, Reason, Request};

use super::parse;
use crate::contract::{Log, Parsed, by_status};
use crate::percent::percent;
use crate::reading::{self, word};

pub fn build() -> Arc<dyn Log> {
    Arc::new(Events)
}

struct Events;

/// Theirs and the name under which a webhook has it.
const WORDS: [(&str, &str); 4] =
    [("recipient", "recipient"), ("reason", "reason"), ("url", "url"), ("userAgent", "userAgent")];

impl Log for Events {
    fn ask(&self, transmission: &str) -> Request {
        Request {
            method: "GET",
            path: format!("/analytic/transmission/{}/events", percent(transmission)),
            headers: vec![("accept".to_owned(), "application/json".to_owned())],
            body: Default::default(),
        }
    }

    fn read(&self, transmission: &str, answer: &Answer) -> Result<Parsed, Reason> {
        refused(transmission, answer)?;
        let root = json::parse(&answer.body)
            .map_err(|error| Reason::new("bad_answer", format!("the log is not JSON: {error}")))?;
        let events =
            [Some(&root), reading::at(&root, "events"), reading::at(&root, "data.events"), root.get("data")];
        let events = events
            .into_iter()
            .flatten()
            .find_map(Node::as_array)
            .ok_or_else(|| Reason::new("bad_answer", "the answer is no log: it has no \"events\""))?;
        let mut parsed = Parsed::default();
        for (part, node) in events.iter().enumerate() {
            let text = as_webhook(transmission, node);
            let read = json::parse(text.as_bytes());
            match read.map(|read| parse::arrival(&read, part, false, None)) {
                Ok(Ok(arrival)) => parsed.arrivals.push(arrival),
                Ok(Err((code, text))) => parsed.unreadable.push(reading::unreadable(part, code, text, node)),
                Err(error) => {
                    parsed.unreadable.push(reading::unreadable(part, "bad_entry", error.to_string(), node));
                }
            }
        }
        Ok(parsed)
    }
}

/// The entry as its webhook tells it: `status`, since a `bounce` of the log is not hard by definition.
fn as_webhook(transmission: &str, node: &Node) -> String {
    let mut members = vec![("transmissionId", json::quote(transmission))];
    members.extend(word(node.get("type")).map(|kind| ("status", json::quote(&kind))));
    members.extend(node.get("timestamp").map(|at| ("timestamp", at.raw.to_owned())));
    for (theirs, ours) in WORDS {
        members.extend(word(node.get(theirs)).map(|text| (ours, json::quote(&text))));
    }
    members.push(("raw", node.raw.to_owned()));
    json::object(members)
}

fn refused(transmission: &str, answer: &Answer) -> Result<(), Reason> {
    let shown = String::from_utf8_lossy(&answer.body);
    let shown = format!("HTTP {} {}", answer.status, mailspan_core::clip(shown.trim(), 300));
    match answer.status {
        200..=299 if answer.cut => {
            Err(Reason::new("too_large", "the log is larger than what is read of an answer: a megabyte"))
        }
        200..=299 => Ok(()),
        401 | 403 => Err(Reason::new(
            "unauthorized",
            format!("{shown}: the key is not valid, or may not read statistics"),
        )),
        404 => Err(Reason::new(
            "not_found",
            format!("{shown}: the provider knows no transmission `{transmission}`"),
        )),
        _ => {
            let code = if by_status(answer, 0).signal.is_some() { "throttled" } else { "unavailable" };
            Err(Reason::new(code, format!("{shown}: ask again later")))
        }
    }
}

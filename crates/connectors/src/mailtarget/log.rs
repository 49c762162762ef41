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

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_core::{Millis, RawRequest, SplitMix64};
    use serde_json::{Value, json};

    fn answer(status: u16, body: &Value) -> Answer {
        Answer { at: Millis(0), status, headers: vec![], body: body.to_string().into_bytes(), cut: false }
    }

    fn webhook(body: &Value) -> RawRequest {
        RawRequest {
            method: "POST".to_owned(),
            url: String::new(),
            path: String::new(),
            query: String::new(),
            headers: vec![],
            body: body.to_string().into_bytes().into(),
            received_at: Millis(0),
        }
    }

    /// The same key: one that was accepted from the log is known when its webhook comes late.
    fn check(kind: &str, more: &Value) {
        let mut entry = json!({
            "type": kind, "recipient": "Ana@example.com", "subject": "News", "friendlyFrom": "x", "reason": "",
            "url": "", "userAgent": "", "timestamp": 1_778_210_055,
        });
        entry.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let told = json!({
            "transmissionId": "t/1", "event": kind, "timestamp": "2026-05-08T03:14:15Z", "recipient": "ana@example.com",
            "metadata": {}, "raw": more,
        });
        for body in [json!({"events": [entry]}), json!({"data": {"events": [entry]}}), json!([entry])] {
            let read = Events.read("t/1", &answer(200, &body)).expect("a log");
            let parsed = parse::parse(&webhook(&told), None).expect("a webhook");
            let (logged, told) = (&read.arrivals[0], &parsed.arrivals[0]);
            assert_eq!(logged.dedupe, told.dedupe, "{kind}");
            assert_eq!((&logged.event_type, logged.time), (&told.event_type, told.time), "{kind}");
            assert_eq!(logged.transmission.as_deref(), Some("t/1"));
        }
    }

    #[test]
    fn an_entry_is_the_event_that_its_webhook_tells() {
        check("delivery", &json!({}));
        check("open", &json!({"userAgent": "Mozilla/5.0"}));
        check("click", &json!({"url": "https://example.com/a?b=1"}));
        check("bounce", &json!({"reason": "550 5.1.1 user unknown"}));
    }

    #[test]
    fn the_id_stands_in_the_path_as_text() {
        let path = Events.ask("a/b?c").path;
        assert_eq!(path, "/analytic/transmission/a%2Fb%3Fc/events");
    }

    #[test]
    fn what_is_no_log_says_why() {
        let check = |answer: &Answer, code: &str| {
            let why = Events.read("t", answer).expect_err("it was read");
            assert_eq!(why.code, code, "{}", why.text);
        };
        check(&answer(401, &json!({"error": "unauthorized"})), "unauthorized");
        check(&answer(404, &json!({})), "not_found");
        check(&answer(503, &json!({})), "unavailable");
        check(&answer(200, &json!({"x": 1})), "bad_answer");
        check(&Answer { body: b"<html>".to_vec(), ..answer(200, &json!(0)) }, "bad_answer");
        check(&Answer { cut: true, ..answer(200, &json!([])) }, "too_large");
    }

    #[test]
    fn it_is_total_on_mutated_logs() {
        let entry =
            json!({"type": "click", "recipient": "a@b.co", "url": "https://x.example", "timestamp": 1});
        let whole = json!({"events": [entry, {"type": 7}, "x"]}).to_string().into_bytes();
        let mut random = SplitMix64(0x6c6f_6773);
        for _ in 0..5_000 {
            let mut body = whole.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(body.len() as u64) as usize;
                body[at] = random.next_u64() as u8;
            }
            body.truncate(1 + random.below(body.len() as u64 * 2) as usize);
            let _ = Events.read("t", &Answer { body, ..answer(200, &json!(0)) });
        }
    }
}

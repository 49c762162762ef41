//! What the hub says of itself is said once, whatever the moment at which it is killed.

use std::collections::BTreeSet;
use std::time::Duration;

use mailspan_testkit::{Hub, Receiver, now_ms, post, until};
use serde_json::json;

use crate::replay::audit;
use crate::support::{AT, BINARY, SECRET, config, event, send, signed};
use crate::told::alarms;

const FAILS: &str = "breaker = { failures = 3, wait = \"300ms\" }\n\
     retry = { calendar = [\"100ms\"], for = \"1h\" }\nrate = \"1000/1s\"";

/// The ids of the events of this type that were heard, however often each came.
fn heard_of(heard: &Receiver, event_type: &str) -> BTreeSet<String> {
    let events = heard.ok().into_iter().map(|seen| seen.json());
    let of_type = events.filter(|event| event["type"] == event_type);
    of_type.map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

const DEGRADED: &str = "system.destination_degraded";
const RECOVERED: &str = "system.destination_recovered";

#[test]
pub fn a_breaker_is_told_of_once_over_kills_before_and_after_it_is_kept() {
    for point in ["stand-before-commit:1", "stand-after-commit:1"] {
        let (crm, heard) = (Receiver::start(), Receiver::start());
        let more = alarms(&heard, &format!("\"{DEGRADED}\", \"{RECOVERED}\""));
        let mut hub = Hub::new(BINARY, &config(&crm, FAILS, &more), &[("MAILTARGET_SECRET", SECRET)]);
        crm.status(503);
        hub.set_env("MAILSPAN_CRASH_POINT", point);
        hub.start();
        assert_eq!(send(&hub, &event("open", "first@example.com", AT)).status, 200);
        hub.wait_for_end(40, &format!("the hub was not killed at {point}"));
        hub.kill();
        hub.set_env("MAILSPAN_CRASH_POINT", "");
        hub.start();
        until(30, "nobody was told that it fails", || heard_of(&heard, DEGRADED).pop_first());
        // It fails on, and whoever starts knows that it was told.
        let tried = crm.seen().len();
        hub.kill();
        hub.start();
        until(30, "it is not tried after the start", || (crm.seen().len() > tried + 1).then_some(()));
        crm.status(200);
        let mut n = 0;
        killed_while_it_recovers(&mut hub, point, &mut n);
        until(60, "nobody was told that it is well again", || {
            send(&hub, &event("open", &format!("c{n}@example.com"), AT));
            n += 1;
            std::thread::sleep(Duration::from_millis(300));
            heard_of(&heard, RECOVERED).pop_first()
        });
        until(30, "something waits", || {
            let sums = audit(&hub);
            (sums["pending"] == 0 && sums["waiting"] == 0).then_some(())
        });
        assert_eq!(
            (heard_of(&heard, DEGRADED).len(), heard_of(&heard, RECOVERED).len()),
            (1, 1),
            "{point}: told by several events"
        );
        assert_eq!(audit(&hub)["adds_up"], true);
    }
}

/// The ramp needs something to send.
fn killed_while_it_recovers(hub: &mut Hub, point: &str, n: &mut usize) {
    hub.kill();
    hub.set_env("MAILSPAN_CRASH_POINT", point);
    hub.spawn();
    until(60, &format!("the hub was not killed at {point}"), || {
        let body = event("open", &format!("c{n}@example.com"), AT).to_string();
        let mac = signed(SECRET, body.as_bytes());
        // It may be dead by then, or not there yet.
        let _ = post(hub.port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], body.as_bytes());
        *n += 1;
        std::thread::sleep(Duration::from_millis(300));
        hub.has_ended().then_some(())
    });
    hub.kill();
    hub.set_env("MAILSPAN_CRASH_POINT", "");
    hub.start();
}

const CORE_SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";

/// The status of the answer, where there was one.
fn complain(hub: &Hub, id: &str) -> Option<u16> {
    let at = mailspan_core::Millis(now_ms()).rfc3339();
    let body = json!({ "id": id, "type": "email.complained", "createdAt": at, "tenantId": "",
        "data": { "emailLogId": id, "to": "p1@example.com", "externalId": "u-1" } });
    let body = body.to_string();
    let at = now_ms() / 1_000;
    let text = [format!("{at}.").as_bytes(), body.as_bytes()].concat();
    let signature = format!("t={at},v1={}", signed(CORE_SECRET, &text));
    let headers = [("x-mailingcore-signature", signature.as_str()), ("content-type", "application/json")];
    post(hub.port, "/in/core", &headers, body.as_bytes()).ok().map(|reply| reply.status)
}

#[test]
pub fn a_complaint_is_told_of_once_over_kills_before_and_after_its_answer() {
    let (crm, heard) = (Receiver::start(), Receiver::start());
    let more = format!(
        "{}\n[sources.core]\nkind = \"mailingcore\"\nsecrets = [{{ env = \"CORE_SECRET\" }}]\n",
        alarms(&heard, "\"system.complaint\"")
    );
    let env = [("MAILTARGET_SECRET", SECRET), ("CORE_SECRET", CORE_SECRET)];
    let mut hub = Hub::new(BINARY, &config(&crm, "", &more), &env);
    let points = ["accept-before-commit:1", "accept-in-commit:1", "accept-after-commit:1"];
    for (n, point) in points.into_iter().enumerate() {
        hub.set_env("MAILSPAN_CRASH_POINT", point);
        hub.start();
        let id = format!("evt_{n}");
        assert_eq!(complain(&hub, &id), None, "the hub was not killed at {point}");
        hub.wait_for_end(20, &format!("the hub was not killed at {point}"));
        hub.kill();
        hub.set_env("MAILSPAN_CRASH_POINT", "");
        hub.start();
        // Nobody answered: its sender says it again.
        assert_eq!(complain(&hub, &id), Some(200), "{}", hub.log());
        until(30, "nobody was told", || (heard_of(&heard, "system.complaint").len() > n).then_some(()));
        hub.kill();
    }
    hub.start();
    until(30, "something waits", || {
        let sums = audit(&hub);
        (sums["pending"] == 0 && sums["waiting"] == 0).then_some(())
    });
    assert_eq!(heard_of(&heard, "system.complaint").len(), points.len(), "told by several events");
    assert_eq!(audit(&hub)["adds_up"], true);
}

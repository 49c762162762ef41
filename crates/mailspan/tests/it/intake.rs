//! The door: what is answered, what is kept.

use mailspan_testkit::{get, request, until};
use serde_json::json;

use crate::support::{AT, SECRET, event, hub, send, send_raw, signed};

#[test]
pub fn a_signed_event_is_kept_and_delivered() {
    let (hub, crm) = hub();
    let reply = send(&hub, &event("open", "a@example.com", AT));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["accepted"], 1);
    let seen = until(10, "the event did not arrive", || crm.ok_about("a@example.com").pop());
    assert_eq!(seen.header("content-type"), Some("application/cloudevents+json"));
    assert_eq!(seen.json()["type"], "email.opened");
    assert_eq!(seen.json()["time"], AT);
    let again = send(&hub, &event("open", "a@example.com", AT));
    assert_eq!((again.status, &again.json()["duplicates"]), (200, &json!(1)));
    let audit = &hub.rows(&["audit"])[0];
    assert_eq!(
        (&audit["accepted"], &audit["duplicates"], &audit["adds_up"]),
        (&json!(1), &json!(1), &json!(true))
    );
}

#[test]
pub fn a_refused_signature_tells_the_operator_and_nobody_else() {
    let (hub, _crm) = hub();
    let body = event("open", "a@example.com", AT).to_string();
    let wrong = signed("another secret", body.as_bytes());
    let reply = hub.post("/in/mailtarget", &[("x-mailtarget-signature", &wrong)], body.as_bytes());
    assert_eq!(reply.status, 401);
    assert!(!String::from_utf8_lossy(&reply.body).contains(&signed(SECRET, body.as_bytes())));
    // A proxy that reformats the body: the operator is told.
    let spaced = serde_json::to_string_pretty(&event("open", "a@example.com", AT)).unwrap();
    let mac = signed(SECRET, body.as_bytes());
    assert_eq!(
        hub.post("/in/mailtarget", &[("x-mailtarget-signature", &mac)], spaced.as_bytes()).status,
        401
    );
    let rows = hub.rows(&["refused"]);
    assert_eq!(rows.len(), 2);
    let hint = rows[0]["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("changed the body"), "the hint should name the changed body, it says: {hint:?}");
    assert_eq!(hub.rows(&["audit"])[0]["refused"], 2);
}

#[test]
pub fn bad_bodies_get_a_clear_answer_and_lose_nothing() {
    let (hub, crm) = hub();
    for (name, body, status) in [
        ("empty", &b""[..], 400),
        ("not JSON", b"hello", 400),
        ("a number", b"123456789012345678901234567890", 400),
        ("not UTF-8", b"{\"event\":\"\xff\"}", 400),
        ("too deep", &[b'['; 5_000], 400),
    ] {
        let reply = send_raw(&hub, body);
        assert_eq!(reply.status, status, "{name}");
        assert!(reply.json()["detail"].as_str().is_some_and(|text| text.len() > 5), "{name}: says nothing");
    }
    let who = "mixed@example.com";
    let click = json!({ "transmissionId": "t", "event": "click", "timestamp": AT, "recipient": who, "raw": { "url": "https://x.example" } });
    let mixed = json!([event("open", who, AT), { "event": "open" }, "rubbish", click]);
    let reply = send(&hub, &mixed);
    assert_eq!(reply.json()["accepted"], 2);
    assert_eq!(reply.json()["quarantined"], 2);
    until(10, "the good ones did not arrive", || (crm.ok_about(who).len() == 2).then_some(()));
    assert_eq!(hub.rows(&["quarantined"]).len(), 2);
    assert_eq!(hub.rows(&["audit"])[0]["quarantined"], 2);
}

#[test]
pub fn the_dashboards_test_batch_is_kept_and_makes_no_delivery() {
    let (hub, crm) = hub();
    let batch = json!({ "batchId": "645c2177e3b86a0001887bc6", "retryCount": 0, "events": [
        { "status": "injection", "eventId": "92356927693813856", "messageId": "000443ee14578172be22",
          "recipient": "test@example.com", "recipientMeta": "{\"customKey\":\"customValue\"}", "timestamp": 1460989507000i64 }] });
    assert_eq!(send(&hub, &batch).status, 200);
    let row = until(5, "the test event is not routed", || {
        hub.rows(&["events", "list"]).into_iter().find(|row| row["place"] == "test")
    });
    assert_eq!(row["deliveries"], 0);
    assert!(crm.seen().is_empty());
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
pub fn paths_and_methods_that_are_not_there() {
    let (hub, _crm) = hub();
    assert_eq!(hub.post("/in/nowhere", &[], b"{}").status, 404);
    assert_eq!(get(hub.port, "/in/mailtarget").unwrap().status, 405);
    assert_eq!(get(hub.port, "/healthz").unwrap().status, 200);
    assert_eq!(get(hub.port, "/v1/deliveries").unwrap().status, 401);
    let long = vec![b'x'; 6 << 20];
    let reply = request(hub.port, "POST", "/in/mailtarget", &[], &long);
    // Cut off while it was still sending, or answered: never taken.
    assert!(reply.map_or(true, |reply| reply.status == 413));
    let ready = get(hub.port, "/readyz").unwrap();
    assert_eq!(ready.status, 200, "it did not survive a body that is too large");
    assert_eq!(ready.text(), "ready\n", "a stranger learns more than that");
    assert_eq!(hub.rows(&["audit"])[0]["accepted"], 0);
}

//! `POST /v1/events`: an application's events.

use mailspan_testkit::{Hub, until};
use serde_json::{Value, json};

use crate::support::hub;

fn key(hub: &Hub, scope: &str) -> String {
    let made = &hub.rows(&["keys", "create", "--scope", scope])[0];
    format!("Bearer {}", made["key"].as_str().unwrap())
}

fn post(hub: &Hub, key: &str, more: &[(&str, &str)], body: &Value) -> mailspan_testkit::Reply {
    let headers = [&[("authorization", key), ("content-type", "application/json")], more].concat();
    hub.post("/v1/events", &headers, body.to_string().as_bytes())
}

#[test]
pub fn keys_are_needed_and_have_scopes() {
    let (hub, crm) = hub();
    let (write, read) = (key(&hub, "events:write"), key(&hub, "read"));
    let event = json!({ "type": "app.signed_up", "subject": "a@example.com", "data": { "plan": "pro" } });
    assert_eq!(post(&hub, "Bearer nonsense", &[], &event).status, 401);
    assert_eq!(post(&hub, &read, &[], &event).status, 403);
    assert_eq!(post(&hub, &write, &[], &event).status, 202);
    let seen = until(10, "the event did not arrive", || crm.ok_about("a@example.com").pop());
    assert_eq!(seen.json()["data"]["plan"], "pro");
    let reply = post(&hub, &write, &[], &json!({ "type": 7 }));
    assert_eq!((reply.status, reply.header("content-type")), (400, Some("application/problem+json")));
    assert!(reply.json()["detail"].as_str().unwrap().contains("type"));
    assert_eq!(
        mailspan_testkit::request(hub.port, "GET", "/v1/deliveries", &[("authorization", &read)], b"")
            .unwrap()
            .status,
        200
    );
    for row in hub.rows(&["keys", "list"]) {
        hub.run(&["keys", "revoke", row["id"].as_str().unwrap()]);
    }
    assert_eq!(post(&hub, &write, &[], &event).status, 401, "a revoked key still works");
}

#[test]
pub fn an_idempotency_key_gives_the_first_answer_again() {
    let (hub, crm) = hub();
    let write = key(&hub, "events:write");
    let batch = json!([{ "type": "app.a", "subject": "a@example.com" }, { "type": "app.b", "subject": "b@example.com" }]);
    let first = post(&hub, &write, &[("idempotency-key", "k1")], &batch);
    let second = post(&hub, &write, &[("idempotency-key", "k1")], &batch);
    assert_eq!((first.status, first.json()), (second.status, second.json()));
    assert_eq!(first.json()["accepted"], 2);
    let other = post(&hub, &write, &[("idempotency-key", "k1")], &json!({ "type": "app.c" }));
    assert_eq!(other.status, 422);
    until(10, "not delivered", || (crm.ok().len() == 2).then_some(()));
    assert_eq!(hub.rows(&["audit"])[0]["accepted"], 2);
}

#[test]
pub fn wait_answers_with_what_each_destination_said() {
    let (hub, crm) = hub();
    let write = key(&hub, "events:write");
    let ask = |subject: &str, wait: &str| {
        let headers = [("authorization", write.as_str()), ("content-type", "application/json")];
        let body = json!({ "type": "app.paid", "subject": subject }).to_string();
        hub.post(&format!("/v1/events?wait={wait}"), &headers, body.as_bytes())
    };
    let reply = ask("a@example.com", "10s");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["deliveries"][0]["state"], "delivered");
    assert_eq!(reply.json()["deliveries"][0]["status"], 200);
    assert_eq!(reply.json()["deliveries"][0]["answer"], "{}");
    crm.status(422);
    assert_eq!(ask("b@example.com", "10s").json()["deliveries"][0]["state"], "dead");
    crm.status(503);
    assert_eq!(ask("c@example.com", "50ms").status, 202);
    assert_eq!(ask("d@example.com", "soon").status, 400);
}

#[test]
pub fn cloudevents_come_in_three_modes_and_numbers_survive() {
    let (hub, crm) = hub();
    let write = key(&hub, "events:write");
    let event = r#"{"specversion":"1.0","id":"e1","source":"/app","type":"app.x","subject":"s@example.com","data":{"n":92356927693813856123}}"#;
    let send = |kind: &str, more: &[(&str, &str)], body: &str| {
        let headers = [&[("authorization", write.as_str()), ("content-type", kind)], more].concat();
        hub.post("/v1/events", &headers, body.as_bytes())
    };
    assert_eq!(send("application/cloudevents+json", &[], event).json()["accepted"], 1);
    assert_eq!(send("application/cloudevents+json", &[], event).json()["duplicates"], 1);
    let batch = format!("[{}]", event.replace("e1", "e2").replace("s@", "t@"));
    assert_eq!(send("application/cloudevents-batch+json", &[], &batch).json()["accepted"], 1);
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "e3"),
        ("ce-source", "/app"),
        ("ce-type", "app.x"),
        ("ce-subject", "u@example.com"),
    ];
    assert_eq!(send("application/json", &binary, "{\"a\":1}").json()["accepted"], 1);
    until(10, "not all delivered", || (crm.ok().len() == 3).then_some(()));
    let text = String::from_utf8(crm.ok_about("s@example.com")[0].body.clone()).unwrap();
    assert!(text.contains("92356927693813856123"), "{text}");
}

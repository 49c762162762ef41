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

/// A map of two requests, the second of which is tried twice: each of the three answers is shown.
#[test]
pub fn wait_shows_the_answer_to_each_request() {
    let crm = mailspan_testkit::Receiver::start();
    let mut tried = 0;
    crm.answer(move |seen| match seen.json()["n"].as_u64() {
        Some(1) => (201, Vec::new(), "{\"made\":1}".to_owned()),
        _ => {
            tried += 1;
            (if tried == 1 { 503 } else { 200 }, Vec::new(), format!("{{\"try\":{tried}}}"))
        }
    });
    let quick = "retry = [\"50ms\"]\nrate = \"1000/1s\"";
    let map = "map = \'\'\'[{ \"n\": 1 }, { \"n\": 2 }]\'\'\'";
    let config = crate::support::config(&crm, quick, map);
    let mut hub = Hub::new(crate::support::BINARY, &config, &[("MAILTARGET_SECRET", crate::support::SECRET)]);
    hub.start();
    let write = key(&hub, "events:write");
    let headers = [("authorization", write.as_str()), ("content-type", "application/json")];
    let body = json!({ "type": "app.paid", "subject": "a@example.com" }).to_string();
    let reply = hub.post("/v1/events?wait=20s", &headers, body.as_bytes());
    assert_eq!(reply.status, 200);
    let delivery = &reply.json()["deliveries"][0];
    let one = |status: u16, answer: &str| json!({ "request": "POST", "status": status, "answer": answer });
    let expected = [one(201, "{\"made\":1}"), one(503, "{\"try\":1}"), one(200, "{\"try\":2}")];
    assert_eq!(delivery["answers"], json!(expected), "{delivery}");
    let last = (&delivery["state"], &delivery["status"], &delivery["answer"]);
    assert_eq!(last, (&json!("delivered"), &json!(200), &json!("{\"try\":2}")));
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
    let bare = send("application/cloudevents+json", &[], "{\"type\":\"app.x\"}");
    assert_eq!(bare.status, 400);
    assert!(bare.json()["detail"].as_str().unwrap().contains("specversion"), "{}", bare.json());
    let bare = send("application/cloudevents-batch+json", &[], "[{\"type\":\"app.x\"}]").json();
    assert_eq!((&bare["accepted"], &bare["quarantined"]), (&json!(0), &json!(1)));
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

/// What a CloudEvent came with goes on to a receiver, which may be another hub; ours are ours.
#[test]
pub fn extensions_of_a_cloudevent_reach_the_receiver() {
    let (hub, crm) = hub();
    let write = key(&hub, "events:write");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let event = json!({
        "specversion": "1.0", "id": "e1", "source": "/app", "type": "app.x", "subject": "s@example.com",
        "traceparent": trace, "sequence": 7, "tenant": "acme", "receivedat": "never", "data": { "a": 1 },
    });
    let headers = [("authorization", write.as_str()), ("content-type", "application/cloudevents+json")];
    assert_eq!(hub.post("/v1/events", &headers, event.to_string().as_bytes()).status, 202);
    let seen = until(10, "the event did not arrive", || crm.ok_about("s@example.com").pop()).json();
    assert_eq!((&seen["traceparent"], &seen["sequence"]), (&json!(trace), &json!(7)), "{seen}");
    assert_eq!(seen["tenant"], "default");
    assert_ne!(seen["receivedat"], "never");
    let binary = [
        ("authorization", write.as_str()),
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "e2"),
        ("ce-source", "/app"),
        ("ce-type", "app.x"),
        ("ce-subject", "t@example.com"),
        ("ce-traceparent", trace),
    ];
    assert_eq!(hub.post("/v1/events", &binary, b"{}").status, 202);
    let seen = until(10, "the binary event did not arrive", || crm.ok_about("t@example.com").pop()).json();
    assert_eq!(seen["traceparent"], trace);
}

/// Whatever a path or a body says, a program gets a problem as JSON.
#[test]
pub fn bad_paths_and_bodies_are_problems_like_everything_else() {
    let (hub, _crm) = hub();
    let admin = key(&hub, "admin");
    let check = |method: &str, path: &str, body: &str, status: u16| {
        let headers = [("authorization", admin.as_str()), ("content-type", "application/json")];
        let reply = mailspan_testkit::request(hub.port, method, path, &headers, body.as_bytes()).unwrap();
        let shown = format!("{method} {path} {body}: {}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply.status, status, "{shown}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{shown}");
        assert!(!reply.json()["detail"].as_str().unwrap_or_default().is_empty(), "{shown}");
    };
    for path in ["/v1/events/%ff", "/v1/events/%ff/explain", "/v1/deliveries/%ff", "/v1/jobs/%ff"] {
        check("GET", path, "", 400);
    }
    for path in [
        "/v1/deliveries/%ff/replay",
        "/v1/deliveries/%ff/discard",
        "/v1/deliveries/%ff/correct",
        "/v1/jobs/%ff/pause",
        "/v1/jobs/1/%ff",
        "/v1/destinations/%ff/test",
        "/v1/destinations/%ff/pause",
        "/v1/destinations/%ff/resume",
        "/v1/destinations/%ff/prepare",
    ] {
        check("POST", path, "{}", 400);
    }
    check("DELETE", "/v1/keys/%ff", "", 400);
    for path in ["/v1/deliveries/1/replay", "/v1/deliveries/1/discard", "/v1/destinations/crm/pause"] {
        check("POST", path, "{", 400);
        check("POST", path, "{\"nothing\":1}", 400);
    }
    check("POST", "/v1/destinations/crm/prepare", "[", 400);
    check("POST", "/v1/replays", "{", 400);
    // Nothing said is not «all».
    check("POST", "/v1/replays", "", 400);
    check("POST", "/v1/keys", "{}", 400);
    check("GET", "/v1/events/nonsense", "", 400);
    check("GET", "/v1/deliveries/1", "", 404);
    check("POST", "/v1/events?wiat=10s", "{\"type\":\"app.x\"}", 400);
    check("POST", "/v1/events", "{\"type\":\"app.x\",\"time\":\"9999-12-31T23:59:59Z\"}", 400);
}

/// A map that doubles a text in a loop is ended long before the machine is; what else arrives is served.
#[test]
pub fn a_map_that_takes_too_much_is_a_dead_letter() {
    let crm = mailspan_testkit::Receiver::start();
    let map = "map = '''
x = \"0123456789abcdef\"
if .type == \"app.heavy\" { for_each(array!(.data.l)) -> |_i, _v| { x = x + x } }
{ \"subject\": .subject, \"n\": length(x) }
'''";
    let config = crate::support::config(&crm, "retry = [\"50ms\"]", map);
    let mut hub = Hub::new(crate::support::BINARY, &config, &[("MAILTARGET_SECRET", crate::support::SECRET)]);
    hub.start();
    let write = key(&hub, "events:write");
    let headers = [("authorization", write.as_str()), ("content-type", "application/json")];
    let ask = |kind: &str| {
        let body =
            json!({ "type": kind, "subject": "a@example.com", "data": { "l": vec![1; 33] } }).to_string();
        hub.post("/v1/events?wait=20s", &headers, body.as_bytes()).json()["deliveries"][0]["state"].clone()
    };
    assert_eq!(ask("app.heavy"), "dead");
    let row = hub.rows(&["dead-letters", "list"]).remove(0).to_string();
    assert!(row.contains("held more than 64 MiB"), "{row}");
    assert_eq!(ask("app.light"), "delivered");
}

#[test]
pub fn a_listing_says_what_it_did_not_find() {
    let (hub, _crm) = hub();
    let said = |words: &[&str]| {
        let output = hub.run(words);
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
    };
    assert!(said(&["events", "list"]).contains("no event has arrived yet"));
    assert!(said(&["events", "list", "--subject", "nobody"]).contains("no such event"));
    assert!(said(&["deliveries", "list", "--limit", "0"]).contains("--limit: expected 1 at least"));
}

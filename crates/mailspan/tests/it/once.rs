//! `Idempotency-Key` on the contacts API: done once, answered the same.

use mailspan_testkit::{Hub, Reply, request};
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::support::hub;

/// One write of each kind: method, path, body, status, and another body.
fn writes() -> [(&'static str, &'static str, Value, u16, Value); 4] {
    let ana = json!({ "email": "ana@example.com", "externalId": "u-1", "optIn": true });
    let rows = json!({ "contacts": [
        { "email": "bob@example.com", "externalId": "u-2" }, { "email": "ana@example.com", "externalId": "u-9" },
    ] });
    [
        ("PUT", "/contacts", ana, 200, json!({ "email": "ana@example.com", "locale": "es" })),
        ("PATCH", "/contacts/u-1", json!({ "optIn": false }), 200, json!({ "optIn": true })),
        ("POST", "/contacts/bulk", rows, 200, json!({ "contacts": [{ "email": "bob@example.com" }] })),
        (
            "POST",
            "/suppressions",
            json!({ "email": "eve@example.com", "reason": "complaint" }),
            201,
            json!({ "email": "eve@example.com" }),
        ),
    ]
}

fn is_again(reply: &Reply) -> bool {
    reply.header("idempotent-replayed") == Some("true")
}

fn accepted(hub: &Hub) -> Value {
    hub.rows(&["audit"])[0]["accepted"].clone()
}

#[test]
pub fn each_write_is_done_once_under_a_key_and_answered_the_same() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    for (method, path, body, status, other) in writes() {
        let key = format!("key of {method} {path}");
        let ask = |body: &Value| tenant.ask_with(method, path, &[("idempotency-key", &key)], body);
        let first = ask(&body);
        assert_eq!((first.status, is_again(&first)), (status, false), "{method} {path}: {}", first.text());
        let before = accepted(&hub);
        let again = ask(&body);
        assert_eq!(
            (again.status, is_again(&again), again.text()),
            (status, true, first.text()),
            "{method} {path}: the first answer was not given again"
        );
        assert_eq!(accepted(&hub), before, "{method} {path} was done twice");
        let refused = ask(&other);
        assert_eq!(refused.status, 422, "{method} {path}: {}", refused.text());
        assert!(refused.json()["message"].as_str().unwrap().contains("new key"), "{}", refused.text());
    }
    // What changed in between changes nothing of the first answer.
    tenant.ask("PATCH", "/contacts/u-1", &json!({ "locale": "fr" }));
    tenant.ask("DELETE", "/suppressions/eve%40example.com", &Value::Null);
    for (method, path, body, status, _) in writes() {
        let key = format!("key of {method} {path}");
        let again = tenant.ask_with(method, path, &[("idempotency-key", &key)], &body);
        assert!(again.status == status && is_again(&again), "{method} {path}: {}", again.text());
        assert!(!again.text().contains("\"fr\""), "{}", again.text());
    }
    assert_eq!(tenant.get("/suppressions")["data"], json!([]), "a lifted suppression was set again");
}

#[test]
pub fn a_key_is_of_one_path_and_refusals_are_judged_anew() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let named = [("idempotency-key", "k")];
    for (email, id) in [("ana@example.com", "u-1"), ("bob@example.com", "u-2")] {
        assert_eq!(tenant.put(json!({ "email": email, "externalId": id })).status, 200);
    }
    let body = json!({ "locale": "de" });
    assert_eq!(tenant.ask_with("PATCH", "/contacts/u-1", &named, &body).status, 200);
    assert_eq!(tenant.ask_with("PATCH", "/contacts/u-2", &named, &body).status, 422, "another path");
    // A conflict keeps nothing: when it is gone, the same request is done.
    let named = [("idempotency-key", "k2")];
    let wanted = json!({ "email": "ana@example.com", "externalId": "u-7" });
    assert_eq!(tenant.ask_with("PUT", "/contacts", &named, &wanted).status, 409);
    assert_eq!(tenant.ask("PATCH", "/contacts/u-1", &json!({ "externalId": null })).status, 200);
    let done = tenant.ask_with("PUT", "/contacts", &named, &wanted);
    assert!(done.status == 200 && !is_again(&done), "{}", done.text());
    assert!(is_again(&tenant.ask_with("PUT", "/contacts", &named, &wanted)));
    // An address that was suppressed before: 200, and the same again.
    let named = [("idempotency-key", "k3")];
    let block = json!({ "email": "eve@example.com" });
    assert_eq!(tenant.ask("POST", "/suppressions", &block).status, 201);
    assert_eq!(tenant.ask_with("POST", "/suppressions", &named, &block).status, 200);
    tenant.ask("DELETE", "/suppressions/eve%40example.com", &Value::Null);
    let again = tenant.ask_with("POST", "/suppressions", &named, &block);
    assert!(again.status == 200 && is_again(&again), "{}", again.text());
    let long = "k".repeat(256);
    assert_eq!(tenant.ask_with("PUT", "/contacts", &[("idempotency-key", &long)], &wanted).status, 400);
}

#[test]
pub fn an_answer_about_a_person_who_was_erased_since_is_given_no_more() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let named = [("idempotency-key", "k")];
    let ana =
        json!({ "email": "ana.perez7@example.com", "externalId": "u-1", "attributes": { "tel": "+34" } });
    assert_eq!(tenant.ask_with("PUT", "/contacts", &named, &ana).status, 200);
    assert_eq!(tenant.ask("DELETE", "/contacts/u-1", &Value::Null).status, 200);
    let again = tenant.ask_with("PUT", "/contacts", &named, &ana);
    assert_eq!(again.status, 409, "{}", again.text());
    assert!(again.text().contains("erased") && !again.text().contains("+34"), "{}", again.text());
    assert_eq!(tenant.get("/contacts")["data"], json!([]), "it was done anew");
}

#[test]
pub fn a_kill_between_write_and_answer_does_it_no_second_time() {
    let (mut hub, _) = hub();
    let key = Tenant::new(&hub, "acme").key;
    assert_eq!(hub.stop(), Some(0));
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
    let body = json!({ "email": "ana@example.com", "optIn": true }).to_string();
    // Before, while and after it is committed: done at most once by each, and once in the end.
    for point in ["accept-before-commit:1", "accept-in-commit:1", "accept-after-commit:1"] {
        hub.set_env("MAILSPAN_CRASH_POINT", point);
        hub.start();
        let told = request(hub.port, "PUT", "/contacts", &headers, body.as_bytes());
        assert!(told.is_err(), "{point}: it was answered");
        hub.wait_for_end(30, "the hub was not killed");
    }
    hub.set_env("MAILSPAN_CRASH_POINT", "");
    hub.start();
    let reply = request(hub.port, "PUT", "/contacts", &headers, body.as_bytes()).unwrap();
    assert!(reply.status == 200 && is_again(&reply), "{}", reply.text());
    let events = hub.rows(&["events", "list", "--type", "contact.created"]);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(reply.json()["createdAt"], reply.json()["updatedAt"]);
}

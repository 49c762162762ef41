//! The MailingCore-compatible API: contacts, bulk, suppressions, keys, rates, errors.

use mailspan_testkit::{Hub, Reply, request, until};
use serde_json::{Value, json};

use crate::support::{hub, hub_with};

/// A tenant of a hub, with its first key.
pub struct Tenant<'a> {
    pub hub: &'a Hub,
    pub key: String,
}

impl<'a> Tenant<'a> {
    pub fn new(hub: &'a Hub, name: &str) -> Tenant<'a> {
        let made = &hub.rows(&["tenants", "create", name])[0];
        Tenant { hub, key: made["key"].as_str().unwrap().to_owned() }
    }

    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.ask_with(method, path, &[], body)
    }

    pub fn ask_with(&self, method: &str, path: &str, more: &[(&str, &str)], body: &Value) -> Reply {
        let bearer = format!("Bearer {}", self.key);
        let headers =
            [&[("authorization", bearer.as_str()), ("content-type", "application/json")], more].concat();
        let text = if body.is_null() { String::new() } else { body.to_string() };
        request(self.hub.port, method, path, &headers, text.as_bytes()).unwrap()
    }

    pub fn put(&self, body: Value) -> Reply {
        self.ask("PUT", "/contacts", &body)
    }

    pub fn get(&self, path: &str) -> Value {
        let reply = self.ask("GET", path, &Value::Null);
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.text());
        reply.json()
    }
}

fn check(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    reply.json()
}

#[test]
fn a_contact_is_made_changed_shown_and_erased() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let made = check(
        &tenant.put(json!({
            "email": " Ana@Example.COM ", "externalId": "u-1", "locale": "es", "optIn": true,
            "consentVersion": "2026-01", "source": "signup", "attributes": { "plan": "pro" },
        })),
        200,
    );
    assert_eq!(made["email"], "Ana@example.com");
    assert_eq!(made["tenantId"], "acme");
    assert_eq!((&made["optIn"], &made["permission"]), (&json!(true), &json!(2)));
    assert_eq!(made["attributes"], json!({ "plan": "pro" }));
    let id = made["id"].as_str().unwrap();

    let again =
        check(&tenant.put(json!({ "email": "ana@example.com", "externalId": "u-1", "optIn": true })), 200);
    assert_eq!(again["updatedAt"], made["updatedAt"], "nothing changed, and yet it moved");
    assert_eq!(again["locale"], "es", "what is absent stays");

    let changed = check(
        &tenant.ask("PATCH", "/contacts/u-1", &json!({ "locale": null, "attributes": { "x": 1 } })),
        200,
    );
    assert_eq!((&changed["locale"], &changed["attributes"]), (&Value::Null, &json!({ "x": 1 })));
    assert_eq!(tenant.get(&format!("/contacts/{id}"))["id"], id);
    assert_eq!(tenant.get("/contacts/u-1")["id"], id);

    let out = check(&tenant.ask("PATCH", &format!("/contacts/{id}"), &json!({ "optIn": false })), 200);
    assert_eq!((&out["optIn"], &out["permission"]), (&json!(false), &json!(1)));
    assert!(out["unsubscribedAt"].is_string() && out["suppressedAt"].is_null());

    let gone = check(&tenant.ask("DELETE", "/contacts/u-1", &Value::Null), 200);
    assert_eq!(gone, json!({ "deleted": true, "externalId": "u-1", "suppressed": true }));
    assert_eq!(tenant.ask("DELETE", "/contacts/u-1", &Value::Null).status, 404);
    assert_eq!(tenant.ask("GET", &format!("/contacts/{id}"), &Value::Null).status, 404);
    let anew = check(&tenant.put(json!({ "email": "ana@example.com", "optIn": true })), 200);
    assert!(anew["suppressedAt"].is_string(), "an erased address stays suppressed: {anew}");
    assert_ne!(anew["id"], id);
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
fn the_matching_table_holds() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let row = |email: &str, id: Option<&str>| match id {
        Some(id) => json!({ "email": email, "externalId": id }),
        None => json!({ "email": email }),
    };
    let put = |email: &str, id: Option<&str>| tenant.put(row(email, id));
    let a = check(&put("a@x.org", None), 200);
    let adopted = check(&put("a@x.org", Some("A")), 200);
    assert_eq!((&adopted["id"], &adopted["externalId"]), (&a["id"], &json!("A")));
    assert_eq!(check(&put("a@x.org", None), 200)["externalId"], "A");
    let moved = check(&put("a2@x.org", Some("A")), 200);
    assert_eq!((&moved["id"], &moved["email"]), (&a["id"], &json!("a2@x.org")));
    let b = check(&put("b@x.org", Some("B")), 200);
    assert_ne!(b["id"], a["id"]);
    check(&put("b@x.org", Some("C")), 409);
    let taken = check(&put("b@x.org", Some("A")), 409);
    assert_eq!(taken["statusCode"], 409);
    // The old address is free again.
    assert_ne!(check(&put("a@x.org", Some("D")), 200)["id"], a["id"]);
}

#[test]
fn bad_input_names_each_member() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    for (body, named) in [
        (json!({}), "email"),
        (json!({ "email": "nobody" }), "email"),
        (json!({ "email": 7 }), "email"),
        (json!({ "email": "a@x.org", "locale": "en-GB" }), "locale"),
        (json!({ "email": "a@x.org", "optIn": "yes" }), "optIn"),
        (json!({ "email": "a@x.org", "externalId": "x".repeat(129) }), "externalId"),
        (json!({ "email": "a@x.org", "source": "x".repeat(65) }), "source"),
        (json!({ "email": "a@x.org", "attributes": [1] }), "attributes"),
        (
            json!({ "email": "a@x.org", "attributes": { "a": { "b": { "c": { "d": { "e": { "f": 1 } } } } } } }),
            "attributes",
        ),
        (json!({ "email": "a@x.org", "attributes": { "a": "x".repeat(17_000) } }), "attributes"),
        (json!({ "email": "a@x.org", "permission": 7 }), "permission"),
        (json!({ "email": "a@x.org", "customFields": { "undeclared": 1 } }), "customFields"),
    ] {
        let error = check(&tenant.put(body.clone()), 400);
        assert!(error["message"].as_str().unwrap().contains(named), "{body}: {error}");
        assert_eq!((&error["path"], &error["detail"]), (&json!("/contacts"), &error["message"]));
        assert!(error["timestamp"].is_string());
    }
    check(&tenant.ask("GET", "/contacts?limit=501", &Value::Null), 400);
    check(&tenant.ask("GET", "/contacts?cursor=nonsense", &Value::Null), 400);
    check(&tenant.ask("GET", "/contacts?optIn=maybe", &Value::Null), 400);
    check(&tenant.ask("GET", "/contacts?updatedSince=yesterday", &Value::Null), 400);
    assert_eq!(tenant.ask("POST", "/contacts", &json!({})).status, 405);
    let not_json =
        request(hub.port, "PUT", "/contacts", &[("authorization", &format!("Bearer {}", tenant.key))], b"{")
            .unwrap();
    check(&not_json, 400);
}

#[test]
fn keys_have_scopes_and_a_tenant() {
    let (hub, _) = hub();
    let (acme, other) = (Tenant::new(&hub, "acme"), Tenant::new(&hub, "other"));
    check(&acme.put(json!({ "email": "a@x.org", "externalId": "1" })), 200);
    assert_eq!(other.ask("GET", "/contacts/1", &Value::Null).status, 404);
    let foreign = acme.ask_with("GET", "/contacts/1", &[("x-tenant-id", "other")], &Value::Null);
    assert_eq!(check(&foreign, 403)["statusCode"], 403);
    assert_eq!(acme.ask_with("GET", "/contacts/1", &[("x-tenant-id", "acme")], &Value::Null).status, 200);
    let made = &hub.rows(&["keys", "create", "--tenant", "acme", "--scope", "contacts:read"])[0];
    let reader = Tenant { hub: &hub, key: made["key"].as_str().unwrap().to_owned() };
    let refused = check(&reader.put(json!({ "email": "a@x.org" })), 403);
    assert_eq!(refused["message"], "Missing required API key scope: contacts:write");
    let nobody = request(hub.port, "GET", "/contacts", &[], b"").unwrap();
    assert_eq!(check(&nobody, 401)["statusCode"], 401);
    assert_eq!(hub.run(&["tenants", "create", "acme"]).status.code(), Some(1));
}

#[test]
fn bulk_refuses_what_cannot_be_read_and_keeps_the_good_rows_of_a_conflict() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    check(&tenant.put(json!({ "email": "old@x.org", "externalId": "old" })), 200);
    let bulk = |rows: Value| tenant.ask("POST", "/contacts/bulk", &json!({ "contacts": rows }));
    check(&bulk(json!([])), 400);
    let many: Vec<Value> = (0..1_001).map(|n| json!({ "email": format!("n{n}@x.org") })).collect();
    check(&bulk(json!(many)), 400);
    let bad = check(&bulk(json!([{ "email": "fine@x.org" }, { "email": "bad" }])), 400);
    assert!(bad["message"].as_str().unwrap().contains("contacts[1]"), "{bad}");
    assert_eq!(tenant.get("/contacts")["meta"]["total"], 1, "nothing was written");
    let summary = check(
        &bulk(json!([
            { "email": "one@x.org", "externalId": "1", "optIn": true },
            { "email": "old@x.org", "locale": "de" },
            { "email": "old@x.org", "externalId": "other" },
            { "email": "one@x.org", "locale": "fr" },
        ])),
        200,
    );
    assert_eq!(summary["created"], 1);
    assert_eq!(summary["updated"], 2);
    assert_eq!((&summary["failed"], &summary["total"]), (&json!(1), &json!(4)));
    assert_eq!(summary["errors"][0]["index"], 2);
    assert_eq!(summary["errors"][0]["statusCode"], 409);
    assert_eq!(tenant.get("/contacts/1")["locale"], "fr");
    let thousand: Vec<Value> =
        (0..1_000).map(|n| json!({ "email": format!("n{n}@x.org"), "optIn": true })).collect();
    assert_eq!(check(&bulk(json!(thousand)), 200)["created"], 1_000);
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
fn lists_go_by_page_and_by_cursor() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let rows: Vec<Value> = (0..25)
        .map(|n| json!({ "email": format!("n{n:02}@x.org"), "locale": if n % 2 == 0 { "es" } else { "de" }, "optIn": n % 5 == 0 }))
        .collect();
    check(&tenant.ask("POST", "/contacts/bulk", &json!({ "contacts": rows })), 200);
    let page = tenant.get("/contacts?page=3&limit=10");
    assert_eq!(page["data"].as_array().unwrap().len(), 5);
    assert_eq!(page["meta"]["totalPages"], 3);
    assert_eq!(tenant.get("/contacts?locale=es")["meta"]["total"], 13);
    assert_eq!(tenant.get("/contacts?optIn=true")["meta"]["total"], 5);

    let (mut cursor, mut seen) = (String::new(), Vec::new());
    for _ in 0..10 {
        let page =
            tenant.get(&format!("/contacts?updatedSince=2020-01-01T00:00:00Z&limit=7&cursor={cursor}"));
        seen.extend(
            page["data"].as_array().unwrap().iter().map(|row| row["email"].as_str().unwrap().to_owned()),
        );
        match page["meta"]["nextCursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    let expected: Vec<String> = (0..25).map(|n| format!("n{n:02}@x.org")).collect();
    assert_eq!(seen, expected);
    let other = tenant.ask("GET", &format!("/contacts?cursor={cursor}&locale=es"), &Value::Null);
    assert!(check(&other, 400)["message"].as_str().unwrap().contains("filters"));
    // What changed since a time, that time included.
    let at = check(
        &tenant.ask(
            "PATCH",
            &format!("/contacts/{}", tenant.get("/contacts?limit=1")["data"][0]["id"].as_str().unwrap()),
            &json!({ "locale": "fr" }),
        ),
        200,
    );
    let since = tenant.get(&format!("/contacts?updatedSince={}", at["updatedAt"].as_str().unwrap()));
    assert_eq!(since["data"].as_array().unwrap().len(), 1);
}

#[test]
fn suppressions_are_added_listed_and_lifted() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    check(&tenant.put(json!({ "email": "a@x.org", "externalId": "a", "optIn": true })), 200);
    let add = |body: Value| tenant.ask("POST", "/suppressions", &body);
    let row = check(&add(json!({ "email": "A@x.org" })), 201);
    assert_eq!((&row["reason"], &row["email"]), (&json!("manual"), &json!("a@x.org")));
    assert_eq!(check(&add(json!({ "email": "a@x.org", "reason": "bounce" })), 200)["reason"], "manual");
    check(&add(json!({ "email": "a@x.org", "reason": "mood" })), 400);
    check(&add(json!({ "email": "stranger@x.org", "reason": "complaint" })), 201);
    let contact = tenant.get("/contacts/a");
    assert!(contact["suppressedAt"].is_string() && contact["optIn"] == true, "{contact}");
    let list = tenant.get("/suppressions?limit=1");
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    let next = list["meta"]["nextCursor"].as_str().unwrap();
    assert_eq!(
        tenant.get(&format!("/suppressions?limit=1&cursor={next}"))["data"][0]["email"],
        "stranger@x.org"
    );
    assert_eq!(check(&tenant.ask("DELETE", "/suppressions/a%40x.org", &Value::Null), 200)["removed"], true);
    assert_eq!(tenant.ask("DELETE", "/suppressions/a%40x.org", &Value::Null).status, 404);
    assert!(tenant.get("/contacts/a")["suppressedAt"].is_null());
    // An unsubscribe that is pushed revokes consent; lifting it does not give it back.
    check(&add(json!({ "email": "a@x.org", "reason": "unsubscribe" })), 201);
    assert_eq!(tenant.get("/contacts/a")["optIn"], false);
    // A stronger reason takes its place, is the one that stays, and a repeat of it leaves no fact.
    assert_eq!(check(&add(json!({ "email": "a@x.org", "reason": "complaint" })), 200)["reason"], "complaint");
    let count = || hub.rows(&["ledger", "list", "--subject", "a@x.org"]).len();
    let facts = count();
    for reason in ["complaint", "unsubscribe", "bounce", "manual", "unsubscribe"] {
        assert_eq!(check(&add(json!({ "email": "a@x.org", "reason": reason })), 200)["reason"], "complaint");
    }
    assert_eq!(count(), facts);
    check(&tenant.ask("DELETE", "/suppressions/a%40x.org", &Value::Null), 200);
    assert_eq!(tenant.get("/contacts/a")["optIn"], false);
}

/// What stays when a person is erased names nobody, and what proves a consent is what it says.
#[test]
fn the_name_of_a_field_and_the_proof_of_a_consent() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let put = |ip: &str| tenant.put(json!({ "email": "a@x.org", "externalId": "crm-4711", "consentIp": ip }));
    let refused = check(&put("not an ip"), 400);
    assert!(refused.to_string().contains("consentIp"), "{refused}");
    check(&put("2001:db8::7"), 200);
    for (name, status) in [("of crm-4711", 400), ("crm-4711", 400), ("crm-47110", 201), ("size", 201)] {
        let reply = tenant.ask("POST", "/v1/fields", &json!({ "name": name, "kind": "string" }));
        assert_eq!(reply.status, status, "{name}: {}", reply.text());
    }
}

#[test]
fn an_unsubscription_is_no_repeat_of_one_that_an_opt_in_came_after() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let add =
        |reason: &str| tenant.ask("POST", "/suppressions", &json!({ "email": "a@x.org", "reason": reason }));
    let count = || hub.rows(&["ledger", "list", "--subject", "a@x.org"]).len();
    let opt_in = |status| {
        check(
            &tenant.ask("PUT", "/contacts", &json!({ "email": "a@x.org", "externalId": "a", "optIn": true })),
            status,
        );
        assert_eq!(tenant.get("/contacts/a")["optIn"], true);
    };
    opt_in(200);
    for reason in ["unsubscribe", "complaint"] {
        let first = add(reason).json();
        let facts = count();
        assert_eq!(check(&add(reason), 200), first, "{reason}: a repeat is the same answer");
        assert_eq!(count(), facts, "{reason}: a repeat left a fact");
        opt_in(200);
        let again = check(&add(reason), 200);
        assert_eq!(tenant.get("/contacts/a")["optIn"], false, "{reason}: it was passed over");
        assert_eq!(
            again["createdAt"] != first["createdAt"],
            reason == "unsubscribe",
            "{again} after {first}"
        );
        opt_in(200);
    }
    // Erased, and nobody: a list that names the address makes no person.
    check(&tenant.ask("DELETE", "/contacts/a", &Value::Null), 200);
    assert_eq!(check(&add("unsubscribe"), 200)["reason"], "erasure");
    assert_eq!(tenant.ask("GET", "/contacts/a", &Value::Null).status, 404);
}

#[test]
fn changes_are_events_that_routes_can_send() {
    let own = "[[routes]]\nname = \"own\"\nfrom = [\"contacts\"]\nto = [\"crm\"]\n";
    let (hub, crm) = hub_with("", own);
    let key =
        hub.rows(&["keys", "create", "--scope", "contacts:write", "--scope", "contacts:read"])[0]["key"]
            .clone();
    let tenant = Tenant { hub: &hub, key: key.as_str().unwrap().to_owned() };
    check(&tenant.put(json!({ "email": "a@example.com", "externalId": "u1", "optIn": true })), 200);
    check(&tenant.ask("PATCH", "/contacts/u1", &json!({ "optIn": false })), 200);
    let seen = until(10, "two events did not arrive", || {
        let seen = crm.ok_about("a@example.com");
        (seen.len() == 2).then_some(seen)
    });
    let types: Vec<Value> = seen.iter().map(|request| request.json()["type"].clone()).collect();
    assert_eq!(types, ["contact.created", "contact.unsubscribed"]);
    assert_eq!(seen[1].json()["data"]["origin"], "api");
    assert_eq!(seen[0].json()["data"]["contact"]["opt_in"], true);
    let facts = hub.rows(&["ledger", "list", "--subject", "a@example.com"]);
    let words: Vec<&str> = facts.iter().map(|fact| fact["what"].as_str().unwrap()).collect();
    assert_eq!(words, ["opt_in", "opt_out"]);
    assert_eq!(facts[0]["evidence"]["origin"], "api");
    assert!(facts[0]["evidence"]["ip"].is_string());
}

#[test]
fn the_rate_is_told_and_kept() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let reply = tenant.ask("GET", "/contacts", &Value::Null);
    assert_eq!(reply.header("x-ratelimit-limit"), Some("300"));
    assert_eq!(reply.header("x-ratelimit-remaining"), Some("299"));
    assert!(reply.header("x-ratelimit-reset").is_some());
    hub.run(&["tenants", "set", "acme", "--rate-per-minute", "3"]);
    let refused = until(20, "the limit does not hold", || {
        let reply = tenant.ask("GET", "/contacts", &Value::Null);
        (reply.status == 429).then_some(reply)
    });
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.json()["statusCode"], 429);
    hub.run(&["tenants", "set", "acme", "--rate-per-minute", "0"]);
    until(20, "no limit was asked for", || {
        let reply = tenant.ask("GET", "/contacts", &Value::Null);
        (reply.status == 200 && reply.header("x-ratelimit-limit").is_none()).then_some(())
    });
}

#[test]
fn the_document_and_its_page_are_served() {
    let (hub, _) = hub();
    let document = mailspan_testkit::get(hub.port, "/openapi.json").unwrap().json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in [
        "/contacts",
        "/contacts/{idOrExternalId}",
        "/contacts/bulk",
        "/suppressions",
        "/suppressions/{email}",
    ] {
        assert!(document["paths"][path].is_object(), "{path} is not in the document");
    }
    let page = mailspan_testkit::get(hub.port, "/docs").unwrap();
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert_eq!(mailspan_testkit::get(hub.port, "/docs/swagger-ui-bundle.js").unwrap().status, 200);
}

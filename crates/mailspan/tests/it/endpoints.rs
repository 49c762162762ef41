//! Webhook endpoints of the API: made, signed, retried, logged, rotated, removed while the hub runs.

use mailspan_connectors::signature::{hex, hmac_sha256};
use mailspan_testkit::{Receiver, until};
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::support::{event, hub, send};

const SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";

fn check(reply: &mailspan_testkit::Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    reply.json()
}

fn make(tenant: &Tenant, receiver: &Receiver, events: &[&str], more: Value) -> Value {
    let mut body = json!({ "url": format!("http://127.0.0.1:{}/hook", receiver.port), "events": events, "secret": SECRET });
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    check(&tenant.ask("POST", "/webhooks/endpoints", &body), 201)
}

/// As the vendor's documented verifier does it.
fn verify(secret: &str, header: &str, body: &[u8]) -> bool {
    let parts: Vec<(&str, &str)> = header.split(',').filter_map(|part| part.split_once('=')).collect();
    let find =
        |name: &str| parts.iter().find(|(key, _)| *key == name).map(|(_, value)| *value).unwrap_or_default();
    let text = [find("t").as_bytes(), b".", body].concat();
    hex(&hmac_sha256(secret.as_bytes(), &text)) == find("v1")
}

#[test]
fn an_unsubscribe_reaches_an_endpoint_signed_and_logged() {
    let (hub, _) = hub();
    let receiver = Receiver::start();
    let tenant = Tenant::new(&hub, "acme");
    let made = make(&tenant, &receiver, &["contact.unsubscribed"], json!({}));
    assert_eq!(
        (&made["secret"], &made["secretHint"], &made["isActive"]),
        (&json!(SECRET), &json!("cdef"), &json!(true))
    );
    let id = made["id"].as_str().unwrap();
    tenant.put(json!({ "email": "a@x.org", "externalId": "u-1", "optIn": true }));
    tenant.ask("PATCH", "/contacts/u-1", &json!({ "optIn": false }));
    let seen = until(10, "no webhook came", || receiver.ok().pop());
    let body = seen.json();
    assert_eq!(body["type"], "contact.unsubscribed");
    assert_eq!(body["tenantId"], "acme");
    assert!(body["id"].as_str().unwrap().starts_with("evt_"));
    let data = &body["data"];
    assert_eq!(
        (&data["externalId"], &data["email"], &data["source"]),
        (&json!("u-1"), &json!("a@x.org"), &json!("api"))
    );
    assert!(data["contactId"].is_string() && data["unsubscribedAt"].is_string());
    assert!(verify(SECRET, seen.header("x-mailingcore-signature").unwrap(), &seen.body));
    assert_eq!(seen.header("x-mailingcore-event"), Some("contact.unsubscribed"));
    assert_eq!(seen.header("user-agent"), Some("MailingCore-Webhook/1.0"));
    let log = until(10, "the delivery is not in the log", || {
        let log = tenant.get(&format!("/webhooks/endpoints/{id}/deliveries"));
        (log["data"][0]["status"] == "SUCCESS").then_some(log)
    });
    let row = &log["data"][0];
    assert_eq!(log["data"].as_array().unwrap().len(), 1, "creation is not among the events asked for");
    assert_eq!(seen.header("x-mailingcore-delivery-id"), row["id"].as_str());
    assert_eq!((&row["payload"], &row["statusCode"], &row["attempt"]), (&body, &json!(200), &json!(1)));
    // Again: the same ids, a signature of now.
    let path = format!("/webhooks/endpoints/{id}/deliveries/{}/redeliver", row["id"].as_str().unwrap());
    check(&tenant.ask("POST", &path, &Value::Null), 202);
    let again = until(10, "it was not delivered again", || {
        (receiver.ok().len() == 2).then(|| receiver.ok().pop().unwrap())
    });
    assert_eq!(again.header("x-mailingcore-delivery-id"), seen.header("x-mailingcore-delivery-id"));
    assert_eq!(again.json()["id"], body["id"]);
    // Nothing of the secret is in the database or in a list.
    assert!(tenant.get("/webhooks/endpoints")["data"][0]["secret"].is_null());
    for file in std::fs::read_dir(hub.folder()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
    }
}

#[test]
fn the_log_shows_the_beginning_of_what_was_answered_until_the_person_is_erased() {
    let (hub, _) = hub();
    let receiver = Receiver::start();
    receiver.answer(|_| (202, Vec::new(), format!("thanks, {}", "é".repeat(2_000))));
    let tenant = Tenant::new(&hub, "acme");
    let made = make(&tenant, &receiver, &["contact.unsubscribed"], json!({}));
    let path = format!("/webhooks/endpoints/{}/deliveries", made["id"].as_str().unwrap());
    tenant.put(json!({ "email": "a@x.org", "externalId": "u-1", "optIn": true }));
    tenant.ask("PATCH", "/contacts/u-1", &json!({ "optIn": false }));
    let row = until(10, "the delivery is not in the log", || {
        let row = tenant.get(&path)["data"][0].clone();
        (row["status"] == "SUCCESS").then_some(row)
    });
    let said = row["responseBody"].as_str().unwrap_or_else(|| panic!("no answer in the log: {row}"));
    assert!(said.starts_with("thanks, éé") && said.chars().count() == 1_024, "{said}");
    check(&tenant.ask("DELETE", "/contacts/u-1", &Value::Null), 200);
    until(20, "the answer outlived the person", || {
        tenant.get(&path)["data"][0]["responseBody"].is_null().then_some(())
    });
}

#[test]
fn events_of_webhooks_reach_endpoints_too_and_failures_keep_the_schedule() {
    let (mut hub, _) = hub();
    let receiver = Receiver::start();
    // A refusal elsewhere, one of five tries here.
    receiver.status(404);
    let key =
        hub.rows(&["keys", "create", "--scope", "webhooks:manage"])[0]["key"].as_str().unwrap().to_owned();
    let id = {
        let tenant = Tenant { hub: &hub, key: key.clone() };
        let made = make(
            &tenant,
            &receiver,
            &["email.bounced", "email.complained"],
            json!({ "standardWebhooks": true }),
        );
        assert_eq!(send(&hub, &event("bounce", "b@example.com", crate::support::AT)).status, 200);
        made["id"].as_str().unwrap().to_owned()
    };
    let seen = until(10, "no webhook came", || receiver.seen().pop());
    assert_eq!(seen.json()["data"]["bounceType"], "hard");
    assert_eq!(seen.json()["data"]["to"], "b@example.com");
    assert_eq!(seen.json()["data"]["toEmail"], "b@example.com");
    assert!(seen.header("webhook-signature").is_some_and(|value| value.starts_with("v1,")));
    let path = format!("/webhooks/endpoints/{id}/deliveries");
    let row = until(10, "the failure is not in the log", || {
        let tenant = Tenant { hub: &hub, key: key.clone() };
        let row = tenant.get(&path)["data"][0].clone();
        (row["statusCode"] == 404).then_some(row)
    });
    assert_eq!((&row["status"], &row["attempt"]), (&json!("PENDING"), &json!(1)));
    let (at, next) = (row["deliveredAt"].as_str().unwrap(), row["nextAttemptAt"].as_str().unwrap());
    let ms = |text: &str| mailspan_core::Millis::parse_rfc3339(text).unwrap().0;
    let wait = ms(next) - ms(at);
    assert!((10_000..12_000).contains(&wait), "the second attempt is due after {wait} ms, not ten seconds");
    // It is there after a kill: endpoints are rows.
    hub.kill();
    receiver.status(200);
    hub.start();
    let tenant = Tenant { hub: &hub, key };
    assert_eq!(tenant.get("/webhooks/endpoints")["data"][0]["id"], id);
    until(30, "the retry did not come after the start", || receiver.ok().pop());
    let off = check(&tenant.ask("PATCH", &format!("/webhooks/endpoints/{id}/toggle"), &Value::Null), 200);
    assert_eq!(off["isActive"], false);
    let count = receiver.seen().len();
    send(&hub, &event("bounce", "c@example.com", crate::support::AT));
    until(10, "the event was not routed", || {
        (hub.rows(&["deliveries", "list", "--subject", "c@example.com", "--state", "delivered"]).len() == 1)
            .then_some(())
    });
    assert_eq!(receiver.seen().len(), count, "an endpoint that is off was told");
    let set = json!({ "isActive": true });
    for _ in 0..2 {
        assert_eq!(
            check(&tenant.ask("PATCH", &format!("/webhooks/endpoints/{id}/toggle"), &set), 200)["isActive"],
            true
        );
    }
    check(&tenant.ask("DELETE", &format!("/webhooks/endpoints/{id}"), &Value::Null), 200);
    assert_eq!(tenant.ask("DELETE", &format!("/webhooks/endpoints/{id}"), &Value::Null).status, 404);
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
fn secrets_are_rotated_and_tested() {
    let (hub, _) = hub();
    let receiver = Receiver::start();
    let tenant = Tenant::new(&hub, "acme");
    let id =
        make(&tenant, &receiver, &["contact.unsubscribed"], json!({}))["id"].as_str().unwrap().to_owned();
    let test = || check(&tenant.ask("POST", &format!("/webhooks/endpoints/{id}/test"), &Value::Null), 200);
    assert_eq!(test()["delivered"], true);
    let signed = |secret: &str| {
        let seen = receiver.seen().pop().unwrap();
        verify(secret, seen.header("x-mailingcore-signature").unwrap(), &seen.body)
    };
    assert!(signed(SECRET));
    let rotate = |body: Value| {
        check(&tenant.ask("POST", &format!("/webhooks/endpoints/{id}/rotate-secret"), &body), 200)
    };
    let later =
        rotate(json!({ "secret": "the-next-secret-of-the-endpoint-0", "from": "2199-01-01T00:00:00Z" }));
    assert_eq!(later["nextSecretFrom"], "2199-01-01T00:00:00.000Z");
    let hint = |secret: &str| secret[secret.len() - 4..].to_owned();
    let shown = || tenant.get("/webhooks/endpoints")["data"][0]["secretHint"].clone();
    assert_eq!(
        (&later["secretHint"], shown()),
        (&json!(hint(SECRET)), json!(hint(SECRET))),
        "not before its time"
    );
    test();
    assert!(signed(SECRET), "the next secret signs before its time");
    let fresh = rotate(json!({}));
    test();
    assert!(signed(fresh["secret"].as_str().unwrap()));
    assert_eq!(shown(), hint(fresh["secret"].as_str().unwrap()));
    receiver.status(410);
    let failed = test();
    assert_eq!((&failed["delivered"], &failed["statusCode"]), (&json!(false), &json!(410)));
}

#[test]
fn bad_endpoints_are_refused() {
    let (hub, _) = hub();
    let tenant = Tenant::new(&hub, "acme");
    let ask = |body: Value| tenant.ask("POST", "/webhooks/endpoints", &body);
    let good = json!({ "url": "https://hooks.example.com/x", "events": ["email.bounced"] });
    for (name, value, named) in [
        ("url", json!("http://hooks.example.com/x"), "https"),
        ("url", json!("https://user:pw@hooks.example.com/x"), "user"),
        ("url", json!("https://hooks.example.com:25/x"), "port"),
        ("url", json!("ftp://hooks.example.com/x"), "https"),
        ("url", json!("https://hooks.example.com/x?for=ann%40example.com"), "e-mail address"),
        ("url", json!("https://hooks.example.com/ann@example.com"), "e-mail address"),
        ("url", json!("nonsense"), "url"),
        ("events", json!([]), "events"),
        ("events", json!(["email.bounced", "email.bounced"]), "twice"),
        ("events", json!(["email.eaten"]), "email.eaten"),
        ("secret", json!("short"), "secret"),
        ("secret", json!("ünprintable-secret-of-the-endpoint"), "secret"),
    ] {
        let mut body = good.clone();
        body[name] = value;
        let error = check(&ask(body.clone()), 400);
        assert!(error["message"].as_str().unwrap().contains(named), "{body}: {error}");
    }
    let mut short = good.clone();
    short["secret"] = json!("sixteen-letters!");
    assert!(check(&ask(short), 201)["warnings"][0].as_str().unwrap().contains("32"));
    for _ in 0..9 {
        assert!(check(&ask(good.clone()), 201)["secret"].as_str().unwrap().starts_with("whsec_"));
    }
    check(&ask(good), 409);
    let made = &hub.rows(&["keys", "create", "--tenant", "acme", "--scope", "contacts:read"])[0];
    let reader = Tenant { hub: &hub, key: made["key"].as_str().unwrap().to_owned() };
    let refused = check(&reader.ask("GET", "/webhooks/endpoints", &Value::Null), 403);
    assert_eq!(refused["message"], "Missing required API key scope: webhooks:manage");
    let other = Tenant::new(&hub, "other");
    assert_eq!(other.get("/webhooks/endpoints")["data"], json!([]));
}

/// A store key is rotated: the old one beside the new, everything sealed anew, then the new one alone.
#[test]
fn the_store_key_is_rotated_and_belongs_into_the_back_up() {
    let crm = Receiver::start();
    let receiver = Receiver::start();
    let config = |keys: &str| {
        crate::support::config(&crm, "", "")
            .replace("url = \"sqlite:hub.db\"", &format!("url = \"sqlite:hub.db\"\n{keys}"))
    };
    let env = [
        ("MAILTARGET_SECRET", crate::support::SECRET),
        ("ONE", "the-first-store-key-of-the-tests"),
        ("TWO", "the-second-store-key-of-the-test"),
    ];
    let mut hub =
        mailspan_testkit::Hub::new(crate::support::BINARY, &config("key = { env = \"ONE\" }"), &env);
    hub.start();
    let tenant = Tenant::new(&hub, "acme");
    let id =
        make(&tenant, &receiver, &["contact.unsubscribed"], json!({}))["id"].as_str().unwrap().to_owned();
    let key = tenant.key.clone();
    let restart = |hub: &mut mailspan_testkit::Hub, keys: &str| {
        hub.kill();
        let text = config(keys).replace("{HUB}", &hub.port.to_string());
        std::fs::write(hub.folder().join("hub.toml"), text).unwrap();
        hub.start();
    };
    let tested = |hub: &mailspan_testkit::Hub| {
        let tenant = Tenant { hub, key: key.clone() };
        tenant.ask("POST", &format!("/webhooks/endpoints/{id}/test"), &Value::Null).status
    };
    assert_eq!(tested(&hub), 200);
    hub.kill();
    let text = config("key = { env = \"TWO\" }").replace("{HUB}", &hub.port.to_string());
    std::fs::write(hub.folder().join("hub.toml"), text).unwrap();
    hub.spawn();
    assert!(!hub.ready(), "it serves without its key");
    assert!(hub.log().contains("[storage] key or old_keys"), "the log does not say what to do");
    restart(&mut hub, "key = { env = \"TWO\" }\nold_keys = [{ env = \"ONE\" }]");
    assert_eq!(tested(&hub), 200);
    assert_eq!(hub.rows(&["keys", "reseal"])[0]["resealed"], 1);
    restart(&mut hub, "key = { env = \"TWO\" }");
    assert_eq!(tested(&hub), 200);
}

//! Contacts into a MailingCore account and consent back from it, both as processes.

use mailspan_testkit::{Hub, Sandbox, until};
use serde_json::{Value, json};

use crate::crm::{at, settled};
use crate::support::{BINARY, base};

const KEY: &str = "mc_test_of_the_tests";
const SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";

fn config(account: u16, destination: &str) -> String {
    let base = base("");
    format!(
        r#"{base}

[sources.app]
kind = "api"

[sources.core]
kind = "mailingcore"
secrets = [{{ env = "CORE_SECRET" }}]
account = "core"

[destinations.core]
kind = "mailingcore"
base_url = "http://127.0.0.1:{account}"
auth = {{ kind = "bearer", token = {{ env = "CORE_KEY" }} }}
account = "core"
timeout = "5s"
rate = "1000/1s"
{destination}

[[routes]]
name = "audience"
events = ["contact.*", "email.complained", "email.bounced"]
to = ["core"]
"#
    )
}

/// A hub and a fake account that posts its webhooks to the hub.
fn pair(destination: &str) -> (Hub, Sandbox, String) {
    let sandbox = Sandbox::start(BINARY, "mailingcore", &["--api-key", KEY, "--seed", "5"]);
    let env = [("CORE_SECRET", SECRET), ("CORE_KEY", KEY)];
    let mut hub = Hub::new(BINARY, &config(sandbox.port, destination), &env);
    hub.start();
    let url = format!("http://127.0.0.1:{}/in/core", hub.port);
    let body = json!({"url": url, "events": ["contact.unsubscribed"], "secret": SECRET}).to_string();
    let auth = format!("Bearer {KEY}");
    let headers = [("authorization", auth.as_str()), ("content-type", "application/json")];
    let made =
        mailspan_testkit::post(sandbox.port, "/webhooks/endpoints", &headers, body.as_bytes()).unwrap();
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    let key = &hub.rows(&["keys", "create", "--scope", "events:write"])[0];
    let key = format!("Bearer {}", key["key"].as_str().unwrap());
    (hub, sandbox, key)
}

fn say(hub: &Hub, key: &str, events: &[Value]) {
    let headers = [("authorization", key), ("content-type", "application/json")];
    let reply = hub.post("/v1/events", &headers, json!(events).to_string().as_bytes());
    assert_eq!(reply.status, 202, "{}", String::from_utf8_lossy(&reply.body));
}

fn email(n: usize) -> String {
    format!("p{n}@example.com")
}

fn created(n: usize) -> Value {
    let contact = json!({"email": email(n), "external_id": format!("u-{n}"), "locale": "de", "opt_in": true});
    json!({"type": "contact.created", "id": format!("c-{n}"), "subject": email(n), "time": at(1), "data": {"contact": contact}})
}

fn found<'s>(state: &'s Value, email: &str) -> &'s Value {
    let all = state["contacts"].as_array().unwrap();
    all.iter().find(|contact| contact["email"] == email).unwrap_or(&Value::Null)
}

#[test]
fn contacts_go_to_the_account_and_what_comes_back_from_it_is_not_sent_again() {
    let (hub, sandbox, key) = pair("");
    say(&hub, &key, &[created(1), created(2), created(3)]);
    settled(&hub, 3);
    let state = sandbox.state();
    for n in 1..=3 {
        let contact = found(&state, &email(n));
        assert_eq!(
            (&contact["optIn"], &contact["externalId"]),
            (&json!(true), &json!(format!("u-{n}"))),
            "{contact}"
        );
    }
    // By the external id: the contact is opted out, the account's own webhook comes back and is no new work.
    let out = json!({"type": "contact.unsubscribed", "id": "o-1", "subject": "u-1", "time": at(2)});
    say(&hub, &key, &[out]);
    settled(&hub, 5);
    let skipped = hub.rows(&["deliveries", "list", "--state", "skipped"]);
    let reasons: Vec<&str> = skipped.iter().filter_map(|row| row["reason"].as_str()).collect();
    assert!(reasons.iter().any(|reason| reason.starts_with("echo")), "{skipped:?}");
    // By address alone: nobody is created, the address is suppressed.
    let out = json!({"type": "contact.unsubscribed", "id": "o-9", "subject": email(9), "time": at(2)});
    say(&hub, &key, &[out]);
    settled(&hub, 6);
    let state = sandbox.state();
    assert_eq!(found(&state, &email(1))["optIn"], false);
    assert_eq!(found(&state, &email(9)), &Value::Null, "an opt-out made a contact");
    assert_eq!(state["suppressions"], json!([{"email": email(9), "reason": "unsubscribe"}]));
    let erase = json!({"type": "contact.erased", "id": "e-2", "subject": "u-2", "time": at(3)});
    say(&hub, &key, &[erase]);
    settled(&hub, 7);
    assert_eq!(found(&sandbox.state(), &email(2)), &Value::Null);
}

#[test]
fn nobody_is_lost_on_the_way_to_an_account_that_breaks() {
    let patient = "retry = { calendar = [\"50ms\"], for = \"1h\" }\nbreaker = { failures = 0 }\nbatch = { max = 50, wait = \"50ms\" }";
    let (hub, sandbox, key) = pair(patient);
    sandbox.faults("server_error=20%,partial=10%,empty_results=10%,reset_after_commit=10%,slow=10%:200ms");
    let people: Vec<Value> = (0..150).map(created).collect();
    say(&hub, &key, &people);
    let done = |count: u64| {
        let totals = &sandbox.state()["totals"];
        (totals["contacts"] == count && totals["opted_in"] == count).then_some(())
    };
    until(60, "not all contacts arrived", || done(150));
    sandbox.faults("none");
    let audit = settled(&hub, 150);
    assert_eq!((&audit["delivered"], &audit["dead"]), (&json!(150), &json!(0)), "{audit}");
}

/// The sum of the metric's lines, whatever their labels.
fn metric(hub: &Hub, name: &str) -> u64 {
    let text = crate::crm::metrics(hub);
    let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[test]
fn an_unsubscribe_is_under_way_until_the_last_destination_knows_it() {
    let (hub, sandbox, key) = pair("");
    say(&hub, &key, &[created(1), created(2)]);
    settled(&hub, 2);
    let counts = |under_way: u64, known: u64| {
        let found = (
            metric(&hub, "mailspan_unsubscribes_under_way"),
            metric(&hub, "mailspan_unsubscribe_known_seconds_count"),
        );
        (found == (under_way, known)).then_some(())
    };
    assert_eq!(counts(0, 0), Some(()), "opt-ins are no unsubscribes");
    assert!(hub.run(&["destinations", "pause", "core"]).status.success());
    let out = |n: usize| json!({"type": "contact.unsubscribed", "id": format!("o-{n}"), "subject": email(n), "time": at(2)});
    say(&hub, &key, &[out(1), out(2)]);
    until(10, "two unsubscribes are not under way", || counts(2, 0));
    assert!(hub.run(&["destinations", "resume", "core"]).status.success());
    // The account's own webhooks come back, and are no further unsubscribes.
    settled(&hub, 6);
    assert_eq!(counts(0, 2), Some(()), "{}", crate::crm::metrics(&hub));
    let state = sandbox.state();
    assert_eq!(
        (&found(&state, &email(1))["optIn"], &found(&state, &email(2))["optIn"]),
        (&json!(false), &json!(false))
    );
}

//! A hub with the fake HubSpot behind it, both as processes.

use mailspan_testkit::{Hub, Sandbox, until};
use serde_json::{Value, json};

use crate::support::{BINARY, SECRET, send};

pub const TOKEN: &str = "hubspot-token-of-the-tests";
pub const ADA: &str = "ada@example.com";
pub const BOB: &str = "bob@example.com";

/// Never out of tries, quick to try again, no breaker: what the vendor does decides alone.
pub const PATIENT: &str = "retry = { calendar = [\"50ms\"], for = \"1h\" }\nbreaker = { failures = 0 }";

/// The configuration of a hub whose CRM listens at a port; `route` and `more` come at the end.
pub fn config(crm: u16, destination: &str, route: &str) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:{{HUB}}"

[storage]
url = "sqlite:hub.db"

[egress]
allow = ["127.0.0.1:1024-65535"]

[sources.mailtarget]
kind = "mailtarget"
secrets = [{{ env = "MAILTARGET_SECRET" }}]

[destinations.crm]
kind = "hubspot"
base_url = "http://127.0.0.1:{crm}"
auth = {{ kind = "bearer", token = {{ env = "HUBSPOT_TOKEN" }} }}
timeout = "5s"
{destination}

[[routes]]
name = "engagement"
from = ["mailtarget"]
to = ["crm"]
{route}
"#
    )
}

pub fn hub(crm: u16, destination: &str, route: &str) -> Hub {
    let env = [("MAILTARGET_SECRET", SECRET), ("HUBSPOT_TOKEN", TOKEN)];
    let mut hub = Hub::new(BINARY, &config(crm, destination, route), &env);
    hub.start();
    hub
}

/// A hub and a prepared sandbox that knows Ada and Bob.
pub fn pair(destination: &str, route: &str) -> (Hub, Sandbox) {
    let sandbox = Sandbox::hubspot(BINARY, TOKEN, &["--contact", ADA, "--contact", BOB]);
    (hub(sandbox.port, &format!("rate = \"1000/1s\"\n{destination}"), route), sandbox)
}

/// The `n`th second of the hour in which everything happens.
pub fn at(n: u32) -> String {
    format!("2026-05-08T03:{:02}:{:02}Z", n / 60, n % 60)
}

/// The same in milliseconds since 1970.
pub fn at_ms(n: u32) -> i64 {
    1_778_209_200_000 + i64::from(n) * 1_000
}

/// An event of generation A; `raw` and `metadata` as the platform puts them.
pub fn event(kind: &str, who: &str, n: u32, raw: Value, metadata: Value) -> Value {
    json!({
        "transmissionId": format!("tx-{who}"), "messageId": format!("m-{who}"), "event": kind,
        "timestamp": at(n), "recipient": who, "campaignId": null, "metadata": metadata, "raw": raw,
    })
}

/// One that says nothing but what happened.
pub fn plain(kind: &str, who: &str, n: u32) -> Value {
    event(kind, who, n, json!({}), json!({}))
}

/// Sends all in one request; all must be new.
pub fn send_all(hub: &Hub, events: &[Value]) {
    let reply = send(hub, &json!(events));
    assert_eq!((reply.status, &reply.json()["accepted"]), (200, &json!(events.len())), "{:?}", reply.json());
}

/// Waits until every delivery has ended; the audit.
pub fn settled(hub: &Hub, accepted: usize) -> Value {
    let audit = until(60, "deliveries are still pending", || {
        let audit = hub.rows(&["audit"]).remove(0);
        (audit["accepted"] == accepted && audit["waiting"] == 0 && audit["pending"] == 0).then_some(audit)
    });
    assert_eq!(audit["adds_up"], true, "{audit}");
    audit
}

/// The contact of this address in a sandbox's state.
pub fn contact(state: &Value, email: &str) -> Value {
    let all = state["contacts"].as_array().unwrap();
    all.iter().find(|contact| contact["email"] == email).cloned().unwrap_or(Value::Null)
}

/// Bodies of the notes that hang on a contact, the oldest first.
pub fn notes_of(state: &Value, contact: &Value) -> Vec<String> {
    let notes = state["notes"].as_array().unwrap().iter().rev();
    notes
        .filter(|note| note["contacts"] == json!([contact["id"]]))
        .map(|note| note["properties"]["hs_note_body"].as_str().unwrap().to_owned())
        .collect()
}

/// Ids of deliveries in a state.
pub fn ids(hub: &Hub, state: &str) -> Vec<String> {
    let rows = hub.rows(&["deliveries", "list", "--state", state]);
    rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// Opens deliveries again and waits until all have ended.
pub fn replay(hub: &Hub, ids: &[String], again: bool, accepted: usize) {
    let mut words = vec!["dead-letters", "replay"];
    words.extend(ids.iter().map(String::as_str));
    words.extend(again.then_some("--again"));
    let output = hub.run(&words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // What is delivered is not sent again by accident: that is the one reason for a refusal.
    assert!(output.status.success() || !again && said.contains("--again"), "{said}");
    settled(hub, accepted);
}

/// A page of `/metrics`.
pub fn metrics(hub: &Hub) -> String {
    let made = &hub.rows(&["keys", "create", "--scope", "read"])[0];
    let key = format!("Bearer {}", made["key"].as_str().unwrap());
    let reply =
        mailspan_testkit::request(hub.port, "GET", "/metrics", &[("authorization", &key)], b"").unwrap();
    assert_eq!(reply.status, 200);
    String::from_utf8(reply.body).unwrap()
}

/// Exchanges with the CRM by status, from the metrics.
pub fn exchanges(hub: &Hub, status: u16) -> u64 {
    let label = format!("status=\"{status}\"");
    let text = metrics(hub);
    let mut lines = text.lines().filter(|line| line.starts_with("mailspan_exchanges_total"));
    lines.find(|line| line.contains(&label)).map_or(0, |line| {
        let value = line.rsplit(' ').next().unwrap();
        value.parse::<f64>().unwrap() as u64
    })
}

//! What the tests share: a configuration, a signed sender.

use mailspan_connectors::signature::{hex, hmac_sha256};
use mailspan_testkit::{Hub, Receiver, Reply};
use serde_json::{Value, json};

pub const SECRET: &str = "mailtarget-secret-of-the-tests";
pub const BINARY: &str = env!("CARGO_BIN_EXE_mailspan");

/// What every configuration begins with: a hub on a port of its own, a store beside it, receivers on this machine.
pub fn base(storage: &str) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:{{HUB}}"
public_url = "http://127.0.0.1:{{HUB}}"

[storage]
url = "sqlite:hub.db"
{storage}

[egress]
allow = ["127.0.0.1:1024-65535"]
"#
    )
}

/// One source, one receiver, one route; `more` is put at the end.
pub fn config(crm: &Receiver, destination: &str, more: &str) -> String {
    let base = base("");
    format!(
        r#"{base}
[sources.mailtarget]
kind = "mailtarget"
secrets = [{{ env = "MAILTARGET_SECRET" }}]

[sources.app]
kind = "api"

[destinations.crm]
kind = "http"
url = "http://127.0.0.1:{}/activities"
timeout = "2s"
{destination}

[[routes]]
name = "raw"
from = ["mailtarget", "app"]
to = ["crm"]
{more}
"#,
        crm.port
    )
}

/// A hub that serves with a receiver behind it; destination settings are quick to retry.
pub fn hub() -> (Hub, Receiver) {
    hub_with("retry = [\"100ms\", \"200ms\", \"400ms\"]\nrate = \"1000/1s\"\nconcurrency = 8", "")
}

pub fn hub_with(destination: &str, more: &str) -> (Hub, Receiver) {
    let crm = Receiver::start();
    let mut hub = Hub::new(BINARY, &config(&crm, destination, more), &[("MAILTARGET_SECRET", SECRET)]);
    hub.start();
    (hub, crm)
}

pub fn signed(secret: &str, body: &[u8]) -> String {
    hex(&hmac_sha256(secret.as_bytes(), body))
}

pub fn send(hub: &Hub, body: &Value) -> Reply {
    send_raw(hub, body.to_string().as_bytes())
}

pub fn send_raw(hub: &Hub, body: &[u8]) -> Reply {
    hub.post("/in/mailtarget", &[("x-mailtarget-signature", &signed(SECRET, body))], body)
}

/// An event of generation A about `who`.
pub fn event(kind: &str, who: &str, at: &str) -> Value {
    json!({
        "transmissionId": format!("tx-{who}-{kind}-{at}"), "messageId": "m1", "event": kind, "timestamp": at,
        "recipient": who, "campaignId": null, "metadata": { "crm_contact_id": "77" }, "raw": {},
    })
}

pub const AT: &str = "2026-05-08T03:14:15Z";

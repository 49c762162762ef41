//! The document of the contacts API drives a client that knows nothing else of it (schemathesis, from PyPI):
//! requests as the document allows them and as it does not, alone and one after another. No answer is a 5xx, and
//! none has a status, a type or a shape that the document does not name.
//!
//! `MAILSPAN_SCHEMATHESIS_EXAMPLES=500` makes more requests of each operation, `MAILSPAN_SCHEMATHESIS_SEED=7` others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use mailspan_testkit::{Hub, Receiver, until};
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::support::hub;

const INSTALL: &str = "run scripts/test, which installs it, or scripts/schemathesis/install";
const REDELIVER: &str = "POST /webhooks/endpoints/{id}/deliveries/{deliveryId}/redeliver";
const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/schemathesis").join(name)
}

fn env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Runs the client to its end; its report, and what it did one by one. A failure of any check ends the test.
fn drive(tenant: &Tenant, config: &str, words: &[&str]) -> (Value, String) {
    let folder = tenant.hub.folder();
    let (report, log) = (folder.join("report.json"), folder.join("report.ndjson"));
    std::fs::write(folder.join("schemathesis.toml"), config).unwrap();
    // It keeps a cache where it runs.
    let output = Command::new(script("run").canonicalize().unwrap())
        .current_dir(folder)
        .args([format!("http://127.0.0.1:{}", tenant.hub.port), tenant.key.clone()])
        .args(["--report", "json,ndjson", "--report-json-path"])
        .arg(&report)
        .arg("--report-ndjson-path")
        .arg(&log)
        .args(["--max-examples", &env("MAILSPAN_SCHEMATHESIS_EXAMPLES", "10")])
        .args(["--seed", &env("MAILSPAN_SCHEMATHESIS_SEED", "1")])
        .args(words)
        .env("SCHEMATHESIS_CONFIG", folder.join("schemathesis.toml"))
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
    let report =
        std::fs::read(&report).unwrap_or_else(|_| panic!("schemathesis made no report: {INSTALL}\n{said}"));
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert!(output.status.success(), "an answer is not as the document says:\n{said}");
    assert_eq!((&report["complete"], &report["errors"]), (&json!(true), &json!([])), "{said}");
    (report, std::fs::read_to_string(log).unwrap())
}

/// `METHOD /path` of every operation in the document that the hub serves.
fn declared(tenant: &Tenant) -> BTreeSet<String> {
    let document = tenant.get("/openapi.json");
    let operations = |(path, item): (&String, &Value)| {
        let methods = METHODS.iter().filter(|method| item.get(**method).is_some());
        methods.map(|method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
    };
    document["paths"].as_object().unwrap().iter().flat_map(operations).collect()
}

/// Operations that answered 2xx at least once: reached, and not only refused.
fn accepted(report: &Value) -> BTreeSet<String> {
    let has_worked = |phases: &Value| {
        phases.as_object().unwrap().values().any(|phase| phase["accepted"].as_u64() > Some(0))
    };
    let rates = report["valid_rates"].as_object().unwrap();
    rates.iter().filter(|(_, phases)| has_worked(phases)).map(|(name, _)| name.clone()).collect()
}

/// An endpoint that was told of something: its id and that of the delivery.
fn a_delivery(tenant: &Tenant, receiver: &Receiver) -> (String, String) {
    let url = format!("http://127.0.0.1:{}/hook", receiver.port);
    let endpoint = json!({ "url": url, "events": ["contact.unsubscribed"] });
    let made = tenant.ask("POST", "/webhooks/endpoints", &endpoint).json();
    let id = made["id"].as_str().unwrap().to_owned();
    tenant.put(json!({ "email": "ana@example.com", "externalId": "ana", "optIn": true }));
    tenant.ask("PATCH", "/contacts/ana", &json!({ "optIn": false }));
    let delivery = until(20, "nothing was delivered to the endpoint", || {
        let log = tenant.get(&format!("/webhooks/endpoints/{id}/deliveries"));
        (log["data"][0]["status"] == "SUCCESS").then(|| log["data"][0]["id"].as_str().unwrap().to_owned())
    });
    (id, delivery)
}

fn tenant(hub: &Hub) -> Tenant<'_> {
    let tenant = Tenant::new(hub, "acme");
    assert!(hub.run(&["fields", "declare", "plan", "string", "--tenant", "acme"]).status.success());
    tenant
}

#[test]
fn every_operation_answers_as_the_document_says() {
    let (hub, _) = hub();
    let tenant = tenant(&hub);
    // Without a rate limit: at 300 requests a minute most would be answered 429, and nothing else would be seen.
    assert!(hub.run(&["tenants", "set", "acme", "--rate-per-minute", "0"]).status.success());
    // First the one operation that no made-up id reaches.
    let receiver = Receiver::start();
    let (id, delivery) = a_delivery(&tenant, &receiver);
    let config = format!(
        "[[operations]]\ninclude-name = \"{REDELIVER}\"\nparameters = {{ id = \"{id}\", deliveryId = \"{delivery}\" }}\n"
    );
    let (redelivered, _) = drive(&tenant, &config, &["--include-name", REDELIVER]);
    let (report, _) = drive(&tenant, "", &[]);
    let declared = declared(&tenant);
    assert_eq!(report["operations"]["tested"], declared.len(), "{}", report["operations"]);
    let reached: BTreeSet<String> = accepted(&report).union(&accepted(&redelivered)).cloned().collect();
    assert_eq!(reached, declared, "operations that were only refused, or that the document does not have");
    assert!(report["test_cases"]["generated"].as_u64() > Some(500), "{}", report["test_cases"]);
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
    assert!(!hub.log().contains("panicked"), "{}", hub.log());
}

/// With the rate limit that every tenant has: what is above it is answered as the document says too.
#[test]
fn what_is_above_the_rate_limit_is_answered_as_the_document_says() {
    let (hub, _) = hub();
    let tenant = tenant(&hub);
    assert!(hub.run(&["tenants", "set", "acme", "--rate-per-minute", "40"]).status.success());
    until(10, "the limit is not in force", || {
        let reply = tenant.ask("GET", "/suppressions", &Value::Null);
        (reply.header("x-ratelimit-limit") == Some("40")).then_some(())
    });
    // 429 comes before a request is read, so that a bad one is not told from a good one.
    let (_, log) = drive(&tenant, "", &["--phases", "examples,coverage"]);
    let refused = log.matches("\"status_code\": 429").count() + log.matches("\"status_code\":429").count();
    assert!(refused > 100, "only {refused} requests were above the limit");
}

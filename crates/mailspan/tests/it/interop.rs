//! Other people's packages on the other side: what they sign is taken, what the hub signs they verify, and
//! the platform's own client sends to the sandbox. The scripts that call them are in scripts/interop.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use mailspan_testkit::{Hub, Receiver, Seen, free_port, get, until};
use serde_json::{Value, json};

use crate::support::{AT, BINARY, SECRET, config, event, hub, send};

const INSTALL: &str = "run scripts/test, which installs it";
/// Of the specification's examples.
const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const LIBRARIES: [&str; 2] = ["standardwebhooks", "svix"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A path from the environment, else under the workspace's root.
fn place(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| root().join(default), PathBuf::from)
}

fn python(script: &str) -> Command {
    let mut command = Command::new(place("MAILSPAN_TEST_PYTHON", "target/tools/venv/bin/python"));
    command.arg(root().join("scripts/interop").join(script));
    command
}

fn node(script: &str) -> Command {
    let packages = place("MAILSPAN_TEST_NODE_PATH", "target/tools/node/node_modules");
    let mut command = Command::new("node");
    command.arg(root().join("scripts/interop").join(script));
    command.env("INTEROP_NODE", packages.parent().unwrap());
    command
}

/// Runs a script to its end; a package that is missing (exit status 2) ends the test.
fn run(mut command: Command, words: &[&str], input: &str) -> Output {
    let child =
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let program = command.get_program().display().to_string();
    let mut child = child.unwrap_or_else(|error| panic!("{program} does not start ({error}): {INSTALL}"));
    // A script that reads nothing may have closed its end.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(2), "{program}: a package is missing: {INSTALL}\n{said}");
    output
}

fn run_ok(command: Command, words: &[&str], input: &str) -> String {
    let output = run(command, words, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A hub that takes what a package signs and signs what it sends.
fn standard() -> (Hub, Receiver) {
    let crm = Receiver::start();
    let sign = "sign = { kind = \"standard_webhooks\", secret = { env = \"WHSEC\" } }\n\
                retry = [\"100ms\"]\nrate = \"1000/1s\"";
    let source = "[sources.partner]\nkind = \"standard_webhooks\"\nsecrets = [{ env = \"WHSEC\" }]\n\
                  [[routes]]\nname = \"partner\"\nfrom = [\"partner\"]\nto = [\"crm\"]\n";
    let env = [("MAILTARGET_SECRET", SECRET), ("WHSEC", WHSEC)];
    let mut hub = Hub::new(BINARY, &config(&crm, sign, source), &env);
    hub.start();
    (hub, crm)
}

/// A package signs: the hub takes it, delivers it, and refuses it with a changed body.
fn signs_for_the_hub(script: fn() -> Command) {
    let (hub, crm) = standard();
    for library in LIBRARIES {
        let body = json!({
            "type": "email.opened", "timestamp": AT,
            "data": { "n": 9_007_199_254_740_993_i64, "who": "chloé", "library": library },
        });
        let id = format!("msg_{library}");
        let request = run_ok(script(), &["sign", library, WHSEC, &body.to_string(), &id], "");
        let request: Value = serde_json::from_str(&request).unwrap();
        let headers = request["headers"].as_object().unwrap();
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        let body = request["body"].as_str().unwrap();

        let changed = hub.post("/in/partner", &headers, body.replace("chloé", "chloe").as_bytes());
        assert_eq!(changed.status, 401, "{library}: a changed body is refused");
        let reply = hub.post("/in/partner", &headers, body.as_bytes());
        assert_eq!(reply.status, 200, "{library}: {}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply.json()["accepted"], 1, "{library}: {}", reply.json());
        let again = hub.post("/in/partner", &headers, body.as_bytes());
        assert_eq!(again.json()["duplicates"], 1, "{library}: the same message id is a duplicate");

        let arrived = |seen: &Seen| seen.json()["data"]["library"] == library;
        let seen = until(20, "what a package signed did not arrive", || crm.ok().into_iter().find(arrived));
        assert_eq!(seen.json()["data"]["n"], 9_007_199_254_740_993_i64);
        assert_eq!(seen.json()["data"]["who"], "chloé");
    }
}

/// The hub signs: the packages verify what the receiver got, and not when it is changed.
fn verifies_the_hub(script: fn() -> Command) {
    let (hub, crm) = standard();
    send(&hub, &event("open", "chloé+1@example.com", AT));
    let seen = until(20, "nothing arrived", || crm.ok().pop());
    let body = String::from_utf8(seen.body.clone()).unwrap();
    let request = |body: &str| {
        let headers: serde_json::Map<String, Value> =
            seen.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({ "headers": headers, "body": body }).to_string()
    };
    for library in LIBRARIES {
        run_ok(script(), &["verify", library, WHSEC], &request(&body));
        let changed = run(script(), &["verify", library, WHSEC], &request(&format!("{body} ")));
        assert_eq!(changed.status.code(), Some(1), "{library}: a changed body is not verified");
    }
}

#[test]
fn python_packages_sign_for_the_hub() {
    signs_for_the_hub(|| python("standard_webhooks.py"));
}

#[test]
fn python_packages_verify_the_hub() {
    verifies_the_hub(|| python("standard_webhooks.py"));
}

#[test]
fn node_packages_sign_for_the_hub() {
    signs_for_the_hub(|| node("standard_webhooks.mjs"));
}

#[test]
fn node_packages_verify_the_hub() {
    verifies_the_hub(|| node("standard_webhooks.mjs"));
}

/// A fake platform; killed when dropped.
struct Sandbox(Child);

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn platform(hub: &Hub) -> (Sandbox, u16) {
    let port = free_port();
    let child = Command::new(BINARY)
        .args(["sandbox", "mailtarget", "--listen", &format!("127.0.0.1:{port}")])
        .args(["--to", &format!("http://127.0.0.1:{}/in/mailtarget", hub.port)])
        .env("MAILSPAN_SANDBOX_SECRET", SECRET)
        .env("MAILSPAN_SANDBOX_API_KEY", "key-of-the-tests")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let sandbox = Sandbox(child);
    until(20, "the sandbox does not listen", || get(port, "/").ok());
    (sandbox, port)
}

#[test]
fn mailtarget_sdk_sends_to_the_sandbox_and_its_events_reach_the_receiver() {
    let (hub, crm) = hub();
    let (_sandbox, port) = platform(&hub);
    let url = format!("http://127.0.0.1:{port}");
    let refused = run(python("mailtarget_sdk.py"), &[&url, "another-key"], "");
    assert_eq!(refused.status.code(), Some(1), "a wrong key is refused");
    let transmission = run_ok(python("mailtarget_sdk.py"), &[&url, "key-of-the-tests"], "");
    let transmission = transmission.trim();
    let about = |seen: &Seen| String::from_utf8_lossy(&seen.body).contains(transmission);
    let seen = until(30, "no event of the send arrived", || crm.ok().into_iter().find(about));
    assert_eq!(seen.subject(), "ana@example.com");
}

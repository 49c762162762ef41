//! Credentials of callers, and secrets that must be seen nowhere.

use base64::Engine;
use mailspan_testkit::{Hub, Receiver, Reply, until};
use serde_json::{Value, json};

use crate::support::{AT, BINARY, event, signed};

/// Variables of the configuration with their secrets, each unlike any other text.
const SECRETS: [(&str, &str); 9] = [
    ("BASIC_PASSWORD", "canary-basic-password-7f3a"),
    ("BEARER_TOKEN", "canary-bearer-token-19c4"),
    ("PATH_SECRET", "canary-path-secret-52e8"),
    ("SIGNING_SECRET", "canary-signing-secret-c06b"),
    ("OLD_SECRET", "canary-old-secret-d1d7"),
    ("BOTH_PASSWORD", "canary-both-password-8ab2"),
    ("CRM_TOKEN", "canary-crm-token-e93f"),
    ("CRM_KEY", "canary-crm-key-3b60"),
    ("CRM_SIGNING", "canary-crm-signing-a7c5"),
];

fn secret(name: &str) -> &'static str {
    SECRETS.iter().find(|(known, _)| *known == name).unwrap().1
}

fn config(crm: &Receiver) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:{{HUB}}"

[storage]
url = "sqlite:hub.db"

[egress]
allow = ["127.0.0.1:1024-65535"]

[sources.basic]
kind = "mailtarget"
access = {{ kind = "basic", user = "mailer", password = {{ env = "BASIC_PASSWORD" }} }}

[sources.bearer]
kind = "mailtarget"
access = {{ kind = "bearer", token = {{ env = "BEARER_TOKEN" }} }}

[sources.secret-path]
kind = "mailtarget"
path = "/hooks/mail"
access = {{ kind = "path", secret = {{ env = "PATH_SECRET" }} }}

[sources.both]
kind = "mailtarget"
secrets = [{{ env = "SIGNING_SECRET" }}, {{ env = "OLD_SECRET" }}]
access = {{ kind = "basic", user = "mailer", password = {{ env = "BOTH_PASSWORD" }} }}

[sources.app]
kind = "api"

[destinations.crm]
kind = "http"
url = "http://127.0.0.1:{}/activities"
auth = {{ kind = "bearer", token = {{ env = "CRM_TOKEN" }} }}
headers = {{ "X-Api-Key" = {{ env = "CRM_KEY" }} }}
sign = {{ kind = "hmac", secret = {{ env = "CRM_SIGNING" }}, header = "x-signature" }}
retry = ["50ms"]

[[routes]]
name = "raw"
to = ["crm"]
"#,
        crm.port
    )
}

fn hub() -> (Hub, Receiver) {
    let crm = Receiver::start();
    let mut hub = Hub::new(BINARY, &config(&crm), &SECRETS);
    hub.start();
    (hub, crm)
}

fn basic(user: &str, password: &str) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}

fn post(hub: &Hub, path: &str, headers: &[(&str, &str)], who: &str) -> Reply {
    hub.post(path, headers, event("open", who, AT).to_string().as_bytes())
}

/// What is kept of the request of the only event about this person.
fn kept(hub: &Hub, who: &str) -> Value {
    let row = hub.rows(&["events", "list", "--subject", who]).remove(0);
    hub.rows(&["events", "show", row["id"].as_str().unwrap()]).remove(0)["request"].take()
}

fn header<'a>(request: &'a Value, name: &str) -> Option<&'a str> {
    let headers = request["headers"].as_array().unwrap();
    headers.iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str())
}

#[test]
pub fn basic_stands_instead_of_a_signature() {
    let (hub, _crm) = hub();
    let right = basic("mailer", secret("BASIC_PASSWORD"));
    assert_eq!(post(&hub, "/in/basic", &[("authorization", &right)], "a@example.com").status, 200);
    for (name, wrong) in [
        ("password", basic("mailer", "guessed")),
        ("user", basic("mailman", secret("BASIC_PASSWORD"))),
        ("empty", basic("", "")),
        ("not base64", "Basic %%%".to_owned()),
        ("scheme", format!("Bearer {}", secret("BASIC_PASSWORD"))),
        ("longer", basic("mailer", &format!("{}x", secret("BASIC_PASSWORD")))),
    ] {
        let reply = post(&hub, "/in/basic", &[("authorization", &wrong)], "b@example.com");
        assert_eq!(reply.status, 401, "{name}");
    }
    assert_eq!(post(&hub, "/in/basic", &[], "b@example.com").status, 401, "without a credential");
    let request = kept(&hub, "a@example.com");
    assert_eq!(request["credential"], "env BASIC_PASSWORD");
    assert!(header(&request, "authorization").unwrap().contains("env BASIC_PASSWORD"), "{request}");
    assert!(hub.rows(&["events", "list", "--subject", "b@example.com"]).is_empty());
    let refused = hub.rows(&["refused", "--source", "basic"]);
    assert_eq!(refused.len(), 7);
    assert_eq!(
        (&refused[0]["check"], &refused[1]["check"]),
        (&json!("no_credential"), &json!("wrong_credential"))
    );
}

#[test]
pub fn bearer_stands_instead_of_a_signature() {
    let (hub, _crm) = hub();
    let right = format!("Bearer {}", secret("BEARER_TOKEN"));
    assert_eq!(post(&hub, "/in/bearer", &[("authorization", &right)], "a@example.com").status, 200);
    for wrong in ["Bearer ", "Bearer guessed", secret("BEARER_TOKEN"), "Bearer canary-bearer-token-19c"] {
        let reply = post(&hub, "/in/bearer", &[("authorization", wrong)], "b@example.com");
        assert_eq!(reply.status, 401, "{wrong}");
    }
    let request = kept(&hub, "a@example.com");
    assert_eq!(request["credential"], "env BEARER_TOKEN");
    assert!(header(&request, "authorization").unwrap().contains("env BEARER_TOKEN"), "{request}");
    assert_eq!(hub.rows(&["refused", "--source", "bearer"]).len(), 4);
}

#[test]
pub fn a_secret_path_stands_instead_of_a_signature() {
    let (hub, _crm) = hub();
    let right = format!("/hooks/mail/{}", secret("PATH_SECRET"));
    assert_eq!(post(&hub, &right, &[], "a@example.com").status, 200);
    for wrong in ["/hooks/mail/guessed", "/hooks/mail", "/hooks/mail/", "/hooks/mail/canary-path-secret-52e"]
    {
        let status = post(&hub, wrong, &[], "b@example.com").status;
        assert!(status == 401 || status == 404, "{wrong}: {status}");
    }
    let deeper = format!("{right}/more");
    assert_ne!(post(&hub, &deeper, &[], "b@example.com").status, 200);
    let request = kept(&hub, "a@example.com");
    assert_eq!(request["credential"], "env PATH_SECRET");
    assert_eq!(request["path"], "/hooks/mail/[env PATH_SECRET]");
    assert!(hub.rows(&["events", "list", "--subject", "b@example.com"]).is_empty());
}

#[test]
pub fn a_credential_comes_in_addition_to_a_signature() {
    let (hub, _crm) = hub();
    let body = |who: &str| event("open", who, AT).to_string();
    let send = |who: &str, password: Option<&str>, key: Option<&str>| {
        let body = body(who);
        let (credential, mac) =
            (password.map(|password| basic("mailer", password)), key.map(|key| signed(key, body.as_bytes())));
        let mut headers = Vec::new();
        headers.extend(credential.as_deref().map(|value| ("authorization", value)));
        headers.extend(mac.as_deref().map(|value| ("x-mailtarget-signature", value)));
        hub.post("/in/both", &headers, body.as_bytes()).status
    };
    let (password, key) = (secret("BOTH_PASSWORD"), secret("SIGNING_SECRET"));
    assert_eq!(send("a@example.com", Some(password), Some(key)), 200);
    assert_eq!(send("old@example.com", Some(password), Some(secret("OLD_SECRET"))), 200);
    for (password, key) in [
        (Some(password), None),
        (None, Some(key)),
        (Some(password), Some("guessed")),
        (Some("guessed"), Some(key)),
        (Some(key), Some(password)),
        (None, None),
    ] {
        assert_eq!(send("b@example.com", password, key), 401, "{password:?} {key:?}");
    }
    assert_eq!(kept(&hub, "a@example.com")["credential"], "env SIGNING_SECRET");
    let request = kept(&hub, "old@example.com");
    assert_eq!(request["credential"], "env OLD_SECRET");
    assert!(header(&request, "authorization").unwrap().contains("env BOTH_PASSWORD"), "{request}");
    assert_eq!(hub.rows(&["refused", "--source", "both"]).len(), 6);
}

#[test]
pub fn a_sample_is_sent_with_the_credential_of_its_source() {
    let (hub, _crm) = hub();
    for source in ["basic", "bearer", "secret-path", "both"] {
        let output = hub.run(&["events", "send", source]);
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(hub.rows(&["events", "list"]).len(), 4);
}

/// Right and wrong requests at every source; the API key that was made.
fn traffic(hub: &Hub, crm: &Receiver) -> String {
    let mailer = basic("mailer", secret("BASIC_PASSWORD"));
    let bearer = format!("Bearer {}", secret("BEARER_TOKEN"));
    let path = format!("/hooks/mail/{}", secret("PATH_SECRET"));
    post(hub, "/in/basic", &[("authorization", &mailer)], "basic@example.com");
    post(hub, "/in/bearer", &[("authorization", &bearer)], "bearer@example.com");
    post(hub, &path, &[], "path@example.com");
    post(hub, &format!("{path}/more"), &[], "path@example.com");
    hub.post(&path, &[], b"not JSON");
    hub.post(&path, &[], br#"[{"event":"open"}]"#);
    // A credential that belongs elsewhere, and a signature that fails behind a right credential.
    post(hub, "/in/bearer", &[("authorization", &mailer)], "wrong@example.com");
    post(hub, "/in/basic", &[("authorization", &bearer)], "wrong@example.com");
    let both = basic("mailer", secret("BOTH_PASSWORD"));
    for (key, more) in [("SIGNING_SECRET", ""), ("OLD_SECRET", ""), ("OLD_SECRET", " ")] {
        let body = event("open", &format!("{key}@example.com"), AT).to_string();
        let mac = signed(secret(key), body.as_bytes());
        let headers = [("authorization", both.as_str()), ("x-mailtarget-signature", mac.as_str())];
        hub.post("/in/both", &headers, format!("{body}{more}").as_bytes());
    }
    let made = &hub.rows(&["keys", "create", "--scope", "events:write"])[0];
    let key = made["key"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {key}");
    hub.post("/v1/events", &[("authorization", &bearer)], br#"{"type":"app.x","subject":"x@example.com"}"#);
    until(10, "not delivered", || (crm.ok().len() >= 6).then_some(()));
    crm.status(422);
    post(hub, "/in/basic", &[("authorization", &mailer)], "dead@example.com");
    until(10, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    key
}

/// What every command says, as table and as JSON.
fn everything_said(hub: &Hub) -> Vec<(String, Vec<u8>)> {
    let id = |row: &Value| row["id"].as_str().unwrap().to_owned();
    let mut commands: Vec<Vec<String>> = [
        "check",
        "events list",
        "deliveries list",
        "dead-letters list",
        "destinations list",
        "destinations test crm",
        "ledger list",
        "refused",
        "quarantined",
        "audit",
        "keys list",
    ]
    .iter()
    .map(|line| line.split(' ').map(str::to_owned).collect())
    .collect();
    for row in hub.rows(&["events", "list"]) {
        commands.push(vec!["events".to_owned(), "show".to_owned(), id(&row)]);
        commands.push(vec!["explain".to_owned(), id(&row)]);
    }
    for row in hub.rows(&["deliveries", "list"]) {
        commands.push(vec!["deliveries".to_owned(), "show".to_owned(), id(&row)]);
    }
    for row in hub.rows(&["dead-letters", "list"]) {
        commands.push(vec!["dead-letters".to_owned(), "show".to_owned(), id(&row)]);
    }
    let mut said = Vec::new();
    for command in commands {
        for more in [None, Some("--json")] {
            let words: Vec<&str> = command.iter().map(String::as_str).chain(more).collect();
            let output = hub.run(&words);
            said.push((words.join(" "), [output.stdout, output.stderr].concat()));
        }
    }
    said
}

#[test]
pub fn no_secret_is_in_a_file_or_on_a_screen() {
    let crm = Receiver::start();
    let mut hub = Hub::new(BINARY, &config(&crm), &SECRETS);
    hub.set_env("MAILSPAN_LOG", "debug");
    hub.start();
    let key = traffic(&hub, &crm);
    let mut places = everything_said(&hub);
    assert!(places.len() > 40);
    let mut files = Vec::new();
    let mut look = |hub: &Hub| {
        for entry in std::fs::read_dir(hub.folder()).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                files.push(name.clone());
                places.push((format!("file {name}"), std::fs::read(entry.path()).unwrap()));
            }
        }
    };
    look(&hub);
    assert_eq!(hub.stop(), Some(0));
    look(&hub);
    for name in ["hub.db", "hub.db-wal", "serve.log"] {
        assert!(files.iter().any(|file| file == name), "{name} was not looked at: {files:?}");
    }
    let mut canaries: Vec<String> = SECRETS.iter().map(|(_, secret)| (*secret).to_owned()).collect();
    for name in ["BASIC_PASSWORD", "BOTH_PASSWORD"] {
        canaries.push(basic("mailer", secret(name)).trim_start_matches("Basic ").to_owned());
    }
    canaries.push(key);
    let seen = crm.seen();
    assert!(
        seen.iter().all(|seen| seen.header("x-api-key") == Some(secret("CRM_KEY"))
            && seen.header("authorization").is_some_and(|value| value.ends_with(secret("CRM_TOKEN")))),
        "the destination does not get its credentials"
    );
    for canary in &canaries {
        for (place, bytes) in &places {
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{canary} is in: {place}");
        }
    }
}

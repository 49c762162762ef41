//! What one side states of consent, as a MailingCore and a Maileon account end up with it: all three as processes.

use mailspan_testkit::{Hub, Receiver, Sandbox, until};
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::crm::contact;
use crate::support::{BINARY, base};

const CORE_KEY: &str = "mc_test_of_the_tests";
const LEON_KEY: &str = "maileon-key-of-the-tests";
const SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";

/// A hub between two accounts; the first tells it of its changes, the receiver is told of complaints.
struct Town {
    hub: Hub,
    core: Sandbox,
    leon: Sandbox,
    alarms: Receiver,
    key: String,
}

fn config(core: u16, leon: u16, alarms: u16) -> String {
    let batch = "batch = { max = 100, wait = \"20ms\" }\nrate = \"1000/1s\"\nbreaker = { failures = 0 }\n\
        retry = { calendar = [\"100ms\", \"200ms\"], for = \"1h\" }";
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
base_url = "http://127.0.0.1:{core}"
auth = {{ kind = "bearer", token = {{ env = "CORE_KEY" }} }}
account = "core"
{batch}

[destinations.leon]
kind = "maileon"
base_url = "http://127.0.0.1:{leon}/1.0"
auth = {{ kind = "key", key = {{ env = "LEON_KEY" }} }}
{batch}

[destinations.alarms]
kind = "http"
url = "http://127.0.0.1:{alarms}/alarm"

[[routes]]
name = "audience"
events = ["contact.*", "email.complained", "email.bounced"]
to = ["core", "leon"]

[[routes]]
name = "alarms"
from = ["system"]
events = ["system.complaint"]
to = ["alarms"]
"#
    )
}

impl Town {
    fn new() -> Town {
        let core = Sandbox::start(BINARY, "mailingcore", &["--api-key", CORE_KEY, "--seed", "5"]);
        let leon = Sandbox::start(BINARY, "maileon", &["--api-key", LEON_KEY, "--seed", "5"]);
        let alarms = Receiver::start();
        let env = [("CORE_SECRET", SECRET), ("CORE_KEY", CORE_KEY), ("LEON_KEY", LEON_KEY)];
        let mut hub = Hub::new(BINARY, &config(core.port, leon.port, alarms.port), &env);
        hub.start();
        let url = format!("http://127.0.0.1:{}/in/core", hub.port);
        let body =
            json!({"url": url, "events": ["contact.unsubscribed", "email.complained"], "secret": SECRET});
        let auth = format!("Bearer {CORE_KEY}");
        let headers = [("authorization", auth.as_str()), ("content-type", "application/json")];
        let body = body.to_string();
        let made =
            mailspan_testkit::post(core.port, "/webhooks/endpoints", &headers, body.as_bytes()).unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
        let mut create = vec!["keys", "create"];
        for scope in
            ["contacts:write", "contacts:read", "suppressions:write", "webhooks:manage", "events:write"]
        {
            create.extend(["--scope", scope]);
        }
        let made = &hub.rows(&create)[0];
        let key = made["key"].as_str().unwrap().to_owned();
        Town { hub, core, leon, alarms, key }
    }

    fn app(&self) -> Tenant<'_> {
        Tenant { hub: &self.hub, key: self.key.clone() }
    }

    /// Nothing waits any more, in the hub and at the account that tells of its changes.
    fn settle(&self) {
        until(30, "deliveries are still pending", || {
            let quiet = || {
                let audit = self.hub.rows(&["audit"]).remove(0);
                (audit["waiting"] == 0 && audit["pending"] == 0).then(|| audit["accepted"].clone())
            };
            let before = quiet()?;
            (self.core.state()["webhooks_open"] == 0 && quiet()? == before).then_some(())
        });
    }

    /// `optIn` and why the address is suppressed at MailingCore, the permission at Maileon.
    fn vendors(&self, email: &str) -> (Value, Value, Value) {
        let core = self.core.state();
        let all = core["suppressions"].as_array().unwrap();
        let suppressed = all.iter().find(|one| one["email"] == email);
        let reason = suppressed.map_or(Value::Null, |one| one["reason"].clone());
        let leon = contact(&self.leon.state(), email)["permission"].clone();
        (contact(&core, email)["optIn"].clone(), reason, leon)
    }

    fn put(&self, body: Value) -> Value {
        let reply = self.app().put(body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.settle();
        reply.json()
    }
}

fn person(n: u32) -> Value {
    json!({ "email": format!("p{n}@x.org"), "externalId": format!("u-{n}"), "optIn": true })
}

#[test]
fn whom_the_hub_suppresses_no_repeat_opts_in_at_a_vendor() {
    let town = Town::new();
    for (n, reason) in [(1, "complaint"), (2, "manual"), (3, "unsubscribe"), (4, "bounce")] {
        let email = format!("p{n}@x.org");
        town.put(person(n));
        assert_eq!(town.vendors(&email), (json!(true), Value::Null, json!(2)), "{reason}");
        let body = json!({ "email": email, "reason": reason });
        assert_eq!(town.app().ask("POST", "/suppressions", &body).status, 201);
        town.settle();
        let (_, at_core, at_leon) = town.vendors(&email);
        assert_eq!(
            (at_core, at_leon),
            (json!(reason), Value::Null),
            "the suppression reached nobody: {reason}"
        );
        // The application says again what it knows.
        town.put(person(n));
        let bulk = json!({ "contacts": [person(n), { "email": "other@x.org" }] });
        assert_eq!(town.app().ask("POST", "/contacts/bulk", &bulk).status, 200);
        town.settle();
        let (opt_in, at_core, at_leon) = town.vendors(&email);
        assert_eq!(at_core, reason, "the suppression is gone at MailingCore");
        assert_ne!(at_leon, 2, "{reason}: opted in at Maileon again");
        if reason != "manual" && reason != "bounce" {
            assert_eq!(opt_in, false, "{reason}: opted in at MailingCore again");
        }
    }
    // Lifted, nobody is opted in by it.
    let before = town.vendors("p1@x.org");
    assert_eq!(town.app().ask("DELETE", "/suppressions/p1%40x.org", &Value::Null).status, 200);
    town.settle();
    let (opt_in, at_core, at_leon) = town.vendors("p1@x.org");
    assert_eq!((opt_in, at_core, at_leon), (before.0, Value::Null, before.2));
    // Whoever agrees then is opted in, though the contact is so here already.
    town.put(json!({ "email": "p2@x.org", "externalId": "u-2", "optIn": true }));
    assert_eq!(town.app().ask("DELETE", "/suppressions/p2%40x.org", &Value::Null).status, 200);
    town.settle();
    town.put(person(2));
    assert_eq!(town.vendors("p2@x.org"), (json!(true), Value::Null, json!(2)));
    // Whoever is no contact is not mailed by the vendor either.
    let body = json!({ "email": "stranger@x.org", "reason": "complaint" });
    assert_eq!(town.app().ask("POST", "/suppressions", &body).status, 201);
    town.settle();
    assert_eq!(town.vendors("stranger@x.org"), (Value::Null, json!("complaint"), Value::Null));
}

/// Opt-ins stand in another lane than profiles, and carry the contact too.
#[test]
fn an_opt_in_that_is_retried_takes_no_newer_profile_back() {
    let town = Town::new();
    for n in 1..5 {
        town.put(json!({ "email": format!("p{n}@x.org"), "externalId": format!("u-{n}"), "locale": "es" }));
    }
    town.core.faults("server_error=100%");
    let patch = |n: u32, body: Value| {
        let reply = town.app().ask("PATCH", &format!("/contacts/u-{n}"), &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    (1..5).for_each(|n| patch(n, json!({ "optIn": true })));
    std::thread::sleep(std::time::Duration::from_millis(300));
    for n in 1..5 {
        patch(
            n,
            json!({ "locale": "de", "attributes": { "plan": "pro" }, "email": format!("new{n}@x.org") }),
        );
    }
    town.core.faults("none");
    town.settle();
    for n in 1..5 {
        let core = contact(&town.core.state(), &format!("new{n}@x.org"));
        let told = (&core["optIn"], &core["locale"], &core["attributes"]["plan"]);
        assert_eq!(told, (&json!(true), &json!("de"), &json!("pro")), "{core}");
    }
}

#[test]
fn an_erased_person_comes_back_to_no_vendor() {
    let town = Town::new();
    town.put(person(1));
    assert_eq!(town.app().ask("DELETE", "/contacts/u-1", &Value::Null).status, 200);
    town.settle();
    let before = json!([{ "type": "contact.subscribed", "id": "late-1", "subject": "p1@x.org", "time": "2026-01-01T00:00:00Z",
        "data": { "contact": { "external_id": "u-1", "standard": { "FIRSTNAME": "Rea" } } } }]);
    assert_eq!(town.app().ask("POST", "/v1/events", &before).status, 202);
    town.settle();
    assert_eq!(
        town.app().ask("GET", "/contacts/u-1", &Value::Null).status,
        404,
        "an event made the person again"
    );
    assert_eq!((town.vendors("p1@x.org").0, town.vendors("p1@x.org").2), (Value::Null, Value::Null));
    let late = town.hub.rows(&["events", "list", "--type", "contact.outlived"]);
    assert_eq!(late.len(), 1, "nothing tells of what came late");
    // Made anew by the application, the suppression stands, and no vendor is told of an opt-in.
    let again = town.put(person(1));
    assert!(again["suppressedAt"].is_string());
    let (opt_in, _, at_leon) = town.vendors("p1@x.org");
    assert_eq!(opt_in, false);
    assert!(at_leon.is_null() || at_leon == 1, "opted in at Maileon: {at_leon}");
}

#[test]
fn what_the_hub_writes_does_not_come_back_as_the_persons_word() {
    let town = Town::new();
    let endpoint = Receiver::start();
    let url = format!("http://127.0.0.1:{}/hook", endpoint.port);
    let body = json!({ "url": url, "events": ["contact.unsubscribed"] });
    assert_eq!(town.app().ask("POST", "/webhooks/endpoints", &body).status, 201);
    town.put(person(1));
    let patch = |opt_in: bool| {
        let reply = town.app().ask("PATCH", "/contacts/u-1", &json!({ "optIn": opt_in }));
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    patch(false);
    town.settle();
    let row = town.app().get("/contacts/u-1");
    assert_eq!(
        (&row["optIn"], &row["suppressedAt"]),
        (&json!(false), &Value::Null),
        "an echo suppressed: {row}"
    );
    assert_eq!(endpoint.ok().len(), 1, "the application was told of its own echo");
    let echoes = town.hub.rows(&["events", "list", "--type", "contact.echoed"]);
    assert_eq!(echoes.len(), 1, "the story does not name the echo");
    assert_eq!(echoes[0]["source"], "core");
    patch(true);
    town.settle();
    assert_eq!(
        town.vendors("p1@x.org"),
        (json!(true), Value::Null, json!(2)),
        "granted anew, and not everywhere"
    );
    // At once: what comes back of the first finds the second done.
    patch(false);
    std::thread::sleep(std::time::Duration::from_millis(2));
    patch(true);
    town.settle();
    let row = town.app().get("/contacts/u-1");
    assert_eq!((&row["optIn"], &row["suppressedAt"]), (&json!(true), &Value::Null), "{row}");
    assert_eq!(town.vendors("p1@x.org"), (json!(true), Value::Null, json!(2)));
    assert_eq!(town.hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
fn a_complaint_at_mailingcore_alerts_the_operator() {
    let town = Town::new();
    town.put(person(1));
    let at = mailspan_core::Millis(mailspan_testkit::now_ms()).rfc3339();
    let body = json!({ "id": "evt_complaint", "type": "email.complained", "createdAt": at, "tenantId": "",
        "data": { "emailLogId": "m1", "to": "p1@x.org", "externalId": "u-1" } });
    let body = body.to_string();
    for _ in 0..2 {
        let at = mailspan_testkit::now_ms() / 1_000;
        let text = [format!("{at}.").as_bytes(), body.as_bytes()].concat();
        let signature = format!("t={at},v1={}", crate::support::signed(SECRET, &text));
        let headers = [("x-mailingcore-signature", signature.as_str()), ("content-type", "application/json")];
        let reply = town.hub.post("/in/core", &headers, body.as_bytes());
        assert!(reply.status < 300, "{}", reply.text());
    }
    town.settle();
    let told = until(10, "nobody was told of the complaint", || town.alarms.ok().pop()).json();
    assert_eq!((&told["type"], &told["data"]["source"]), (&json!("system.complaint"), &json!("core")));
    assert!(told["data"]["event_id"].is_string());
    assert_eq!(town.alarms.seen().len(), 1, "a repeat told it again");
    assert_eq!(town.vendors("p1@x.org").2, Value::Null, "still opted in at Maileon");
}

#[test]
fn contradictions_about_consent_are_refused() {
    let town = Town::new();
    let refused = |opt_in: bool, permission: u8| {
        let body = json!({ "email": "p1@x.org", "optIn": opt_in, "permission": permission });
        let reply = town.app().put(body);
        assert_eq!(reply.status, 400, "{opt_in} and {permission}: {}", reply.text());
        assert!(reply.text().contains("permission"), "{}", reply.text());
    };
    refused(true, 1);
    refused(false, 2);
    town.put(person(1));
    town.app().ask("PATCH", "/contacts/u-1", &json!({ "optIn": false }));
    let level = town.app().ask("PATCH", "/contacts/u-1", &json!({ "permission": 2 })).json();
    assert_eq!(
        (&level["optIn"], &level["permission"]),
        (&json!(false), &json!(1)),
        "a level opted somebody in"
    );
    let both = town.app().ask("PATCH", "/contacts/u-1", &json!({ "permission": 3, "optIn": true })).json();
    assert_eq!((&both["optIn"], &both["permission"]), (&json!(true), &json!(3)));
}

//! A provider's log of a transmission against what was settled, and the push re-sync of contacts.

use mailspan_testkit::{Hub, Receiver, Sandbox, request, until};
use serde_json::{Value, json};

use crate::support::{BINARY, SECRET, config};

const KEY: &str = "mailtarget-key-of-the-tests";
/// What the command answers where both sides differ.
const DIFFERENT: i32 = 3;

struct Platform {
    hub: Hub,
    sandbox: Sandbox,
    watch: Receiver,
}

fn platform() -> Platform {
    let watch = Receiver::start();
    let env = [("MAILTARGET_SECRET", SECRET), ("MAILTARGET_KEY", KEY)];
    // The sandbox posts to the hub, and the hub asks the sandbox: the port of one must be known first.
    let port = mailspan_testkit::free_port();
    let text = config(&watch, "retry = [\"50ms\"]\nbreaker = { failures = 0 }", "").replace(
        "[sources.app]",
        &format!(
            "base_url = \"http://127.0.0.1:{port}/v1\"\n\
             auth = {{ kind = \"bearer\", token = {{ env = \"MAILTARGET_KEY\" }} }}\n\n[sources.app]"
        ),
    );
    let mut hub = Hub::new(BINARY, &text, &env);
    hub.start();
    let to = format!("http://127.0.0.1:{}/in/mailtarget", hub.port);
    let words = ["--to", &to, "--secret", SECRET, "--api-key", KEY, "--seed", "3", "--speed", "100000"];
    let sandbox = Sandbox::start_at(BINARY, "mailtarget", port, &words);
    Platform { hub, sandbox, watch }
}

impl Platform {
    /// Sends to three people; the id, when all has happened that will.
    fn send(&self, name: &str) -> String {
        let to: Vec<Value> = (0..3).map(|n| json!({"email": format!("{name}{n}@example.com")})).collect();
        let body = json!({
            "subject": "News", "from": {"email": "news@example.com"}, "to": to,
            "bodyText": "Read https://example.com/a", "bodyHtml": "<a href=\"https://example.com/a\">a</a>",
            "optionsAttributes": {"openTracking": true, "clickTracking": true, "transactional": true},
        });
        let auth = format!("Bearer {KEY}");
        let headers = [("authorization", auth.as_str()), ("content-type", "application/json")];
        let path = "/v1/layang/transmissions";
        let reply = request(self.sandbox.port, "POST", path, &headers, body.to_string().as_bytes()).unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        until(60, "not all that was sent has happened", || {
            let events = &self.sandbox.state()["events"];
            (events["waiting"] == 0 && events["in_flight"] == 0).then_some(())
        });
        reply.json()["transmissionId"].as_str().unwrap().to_owned()
    }

    /// The exit code and what was said.
    fn reconcile(&self, id: &str, more: &[&str]) -> (i32, Value) {
        let words = ["reconcile", "mailtarget", "--transmission", id, "--json"];
        let output = self.hub.run(&[&words[..], more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
        (output.status.code().unwrap(), answer)
    }
}

fn kinds(answer: &Value) -> Vec<&str> {
    let mut kinds: Vec<&str> =
        answer["differences"].as_array().unwrap().iter().map(|one| one["what"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

#[test]
pub fn each_difference_to_the_providers_log_is_named_and_can_be_mended() {
    let platform = platform();
    let told = platform.send("told");
    let (code, same) = platform.reconcile(&told, &[]);
    assert_eq!((code, kinds(&same)), (0, vec![]), "{same}");
    assert!(same["agreed"].as_u64().unwrap() >= 3, "{same}");
    assert_eq!(same["agreed"], same["listed"], "{same}");

    platform.sandbox.faults("forget");
    let forgotten = platform.send("forgotten");
    platform.sandbox.faults("none");
    let (code, differs) = platform.reconcile(&forgotten, &[]);
    assert_eq!((code, kinds(&differs)), (DIFFERENT, vec!["missing_here"]), "{differs}");
    let missing = differs["differences"].as_array().unwrap().len();
    assert_eq!(differs["listed"], missing, "{differs}");
    let (code, mended) = platform.reconcile(&forgotten, &["--repair"]);
    assert_eq!((code, &mended["repaired"]), (0, &json!(missing)), "{mended}");
    let (code, same) = platform.reconcile(&forgotten, &[]);
    assert_eq!((code, &same["agreed"]), (0, &json!(missing)), "{same}");

    platform.watch.status(422);
    let failed = platform.send("failed");
    let (code, differs) = until(20, "no delivery fails", || {
        let (code, answer) = platform.reconcile(&failed, &[]);
        (answer["deliveries_pending"] == 0).then_some((code, answer))
    });
    assert_eq!((code, kinds(&differs)), (DIFFERENT, vec!["failed_delivery"]), "{differs}");
    assert_eq!(differs["differences"][0]["destination"], "crm", "{differs}");
    assert_eq!(platform.hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
pub fn what_cannot_be_compared_says_why() {
    let platform = platform();
    let check = |words: &[&str], expected: &str| {
        let output = platform.hub.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains(expected), "{words:?}: {said}");
    };
    check(&["reconcile", "mailtarget", "--transmission", "none"], "knows no transmission `none`");
    check(&["reconcile", "mailtarget"], "lists nothing");
    check(&["reconcile", "app", "--transmission", "x"], "keeps no log");
    platform.sandbox.faults("unauthorized");
    check(&["reconcile", "mailtarget", "--transmission", "x"], "the key is not valid");
}

const CORE_KEY: &str = "mc_test_of_the_tests";

fn audience(account: u16) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:{{HUB}}"

[storage]
url = "sqlite:hub.db"

[egress]
allow = ["127.0.0.1:1024-65535"]

[destinations.core]
kind = "mailingcore"
base_url = "http://127.0.0.1:{account}"
auth = {{ kind = "bearer", token = {{ env = "CORE_KEY" }} }}
rate = "1000/1s"
batch = {{ max = 100, wait = "20ms" }}
resync = {{ every = "24h" }}

[[routes]]
name = "audience"
events = ["contact.*"]
to = ["core"]
"#
    )
}

/// Contacts of the hub, told to a fake account.
struct Audience {
    hub: Hub,
    account: Sandbox,
    key: String,
}

impl Audience {
    fn put(&self, port: u16, key: &str, n: usize, locale: &str) {
        let auth = format!("Bearer {key}");
        let headers = [("authorization", auth.as_str()), ("content-type", "application/json")];
        let body = json!({
            "email": format!("p{n}@example.com"), "externalId": format!("u-{n}"), "locale": locale, "optIn": true,
        });
        let reply = request(port, "PUT", "/contacts", &headers, body.to_string().as_bytes()).unwrap();
        assert!(reply.status < 300, "{}", reply.text());
    }

    fn here(&self, n: usize, locale: &str) {
        self.put(self.hub.port, &self.key, n, locale);
    }

    /// Somebody changed it there.
    fn there(&self, n: usize, locale: &str) {
        self.put(self.account.port, CORE_KEY, n, locale);
    }

    fn locales(&self, contacts: usize) -> Vec<String> {
        let state = self.account.state();
        let of = |n: usize| {
            let all = state["contacts"].as_array().unwrap();
            let found = all.iter().find(|contact| contact["externalId"] == format!("u-{n}").as_str());
            found.and_then(|contact| contact["locale"].as_str()).unwrap_or("none").to_owned()
        };
        (0..contacts).map(of).collect()
    }

    fn told_again(&self) -> usize {
        let rows = self.hub.rows(&["events", "list", "--type", "contact.updated", "--limit", "1000"]);
        let of = |row: &&Value| {
            let id = row["id"].as_str().unwrap();
            let shown = self.hub.rows(&["events", "show", id]).remove(0);
            shown["event_json"].as_str().unwrap().contains("\"origin\":\"resync\"")
        };
        rows.iter().filter(of).count()
    }

    /// Until a push that was asked for now is queued to its end; nothing is left to send then.
    fn resync(&self) {
        let ended = |hub: &Hub| hub.rows(&["destinations", "list"])[0]["resync"]["round_ended_at"].clone();
        let before = ended(&self.hub);
        self.hub.rows(&["destinations", "resync", "core"]);
        until(30, "the push does not end", || (ended(&self.hub) != before).then_some(()));
        until(30, "not all was sent", || {
            let audit = self.hub.rows(&["audit"]).remove(0);
            (audit["waiting"] == 0 && audit["pending"] == 0).then_some(())
        });
    }
}

#[test]
pub fn a_resync_tells_again_only_what_changed_since_the_last_push_that_arrived() {
    let account = Sandbox::start(BINARY, "mailingcore", &["--api-key", CORE_KEY, "--seed", "5"]);
    let mut hub = Hub::new(BINARY, &audience(account.port), &[("CORE_KEY", CORE_KEY)]);
    hub.start();
    let key = &hub.rows(&["keys", "create", "--scope", "contacts:write"])[0];
    let key = key["key"].as_str().unwrap().to_owned();
    let mut audience = Audience { hub, account, key };
    for n in 0..3 {
        audience.here(n, "de");
    }
    audience.resync();
    assert_eq!(audience.locales(3), ["de", "de", "de"]);
    let first = audience.told_again();
    // What drifted there is not looked for: the push tells what changed here.
    audience.there(0, "fr");
    audience.there(1, "fr");
    audience.here(1, "es");
    audience.resync();
    assert_eq!(audience.locales(3), ["fr", "es", "de"]);
    assert_eq!(audience.told_again(), first + 1);
    // Nothing changed, nothing is told, after a restart neither.
    audience.resync();
    audience.hub.stop();
    audience.hub.start();
    audience.resync();
    assert_eq!(audience.told_again(), first + 1);
    // What did not arrive is told again until it does.
    audience.account.faults("status=422");
    audience.here(2, "it");
    until(30, "nothing is refused", || {
        let audit = audience.hub.rows(&["audit"]).remove(0);
        (audit["dead"].as_u64() > Some(0)).then_some(())
    });
    audience.resync();
    audience.account.faults("none");
    audience.resync();
    assert_eq!(audience.locales(3), ["fr", "es", "it"]);
    assert_eq!(audience.hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
pub fn a_resync_reaches_no_other_destination() {
    let account = Sandbox::start(BINARY, "mailingcore", &["--api-key", CORE_KEY, "--seed", "5"]);
    let watch = Receiver::start();
    let more = format!(
        "[destinations.watch]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n\n[[routes]]\nname = \"watch\"\n\
         events = [\"contact.*\"]\nto = [\"watch\"]\n",
        watch.port
    );
    let text = audience(account.port) + &more;
    let mut hub = Hub::new(BINARY, &text, &[("CORE_KEY", CORE_KEY)]);
    hub.start();
    let key = &hub.rows(&["keys", "create", "--scope", "contacts:write"])[0];
    let key = key["key"].as_str().unwrap().to_owned();
    let audience = Audience { hub, account, key };
    audience.here(0, "de");
    audience.resync();
    assert!(audience.told_again() >= 1);
    let origins: Vec<Value> = watch.ok().iter().map(|seen| seen.json()["data"]["origin"].clone()).collect();
    assert!(!origins.is_empty() && !origins.contains(&json!("resync")), "{origins:?}");
}

/// MailingCore has one object for what the hub keeps in three: what was told comes back as it was told, and what is
/// said of one of them takes nothing away there.
#[test]
pub fn fields_that_were_told_come_back_as_fields() {
    let account = Sandbox::start(BINARY, "mailingcore", &["--api-key", CORE_KEY, "--seed", "5"]);
    let more = format!(
        "[sources.app]\nkind = \"api\"\n\n[sources.core]\nkind = \"mailingcore\"\n\
         secrets = [{{ env = \"CORE_SECRET\" }}]\naccount = \"core\"\n\
         base_url = \"http://127.0.0.1:{}\"\nauth = {{ kind = \"bearer\", token = {{ env = \"CORE_KEY\" }} }}\n\
         poll = {{ every = \"24h\" }}\n",
        account.port
    );
    let text = audience(account.port).replace("rate =", "account = \"core\"\nrate =") + &more;
    let env = [("CORE_KEY", CORE_KEY), ("CORE_SECRET", "whsec_0123456789abcdef0123456789abcdef")];
    let mut hub = Hub::new(BINARY, &text, &env);
    hub.start();
    assert!(hub.run(&["fields", "declare", "size", "integer"]).status.success());
    let scopes = ["contacts:read", "contacts:write", "events:write"].map(|scope| ["--scope", scope]);
    let key = &hub.rows(&[&["keys", "create"][..], scopes.as_flattened()].concat())[0];
    let auth = format!("Bearer {}", key["key"].as_str().unwrap());
    let headers = [("authorization", auth.as_str()), ("content-type", "application/json")];
    let ask = |method: &str, path: &str, body: Value| {
        let reply = request(hub.port, method, path, &headers, body.to_string().as_bytes()).unwrap();
        assert!(reply.status < 300, "{}", reply.text());
        reply.json()
    };
    let here = |custom: i64| {
        let contact = ask("GET", "/contacts/u-1", Value::Null);
        let own = json!([contact["attributes"], contact["standardFields"], contact["customFields"]]);
        assert_eq!(own, json!([{"plan": "pro"}, {"CITY": "Bonn"}, {"size": custom}]));
    };
    let there = |custom: i64| {
        until(20, "the account is not told", || {
            let told = account.state()["contacts"][0]["attributes"].clone();
            (told == json!({"plan": "pro", "CITY": "Bonn", "size": custom})).then_some(())
        });
    };
    let fields = json!({
        "email": "ann@example.com", "externalId": "u-1", "attributes": {"plan": "pro"},
        "standardFields": {"CITY": "Bonn"}, "customFields": {"size": 5},
    });
    ask("PUT", "/contacts", fields);
    there(5);
    hub.rows(&["sources", "poll", "core"]);
    here(5);
    assert_eq!(hub.rows(&["events", "list", "--type", "contact.updated"]).len(), 0);
    ask("PATCH", "/contacts/u-1", json!({"customFields": {"size": 7}}));
    there(7);
    let event = json!({
        "type": "contact.updated", "subject": "ann@example.com", "data": {"contact": {"custom": {"size": 8}}},
    });
    ask("POST", "/v1/events", event);
    there(8);
    hub.rows(&["sources", "poll", "core"]);
    here(8);
}

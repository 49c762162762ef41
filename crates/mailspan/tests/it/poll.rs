//! Sources that are asked: what their webhooks never told is found, once.

use mailspan_testkit::{Hub, Receiver, Reply, Sandbox, until};
use serde_json::{Value, json};

use crate::support::BINARY;

const KEY: &str = "mc_test_of_the_tests";
const SECRET: &str = "whsec_0123456789abcdef0123456789abcdef";

fn config(account: u16, poll: &str, receiver: u16) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:{{HUB}}"

[storage]
url = "sqlite:hub.db"

[egress]
allow = ["127.0.0.1:1024-65535"]

[sources.core]
kind = "mailingcore"
secrets = [{{ env = "CORE_SECRET" }}]
base_url = "http://127.0.0.1:{account}"
auth = {{ kind = "bearer", token = {{ env = "CORE_KEY" }} }}
poll = {{ {poll} }}

[destinations.watch]
kind = "http"
url = "http://127.0.0.1:{receiver}/"
timeout = "2s"

[[routes]]
name = "contacts"
events = ["contact.*"]
to = ["watch"]

[[routes]]
name = "operator"
events = ["system.*"]
to = ["watch"]
"#
    )
}

struct Pair {
    hub: Hub,
    account: Sandbox,
    watch: Receiver,
}

/// A fake account with so many contacts, opted in, and a hub that is not started yet.
fn pair(contacts: usize, poll: &str) -> Pair {
    let account = Sandbox::start(BINARY, "mailingcore", &["--api-key", KEY, "--seed", "5"]);
    let watch = Receiver::start();
    let env = [("CORE_SECRET", SECRET), ("CORE_KEY", KEY)];
    let hub = Hub::new(BINARY, &config(account.port, poll, watch.port), &env);
    let pair = Pair { hub, account, watch };
    for n in 0..contacts {
        let contact =
            json!({"email": email(n), "externalId": format!("u-{n}"), "optIn": true, "locale": "de"});
        let made = pair.call("PUT", "/contacts", &contact);
        assert!(made.status < 300, "{}", String::from_utf8_lossy(&made.body));
    }
    pair
}

fn email(n: usize) -> String {
    format!("p{n}@example.com")
}

impl Pair {
    fn call(&self, method: &str, path: &str, body: &Value) -> Reply {
        let auth = format!("Bearer {KEY}");
        let headers = [("authorization", auth.as_str()), ("content-type", "application/json")];
        mailspan_testkit::request(self.account.port, method, path, &headers, body.to_string().as_bytes())
            .unwrap()
    }

    /// Opts somebody out at the account; it tells its endpoints, or forgets to.
    fn opt_out(&self, n: usize) {
        let reply = self.call("PUT", "/contacts", &json!({"email": email(n), "optIn": false}));
        assert!(reply.status < 300, "{}", String::from_utf8_lossy(&reply.body));
    }

    fn register(&self) {
        let url = format!("http://127.0.0.1:{}/in/core", self.hub.port);
        let body = json!({"url": url, "events": ["contact.unsubscribed"], "secret": SECRET});
        assert_eq!(self.call("POST", "/webhooks/endpoints", &body).status, 201);
    }

    fn requests(&self) -> u64 {
        self.account.state()["requests"].as_u64().unwrap()
    }

    fn poll(&self) -> Value {
        self.hub.rows(&["sources", "poll", "core"]).remove(0)
    }

    fn source(&self) -> Value {
        self.hub.rows(&["sources", "show", "core"]).remove(0)
    }

    fn events(&self, event_type: &str) -> Vec<Value> {
        self.hub.rows(&["events", "list", "--type", event_type, "--limit", "1000"])
    }

    /// Until the first round, which begins with the hub, has ended.
    fn first_round(&self) {
        until(20, "the first round does not end", || {
            self.source()["round_ended_at"].is_string().then_some(())
        });
    }
}

#[test]
pub fn reconciliation_finds_what_webhooks_never_told_and_nothing_else() {
    let mut pair = pair(3, "every = \"1h\"");
    pair.hub.start();
    pair.register();
    pair.first_round();
    assert_eq!((pair.events("contact.updated").len(), pair.events("contact.subscribed").len()), (3, 3));
    // What is stored costs no event a second time.
    let again = pair.poll();
    assert_eq!((&again["found"], &again["known"]), (&json!(0), &json!(0)), "{again}");
    pair.account.faults("forget");
    pair.opt_out(0);
    pair.account.faults("none");
    pair.opt_out(1);
    until(20, "the webhook does not arrive", || pair.events("contact.unsubscribed").pop());
    let found = pair.poll();
    assert_eq!((&found["found"], &found["known"]), (&json!(1), &json!(1)), "{found}");
    let told = pair.events("contact.unsubscribed");
    assert_eq!(told.len(), 2, "{told:?}");
    let facts = pair.hub.rows(&["ledger", "list"]);
    for n in [0, 1] {
        let of = |fact: &&Value| fact["subject"] == email(n).as_str() && fact["what"] == "opt_out";
        assert_eq!(facts.iter().filter(of).count(), 1, "{n}: {facts:?}");
    }
    let source = pair.source();
    let day = source["days"].as_array().unwrap().iter().find(|day| day["type"] == "contact.unsubscribed");
    let day = day.unwrap_or_else(|| panic!("{source}"));
    let figures = (&day["listed"], &day["known"], &day["found"], &day["completeness"]);
    assert_eq!(figures, (&json!(2), &json!(1), &json!(1), &json!(50.0)), "{source}");
    let again = pair.poll();
    assert_eq!((&again["found"], &again["known"]), (&json!(0), &json!(0)), "{again}");
    assert_eq!(pair.hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
pub fn a_second_pull_costs_what_changed() {
    let mut pair = pair(20, "every = \"1h\", page = 5, overlap = \"0s\"");
    pair.hub.start();
    pair.first_round();
    // The account's clock tells seconds: what was written in the last one is listed once more.
    let nothing = until(20, "what is stored is listed again and again", || {
        let pulled = pair.poll();
        (pulled["again"] == 0).then_some(pulled)
    });
    assert_eq!((&nothing["pages"], &nothing["found"]), (&json!(1), &json!(0)), "{nothing}");
    pair.opt_out(7);
    let one = pair.poll();
    assert_eq!((&one["pages"], &one["found"], &one["again"]), (&json!(1), &json!(1), &json!(0)), "{one}");
}

#[test]
pub fn a_source_whose_credential_is_refused_is_paused_and_named() {
    let mut pair = pair(1, "every = \"1h\"");
    pair.account.faults("unauthorized");
    pair.hub.start();
    let told = |seen: &mailspan_testkit::Seen| seen.json()["type"] == "system.source_paused";
    let seen = until(20, "nobody is told", || pair.watch.seen().into_iter().find(told));
    let data = &seen.json()["data"];
    assert_eq!((&data["source"], &data["reason"]), (&json!("core"), &json!("unauthorized")));
    assert!(data["credential"].as_str().unwrap().contains("CORE_KEY"), "{data}");
    let row = &pair.hub.rows(&["sources", "list"])[0];
    assert_eq!(row["state"], "paused", "{row}");
    let asked = pair.requests();
    // It stays so over a restart.
    pair.hub.stop();
    pair.hub.start();
    assert_eq!((&pair.source()["state"], pair.requests()), (&json!("paused"), asked));
    pair.account.faults("none");
    let found = pair.poll();
    assert_eq!((&found["found"], &found["paused"]), (&json!(2), &json!(false)), "{found}");
    assert_eq!(pair.source()["state"], "asks");
}

#[test]
pub fn a_vendor_that_asks_for_time_gets_it() {
    let mut pair = pair(1, "every = \"1s\"");
    pair.account.faults("rate_limit=1/60s");
    pair.hub.start();
    let source = until(20, "it is not told to wait", || {
        let source = pair.source();
        (source["state"] == "waits").then_some(source)
    });
    let (due, at) = (source["due"].as_str().unwrap(), source["asked_at"].as_str().unwrap());
    let ms = |text: &str| mailspan_core::Millis::parse_rfc3339(text).unwrap();
    assert!(ms(due).since(ms(at)) > 30_000, "{source}");
    assert!(source["reason"].as_str().unwrap().contains("429"), "{source}");
}

#[test]
pub fn a_kill_at_any_point_of_a_page_loses_and_doubles_nothing() {
    const CONTACTS: usize = 25;
    let mut pair = pair(CONTACTS, "every = \"1h\", page = 4");
    for point in
        ["accept-before-commit:1", "accept-in-commit:2", "accept-after-commit:1", "accept-before-commit:2"]
    {
        pair.hub.set_env("MAILSPAN_CRASH_POINT", point);
        pair.hub.spawn();
        pair.hub.wait_for_end(30, "the hub was not killed");
    }
    pair.hub.set_env("MAILSPAN_CRASH_POINT", "");
    pair.hub.start();
    pair.first_round();
    for event_type in ["contact.updated", "contact.subscribed"] {
        let mut subjects: Vec<String> =
            pair.events(event_type).iter().map(|row| row["subject"].as_str().unwrap().to_owned()).collect();
        subjects.sort();
        let mut expected: Vec<String> = (0..CONTACTS).map(email).collect();
        expected.sort();
        assert_eq!(subjects, expected, "{event_type}");
    }
    assert_eq!(pair.hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
pub fn rounds_that_were_missed_are_made_up_for_once() {
    let mut pair = pair(2, "every = \"1h\"");
    let clock = pair.hub.folder().join("clock");
    std::fs::write(&clock, "0").unwrap();
    pair.hub.set_env("MAILSPAN_CLOCK_FILE", clock.to_str().unwrap());
    pair.hub.start();
    pair.first_round();
    let before = pair.requests();
    pair.hub.stop();
    // Not due yet: a restart asks nobody.
    pair.hub.start();
    let ended = pair.source()["round_ended_at"].clone();
    pair.hub.stop();
    assert_eq!(pair.requests(), before);
    std::fs::write(&clock, "36000000").unwrap();
    pair.hub.start();
    let source = until(20, "the missed round is not made up for", || {
        let source = pair.source();
        (source["round_ended_at"] != ended).then_some(source)
    });
    let ms = |name: &str| mailspan_core::Millis::parse_rfc3339(source[name].as_str().unwrap()).unwrap();
    assert!(ms("due").since(ms("round_ended_at")) >= 3_240_000, "{source}");
    assert_eq!(pair.requests(), before + 1, "ten rounds were missed, one is asked");
}

#[test]
pub fn a_source_that_is_slow_is_not_asked_twice_at_once() {
    let mut pair = pair(1, "every = \"1s\"");
    pair.account.faults("slow=100%:3s");
    pair.hub.start();
    let before = pair.requests();
    until(20, "nobody asks", || (pair.requests() > before || before > 1).then_some(()));
    let output = pair.hub.run(&["sources", "poll", "core"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("being asked just now"), "{said}");
}

#[test]
pub fn a_source_can_be_asked_by_a_command_while_no_hub_runs() {
    let pair = pair(2, "every = \"1h\"");
    let found = pair.poll();
    assert_eq!((&found["found"], &found["more"]), (&json!(4), &json!(false)), "{found}");
    assert_eq!(pair.poll()["found"], 0);
}

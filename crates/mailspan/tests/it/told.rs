//! What an operator is told of, once and whatever dies meanwhile; what is void; what nobody serves any more.

use std::collections::{BTreeMap, BTreeSet};

use mailspan_testkit::{Hub, Receiver, Sandbox, until};
use serde_json::{Value, json};

use crate::crm::TOKEN;
use crate::reload::{apply, text_of};
use crate::replay::{audit, dead_letters, id_of};
use crate::support::{AT, BINARY, SECRET, event, hub_with, send};

/// A route of the hub's own events, and where they go.
pub fn alarms(alarms: &Receiver, events: &str) -> String {
    format!(
        "[destinations.alarms]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/\"\nretry = {{ calendar = [\"100ms\"], for = \"30d\" }}\n\n\
         [[routes]]\nname = \"alarms\"\nfrom = [\"system\"]\nevents = [{events}]\nto = [\"alarms\"]\n",
        alarms.port
    )
}

/// A destination that refuses what it gets, a route whose condition fails, and a route that tells of both.
pub struct Refusals {
    _refuser: Receiver,
    heard: Receiver,
    pub config: String,
}

impl Refusals {
    pub fn start() -> Refusals {
        let (refuser, heard) = (Receiver::start(), Receiver::start());
        refuser.status(422);
        let config = format!(
            r#"
[destinations.refuser]
kind = "http"
url = "http://127.0.0.1:{}/"
rate = "1000/1s"
retry = {{ calendar = ["200ms"], for = "30d" }}

[[routes]]
name = "refused"
from = ["mailtarget"]
to = ["refuser"]
when = 'ends_with(string!(.subject), "1@example.com")'

[[routes]]
name = "odd"
from = ["mailtarget"]
to = ["refuser"]
when = 'ends_with(string!(.subject), "2@example.com") && to_int!(.subject) > 0'

{}"#,
            refuser.port,
            alarms(&heard, "\"system.dead_letter\"")
        );
        Refusals { _refuser: refuser, heard, config }
    }

    /// Waits until nothing is on its way; how many dead letters there are, each told of once.
    pub fn check(&self, hub: &Hub) -> usize {
        until(60, "something stays pending", || {
            let sums = audit(hub);
            (sums["pending"] == 0 && sums["waiting"] == 0).then_some(())
        });
        let dead = each_is_told_of_once(hub, &self.heard);
        assert!(dead > 0, "nothing was refused: what is told of it was not tried");
        dead
    }
}

/// The ids of the events that told of each dead letter.
fn told_of(alarms: &Receiver) -> BTreeMap<String, BTreeSet<String>> {
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for seen in alarms.ok() {
        let event = seen.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        told.entry(text(&event["data"]["delivery"])).or_default().insert(text(&event["id"]));
    }
    told
}

/// All dead letters, each told of by one event.
fn each_is_told_of_once(hub: &Hub, alarms: &Receiver) -> usize {
    let dead: BTreeSet<String> = hub.rows(&["dead-letters", "list"]).iter().map(id_of).collect();
    let told = told_of(alarms);
    let missing: Vec<_> = dead.iter().filter(|id| !told.contains_key(*id)).collect();
    assert!(
        missing.is_empty(),
        "{} of {} dead letters were not told of: {missing:?}",
        missing.len(),
        dead.len()
    );
    let twice: Vec<_> = told.iter().filter(|(_, events)| events.len() > 1).collect();
    assert!(twice.is_empty(), "told of by several events: {twice:?}");
    dead.len()
}

fn write_key(hub: &Hub) -> String {
    let made = &hub.rows(&["keys", "create", "--scope", "events:write"])[0];
    format!("Bearer {}", made["key"].as_str().unwrap())
}

fn say(hub: &Hub, key: &str, event_type: &str, subject: &str, time: &str) {
    let body = json!({ "type": event_type, "subject": subject, "time": time, "data": {} }).to_string();
    let reply = hub.post("/v1/events", &[("authorization", key)], body.as_bytes());
    assert_eq!(reply.status, 202, "{}", reply.json());
}

#[test]
pub fn a_condition_that_fails_is_told_and_logged() {
    let heard = Receiver::start();
    let more = format!(
        "{}\n[[routes]]\nname = \"odd\"\nfrom = [\"mailtarget\"]\nto = [\"crm\"]\nwhen = 'to_int!(.subject) > 1'\n",
        alarms(&heard, "\"system.dead_letter\"")
    );
    let (hub, _crm) = hub_with("rate = \"1000/1s\"", &more);
    dead_letters(&hub, "open", "odd", 2, 2);
    until(20, "nobody was told", || (told_of(&heard).len() == 2).then_some(()));
    assert_eq!(each_is_told_of_once(&hub, &heard), 2);
    assert_eq!(heard.ok()[0].json()["data"]["route"], "odd");
    let log = hub.log();
    assert!(log.contains("mailspan dead-letters list --event"), "{log}");
    assert!(!log.contains("to_int"), "what a condition says may quote the event: {log}");
}

#[test]
fn each_dead_letter_is_told_of_once_over_kills() {
    let heard = Receiver::start();
    let (mut hub, crm) =
        hub_with("retry = [\"50ms\"]\nrate = \"1000/1s\"", &alarms(&heard, "\"system.dead_letter\""));
    crm.status(422);
    for round in 0..4 {
        let some: Vec<Value> =
            (0..150).map(|n| event("open", &format!("r{round}-{n}@example.com"), AT)).collect();
        assert_eq!(send(&hub, &json!(some)).status, 200);
        let before = round * 150;
        until(20, "nothing dies", || (audit(&hub)["dead"].as_u64().unwrap() > before + 30).then_some(()));
        hub.kill();
        hub.start();
    }
    until(60, "they did not become dead letters", || (audit(&hub)["dead"] == 600).then_some(()));
    until(60, "not all were told of", || (told_of(&heard).len() >= 600).then_some(()));
    until(60, "something waits", || (audit(&hub)["pending"] == 0).then_some(()));
    assert_eq!(each_is_told_of_once(&hub, &heard), 600);
}

#[test]
fn a_quota_in_danger_is_told_once_a_day_however_often_the_hub_is_started() {
    let heard = Receiver::start();
    let (mut hub, _crm) =
        hub_with("daily = 20\nrate = \"1000/1s\"", &alarms(&heard, "\"system.quota_in_danger\""));
    let some: Vec<Value> = (0..15).map(|n| event("open", &format!("q{n}@example.com"), AT)).collect();
    send(&hub, &json!(some));
    until(20, "nobody was told", || heard.ok().pop());
    // Killed before that is settled, it would be told again under the same key.
    let alerts = ["deliveries", "list", "--destination", "alarms", "--state", "delivered"];
    until(20, "the alert is not settled", || hub.rows(&alerts).pop());
    for restarts in 1..3 {
        hub.kill();
        hub.start();
        // It is found again, and known as a copy.
        until(20, "it is not in danger any more", || (audit(&hub)["duplicates"] == restarts).then_some(()));
    }
    assert_eq!(heard.ok().len(), 1, "said once a day");
}

#[test]
fn a_destination_that_leaves_the_configuration_is_told_and_its_queue_can_be_given_up() {
    let heard = Receiver::start();
    let (hub, crm) = hub_with(
        "retry = { calendar = [\"50ms\"], for = \"1h\" }\nbreaker = { failures = 0 }",
        &alarms(&heard, "\"system.destination_disabled\""),
    );
    crm.status(503);
    for n in 0..4 {
        send(&hub, &event("open", &format!("p{n}@example.com"), AT));
    }
    until(10, "not tried", || (crm.seen().len() >= 4).then_some(()));
    let without = text_of(&hub)
        .replace("[destinations.crm]", "[destinations.other]")
        .replace("to = [\"crm\"]", "to = [\"other\"]");
    apply(&hub, &without);
    let told = until(20, "nobody was told", || heard.ok().pop()).json();
    assert_eq!((&told["data"]["destination"], &told["data"]["pending"]), (&json!("crm"), &json!(4)));
    assert!(hub.log().contains("disabled: not in the configuration"), "{}", hub.log());
    let pending = hub.rows(&["deliveries", "list", "--state", "pending"]);
    let one = id_of(&pending[0]);
    let output = hub.run(&["dead-letters", "discard", &one, "--note", "gone for good"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = ["dead-letters", "discard", "--all", "--destination", "crm"];
    let output = hub.run(&all);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && why.contains("--note"), "taken without a note: {why}");
    let dry = hub.rows(&[&all[..], &["--dry-run"]].concat()).remove(0);
    assert_eq!((&dry["done"], &dry["state"]), (&json!(3), &json!("done")), "{dry}");
    let row = hub.rows(&[&all[..], &["--note", "gone for good", "--wait"]].concat()).remove(0);
    assert_eq!((&row["done"], &row["matched"]), (&json!(3), &json!(3)), "{row}");
    let sums = audit(&hub);
    assert_eq!((&sums["discarded"], &sums["pending"]), (&json!(4), &json!(0)), "{sums}");
    assert!(hub.rows(&["destinations", "list"]).iter().all(|row| row["id"] != "crm"), "it is over");
    // What is pending for a destination that is served goes on by itself.
    let kept = hub.run(&["dead-letters", "discard", &one, "--note", "again"]);
    assert!(!kept.status.success());
}

#[test]
fn an_old_opt_in_is_void_also_where_the_event_itself_is_sent() {
    let (hub, crm) = hub_with("retry = [\"50ms\"]\nrate = \"1000/1s\"", "");
    let key = write_key(&hub);
    crm.status(422);
    say(&hub, &key, "contact.subscribed", "ada@example.com", "2026-05-08T03:00:00Z");
    let dead = until(10, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    crm.status(200);
    say(&hub, &key, "contact.unsubscribed", "ada@example.com", "2026-05-08T03:10:00Z");
    until(10, "the opt-out did not arrive", || crm.ok().pop());
    let output = hub.run(&["dead-letters", "replay", &id_of(&dead)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let row = until(10, "it is not settled", || {
        let row = hub.rows(&["deliveries", "show", &id_of(&dead)]).remove(0);
        (row["state"] != "pending").then_some(row)
    });
    assert_eq!((&row["state"], &row["reason"]), (&json!("skipped"), &json!("superseded")), "{row}");
    assert_eq!(crm.ok().len(), 1, "the old opt-in came after the opt-out");
    // One that is newer is sent.
    say(&hub, &key, "contact.subscribed", "ada@example.com", "2026-05-08T03:20:00Z");
    until(10, "the new opt-in did not arrive", || (crm.ok().len() == 2).then_some(()));
}

const RESUBSCRIBED: &str = "eve@example.com";

/// A signup is an activity by its type, and its map makes an opt-in of it: while it waits for the rate the person
/// opts out, and that must be what stays.
#[test]
fn an_opt_in_that_a_map_makes_of_an_activity_is_not_sent_after_the_opt_out() {
    let names = ["a", "b", "c"].map(|name| format!("{name}@example.com"));
    let mut contacts = vec!["--contact", RESUBSCRIBED];
    contacts.extend(names.iter().flat_map(|name| ["--contact", name.as_str()]));
    let sandbox = Sandbox::hubspot(BINARY, TOKEN, &contacts);
    let text = format!(
        r#"
[server]
listen = "127.0.0.1:{{HUB}}"

[storage]
url = "sqlite:hub.db"

[egress]
allow = ["127.0.0.1:1024-65535"]

[sources.app]
kind = "api"

[destinations.crm]
kind = "hubspot"
base_url = "http://127.0.0.1:{}"
auth = {{ kind = "bearer", token = {{ env = "HUBSPOT_TOKEN" }} }}
subscription_id = 1001
rate = "1/1s"
batch = {{ max = 1, wait = "10ms" }}

[[routes]]
name = "signup"
from = ["app"]
events = ["app.signup"]
map = '[{{ "op": "set_consent", "consent": "opt_in", "at": .time }}]'
to = ["crm"]

[[routes]]
name = "out"
from = ["app"]
events = ["contact.unsubscribed"]
to = ["crm"]
"#,
        sandbox.port
    );
    let mut hub = Hub::new(BINARY, &text, &[("HUBSPOT_TOKEN", TOKEN), ("MAILTARGET_SECRET", SECRET)]);
    hub.start();
    let key = write_key(&hub);
    for name in &names {
        say(&hub, &key, "app.signup", name, "2026-05-08T03:00:00Z");
    }
    say(&hub, &key, "app.signup", RESUBSCRIBED, "2026-05-08T03:01:00Z");
    // It is claimed, and waits for the rate.
    std::thread::sleep(std::time::Duration::from_millis(300));
    say(&hub, &key, "contact.unsubscribed", RESUBSCRIBED, "2026-05-08T03:02:00Z");
    until(60, "something waits", || {
        let sums = audit(&hub);
        (sums["pending"] == 0 && sums["waiting"] == 0).then_some(())
    });
    let state = sandbox.state();
    let status = &state["statuses"][RESUBSCRIBED];
    assert!(!status.to_string().contains("\"SUBSCRIBED\""), "the opt-in came last: {state}");
}

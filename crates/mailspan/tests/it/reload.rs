//! A reload while deliveries wait: the queue is kept, whatever the file says in between.

use std::process::Command;

use mailspan_testkit::{Hub, Receiver, Seen, until};
use serde_json::json;

use crate::support::{AT, event, hub_with, send};

const PATIENT: &str = "retry = { calendar = [\"50ms\"], for = \"1h\" }\nbreaker = { failures = 0 }";

/// Writes another configuration and waits until the log says that it is applied.
pub fn apply(hub: &Hub, text: &str) {
    let applied = || hub.log().matches("configuration read again").count();
    let before = applied();
    std::fs::write(hub.folder().join("hub.toml"), text).unwrap();
    assert!(Command::new("kill").args(["-HUP", &hub.pid().to_string()]).status().unwrap().success());
    until(10, "the configuration is not applied", || (applied() == before + 1).then_some(()));
}

pub fn text_of(hub: &Hub) -> String {
    std::fs::read_to_string(hub.folder().join("hub.toml")).unwrap()
}

/// A hub with `n` deliveries that wait for a CRM in trouble.
fn waiting(n: usize) -> (Hub, Receiver) {
    let (hub, crm) = hub_with(PATIENT, "");
    crm.status(503);
    for n in 0..n {
        send(&hub, &event("open", &format!("p{n}@example.com"), AT));
    }
    until(10, "not tried", || (crm.seen().len() >= n).then_some(()));
    (hub, crm)
}

fn settled(hub: &Hub, delivered: u64) {
    until(20, "not all delivered", || (hub.rows(&["audit"])[0]["delivered"] == delivered).then_some(()));
    let audit = &hub.rows(&["audit"])[0];
    assert_eq!((&audit["dead"], &audit["adds_up"]), (&json!(0), &json!(true)), "{audit}");
}

#[test]
pub fn another_address_gets_the_queue() {
    let (hub, crm) = waiting(3);
    let other = Receiver::start();
    let moved =
        text_of(&hub).replace(&format!(":{}/activities", crm.port), &format!(":{}/moved", other.port));
    apply(&hub, &moved);
    settled(&hub, 3);
    assert_eq!(other.ok().len(), 3);
    assert!(crm.ok().is_empty());
}

#[test]
pub fn another_map_holds_for_what_waits() {
    let (hub, crm) = waiting(2);
    let mapped = text_of(&hub).replace("name = \"raw\"", "name = \"raw\"\nmap = '{ \"who\": .subject }'");
    apply(&hub, &mapped);
    send(&hub, &event("open", "new@example.com", AT));
    // A request that was made before is answered before: each is tried once more.
    let is_about = |seen: &Seen, who: &str| seen.subject() == who || seen.json()["who"] == who;
    let tried = |who: &str| crm.seen().iter().filter(|seen| is_about(seen, who)).count();
    for who in ["p0@example.com", "p1@example.com"] {
        let before = tried(who);
        until(10, "not tried again", || (tried(who) > before).then_some(()));
    }
    crm.status(200);
    settled(&hub, 3);
    let mapped = crm.ok().iter().filter(|seen| seen.json()["who"].is_string()).count();
    assert_eq!(mapped, 3, "what waited went out by the old map");
}

#[test]
pub fn a_listener_cannot_be_moved_by_a_reload() {
    let (hub, crm) = hub_with(PATIENT, "");
    send(&hub, &event("open", "before@example.com", AT));
    until(10, "not delivered", || crm.ok().pop());
    let text = text_of(&hub).replace(&format!(":{}\"", hub.port), ":1\"");
    std::fs::write(hub.folder().join("hub.toml"), text).unwrap();
    assert!(Command::new("kill").args(["-HUP", &hub.pid().to_string()]).status().unwrap().success());
    until(10, "the log does not say why", || hub.log().contains("that needs a restart").then_some(()));
    send(&hub, &event("open", "a@example.com", AT));
    until(10, "not delivered any more", || crm.ok_about("a@example.com").pop());
}
#[test]
pub fn a_destination_that_is_taken_away_keeps_its_queue_until_it_is_back() {
    let (hub, crm) = waiting(3);
    let good = text_of(&hub);
    let other = Receiver::start();
    let without = good
        .replace("[destinations.crm]", "[destinations.other]")
        .replace("to = [\"crm\"]", "to = [\"other\"]");
    let without = without.replace(&format!(":{}/activities", crm.port), &format!(":{}/", other.port));
    apply(&hub, &without);
    let row = until(10, "the queue of the old one is not shown", || {
        hub.rows(&["destinations", "list"]).into_iter().find(|row| row["id"] == "crm")
    });
    let dead = hub.rows(&["dead-letters", "list"]);
    assert_eq!((&row["state"], &row["pending"]), (&json!("disabled"), &json!(3)), "{row} {dead:?}");
    send(&hub, &event("open", "new@example.com", AT));
    until(10, "the new one gets nothing", || other.ok_about("new@example.com").pop());
    crm.status(200);
    apply(&hub, &good);
    settled(&hub, 4);
    assert_eq!((crm.ok().len(), other.ok().len()), (3, 1));
}

#[test]
pub fn many_reloads_at_once_end_with_the_last_file() {
    let (hub, crm) = waiting(2);
    let good = text_of(&hub);
    let last = Receiver::start();
    for n in 0..20 {
        std::fs::write(hub.folder().join("hub.toml"), format!("{good}\n# {n}\n")).unwrap();
        assert!(Command::new("kill").args(["-HUP", &hub.pid().to_string()]).status().unwrap().success());
    }
    let moved = good.replace(&format!(":{}/activities", crm.port), &format!(":{}/last", last.port));
    std::fs::write(hub.folder().join("hub.toml"), moved).unwrap();
    assert!(Command::new("kill").args(["-HUP", &hub.pid().to_string()]).status().unwrap().success());
    until(20, "the last file is not applied", || (last.ok().len() == 2).then_some(()));
    settled(&hub, 2);
    assert!(!hub.log().contains("panicked"), "{}", hub.log());
}

#[test]
fn commands_reach_the_running_hub_while_the_file_is_wrong() {
    let (hub, _crm) = waiting(2);
    let wrong = text_of(&hub).replace("kind = \"http\"", "kind = \"htpp\"");
    assert_ne!(wrong, text_of(&hub));
    std::fs::write(hub.folder().join("hub.toml"), wrong).unwrap();
    assert_eq!(hub.rows(&["deliveries", "list", "--state", "pending"]).len(), 2);
    assert!(!hub.run(&["check"]).status.success());
}

//! What operators do: migrate, read the compliance log, reload, keep, measure.

use std::path::Path;
use std::process::Command;

use mailspan_testkit::{Hub, Receiver, until};
use serde_json::{Value, json};

use crate::crm::{ADA, BOB, metrics, pair, plain, send_all, settled};
use crate::support::{AT, BINARY, SECRET, config, event, hub, hub_with, send};

fn said(hub: &Hub, words: &[&str]) -> (Option<i32>, String) {
    let output = hub.run(words);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
pub fn migrate_makes_the_store_and_leaves_a_served_one_alone() {
    let crm = Receiver::start();
    let mut hub = Hub::new(BINARY, &config(&crm, "", ""), &[("MAILTARGET_SECRET", SECRET)]);
    let (code, text) = said(&hub, &["migrate"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("hub.db has schema"), "{text}");
    let mode = std::os::unix::fs::MetadataExt::mode(&hub.folder().join("hub.db").metadata().unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(said(&hub, &["migrate"]).0, Some(0), "a second one is harmless");
    hub.start();
    send(&hub, &event("open", "a@example.com", AT));
    let (code, text) = said(&hub, &["migrate"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("process {} serves", hub.pid())), "{text}");
    assert_eq!(hub.stop(), Some(0));
    assert_eq!(said(&hub, &["migrate"]).0, Some(0));
    assert_eq!(hub.rows(&["audit"])[0]["accepted"], 1);
    std::fs::write(hub.folder().join("hub.db"), "no database, but longer than a header of one").unwrap();
    for name in ["hub.db-wal", "hub.db-shm"] {
        let _ = std::fs::remove_file(hub.folder().join(name));
    }
    let (code, text) = said(&hub, &["migrate"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("hub.db"), "{text}");
}

#[test]
pub fn the_ledger_knows_who_said_what_and_what_each_destination_answered() {
    let (hub, sandbox) = pair("retry = [\"50ms\"]", "");
    assert!(said(&hub, &["ledger", "list"]).1.contains("no consent fact"));
    send_all(&hub, &[plain("unsubscribe", ADA, 1), plain("complaint", BOB, 2), plain("open", ADA, 3)]);
    settled(&hub, 3);
    let answered = |hub: &Hub| {
        let rows = hub.rows(&["ledger", "list"]);
        rows.iter().all(|row| !row["answers"].as_array().unwrap().is_empty()).then_some(rows)
    };
    let rows = until(10, "the ledger has no answers", || answered(&hub));
    assert_eq!(rows.len(), 2, "{rows:?}");
    let (ada, bob) = (&rows[0], &rows[1]);
    assert_eq!((&ada["what"], &ada["subject"]), (&json!("opt_out"), &json!(ADA)));
    assert_eq!((&bob["what"], &bob["subject"]), (&json!("do_not_contact"), &json!(BOB)));
    assert_eq!(ada["happened_at"], crate::crm::at(1).replace('Z', ".000Z"));
    for row in &rows {
        let answers = row["answers"].as_array().unwrap();
        assert!(answers.iter().all(|answer| answer["destination"] == "crm"), "{row}");
        assert!(answers.iter().any(|answer| answer["verdict"] == "delivered"), "{row}");
        let shown = hub.rows(&["events", "show", row["event_id"].as_str().unwrap()]).remove(0);
        assert_eq!(shown["request"]["digest"], row["request_digest"], "the proof is another request's");
    }
    assert_eq!(hub.rows(&["ledger", "list", "--subject", BOB]).len(), 1);
    assert!(hub.rows(&["ledger", "list", "--subject", "nobody@example.com"]).is_empty());
    assert!(said(&hub, &["ledger", "list"]).1.contains("do_not_contact"));
    // An opt-out that the CRM refuses is in the log with that answer.
    sandbox.faults("status=400");
    send_all(&hub, &[plain("unsubscribe", BOB, 4)]);
    until(10, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    let rows = until(10, "the refusal is not in the ledger", || answered(&hub));
    let answers = rows[2]["answers"].as_array().unwrap();
    let verdict = answers[0]["verdict"].as_str().unwrap();
    assert!(verdict.starts_with("dead") && verdict.contains("400"), "{verdict}");
}

fn hang_up(hub: &Hub) {
    assert!(Command::new("kill").args(["-HUP", &hub.pid().to_string()]).status().unwrap().success());
}

fn rewrite(hub: &Hub, change: impl Fn(&str) -> String) {
    let path = hub.folder().join("hub.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, change(&text)).unwrap();
    hang_up(hub);
}

#[test]
pub fn a_reload_brings_a_new_route_and_takes_it_away() {
    let (hub, crm) = hub();
    let second = Receiver::start();
    send(&hub, &event("open", "before@example.com", AT));
    until(10, "not delivered", || crm.ok_about("before@example.com").pop());
    let pid = hub.pid();
    let more = format!(
        "\n[destinations.second]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n\
         [[routes]]\nname = \"second\"\nto = [\"second\"]\n",
        second.port
    );
    rewrite(&hub, |text| format!("{text}{more}"));
    until(10, "the log does not say that it was applied", || {
        hub.log().contains("configuration read again").then_some(())
    });
    send(&hub, &event("open", "after@example.com", AT));
    until(10, "the new route does nothing", || second.ok_about("after@example.com").pop());
    until(10, "the old route does nothing any more", || crm.ok_about("after@example.com").pop());
    assert!(second.ok_about("before@example.com").is_empty());
    rewrite(&hub, |text| text.replace(&more, ""));
    until(10, "the second reload is not in the log", || {
        (hub.log().matches("configuration read again").count() == 2).then_some(())
    });
    send(&hub, &event("open", "last@example.com", AT));
    until(10, "not delivered", || crm.ok_about("last@example.com").pop());
    assert!(second.ok_about("last@example.com").is_empty());
    assert_eq!(hub.pid(), pid);
    let audit = until(10, "not all delivered", || {
        hub.rows(&["audit"]).into_iter().find(|audit| audit["delivered"] == 4)
    });
    assert_eq!(audit["adds_up"], true, "{audit}");
}

#[test]
pub fn a_broken_configuration_is_not_applied_and_the_log_says_why() {
    let (hub, crm) = hub();
    let good = std::fs::read_to_string(hub.folder().join("hub.toml")).unwrap();
    let cases: [(&str, &str, &str); 4] = [
        ("syntax", "[server", "hub.toml:1"),
        ("unknown key", "\n[[routes]]\nname = \"x\"\nto = [\"crm\"]\nwhenn = 'true'\n", "whenn"),
        ("program", "\n[[routes]]\nname = \"x\"\nto = [\"crm\"]\nwhen = 'exists('\n", "hub.toml:"),
        ("no such destination", "\n[[routes]]\nname = \"x\"\nto = [\"nowhere\"]\n", "nowhere"),
    ];
    for (n, (name, more, says)) in cases.into_iter().enumerate() {
        let text = if name == "syntax" { more.to_owned() } else { format!("{good}{more}") };
        rewrite(&hub, |_| text.clone());
        let log = until(10, "the log says nothing", || {
            let log = hub.log();
            (log.matches("was not applied").count() == n + 1).then_some(log)
        });
        let said = log.rsplit("was not applied").next().unwrap();
        assert!(said.contains(says), "{name}: {said}");
        let who = format!("case{n}@example.com");
        assert_eq!(send(&hub, &event("open", &who, AT)).status, 200, "{name}");
        until(10, "the old configuration does not work any more", || crm.ok_about(&who).pop());
    }
    let is_store = |line: &&str| line.starts_with("url = \"sqlite:") || line.starts_with("url = \"postgres:");
    let store = good.lines().find(is_store).unwrap();
    rewrite(&hub, |_| good.replace(store, "url = \"sqlite:other.db\""));
    until(10, "the store was changed under way", || hub.log().contains("needs a restart").then_some(()));
    assert!(!hub.folder().join("other.db").exists());
    rewrite(&hub, |_| good.clone());
    until(10, "the good one is not applied", || hub.log().contains("configuration read again").then_some(()));
}

#[test]
pub fn a_rotated_secret_in_a_file_is_taken_at_a_reload() {
    let crm = Receiver::start();
    let text = config(&crm, "", "").replace("{ env = \"MAILTARGET_SECRET\" }", "{ file = \"signing\" }");
    let mut hub = Hub::new(BINARY, &text, &[]);
    let secret = hub.folder().join("signing");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    hub.start();
    assert_eq!(send(&hub, &event("open", "a@example.com", AT)).status, 200);
    std::fs::write(&secret, "another-secret-of-the-tests").unwrap();
    assert_eq!(send(&hub, &event("open", "b@example.com", AT)).status, 200, "taken before it was asked to");
    hang_up(&hub);
    until(10, "not read again", || hub.log().contains("configuration read again").then_some(()));
    assert_eq!(send(&hub, &event("open", "c@example.com", AT)).status, 401);
}

/// Makes everything in the store of a stopped hub older, as no clock of a test can.
fn age(folder: &Path, ms: i64) {
    let store = rusqlite::Connection::open(folder.join("hub.db")).unwrap();
    for (table, column) in [
        ("events", "received_at"),
        ("requests", "received_at"),
        ("unreadable", "received_at"),
        ("attempts", "at"),
    ] {
        store.execute(&format!("UPDATE {table} SET {column} = {column} - ?1"), [ms]).unwrap();
    }
}

#[test]
pub fn retention_drops_what_is_old_and_keeps_what_is_open() {
    let more = "[retention]\nrequests = \"1h\"\nevents = \"2h\"\ndedupe = \"3d\"";
    let (mut hub, crm) = hub_with("retry = [\"20ms\"]", more);
    let old = json!([event("open", "old@example.com", AT), { "event": "open" }]);
    assert_eq!(send(&hub, &old).json()["quarantined"], 1);
    send(&hub, &event("unsubscribe", "old@example.com", AT));
    until(10, "not delivered", || (crm.ok().len() == 2).then_some(()));
    crm.status(422);
    send(&hub, &event("open", "dead@example.com", AT));
    let dead = until(10, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    crm.status(200);
    let hour = 3_600_000;

    assert_eq!(hub.stop(), Some(0));
    age(hub.folder(), hour + 60_000);
    hub.start();
    let rows = hub.rows(&["events", "list", "--subject", "old@example.com"]);
    let of_type = |kind: &str| rows.iter().find(|row| row["type"] == kind).unwrap()["id"].as_str().unwrap();
    let id = of_type("email.opened");
    until(10, "a request of more than an hour is still there", || {
        hub.rows(&["events", "show", id])[0]["request"].is_null().then_some(())
    });
    until(10, "the quarantined element is still there", || {
        hub.rows(&["quarantined"]).is_empty().then_some(())
    });
    assert_eq!(hub.rows(&["events", "list"]).len(), 3, "events go after two hours");
    let proof = &hub.rows(&["events", "show", of_type("contact.unsubscribed")])[0]["request"];
    assert!(!proof.is_null(), "what proves a fact of consent stays as long as the fact");

    assert_eq!(hub.stop(), Some(0));
    age(hub.folder(), hour);
    hub.start();
    send(&hub, &event("open", "new@example.com", AT));
    until(10, "old events are still there", || {
        (hub.rows(&["events", "list", "--subject", "old@example.com"]).is_empty()).then_some(())
    });
    until(10, "the new one did not arrive", || crm.ok_about("new@example.com").pop());
    let audit = until(10, "not settled", || {
        let audit = hub.rows(&["audit"]).remove(0);
        (audit["pending"] == 0 && audit["waiting"] == 0).then_some(audit)
    });
    let of = |name: &str| audit[name].as_u64().unwrap();
    assert_eq!((of("accepted"), of("dropped_events"), of("dropped_deliveries")), (4, 2, 2), "{audit}");
    assert_eq!(audit["adds_up"], true, "{audit}");
    // The dead letter stays with its event and its attempts, and can still be replayed.
    let id = dead["id"].as_str().unwrap();
    let shown = &hub.rows(&["dead-letters", "show", id])[0];
    assert!(!shown["history"].as_array().unwrap().is_empty(), "{shown}");
    assert!(hub.run(&["dead-letters", "replay", id]).status.success());
    until(10, "the dead letter cannot be replayed", || crm.ok_about("dead@example.com").pop());
    assert_eq!(hub.rows(&["ledger", "list"]).len(), 1, "the compliance log does not age");
    let again = send(&hub, &event("open", "old@example.com", AT)).json();
    assert_eq!(again["duplicates"], 1, "dedupe is kept longer than the event");
}

#[test]
pub fn retention_that_is_too_short_is_refused() {
    let crm = Receiver::start();
    for name in ["requests", "events", "dedupe"] {
        let more = format!("[retention]\n{name} = \"59m\"");
        let hub = Hub::new(BINARY, &config(&crm, "", &more), &[("MAILTARGET_SECRET", SECRET)]);
        let (code, text) = said(&hub, &["check"]);
        assert_eq!(code, Some(1), "{name}: {text}");
        assert!(text.contains("1h"), "{name}: {text}");
    }
}

#[test]
pub fn metrics_have_every_documented_name_and_count_what_happened() {
    // A source that is asked, and cannot be: its address may not be reached.
    let asked = "[sources.core]\nkind = \"mailingcore\"\nbase_url = \"http://127.0.0.1:1\"\n\
        auth = { kind = \"bearer\", token = { env = \"MAILTARGET_SECRET\" } }\n";
    let (hub, crm) = hub_with("retry = [\"20ms\"]", asked);
    let batch = json!([event("open", "a@example.com", AT), { "event": "open" }]);
    assert_eq!(send(&hub, &batch).status, 200);
    assert_eq!(send(&hub, &batch).json()["duplicates"], 1);
    assert_eq!(hub.post("/in/mailtarget", &[], b"{}").status, 401);
    assert_eq!(crate::support::send_raw(&hub, b"no JSON").status, 400);
    until(10, "not delivered", || crm.ok_about("a@example.com").pop());
    crm.status(422);
    send(&hub, &event("open", "b@example.com", AT));
    until(10, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    assert!(hub.run(&["destinations", "pause", "crm"]).status.success());
    send(&hub, &event("open", "c@example.com", AT));
    let line = |text: &str, start: &str, value: &str| {
        text.lines().any(|line| line.starts_with(start) && line.ends_with(&format!(" {value}")))
    };
    let door = |outcome: &str| {
        format!("mailspan_intake_events_total{{source=\"mailtarget\",outcome=\"{outcome}\"}}")
    };
    let expected = [
        (door("accepted"), "3"),
        ("mailspan_routed_events_total".to_owned(), "3"),
        (door("duplicate"), "1"),
        (door("quarantined"), "2"),
        (door("refused"), "1"),
        (door("bad_body"), "1"),
        ("mailspan_waiting_events".to_owned(), "0"),
        ("mailspan_dead_letters{destination=\"crm\"}".to_owned(), "1"),
        ("mailspan_pending_deliveries{destination=\"crm\"}".to_owned(), "1"),
        ("mailspan_destination_paused{destination=\"crm\"}".to_owned(), "1"),
        ("mailspan_exchanges_total{destination=\"crm\",status=\"422\"}".to_owned(), "1"),
        ("mailspan_settled_deliveries_total{destination=\"crm\",state=\"dead\"}".to_owned(), "1"),
        ("mailspan_asked_total{source=\"core\",status=\"0\"}".to_owned(), "1"),
        ("mailspan_listed_today{source=\"core\"}".to_owned(), "0"),
    ];
    let mut text = String::new();
    for (start, value) in &expected {
        until(10, &format!("{start} {value} is not there"), || {
            text = metrics(&hub);
            line(&text, start, value).then_some(())
        });
    }
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/OPERATIONS.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let documented: Vec<&str> =
        manual.lines().filter_map(|line| line.strip_prefix("| `mailspan_")?.split('`').next()).collect();
    assert!(documented.len() >= 12, "{documented:?}");
    for name in &documented {
        let there = |line: &str| {
            let line = line.strip_prefix("mailspan_").and_then(|line| line.strip_prefix(name));
            line.is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
        };
        assert!(text.lines().any(there), "mailspan_{name} is documented and not there:\n{text}");
    }
    for line in text.lines().filter(|line| line.starts_with("# TYPE mailspan_")) {
        let name = line.split(' ').nth(2).unwrap().trim_start_matches("mailspan_");
        let known = documented.iter().any(|known| known.trim_end_matches("_total") == name);
        assert!(known, "{name} is there and not documented");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
pub fn metrics_are_for_keys_that_may_read() {
    let (hub, _crm) = hub();
    assert_eq!(mailspan_testkit::get(hub.port, "/metrics").unwrap().status, 401);
    let made: Value = hub.rows(&["keys", "create", "--scope", "events:write"]).remove(0);
    let key = format!("Bearer {}", made["key"].as_str().unwrap());
    let reply = mailspan_testkit::request(hub.port, "GET", "/metrics", &[("authorization", &key)], b"");
    assert_eq!(reply.unwrap().status, 403);
}

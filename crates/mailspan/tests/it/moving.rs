//! `mailspan move`: a hub goes from SQLite to PostgreSQL with all that it knows and owes.

use mailspan_testkit::{Hub, PostgresServer, Receiver, until};
use serde_json::Value;

use crate::fleet::hub_on;
use crate::replay::{audit, id_of};
use crate::support::{AT, BINARY, SECRET, config, event, send};

/// A hub that has delivered, given up, refused, heard of an opt-out, and still owes; with an API key.
fn used_hub(crm: &Receiver) -> (Hub, String) {
    let destination = "retry = { calendar = [\"300ms\"], for = \"1h\" }";
    let mut hub = Hub::new(BINARY, &config(crm, destination, ""), &[("MAILTARGET_SECRET", SECRET)]);
    hub.start();
    let key = hub.rows(&["keys", "create", "--scope", "events:write"])[0]["key"].as_str().unwrap().to_owned();
    send(&hub, &event("open", "delivered@example.com", AT));
    until(20, "not delivered", || crm.ok_about("delivered@example.com").pop());
    crm.status(422);
    send(&hub, &event("unsubscribe", "dead@example.com", AT));
    until(20, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    crm.status(503);
    for n in 0..30 {
        send(&hub, &event("open", &format!("pending{n}@example.com"), AT));
    }
    let forged = hub.post("/in/mailtarget", &[("x-mailtarget-signature", "00")], b"{}");
    assert_eq!(forged.status, 401);
    until(20, "nothing waits", || {
        (audit(&hub)["pending"] == 30 && audit(&hub)["refused"] == 1).then_some(())
    });
    (hub, key)
}

#[test]
fn a_hub_moves_to_postgres_and_goes_on() {
    let (server, crm) = (PostgresServer::start(), Receiver::start());
    let url = server.database("target");
    let with_password = url.replace("hub@", "hub:s3cret-word@");
    let (mut hub, key) = used_hub(&crm);
    let words = ["move", "--from", "sqlite:hub.db", "--to", &with_password];
    let said = |output: &std::process::Output| {
        let text = [&output.stdout[..], &output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!text.contains("s3cret-word"), "the password is shown: {text}");
        text
    };
    let served = hub.run(&words);
    assert!(!served.status.success() && said(&served).contains("is held by process"), "{}", said(&served));
    let before = (audit(&hub), hub.rows(&["dead-letters", "list"]), hub.rows(&["ledger", "list"]));
    assert_eq!(before.2.len(), 1);
    assert_eq!(hub.stop(), Some(0));

    let dry = hub.run(&[&words[..], &["--dry-run"]].concat());
    assert!(dry.status.success() && said(&dry).contains("nothing was written"), "{}", said(&dry));
    // Killed in the middle: what is there so far is no store.
    hub.set_env("MAILSPAN_CRASH_POINT", "move-page:20");
    let killed = hub.run(&words);
    assert_eq!(killed.status.code(), None, "{}", said(&killed));
    hub.set_env("MAILSPAN_CRASH_POINT", "");
    let mut moved = hub_on(&url, &crm);
    let half = moved.run(&["audit"]);
    assert!(!half.status.success() && said(&half).contains("not finished"), "{}", said(&half));

    // The database notices within a moment that the killed one is gone.
    let report = until(20, "the move does not go on", || {
        let output = hub.run(&[&words[..], &["--json"]].concat());
        let text = said(&output);
        assert!(output.status.success() || text.contains("another move works on"), "{text}");
        assert!(
            !output.status.success() || text.contains("[storage] key = { file = \"hub.db.key\" }"),
            "{text}"
        );
        output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap())
    });
    assert_eq!((&report["resumed"], &report["dry_run"]), (&Value::Bool(true), &Value::Bool(false)));
    let tables = report["tables"].as_array().unwrap();
    let of = |name: &str| tables.iter().find(|table| table["table"] == name).unwrap();
    for table in tables {
        assert_eq!((&table["rows"], &table["sum"]), (&table["rows_at_target"], &table["sum_at_target"]));
    }
    assert_eq!((&of("events")["rows"], &of("deliveries")["rows"]), (&32.into(), &32.into()));
    assert_eq!(&of("ledger")["rows"], &Value::from(1));

    crm.status(200);
    let keyless = moved.run(&["audit"]);
    assert!(
        !keyless.status.success() && said(&keyless).contains("[storage] key or old_keys"),
        "{}",
        said(&keyless)
    );
    std::fs::copy(hub.folder().join("hub.db.key"), moved.folder().join("store.key")).unwrap();
    let text = std::fs::read_to_string(moved.folder().join("hub.toml")).unwrap();
    let keyed = text.replace("[storage]", "[storage]\nkey = { file = \"store.key\" }");
    std::fs::write(moved.folder().join("hub.toml"), keyed).unwrap();
    moved.start();
    // What was seen is known, what was owed is delivered, what needs a human still does.
    let again = send(&moved, &event("open", "delivered@example.com", AT)).json();
    assert_eq!((&again["duplicates"], &again["accepted"]), (&1.into(), &0.into()));
    until(30, "what was pending is not delivered", || {
        (0..30).all(|n| !crm.ok_about(&format!("pending{n}@example.com")).is_empty()).then_some(())
    });
    until(30, "not settled", || (audit(&moved)["pending"] == 0).then_some(()));
    assert_eq!(crm.ok_about("delivered@example.com").len(), 1, "what was delivered is not sent again");
    let after = audit(&moved);
    for sum in ["accepted", "dead", "refused", "deliveries"] {
        assert_eq!(after[sum], before.0[sum], "{sum}");
    }
    assert_eq!(after["delivered"], 31);
    assert_eq!(moved.rows(&["refused"]).len(), 1);
    assert_eq!(moved.rows(&["ledger", "list"])[0]["event_id"], before.2[0]["event_id"]);
    let dead = moved.rows(&["dead-letters", "list"]);
    assert_eq!(id_of(&dead[0]), id_of(&before.1[0]));
    assert!(moved.run(&["dead-letters", "replay", &id_of(&dead[0])]).status.success());
    until(20, "the dead letter's replay did not arrive", || crm.ok_about("dead@example.com").pop());
    let body = br#"{"type":"app.order","data":{}}"#;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let reply = moved.post("/v1/events", &headers, body);
    assert!((200..300).contains(&reply.status), "the API key is not known: {}", reply.status);
}

/// A process that only receives holds no lease, and would write what the move does not see.
#[test]
fn a_move_is_refused_while_a_process_only_receives() {
    let (server, crm) = (PostgresServer::start(), Receiver::start());
    let url = server.database("intake");
    let mut intake = hub_on(&url, &crm);
    intake.serve_with(&["--role", "intake"]);
    intake.start();
    let words = ["move", "--from", url.as_str(), "--to", "sqlite:moved.db"];
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = intake.run(&words);
    assert!(
        !refused.status.success() && said(&refused).contains("one of role `intake` too"),
        "{}",
        said(&refused)
    );
    assert_eq!(send(&intake, &event("open", "a@example.com", AT)).status, 200);
    assert_eq!(intake.stop(), Some(0));
    let moved = intake.run(&words);
    assert!(moved.status.success(), "{}", said(&moved));
}

#[test]
fn a_move_says_what_it_needs() {
    let hub = Hub::new(BINARY, "", &[]);
    let check = |from: &str, to: &str, part: &str| {
        let output = hub.run(&["move", "--from", from, "--to", to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(part), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    };
    check("s3cret", "sqlite:b.db", "--from: write sqlite:FILE or postgres://");
    check("sqlite:", "sqlite:b.db", "--from: `sqlite:` needs the path of a file");
    check("sqlite:a.db", "mysql://hub:s3cret@db/hub", "--to: write sqlite:FILE");
    check("sqlite:a.db", "sqlite:b.db", "a.db holds no store");
    check("sqlite:a.db", "sqlite:a.db", "the same store");
    check("postgres://hub:s3cret@127.0.0.1:1/hub", "sqlite:b.db", "postgres://127.0.0.1/hub");
}

//! Poison: a map that ends the process itself. The flight note finds it, alone, and nobody else pays.

use mailspan_testkit::{Hub, PostgresServer, Receiver, until};

use crate::support::{AT, BINARY, SECRET, config, event, send};

const POISON: &str = "poison@example.com";

fn poisoned() -> (Hub, Receiver) {
    let crm = Receiver::start();
    let quick = "retry = { calendar = [\"200ms\"], for = \"1h\" }\nrate = \"1000/1s\"\nconcurrency = 8";
    let mut hub = Hub::new(BINARY, &config(&crm, quick, ""), &[("MAILTARGET_SECRET", SECRET)]);
    hub.set_env("MAILSPAN_POISON_SUBJECT", POISON);
    hub.start();
    (hub, crm)
}

#[test]
fn what_ends_the_process_is_found_and_dead_at_the_third_start() {
    check(poisoned());
}

/// The note stands beside the configuration there.
#[test]
fn what_ends_the_process_is_found_and_dead_at_the_third_start_on_postgres() {
    let server = PostgresServer::start();
    let crm = Receiver::start();
    let quick = "retry = { calendar = [\"200ms\"], for = \"1h\" }\nrate = \"1000/1s\"\nconcurrency = 8";
    let text = config(&crm, quick, "").replace("url = \"sqlite:hub.db\"", "url = { env = \"DATABASE_URL\" }");
    let env = [("MAILTARGET_SECRET", SECRET), ("DATABASE_URL", &server.database("poison"))];
    let mut hub = Hub::new(BINARY, &text, &env);
    hub.set_env("MAILSPAN_POISON_SUBJECT", POISON);
    hub.start();
    check((hub, crm));
}

fn check((mut hub, crm): (Hub, Receiver)) {
    // Heads that wait for their retry while the poison strikes.
    crm.status(503);
    let neighbours: Vec<String> = (0..20).map(|n| format!("n{n}@example.com")).collect();
    neighbours.iter().for_each(|who| drop(send(&hub, &event("open", who, AT))));
    assert_eq!(send(&hub, &event("open", POISON, AT)).status, 200, "what is accepted is acknowledged");
    hub.wait_for_end(20, "the poison did not end the first process");
    crm.status(200);
    hub.kill();

    hub.spawn();
    assert!(!hub.ready(), "the poison did not run alone at the second start");
    assert_eq!(crm.ok().len(), 0, "something was sent before the suspect was judged");
    hub.kill();

    hub.start();
    let dead = until(10, "the poison is no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    assert_eq!(dead["subject"], POISON, "{dead}");
    assert!(dead.to_string().contains("ended_the_process"), "{dead}");
    until(20, "a neighbour did not arrive", || {
        neighbours.iter().all(|who| !crm.ok_about(who).is_empty()).then_some(())
    });
    assert_eq!(hub.rows(&["dead-letters", "list"]).len(), 1);
    for row in hub.rows(&["deliveries", "list", "--state", "delivered"]) {
        assert_eq!(row["crashes"].as_u64().unwrap_or(0), 0, "{row}");
    }
    send(&hub, &event("open", "later@example.com", AT));
    until(10, "the hub does not work on", || crm.ok_about("later@example.com").pop());
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
fn a_suspect_that_runs_well_alone_is_delivered_and_counts_no_crash() {
    let (mut hub, crm) = poisoned();
    send(&hub, &event("open", POISON, AT));
    hub.wait_for_end(20, "the poison did not end the process");
    hub.kill();
    // Mended, or a kill for another reason: the suspect runs alone and goes on.
    hub.set_env("MAILSPAN_POISON_SUBJECT", "");
    hub.start();
    until(10, "the suspect did not arrive", || crm.ok_about(POISON).pop());
    let row =
        until(10, "it is not settled", || hub.rows(&["deliveries", "list", "--state", "delivered"]).pop());
    assert_eq!(row["crashes"].as_u64().unwrap_or(0), 0, "{row}");
    assert!(hub.log().contains("runs alone first"), "{}", hub.log());
}

#[test]
fn a_clean_stop_leaves_no_note() {
    let (mut hub, crm) = poisoned();
    send(&hub, &event("open", "someone@example.com", AT));
    until(10, "it did not arrive", || crm.ok_about("someone@example.com").pop());
    let note = hub.folder().join("hub.db.flight");
    assert!(note.exists(), "there is no flight note");
    assert_eq!(hub.stop(), Some(0));
    assert!(!note.exists(), "the flight note outlived a clean stop");
}

/// An answer that cannot be judged: nothing is sent again before it was judged alone.
#[test]
fn an_answer_that_ends_the_process_is_found_and_its_delivery_is_dead_at_the_third_start() {
    let (mut hub, crm) = poisoned();
    hub.set_env("MAILSPAN_POISON_ANSWER", "venom");
    assert_eq!(hub.stop(), Some(0));
    hub.start();
    crm.answer(|seen| {
        let body = if seen.subject() == "bitten@example.com" { "{\"venom\":1}" } else { "{}" };
        (200, Vec::new(), body.to_owned())
    });
    assert_eq!(send(&hub, &event("open", "bitten@example.com", AT)).status, 200);
    hub.wait_for_end(20, "the answer did not end the process");
    hub.kill();
    let sent = crm.seen().len();
    hub.spawn();
    assert!(!hub.ready(), "the answer was not judged alone at the second start");
    assert_eq!(crm.seen().len(), sent, "something was sent before the answer was judged");
    hub.kill();
    hub.start();
    let dead = until(10, "it is no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    assert_eq!(dead["subject"], "bitten@example.com", "{dead}");
    assert!(dead.to_string().contains("judging the answer"), "{dead}");
    send(&hub, &event("open", "later@example.com", AT));
    until(10, "the hub does not work on", || crm.ok_about("later@example.com").pop());
    assert_eq!(crm.ok_about("bitten@example.com").len(), 1, "it was sent again");
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

//! Delivery: order, retries, dead letters, paused destinations.

use mailspan_testkit::until;
use serde_json::json;

use crate::support::{AT, event, hub, hub_with, send};

#[test]
pub fn a_lane_keeps_its_order_through_failures() {
    let (hub, crm) = hub();
    let mut failures = 2;
    crm.answer(move |_| {
        failures -= 1;
        (if failures >= 0 { 503 } else { 200 }, Vec::new(), "{}".to_owned())
    });
    let who = "order@example.com";
    for n in 0..5 {
        send(&hub, &event("open", who, &format!("2026-05-08T03:14:1{n}Z")));
    }
    until(15, "not all arrived", || (crm.ok_about(who).len() == 5).then_some(()));
    let times: Vec<String> = crm.ok_about(who).iter().map(|seen| seen.json()["time"].to_string()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let keys: std::collections::HashSet<String> =
        crm.seen().iter().map(|seen| seen.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!(
        (crm.seen().len(), keys.len()),
        (7, 5),
        "attempts of one delivery share a key, others have their own"
    );
}

#[test]
pub fn a_refusal_is_a_dead_letter_that_can_be_replayed_or_discarded() {
    let (hub, crm) = hub();
    crm.status(422);
    send(&hub, &event("open", "one@example.com", AT));
    send(&hub, &event("open", "two@example.com", AT));
    let dead = until(10, "no dead letters", || {
        let rows = hub.rows(&["dead-letters", "list"]);
        (rows.len() == 2).then_some(rows)
    });
    assert!(dead[0]["last_error"].as_str().unwrap().contains("422"));
    assert_eq!(crm.seen().len(), 2, "a refusal is not tried again by itself");
    let id =
        |who: &str| dead.iter().find(|row| row["subject"] == who).unwrap()["id"].as_str().unwrap().to_owned();
    let shown = &hub.rows(&["dead-letters", "show", &id("one@example.com")])[0];
    assert_eq!(shown["history"][0]["status"], 422);
    assert!(shown["history"][0]["request"].as_str().unwrap().contains("one@example.com"));
    crm.status(200);
    assert!(hub.run(&["dead-letters", "replay", &id("one@example.com")]).status.success());
    until(10, "the replay did not arrive", || crm.ok_about("one@example.com").pop());
    assert!(
        hub.run(&["dead-letters", "discard", &id("two@example.com"), "--note", "not needed"])
            .status
            .success()
    );
    until(10, "still dead letters", || hub.rows(&["dead-letters", "list"]).is_empty().then_some(()));
    assert!(!hub.run(&["dead-letters", "discard", &id("two@example.com")]).status.success());
    assert!(!hub.run(&["dead-letters", "replay", "999999"]).status.success());
    let keys: std::collections::HashSet<_> = crm
        .seen()
        .iter()
        .filter(|seen| seen.subject() == "one@example.com")
        .map(|seen| seen.header("idempotency-key").map(str::to_owned))
        .collect();
    assert_eq!(keys.len(), 1, "a replay goes out under the key that it always had");
    let audit = &hub.rows(&["audit"])[0];
    assert_eq!(
        (&audit["delivered"], &audit["discarded"], &audit["adds_up"]),
        (&json!(1), &json!(1), &json!(true))
    );
}

#[test]
pub fn a_dead_credential_pauses_and_keeps_the_queue_over_a_restart() {
    let (mut hub, crm) = hub();
    crm.status(401);
    for n in 0..5 {
        send(&hub, &event("open", &format!("p{n}@example.com"), AT));
    }
    let paused = |hub: &mailspan_testkit::Hub| {
        hub.rows(&["destinations", "list"]).into_iter().find(|row| row["state"] == "paused")
    };
    let row = until(10, "not paused after a 401", || paused(&hub));
    assert!(row["reason"].as_str().unwrap().contains("401"));
    assert!(hub.rows(&["dead-letters", "list"]).is_empty());
    assert_eq!(hub.stop(), Some(0));
    hub.start();
    assert!(paused(&hub).is_some(), "a restart forgot that it was paused");
    crm.status(200);
    assert!(hub.run(&["destinations", "resume", "crm"]).status.success());
    until(10, "the queue was lost", || (crm.ok().len() == 5).then_some(()));
}

#[test]
pub fn out_of_tries_is_a_dead_letter_with_the_last_answer() {
    let (hub, crm) = hub_with("retry = [\"20ms\", \"20ms\"]", "");
    crm.status(500);
    send(&hub, &event("open", "a@example.com", AT));
    let dead = until(10, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    assert_eq!(crm.seen().len(), 3);
    assert_eq!(dead["attempts"], 3);
    assert!(dead["last_error"].as_str().unwrap().contains("500"));
}

#[test]
pub fn batches_are_cloudevents_and_each_item_is_settled() {
    let (hub, crm) = hub_with("batch = { max = 10, wait = \"300ms\" }", "");
    let all: Vec<_> = (0..20).map(|n| event("open", &format!("b{n}@example.com"), AT)).collect();
    assert_eq!(send(&hub, &json!(all)).json()["accepted"], 20);
    until(10, "not all delivered", || (hub.rows(&["audit"])[0]["delivered"] == 20).then_some(()));
    let seen = crm.ok();
    assert_eq!(seen[0].header("content-type"), Some("application/cloudevents-batch+json"));
    let items: usize = seen.iter().map(|seen| seen.json().as_array().unwrap().len()).sum();
    assert_eq!(items, 20);
    assert!(seen.len() <= 4, "{} requests for 20 items in batches of 10", seen.len());
}

#[test]
pub fn a_private_address_that_is_not_allowed_is_not_reached() {
    let other = mailspan_testkit::Receiver::start();
    let more = format!(
        "[destinations.inner]\nkind = \"http\"\nurl = \"http://localhost:{}/\"\n[[routes]]\nname = \"inner\"\nto = [\"inner\"]",
        other.port
    );
    let crm = mailspan_testkit::Receiver::start();
    let config = crate::support::config(&crm, "", &more)
        .replace("127.0.0.1:1024-65535", &format!("127.0.0.1:{}", crm.port));
    let mut hub = mailspan_testkit::Hub::new(
        crate::support::BINARY,
        &config,
        &[("MAILTARGET_SECRET", crate::support::SECRET)],
    );
    hub.start();
    send(&hub, &event("open", "a@example.com", AT));
    let dead = until(10, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    assert!(dead["last_error"].as_str().unwrap().contains("allow"), "{}", dead["last_error"]);
    assert!(other.seen().is_empty());
}

#[test]
pub fn a_destination_that_fails_is_degraded_waits_and_recovers() {
    let destination =
        "breaker = { failures = 3, wait = \"300ms\" }\nretry = { calendar = [\"100ms\"], for = \"1h\" }";
    let (hub, crm) = hub_with(destination, "");
    crm.status(503);
    for n in 0..6 {
        send(&hub, &event("open", &format!("d{n}@example.com"), AT));
    }
    let row = until(10, "not degraded after failures", || {
        hub.rows(&["destinations", "list"]).into_iter().find(|row| row["state"] == "degraded")
    });
    assert!(row["pending"].as_u64() <= Some(6), "{row}");
    // All are routed by and by, and nothing is lost or given up while it waits.
    until(10, "not all wait", || (hub.rows(&["destinations", "list"])[0]["pending"] == 6).then_some(()));
    crm.status(200);
    until(20, "not all arrived after it came back", || (crm.ok().len() == 6).then_some(()));
    until(10, "still degraded", || {
        (hub.rows(&["destinations", "list"])[0]["state"] == "active").then_some(())
    });
    assert!(hub.rows(&["dead-letters", "list"]).is_empty());
}

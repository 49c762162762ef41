//! From a signed webhook to what HubSpot shows of a person.

use mailspan_testkit::until;
use serde_json::{Value, json};

use crate::contacts::Tenant;
use crate::crm::{
    ADA, BOB, PATIENT, at_ms, contact, event, ids, notes_of, pair, plain, replay, send_all, settled,
};
use crate::support::send;

/// Everything that can happen to Ada, and two things that happen to Bob.
fn life() -> Vec<Value> {
    let click = json!({ "url": "https://shop.example/spring?a=1&b=2" });
    vec![
        plain("delivery", ADA, 1),
        plain("open", ADA, 2),
        plain("open", ADA, 3),
        event("click", ADA, 4, click, json!({})),
        plain("delivery", BOB, 5),
        plain("open", BOB, 6),
        event("bounce", ADA, 7, json!({ "reason": "550 5.1.1 no such user" }), json!({})),
        plain("complaint", ADA, 8),
        plain("unsubscribe", ADA, 9),
    ]
}

fn check_life(state: &Value) {
    let ada = contact(state, ADA);
    let of = |name: &str| ada["properties"][name].as_str().unwrap_or_default().to_owned();
    for (name, expected) in [
        ("mt_last_delivered_at", at_ms(1).to_string()),
        ("mt_open_count", "2".to_owned()),
        ("mt_last_opened_at", at_ms(3).to_string()),
        ("mt_click_count", "1".to_owned()),
        ("mt_last_clicked_at", at_ms(4).to_string()),
        ("mt_email_status", "undeliverable".to_owned()),
        ("mt_bounced_at", at_ms(7).to_string()),
        ("mt_revalidate_at", at_ms(7).to_string()),
        ("mt_bounce_reason", "550 5.1.1 no such user".to_owned()),
        ("mt_do_not_contact", "true".to_owned()),
    ] {
        assert_eq!(of(name), expected, "{name} of {ada}");
    }
    let notes = notes_of(state, &ada);
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert_eq!(notes.iter().filter(|note| note.contains("Email opened")).count(), 2);
    let click = notes.iter().find(|note| note.contains("Email clicked")).unwrap();
    assert!(click.contains("https://shop.example/spring?a=1&amp;b=2"), "{click}");
    assert_eq!(state["statuses"][ADA]["unsubscribed_all"], true);
    let bob = contact(state, BOB);
    assert_eq!(bob["properties"]["mt_open_count"], "1");
    assert_eq!(bob["properties"]["mt_email_status"], Value::Null);
    assert_eq!(notes_of(state, &bob).len(), 1);
    assert_eq!((&state["totals"]["notes"], &state["totals"]["opted_out"]), (&json!(4), &json!(1)));
    assert_eq!(state["totals"]["notes_that_hang_on_nobody"], 0);
}

#[test]
pub fn what_happens_to_a_person_is_in_the_crm_once_whatever_is_repeated() {
    // Each is counted by itself here.
    let (hub, sandbox) = pair("coalesce = false", "");
    let events = life();
    send_all(&hub, &events);
    let audit = settled(&hub, events.len());
    assert_eq!((&audit["delivered"], &audit["dead"], &audit["skipped"]), (&json!(9), &json!(0), &json!(0)));
    check_life(&sandbox.state());

    let repeated = send(&hub, &json!(events)).json();
    assert_eq!((&repeated["accepted"], &repeated["duplicates"]), (&json!(0), &json!(9)));
    let all = ids(&hub, "delivered");
    let before = sandbox.state()["requests"].clone();
    replay(&hub, &all, false, events.len());
    assert_eq!(sandbox.state()["requests"], before, "a replay did again what was done");
    replay(&hub, &all, true, events.len());
    assert_ne!(sandbox.state()["requests"], before, "--again did nothing");
    check_life(&sandbox.state());
}

#[test]
pub fn events_that_come_late_do_not_set_a_person_back() {
    let (hub, sandbox) = pair("", "");
    let mut events = life();
    events.reverse();
    for one in &events {
        send_all(&hub, std::slice::from_ref(one));
    }
    settled(&hub, events.len());
    check_life(&sandbox.state());
}

#[test]
pub fn an_unknown_contact_is_skipped_counted_and_listed_and_replayed_once_it_is_there() {
    let (hub, sandbox) = pair("", "");
    let (eve, open) = ("eve@example.com", plain("open", "eve@example.com", 1));
    send_all(&hub, &[open, plain("open", ADA, 2)]);
    let audit = settled(&hub, 2);
    assert_eq!((&audit["skipped"], &audit["delivered"], &audit["dead"]), (&json!(1), &json!(1), &json!(0)));
    let rows = hub.rows(&["deliveries", "list", "--state", "skipped"]);
    assert_eq!((&rows[0]["subject"], &rows[0]["reason"]), (&json!(eve), &json!("unknown_contact")));
    let state = sandbox.state();
    assert_eq!(state["totals"]["contacts"], 2, "somebody was created");
    assert_eq!(state["totals"]["notes"], 1);
    // As a person of the sales team would: the contact is made by hand, then the delivery is opened again.
    let path = "/crm/objects/2026-03/contacts/batch/create";
    let token = format!("Bearer {}", crate::crm::TOKEN);
    let body = json!({ "inputs": [{ "properties": { "email": eve } }] }).to_string();
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    let reply = mailspan_testkit::post(sandbox.port, path, &headers, body.as_bytes()).unwrap();
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
    replay(&hub, &ids(&hub, "skipped"), false, 2);
    let state = sandbox.state();
    assert_eq!(contact(&state, eve)["properties"]["mt_open_count"], "1");
    assert_eq!(notes_of(&state, &contact(&state, eve)).len(), 1);
    assert_eq!(state["totals"]["notes_that_hang_on_nobody"], 0);
}

#[test]
pub fn a_route_that_may_creates_contacts() {
    let (hub, sandbox) = pair("", "create_contacts = true");
    let eve = "eve@example.com";
    send_all(&hub, &[plain("delivery", eve, 1), plain("open", eve, 2), plain("open", eve, 3)]);
    let audit = settled(&hub, 3);
    assert_eq!((&audit["delivered"], &audit["skipped"]), (&json!(3), &json!(0)));
    let state = sandbox.state();
    let made = contact(&state, eve);
    assert_eq!(made["properties"]["mt_open_count"], "2");
    assert_eq!(made["properties"]["mt_last_delivered_at"], at_ms(1).to_string());
    assert_eq!(notes_of(&state, &made).len(), 2);
    assert_eq!(state["totals"]["contacts"], 3, "the same person was created twice");
}

#[test]
pub fn an_old_mail_that_is_opened_makes_nobody_of_who_was_erased() {
    let contacts =
        "\n[[routes]]\nname = \"contacts\"\nfrom = [\"contacts\"]\nto = [\"crm\"]\ncreate_contacts = true";
    let (hub, sandbox) = pair("", &format!("create_contacts = true\n{contacts}"));
    let eve = "eve@example.com";
    let key = hub.rows(&["keys", "create", "--scope", "contacts:write"])[0]["key"].clone();
    let tenant = Tenant { hub: &hub, key: key.as_str().unwrap().to_owned() };
    let signs_up = json!({ "email": eve, "externalId": "u-eve", "optIn": true });
    let later = |kind: &str, n: u32| {
        let mut event = plain(kind, eve, n);
        event["timestamp"] = json!(format!("2099-01-01T00:00:{n:02}Z"));
        event
    };
    assert_eq!(tenant.put(signs_up.clone()).status, 200);
    send_all(&hub, &[later("open", 1)]);
    settled(&hub, 2);
    assert_eq!(contact(&sandbox.state(), eve)["properties"]["mt_open_count"], "1");
    hub.run(&["contacts", "erase", eve]);
    settled(&hub, 3);
    assert_eq!(contact(&sandbox.state(), eve), Value::Null, "HubSpot was not told of the erasure");
    send_all(&hub, &[later("open", 2), later("click", 3), later("delivery", 4)]);
    settled(&hub, 6);
    assert_eq!(contact(&sandbox.state(), eve), Value::Null, "who was erased was made again");
    let rows = hub.rows(&["deliveries", "list", "--state", "skipped"]);
    assert!(rows.len() == 3 && rows.iter().all(|row| row["reason"] == "unknown_contact"), "{rows:?}");
    // Who signs up anew is somebody.
    assert_eq!(tenant.put(signs_up).status, 200);
    send_all(&hub, &[later("open", 5)]);
    settled(&hub, 8);
    assert_eq!(contact(&sandbox.state(), eve)["email"], eve);
}

#[test]
pub fn metadata_names_the_record_and_consent_follows_the_address() {
    let (hub, sandbox) = pair("", "");
    let ada = contact(&sandbox.state(), ADA)["id"].as_str().unwrap().to_owned();
    let about_ada = json!({ "crm_contact_id": ada });
    let alias = "ada.private@example.com";
    send_all(
        &hub,
        &[
            event("open", alias, 1, json!({}), about_ada.clone()),
            event("unsubscribe", alias, 2, json!({}), about_ada),
        ],
    );
    settled(&hub, 2);
    let state = sandbox.state();
    let ada = contact(&state, ADA);
    assert_eq!((notes_of(&state, &ada).len(), &ada["properties"]["mt_open_count"]), (1, &json!("1")));
    assert_eq!(state["statuses"][alias]["unsubscribed_all"], true);
    assert_eq!(state["statuses"][ADA], Value::Null);
}

#[test]
pub fn a_paused_crm_keeps_its_queue_and_loses_no_opt_out() {
    let (hub, sandbox) = pair(PATIENT, "");
    sandbox.faults("missing_scopes=communication_preferences.statuses.batch.write");
    send_all(&hub, &[plain("unsubscribe", ADA, 1)]);
    let row = until(10, "not paused though a scope is missing", || {
        hub.rows(&["destinations", "list"]).into_iter().find(|row| row["state"] == "paused")
    });
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("communication_preferences"), "the reason names no scope: {reason}");
    assert_eq!((&row["pending"], &row["dead"]), (&json!(1), &json!(0)));
    sandbox.faults("none");
    assert!(hub.run(&["destinations", "resume", "crm"]).status.success());
    settled(&hub, 1);
    assert_eq!(sandbox.state()["statuses"][ADA]["unsubscribed_all"], true);
}

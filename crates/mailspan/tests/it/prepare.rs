//! `mailspan destinations`: prepare an account, test it, pause and resume it.

use mailspan_testkit::{Hub, Sandbox, until};
use serde_json::json;

use crate::crm::{ADA, TOKEN, contact, hub, notes_of, plain, send_all, settled};
use crate::support::BINARY;

/// The exit status and what was said on both streams.
fn said(hub: &Hub, words: &[&str]) -> (Option<i32>, String) {
    let output = hub.run(words);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
pub fn a_bare_account_is_prepared_and_then_works() {
    let sandbox = Sandbox::hubspot(BINARY, TOKEN, &["--bare", "--contact", ADA]);
    let hub = hub(sandbox.port, "retry = [\"50ms\"]", "");
    let prepare = ["destinations", "prepare", "crm"];
    let (code, text) = said(&hub, &prepare);
    assert_eq!(code, Some(1), "{text}");
    let properties = [
        "mt_last_delivered_at",
        "mt_last_opened_at",
        "mt_last_clicked_at",
        "mt_open_count",
        "mt_click_count",
        "mt_email_status",
        "mt_bounced_at",
        "mt_bounce_reason",
        "mt_revalidate_at",
        "mt_do_not_contact",
    ];
    for name in properties {
        assert!(text.contains(&format!("missing: property {name} of contacts")), "{name} in:\n{text}");
    }
    for object in ["notes", "tasks"] {
        let line = format!("missing: property mt_event_key of {object} (string, unique values)");
        assert!(text.contains(&line), "{line} in:\n{text}");
    }
    assert!(text.contains("--yes"), "the next step is not said:\n{text}");
    assert_eq!(said(&hub, &prepare).0, Some(1), "looking created something");

    let (code, text) = said(&hub, &[&prepare[..], &["--yes"]].concat());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("created: "), "{text}");
    let (code, text) = said(&hub, &prepare);
    assert_eq!((code, text.trim()), (Some(0), "crm has all that is needed"));
    let row = &hub.rows(&prepare)[0];
    assert_eq!((&row["missing"], &row["created"]), (&json!([]), &json!([])));
    assert_eq!(said(&hub, &[&prepare[..], &["--yes"]].concat()).0, Some(0), "a second --yes is harmless");

    send_all(&hub, &[plain("open", ADA, 1), plain("complaint", ADA, 2)]);
    let audit = settled(&hub, 2);
    assert_eq!((&audit["delivered"], &audit["dead"]), (&json!(2), &json!(0)));
    let state = sandbox.state();
    assert_eq!(contact(&state, ADA)["properties"]["mt_open_count"], "1");
    assert_eq!(notes_of(&state, &contact(&state, ADA)).len(), 1);
}

#[test]
pub fn what_is_not_prepared_is_a_dead_letter_that_names_it() {
    let sandbox = Sandbox::hubspot(BINARY, TOKEN, &["--bare", "--contact", ADA]);
    let hub = hub(sandbox.port, "retry = [\"50ms\"]", "");
    send_all(&hub, &[plain("delivery", ADA, 1)]);
    let dead = until(10, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    assert_eq!(dead["reason"], "missing_property");
    assert!(dead["last_error"].as_str().unwrap().contains("mt_last_delivered_at"), "{dead}");
    assert_eq!(said(&hub, &["destinations", "prepare", "crm", "--yes"]).0, Some(0));
    let (code, text) = said(&hub, &["dead-letters", "replay", dead["id"].as_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(settled(&hub, 1)["delivered"], 1);
}

#[test]
pub fn prepare_names_what_it_cannot_create() {
    let sandbox = Sandbox::hubspot(BINARY, TOKEN, &[]);
    let hub = hub(sandbox.port, "", "");
    sandbox.faults("missing_scopes=crm.objects.owners.read");
    let (code, text) = said(&hub, &["destinations", "prepare", "crm"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("scope crm.objects.owners.read"), "{text}");
    assert_eq!(said(&hub, &["destinations", "prepare", "nothing"]).0, Some(1));
}

#[test]
pub fn test_tells_what_works_from_what_does_not() {
    let sandbox = Sandbox::hubspot(BINARY, TOKEN, &[]);
    let mut hub = hub(sandbox.port, "", "");
    let test = |hub: &Hub| said(hub, &["destinations", "test", "crm", "--json"]);
    let (code, text) = test(&hub);
    assert!(code == Some(0) && text.contains("\"ok\":true"), "{code:?} {text}");
    for (faults, says) in [("unauthorized", "credential was refused"), ("down", "in trouble itself")] {
        sandbox.faults(faults);
        let (code, text) = test(&hub);
        assert_eq!(code, Some(1), "{faults}: {text}");
        assert!(text.contains(says), "{faults}: {text}");
    }
    drop(sandbox);
    let (code, text) = test(&hub);
    assert!(code == Some(1) && text.contains("\"status\":null"), "{code:?} {text}");
    assert_eq!(said(&hub, &["destinations", "test", "nothing"]).0, Some(1));
    hub.stop();
    // Without a hub that runs the command asks by itself.
    assert_eq!(test(&hub).0, Some(1));
}

#[test]
pub fn pause_keeps_the_queue_and_resume_sends_it() {
    let sandbox = Sandbox::hubspot(BINARY, TOKEN, &["--contact", ADA]);
    let hub = hub(sandbox.port, "", "");
    let (code, text) = said(&hub, &["destinations", "pause", "crm", "--note", "the account moves"]);
    assert_eq!(code, Some(0), "{text}");
    send_all(&hub, &[plain("open", ADA, 1), plain("open", ADA, 2)]);
    let row = until(10, "not queued", || {
        hub.rows(&["destinations", "list"]).into_iter().find(|row| row["pending"] == 2)
    });
    assert_eq!((&row["state"], &row["reason"]), (&json!("paused"), &json!("the account moves")));
    assert_eq!(sandbox.state()["requests"], 0, "something was sent while it was paused");
    assert_eq!(said(&hub, &["destinations", "resume", "crm"]).0, Some(0));
    assert_eq!(settled(&hub, 2)["delivered"], 2);
    assert_eq!(hub.rows(&["destinations", "list"])[0]["state"], "active");
    assert_eq!(sandbox.state()["totals"]["notes"], 2);
    assert_eq!(said(&hub, &["destinations", "pause", "nothing"]).0, Some(1));
    assert_eq!(said(&hub, &["destinations", "resume", "nothing"]).0, Some(1));
}

//! A HubSpot that breaks: nothing is lost, nothing is written twice.

use mailspan_testkit::{Hub, Sandbox, until};
use serde_json::{Value, json};

use crate::crm::{
    ADA, BOB, PATIENT, at_ms, contact, event, exchanges, ids, notes_of, pair, plain, replay, send_all,
    settled,
};

const PEOPLE: [&str; 2] = [ADA, BOB];

fn events() -> Vec<Value> {
    let of = |who: &&str| {
        let click = json!({ "url": "https://shop.example/" });
        [
            plain("delivery", who, 1),
            plain("open", who, 2),
            event("click", who, 3, click, json!({})),
            plain("open", who, 4),
            plain("unsubscribe", who, 5),
        ]
    };
    PEOPLE.iter().flat_map(of).collect()
}

fn check_people(sandbox: &Sandbox) {
    let state = sandbox.state();
    for who in PEOPLE {
        let person = contact(&state, who);
        let of = |name: &str| person["properties"][name].as_str().unwrap_or_default();
        assert_eq!(
            (of("mt_open_count"), of("mt_click_count"), of("mt_last_opened_at")),
            ("2", "1", at_ms(4).to_string().as_str()),
            "{person}"
        );
        assert_eq!(notes_of(&state, &person).len(), 3, "notes of {who}");
        assert_eq!(state["statuses"][who]["unsubscribed_all"], true, "{who}");
    }
    assert_eq!(state["totals"]["notes"], 6, "a note was written twice");
    assert_eq!(state["totals"]["notes_that_hang_on_nobody"], 0);
}

/// A CRM whose every request has a good chance to meet one of these.
const ALL_FAULTS: &str =
    "server_error=15%,reset_after_commit=15%,partial=15%,empty_results=15%,slow=10%:100ms";

/// Sends while the fault is there and until it was met, then a replay under the same fault.
fn check(faults: &str, met: impl Fn(&Hub) -> bool) {
    let (hub, sandbox) = pair(&format!("{PATIENT}\nbatch = {{ max = 3, wait = \"50ms\" }}"), "");
    sandbox.faults(faults);
    let all = events();
    send_all(&hub, &all);
    let audit = settled(&hub, all.len());
    assert!(met(&hub), "`{faults}` was never met");
    assert_eq!((&audit["delivered"], &audit["dead"]), (&json!(all.len()), &json!(0)), "{faults}");
    check_people(&sandbox);
    replay(&hub, &ids(&hub, "delivered"), true, all.len());
    check_people(&sandbox);
}

fn tried_again(hub: &Hub) -> bool {
    hub.rows(&["deliveries", "list"]).iter().any(|row| row["attempts"].as_u64().unwrap() > 1)
}

#[test]
fn server_errors() {
    check("server_error=50%", |hub| {
        [500, 502, 503, 504].into_iter().any(|status| exchanges(hub, status) > 0)
    });
}

#[test]
fn connections_that_break_after_the_vendor_acted() {
    check("reset_after_commit=50%", |hub| exchanges(hub, 0) > 0);
}

#[test]
fn partial_failures() {
    check("partial=50%", |hub| exchanges(hub, 207) > 0);
}

#[test]
fn answers_with_neither_results_nor_errors() {
    check("empty_results=50%", tried_again);
}

#[test]
fn everything_at_once() {
    check(ALL_FAULTS, |hub| exchanges(hub, 0) > 0);
}

#[test]
fn one_refused_credential_is_tried_again_and_pauses_nothing() {
    let (hub, sandbox) = pair("", "");
    sandbox.faults("unauthorized_once");
    let all = events();
    send_all(&hub, &all);
    let audit = settled(&hub, all.len());
    assert_eq!((&audit["delivered"], &audit["dead"]), (&json!(all.len()), &json!(0)));
    assert_eq!(exchanges(&hub, 401), 1);
    assert_eq!(hub.rows(&["destinations", "list"])[0]["state"], "active");
    check_people(&sandbox);
}

#[test]
fn a_credential_that_stays_refused_pauses() {
    let (hub, sandbox) = pair("", "");
    sandbox.faults("unauthorized");
    let all = events();
    send_all(&hub, &all);
    let row = until(10, "not paused", || {
        hub.rows(&["destinations", "list"]).into_iter().find(|row| row["state"] == "paused")
    });
    assert!(row["reason"].as_str().unwrap().contains("401"), "{row}");
    assert!(exchanges(&hub, 401) <= 6, "a refused credential was tried {} times", exchanges(&hub, 401));
    sandbox.faults("none");
    assert!(hub.run(&["destinations", "resume", "crm"]).status.success());
    settled(&hub, all.len());
    check_people(&sandbox);
}

#[test]
fn the_vendors_limit_is_obeyed() {
    let (hub, sandbox) = pair("batch = { max = 1 }", "");
    sandbox.faults("rate_limit=20/10s");
    let all = events();
    send_all(&hub, &all);
    let audit = settled(&hub, all.len());
    assert_eq!((&audit["delivered"], &audit["dead"]), (&json!(all.len()), &json!(0)));
    let answered = sandbox.state()["requests"].as_u64().unwrap();
    assert!(answered > 20, "only {answered} requests: the limit was never reached");
    // Those that were in flight when the window was full, in each window.
    let refused = exchanges(&hub, 429);
    assert!(refused <= 4 * (answered / 20), "{refused} of {answered} requests were over the limit");
    check_people(&sandbox);
}

#[test]
fn people_are_created_once_though_the_vendor_breaks() {
    let (hub, sandbox) = pair(PATIENT, "create_contacts = true");
    sandbox.faults(ALL_FAULTS);
    let people = ["one@example.com", "two@example.com", "three@example.com"];
    let all: Vec<Value> = people
        .iter()
        .flat_map(|who| [plain("open", who, 1), plain("delivery", who, 2), plain("open", who, 3)])
        .collect();
    send_all(&hub, &all);
    let audit = settled(&hub, all.len());
    assert_eq!((&audit["delivered"], &audit["dead"]), (&json!(all.len()), &json!(0)));
    let state = sandbox.state();
    assert_eq!(state["totals"]["contacts"], 5, "somebody was created twice");
    assert_eq!(
        (&state["totals"]["notes"], &state["totals"]["notes_that_hang_on_nobody"]),
        (&json!(6), &json!(0))
    );
    for who in people {
        let person = contact(&state, who);
        assert_eq!(person["properties"]["mt_open_count"], "2", "{person}");
        assert_eq!(notes_of(&state, &person).len(), 2);
    }
}

#[test]
fn a_hub_that_is_killed_again_and_again_writes_nothing_twice() {
    let (mut hub, sandbox) = pair(&format!("{PATIENT}\nbatch = {{ max = 2, wait = \"20ms\" }}"), "");
    sandbox.faults("slow=60%:150ms,reset_after_commit=20%");
    let all = events();
    send_all(&hub, &all);
    for _ in 0..6 {
        let before = sandbox.state()["requests"].as_u64().unwrap();
        let done = until(20, "nothing is sent", || {
            let audit = hub.rows(&["audit"]).remove(0);
            let done = audit["waiting"] == 0 && audit["pending"] == 0;
            (done || sandbox.state()["requests"].as_u64().unwrap() > before + 1).then_some(done)
        });
        if done {
            break;
        }
        hub.kill();
        hub.start();
    }
    sandbox.faults("none");
    let audit = settled(&hub, all.len());
    assert_eq!((&audit["delivered"], &audit["dead"]), (&json!(all.len()), &json!(0)));
    check_people(&sandbox);
}

#[test]
fn counts_do_not_go_back_where_deliveries_may_overtake_each_other() {
    let (hub, sandbox) = pair(&format!("{PATIENT}\norder = \"none\"\nbatch = {{ max = 1 }}"), "");
    // Each is planned and tried in vain before the next one is known; then they race.
    sandbox.faults("down");
    for n in 0..12 {
        send_all(&hub, &[plain("open", ADA, n)]);
        until(20, "not tried", || {
            let rows = hub.rows(&["deliveries", "list"]);
            (rows.len() == n as usize + 1 && rows.iter().all(|row| row["attempts"] != 0)).then_some(())
        });
    }
    sandbox.faults("slow=30%:100ms");
    settled(&hub, 12);
    let state = sandbox.state();
    let ada = contact(&state, ADA);
    assert_eq!(notes_of(&state, &ada).len(), 12);
    let of = |name: &str| ada["properties"][name].as_str().unwrap().to_owned();
    assert_eq!((of("mt_open_count"), of("mt_last_opened_at")), ("12".to_owned(), at_ms(11).to_string()));
}

//! Updates of one person's profile that gather while the CRM is away.

use mailspan_testkit::until;
use serde_json::{Value, json};

use crate::crm::{ADA, BOB, PATIENT, at_ms, contact, event, exchanges, pair, plain, send_all, settled};
use crate::support::{hub_with, send};

#[test]
fn a_hundred_updates_go_in_a_few_requests_and_each_is_named() {
    let (hub, sandbox) = pair(PATIENT, "");
    sandbox.faults("down");
    send_all(&hub, &[plain("delivery", ADA, 0)]);
    until(20, "it was never tried", || {
        let rows = hub.rows(&["deliveries", "list"]);
        (rows.len() == 1 && rows[0]["attempts"] != 0).then_some(())
    });
    let events: Vec<Value> = (1..100).map(|n| plain("delivery", ADA, n)).collect();
    send_all(&hub, &events);
    // Bob's opt-out is neither merged nor held up.
    send_all(&hub, &[plain("unsubscribe", BOB, 100), plain("delivery", BOB, 101)]);
    until(20, "not routed", || (hub.rows(&["deliveries", "list"]).len() == 102).then_some(()));
    sandbox.faults("none");
    let audit = settled(&hub, 102);
    assert_eq!(audit["dead"], 0, "{audit}");
    let state = sandbox.state();
    let known = contact(&state, ADA)["properties"]["mt_last_delivered_at"].clone();
    assert_eq!(known, at_ms(99).to_string(), "the last value stays");
    assert_eq!(state["statuses"][BOB]["unsubscribed_all"], true);
    let requests = exchanges(&hub, 200);
    assert!((4..=12).contains(&requests), "{requests} requests for 101 updates");

    let coalesced = hub.rows(&["deliveries", "list", "--state", "coalesced"]);
    assert_eq!(
        (coalesced.len() as u64, &audit["coalesced"]),
        (102 - delivered(&audit), &json!(coalesced.len()))
    );
    assert!(coalesced.len() >= 90, "{audit}");
    for row in &coalesced {
        let carrier = &hub_row(&hub, row["carried_by"].as_str().expect("it names nobody"));
        assert_eq!((&carrier["state"], &carrier["subject"]), (&json!("delivered"), &json!(ADA)), "{carrier}");
    }
    let shown = hub.run(&["explain", coalesced[0]["event_id"].as_str().unwrap()]);
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    let carrier = coalesced[0]["carried_by"].as_str().unwrap();
    assert!(said.contains(&format!("coalesced into delivery {carrier}")), "{said}");
    let table = String::from_utf8_lossy(&hub.run(&["deliveries", "list", "--state", "coalesced"]).stdout)
        .into_owned();
    assert!(table.contains("CARRIED BY"), "{table}");
}

fn delivered(audit: &Value) -> u64 {
    audit["delivered"].as_u64().unwrap()
}

fn hub_row(hub: &mailspan_testkit::Hub, id: &str) -> Value {
    hub.rows(&["deliveries", "show", id]).remove(0)
}

#[test]
fn a_refused_load_is_taken_apart_and_nothing_is_lost() {
    // The reason of a bounce has no property there: a request with it is refused, and the others are not to blame.
    let (hub, sandbox) =
        pair(&format!("{PATIENT}\nproperties = {{ bounce_reason = \"no_such_property\" }}"), "");
    sandbox.faults("down");
    let one = |n: u32| match n {
        5 => event("bounce", ADA, n, json!({ "reason": "550 5.1.1 no such user" }), json!({})),
        n => plain("delivery", ADA, n),
    };
    send_all(&hub, &(0..10).map(one).collect::<Vec<_>>());
    until(20, "it was never tried", || {
        let rows = hub.rows(&["deliveries", "list"]);
        (rows.len() == 10 && rows.iter().any(|row| row["attempts"] != 0)).then_some(())
    });
    sandbox.faults("none");
    let audit = settled(&hub, 10);
    let dead = hub.rows(&["dead-letters", "list"]);
    assert_eq!((dead.len(), &dead[0]["reason"]), (1, &json!("missing_property")), "{audit} {dead:?}");
    assert_eq!(delivered(&audit) + audit["coalesced"].as_u64().unwrap(), 9, "{audit}");
    let known = contact(&sandbox.state(), ADA)["properties"]["mt_last_delivered_at"].clone();
    assert_eq!(known, at_ms(9).to_string());
}

#[test]
fn http_gets_each_update_unless_it_asks_for_less() {
    for (more, expected) in [("", 6), ("coalesce = true", 2)] {
        let settings = format!(
            "retry = {{ calendar = [\"50ms\"], for = \"1h\" }}\nbreaker = {{ failures = 0 }}\n{more}"
        );
        let (hub, crm) = hub_with(&settings, "map = \"crm\"");
        crm.status(503);
        let deliver = |n: u32| plain("delivery", ADA, n);
        send(&hub, &json!([deliver(0)]));
        until(20, "it was never tried", || (!crm.seen().is_empty()).then_some(()));
        send(&hub, &json!((1..6).map(deliver).collect::<Vec<_>>()));
        until(20, "not routed", || (hub.rows(&["deliveries", "list"]).len() == 6).then_some(()));
        crm.forget();
        crm.status(200);
        settled(&hub, 6);
        let ok = crm.ok();
        assert!(ok.len() <= expected && (!more.is_empty() || ok.len() == 6), "{more}: {} requests", ok.len());
        let last = ok.last().unwrap();
        assert_eq!(last.json()["fields"]["last_delivered_at"], at_ms(5), "{more}");
        let carries = last.header("idempotency-key").unwrap().rsplit('-').next().unwrap().len() == 17;
        assert_eq!(carries, !more.is_empty(), "{:?}", last.headers);
    }
}

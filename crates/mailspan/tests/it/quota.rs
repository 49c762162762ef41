//! What a day has seen, over a restart; what a receiver says is left; a job that ends.

use mailspan_testkit::{Receiver, until};
use serde_json::{Value, json};

use crate::replay::{audit, dead_letters, id_of};
use crate::support::{AT, event, hub_with, send};

fn opens(prefix: &str, count: usize) -> Value {
    (0..count).map(|n| event("open", &format!("{prefix}{n}@example.com"), AT)).collect()
}

#[test]
fn a_daily_quota_is_kept_over_a_restart() {
    let (mut hub, crm) = hub_with("daily = 20\nrate = \"1000/1s\"\nbreaker = { failures = 0 }", "");
    send(&hub, &opens("before", 10));
    until(20, "not all arrived", || (audit(&hub)["delivered"] == 10).then_some(()));
    hub.kill();
    hub.start();
    send(&hub, &opens("after", 10));
    // 18 of 20 may be used, one of them for consent alone.
    until(20, "the quota was not used", || (audit(&hub)["delivered"] == 17).then_some(()));
    let row = hub.rows(&["destinations", "list"]).remove(0);
    assert_eq!((&row["quota_left"], &row["pending"]), (&json!(0), &json!(3)), "{row}");
    assert_eq!(crm.ok().len(), 17, "what was sent before the restart was forgotten");
    send(&hub, &json!([event("unsubscribe", "out@example.com", AT)]));
    until(20, "consent waits too", || (crm.ok().len() == 18).then_some(()));
}

#[test]
fn a_receiver_that_says_what_is_left_is_believed() {
    let (hub, crm) = hub_with("rate = \"1000/1s\"\nconcurrency = 1", "");
    let mut left = 4_u32;
    crm.answer(move |_| {
        left = left.saturating_sub(1);
        let headers = [("x-ratelimit-remaining", left.to_string()), ("x-ratelimit-reset", "3600".to_owned())];
        (200, headers.map(|(name, value)| (name.to_owned(), value)).into(), "{}".to_owned())
    });
    send(&hub, &opens("some", 10));
    let row = until(20, "nobody read the headers", || {
        let row = hub.rows(&["destinations", "list"]).remove(0);
        row["quota_left"].is_number().then_some(row)
    });
    assert!(row["quota_left"].as_u64().unwrap() <= 3, "{row}");
    assert!(crm.ok().len() < 5, "{} were sent in a burst", crm.ok().len());
}

#[test]
fn a_job_that_ends_is_told() {
    let alarms = Receiver::start();
    let more = format!(
        "[destinations.alarms]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n\n
         [[routes]]\nname = \"alarms\"\nfrom = [\"system\"]\nevents = [\"system.job_ended\"]\nto = [\"alarms\"]",
        alarms.port
    );
    let (hub, crm) = hub_with("retry = [\"100ms\"]\nrate = \"1000/1s\"", &more);
    crm.status(422);
    dead_letters(&hub, "open", "dead", 3, 3);
    crm.status(200);
    let row = hub.rows(&["dead-letters", "replay", "--all", "--wait"]).remove(0);
    let told = until(20, "nobody was told", || alarms.ok().pop()).json();
    assert_eq!((&told["type"], &told["data"]["job"]), (&json!("system.job_ended"), &json!(id_of(&row))));
    let data = &told["data"];
    let shown = [&data["kind"], &data["state"], &data["failed"], &data["done"], &data["total"]];
    assert_eq!(shown, [&json!("replay"), &json!("done"), &json!(false), &json!(3), &json!(3)]);
}

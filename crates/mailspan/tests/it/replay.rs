//! Replay and discard by a query, corrected events: what a job does beside live traffic, kills and cancels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mailspan_core::Millis;
use mailspan_testkit::{Hub, Receiver, Seen, now_ms, until};
use serde_json::{Value, json};

use crate::support::{AT, BINARY, SECRET, config, event, send};

pub const QUICK: &str = "retry = [\"100ms\", \"200ms\"]\nrate = \"10000/1s\"\nconcurrency = 8";

/// Everything goes to `crm`, clicks go to `erp` too.
fn two(destination: &str) -> (Hub, Receiver, Receiver) {
    let (crm, erp) = (Receiver::start(), Receiver::start());
    let more = format!(
        "[destinations.erp]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/in\"\n{QUICK}\n
         [[routes]]\nname = \"clicks\"\nevents = [\"email.clicked\"]\nto = [\"erp\"]",
        erp.port
    );
    let destination = format!("{QUICK}\n{destination}");
    let env = [("MAILTARGET_SECRET", SECRET), ("CRM_TOKEN", "a-secret-of-the-crm-4711")];
    let mut hub = Hub::new(BINARY, &config(&crm, &destination, &more), &env);
    hub.start();
    (hub, crm, erp)
}

/// Sends so many events of a kind and waits until they are dead letters of everyone who got them.
pub fn dead_letters(hub: &Hub, kind: &str, prefix: &str, count: usize, dead: u64) {
    let all: Vec<Value> = (0..count).map(|n| event(kind, &format!("{prefix}{n}@example.com"), AT)).collect();
    for some in all.chunks(500) {
        assert_eq!(send(hub, &json!(some)).json()["accepted"], some.len());
    }
    until(60, "they did not become dead letters", || (audit(hub)["dead"] == dead).then_some(()));
}

pub fn audit(hub: &Hub) -> Value {
    let row = hub.rows(&["audit"]).remove(0);
    assert_eq!(row["adds_up"], true, "{row}");
    row
}

pub fn job(hub: &Hub, id: &str) -> Value {
    hub.rows(&["jobs", "show", id]).remove(0)
}

pub fn id_of(row: &Value) -> String {
    row["id"].as_str().unwrap().to_owned()
}

/// Fails as it should; what it said.
fn refused(hub: &Hub, words: &[&str]) -> String {
    let output = hub.run(words);
    assert!(!output.status.success(), "{words:?} was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn keys(receiver: &Receiver) -> HashMap<String, String> {
    let mut keys = HashMap::new();
    for seen in receiver.seen() {
        let key = seen.header("idempotency-key").unwrap().to_owned();
        let first = keys.entry(seen.subject()).or_insert_with(|| key.clone());
        assert_eq!(*first, key, "{} came under two keys", seen.subject());
    }
    keys
}

#[test]
pub fn a_replay_goes_on_after_a_kill_and_live_traffic_goes_before_it() {
    let (mut hub, crm, erp) = two("");
    crm.status(422);
    erp.status(422);
    dead_letters(&hub, "open", "o", 1_400, 1_400);
    dead_letters(&hub, "click", "c", 200, 1_800);
    let before = keys(&crm);
    assert_eq!(before.len(), 1_600);
    // Nearly stands still in the middle, so that the kill comes while the job runs.
    let (goes_on, mut answered) = (Arc::new(AtomicBool::new(false)), 0);
    let held = goes_on.clone();
    crm.answer(move |_| {
        answered += 1;
        let is_middle = answered > 150 && !held.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(if is_middle { 40 } else { 2 }));
        (200, Vec::new(), "{}".to_owned())
    });
    erp.status(200);
    let erp_before = erp.seen().len();

    let begun = hub.rows(&["dead-letters", "replay", "--all", "--destination", "crm"]).remove(0);
    let id = id_of(&begun);
    until(20, "no replay arrived", || (crm.ok().len() > 50).then_some(()));
    let (seen_before, is_live) = (crm.ok().len(), |seen: &Seen| seen.subject().starts_with("live"));
    let live: Vec<Value> = (0..10).map(|n| event("open", &format!("live{n}@example.com"), AT)).collect();
    send(&hub, &json!(live));
    let place = until(20, "live events wait behind the replay", || {
        let ok = crm.ok();
        let live: Vec<usize> = (0..ok.len()).filter(|at| is_live(&ok[*at])).collect();
        (live.len() == 10).then(|| live[9])
    });
    assert!(place < seen_before + 150, "{} replays went before live events", place - seen_before);
    let running = job(&hub, &id);
    assert_eq!(running["state"], "running", "so many cannot all be on their way: {running}");
    hub.kill();
    goes_on.store(true, Ordering::Relaxed);
    hub.start();

    let done =
        until(60, "the job does not go on", || Some(job(&hub, &id)).filter(|job| job["state"] == "done"));
    assert_eq!(
        (&done["done"], &done["total"], &done["percent"]),
        (&json!(1_600), &json!(1_600), &json!(100))
    );
    until(60, "not all arrived", || (audit(&hub)["delivered"] == 1_610).then_some(()));
    let after = keys(&crm);
    let arrived: HashSet<String> = crm.ok().iter().map(|seen| seen.subject()).collect();
    for (who, key) in &before {
        assert!(arrived.contains(who), "{who} did not arrive");
        assert_eq!(after.get(who), Some(key), "{who} came under another key");
    }
    let sums = audit(&hub);
    assert_eq!(
        (&sums["dead"], &sums["pending"], &sums["deliveries"]),
        (&json!(200), &json!(0), &json!(1_810))
    );
    assert_eq!(erp.seen().len(), erp_before, "the other destination got something");
}

#[test]
pub fn a_dry_run_counts_and_changes_nothing() {
    let (mut hub, crm, erp) = two("");
    crm.status(422);
    erp.status(422);
    dead_letters(&hub, "open", "o", 20, 20);
    dead_letters(&hub, "click", "c", 10, 40);
    let (sums, seen) = (audit(&hub), crm.seen().len());
    let dry = |hub: &Hub, more: &[&str]| {
        let words = [&["dead-letters", "replay", "--all", "--dry-run"], more].concat();
        let row = hub.rows(&words).remove(0);
        assert_eq!((&row["state"], &row["done"]), (&json!("done"), &row["matched"]), "{row}");
        let counts = row["counts"].as_array().unwrap().clone();
        let of = |name: &str| {
            counts.iter().find(|one| one["destination"] == name).map_or(0, |one| {
                assert_eq!(one["state"], "dead", "{one}");
                assert!(!one["reason"].as_str().unwrap().is_empty(), "{one}");
                one["count"].as_u64().unwrap()
            })
        };
        (of("crm"), of("erp"))
    };
    assert_eq!(dry(&hub, &[]), (30, 10));
    assert_eq!(dry(&hub, &["--destination", "crm"]), (30, 0));
    assert_eq!(dry(&hub, &["--route", "clicks"]), (0, 10));
    assert_eq!(dry(&hub, &["--type", "email.clicked"]), (10, 10));
    assert_eq!(dry(&hub, &["--subject", "c3@example.com"]), (1, 1));
    assert_eq!(dry(&hub, &["--reason", "nonsense"]), (0, 0));
    assert_eq!(dry(&hub, &["--until", "1h"]), (0, 0));
    assert_eq!(dry(&hub, &["--since", "1h", "--destination", "erp"]), (0, 10));
    assert_eq!(hub.stop(), Some(0));
    assert_eq!(dry(&hub, &[]), (30, 10), "a dry run needs no running hub");
    assert_eq!(audit(&hub), sums);
    assert_eq!(crm.seen().len(), seen);

    // What has no route any more is left, and the job says so.
    let file = hub.folder().join("hub.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("name = \"clicks\"", "name = \"renamed\"")).unwrap();
    let words = ["dead-letters", "replay", "--all", "--destination", "erp"];
    let row = hub.rows(&words).remove(0);
    assert_eq!((&row["state"], &row["done"], &row["matched"]), (&json!("done"), &json!(0), &json!(10)));
    assert!(row["note"].as_str().unwrap().contains("route"), "{row}");
    std::fs::write(&file, text).unwrap();
    assert_eq!(audit(&hub), sums);

    // Discarded by a query, beside no hub as well.
    let words = ["dead-letters", "discard", "--all", "--type", "email.clicked", "--note", "an old campaign"];
    assert_eq!(hub.rows(&words)[0]["done"], 20);
    let sums = audit(&hub);
    assert_eq!((&sums["dead"], &sums["discarded"]), (&json!(20), &json!(20)));
    let discarded = hub.rows(&["deliveries", "list", "--state", "discarded"]);
    assert!(discarded.iter().all(|row| row["last_error"] == "an old campaign"), "{}", discarded[0]);
}

#[test]
pub fn a_job_waits_for_a_paused_destination_and_can_be_cancelled() {
    let (hub, crm, erp) = two("");
    crm.status(422);
    erp.status(422);
    dead_letters(&hub, "open", "o", 1_095, 1_095);
    dead_letters(&hub, "click", "c", 5, 1_105);
    assert!(hub.run(&["destinations", "pause", "crm"]).status.success());
    crm.status(200);
    erp.status(200);
    let id = id_of(&hub.rows(&["dead-letters", "replay", "--all"])[0]);
    let waiting = until(20, "the job does not wait", || {
        Some(job(&hub, &id)).filter(|job| job["waits_for"] == json!(["crm"]) && job["done"] == 1_029)
    });
    assert_eq!(waiting["state"], "running");
    until(10, "a paused destination holds up another", || (erp.ok().len() == 5).then_some(()));
    assert_eq!(hub.rows(&["jobs", "pause", &id])[0]["state"], "paused");
    assert_eq!(hub.rows(&["jobs", "resume", &id])[0]["state"], "running");
    assert_eq!(hub.rows(&["jobs", "cancel", &id])[0]["state"], "cancelled");
    assert!(refused(&hub, &["jobs", "cancel", &id]).contains("ended"));
    assert!(refused(&hub, &["jobs", "show", "99"]).contains("no job 99"));
    assert!(hub.run(&["destinations", "resume", "crm"]).status.success());
    until(60, "what was opened did not arrive", || (crm.ok().len() == 1_024).then_some(()));
    until(20, "not settled", || (audit(&hub)["delivered"] == 1_029).then_some(()));
    assert_eq!(audit(&hub)["dead"], 76, "what was not opened stays a dead letter");
    assert_eq!(hub.rows(&["jobs", "list"]).len(), 1);
}

#[test]
pub fn a_time_range_in_any_state_is_sent_again_to_one_destination() {
    let (hub, crm, erp) = two("");
    let mut times = Vec::new();
    for who in ["before@example.com", "within@example.com", "after@example.com"] {
        times.push(Millis(now_ms()).rfc3339());
        send(&hub, &event("click", who, AT));
        until(10, "it did not arrive", || erp.ok_about(who).pop().and(crm.ok_about(who).pop()));
        std::thread::sleep(Duration::from_millis(5));
    }
    until(10, "not settled", || (audit(&hub)["delivered"] == 6).then_some(()));
    let one = id_of(&hub.rows(&["deliveries", "list"])[0]);
    assert!(refused(&hub, &["dead-letters", "replay", &one]).contains("--again"));
    assert!(refused(&hub, &["dead-letters", "replay", &one, "--since", "2h"]).contains("cannot be used"));
    let words = ["dead-letters", "replay", "--all", "--since", &times[1], "--until", &times[2]];
    let with = |more: &[&'static str]| [&words[..], more].concat();
    assert!(refused(&hub, &with(&["--state", "delivered", "--destination", "crm"])).contains("--again"));
    assert!(refused(&hub, &with(&["--state", "delivered", "--again"])).contains("destination"));
    assert!(refused(&hub, &with(&["--state", "pending", "--destination", "crm"])).contains("by itself"));
    assert!(refused(&hub, &with(&["--destination", "nowhere"])).contains("not in the configuration"));
    assert!(refused(&hub, &["dead-letters", "replay", "--all", "--since", "Tuesday"]).contains("2h"));
    let states = ["--state", "delivered", "--state", "dead", "--destination", "crm", "--again", "--wait"];
    let row = hub.rows(&with(&states)).remove(0);
    assert_eq!((&row["state"], &row["done"], &row["matched"]), (&json!("done"), &json!(1), &json!(1)));
    until(10, "it did not arrive again", || (crm.ok_about("within@example.com").len() == 2).then_some(()));
    until(10, "not settled", || (audit(&hub)["delivered"] == 6).then_some(()));
    keys(&crm);
    assert_eq!((crm.ok().len(), erp.ok().len()), (4, 3));
    let again =
        &hub.rows(&["deliveries", "list", "--subject", "within@example.com", "--destination", "crm"])[0];
    assert_eq!((&again["cause"], &again["state"]), (&json!("replay"), &json!("delivered")));
    let story = &hub.rows(&["deliveries", "show", again["id"].as_str().unwrap()])[0]["history"];
    assert_eq!(story.as_array().unwrap().len(), 2, "the first attempt is still told: {story}");
}

#[test]
pub fn a_dead_letter_shows_its_request_and_a_corrected_event_takes_its_place() {
    let (hub, crm, _erp) = two("auth = { kind = \"bearer\", token = { env = \"CRM_TOKEN\" } }");
    crm.answer(|_| (422, Vec::new(), "{\"why\":\"no such person\"}".to_owned()));
    dead_letters(&hub, "open", "typo", 1, 1);
    let id = id_of(&hub.rows(&["dead-letters", "list"])[0]);
    let output = hub.run(&["dead-letters", "show", &id, "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("a-secret-of-the-crm-4711"), "{text}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    let request = &shown["last_request"];
    assert_eq!(request["method"], "POST");
    assert_eq!(request["url"], format!("http://127.0.0.1:{}/activities", crm.port));
    let sent = crm.seen().remove(0);
    let header = |name: &str| {
        let headers = request["headers"].as_array().unwrap();
        headers.iter().find(|one| one[0] == name).and_then(|one| one[1].as_str()).map(str::to_owned)
    };
    for name in ["idempotency-key", "content-type"] {
        assert_eq!(header(name).as_deref(), sent.header(name), "{name} in {request}");
    }
    assert!(header("authorization").unwrap().contains("CRM_TOKEN"), "{request}");
    assert_eq!(request["body"].as_str().unwrap().as_bytes(), sent.body);
    assert_eq!((&shown["last_status"], shown["history"].as_array().unwrap().len()), (&json!(422), 1));
    assert!(shown["last_answer"].as_str().unwrap().contains("no such person"));

    crm.status(200);
    let correct = |text: &str| {
        std::fs::write(hub.folder().join("mended.json"), text).unwrap();
        ["dead-letters", "replay", &id, "--with", "mended.json"]
    };
    let said = refused(&hub, &correct("{\"subject\":\"ada@example.com\"}"));
    assert!(said.contains("\"type\""), "{said}");
    assert!(refused(&hub, &correct("{\"type\":\"system.x\"}")).contains("the hub's own"));
    let mended = r#"{"type":"email.opened","subject":"ada@example.com","data":{"n":12345678901234567890}}"#;
    let row = hub.rows(&correct(mended)).remove(0);
    let event_id = row["replaced_by"].as_str().unwrap();
    assert_eq!(row["state"], "discarded");
    assert_eq!(row["last_error"], format!("replaced by event {event_id}"));
    let arrived = until(10, "the corrected event did not arrive", || crm.ok_about("ada@example.com").pop());
    assert_eq!(arrived.json()["data"]["correction_of"], shown["event_id"]);
    assert!(String::from_utf8_lossy(&arrived.body).contains("12345678901234567890"));
    let of_event = hub.rows(&["events", "show", event_id]).remove(0);
    assert_eq!(of_event["source"], "mailtarget");
    assert!(refused(&hub, &correct(mended)).contains("only a dead letter"));
    let sums = audit(&hub);
    assert_eq!((&sums["accepted"], &sums["discarded"], &sums["dead"]), (&json!(2), &json!(1), &json!(0)));
}

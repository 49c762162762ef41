//! Several processes on one PostgreSQL.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mailspan_testkit::{Hub, PostgresServer, Receiver, now_ms, post, until};

use crate::mix::{Mix, at};
use crate::replay::{QUICK, audit, dead_letters, id_of, job};
use crate::support::{AT, BINARY, SECRET, config, event, send, signed};
use crate::told::Refusals;

pub fn hub_on(url: &str, crm: &Receiver) -> Hub {
    hub_with(url, crm, "retry = { calendar = [\"100ms\", \"300ms\"], for = \"1h\" }", "")
}

fn hub_with(url: &str, crm: &Receiver, destination: &str, more: &str) -> Hub {
    let text =
        config(crm, destination, more).replace("url = \"sqlite:hub.db\"", "url = { env = \"DATABASE_URL\" }");
    Hub::new(BINARY, &text, &[("MAILTARGET_SECRET", SECRET), ("DATABASE_URL", url)])
}

#[test]
fn postgres_serves_like_sqlite() {
    let server = PostgresServer::start();
    let crm = Receiver::start();
    let mut hub = hub_on(&server.database("one"), &crm);
    hub.start();
    assert_eq!(send(&hub, &event("open", "a@example.com", AT)).json()["accepted"], 1);
    assert_eq!(send(&hub, &event("open", "a@example.com", AT)).json()["duplicates"], 1);
    until(20, "not delivered", || crm.ok_about("a@example.com").pop());
    crm.status(422);
    send(&hub, &event("open", "b@example.com", AT));
    let dead = until(20, "no dead letter", || hub.rows(&["dead-letters", "list"]).pop());
    crm.status(200);
    assert!(hub.run(&["dead-letters", "replay", dead["id"].as_str().unwrap()]).status.success());
    until(20, "the replay did not arrive", || crm.ok_about("b@example.com").pop());
    crm.status(401);
    send(&hub, &event("open", "c@example.com", AT));
    let paused = |hub: &Hub| hub.rows(&["destinations", "list"])[0]["state"] == "paused";
    until(20, "not paused", || paused(&hub).then_some(()));
    assert_eq!(hub.stop(), Some(0));
    hub.start();
    assert!(paused(&hub), "a restart forgot that it was paused");
    crm.status(200);
    assert!(hub.run(&["destinations", "resume", "crm"]).status.success());
    until(30, "the queue was lost", || crm.ok_about("c@example.com").pop());
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
fn a_fleet_loses_nothing_when_processes_are_killed_and_frozen() {
    let server = PostgresServer::start();
    let crm = Receiver::start();
    let url = server.database("fleet");
    let refusals = Refusals::start();
    let calendar = "retry = { calendar = [\"100ms\", \"300ms\"], for = \"1h\" }";
    let mut mix = Mix::start(now_ms() as u64);
    let more = format!("{}{}", refusals.config, mix.config);
    let mut hubs: Vec<Hub> = (0..3).map(|_| hub_with(&url, &crm, calendar, &more)).collect();
    hubs.iter_mut().for_each(Hub::start);
    // The one between them freezes, and would keep its sender waiting.
    mix.send_to(&hubs[0], vec![hubs[0].port, hubs[2].port]);
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let senders: Vec<_> = hubs
        .iter()
        .enumerate()
        .map(|(sender, hub)| {
            let (port, stop, acknowledged) = (hub.port, stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let who = format!("f{sender}-{n}@example.com");
                    let body = event("open", &who, &at(1)).to_string();
                    let mac = signed(SECRET, body.as_bytes());
                    match post(port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], body.as_bytes()) {
                        Ok(reply) if reply.status == 200 => acknowledged.lock().unwrap().push(who),
                        _ => std::thread::sleep(Duration::from_millis(100)),
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    mix.replay(hubs[2].port);
    // The first one started is likely to route and to serve: it dies, and another takes over.
    hubs[0].kill();
    let (died, before) = (Instant::now(), crm.ok().len());
    until(60, "nobody took over", || (crm.ok().len() > before + 50).then_some(()));
    println!("time without service after a kill: under {:.1} s", died.elapsed().as_secs_f64());
    hubs[0].start();
    mix.replay(hubs[2].port);
    // Frozen past its lease, then thawed: what it still held it may not settle.
    hubs[1].freeze();
    std::thread::sleep(Duration::from_secs(13));
    hubs[1].thaw();
    std::thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let mixed = mix.end();
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() > 100, "only {} were acknowledged", acknowledged.len());
    until(90, "acknowledged events never arrived", || {
        let got: HashSet<String> = crm.ok().iter().map(|seen| seen.subject()).collect();
        acknowledged.iter().all(|who| got.contains(who)).then_some(())
    });
    let opened: Vec<_> = acknowledged.iter().map(|who| (who.clone(), 1)).collect();
    mix.check(&hubs[2], &opened, &mixed);
    let mut keys: HashMap<String, String> = HashMap::new();
    for seen in crm.ok().iter().filter(|seen| seen.json()["type"] == "email.opened") {
        let key = seen.header("idempotency-key").unwrap().to_owned();
        assert_eq!(
            *keys.entry(seen.subject()).or_insert_with(|| key.clone()),
            key,
            "a duplicate under another key"
        );
    }
    until(30, "the audit does not add up", || (hubs[2].rows(&["audit"])[0]["adds_up"] == true).then_some(()));
    println!("{} dead letters were each told of once", refusals.check(&hubs[2]));
}

#[test]
fn a_job_of_a_dead_process_goes_on_elsewhere() {
    let server = PostgresServer::start();
    let crm = Receiver::start();
    let url = server.database("jobs");
    let mut hubs: Vec<Hub> = (0..2).map(|_| hub_with(&url, &crm, QUICK, "")).collect();
    hubs.iter_mut().for_each(Hub::start);
    crm.status(422);
    dead_letters(&hubs[0], "open", "o", 1_400, 1_400);
    // Nearly stands still: more than may be pending at once, so that the job must wait for room.
    let goes_on = Arc::new(AtomicBool::new(false));
    let free = goes_on.clone();
    crm.answer(move |_| {
        std::thread::sleep(Duration::from_millis(if free.load(Ordering::Relaxed) { 1 } else { 100 }));
        (200, Vec::new(), "{}".to_owned())
    });
    let begun = hubs[0].rows(&["dead-letters", "replay", "--all", "--destination", "crm"]).remove(0);
    let id = id_of(&begun);
    until(60, "no replay arrived", || (crm.ok().len() > 20).then_some(()));
    assert_eq!(job(&hubs[1], &id)["state"], "running");
    hubs[0].kill();
    goes_on.store(true, Ordering::Relaxed);
    let done = until(60, "nobody took the job over", || {
        Some(job(&hubs[1], &id)).filter(|row| row["state"] == "done")
    });
    assert_eq!(done["done"], 1_400, "{done}");
    until(60, "not all arrived", || (audit(&hubs[1])["delivered"] == 1_400).then_some(()));
}

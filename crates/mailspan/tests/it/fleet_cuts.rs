//! Several processes on one PostgreSQL whose way to it is cut, and which is restarted itself.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mailspan_testkit::{DELAY_MS, Hub, PostgresServer, Proxy, Receiver, now_ms, post, until};

use crate::mix::{Mix, at};
use crate::support::{AT, BINARY, SECRET, config, event, send, signed};
use crate::told::Refusals;

/// The usual 50 a second would be outrun by the load: what waits then is no sign of a stall.
const QUICK: &str = "retry = { calendar = [\"100ms\", \"300ms\"], for = \"1h\" }\nrate = \"1000/1s\"";

fn hub_on(url: &str, crm: &Receiver, more: &str) -> Hub {
    let text = config(crm, QUICK, more).replace("sqlite:hub.db", url);
    Hub::new(BINARY, &text, &[("MAILTARGET_SECRET", SECRET)])
}

/// Sends to each of these ports until told to stop; whom a 200 was given for.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    senders: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(ports: &[u16]) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let senders = ports.iter().copied().enumerate().map(|(sender, port)| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Two events of each person, of one class: their order is looked at.
                    let who = format!("c{sender}-{}@example.com", n / 2);
                    let body = event(["open", "click"][n % 2], &who, &at(1)).to_string();
                    let mac = [("x-mailtarget-signature", signed(SECRET, body.as_bytes()))];
                    let headers: Vec<(&str, &str)> =
                        mac.iter().map(|(name, mac)| (*name, mac.as_str())).collect();
                    // Until it is taken: so the order of arrival is known.
                    while !stop.load(Ordering::Relaxed) {
                        match post(port, "/in/mailtarget", &headers, body.as_bytes()) {
                            Ok(reply) if reply.status == 200 => {
                                acknowledged.lock().unwrap().push(format!("{who} {}", n % 2));
                                break;
                            }
                            _ => std::thread::sleep(Duration::from_millis(50)),
                        }
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            })
        });
        let senders = senders.collect();
        Load { stop, acknowledged, senders }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until something is acknowledged and delivered again; how long it took.
    fn serves_again(&self, crm: &Receiver, what: &str) {
        let began = Instant::now();
        let (taken, delivered) = (self.count(), crm.ok().len());
        until(60, "no service after it", || {
            (self.count() > taken + 20 && crm.ok().len() > delivered + 20).then_some(())
        });
        println!("time without service after {what}: under {:.1} s", began.elapsed().as_secs_f64());
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.into_iter().for_each(|sender| sender.join().unwrap());
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

/// What was acknowledged arrived; a copy came under the same key; a person's events came in order.
fn check(hub: &Hub, crm: &Receiver, acknowledged: &[String]) {
    assert!(acknowledged.len() > 100, "only {} were acknowledged", acknowledged.len());
    let place = |event_type: &str| ["email.opened", "email.clicked"].iter().position(|t| *t == event_type);
    // Words on consent come here too, and are judged beside the mix.
    let name = |seen: &mailspan_testkit::Seen| {
        let event_type = seen.json()["type"].as_str().unwrap_or_default().to_owned();
        Some((seen.subject(), place(&event_type)?))
    };
    until(90, "acknowledged events never arrived", || {
        let got: HashSet<String> =
            crm.ok().iter().filter_map(name).map(|(who, n)| format!("{who} {n}")).collect();
        acknowledged.iter().all(|one| got.contains(one)).then_some(())
    });
    let mut keys: HashMap<(String, usize), String> = HashMap::new();
    let mut last: HashMap<String, usize> = HashMap::new();
    for seen in crm.ok() {
        let Some((who, n)) = name(&seen) else { continue };
        let key = seen.header("idempotency-key").unwrap().to_owned();
        let known = keys.contains_key(&(who.clone(), n));
        assert_eq!(
            *keys.entry((who.clone(), n)).or_insert_with(|| key.clone()),
            key,
            "a copy under another key"
        );
        if !known {
            let before = last.insert(who.clone(), n);
            assert!(before.is_none_or(|before| before < n), "{who}: {n} came after {before:?}");
        }
    }
    until(30, "the audit does not add up", || (hub.rows(&["audit"])[0]["adds_up"] == true).then_some(()));
}

#[test]
fn a_fleet_loses_nothing_when_its_database_restarts_and_its_connections_are_cut() {
    let mut server = PostgresServer::start();
    let proxy = Proxy::start(server.socket());
    server.database("cuts");
    let crm = Receiver::start();
    let url = server.behind(&proxy, "cuts");
    let refusals = Refusals::start();
    let mut mix = Mix::start(now_ms() as u64);
    let more = format!("{}{}", refusals.config, mix.config);
    let mut hubs: Vec<Hub> = (0..3).map(|_| hub_on(&url, &crm, &more)).collect();
    hubs.iter_mut().for_each(Hub::start);
    mix.send_to(&hubs[0], hubs.iter().map(|hub| hub.port).collect());
    let load = Load::start(&hubs.iter().map(|hub| hub.port).collect::<Vec<_>>());
    until(20, "no load", || (load.count() > 50).then_some(()));
    for n in 0..8 {
        proxy.cut();
        // Not a rhythm: in the middle of anything.
        std::thread::sleep(Duration::from_millis(37 + 113 * n));
    }
    load.serves_again(&crm, "eight cuts of all connections");
    mix.replay(hubs[2].port);
    server.restart();
    load.serves_again(&crm, "a restart of the database");
    mix.replay(hubs[0].port);
    server.killed_and_started();
    load.serves_again(&crm, "a kill of the database");
    let (acknowledged, mixed) = (load.end(), mix.end());
    check(&hubs[2], &crm, &acknowledged);
    let opened: Vec<_> =
        acknowledged.iter().filter_map(|one| Some((one.strip_suffix(" 0")?.to_owned(), 1))).collect();
    mix.check(&hubs[2], &opened, &mixed);
    println!("{} dead letters were each told of once", refusals.check(&hubs[2]));
}

/// Cut off past its lease while an exchange of it is under way: the answer comes, and it may not settle it.
#[test]
fn a_process_that_is_cut_off_past_its_lease_settles_nothing_afterwards() {
    let server = PostgresServer::start();
    let direct = server.database("fenced");
    let proxy = Proxy::start(server.socket());
    let crm = Receiver::start();
    let mut cut_off = hub_on(&server.behind(&proxy, "fenced"), &crm, "");
    cut_off.start();
    until(20, "it does not serve", || cut_off.log().contains("served by this process").then_some(()));
    let mut other = hub_on(&direct, &crm, "");
    other.start();
    // Answered late, but before the exchange is given up: its process is cut off meanwhile.
    crm.answer(|_| (200, vec![(DELAY_MS.to_owned(), "1500".to_owned())], "{}".to_owned()));
    let row = |hub: &Hub| hub.rows(&["deliveries", "list", "--limit", "1"]).pop();
    let mut who = String::new();
    for n in 0..5 {
        who = format!("a{n}@example.com");
        let before = crm.seen().len();
        assert_eq!(send(&cut_off, &event("open", &who, AT)).status, 200);
        until(20, "no exchange", || (crm.seen().len() > before).then_some(()));
        proxy.silence();
        if row(&other).is_some_and(|row| row["state"] == "pending") {
            break;
        }
        // This machine was slow, and it was settled before: once more.
        proxy.speak();
        assert!(n < 4, "five times it was settled before it was cut off");
    }
    until(40, "nobody took over", || other.log().contains("served by this process").then_some(()));
    let settled =
        until(30, "the other did not deliver", || row(&other).filter(|row| row["state"] == "delivered"));
    let id = settled["id"].as_str().unwrap();
    let attempts = other.rows(&["deliveries", "show", id]).remove(0);
    // What it wrote while it was cut off gets through now, and is refused.
    proxy.speak();
    until(90, "it does not come back", || {
        let reply = mailspan_testkit::get(cut_off.port, "/readyz").ok()?;
        (reply.status == 200).then_some(())
    });
    assert_eq!(send(&cut_off, &event("open", "b@example.com", AT)).status, 200);
    until(30, "not delivered", || crm.ok_about("b@example.com").pop());
    assert!(
        cut_off.log().contains("served by another process now"),
        "it does not know that it lost its lease"
    );
    assert_eq!(other.rows(&["deliveries", "show", id])[0], attempts, "it was settled twice");
    let keys: HashSet<String> =
        crm.ok_about(&who).iter().map(|seen| seen.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!(keys.len(), 1, "a copy under another key");
    assert_eq!(other.rows(&["audit"])[0]["adds_up"], true);
}

//! The sync, which no kill can show: a kill leaves the kernel's memory, a power cut does not. The hub runs
//! on a disk that forgets what was not synced (`testkit::shim`).

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailspan_core::SplitMix64;
use mailspan_testkit::shim::{self, Shim, Step};
use mailspan_testkit::{Hub, Receiver, now_ms, post, until};
use serde_json::Value;

use crate::support::{AT, BINARY, SECRET, config, event, signed};

const SENDERS: usize = 4;

fn hub_on(shim: &Shim, env: &[(&str, &str)]) -> (Hub, Receiver) {
    let crm = Receiver::start();
    let quick = "retry = [\"100ms\", \"200ms\", \"400ms\"]\nrate = \"1000/1s\"\nconcurrency = 8";
    let mut hub = Hub::new(BINARY, &config(&crm, quick, ""), &[("MAILTARGET_SECRET", SECRET)]);
    shim.preload(&mut hub);
    env.iter().for_each(|(name, value)| hub.set_env(name, value));
    hub.start();
    (hub, crm)
}

/// Threads that send events, one person each, until they are stopped; who was answered 200.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(port: u16, label: &str) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let sender = |sender: usize| {
            let (stop, acknowledged, label) = (stop.clone(), acknowledged.clone(), label.to_owned());
            std::thread::spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let who = format!("{label}{sender}-{n}@example.com");
                    let body = event("open", &who, AT).to_string();
                    let mac = signed(SECRET, body.as_bytes());
                    match post(port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], body.as_bytes()) {
                        Ok(reply) if reply.status == 200 => acknowledged.lock().unwrap().push(who),
                        _ => std::thread::sleep(Duration::from_millis(20)),
                    }
                }
            })
        };
        let threads = (0..SENDERS).map(sender).collect();
        Load { stop, acknowledged, threads }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::try_unwrap(self.acknowledged).unwrap().into_inner().unwrap()
    }
}

fn accepted(hub: &Hub) -> u64 {
    hub.rows(&["audit"])[0]["accepted"].as_u64().expect("audit says how many events were accepted")
}

#[test]
fn what_was_acknowledged_survives_power_cuts_under_load() {
    let seed = now_ms() as u64;
    println!("seed {seed}");
    let mut random = SplitMix64(seed);
    let shim = shim::build();
    let (mut hub, crm) = hub_on(&shim, &[]);
    let load = Load::start(hub.port, "p");
    for _ in 0..4 {
        let before = load.count();
        until(30, "nothing is acknowledged", || (load.count() > before + 10).then_some(()));
        std::thread::sleep(Duration::from_millis(random.below(700)));
        shim.power_cut(&mut hub);
        hub.start();
    }
    let acknowledged = load.end();
    let kept = accepted(&hub);
    assert!(
        kept >= acknowledged.len() as u64,
        "{kept} events are kept of {} acknowledged",
        acknowledged.len()
    );
    let arrived = || -> HashSet<String> { crm.ok().iter().map(|seen| seen.subject()).collect() };
    until(60, "acknowledged events never arrived", || {
        let got = arrived();
        acknowledged.iter().all(|who| got.contains(who)).then_some(())
    });
    until(20, "the audit does not add up", || (hub.rows(&["audit"])[0]["adds_up"] == true).then_some(()));
}

/// The test above can fail: on a disk that lies about syncs, acknowledged events are gone.
#[test]
fn a_disk_that_lies_about_syncs_loses_what_was_acknowledged() {
    let shim = shim::build();
    let (mut hub, _crm) = hub_on(&shim, &[]);
    hub.kill();
    hub.set_env("MAILSPAN_SHIM_SWALLOW", "1");
    hub.start();
    let load = Load::start(hub.port, "lost");
    until(30, "nothing is acknowledged", || (load.count() > 20).then_some(()));
    shim.power_cut(&mut hub);
    let acknowledged = load.end();
    hub.start();
    let kept = accepted(&hub);
    assert!(
        kept < acknowledged.len() as u64,
        "all of {} acknowledged events are kept: the shim does not see syncs that are missing",
        acknowledged.len()
    );
}

/// An event that was answered 200: its id, and the sender's port. The stream is kept, so that no other
/// sender gets the port.
struct Answered {
    id: String,
    port: u16,
    _stream: TcpStream,
}

fn send(hub_port: u16, who: &str) -> Answered {
    let body = event("open", who, AT).to_string();
    let mac = signed(SECRET, body.as_bytes());
    let mut stream = TcpStream::connect(("127.0.0.1", hub_port)).unwrap();
    let head = format!(
        "POST /in/mailtarget HTTP/1.1\r\nhost: hub\r\nconnection: close\r\nx-mailtarget-signature: {mac}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let said: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let id = said["ids"][0].as_str().expect("the answer names the event").to_owned();
    Answered { id, port: stream.local_addr().unwrap().port(), _stream: stream }
}

/// Where an event's id stands first in SQLite's log: in the commit that accepted it.
fn offset_in(log: &[u8], id: &str) -> usize {
    let id = u128::from_str_radix(&id.replace('-', ""), 16).unwrap().to_be_bytes();
    let found = log.windows(id.len()).position(|window| window == id);
    found.expect("the id of an accepted event stands in the log as 16 bytes")
}

/// Sends from several threads at once; for each event, what is wrong with the order of its commit, the
/// sync and its answer.
fn orders(shim: &Shim, hub: &Hub) -> Vec<Result<(), String>> {
    let port = hub.port;
    let from = shim.order().steps.len();
    let sender = |sender: usize| {
        std::thread::spawn(move || {
            (0..15).map(|n| send(port, &format!("o{sender}-{n}@example.com"))).collect::<Vec<_>>()
        })
    };
    let threads: Vec<_> = (0..SENDERS).map(sender).collect();
    let answered: Vec<Answered> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let log = std::fs::read(hub.folder().join("hub.db-wal")).unwrap();
    let mut order = shim.order();
    order.steps.drain(..from);
    let again = order.steps.iter().any(|step| matches!(step, Step::Write { at: 0, .. }));
    assert!(!again, "SQLite started its log again during the test: send fewer events");
    answered
        .iter()
        .map(|event| order.written_synced_answered(offset_in(&log, &event.id), event.port))
        .collect()
}

#[test]
fn no_200_is_sent_before_the_sync_that_follows_its_commit() {
    let shim = shim::build();
    let (hub, _crm) = hub_on(&shim, &[]);
    let orders = orders(&shim, &hub);
    for (at, order) in orders.iter().enumerate() {
        assert_eq!(*order, Ok(()), "event {at} was answered too early");
    }
    assert_eq!(orders.len(), 15 * SENDERS);
}

/// The test above can fail: where no sync is done, none is seen.
#[test]
fn an_answer_without_a_sync_is_seen() {
    let shim = shim::build();
    let (hub, _crm) = hub_on(&shim, &[("MAILSPAN_SHIM_SWALLOW", "1")]);
    assert!(orders(&shim, &hub).iter().all(Result::is_err), "answers without a sync pass for good ones");
}

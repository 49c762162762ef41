//! Load with a known order, and receivers with faults that remember what they acted on.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailspan_core::{Millis, SplitMix64};
use mailspan_testkit::{DELAY_MS, Receiver, Seen, post};
use serde_json::Value;

use crate::support::{SECRET, event, signed};

const SENDERS: u64 = 3;
/// Of each sender; their events are in order.
const PERSONS: u64 = 10;
/// Between two events of a sender: what two receivers with faults can take.
const PAUSE: Duration = Duration::from_millis(12);
/// 2026-01-01T00:00:00Z.
pub const BASE: i64 = 1_767_225_600_000;

/// A person and the number of one of its events.
pub type Sent = (String, u64);

/// Threads that send events until they are told to stop; each is sent until it is acknowledged.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Sent>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    pub fn start(port: u16) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let sender = |sender: u64| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                for n in PERSONS.. {
                    let sent = (format!("p{sender}-{}@example.com", n % PERSONS), n / PERSONS);
                    while !send(port, &sent) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    acknowledged.lock().unwrap().push(sent);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::sleep(PAUSE);
                }
            })
        };
        let threads = (0..SENDERS).map(sender).collect();
        Load { stop, acknowledged, threads }
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    pub fn end(&mut self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        self.acknowledged.lock().unwrap().clone()
    }
}

fn send(port: u16, (who, n): &Sent) -> bool {
    let body = event("open", who, &Millis(BASE + 1_000 * *n as i64).rfc3339()).to_string();
    let mac = signed(SECRET, body.as_bytes());
    let reply = post(port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], body.as_bytes());
    reply.is_ok_and(|reply| reply.status == 200)
}

/// A request that was acted on, whether or not its answer arrived.
struct Act {
    sent: Sent,
    key: String,
    /// When the answer leaves; nothing: never.
    answer_ms: Option<i64>,
}

/// A place on a tape.
#[derive(Clone, Copy, Default)]
pub struct Mark {
    acts: usize,
    came: usize,
}

/// A receiver and what it acted on. Of a hundred requests 10 are answered 503, 5 are acted on and never
/// answered, 12 are answered late.
pub struct Tape {
    pub receiver: Receiver,
    healed: Arc<AtomicBool>,
    acts: Arc<Mutex<Vec<Act>>>,
    /// Key and time of all that came, what was answered 503 included.
    came: Arc<Mutex<Vec<(String, i64)>>>,
}

impl Tape {
    pub fn start(seed: u64) -> Tape {
        let (receiver, acts) = (Receiver::start(), Arc::new(Mutex::new(Vec::new())));
        let came = Arc::new(Mutex::new(Vec::new()));
        let healed = Arc::new(AtomicBool::new(false));
        let (mut random, kept, well) = (SplitMix64(seed), acts.clone(), healed.clone());
        let coming = came.clone();
        receiver.answer(move |seen| {
            let keys = items(seen).into_iter().map(|(_, key)| (key, seen.at_ms));
            coming.lock().unwrap().extend(keys);
            let draw = if well.load(Ordering::Relaxed) { 99 } else { random.below(100) };
            if draw < 10 {
                return (503, Vec::new(), "{}".to_owned());
            }
            let late = (15..27).contains(&draw).then(|| 50 + random.below(300));
            let answer_ms = (draw >= 15).then(|| seen.at_ms + late.unwrap_or(0) as i64);
            let acts = items(seen).into_iter().map(|(sent, key)| Act { sent, key, answer_ms });
            kept.lock().unwrap().extend(acts);
            let headers = late.map(|ms| (DELAY_MS.to_owned(), ms.to_string())).into_iter().collect();
            (if draw < 15 { 0 } else { 200 }, headers, "{}".to_owned())
        });
        Tape { receiver, healed, acts, came }
    }

    /// No faults from now on: what waits for a breaker or a slow start gets through in time.
    pub fn heal(&self) {
        self.healed.store(true, Ordering::Relaxed);
    }

    /// How many acts there were, and how many requests came.
    pub fn mark(&self) -> Mark {
        Mark { acts: self.acts.lock().unwrap().len(), came: self.came.lock().unwrap().len() }
    }

    /// Keys of what was acted on after so many acts (what a hub before it sent is not its own) and not yet
    /// answered when the hub, which died then at the latest, was gone.
    pub fn in_flight(&self, mark: Mark, died_ms: i64) -> Vec<String> {
        let acts = self.acts.lock().unwrap();
        let late = |act: &&Act| act.answer_ms.is_some_and(|at| at > died_ms);
        let keys = acts[mark.acts..].iter().filter(late).map(|act| act.key.clone());
        keys.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// When a key came again, for whatever answer.
    pub fn came_after(&self, mark: Mark, key: &str) -> Option<i64> {
        self.came.lock().unwrap()[mark.came..].iter().find(|(other, _)| other == key).map(|(_, at)| *at)
    }

    /// What was acted on, with its key, in order.
    pub fn acts(&self) -> Vec<(Sent, String)> {
        self.acts.lock().unwrap().iter().map(|act| (act.sent.clone(), act.key.clone())).collect()
    }

    pub fn has_all(&self, wanted: &[Sent]) -> bool {
        let acts = self.acts.lock().unwrap();
        let acted: BTreeSet<&Sent> = acts.iter().map(|act| &act.sent).collect();
        wanted.iter().all(|sent| acted.contains(sent))
    }

    /// First acts are in order for each person, and repeats have the key of the first. How many repeats.
    pub fn check(&self) -> u64 {
        let acts = self.acts.lock().unwrap();
        let (mut keys, mut last) = (HashMap::new(), HashMap::new());
        let mut repeats = 0;
        for act in acts.iter() {
            let (who, n) = &act.sent;
            match keys.get(&act.sent) {
                Some(key) => {
                    assert_eq!(*key, &act.key, "{who}: event {n} came again under another key");
                    repeats += 1;
                }
                None => {
                    let before = last.insert(who, *n).unwrap_or(0);
                    assert_eq!(*n, before + 1, "{who}: event {n} came after event {before}");
                    keys.insert(act.sent.clone(), &act.key);
                }
            }
        }
        let distinct: BTreeSet<&&String> = keys.values().collect();
        assert_eq!(distinct.len(), keys.len(), "two events share an idempotency key");
        repeats
    }
}

/// What a request is about, with the key of each: a batch has the ids of its items, else the request has one.
fn items(seen: &Seen) -> Vec<(Sent, String)> {
    let body = seen.json();
    match body.as_array() {
        Some(items) => {
            let id = |item: &Value| item["id"].as_str().unwrap().to_owned();
            items.iter().map(|item| (sent_of(item), id(item))).collect()
        }
        None => vec![(sent_of(&body), seen.header("idempotency-key").unwrap().to_owned())],
    }
}

/// Of an event, or of the newest value of a profile.
fn sent_of(item: &Value) -> Sent {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let who = text(&item["subject"]).or_else(|| text(&item["person"]["address"]));
    let happened = text(&item["time"]).and_then(|time| Millis::parse_rfc3339(&time));
    let time = happened.or_else(|| item["fields"]["last_delivered_at"].as_i64().map(Millis));
    let (Some(who), Some(time)) = (who, time) else { panic!("what is this about? {item}") };
    (who, ((time.0 - BASE) / 1_000) as u64)
}

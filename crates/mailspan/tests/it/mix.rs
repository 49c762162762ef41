//! What else a hub does while it is killed: opt-outs and opt-ins of the same persons, updates that are coalesced,
//! batches, and replays of what was delivered. Each has a receiver with the faults of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailspan_core::Millis;
use mailspan_testkit::{Hub, post, until};
use serde_json::json;

use crate::replay::id_of;
use crate::support::{SECRET, event, signed};
use crate::tape::{BASE, Sent, Tape};

/// Whose consent changes, and whose profile.
const PERSONS: [&str; 3] = ["ida", "jon", "kim"];
/// Between two events.
const PAUSE: Duration = Duration::from_millis(25);
/// Of a profile, in one request.
const UPDATES: u64 = 4;
/// After the end was asked for.
const LAST_TRIES: usize = 200;
/// Of how much a replay is made: what was delivered lately.
const REPLAYED: &str = "15s";

/// Routes and destinations; the batches are of persons whose address ends so.
fn config(batches: u16, folds: u16, consents: u16) -> String {
    let destination = |name: &str, port: u16, more: &str| {
        format!(
            "[destinations.{name}]\nkind = \"http\"\nurl = \"http://127.0.0.1:{port}/\"\ntimeout = \"2s\"\n\
             retry = {{ calendar = [\"200ms\"], for = \"30d\" }}\n{more}\n\n"
        )
    };
    let (slow, quick) = ("rate = \"5/1s\"\ncoalesce = true", "rate = \"1000/1s\"");
    [
        destination("batches", batches, &format!("{quick}\nbatch = {{ max = 8, wait = \"20ms\" }}")),
        destination("folds", folds, slow),
        destination("consents", consents, quick),
        format!(
            "[[routes]]\nname = \"batched\"\nfrom = [\"mailtarget\"]\nevents = [\"email.opened\"]\n\
             to = [\"batches\"]\nwhen = '{}'\n\n\
             [[routes]]\nname = \"folded\"\nfrom = [\"mailtarget\"]\nevents = [\"email.delivered\"]\n\
             map = \"crm\"\nto = [\"folds\"]\n\n\
             [[routes]]\nname = \"consent\"\nfrom = [\"app\"]\nto = [\"consents\"]\n\n",
            BATCHED.map(|end| format!("ends_with(string!(.subject), \"{end}\")")).join(" || ")
        ),
    ]
    .concat()
}

/// Two of ten persons, who are not refused anywhere.
const BATCHED: [&str; 2] = ["3@example.com", "4@example.com"];

pub struct Mix {
    pub config: String,
    batches: Tape,
    folds: Tape,
    consents: Tape,
    load: Option<Load>,
    replays: usize,
    /// Updates that were seen beside their carriers.
    carried: BTreeSet<String>,
}

/// What was acknowledged, in order: opt-outs have even numbers.
#[derive(Default)]
struct Told {
    consents: Mutex<Vec<Sent>>,
    folds: Mutex<Vec<Sent>>,
    late: AtomicUsize,
}

struct Load {
    stop: Arc<AtomicBool>,
    told: Arc<Told>,
    thread: std::thread::JoinHandle<()>,
    key: String,
}

impl Mix {
    pub fn start(seed: u64) -> Mix {
        let [batches, folds, consents] = [3, 4, 5].map(|n| Tape::start(seed ^ n));
        let config = config(batches.receiver.port, folds.receiver.port, consents.receiver.port);
        Mix { config, batches, folds, consents, load: None, replays: 0, carried: BTreeSet::new() }
    }

    /// Sends to these hubs in turn, to the next where one does not answer, until told to end.
    pub fn send_to(&mut self, hub: &Hub, ports: Vec<u16>) {
        let scopes = ["--scope", "events:write", "--scope", "operate"];
        let made = &hub.rows(&[&["keys", "create"][..], &scopes].concat())[0];
        let key = format!("Bearer {}", made["key"].as_str().unwrap());
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Told::default()));
        let door = Door { ports, key: key.clone(), stop: stop.clone() };
        let heard = told.clone();
        let thread = std::thread::spawn(move || door.send_all(&heard));
        self.load = Some(Load { stop, told, thread, key });
    }

    pub fn acknowledged(&self) -> usize {
        let told = self.load.as_ref().map(|load| &load.told);
        told.map_or(0, |told| told.consents.lock().unwrap().len() + told.folds.lock().unwrap().len())
    }

    /// What was delivered lately is sent again, by a job that the next kill finds under way.
    pub fn replay(&mut self, port: u16) {
        let Some(load) = &self.load else { return };
        let (destination, states) = match self.replays % 2 {
            0 => ("batches", json!(["delivered"])),
            _ => ("consents", json!(["delivered", "skipped"])),
        };
        let ask = json!({ "destination": destination, "states": states, "again": true, "since": REPLAYED })
            .to_string();
        let headers = [("authorization", load.key.as_str()), ("content-type", "application/json")];
        if let Ok(reply) = post(port, "/v1/replays", &headers, ask.as_bytes()) {
            assert!(reply.status == 202 || reply.status == 503, "{} {}", reply.status, reply.text());
            self.replays += usize::from(reply.status == 202);
        }
    }

    /// The receivers are well from now on, and nothing new is sent.
    pub fn end(&mut self) -> Acknowledged {
        let load = self.load.take().unwrap();
        load.stop.store(true, Ordering::Relaxed);
        load.thread.join().unwrap();
        [&self.batches, &self.folds, &self.consents].into_iter().for_each(Tape::heal);
        let take = |list: &Mutex<Vec<Sent>>| std::mem::take(&mut *list.lock().unwrap());
        let late = load.told.late.load(Ordering::Relaxed);
        Acknowledged { consents: take(&load.told.consents), folds: take(&load.told.folds), late }
    }

    /// Waits for the replays, then judges what arrived. `opened`: what else was acknowledged.
    pub fn check(&mut self, hub: &Hub, opened: &[Sent], told: &Acknowledged) {
        let batched = self.check_batches(opened);
        let folded = self.check_folds(hub, &told.folds);
        let consents = self.check_consents(told);
        until(60, "a replay does not end", || {
            hub.rows(&["jobs", "list"]).iter().all(|job| job["state"] == "done").then_some(())
        });
        let jobs = hub.rows(&["jobs", "list"]);
        assert!(jobs.len() >= self.replays, "{} of {} jobs are there", jobs.len(), self.replays);
        let again: u64 = jobs.iter().filter_map(|job| job["done"].as_u64()).sum();
        assert!(jobs.is_empty() || again > 0, "the replays found nothing: {jobs:?}");
        println!("{batched}, {folded}, {consents}; {} replays sent {again} again", jobs.len());
    }

    /// Each event arrived, in order for its person, and every time under the id of the first.
    fn check_batches(&self, opened: &[Sent]) -> String {
        let is_batched = |sent: &&Sent| BATCHED.iter().any(|end| sent.0.ends_with(end));
        let wanted: Vec<Sent> = opened.iter().filter(is_batched).cloned().collect();
        until(90, "acknowledged events of batches never arrived", || {
            self.batches.has_all(&wanted).then_some(())
        });
        let repeats = self.batches.check();
        format!("{} events arrived in batches with {repeats} repeats", wanted.len())
    }

    /// The newest state arrived, and none before it was taken back.
    fn check_folds(&mut self, hub: &Hub, told: &[Sent]) -> String {
        let newest: BTreeMap<&str, u64> = told.iter().map(|(who, n)| (who.as_str(), *n)).collect();
        until(60, "the last update of a profile never arrived", || {
            let acts = self.folds.acts();
            newest
                .iter()
                .all(|(who, n)| acts.iter().any(|(sent, _)| sent.0 == *who && sent.1 >= *n))
                .then_some(())
        });
        assert_eq!(taken_back(&self.folds.acts()), None);
        self.look_at_carried(hub);
        assert!(!self.carried.is_empty(), "nothing was coalesced of {} updates", told.len());
        format!("{} updates with {} carried ones beside their carriers", told.len(), self.carried.len())
    }

    /// Whoever was carried names a carrier that was delivered and is about the same person. To be called now and then,
    /// as retention drops them.
    pub fn look_at_carried(&mut self, hub: &Hub) {
        let rows =
            |state: &str| hub.rows(&["deliveries", "list", "--destination", "folds", "--state", state]);
        let coalesced = rows("coalesced");
        let carriers: BTreeMap<String, String> =
            rows("delivered").iter().map(|row| (id_of(row), row["subject"].to_string())).collect();
        for row in coalesced {
            let carrier = row["carried_by"].as_str().unwrap_or_else(|| panic!("it names nobody: {row}"));
            // What is older than retention keeps goes page by page.
            if let Some(subject) = carriers.get(carrier) {
                assert_eq!(*subject, row["subject"].to_string(), "carried by another person's: {row}");
                self.carried.insert(id_of(&row));
            }
        }
    }

    /// No opt-in after a later opt-out, whatever came again; each opt-out arrived, and the opt-in that is the last
    /// word.
    fn check_consents(&self, told: &Acknowledged) -> String {
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        told.consents.iter().for_each(|(who, n)| {
            let last = newest.entry(who).or_default();
            *last = (*last).max(*n);
        });
        let is_last = |(who, n): &&Sent| newest.get(who.as_str()) == Some(n);
        let must = |sent: &&Sent| is_out(sent) || is_last(sent);
        let wanted: Vec<Sent> = told.consents.iter().filter(must).cloned().collect();
        until(60, "a word on consent never arrived", || self.consents.has_all(&wanted).then_some(()));
        let acts = self.consents.acts();
        assert_eq!(overtaken(&acts), None);
        let mut keys: BTreeMap<Sent, String> = BTreeMap::new();
        for (sent, key) in acts {
            let known = keys.entry(sent.clone()).or_insert_with(|| key.clone());
            assert_eq!(*known, key, "{sent:?} came again under another key");
        }
        let distinct: BTreeSet<&String> = keys.values().collect();
        assert_eq!(distinct.len(), keys.len(), "two events share an idempotency key");
        assert!(keys.keys().any(|sent| !is_out(sent)) && told.late > 0, "no opt-in was tried");
        format!("{} words on consent, {} of them late opt-ins", told.consents.len(), told.late)
    }
}

/// A profile that went back to an older value.
fn taken_back(acts: &[(Sent, String)]) -> Option<String> {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    acts.iter().find_map(|((who, n), _)| {
        let before = last.insert(who, *n).unwrap_or(0);
        (*n < before).then(|| format!("{who}: the profile of {before} became that of {n}"))
    })
}

/// An opt-in that arrived after an opt-out that is newer.
fn overtaken(acts: &[(Sent, String)]) -> Option<String> {
    let mut out: BTreeMap<&str, u64> = BTreeMap::new();
    acts.iter().find_map(|(sent, _)| {
        let last = out.entry(&sent.0).or_default();
        if is_out(sent) {
            *last = (*last).max(sent.1);
        }
        (sent.1 < *last && !is_out(sent)).then(|| format!("{sent:?}: an opt-in after the opt-out {last}"))
    })
}

#[test]
fn what_is_taken_back_or_overtaken_is_found() {
    let acts = |list: &[(&str, u64)]| -> Vec<(Sent, String)> {
        list.iter().map(|(who, n)| (((*who).to_owned(), *n), String::new())).collect()
    };
    assert_eq!(taken_back(&acts(&[("a", 4), ("b", 1), ("a", 4), ("a", 7), ("b", 2)])), None);
    assert!(taken_back(&acts(&[("a", 4), ("b", 9), ("a", 3)])).is_some());
    // 6 and 10 are opt-outs, 5 came late, 7 and 11 took them back.
    assert_eq!(overtaken(&acts(&[("a", 6), ("b", 10), ("a", 7), ("b", 11), ("a", 6), ("a", 7)])), None);
    assert!(overtaken(&acts(&[("a", 6), ("a", 5)])).is_some());
    assert!(overtaken(&acts(&[("a", 6), ("a", 7), ("a", 10), ("a", 7)])).is_some());
}

/// What the hubs acknowledged; `late` of the opt-ins are older than the opt-out before them.
pub struct Acknowledged {
    consents: Vec<Sent>,
    folds: Vec<Sent>,
    late: usize,
}

/// Numbers by four: an opt-out, and behind it the opt-in that took it back; before it the one that came late.
fn is_out(sent: &Sent) -> bool {
    sent.1 % 4 == 2
}

/// Where events are sent to.
struct Door {
    ports: Vec<u16>,
    key: String,
    stop: Arc<AtomicBool>,
}

impl Door {
    fn send_all(&self, told: &Told) {
        for round in 1.. {
            for who in PERSONS {
                let name = format!("{who}@mix.example.com");
                if !self.consents(told, &name, 4 * round) || !self.fold(told, &name, round) {
                    return;
                }
            }
        }
    }

    /// Opt-out, sometimes an opt-in that is older and comes late, then an opt-in that stands. False at the end, which
    /// comes after a whole turn: the last word is known.
    fn consents(&self, told: &Told, who: &str, n: u64) -> bool {
        let late = n.is_multiple_of(3);
        for (n, is_sent) in [(n + 2, true), (n + 1, late), (n + 3, true)] {
            if !is_sent {
                continue;
            }
            let sent = (who.to_owned(), n);
            let event_type = if is_out(&sent) { "contact.unsubscribed" } else { "contact.subscribed" };
            let body = json!({ "type": event_type, "subject": who, "time": at(n), "data": {} }).to_string();
            let once = format!("{who}-{n}");
            let headers = [
                ("authorization", self.key.as_str()),
                ("content-type", "application/json"),
                ("idempotency-key", once.as_str()),
            ];
            if !self.until_taken(n as usize, "/v1/events", &headers, &body) {
                return false;
            }
            told.consents.lock().unwrap().push(sent);
            told.late.fetch_add(usize::from(n % 4 == 1), Ordering::Relaxed);
        }
        true
    }

    /// Some updates at once: those that wait for the first go together.
    fn fold(&self, told: &Told, who: &str, round: u64) -> bool {
        let updates: Vec<u64> = (UPDATES * round..UPDATES * (round + 1)).collect();
        let body =
            json!(updates.iter().map(|n| event("delivery", who, &at(*n))).collect::<Vec<_>>()).to_string();
        let mac = signed(SECRET, body.as_bytes());
        let is_taken =
            self.until_taken(round as usize, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], &body);
        if is_taken {
            let mut folds = told.folds.lock().unwrap();
            folds.extend(updates.into_iter().map(|n| (who.to_owned(), n)));
        }
        is_taken && !self.stop.load(Ordering::Relaxed)
    }

    /// At the end the hubs are well, and what may be kept already is not left without an answer: false where they are
    /// silent all the same.
    fn until_taken(&self, turn: usize, path: &str, headers: &[(&str, &str)], body: &str) -> bool {
        let mut left = LAST_TRIES;
        for port in self.ports.iter().cycle().skip(turn) {
            let reply = post(*port, path, headers, body.as_bytes());
            if reply.is_ok_and(|reply| reply.status < 300) {
                break;
            }
            left -= usize::from(self.stop.load(Ordering::Relaxed));
            if left == 0 {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(PAUSE);
        true
    }
}

/// The time of an event with this number.
pub fn at(n: u64) -> String {
    Millis(BASE + 1_000 * n as i64).rfc3339()
}

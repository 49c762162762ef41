//! Random histories of arrivals, repeats, retention, restarts and writes that fail, against a model that keeps
//! every key with its time.

use std::collections::HashMap;

use mailspan_core::limits::SEGMENT_AGE_MS_MAX;
use mailspan_core::{Digest, Event, EventId, EventType, Millis, Name, RawValue, Seq, SplitMix64, Subject};
use mailspan_engine::Fence;
use proptest::prelude::*;

use super::Journal;
use super::segments::{CLOSED, DROPPED, OPEN, Segments};
use crate::prepare::prepare;
use crate::write::{Arrived, Keep, Receipt, Routed, Write, Wrote};

const KEYS_MAX: i64 = 12;
/// Keys of a request: a segment is closed between two requests, so it can hold so many more, less one.
const REQUEST_KEYS_MAX: u64 = 3;
const HOUR: i64 = 3_600_000;
const WINDOW: i64 = 72 * HOUR;

struct History {
    journal: Journal,
    now: i64,
    /// When each key was last taken for new.
    kept: HashMap<u64, i64>,
    keys: u64,
    events: u128,
    duplicates: u64,
}

impl History {
    fn start() -> History {
        let journal = Journal::in_memory(1, KEYS_MAX).unwrap();
        History { journal, now: 1_000, kept: HashMap::new(), keys: 0, events: 0, duplicates: 0 }
    }

    fn step(&mut self, random: &mut SplitMix64) {
        self.now +=
            if random.chance(20) { random.below(30) as i64 * HOUR } else { random.below(1_000) as i64 };
        match random.below(20) {
            0 => self.retain(),
            1 => self.one_step_of_retention(),
            2 => self.restart(),
            3 => self.beside_a_write_that_fails(random),
            _ => self.arrive(random),
        }
        self.check_tables();
    }

    /// New keys, and repeats of any age.
    fn numbers(&mut self, random: &mut SplitMix64) -> Vec<u64> {
        let mut numbers = vec![];
        for _ in 0..=random.below(REQUEST_KEYS_MAX) {
            if self.keys == 0 || random.chance(60) {
                self.keys += 1;
                numbers.push(self.keys);
            } else {
                numbers.push(1 + random.below(self.keys));
            }
        }
        numbers
    }

    fn arrive(&mut self, random: &mut SplitMix64) {
        let numbers = self.numbers(random);
        let write = self.write(&numbers);
        let wrote = self.journal.write(write).unwrap();
        self.judge(&numbers, &wrote);
    }

    /// The group is rolled back and run again one by one: a segment that it opened or closed is opened or closed
    /// once.
    fn beside_a_write_that_fails(&mut self, random: &mut SplitMix64) {
        let numbers = self.numbers(random);
        let good = self.write(&numbers);
        let bad = Write::Route { fence: Fence(77), routed: vec![unknown()] };
        let key = self.journal.base.key.clone();
        let results = self.journal.group(&[prepare(good, &key), prepare(bad, &key)]);
        assert!(results[1].is_err());
        self.judge(&numbers, results[0].as_ref().unwrap());
    }

    /// What must be known is a duplicate, what was never seen is new, and the rest may be either.
    fn judge(&mut self, numbers: &[u64], wrote: &Wrote) {
        let Wrote::Accepted { accepted, .. } = wrote else { panic!("{wrote:?}") };
        let ids = &accepted.ids;
        let first = self.events - numbers.len() as u128;
        for (place, number) in numbers.iter().enumerate() {
            let is_new = ids.contains(&EventId(first + place as u128));
            match self.kept.get(number) {
                None => assert!(is_new, "key {number} was never seen and was taken for a repeat"),
                Some(at) if self.now - at <= WINDOW => {
                    assert!(!is_new, "key {number} came {} ms ago and was not known", self.now - at);
                }
                Some(_) => {}
            }
            if is_new {
                self.kept.insert(*number, self.now);
            }
        }
        assert_eq!(accepted.duplicates as usize + ids.len(), numbers.len());
        self.duplicates += accepted.duplicates;
    }

    fn retention(&mut self) -> usize {
        let (ever, dedupe_ms) = (i64::MAX / 4, WINDOW);
        let keep = Keep { now: Millis(self.now), requests_ms: ever, events_ms: ever, dedupe_ms };
        match self.journal.write(Write::Retain(keep)).unwrap() {
            Wrote::Retained { rows } => rows,
            other => panic!("{other:?}"),
        }
    }

    fn retain(&mut self) {
        while self.retention() > 0 {}
    }

    fn one_step_of_retention(&mut self) {
        self.retention();
    }

    fn restart(&mut self) {
        self.journal.segments = Segments::read(&self.journal.base.conn, KEYS_MAX).unwrap();
    }

    fn write(&mut self, numbers: &[u64]) -> Write {
        let arrivals = numbers.iter().map(|number| {
            self.events += 1;
            arrived(self.events - 1, *number)
        });
        Write::Accept(Box::new(Receipt {
            tenant: Name::default_tenant(),
            source: Name::new("s"),
            credential: String::new(),
            received_at: Millis(self.now),
            digest: Digest([0; 16]),
            packed: None,
            arrivals: arrivals.collect(),
            unreadable: vec![],
            idempotency: None,
            round: None,
            say: Vec::new(),
        }))
    }

    fn count(&self, sql: &str) -> i64 {
        self.journal.base.conn.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Segments are bounded, at most one is open, and what was dropped is gone whole.
    fn check_tables(&self) {
        let open = self.count(&format!("SELECT count(*) FROM segments WHERE state = {OPEN}"));
        assert!(open <= 1, "{open} segments are open");
        let largest =
            "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM keys_seen GROUP BY segment)";
        assert!(self.count(largest) < KEYS_MAX + REQUEST_KEYS_MAX as i64);
        let left = format!(
            "SELECT count(*) FROM keys_seen WHERE segment NOT IN (SELECT id FROM segments WHERE state <> {DROPPED})"
        );
        assert_eq!(self.count(&left), 0, "keys of a segment that was dropped are left");
        let unfiltered = format!("SELECT count(*) FROM segments WHERE state = {CLOSED} AND filter IS NULL");
        assert_eq!(self.count(&unfiltered), 0, "a closed segment keeps its filter");
    }

    /// When all is older than the window, two rounds leave nothing: the first closes the open segment.
    fn forgets_all(&mut self) {
        for _ in 0..2 {
            self.now += WINDOW + SEGMENT_AGE_MS_MAX + 1;
            self.retain();
        }
        assert_eq!(self.count("SELECT count(*) FROM keys_seen"), 0);
        let numbers: Vec<u64> = (1..=self.keys).collect();
        let write = self.write(&numbers);
        let Wrote::Accepted { accepted, .. } = self.journal.write(write).unwrap() else { panic!() };
        assert_eq!(accepted.duplicates, 0, "what was forgotten is new");
        let audit = self.journal.audit().unwrap();
        assert!(audit.adds_up && audit.duplicates == self.duplicates, "{audit:?}");
    }
}

fn arrived(id: u128, number: u64) -> Arrived {
    let mut random = SplitMix64(number);
    let key = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
    Arrived { event: event(id), part: 0, dedupe: Some(Digest(key.to_be_bytes())), contact: None }
}

fn event(id: u128) -> Event {
    Event {
        seq: None,
        id: EventId(id),
        tenant: Name::default_tenant(),
        source: Name::new("s"),
        event_type: EventType::known("app.x"),
        subject: Subject::read(""),
        time: Millis(0),
        received_at: Millis(0),
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: RawValue::from_string("{}".to_owned()).unwrap().into(),
    }
}

/// An event that does not wait for the router.
fn unknown() -> Routed {
    let event = Event { seq: Some(Seq(i64::MAX)), ..event(u128::MAX) };
    Routed { times: mailspan_core::LastTimes::of(&event), event, to: vec![], opens: 0, clicks: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn repeats_within_the_window_are_known_and_segments_go_whole(seed in any::<u64>(), steps in 1..160usize) {
        let (mut history, mut random) = (History::start(), SplitMix64(seed));
        for _ in 0..steps {
            history.step(&mut random);
        }
        history.forgets_all();
    }
}

//! Random histories of offers, settlements and replays keep exactly one head a lane with work, and none without.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use mailspan_core::{
    Cause, Class, DestinationId, Digest, Event, EventId, EventType, Millis, Name, Offer, Outcome, Queue,
    RawValue, RouteId, Seq, Settlement, SplitMix64, State, Subject,
};
use mailspan_engine::Fence;
use mailspan_store::sqlite::Journal;
use mailspan_store::{Arrived, DeliveryFilter, DeliveryRow, NameKind, Receipt, Routed, Towards, Write};
use proptest::prelude::*;

const KINDS: [&str; 4] = ["email.opened", "email.bounced", "email.complained", "contact.unsubscribed"];

struct History {
    journal: Journal,
    route: RouteId,
    destination: DestinationId,
    events: i64,
    at: i64,
}

impl History {
    fn start() -> History {
        let mut journal = Journal::in_memory(1, 40).unwrap();
        let tenant = Name::default_tenant();
        let route = RouteId(journal.name(&tenant, NameKind::Route, &Name::new("r")).unwrap());
        let destination =
            DestinationId(journal.name(&tenant, NameKind::Destination, &Name::new("d")).unwrap());
        for name in ["router".to_owned(), format!("destination/{}", destination.0)] {
            let lease = Write::Lease { name, owner: 1, now: Millis(0), until: Millis(i64::MAX) };
            journal.write(lease).unwrap();
        }
        History { journal, route, destination, events: 0, at: 1 }
    }

    fn step(&mut self, random: &mut SplitMix64) {
        self.at += 1;
        match random.below(5) {
            0 | 1 => self.arrive(random),
            2 => self.replay(random),
            _ => self.settle(random),
        }
    }

    fn arrive(&mut self, random: &mut SplitMix64) {
        let subjects = ["a@b.co", "c@b.co", ""];
        for _ in 0..=random.below(3) {
            self.events += 1;
            let subject = subjects[random.below(3) as usize];
            let receipt = receipt(self.events, KINDS[random.below(4) as usize], subject, Millis(self.at));
            self.journal.write(Write::Accept(Box::new(receipt))).unwrap();
        }
        let (route, destination) = (self.route, self.destination);
        let routed = self.journal.unrouted(100).unwrap().into_iter().map(|event| Routed {
            times: mailspan_core::LastTimes::of(&event),
            to: vec![Towards {
                say: None,
                route,
                destination,
                class: event.event_type.class(),
                failed: None,
                ordered: true,
            }],
            event,
            opens: 0,
            clicks: 0,
        });
        let routed = routed.collect();
        self.journal.write(Write::Route { fence: Fence(1), routed }).unwrap();
    }

    fn replay(&mut self, random: &mut SplitMix64) {
        if self.events == 0 {
            return;
        }
        let offers = (0..=random.below(4)).map(|_| Offer {
            event: Seq(1 + random.below(self.events as u64) as i64),
            route: self.route,
            destination: self.destination,
            class: [Class::Consent, Class::Profile, Class::Activity][random.below(3) as usize],
            cause: Cause::Replay,
            ordered: true,
        });
        let offers = offers.collect();
        let again = random.chance(50);
        self.journal.write(Write::Offer { offers, again, at: Millis(self.at) }).unwrap();
    }

    /// Heads, and sometimes one that waits behind a head: an update that a newer one carried.
    fn settle(&mut self, random: &mut SplitMix64) {
        let mut settlements = vec![];
        for row in self.rows().iter().filter(|row| row.state == State::Pending) {
            if row.due.is_none() && !random.chance(10) {
                continue;
            }
            let outcome = outcome(row, random, self.at);
            let (delivery, attempts) = (row.id, row.attempts + 1);
            settlements.push(Settlement {
                delivery,
                outcome,
                attempts,
                crashes: 0,
                progress: vec![],
                attempt: None,
                hand_on: None,
            });
        }
        let (destination, at) = (self.destination, Millis(self.at));
        let settle =
            Write::Settle { say: vec![], destination, fence: Fence(1), settlements, attempts: vec![], at };
        self.journal.write(settle).unwrap();
    }

    fn rows(&self) -> Vec<DeliveryRow> {
        self.journal.deliveries(&DeliveryFilter { limit: 1_000, ..Default::default() }).unwrap()
    }

    fn check(&self) {
        let mut lanes: HashMap<(String, Class), (usize, usize)> = HashMap::new();
        for row in self.rows() {
            if row.state != State::Pending {
                assert_eq!(row.due, None, "what ended is never due: {row:?}");
                continue;
            }
            let person = row.subject.clone().unwrap_or_else(|| row.event_id.to_string());
            let (work, heads) = lanes.entry((person, row.class)).or_default();
            *work += 1;
            *heads += usize::from(row.due.is_some());
        }
        for (lane, (work, heads)) in lanes {
            assert_eq!(heads, 1, "{lane:?} has {work} pending and {heads} heads");
        }
        let audit = self.journal.audit().unwrap();
        assert!(audit.adds_up, "{audit:#?}");
    }
}

fn outcome(row: &DeliveryRow, random: &mut SplitMix64, at: i64) -> Outcome {
    let lower = [Class::Profile, Class::Activity][random.below(2) as usize];
    let due = Millis(at + random.below(100) as i64);
    match random.below(8) {
        0 => Outcome::Ended { state: State::Dead, reason: None },
        1 => Outcome::Ended { state: State::Skipped, reason: None },
        2 => Outcome::CarriedBy { delivery: row.id },
        3 => Outcome::Again { due, queue: Queue::Retry, class: row.class, reason: None },
        4 | 5 => Outcome::Again { due, queue: Queue::Retry, class: lower.max(row.class), reason: None },
        6 => Outcome::Progressed,
        _ => Outcome::Ended { state: State::Delivered, reason: None },
    }
}

fn receipt(n: i64, event_type: &'static str, subject: &str, at: Millis) -> Receipt {
    let event = Event {
        seq: None,
        id: EventId(n as u128),
        tenant: Name::default_tenant(),
        source: Name::new("s"),
        event_type: EventType::known(event_type),
        subject: Subject::read(subject),
        time: at,
        received_at: at,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: RawValue::from_string("{}".to_owned()).unwrap().into(),
    };
    Receipt {
        tenant: Name::default_tenant(),
        source: Name::new("s"),
        credential: String::new(),
        received_at: at,
        digest: Digest([0; 16]),
        packed: None,
        arrivals: vec![Arrived {
            event,
            part: 0,
            dedupe: Some(Digest((n as u128).to_le_bytes())),
            contact: None,
        }],
        unreadable: vec![],
        idempotency: None,
        round: None,
        say: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_lane_with_work_has_exactly_one_head(seed in any::<u64>(), steps in 1_usize..25) {
        let mut random = SplitMix64(seed);
        let mut history = History::start();
        for _ in 0..steps {
            history.step(&mut random);
            history.check();
        }
    }
}

use std::collections::BTreeMap;

use mailspan_core::{Cause, Millis, Queue, Step};
use proptest::prelude::*;

use super::*;
use crate::held::Place;

/// One operation of a delivery, in few words.
#[derive(Debug, Clone)]
enum Op {
    Set(Option<u8>, Vec<(u8, u32)>),
    Upsert(Vec<(u8, u32)>),
    Log,
    OptOut,
}

fn operation(op: &Op) -> Operation {
    let fields = |fields: &[(u8, u32)]| {
        fields.iter().map(|(name, value)| (format!("f{name}"), (*value).into())).collect()
    };
    match op {
        Op::Set(record, of) => {
            Operation::SetFields { fields: fields(of), record: record.map(|id| id.to_string()) }
        }
        Op::Upsert(of) => Operation::UpsertContact { fields: fields(of) },
        Op::Log => Operation::LogActivity {
            title: String::new(),
            body: String::new(),
            at: Millis(0),
            record: None,
            deal: None,
        },
        Op::OptOut => {
            Operation::SetConsent { consent: mailspan_core::Consent::OptOut, at: Millis(0), reason: None }
        }
    }
}

fn parts(id: i64, ops: &[Op]) -> Vec<Part> {
    let part = |(at, op): (usize, &Op)| Part {
        key: Key(format!("{id}.{at}").into()),
        operation: operation(op),
        step: None,
        verdict: None,
        map: 0,
    };
    ops.iter().enumerate().map(part).collect()
}

fn held(ops: &[Op]) -> Held {
    Held {
        elsewhere: None,
        delivery: DeliveryId(0),
        class: Class::Profile,
        cause: Cause::Live,
        queue: Queue::Profile,
        newest: false,
        attempts: 3,
        crashes: 0,
        since: Millis(0),
        person: None,
        whole: false,
        parts: parts(0, ops),
        load: None,
        exchanged: false,
        steps: 0,
        at: Place::Waiting,
        class_stays: false,
        consent_stays: false,
    }
}

fn behind(id: i64, ops: &[Op]) -> Behind {
    Behind { delivery: DeliveryId(id), attempts: 0, crashes: 0, parts: parts(id, ops) }
}

fn set(name: u8, value: u32) -> Vec<Op> {
    vec![Op::Set(None, vec![(name, value)])]
}

/// How many go together: none where it is the head alone.
fn check(head: Held, behind: Vec<Behind>, expected: usize) {
    let together = load(&head, &behind, &BTreeSet::new()).map_or(0, |load| load.len());
    assert_eq!(together, expected, "{behind:?}");
}

#[test]
fn only_updates_of_the_same_record_go_together_and_nothing_is_jumped_over() {
    let two = || vec![behind(1, &set(1, 1)), behind(2, &set(2, 2))];
    check(held(&set(1, 0)), vec![], 0);
    check(held(&set(1, 0)), two(), 3);
    check(held(&[Op::Log]), two(), 0);
    check(held(&[Op::OptOut]), two(), 0);
    check(held(&[Op::OptOut, Op::Set(None, vec![])]), two(), 0);
    check(held(&set(1, 0)), vec![behind(1, &[Op::Log]), behind(2, &set(1, 2))], 0);
    check(held(&set(1, 0)), vec![behind(1, &set(1, 1)), behind(2, &[Op::OptOut]), behind(3, &set(1, 3))], 2);
    check(held(&set(1, 0)), vec![behind(1, &[Op::Set(Some(7), vec![])])], 0);
    check(held(&set(1, 0)), vec![behind(1, &[Op::Upsert(vec![])])], 0);
    check(held(&[Op::Upsert(vec![(1, 1)])]), vec![behind(1, &[Op::Upsert(vec![(1, 2)])])], 2);
    check(Held { class: Class::Activity, ..held(&set(1, 0)) }, two(), 0);
    check(Held { crashes: 1, ..held(&set(1, 0)) }, two(), 0);
    check(held(&set(1, 0)), vec![Behind { crashes: 1, ..behind(1, &set(1, 1)) }], 0);
    let mut begun = behind(1, &set(1, 1));
    begun.parts[0].step = Some(Step("x".to_owned()));
    check(held(&set(1, 0)), vec![begun], 0);
    check(held(&set(1, 0)), vec![Behind { parts: vec![], ..behind(1, &[]) }], 0);
}

#[test]
fn the_newest_carries_names_the_request_and_ends_it() {
    let mut head = Held { exchanged: true, ..held(&set(1, 0)) };
    let waiting = [behind(1, &set(1, 1)), behind(2, &set(2, 2))];
    head.load = load(&head, &waiting, &BTreeSet::new());
    let key = head.item().unwrap().key.clone();
    assert!(key.0.starts_with("2.0-c"), "{key}");
    let shorter = load(&held(&set(1, 0)), &waiting[..1], &BTreeSet::new()).unwrap();
    assert!(shorter.key.0.starts_with("1.0-c"));
    let settled = head.settle_load(&Verdict::Done, Some(0));
    let carried = Outcome::CarriedBy { delivery: DeliveryId(2) };
    let outcomes: Vec<_> =
        settled.iter().map(|one| (one.delivery.0, one.attempts, one.outcome.clone())).collect();
    let ended = Outcome::Ended { state: State::Delivered, reason: None };
    assert_eq!(outcomes, [(2, 1, ended), (1, 1, carried.clone()), (0, 4, carried)]);
}

#[test]
fn what_must_go_alone_is_neither_head_nor_carried() {
    let waiting = [behind(1, &set(1, 1)), behind(2, &set(2, 2))];
    for (alone, expected) in [(0, 0), (1, 0), (2, 2)] {
        let alone = BTreeSet::from([DeliveryId(alone)]);
        let together = load(&held(&set(1, 0)), &waiting, &alone).map_or(0, |load| load.len());
        assert_eq!(together, expected, "{alone:?}");
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    let fields = || proptest::collection::vec((0..4u8, any::<u32>()), 0..4);
    prop_oneof![
        8 => fields().prop_map(|of| Op::Set(None, of)),
        2 => fields().prop_map(|of| Op::Set(Some(1), of)),
        2 => fields().prop_map(Op::Upsert),
        1 => Just(Op::Log),
        1 => Just(Op::OptOut),
    ]
}

/// What a destination knows after these: fields by operation and record.
fn after<'a>(ops: impl Iterator<Item = &'a Operation>) -> BTreeMap<(bool, Option<String>, String), String> {
    let mut known = BTreeMap::new();
    for op in ops {
        let (upsert, record, fields) = match op {
            Operation::SetFields { fields, record } => (false, record.clone(), fields),
            Operation::UpsertContact { fields } => (true, None, fields),
            _ => continue,
        };
        for (name, value) in fields {
            known.insert((upsert, record.clone(), name.clone()), value.to_string());
        }
    }
    known
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_load_says_what_its_deliveries_say_one_after_another_and_names_each_once(
        head in any_op(), waiting in proptest::collection::vec(any_op(), 0..40),
    ) {
        let head = held(std::slice::from_ref(&head));
        let waiting: Vec<Behind> =
            waiting.iter().zip(1..).map(|(op, id)| behind(id, std::slice::from_ref(op))).collect();
        let Some(load) = load(&head, &waiting, &BTreeSet::new()) else { return Ok(()) };
        let others = load.len() - 1;
        let all = [&head.parts].into_iter().chain(waiting.iter().take(others).map(|one| &one.parts));
        let all: Vec<&Operation> = all.map(|parts| &parts[0].operation).collect();
        prop_assert!(all.iter().all(|op| op.class() == Class::Profile));
        prop_assert_eq!(after([&load.operation].into_iter()), after(all.into_iter()));
        let ids: Vec<i64> = load.others().map(|one| one.delivery.0).collect();
        prop_assert_eq!(ids, (1..=others as i64).collect::<Vec<_>>(), "the unbroken run");
        let mut head = Held { load: Some(load), ..head };
        let verdict = Verdict::skipped("unknown_contact", "");
        let settled = head.settle_load(&verdict, Some(0));
        let named: BTreeSet<i64> = settled.iter().map(|one| one.delivery.0).collect();
        prop_assert_eq!((settled.len(), named.len()), (others + 1, others + 1), "N in, N named");
        prop_assert_eq!(settled.last().unwrap().delivery, DeliveryId(0), "the head leaves its lane last");
    }
}

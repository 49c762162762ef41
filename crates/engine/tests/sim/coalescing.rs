//! Updates that one request carries for others: on the bench.

use mailspan_core::limits::CARRIED_MAX;
use mailspan_core::{Behind, Consent, DeliveryId, Fields, Millis, Operation, Outcome, Parcel, Reason, State};
use mailspan_engine::{Happened, Limits, SettleFailed};
use serde_json::{Value, json};

use crate::bench::*;
use crate::receiver::items;

fn opens(count: i64) -> Operation {
    Operation::SetFields { fields: Fields::from([("open_count".to_owned(), count.into())]), record: None }
}

fn coalescing() -> Limits {
    Limits { coalesces: true, ..limits() }
}

fn behind(id: i64, operation: Operation) -> Behind {
    let Parcel { delivery, attempts, crashes, parts, .. } = parcel(id, vec![operation]);
    Behind { delivery, attempts, crashes, parts: parts.expect("the map made them") }
}

/// A head with so many updates behind it, numbered from 1.
fn lane(waiting: i64) -> Parcel {
    Parcel { behind: (2..2 + waiting).map(|id| behind(id, opens(id))).collect(), ..parcel(1, vec![opens(1)]) }
}

fn said(bench: &Bench) -> Vec<(String, Value)> {
    let sent = bench.out.iter().filter_map(|command| match command {
        mailspan_engine::Command::Send { request, .. } => Some(items(request)),
        _ => None,
    });
    sent.flatten().map(|item| (item.key, item.op["fields"]["open_count"].clone())).collect()
}

fn outcomes(bench: &Bench) -> Vec<(i64, String)> {
    let shown = |outcome: &Outcome| match outcome {
        Outcome::Ended { state, .. } => state.name().to_owned(),
        Outcome::CarriedBy { delivery } => format!("by {}", delivery.0),
        Outcome::Again { .. } => "again".to_owned(),
        Outcome::Progressed => "goes on".to_owned(),
    };
    bench.settlements().iter().map(|one| (one.delivery.0, shown(&one.outcome))).collect()
}

#[test]
fn the_newest_says_it_for_all_and_each_is_named() {
    let mut bench = Bench::with(coalescing(), vec![lane(CARRIED_MAX as i64)]);
    let [(key, opens)] = &said(&bench)[..] else { panic!("one request, one item: {:?}", bench.out) };
    assert!(key.starts_with("32.0-c") && *opens == json!(32), "{key} {opens}");
    bench.answer(bench.call(0), 200, done(1));
    let expected = [(32, "delivered".to_owned())].into_iter();
    let expected = expected.chain((2..32).chain([1]).map(|id| (id, "by 32".to_owned())));
    assert_eq!(outcomes(&bench), expected.collect::<Vec<_>>());
    let (settlements, attempts) = bench.settles()[0];
    assert_eq!((attempts.len(), attempts[0].items), (1, 32));
    assert!(settlements.iter().all(|one| (one.attempt, one.attempts) == (Some(0), 1)));
    bench.settled(Ok(()));
    assert!(bench.engine.idle());
}

#[test]
fn nothing_is_carried_where_nobody_asked_for_it() {
    let bench = Bench::with(limits(), vec![lane(3)]);
    assert_eq!(said(&bench), [("1.0".to_owned(), json!(1))]);
}

#[test]
fn a_failure_leaves_the_others_waiting_and_a_refusal_is_each_ones_own() {
    let mut bench = Bench::with(coalescing(), vec![lane(2)]);
    bench.answer(bench.call(0), 503, Value::Null);
    assert_eq!(outcomes(&bench), [(1, "again".to_owned())], "the others stay as they are");
    bench.settled(Ok(()));
    bench.wake();
    bench.claimed(vec![Parcel { attempts: 1, ..lane(3) }]);
    assert!(said(&bench)[0].0.starts_with("4.0-c"), "what came since goes with it, under another key");
    bench.answer(bench.call(0), 422, Value::Null);
    assert_eq!(outcomes(&bench), [(1, "goes on".to_owned())], "a refusal does not say of which it is");
    bench.settled(Ok(()));
    assert_eq!(said(&bench), [("1.0".to_owned(), json!(1))]);
    bench.answer(bench.call(0), 422, Value::Null);
    assert_eq!(outcomes(&bench), [(1, "dead".to_owned())]);
    bench.settled(Ok(()));
    bench.hear(Happened::Offered { destination: CRM });
    let next = Parcel { behind: vec![behind(3, opens(3))], ..parcel(2, vec![opens(2)]) };
    bench.claimed(vec![next]);
    assert_eq!(said(&bench), [("2.0".to_owned(), json!(2))]);
    bench.answer(bench.call(0), 200, done(1));
    assert_eq!(outcomes(&bench), [(2, "delivered".to_owned())]);
}

#[test]
fn a_skip_is_true_of_all_and_an_opt_out_takes_part_in_nothing() {
    let verdict = mailspan_core::Verdict::skipped("unknown_contact", "nobody knows them");
    let mut bench = Bench::with(coalescing(), vec![lane(1)]);
    bench.answer(bench.call(0), 200, json!({ "verdicts": [verdict] }));
    assert_eq!(outcomes(&bench), [(2, "skipped".to_owned()), (1, "by 2".to_owned())]);
    let head = parcel(1, vec![consent(Consent::OptOut, 60)]);
    let behind = vec![behind(2, opens(2))];
    let bench = Bench::with(coalescing(), vec![Parcel { behind, ..head }]);
    assert_eq!(bench.sent(), [[1]]);
    assert_eq!(said(&bench)[0].0, "1.0");
}

#[test]
fn a_store_that_could_not_say_so_is_given_the_whole_load_again() {
    let mut bench = Bench::with(coalescing(), vec![lane(1)]);
    bench.answer(bench.call(0), 200, done(1));
    let first = bench.out.clone();
    bench.settled(Err(SettleFailed::Broken));
    bench.wake();
    assert_eq!(bench.out, first);
    // Of some of them only: it is no answer to this write.
    let outcome = Ok(());
    bench.hear(Happened::Settled { destination: CRM, deliveries: vec![DeliveryId(1)], outcome });
    assert!(!bench.engine.idle());
    let both = vec![DeliveryId(1), DeliveryId(2)];
    bench.hear(Happened::Settled { destination: CRM, deliveries: both, outcome });
    assert!(bench.engine.idle());
    assert_eq!(bench.claims(), 1, "it may have been written the first time, and made a new head");
}

#[test]
fn a_map_that_failed_behind_the_head_holds_up_nobody() {
    let head = Parcel { behind: vec![Behind { parts: vec![], ..behind(2, opens(2)) }], ..lane(0) };
    let mut bench = Bench::with(coalescing(), vec![head]);
    assert_eq!(said(&bench), [("1.0".to_owned(), json!(1))]);
    bench.answer(bench.call(0), 200, done(1));
    assert_eq!(ended(&bench.settlements()[0]), (State::Delivered, ""));
    let failed = Parcel { parts: Err(Reason::new("map", "line 3")), since: Millis(0), ..parcel(9, vec![]) };
    bench.hear(Happened::Offered { destination: CRM });
    bench.claimed(vec![Parcel { behind: vec![behind(10, opens(1))], ..failed }]);
    assert_eq!(ended(&bench.settlements()[0]), (State::Dead, "map"));
}

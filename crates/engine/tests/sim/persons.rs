//! What waits for other deliveries of its person, whatever their lanes.

use mailspan_core::limits::QUEUE_ROOM;
use mailspan_core::{Class, Consent, Fields, Operation, Parcel, Person, PersonId, Queue, Rate, State};
use mailspan_engine::{Happened, Limits};

use crate::bench::*;
use crate::town::{Manner, Town};

const ALONE: fn() -> Limits = || Limits { batch_max: 1, ..limits() };

fn of_one_person(id: i64, erased: bool, operation: Operation) -> Parcel {
    let mut parcel = parcel(id, vec![operation]);
    parcel.person = parcel.person.map(|person| Person { id: PersonId(7), erased, ..person });
    parcel
}

fn upsert() -> Operation {
    Operation::UpsertContact { fields: Fields::new() }
}

fn whole(id: i64, person: i64) -> Parcel {
    let parcel = parcel(id, vec![upsert()]);
    let person = parcel.person.map(|known| Person { id: PersonId(person), ..known });
    Parcel { person, whole: true, ..parcel }
}

fn check(first: Parcel, second: Parcel) {
    let other = Parcel { person: None, ..parcel(3, vec![facts()]) };
    let mut bench = Bench::with(ALONE(), vec![first]);
    let call = bench.call(0);
    bench.hear(Happened::Offered { destination: CRM });
    bench.claimed(vec![second.clone(), other]);
    assert_eq!(
        (bench.sent(), bench.claims()),
        (vec![vec![3]], 0),
        "others go, and nothing is asked in a loop"
    );
    bench.answer(call, 200, done(1));
    bench.settled(Ok(()));
    assert_eq!(bench.claims(), 1, "it is asked for when the person's last call has ended");
    bench.claimed(vec![second]);
    assert_eq!(bench.sent(), [[2]]);
}

#[test]
fn an_erasure_waits_until_nothing_else_of_the_person_is_in_flight() {
    check(of_one_person(1, false, facts()), of_one_person(2, true, facts()));
}

#[test]
fn of_two_whole_contacts_of_a_person_one_is_in_flight() {
    check(whole(1, 7), whole(2, 7));
}

/// An opt-out says what it says, whatever is known besides.
#[test]
fn an_opt_out_waits_for_no_whole_contact() {
    let mut bench = Bench::with(ALONE(), vec![whole(1, 7)]);
    bench.hear(Happened::Offered { destination: CRM });
    let out = Parcel { class: Class::Consent, ..of_one_person(2, false, consent(Consent::OptOut, 60)) };
    bench.claimed(vec![out]);
    assert_eq!(bench.sent(), [[2]]);
}

/// What a map made of the event itself is as true later: nothing is gained by waiting.
#[test]
fn what_was_not_mapped_from_a_contact_waits_for_none() {
    let mut bench = Bench::with(ALONE(), vec![of_one_person(1, false, upsert())]);
    bench.hear(Happened::Offered { destination: CRM });
    bench.claimed(vec![of_one_person(2, false, upsert())]);
    assert_eq!(bench.sent(), [[2]]);
}

/// A look that brings nothing new is not repeated until something has left, and what was passed over is not mapped
/// again until it may go.
#[test]
fn what_was_passed_over_is_not_asked_for_in_a_loop() {
    let persons = 1..=8;
    let mut bench = Bench::new(ALONE());
    bench.claimed(persons.clone().map(|person| whole(person, person)).collect());
    let calls = bench.sends();
    assert_eq!(calls.len(), 8);
    bench.hear(Happened::Offered { destination: CRM });
    bench.claimed_of_many(persons.map(|person| whole(100 + person, person)).collect());
    assert_eq!(bench.unasked(), Some((1..=8).chain(101..=108).collect()), "those passed over are known");
    bench.claimed_of_many(Vec::new());
    assert_eq!(bench.unasked(), None, "it claims in a loop while nothing changes");
    bench.hear(Happened::Tick);
    assert_eq!((bench.unasked(), bench.wake), (None, None));
    bench.answer(calls[0].0, 200, done(1));
    bench.settled(Ok(()));
    assert_eq!(bench.unasked(), Some((2..=8).chain(102..=108).collect()), "the person of 1 and 101 is free");
    // One from behind the window has come up with it.
    bench.claimed_of_many(vec![whole(101, 1), whole(300, 30)]);
    assert_eq!(bench.sent(), [[101], [300]]);
}

/// The window moves with what leaves it, also where nothing was passed over for that.
#[test]
fn those_behind_the_window_are_looked_for_when_one_has_left() {
    let mut bench = Bench::new(ALONE());
    bench.claimed_of_many(vec![whole(1, 1), whole(2, 2)]);
    let call = bench.call(1);
    bench.claimed_of_many(vec![whole(101, 1)]);
    bench.claimed_of_many(Vec::new());
    assert_eq!(bench.claims(), 0);
    bench.answer(call, 200, done(1));
    bench.settled(Ok(()));
    assert_eq!(bench.claims(), 1, "number 2 has left its place");
}

/// As many opt-ins as are held, slowly taken, and behind them a newer profile of each of these persons: the profiles
/// wait, others behind them get their turn, and looking costs little.
#[test]
fn a_list_that_signs_up_and_changes_while_the_account_is_slow_costs_no_loop() {
    let many = i64::from(QUEUE_ROOM[Queue::Profile as usize]) + 40;
    let ours = Limits { rate: Rate { count: 20, per_ms: 1_000 }, concurrency: 4, ..ALONE() };
    let mut town = Town::new();
    let core = town.site(1, Manner::Queues { capacity: 4 }, 150, ours);
    town.whole(core, Class::Consent, 1..=many);
    town.whole(core, Class::Profile, 1..=many);
    town.whole(core, Class::Profile, 10_001..=10_050);
    town.start();
    let begin = town.now;
    town.run(begin.plus(600_000));
    assert!(town.rows.values().all(|row| row.state == State::Delivered), "somebody waits for ever");
    let rows = town.rows.len();
    println!("{rows} deliveries: {} claims brought {} parcels", town.claims, town.mapped);
    assert!(town.claims <= 2 * rows, "{} claims for {rows} deliveries", town.claims);
    assert!(town.mapped <= 3 * rows, "{} parcels were mapped for {rows} deliveries", town.mapped);
}

//! What waits for other deliveries of its person, whatever their lanes.

use mailspan_core::{Class, Consent, Fields, Operation, Parcel, Person, PersonId};
use mailspan_engine::{Happened, Limits};

use crate::bench::*;

fn of_one_person(id: i64, erased: bool, operation: Operation) -> Parcel {
    let mut parcel = parcel(id, vec![operation]);
    parcel.person = parcel.person.map(|person| Person { id: PersonId(7), erased, ..person });
    parcel
}

fn whole() -> Operation {
    Operation::UpsertContact { fields: Fields::new() }
}

fn check(first: Parcel, second: Parcel) {
    let other = Parcel { person: None, ..parcel(3, vec![facts()]) };
    let mut bench = Bench::with(Limits { batch_max: 1, ..limits() }, vec![first]);
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
    check(of_one_person(1, false, whole()), of_one_person(2, false, whole()));
}

/// An opt-out says what it says, whatever is known besides.
#[test]
fn an_opt_out_waits_for_no_whole_contact() {
    let mut bench = Bench::with(Limits { batch_max: 1, ..limits() }, vec![of_one_person(1, false, whole())]);
    bench.hear(Happened::Offered { destination: CRM });
    let out = Parcel { class: Class::Consent, ..of_one_person(2, false, consent(Consent::OptOut, 60)) };
    bench.claimed(vec![out]);
    assert_eq!(bench.sent(), [[2]]);
}

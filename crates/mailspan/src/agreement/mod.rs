//! Three systems and one ledger: whatever an application, the hub and a mailing platform do, in whatever order and
//! however often their messages arrive, and whatever the wire does to the hub's own: in the end each of them has
//! the state that the consent rules demand.
//!
//! All but the wire is the product's: HTTP handlers, accept, fold, router, maps, connector, engine, SQLite. The
//! account is the sandbox's, the clock is virtual. `CASES=5000` plays more; a failure shows the smallest play that
//! fails, with what happened in it.

mod moves;
mod play;
mod rules;
mod world;

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use play::{Act, Play};
use world::{Wire, World};

use crate::runtime;

/// Plays in the suite.
const CASES: u32 = 200;
/// Plays on one store: it grows, and each erasure walks through all of it.
const CASES_OF_A_STORE: u64 = 40;

#[test]
fn three_systems_end_in_the_state_that_the_rules_demand() {
    let cases = runtime::env("CASES").and_then(|text| text.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let tokio = runtime::build().unwrap();
    let world: RefCell<Option<World>> = RefCell::new(None);
    let number = Cell::new(0_u64);
    let played = TestRunner::new(config).run(&play::any_play(), |acts| {
        number.set(number.get() + 1);
        let mut world = world.borrow_mut();
        // A play that failed may have left something behind.
        let fresh = world.is_none() || number.get().is_multiple_of(CASES_OF_A_STORE);
        tokio.block_on(async {
            if fresh {
                *world = Some(World::new().await);
            }
            let ended = Play::new(world.as_mut().unwrap(), number.get()).run(&acts).await;
            if ended.is_err() {
                *world = None;
            }
            ended.map_err(TestCaseError::fail)
        })
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}

#[test]
#[ignore = "does not hold for every play yet (docs/PROOFS.md, Not held yet): -- --ignored finds such plays"]
fn who_moves_is_known_once_and_by_todays_names_at_every_account() {
    let cases = runtime::env("CASES").and_then(|text| text.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let tokio = runtime::build().unwrap();
    let world: RefCell<Option<World>> = RefCell::new(None);
    let number = Cell::new(0_u64);
    // The same plays each time: one kind of them is known not to hold yet (docs/PROOFS.md).
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, random);
    let played = runner.run(&moves::any_play(), |acts| {
        number.set(number.get() + 1);
        let mut world = world.borrow_mut();
        let fresh = world.is_none() || number.get().is_multiple_of(CASES_OF_A_STORE);
        tokio.block_on(async {
            if fresh {
                *world = Some(World::with(&["core", "mail"]).await);
            }
            let ended = moves::Play::new(world.as_mut().unwrap(), number.get()).run(&acts).await;
            if ended.is_err() {
                *world = None;
            }
            ended.map_err(TestCaseError::fail)
        })
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}

/// Several writes of a person wait while one of them changes the address: the vendor knows the old one still.
#[test]
fn a_change_of_address_beside_other_writes_makes_nobody_twice() {
    check_moves(&[
        moves::Act::Rest,
        moves::Act::Locale(0, true),
        moves::Act::Move(0),
        moves::Act::Rest,
        moves::Act::OptIn(0, false),
    ]);
}

/// The opt-out goes first, under the new address; the vendor has heard of the old one alone.
#[test]
fn an_opt_out_after_a_change_of_address_in_an_outage_is_not_lost() {
    check_moves(&[
        moves::Act::Rest,
        moves::Act::Move(0),
        moves::Act::Outage(4),
        moves::Act::OptIn(0, false),
        moves::Act::Exchange(0, Wire::Whole),
    ]);
}

#[test]
fn an_erasure_after_changes_that_were_not_told_reaches_every_name() {
    let rest = moves::Act::Rest;
    check_moves(&[rest.clone(), moves::Act::Move(0), moves::Act::Outage(4), moves::Act::Erase(0)]);
    check_moves(&[rest.clone(), moves::Act::Rename(0), moves::Act::Outage(4), moves::Act::Erase(0)]);
    check_moves(&[rest, moves::Act::Rename(0), moves::Act::Rest, moves::Act::Erase(0)]);
}

#[track_caller]
fn check_moves(acts: &[moves::Act]) {
    let ended = runtime::build().unwrap().block_on(async {
        let mut world = World::with(&["core", "mail"]).await;
        moves::Play::new(&mut world, 1).run(acts).await
    });
    if let Err(failure) = ended {
        panic!("{failure}");
    }
}

#[test]
fn what_comes_after_an_erasure_and_is_older_brings_nobody_back() {
    check(&[
        Act::Subscribe(0),
        Act::Arrive(0, true),
        Act::Subscribe(0),
        Act::Erase(0),
        // The newest first.
        Act::Arrive(2, false),
        Act::Exchange(0, Wire::Whole),
        Act::Exchange(0, Wire::Whole),
    ]);
}

/// Told of its own opt-out after it has opted the person in anew, the hub takes nothing back.
#[test]
fn an_echo_that_comes_late_takes_nothing_back() {
    check(&[
        Act::Put(0, true),
        Act::Exchange(0, Wire::Whole),
        Act::Put(0, false),
        Act::Put(0, true),
        Act::Exchange(0, Wire::LostAfter),
    ]);
}

/// Nobody knows at the hub who is erased; who signs up under the same external id before the account has heard of it
/// is erased there too, although the answer that says so is lost.
#[test]
fn who_signs_up_while_a_stranger_is_erased_is_told_again() {
    check(&[
        Act::Erase(0),
        Act::Arrive(0, false),
        Act::Put(0, true),
        Act::Exchange(1, Wire::Whole),
        Act::Exchange(0, Wire::LostAfter),
    ]);
}

/// The newer opt-in was told as none while the address was suppressed, and comes back as an opt-out of the account.
#[test]
fn a_confirmation_that_comes_late_lets_the_newest_opt_in_through() {
    check(&[
        Act::Import(0, 2),
        Act::Unsubscribe(0),
        Act::Arrive(0, false),
        Act::Confirm(0),
        Act::Put(0, true),
        Act::Exchange(0, Wire::Whole),
    ]);
}

/// The account had heard of it before the hub; the hub lifts the older one there a moment too late.
#[test]
fn an_unsubscription_that_a_lift_overtakes_is_written_back() {
    let whole = Act::Exchange(0, Wire::Whole);
    check(&[
        Act::Put(0, true),
        whole.clone(),
        whole.clone(),
        Act::Unsubscribe(0),
        Act::Arrive(0, false),
        Act::Confirm(0),
        Act::Leave(0),
        Act::Arrive(0, false),
        whole.clone(),
        whole.clone(),
        whole.clone(),
        whole,
    ]);
}

/// Who left on the account's page and then clicks the hub's link is mailed by the account again, although the hub
/// hears of the first after the second.
#[test]
fn a_click_after_an_unsubscription_that_nobody_told_of_counts_at_the_account() {
    check(&[
        Act::Import(0, 0),
        Act::Exchange(0, Wire::Whole),
        Act::Exchange(0, Wire::Whole),
        Act::Ask(0),
        Act::Exchange(0, Wire::Whole),
        Act::Leave(0),
        Act::Click(0),
    ]);
}

/// One play that a person can follow, so that the rules and the world are themselves looked at.
#[track_caller]
fn check(acts: &[Act]) {
    let ended = runtime::build().unwrap().block_on(async {
        let mut world = World::new().await;
        Play::new(&mut world, 1).run(acts).await
    });
    if let Err(failure) = ended {
        panic!("{failure}");
    }
}

//! One rule of the desk a test: what goes in, what must come out.

use std::sync::Arc;

use mailspan_connectors::contract::{Item, Judgement, Known, Plan, Sink, by_status};
use mailspan_core::limits::SENDS_MAX;
use mailspan_core::{
    Answer, Cause, Class, Consent, DeliveryId, DestinationId, Elsewhere, Lost, Millis, Operation, Outcome,
    Parcel, Queue, Rate, Reason, Request, State, Step, Verdict,
};
use mailspan_engine::{CallId, Command, Fence, Happened, Limits, SettleFailed};
use serde_json::{Value, json};

use crate::sink::POISON_PLAN;

use crate::bench::*;

#[test]
fn a_delivery_is_claimed_sent_and_settled() {
    let mut bench = Bench::new(limits());
    assert_eq!(bench.claims(), 1);
    bench.claimed(vec![parcel(1, vec![facts()])]);
    bench.now += 30;
    bench.answer(bench.call(0), 200, done(1));
    let (settlements, attempts) = bench.settles()[0];
    assert_eq!(ended(&settlements[0]), (State::Delivered, ""));
    assert_eq!(
        (settlements[0].attempts, settlements[0].attempt, settlements[0].progress.len()),
        (1, Some(0), 0)
    );
    assert_eq!((attempts[0].status, attempts[0].took_ms, &attempts[0].request), (200, 30, &None));
    assert!(!bench.engine.idle());
    bench.settled(Ok(()));
    assert!(bench.engine.idle() && bench.out.is_empty());
}

#[test]
fn consent_goes_first_and_the_others_by_share() {
    let one = Limits { batch_max: 1, concurrency: 1, ..limits() };
    let mut replay = parcel(1, vec![facts()]);
    replay.cause = Cause::Replay;
    let mut parcels = vec![replay, parcel(2, vec![log("a")]), parcel(3, vec![facts()])];
    parcels.push(parcel(4, vec![consent(Consent::OptOut, 60)]));
    let mut bench = Bench::with(one, parcels);
    let mut order = bench.sent();
    while let Some((call, _)) = bench.sends().first() {
        bench.answer(*call, 200, done(1));
        order.extend(bench.sent());
    }
    assert_eq!(order, [[4], [3], [2], [1]]);
}

#[test]
fn a_superseded_opt_in_is_skipped_without_an_exchange() {
    let bench = Bench::with(limits(), vec![parcel(1, vec![consent(Consent::OptIn, 50)])]);
    assert_eq!(ended(&bench.settlements()[0]), (State::Skipped, "superseded"));
    assert_eq!((bench.settlements()[0].attempts, bench.sent().len()), (0, 0));
}

/// The map makes an opt-in of an activity: the opt-out that comes while it waits for the rate must find it in
/// the lane of consent.
#[test]
fn an_opt_in_that_a_map_makes_of_an_activity_moves_to_the_lane_of_consent_before_it_is_sent() {
    let mut signup = parcel(1, vec![consent(Consent::OptIn, 60), log("signed up")]);
    signup.class = Class::Activity;
    let mut bench = Bench::with(limits(), vec![signup.clone()]);
    assert_eq!(again(&bench.settlements()[0]), (bench.now, Queue::Consent, Class::Consent));
    assert_eq!((bench.settlements()[0].attempts, bench.sent().len()), (0, 0));
    bench.settled(Ok(()));
    assert_eq!(bench.claims(), 1, "it is due at once");
    signup.class = Class::Consent;
    bench.claimed(vec![signup]);
    assert_eq!(bench.sent(), [[1]]);
    bench.answer(bench.call(0), 200, done(1));
    assert_eq!(again(&bench.settlements()[0]), (bench.now, Queue::Activity, Class::Activity));
}

#[test]
fn a_replay_of_consent_takes_the_share_of_replays() {
    let one = Limits { batch_max: 1, concurrency: 1, ..limits() };
    let replay = |id| Parcel { cause: Cause::Replay, ..parcel(id, vec![consent(Consent::OptOut, 60)]) };
    let mut parcels: Vec<Parcel> = (1..20).map(replay).collect();
    parcels.extend((20..25).map(|id| parcel(id, vec![facts()])));
    parcels.push(parcel(25, vec![consent(Consent::OptOut, 60)]));
    let mut bench = Bench::with(one, parcels);
    let mut order = bench.sent();
    while let Some((call, _)) = bench.sends().first() {
        bench.answer(*call, 200, done(1));
        order.extend(bench.sent());
    }
    let replays_before =
        |id: i64| order.iter().take_while(|sent| **sent != [id]).filter(|sent| sent[0] < 20).count();
    assert_eq!(order.len(), 25);
    assert_eq!(replays_before(25), 0, "consent of today goes first: {order:?}");
    assert!(replays_before(24) <= 2, "profiles of today do not wait for the replay: {order:?}");
}

#[test]
fn what_the_map_did_not_make_is_dead_and_what_crashed_is_tried_once_more() {
    let failed = |code: &str, crashes| Parcel {
        parts: Err(Reason::new(code, "line 3")),
        crashes,
        ..parcel(1, Vec::new())
    };
    let bench = Bench::with(limits(), vec![failed("map", 0)]);
    assert_eq!(ended(&bench.settlements()[0]), (State::Dead, "map"));
    let bench = Bench::with(limits(), vec![failed("crash", 0)]);
    assert_eq!(again(&bench.settlements()[0]), (bench.now + 1_000, Queue::Activity, Class::Activity));
    let bench = Bench::with(limits(), vec![failed("crash", 1)]);
    assert_eq!((ended(&bench.settlements()[0]), bench.settlements()[0].crashes), ((State::Dead, "crash"), 2));
}

#[test]
fn a_panic_among_several_counts_against_the_guilty_only() {
    let bench = Bench::with(limits(), vec![parcel(1, vec![log("a")]), parcel(2, vec![log(POISON_PLAN)])]);
    assert_eq!(bench.sent(), [[1]]);
    assert_eq!((bench.settlements()[0].delivery, bench.settlements()[0].crashes), (DeliveryId(2), 1));
}

#[test]
fn urgent_parts_first_then_a_lower_lane() {
    let parts = vec![consent(Consent::OptOut, 60), log("unsubscribed")];
    let mut bench = Bench::with(limits(), vec![parcel(1, parts)]);
    bench.answer(bench.call(0), 200, done(1));
    let settlement = bench.settlements()[0].clone();
    assert_eq!(again(&settlement), (bench.now, Queue::Activity, Class::Activity));
    assert_eq!((settlement.attempts, settlement.progress[0].verdict.clone()), (0, Some(Verdict::Done)));
    bench.settled(Ok(()));
    assert_eq!(bench.claims(), 1, "what is due at once is claimed at once");
}

#[test]
fn a_retried_consent_stays_in_its_lane_whatever_its_operations_are() {
    let send = Operation::Send { content_type: String::new(), body: String::new() };
    let mut parcel = parcel(1, vec![send]);
    parcel.class = Class::Consent;
    let mut bench = Bench::with(limits(), vec![parcel]);
    bench.answer(bench.call(0), 503, Value::Null);
    let (due, queue, class) = again(&bench.settlements()[0]);
    assert_eq!((queue, class), (Queue::Consent, Class::Consent));
    assert!(due >= bench.now + 500 && due <= bench.now + 5_000);
    let (settlements, attempts) = bench.settles()[0];
    assert_eq!(settlements[0].attempts, 1);
    assert!(attempts[0].request.is_some() && attempts[0].answer.is_some());
}

#[test]
fn the_next_step_waits_until_the_last_is_kept() {
    let mut bench = Bench::with(limits(), vec![parcel(1, vec![log("a")])]);
    let next = |after_ms| json!({ "verdicts": [Verdict::Next { step: Step("made".to_owned()), after_ms }] });
    bench.answer(bench.call(0), 200, next(0));
    assert_eq!((bench.settlements()[0].outcome.clone(), bench.sent().len()), (Outcome::Progressed, 0));
    bench.settled(Ok(()));
    assert_eq!(bench.sent(), [[1]]);
    bench.answer(bench.call(0), 200, next(700));
    assert_eq!(again(&bench.settlements()[0]), (bench.now + 700, Queue::Activity, Class::Activity));
    assert_eq!(bench.settlements()[0].attempts, 0);
}

#[test]
fn steps_without_end_are_a_failed_try() {
    let mut bench = Bench::with(limits(), vec![parcel(1, vec![log("a")])]);
    for round in 1.. {
        let next = Verdict::Next { step: Step(round.to_string()), after_ms: 0 };
        bench.answer(bench.call(0), 200, json!({ "verdicts": [next] }));
        if bench.settlements()[0].outcome != Outcome::Progressed {
            assert_eq!((round, bench.settlements()[0].attempts), (100, 1));
            return;
        }
        bench.settled(Ok(()));
    }
}

#[test]
fn a_refused_batch_goes_in_halves_and_one_alone_is_refused() {
    let mut bench = Bench::with(limits(), (1..=4).map(|id| parcel(id, vec![facts()])).collect());
    assert_eq!(bench.sent(), [vec![1, 2, 3], vec![4]], "the connector leaves the fourth");
    bench = Bench::with(limits(), (1..=3).map(|id| parcel(id, vec![facts()])).collect());
    assert!(bench.wake.is_none());
    bench.answer(bench.call(0), 413, Value::Null);
    assert!(bench.settlements().iter().all(|settlement| settlement.outcome == Outcome::Progressed));
    bench.settled(Ok(()));
    assert_eq!(bench.sent(), [vec![1, 2], vec![3]]);
    bench.answer(bench.call(1), 413, Value::Null);
    assert_eq!(
        (ended(&bench.settlements()[0]), bench.settlements()[0].attempts),
        ((State::Dead, "too_large"), 1)
    );
}

#[test]
fn a_batch_waits_for_its_time() {
    let mut bench = Bench::with(Limits { batch_wait_ms: 200, ..limits() }, vec![parcel(1, vec![facts()])]);
    assert_eq!((bench.sent().len(), bench.wake), (0, Some(bench.now + 200)));
    bench.wake();
    assert_eq!(bench.sent(), [[1]]);
}

#[test]
fn one_call_a_question_and_its_answer_is_remembered() {
    let owner = |id| {
        let (title, text) = (String::new(), String::new());
        parcel(
            id,
            vec![Operation::NotifyOwner { owner: Some("owner:a".to_owned()), title, text, at: Millis(0) }],
        )
    };
    let mut bench = Bench::with(limits(), vec![owner(1), owner(2)]);
    assert_eq!(bench.sends().len(), 1);
    bench.answer(bench.call(0), 200, json!({ "owner": "17" }));
    let [(settlements, rows)] = bench.settles()[..] else { panic!("{:?}", bench.out) };
    assert_eq!(
        (settlements.len(), rows.len()),
        (0, 1),
        "the look-up counts against rate and day after a restart"
    );
    assert_eq!(bench.sent(), [[1, 2]]);
    bench.hear(Happened::Offered { destination: CRM });
    bench.claimed(vec![owner(3)]);
    assert_eq!(bench.sent(), [[3]]);
    bench.now += 600_000;
    bench.hear(Happened::Offered { destination: CRM });
    bench.claimed(vec![owner(4)]);
    assert_eq!(bench.sent(), [[0_i64; 0]], "after ten minutes it is asked again");
    bench.answer(bench.call(0), 404, Value::Null);
    assert_eq!(ended(&bench.settlements()[0]), (State::Dead, "refused"));
}

#[test]
fn a_stop_pauses_keeps_the_queue_and_counts_nothing() {
    let mut bench = Bench::with(
        Limits { batch_max: 1, concurrency: 1, ..limits() },
        vec![parcel(1, vec![facts()]), parcel(2, vec![facts()])],
    );
    bench.answer(bench.call(0), 403, Value::Null);
    assert_eq!((bench.paused(), bench.sent().len()), (Some("unauthorized"), 0));
    assert_eq!(again(&bench.settlements()[0]), (bench.now, Queue::Profile, Class::Profile));
    assert_eq!(bench.settlements()[0].attempts, 0);
    bench.settled(Ok(()));
    bench.hear(Happened::Offered { destination: CRM });
    assert_eq!(bench.out, []);
    bench.hear(Happened::Resumed { destination: CRM });
    assert_eq!((bench.paused(), bench.claims()), (Some(""), 1));
}

#[test]
fn a_refused_credential_is_tried_once_more() {
    let one = || vec![parcel(1, vec![facts()])];
    let mut bench = Bench::with(limits(), one());
    bench.answer(bench.call(0), 401, Value::Null);
    assert_eq!((again(&bench.settlements()[0]).0, bench.paused()), (bench.now + 1_000, None));
    bench.settled(Ok(()));
    bench.wake();
    assert_eq!(bench.claims(), 1);
    bench.claimed(one());
    bench.answer(bench.call(0), 401, Value::Null);
    assert_eq!((bench.settlements()[0].attempts, bench.paused()), (0, Some("unauthorized")));
}

#[test]
fn a_short_throttle_waits_and_a_long_one_pauses() {
    let both = || vec![parcel(1, vec![facts()]), parcel(2, vec![log("a")])];
    let mut bench = Bench::with(Limits { concurrency: 1, ..limits() }, both());
    bench.answer_with(bench.call(0), 429, &[("retry-after", "7")], Value::Null);
    assert!(again(&bench.settlements()[0]).0 >= bench.now + 7_000);
    assert_eq!((bench.sent().len(), bench.wake, bench.paused()), (0, Some(bench.now + 7_000), None));
    bench.wake();
    assert_eq!(bench.sent(), [[2]]);
    let mut bench = Bench::with(Limits { concurrency: 1, ..limits() }, both());
    bench.answer_with(bench.call(0), 429, &[("retry-after", "7200")], Value::Null);
    assert_eq!((bench.paused(), bench.settlements()[0].attempts), (Some("throttled"), 0));
}

#[test]
fn lost_is_retried_unless_it_can_never_be() {
    for (refused, dead) in [(false, false), (true, true)] {
        let mut bench = Bench::with(limits(), vec![parcel(1, vec![facts()])]);
        let lost = Lost { sent: false, refused, why: Reason::new("private_address", "10.0.0.1") };
        bench.hear(Happened::Answered { call: bench.call(0), answer: Err(lost) });
        assert_eq!(matches!(bench.settlements()[0].outcome, Outcome::Ended { .. }), dead);
        assert_eq!(bench.engine.calls_in_flight(), 0);
    }
}

#[test]
fn a_broken_store_is_given_the_same_again_and_a_lost_fence_closes() {
    let mut bench = Bench::with(limits(), vec![parcel(1, vec![facts()])]);
    bench.answer(bench.call(0), 200, done(1));
    let first = bench.out.clone();
    bench.settled(Err(SettleFailed::Broken));
    assert!(bench.out.is_empty() && !bench.engine.idle());
    bench.wake();
    assert_eq!(bench.out, first);
    bench.settled(Err(SettleFailed::FenceLost));
    assert!(bench.engine.idle());
    bench.hear(Happened::Offered { destination: CRM });
    assert_eq!(bench.out, []);
}

#[test]
fn a_claim_shows_the_past() {
    let mut bench = Bench::with(limits(), vec![parcel(1, vec![facts()])]);
    let call = bench.call(0);
    bench.hear(Happened::Offered { destination: CRM });
    assert_eq!(bench.claims(), 1);
    bench.hear(Happened::Offered { destination: CRM });
    assert_eq!(bench.claims(), 0, "one at a time");
    bench.answer(call, 200, done(1));
    bench.settled(Ok(()));
    bench.claimed(vec![parcel(1, vec![facts()])]);
    assert_eq!((bench.sent().len(), bench.claims()), (0, 1), "it is asked again, for what was offered since");
    bench.hear(Happened::ClaimFailed { destination: CRM });
    assert_eq!((bench.claims(), bench.wake), (0, Some(bench.now + 1_000)));
    bench.wake();
    assert_eq!(bench.claims(), 1);
}

#[test]
fn a_full_queue_is_claimed_again_when_half_of_it_is_gone() {
    let mut bench = Bench::with(Limits { concurrency: 200, batch_max: 1, ..limits() }, {
        let backfill = |id| Parcel { cause: Cause::Backfill, ..parcel(id, vec![facts()]) };
        (1..=70).map(backfill).collect()
    });
    let calls = bench.sends();
    assert_eq!((calls.len(), bench.claims()), (64, 0));
    for (at, (call, _)) in calls.into_iter().enumerate() {
        bench.answer(call, 200, done(1));
        bench.settled(Ok(()));
        assert_eq!(bench.claims(), usize::from(at == 32), "after {at}");
    }
}

#[test]
fn late_answers_find_no_desk_and_the_same_lease_keeps_what_is_in_flight() {
    let mut bench = Bench::with(limits(), vec![parcel(1, vec![facts()])]);
    let call = bench.call(0);
    bench.open(CRM, Limits { concurrency: 1, ..limits() });
    bench.claimed(vec![parcel(1, vec![facts()])]);
    assert_eq!(bench.sent().len(), 0);
    bench.answer(call, 200, done(1));
    assert_eq!(bench.settlements().len(), 1);
    let mut bench = Bench::with(limits(), vec![parcel(1, vec![facts()])]);
    let call = bench.call(0);
    bench.hear(Happened::Closed { destination: CRM });
    bench.answer(call, 200, done(1));
    assert!(bench.out.is_empty() && bench.engine.idle());
}

#[test]
fn draining_sends_nothing_new_and_settles_what_is_in_flight() {
    let mut bench = Bench::with(
        Limits { concurrency: 1, batch_max: 1, ..limits() },
        vec![parcel(1, vec![facts()]), parcel(2, vec![facts()])],
    );
    bench.engine.drain();
    bench.answer(bench.call(0), 200, done(1));
    assert_eq!((bench.settlements().len(), bench.sent().len()), (1, 0));
    bench.settled(Ok(()));
    assert!(bench.engine.idle() && bench.claims() == 0);
}

#[test]
fn one_that_is_left_settles_what_is_in_flight_and_takes_nothing_more() {
    let one = Limits { concurrency: 1, batch_max: 1, ..limits() };
    let mut bench = Bench::with(one.clone(), vec![parcel(1, vec![facts()]), parcel(2, vec![facts()])]);
    let other = DestinationId(2);
    bench.open(other, one);
    let call = CallId(1);
    bench.hear(Happened::Leaving { destination: CRM });
    assert!(!bench.has_left(CRM), "an exchange is in flight");
    bench.hear(Happened::Offered { destination: CRM });
    assert_eq!((bench.claims(), bench.sent().len()), (0, 0));
    bench.answer(call, 200, done(1));
    assert_eq!((bench.settlements().len(), bench.sent().len()), (1, 0));
    assert!(!bench.has_left(CRM), "its settlement is in flight");
    bench.settled(Ok(()));
    assert!(bench.has_left(CRM) && bench.engine.standing(Millis(bench.now), CRM, 0).is_none());
    // What was asked for before comes late; the other desk goes on.
    bench.claimed(vec![parcel(2, vec![facts()])]);
    assert!(bench.out.is_empty());
    let parcels = vec![parcel(3, vec![facts()])];
    bench.hear(Happened::Claimed { destination: other, parcels, next_due: None, more: None });
    assert_eq!(bench.sent(), [[3]]);
}

#[test]
fn one_that_is_left_twice_or_not_served_is_left_at_once() {
    let mut bench = Bench::new(limits());
    for _ in 0..2 {
        bench.hear(Happened::Leaving { destination: CRM });
        assert!(bench.has_left(CRM));
    }
}

#[test]
fn one_that_is_left_while_its_writes_fail_waits_for_them() {
    let mut bench = Bench::with(limits(), vec![parcel(1, vec![facts()])]);
    bench.answer(bench.call(0), 200, done(1));
    bench.hear(Happened::Leaving { destination: CRM });
    let (deliveries, outcome) = (vec![DeliveryId(1)], Err(SettleFailed::Broken));
    bench.hear(Happened::Settled { destination: CRM, deliveries, outcome });
    assert!(!bench.has_left(CRM));
    bench.wake();
    assert_eq!(bench.settlements().len(), 1);
    bench.settled(Ok(()));
    assert!(bench.has_left(CRM));
}

#[test]
fn one_that_hangs_costs_the_others_its_own_slots() {
    let wide =
        Limits { concurrency: 10_000, rate: Rate { count: 10_000, per_ms: 1 }, batch_max: 1, ..limits() };
    let mut bench = Bench::with(wide.clone(), (1..=256).map(|id| parcel(id, vec![facts()])).collect());
    assert_eq!(bench.sends().len(), 256);
    for other in 2..=4 {
        let destination = DestinationId(other);
        bench.open(destination, wide.clone());
        let parcels = (1..=200).map(|id| parcel(id, vec![facts()])).collect();
        bench.hear(Happened::Claimed { destination, parcels, next_due: None, more: None });
    }
    assert_eq!(bench.engine.calls_in_flight(), SENDS_MAX);
    // All slots are taken: the two that wait take turns with each slot that becomes free.
    let mut served = [0; 5];
    for call in 1..=20 {
        bench.answer(CallId(call), 200, done(1));
        for command in &bench.out {
            if let Command::Send { destination, .. } = command {
                served[destination.0 as usize] += 1;
            }
        }
    }
    assert_eq!(served, [0, 0, 0, 10, 10]);
}

/// Says what it takes, whatever that is; gives a verdict too few.
struct Odd(Vec<usize>);

impl Sink for Odd {
    fn plan(&self, items: &[Item], _: &Known) -> Plan {
        let body: Vec<Value> = items.iter().map(|item| json!({ "key": item.key.to_string() })).collect();
        Plan::Send { request: Request::json("POST", "", &json!({ "items": body })), takes: self.0.clone() }
    }

    fn judge(&self, _: &[Item], answer: &Answer) -> Judgement {
        by_status(answer, 7)
    }

    fn probe(&self) -> Request {
        Request::json("GET", "/", &Value::Null)
    }

    fn batch_key(&self, _: &Item) -> Option<String> {
        Some(String::new())
    }
}

#[test]
fn an_odd_connector_does_no_harm() {
    for takes in [vec![], vec![1], vec![0, 9], vec![0, 0]] {
        let mut bench = Bench::new(limits());
        bench.hear(Happened::Opened {
            destination: CRM,
            fence: Fence(2),
            limits: Limits { concurrency: 1, ..limits() },
            sink: Arc::new(Odd(takes.clone())),
            paused: None,
            degraded: false,
        });
        bench.claimed(vec![parcel(1, vec![facts()]), parcel(2, vec![facts()])]);
        bench.answer(bench.call(0), 200, Value::Null);
        let settlements = bench.settlements();
        assert_eq!((settlements.len(), settlements[0].delivery), (1, DeliveryId(1)), "{takes:?}");
        assert_eq!(settlements[0].attempts, 1, "miscounted is a retry");
        assert_eq!(bench.sent(), [[2]]);
    }
}

/// What was handed on stays handed on: with each settlement from then on, and in the progress of its end.
#[test]
fn a_notice_that_is_handed_on_is_named_in_the_settlement_and_remembered() {
    let elsewhere = Elsewhere { destination: DestinationId(9), class: Class::Consent };
    let told = |to| {
        let parcel = Parcel { elsewhere: to, ..parcel(1, vec![log("a")]) };
        let mut bench = Bench::with(limits(), vec![parcel]);
        let verdict = Verdict::handed_on("nobody is known");
        bench.answer(bench.call(0), 200, json!({ "verdicts": [verdict] }));
        let settlement = bench.settlements()[0].clone();
        assert_eq!(ended(&settlement), (State::Skipped, "handed_on"));
        (settlement.hand_on, settlement.progress.len())
    };
    assert_eq!(told(Some(elsewhere)), (Some(elsewhere), 1));
    assert_eq!(told(None), (None, 0));
}

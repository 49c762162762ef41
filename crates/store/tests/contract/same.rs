//! One random history on both back ends: they say the same.

use mailspan_core::{
    Attempt, Cause, Class, DeliveryId, DestinationId, Millis, Offer, Outcome, Progress, Queue, Reason,
    RouteId, Seq, Settlement, SplitMix64, State, Verdict,
};
use mailspan_engine::Fence;
use mailspan_store::{DeliveryRow, EventFilter, FactFilter, Routed, Towards, Write, Wrote};

use crate::harness::{Harness, NOW, event, postgres, receipt, sqlite};

const KINDS: [&str; 6] = [
    "email.opened",
    "email.clicked",
    "email.bounced",
    "email.complained",
    "contact.unsubscribed",
    "contact.subscribed",
];
const SUBJECTS: [&str; 4] = ["a@b.co", "c@b.co", "cus_1\0", ""];

pub async fn both_say_the_same(url: String) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5);
    println!("SEED={seed}");
    history(&[sqlite(), postgres(url).await], &mut SplitMix64(seed), 160).await;
}

struct Two {
    route: RouteId,
    destinations: [DestinationId; 2],
    events: u64,
}

async fn history(hubs: &[Harness; 2], random: &mut SplitMix64, steps: u64) {
    let mut two = None;
    for hub in hubs {
        let destinations = [hub.destination("crm").await, hub.destination("own").await];
        let route = hub.route_id("r").await;
        for name in ["router".to_owned()]
            .into_iter()
            .chain(destinations.map(|destination| format!("destination/{}", destination.0)))
        {
            assert_eq!(hub.lease(&name).await, Fence(1));
        }
        let own = Two { route, destinations, events: 0 };
        let numbers = |two: &Two| (two.route, two.destinations);
        assert!(two.as_ref().is_none_or(|known| numbers(known) == numbers(&own)), "the same numbers on both");
        two = Some(own);
    }
    let mut two = two.unwrap();
    for step in 0..steps {
        // The same dice for both.
        let dice = random.next_u64();
        let mut told = vec![];
        let events = two.events;
        for hub in hubs {
            two.events = events;
            told.push(one_step(hub, &mut two, &mut SplitMix64(dice), Millis(NOW.0 + step as i64)).await);
        }
        assert_eq!(told[0], told[1], "step {step}");
        // A difference stays, so it is found at the next look too.
        if step % 8 == 7 {
            assert_eq!(shown(&hubs[0]).await, shown(&hubs[1]).await, "after step {step}: {}", told[0]);
        }
    }
    let audits = [hubs[0].audit_adds_up().await, hubs[1].audit_adds_up().await];
    assert_eq!(audits[0], audits[1]);
}

async fn one_step(hub: &Harness, two: &mut Two, random: &mut SplitMix64, at: Millis) -> String {
    let write = match random.below(6) {
        0 | 1 => accept(two, random, at),
        2 => route(hub, two, random).await,
        3 => offer(two, random, at),
        _ => settle(hub, two, random, at).await,
    };
    let asked = format!("{write:?}");
    match hub.store.write(write).await {
        Ok(Wrote::Accepted { accepted, again }) => format!("{accepted:?} {again}"),
        Ok(Wrote::Offered { destinations }) => format!("{asked}: {destinations:?}"),
        Ok(Wrote::Settled { promoted, offered, known_after_ms }) => {
            format!("{asked}: promoted {promoted} {offered:?} known {known_after_ms:?}")
        }
        other => format!("{asked}: {other:?}"),
    }
}

fn accept(two: &mut Two, random: &mut SplitMix64, at: Millis) -> Write {
    let arrivals = (0..=random.below(4)).map(|_| {
        two.events += 1;
        let kind = KINDS[random.below(6) as usize];
        let mut one = event(two.events, kind, SUBJECTS[random.below(4) as usize]);
        one.event.test = random.chance(5);
        one.event.transmission = random.chance(50).then(|| format!("t{}", random.below(4)));
        one.event.received_at = at;
        one
    });
    let mut receipt = receipt(arrivals.collect());
    receipt.received_at = at;
    Write::Accept(Box::new(receipt))
}

async fn route(hub: &Harness, two: &Two, random: &mut SplitMix64) -> Write {
    let waiting = hub.store.unrouted(8).await.unwrap();
    let routed = waiting.into_iter().map(|event| {
        let mut to = vec![];
        for destination in two.destinations {
            if random.chance(70) {
                let (route, class, ordered) = (two.route, event.event_type.class(), random.chance(85));
                let failed = random.chance(10).then(|| Reason::new("bad", "a \0 in it"));
                to.push(Towards { route, destination, class, failed, ordered });
            }
        }
        let times = mailspan_core::LastTimes::of(&event);
        Routed { event, to, opens: random.below(2) as u32, clicks: 0, times }
    });
    Write::Route { fence: Fence(1), routed: routed.collect() }
}

fn offer(two: &Two, random: &mut SplitMix64, at: Millis) -> Write {
    let offers = (0..=random.below(5)).map(|_| Offer {
        event: Seq(1 + random.below(two.events.max(1)) as i64),
        route: two.route,
        destination: two.destinations[random.below(2) as usize],
        class: [Class::Consent, Class::Profile, Class::Activity][random.below(3) as usize],
        cause: [Cause::Replay, Cause::Backfill][random.below(2) as usize],
        ordered: random.chance(80),
    });
    Write::Offer { offers: offers.collect(), again: random.chance(50), at }
}

/// Heads and those that wait, in any order, some twice.
async fn settle(hub: &Harness, two: &Two, random: &mut SplitMix64, at: Millis) -> Write {
    let place = random.below(2) as usize;
    let mut settlements: Vec<Settlement> = vec![];
    for row in hub.all().await.iter().filter(|row| row.destination.as_str() == ["crm", "own"][place]) {
        let percent = if row.due.is_some() { 60 } else { 20 };
        if row.state != State::Pending || !random.chance(percent) {
            continue;
        }
        for _ in 0..=u64::from(random.chance(10)) {
            settlements.push(Settlement {
                delivery: row.id,
                outcome: outcome(row, random, at),
                attempts: row.attempts + 1,
                crashes: 0,
                progress: vec![Progress {
                    verdict: random.chance(60).then_some(Verdict::Done),
                    ..Progress::default()
                }],
                attempt: random.chance(80).then_some(0),
                hand_on: None,
            });
        }
    }
    if random.chance(50) {
        settlements.reverse();
    }
    let answer = random.chance(50).then(|| "no \0 way".to_owned());
    let attempt = Attempt { at, took_ms: 1, items: 1, status: 200, request: None, answer };
    let (destination, attempts) = (two.destinations[place], vec![attempt]);
    Write::Settle { destination, fence: Fence(1), settlements, attempts, at }
}

fn outcome(row: &DeliveryRow, random: &mut SplitMix64, at: Millis) -> Outcome {
    let lower = [Class::Profile, Class::Activity][random.below(2) as usize].max(row.class);
    let due = Millis(at.0 + random.below(100) as i64);
    let reason = random.chance(50).then(|| Reason::new("busy", "503"));
    match random.below(8) {
        0 => Outcome::Ended { state: State::Dead, reason },
        1 => Outcome::Ended { state: State::Skipped, reason },
        2 => Outcome::CarriedBy { delivery: DeliveryId(row.id.0 + 1) },
        3 => Outcome::Again { due, queue: Queue::Retry, class: row.class, reason },
        4 | 5 => Outcome::Again { due, queue: Queue::Retry, class: lower, reason },
        6 => Outcome::Progressed,
        _ => Outcome::Ended { state: State::Delivered, reason: None },
    }
}

/// What can be read; numbers of persons may have gaps, zero characters are replaced on PostgreSQL.
async fn shown(hub: &Harness) -> Vec<String> {
    let mut shown = vec![];
    let rows = hub.all().await;
    for row in &rows {
        shown.push(format!("{row:?}"));
        shown.push(format!("{:?}", hub.store.progress(row.id).await.unwrap()));
    }
    for row in rows.iter().rev().take(8) {
        shown.push(format!("{:?}", hub.store.attempts(row.id).await.unwrap()));
    }
    for row in hub.store.events(EventFilter { limit: 30, ..Default::default() }).await.unwrap() {
        shown.push(format!("{} {} {}", row.place, row.deliveries, row.several_recipients));
    }
    shown.push(format!(
        "{:?}",
        hub.store.facts(FactFilter { limit: 1_000, ..Default::default() }).await.unwrap()
    ));
    for destination in hub.store.work().await.unwrap() {
        let (claims, next) = hub.store.claim(destination, [2; 6], Millis(NOW.0 + 200)).await.unwrap();
        let heads = claims.iter().map(|claim| claim.delivery).collect();
        for (head, claim) in hub.store.behind(destination, heads).await.unwrap() {
            shown.push(format!("{} behind {}", claim.delivery.0, head.0));
        }
        shown.push(format!("{}", hub.store.spent_since(destination, NOW).await.unwrap()));
        for claim in claims {
            let person = claim
                .person
                .map(|person| (person.subject, person.opens, person.opted_in_at, person.opted_out_at));
            shown.push(format!("{} {:?} {person:?} {:?}", claim.delivery.0, claim.times, claim.since));
        }
        shown.push(format!("{next:?} {:?}", hub.store.standing(destination).await.unwrap()));
    }
    shown.into_iter().map(|text| text.replace("\\0", "\u{fffd}")).collect()
}

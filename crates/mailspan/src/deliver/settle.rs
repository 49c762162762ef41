//! Settling: what the engine concluded goes to the store, and the engine hears when it is kept.

use mailspan_core::limits::ENDPOINT_ANSWER_CHARS_MAX;
use mailspan_core::{Attempt, DeliveryId, DestinationId, Outcome, Reason, Settlement, State};
use mailspan_engine::{Fence, Happened, SettleFailed};
use mailspan_store::{DeliveryRow, Say, Trouble, Write, Wrote};

use crate::app::App;
use crate::drill;
use crate::intake::system;
use crate::runtime;
use crate::telemetry::quiet::quiet;

/// Settlements of one write: a few milliseconds of the writer, so that intake does not wait for long.
const SETTLEMENTS_MAX: usize = 256;

/// Settlements that came at once: those of a destination share a write.
#[derive(Default)]
pub struct Settles {
    pub all: Vec<Settle>,
}

/// One write. The engine gave it in parts and hears of each.
pub struct Settle {
    destination: DestinationId,
    fence: Fence,
    parts: Vec<Part>,
}

/// Settlements name their attempts by position.
struct Part {
    settlements: Vec<Settlement>,
    attempts: Vec<Attempt>,
}

impl Settles {
    pub fn add(
        &mut self,
        destination: DestinationId,
        fence: Fence,
        settlements: Vec<Settlement>,
        attempts: Vec<Attempt>,
    ) {
        let fits = |write: &&mut Settle| {
            write.destination == destination
                && write.fence == fence
                && write.len() + settlements.len() <= SETTLEMENTS_MAX
        };
        let found = self.all.iter_mut().find(fits);
        let part = Part { settlements, attempts };
        match found {
            Some(write) => write.parts.push(part),
            None => self.all.push(Settle { destination, fence, parts: vec![part] }),
        }
    }
}

impl Settle {
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.settlements.len()).sum()
    }

    pub async fn write(self, app: &App) {
        let Settle { destination, fence, parts } = self;
        let outcome = keep(app, destination, fence, &parts).await;
        if parts.len() == 1 || outcome != Err(SettleFailed::Broken) {
            return told(app, destination, &parts, outcome).await;
        }
        // What the store cannot take of one must not hold up the others.
        for part in parts {
            let part = [part];
            let outcome = keep(app, destination, fence, &part).await;
            told(app, destination, &part, outcome).await;
        }
    }
}

/// Writes parts as one; the destinations that have a new head of a lane: this one, and those that something was
/// handed on to.
async fn keep(
    app: &App,
    destination: DestinationId,
    fence: Fence,
    parts: &[Part],
) -> Result<Vec<DestinationId>, SettleFailed> {
    let (settlements, mut attempts) = joined(parts);
    show_answers(app, destination, &settlements, &mut attempts);
    let say = said(app, destination, &settlements);
    let says = !say.is_empty();
    let write = Write::Settle { destination, fence, settlements, attempts, at: runtime::now(), say };
    let wrote = drill::begun("settle-in-commit", app.store.write(write)).await;
    if wrote.is_ok() {
        drill::point("settle-after-commit");
        if says {
            app.route_wake.notify_one();
        }
    }
    match wrote {
        Ok(Wrote::Settled { promoted, mut offered, known_after_ms }) => {
            app.metrics.unsubscribes_known(&known_after_ms);
            offered.extend(promoted.then_some(destination));
            Ok(offered)
        }
        Ok(_) => Ok(vec![destination]),
        Err(Trouble::FenceLost) => Err(SettleFailed::FenceLost),
        Err(trouble) => {
            tracing::warn!("settlements wait: {trouble}");
            Err(SettleFailed::Broken)
        }
    }
}

/// The log of a webhook endpoint shows its last answer, whatever it was; of other destinations failures alone are
/// kept.
fn show_answers(app: &App, destination: DestinationId, settlements: &[Settlement], attempts: &mut [Attempt]) {
    if !app.live().is_endpoint(destination) {
        return;
    }
    for settlement in settlements {
        let Some(attempt) = settlement.attempt.and_then(|place| attempts.get_mut(place)) else { continue };
        if attempt.answer.is_none() && attempt.status > 0 {
            let said = app.said.of(settlement.delivery).pop();
            attempt.answer = said.map(|said| said.answer.chars().take(ENDPOINT_ANSWER_CHARS_MAX).collect());
        }
    }
}

/// What is said of those that become dead letters, where a route takes it.
fn said(
    app: &App,
    destination: DestinationId,
    settlements: &[Settlement],
) -> Vec<(DeliveryId, Say<DeliveryRow>)> {
    let live = app.live();
    let Some(settings) = live.destinations.get(&destination) else { return Vec::new() };
    let is_dead = |one: &&Settlement| matches!(one.outcome, Outcome::Ended { state: State::Dead, .. });
    let say = |one: &Settlement| Some((one.delivery, system::of_dead(&live, &settings.tenant)?));
    settlements.iter().filter(is_dead).filter_map(say).collect()
}

fn joined(parts: &[Part]) -> (Vec<Settlement>, Vec<Attempt>) {
    let (mut settlements, mut attempts) = (Vec::new(), Vec::new());
    for part in parts {
        let before = attempts.len();
        settlements.extend(part.settlements.iter().cloned().map(|settlement| Settlement {
            attempt: settlement.attempt.map(|position| position + before),
            ..settlement
        }));
        attempts.extend(part.attempts.iter().cloned());
    }
    (settlements, attempts)
}

/// Tells the engine, the metrics and whoever waits.
async fn told(
    app: &App,
    destination: DestinationId,
    parts: &[Part],
    outcome: Result<Vec<DestinationId>, SettleFailed>,
) {
    let ended: Vec<_> = parts.iter().flat_map(|part| ended(&part.settlements)).collect();
    for part in parts {
        let deliveries: Vec<DeliveryId> =
            part.settlements.iter().map(|settlement| settlement.delivery).collect();
        if let Some(note) = app.newest.get().filter(|_| outcome.is_ok()) {
            note.kept(&deliveries);
        }
        let outcome = outcome.as_ref().map(|_| ()).map_err(|failed| *failed);
        app.tell(Happened::Settled { destination, deliveries, outcome }).await;
    }
    if outcome.is_ok() {
        count(app, destination, &ended);
    }
    for destination in outcome.unwrap_or_default() {
        app.tell(Happened::Offered { destination }).await;
    }
    app.has_moved();
}

/// Deliveries that end, for metrics and log: counted once they are settled.
fn ended(settlements: &[Settlement]) -> Vec<(DeliveryId, State, Option<Reason>)> {
    let ended = |settlement: &Settlement| match &settlement.outcome {
        Outcome::Ended { state, reason } => Some((settlement.delivery, *state, reason.clone())),
        Outcome::CarriedBy { .. } => Some((settlement.delivery, State::Coalesced, None)),
        Outcome::Again { .. } | Outcome::Progressed => None,
    };
    settlements.iter().filter_map(ended).collect()
}

fn count(app: &App, destination: DestinationId, ended: &[(DeliveryId, State, Option<Reason>)]) {
    let live = app.live();
    let Some(settings) = live.destinations.get(&destination) else { return };
    for (delivery, state, reason) in ended {
        app.metrics.settled(&settings.name, state.name());
        if *state == State::Dead {
            let why = reason.as_ref().map(quiet).unwrap_or_default();
            tracing::warn!(
                destination = %settings.name, delivery = delivery.0,
                "dead letter: {why}; see `mailspan dead-letters show {}`", delivery.0
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use mailspan_core::Millis;

    use super::*;

    fn settlements(deliveries: std::ops::Range<i64>) -> Vec<Settlement> {
        let one = |delivery| Settlement {
            delivery: DeliveryId(delivery),
            outcome: Outcome::Progressed,
            attempts: 1,
            crashes: 0,
            progress: vec![],
            attempt: Some(0),
            hand_on: None,
        };
        deliveries.map(one).collect()
    }

    fn attempt(items: u32) -> Attempt {
        Attempt { at: Millis(0), took_ms: 0, items, status: 200, request: None, answer: None }
    }

    #[test]
    fn those_of_a_destination_share_a_write_and_keep_their_attempts() {
        let mut settles = Settles::default();
        let (one, other) = (DestinationId(1), DestinationId(2));
        settles.add(one, Fence(1), settlements(1..3), vec![attempt(2)]);
        settles.add(other, Fence(1), settlements(3..4), vec![attempt(1)]);
        settles.add(one, Fence(1), settlements(4..5), vec![attempt(1)]);
        settles.add(one, Fence(2), settlements(5..6), vec![attempt(1)]);
        settles.add(one, Fence(1), settlements(10..10 + SETTLEMENTS_MAX as i64), vec![attempt(256)]);
        let sizes: Vec<_> = settles.all.iter().map(Settle::len).collect();
        assert_eq!(sizes, [3, 1, 1, SETTLEMENTS_MAX]);
        let (settlements, attempts) = joined(&settles.all[0].parts);
        let named: Vec<_> = settlements.iter().map(|s| (s.delivery.0, s.attempt)).collect();
        assert_eq!(named, [(1, Some(0)), (2, Some(0)), (4, Some(1))]);
        assert_eq!(attempts.iter().map(|attempt| attempt.items).collect::<Vec<_>>(), [2, 1]);
    }
}

//! Runs the engine: what happened goes in, commands come out and are carried out.

use std::sync::Arc;

use mailspan_core::{
    Answer, Attempt, DeliveryId, DestinationId, Lost, Millis, Outcome, Parcel, Reason, Request, Settlement,
    State,
};
use mailspan_engine::{CallId, Command, Engine, Fence, Happened, SettleFailed};
use mailspan_store::{Claim, Trouble, Write, Wrote};
use tokio::sync::mpsc;

use crate::app::App;
use crate::deliver::{claim, sign};
use crate::drill;
use crate::intake::system;
use crate::runtime;

/// Runs until told to stop and nothing is in flight any more, or `DRAIN_MS_MAX` is over.
pub async fn run(app: App, mut inbox: mpsc::Receiver<Happened>) {
    let mut engine = Engine::new(runtime::random_u64());
    let mut commands = Vec::new();
    let mut wake: Option<Millis> = None;
    let mut stop = app.stop.clone();
    let mut draining = false;
    loop {
        if draining && engine.idle() {
            return;
        }
        let timer = async {
            match wake {
                Some(at) => runtime::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let happened = tokio::select! {
            happened = inbox.recv() => match happened {
                Some(happened) => happened,
                None => return,
            },
            () = timer => {
                wake = None;
                Happened::Tick
            }
            _ = stop.changed(), if !draining => {
                draining = true;
                engine.drain();
                continue;
            }
        };
        engine.step(runtime::steady(), happened, &mut commands);
        for command in commands.drain(..) {
            match command {
                Command::WakeAt(at) => wake = Some(wake.map_or(at, |earlier| earlier.min(at))),
                other => carry_out(&app, other),
            }
        }
    }
}

fn carry_out(app: &App, command: Command) {
    let app = app.clone();
    match command {
        Command::Claim { destination, room } => runtime::spawn(async move {
            let happened = claim(&app, destination, room).await;
            app.tell(happened).await;
        }),
        Command::Send { call, destination, request } => runtime::spawn(async move {
            let answer = send(&app, destination, request).await;
            app.tell(answered(call, answer)).await;
        }),
        Command::Settle { destination, fence, settlements, attempts } => runtime::spawn(async move {
            settle(&app, destination, fence, settlements, attempts).await;
        }),
        Command::Stand { destination, paused } => runtime::spawn(async move {
            stand(&app, destination, paused).await;
        }),
        Command::WakeAt(_) => {}
    }
}

fn answered(call: CallId, answer: Result<Answer, Lost>) -> Happened {
    Happened::Answered { call, answer }
}

async fn claim(app: &App, destination: DestinationId, room: [u16; 6]) -> Happened {
    match app.store.claim(destination, room, runtime::steady()).await {
        Ok((claims, next_due)) => {
            drill::point("claim");
            let parcels = map(app, destination, claims);
            Happened::Claimed { destination, parcels, next_due }
        }
        Err(trouble) => {
            tracing::warn!("deliveries could not be read: {trouble}");
            Happened::ClaimFailed { destination }
        }
    }
}

fn map(app: &App, destination: DestinationId, claims: Vec<Claim>) -> Vec<Parcel> {
    let (live, flight) = (app.live(), app.flight.get());
    // Horizons count from a time of the wall clock, which may have been set back since.
    let ahead = runtime::steady().since(runtime::now());
    let parcel = |row: Claim| {
        flight.inspect(|flight| flight.mapping(destination, row.event.id));
        let mut parcel = claim::parcel(&live, row);
        parcel.since = parcel.since.plus(ahead);
        parcel
    };
    let parcels = claims.into_iter().map(parcel).collect();
    flight.inspect(|flight| flight.mapped(destination));
    parcels
}

async fn send(app: &App, destination: DestinationId, request: Request) -> Result<Answer, Lost> {
    let live = app.live();
    let Some(settings) = live.destinations.get(&destination).cloned() else {
        let why = Reason::new("no_destination", "its destination is not in the configuration any more");
        return Err(Lost { sent: false, refused: false, why });
    };
    let request = sign::sign(&settings, request, runtime::now()).map_err(|why| Lost {
        sent: false,
        refused: true,
        why,
    })?;
    let egress = Arc::clone(&live.egress);
    drill::point("send-before");
    let answer = egress.send(&settings.target, request).await;
    drill::point("send-after");
    app.metrics.exchange(&settings.name, answer.as_ref().map_or(0, |answer| answer.status));
    answer
}

async fn settle(
    app: &App,
    destination: DestinationId,
    fence: Fence,
    settlements: Vec<Settlement>,
    attempts: Vec<Attempt>,
) {
    let deliveries = settlements.iter().map(|settlement| settlement.delivery).collect();
    let dead: Vec<DeliveryId> = settlements.iter().filter(|s| is_dead(s)).map(|s| s.delivery).collect();
    count(app, destination, &settlements);
    let at = runtime::now();
    let write = app.store.write(Write::Settle { destination, fence, settlements, attempts, at });
    let wrote = drill::begun("settle-in-commit", write).await;
    if wrote.is_ok() {
        drill::point("settle-after-commit");
    }
    let (outcome, promoted) = match wrote {
        Ok(Wrote::Settled { promoted }) => (Ok(()), promoted),
        Ok(_) => (Ok(()), true),
        Err(Trouble::FenceLost) => (Err(SettleFailed::FenceLost), false),
        Err(trouble) => {
            tracing::warn!("settlements wait: {trouble}");
            (Err(SettleFailed::Broken), false)
        }
    };
    app.tell(Happened::Settled { destination, deliveries, outcome }).await;
    if outcome.is_ok() {
        for id in dead {
            system::dead_letter(app, id).await;
        }
    }
    if promoted {
        app.tell(Happened::Offered { destination }).await;
    }
    app.has_moved();
}

fn is_dead(settlement: &Settlement) -> bool {
    matches!(settlement.outcome, Outcome::Ended { state: State::Dead, .. })
}

fn count(app: &App, destination: DestinationId, settlements: &[Settlement]) {
    let live = app.live();
    let Some(settings) = live.destinations.get(&destination) else { return };
    for settlement in settlements {
        if let Outcome::Ended { state, reason } = &settlement.outcome {
            app.metrics.settled(&settings.name, state.name());
            if *state == State::Dead {
                let why = reason.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(
                    destination = %settings.name, delivery = settlement.delivery.0,
                    "dead letter: {why}; see `mailspan dead-letters show {}`", settlement.delivery.0
                );
            }
        }
    }
}

async fn stand(app: &App, destination: DestinationId, paused: Option<Reason>) {
    let live = app.live();
    let name = live.destinations.get(&destination).map(|d| d.name.to_string()).unwrap_or_default();
    match &paused {
        Some(reason) => tracing::warn!(
            destination = name,
            "paused, its queue is kept: {reason}; mend it, then `mailspan destinations resume {name}`"
        ),
        None => tracing::info!(destination = name, "active again"),
    }
    if let Some(settings) = live.destinations.get(&destination) {
        system::standing(app, &settings.tenant, &settings.name, paused.as_ref()).await;
    }
    let write = Write::Stand { destination, paused, at: runtime::now() };
    if let Err(trouble) = app.store.write(write).await {
        tracing::warn!(destination = name, "its standing could not be kept: {trouble}");
    }
    app.has_moved();
}

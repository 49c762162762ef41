//! The load generator. Open loop: every event has an instant at which it should be sent, whatever became
//! of those before, and its latency counts from there; so a hub that stalls cannot hide it by slowing
//! the generator down. Full speed: each connection sends as soon as it was answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::event::Maker;
use super::link::Link;
use crate::runtime;

/// Events of one connection that are due and not sent yet, before the pacer waits; their instants stay.
const DUE_MAX: usize = 1_024;
/// At full speed, events between their acknowledgement and the receiver.
const UNDERWAY_MAX: u64 = 10_000;
const UNDERWAY_LOOK_MS: u64 = 1;
/// After a failed exchange; else a hub that is gone would be asked a million times.
const AFTER_FAILURE_MS: u64 = 100;

/// Where events go and who makes them.
#[derive(Clone)]
pub struct Aim {
    pub address: SocketAddr,
    pub path: &'static str,
    pub maker: Arc<Maker>,
    pub connections: u64,
    /// Events in one request at full speed.
    pub per_request: u64,
    /// All times are counted from here.
    pub epoch: Instant,
    /// How many deliveries the receiver has counted, and how many an event makes; nothing where none arrive.
    pub arrived: Option<(Arc<AtomicU64>, u64)>,
}

#[derive(Debug, Clone, Copy)]
pub enum Pace {
    Open { per_second: u64, events: u64 },
    Full { ms: u64, events_max: u64 },
}

/// One event that was sent; times in microseconds from the epoch.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub index: u64,
    pub intended: u64,
    /// Nothing where no 200 came.
    pub acknowledged: Option<u64>,
    /// What the hub named it; 0 where it named nothing.
    pub hub_id: u128,
}

/// What was sent in one load.
#[derive(Debug, Default)]
pub struct Load {
    pub sent: Vec<Sent>,
    /// The first answer that was no 200, or the first error.
    pub trouble: Option<String>,
    /// The round that the next load of the same run starts with, so that no number comes twice.
    pub next_round: u64,
}

/// Sends; `first_round` is `next_round` of the load before.
pub async fn run(aim: &Aim, pace: Pace, first_round: u64) -> Load {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut senders = Vec::new();
    for connection in 0..aim.connections {
        let mut sender = Sender::new(aim.clone(), connection, acknowledged.clone());
        // Where that fails the first request tries again, and its trouble is reported.
        let _ = sender.link.open().await;
        senders.push(sender);
    }
    let began = micros(aim.epoch);
    let mut ends = Vec::new();
    let mut queues = Vec::new();
    for mut sender in senders {
        let (done, end) = oneshot::channel();
        ends.push(end);
        match pace {
            Pace::Open { .. } => {
                let (queue, due) = mpsc::channel(DUE_MAX);
                queues.push(queue);
                runtime::spawn(async move {
                    sender.open(due).await;
                    let _ = done.send(sender);
                });
            }
            Pace::Full { ms, events_max } => {
                let rounds = first_round..first_round + events_max / aim.connections;
                let until = began + ms * 1_000;
                runtime::spawn(async move {
                    sender.full(rounds, until).await;
                    let _ = done.send(sender);
                });
            }
        }
    }
    if let Pace::Open { per_second, events } = pace {
        let epoch = aim.epoch;
        drop(runtime::thread("pacer", move || pace_events(&queues, epoch, first_round, per_second, events)));
    }
    let mut load = Load { next_round: first_round, ..Load::default() };
    for end in ends {
        let Ok(sender) = end.await else { continue };
        load.sent.extend(&sender.sent);
        load.trouble = load.trouble.or(sender.trouble);
        load.next_round = load.next_round.max(sender.next_round);
    }
    load
}

/// Hands each event to its connection at its instant. A thread of its own: the timers of the async
/// runtime wake by the millisecond, which would be a part of every latency.
fn pace_events(
    queues: &[mpsc::Sender<(u64, u64)>],
    epoch: Instant,
    first_round: u64,
    per_second: u64,
    events: u64,
) {
    let began = micros(epoch);
    let connections = queues.len() as u64;
    for (event, queue) in (0..events).zip(queues.iter().cycle()) {
        let intended = began + event * 1_000_000 / per_second;
        let now = micros(epoch);
        if intended > now {
            runtime::pause(Duration::from_micros(intended - now));
        }
        if queue.blocking_send((first_round + event / connections, intended)).is_err() {
            return;
        }
    }
}

/// One connection and what it sent.
struct Sender {
    aim: Aim,
    connection: u64,
    link: Link,
    acknowledged: Arc<AtomicU64>,
    sent: Vec<Sent>,
    trouble: Option<String>,
    next_round: u64,
}

impl Sender {
    fn new(aim: Aim, connection: u64, acknowledged: Arc<AtomicU64>) -> Sender {
        let link = Link::new(aim.address);
        Sender { aim, connection, link, acknowledged, sent: Vec::new(), trouble: None, next_round: 0 }
    }

    async fn open(&mut self, mut due: mpsc::Receiver<(u64, u64)>) {
        while let Some((round, intended)) = due.recv().await {
            self.send(round..round + 1, intended).await;
        }
    }

    async fn full(&mut self, rounds: std::ops::Range<u64>, until: u64) {
        let step = self.aim.per_request.max(1);
        for round in rounds.step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            while self.too_many_underway() && micros(self.aim.epoch) < until {
                runtime::sleep(UNDERWAY_LOOK_MS).await;
            }
            let now = micros(self.aim.epoch);
            if now >= until {
                return;
            }
            self.send(round..round + step, now).await;
        }
    }

    /// What waits in a hub grows without end at full speed where it takes faster than it delivers.
    fn too_many_underway(&self) -> bool {
        let Some((arrived, of_each)) = &self.aim.arrived else { return false };
        let arrived = arrived.load(Ordering::Relaxed) / of_each;
        self.acknowledged.load(Ordering::Relaxed).saturating_sub(arrived) > UNDERWAY_MAX
    }

    /// One request with an event of each round.
    async fn send(&mut self, rounds: std::ops::Range<u64>, intended: u64) {
        self.next_round = rounds.end;
        let indices: Vec<u64> = rounds.map(|round| self.connection + self.aim.connections * round).collect();
        let (body, signature) = self.aim.maker.request(&indices);
        let proof = Some(("x-mailtarget-signature", signature.as_str()));
        let (mut acknowledged, mut ids) = (None, Vec::new());
        match self.link.post(self.aim.path, proof, body).await {
            Ok((200, body)) => {
                acknowledged = Some(micros(self.aim.epoch));
                ids = hub_ids(&body);
                self.acknowledged.fetch_add(indices.len() as u64, Ordering::Relaxed);
            }
            Ok((status, body)) => {
                let text = String::from_utf8_lossy(&body);
                self.failed(format!("answered {status}: {}", mailspan_core::clip(&text, 200))).await;
            }
            Err(error) => self.failed(format!("{error:#}")).await,
        }
        let ids = ids.into_iter().chain(std::iter::repeat(0));
        let sent = |(index, hub_id)| Sent { index, intended, acknowledged, hub_id };
        self.sent.extend(indices.into_iter().zip(ids).map(sent));
    }

    async fn failed(&mut self, trouble: String) {
        self.trouble.get_or_insert(trouble);
        runtime::sleep(AFTER_FAILURE_MS).await;
    }
}

/// Microseconds since the epoch.
pub fn micros(epoch: Instant) -> u64 {
    u64::try_from(runtime::instant().saturating_duration_since(epoch).as_micros()).unwrap_or(u64::MAX)
}

/// Those of `"ids":["…"]`; a parser for the whole answer would cost more than the answer is worth.
fn hub_ids(answer: &[u8]) -> Vec<u128> {
    let text = std::str::from_utf8(answer).unwrap_or_default();
    let list = text.split_once("\"ids\":[").and_then(|(_, rest)| rest.split_once(']'));
    let ids = list.map_or("", |(list, _)| list).split(',').map(|id| id.trim_matches('"'));
    ids.filter_map(|id| Uuid::parse_str(id).ok()).map(|id| id.as_u128()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_an_answer() {
        let answer = br#"{"accepted":2,"duplicates":0,"ids":["01a2b3c4-0000-7000-8000-000000000001","01a2b3c4-0000-7000-8000-000000000002"],"quarantined":0}"#;
        let first = 0x01a2_b3c4_0000_7000_8000_0000_0000_0001;
        assert_eq!(hub_ids(answer), [first, first + 1]);
        for none in [&b"{}"[..], b"", br#"{"ids":[]}"#, br#"{"ids":["x"]}"#, b"\xff"] {
            assert!(hub_ids(none).is_empty());
        }
    }
}

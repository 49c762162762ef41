//! Arrivals, a node that works on them, and what becomes of it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use mailspan_core::{
    Answer, Attempt, Behind, Class, DeliveryId, DestinationId, Digest, Event, EventId, EventType, Lost,
    Millis, Name, Parcel, Queue, RawValue, Request, Room, Settlement, SplitMix64, Subject,
};
use mailspan_engine::{CallId, Command, Engine, Fault, Fence, Happened, SettleFailed};
use mailspan_sandbox::hubspot::HubSpot;
use mailspan_store::{Arrived, Receipt, Store, Trouble, Write, Wrote};

use super::vendors::{self, Clock, Hook};
use crate::app::Live;
use crate::deliver::claim;
use crate::open::{self, CLOSE_MS_MAX, Opened};
use crate::{config, route};

const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:8080"
public_url = "http://127.0.0.1:8080"

[storage]
url = "sqlite:hub.db"

[sources.app]
kind = "api"

[destinations.crm]
kind = "hubspot"
auth = { kind = "bearer", token = { env = "TOKEN" } }
rate = "10/1s"
concurrency = 4
retry = { calendar = ["1s", "3s", "10s"], for = "30d" }

[destinations.hook]
kind = "http"
url = "https://hook.example.com/events"
rate = "20/1s"
concurrency = 6
retry = { calendar = ["1s", "3s", "10s"], for = "30d" }

[[routes]]
name = "engagement"
from = ["app"]
to = ["crm"]

[[routes]]
name = "hot"
from = ["app"]
events = ["email.*"]
when = ".data.hot == true"
to = ["hook"]
"#;
const TYPES: [&str; 5] =
    ["email.opened", "email.clicked", "contact.subscribed", "contact.unsubscribed", "email.delivered"];
const PEOPLE: usize = 6;
const START: Millis = Millis(1_800_000_000_000);
/// A run that takes more steps does not end.
const STEPS_MAX: usize = 20_000;
const QUEUES: usize = Queue::ALL.len();

/// An event that was accepted.
#[derive(Clone)]
pub struct Known {
    pub event: Event,
    pub hot: bool,
    pub who: usize,
}

pub struct World {
    pub store: Store,
    pub crm: HubSpot,
    pub hook: Hook,
    pub accepted: Vec<Known>,
    pub steps: usize,
    pub seen: BTreeMap<String, usize>,
    pub destinations: BTreeMap<&'static str, DestinationId>,
    live: Live,
    opened: Option<Opened>,
    _folder: tempfile::TempDir,
    clock: Clock,
    random: SplitMix64,
    fault: Option<Fault>,
    engine: Engine,
    epoch: u64,
    router: Fence,
    wake: Option<Millis>,
    now: Millis,
    order: u64,
    queue: BTreeMap<(Millis, u64), Ev>,
}

enum Ev {
    Accept,
    Route {
        epoch: u64,
    },
    Read {
        epoch: u64,
        destination: DestinationId,
        room: Room,
        held: Vec<DeliveryId>,
    },
    Arrive {
        epoch: u64,
        destination: DestinationId,
        call: CallId,
        request: Request,
    },
    /// Of a node that may be dead by then.
    Commit {
        epoch: u64,
        destination: DestinationId,
        fence: Fence,
        settlements: Vec<Settlement>,
        attempts: Vec<Attempt>,
    },
    Hear {
        epoch: u64,
        happened: Happened,
    },
    Wake {
        epoch: u64,
        at: Millis,
    },
    Kill,
}

pub fn address(who: usize) -> String {
    format!("p{who}@example.com")
}

impl World {
    pub async fn new(seed: u64, fault: Option<Fault>) -> World {
        let folder = tempfile::tempdir().unwrap();
        let env = |name: &str| (name == "TOKEN").then(|| "simulated-token".to_owned());
        let options = config::Options { env: &env, names: &[], dev: true };
        let hub = config::read("sim.toml", folder.path(), CONFIG, &options).unwrap();
        let opened = open::store(&hub.storage, &hub.store_keys, 64).await.unwrap();
        let live = Live::new(hub, &opened.store).await.unwrap();
        let clock = Clock::default();
        clock.set(START);
        let people: Vec<String> = (0..PEOPLE).map(address).collect();
        let of = |name: &'static str| (name, live.destination_id(name).unwrap());
        let destinations = BTreeMap::from([of("crm"), of("hook")]);
        let mut world = World {
            store: opened.store.clone(),
            crm: vendors::hubspot(seed, &clock, &people),
            hook: Hook::default(),
            accepted: Vec::new(),
            steps: 0,
            seen: BTreeMap::new(),
            destinations,
            live,
            opened: Some(opened),
            _folder: folder,
            clock,
            random: SplitMix64(seed),
            fault,
            engine: Engine::new(0),
            epoch: 0,
            router: Fence(0),
            wake: None,
            now: START,
            order: 0,
            queue: BTreeMap::new(),
        };
        world.schedule();
        world
    }

    /// Until nothing happens any more; then each event must be where it belongs.
    pub async fn run(&mut self) -> Result<(), String> {
        self.begin().await;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.clock.set(at);
            self.happen(event).await;
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err("it does not end".to_owned());
            }
        }
        let outcome = self.check().await;
        if let Some(opened) = self.opened.take() {
            opened.close(CLOSE_MS_MAX).await;
        }
        outcome
    }

    fn schedule(&mut self) {
        for _ in 0..20 + self.random.below(20) {
            let at = START.plus(self.random.below(15_000));
            self.at(at, Ev::Accept);
        }
        for _ in 0..self.random.below(3) {
            let at = START.plus(1_000 + self.random.below(15_000));
            self.at(at, Ev::Kill);
        }
    }

    /// A node: it takes the leases under the next fences, and whatever waits.
    async fn begin(&mut self) {
        self.epoch += 1;
        self.engine = Engine::with_fault(self.epoch, self.fault);
        self.wake = None;
        self.router = self.lease("router").await;
        for destination in self.destinations.values().copied().collect::<Vec<_>>() {
            let fence = self.lease(&format!("destination/{}", destination.0)).await;
            let settings = self.live.destinations[&destination].clone();
            let (limits, sink) = (settings.limits.clone(), settings.sink.clone());
            self.hear(Happened::Opened { destination, fence, limits, sink, paused: None, degraded: false })
                .await;
        }
        self.at(self.now.plus(1), Ev::Route { epoch: self.epoch });
    }

    /// It has run out at once, so that the next node is given it.
    async fn lease(&self, name: &str) -> Fence {
        let (owner, now) = (u128::from(self.epoch), self.now);
        let write = Write::Lease { name: name.to_owned(), owner, now, until: now };
        match self.store.write(write).await.unwrap() {
            Wrote::Lease { fence: Some(fence) } => fence,
            other => panic!("{other:?}"),
        }
    }

    async fn happen(&mut self, event: Ev) {
        let current = self.epoch;
        match event {
            Ev::Accept => self.accept().await,
            Ev::Kill => {
                self.saw("killed");
                self.begin().await;
            }
            Ev::Commit { epoch, destination, fence, settlements, attempts } => {
                self.commit(epoch, destination, fence, settlements, attempts).await;
            }
            Ev::Route { epoch } if epoch == current => self.route().await,
            Ev::Read { epoch, destination, room, held } if epoch == current => {
                self.read(destination, room, held).await;
            }
            Ev::Arrive { epoch, destination, call, request } => {
                // A node that is dead has sent it all the same.
                let answer = self.ask(destination, &request).await;
                if epoch == current {
                    let happened = Happened::Answered { call, answer };
                    self.after(200, |epoch| Ev::Hear { epoch, happened });
                }
            }
            Ev::Hear { epoch, happened } if epoch == current => self.hear(happened).await,
            Ev::Wake { epoch, at } if epoch == current && self.wake == Some(at) => {
                self.wake = None;
                self.hear(Happened::Tick).await;
            }
            Ev::Route { .. } | Ev::Read { .. } | Ev::Hear { .. } | Ev::Wake { .. } => {}
        }
    }

    /// One event, or two of one person; what they say happened a while ago, in any order.
    async fn accept(&mut self) {
        let who = self.random.below(PEOPLE as u64) as usize;
        let mut arrivals = Vec::new();
        for part in 0..1 + self.random.below(2) as u32 {
            let number = self.accepted.len() as u128 + 1;
            let hot = self.random.chance(50);
            let event = Event {
                seq: None,
                id: EventId::v7(self.now, number),
                tenant: Name::default_tenant(),
                source: Name::new("app"),
                event_type: EventType::known(TYPES[self.random.below(TYPES.len() as u64) as usize]),
                subject: Subject::read(&address(who)),
                time: Millis(self.now.0 - self.random.below(10_000) as i64),
                received_at: self.now,
                test: false,
                transmission: None,
                recipient_role: None,
                extensions: None,
                data: RawValue::from_string(format!("{{\"hot\": {hot}, \"n\": {number}}}")).unwrap().into(),
            };
            self.accepted.push(Known { event: event.clone(), hot, who });
            let dedupe = Some(Digest(number.to_be_bytes()));
            arrivals.push(Arrived { event, part, dedupe, contact: None });
        }
        let receipt = Receipt {
            tenant: Name::default_tenant(),
            source: Name::new("app"),
            credential: "key".to_owned(),
            received_at: self.now,
            digest: Digest([0; 16]),
            packed: None,
            arrivals,
            unreadable: Vec::new(),
            idempotency: None,
            round: None,
            say: Vec::new(),
        };
        self.store.write(Write::Accept(Box::new(receipt))).await.unwrap();
        self.after(20, |epoch| Ev::Route { epoch });
    }

    async fn route(&mut self) {
        let events = self.store.unrouted(100).await.unwrap();
        if events.is_empty() {
            return;
        }
        let routed = events.into_iter().map(|event| route::route(&self.live, event)).collect();
        let wrote = self.store.write(Write::Route { fence: self.router, routed }).await.unwrap();
        if let Wrote::Offered { destinations } = wrote {
            self.offered(destinations);
        }
    }

    fn offered(&mut self, destinations: Vec<DestinationId>) {
        for destination in destinations {
            self.after(5, |epoch| Ev::Hear { epoch, happened: Happened::Offered { destination } });
        }
    }

    async fn hear(&mut self, happened: Happened) {
        let mut out = Vec::new();
        self.engine.step(self.now, happened, &mut out);
        let mut commands = VecDeque::from(out);
        while let Some(command) = commands.pop_front() {
            self.command(command);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Claim { destination, room, held } => {
                self.after(20, |epoch| Ev::Read { epoch, destination, room, held });
            }
            Command::Send { call, destination, request, .. } => {
                self.after(100, |epoch| Ev::Arrive { epoch, destination, call, request });
            }
            Command::Settle { destination, fence, settlements, attempts } => {
                self.after(30, |epoch| Ev::Commit { epoch, destination, fence, settlements, attempts });
            }
            Command::WakeAt(at) => {
                self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at)));
                self.at(at, Ev::Wake { epoch: self.epoch, at });
            }
            Command::Announce { .. } => self.saw("announced"),
            Command::Stand { .. } | Command::Left { .. } => self.saw("stood or left"),
        }
    }

    /// As the shell does: heads, with what waits behind those that may carry it, and the maps of the routes.
    async fn read(&mut self, destination: DestinationId, room: Room, held: Vec<DeliveryId>) {
        let claimed = self.store.claim_beside(destination, room, self.now, held).await.unwrap();
        let more: [bool; QUEUES] =
            std::array::from_fn(|at| room.oldest[at] > 0 && claimed.came[at] >= room.oldest[at]);
        let mut waiting: HashMap<DeliveryId, Vec<Behind>> = HashMap::new();
        if self.live.destinations[&destination].limits.coalesces {
            let updates = claimed.claims.iter().filter(|claim| claim.class == Class::Profile);
            let heads: Vec<DeliveryId> = updates.map(|claim| claim.delivery).collect();
            for (head, row) in self.store.behind(destination, heads).await.unwrap() {
                let Parcel { delivery, attempts, crashes, parts, .. } = claim::parcel(&self.live, row);
                let behind = Behind { delivery, attempts, crashes, parts: parts.unwrap_or_default() };
                waiting.entry(head).or_default().push(behind);
            }
        }
        let mut parcels: Vec<Parcel> =
            claimed.claims.into_iter().map(|row| claim::parcel(&self.live, row)).collect();
        for parcel in &mut parcels {
            assert!(
                !parcel.whole,
                "a CRM is told of events: what it is told waits for no other of its person"
            );
            parcel.behind = waiting.remove(&parcel.delivery).unwrap_or_default();
        }
        let next_due = claimed.next_due;
        let happened = Happened::Claimed { destination, parcels, next_due, more: Some(more) };
        self.after(20, |epoch| Ev::Hear { epoch, happened });
    }

    async fn ask(&mut self, destination: DestinationId, request: &Request) -> Result<Answer, Lost> {
        let is_hook = destination == self.destinations["hook"];
        let answer = match is_hook {
            true => self.hook.ask(request, self.now, &mut self.random),
            false => vendors::ask_hubspot(&self.crm, request, self.now).await,
        };
        let whose = if is_hook { "hook" } else { "hubspot" };
        match &answer {
            Ok(answer) if answer.status >= 500 && !is_hook => self.saw("hubspot 5xx"),
            Ok(answer) => self.saw(&format!("{whose} {}", answer.status)),
            Err(_) => self.saw("lost after it acted"),
        }
        answer
    }

    async fn commit(
        &mut self,
        epoch: u64,
        destination: DestinationId,
        fence: Fence,
        settlements: Vec<Settlement>,
        attempts: Vec<Attempt>,
    ) {
        let deliveries = settlements.iter().map(|settlement| settlement.delivery).collect();
        let write = Write::Settle { destination, fence, settlements, attempts, at: self.now, say: vec![] };
        let outcome = match self.store.write(write).await {
            Ok(Wrote::Settled { promoted, mut offered, .. }) => {
                offered.extend(promoted.then_some(destination));
                self.offered(offered);
                Ok(())
            }
            Err(Trouble::FenceLost) => {
                self.saw("late write refused");
                Err(SettleFailed::FenceLost)
            }
            other => panic!("{other:?}"),
        };
        if epoch == self.epoch {
            let happened = Happened::Settled { destination, deliveries, outcome };
            self.after(5, |epoch| Ev::Hear { epoch, happened });
        }
    }

    fn saw(&mut self, what: &str) {
        *self.seen.entry(what.to_owned()).or_default() += 1;
    }

    /// Of the node that lives now, within so many milliseconds.
    fn after(&mut self, at_most_ms: u64, event: impl FnOnce(u64) -> Ev) {
        let at = self.now.plus(1 + self.random.below(at_most_ms));
        self.at(at, event(self.epoch));
    }

    fn at(&mut self, at: Millis, event: Ev) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }
}

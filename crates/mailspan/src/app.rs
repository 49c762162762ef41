//! What every task and request may use.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use mailspan_core::{DestinationId, Name, Reason, RouteId};
use mailspan_egress::Egress;
use mailspan_engine::{Fence, Happened, Notice, Standing};
use mailspan_store::{NameKind, Store, Trouble};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::contacts::tenants::Tenants;
use crate::deliver::flight::Flight;
use crate::deliver::newest::Newest;
use crate::deliver::said::Said;
use crate::deliver::shell::Ask;
use crate::http::mailingcore::rates::Rates;
use crate::hub::{Destination, Hub, Route};
use crate::intake::refusals::Refusals;
use crate::poll::Rounds;
use crate::telemetry::metrics::Metrics;
use crate::turns::Turns;

/// The configuration in force, with the numbers that the store gave to its names.
pub struct Live {
    pub hub: Hub,
    pub egress: Arc<Egress>,
    pub routes: HashMap<RouteId, Arc<Route>>,
    pub destinations: HashMap<DestinationId, Arc<Destination>>,
    route_ids: HashMap<Name, RouteId>,
    destination_ids: HashMap<Name, DestinationId>,
    source_ids: HashMap<Name, i64>,
}

impl Live {
    /// Gives every route and destination its number.
    pub async fn new(hub: Hub, store: &Store) -> Result<Live, Trouble> {
        let hub = crate::contacts::endpoints::add(hub, store).await?;
        let egress = Arc::new(Egress::new(hub.egress_allow.clone(), crate::runtime::steady_clock()));
        let (mut routes, mut destinations) = (HashMap::new(), HashMap::new());
        let (mut route_ids, mut destination_ids) = (HashMap::new(), HashMap::new());
        let mut source_ids = HashMap::new();
        for source in &hub.sources {
            let id = store.name(&source.tenant, NameKind::Source, &source.name).await?;
            source_ids.insert(source.name.clone(), id);
        }
        for route in &hub.routes {
            let id = RouteId(store.name(&route.tenant, NameKind::Route, &route.name).await?);
            routes.insert(id, route.clone());
            route_ids.insert(route.name.clone(), id);
        }
        for destination in &hub.destinations {
            let id = store.name(&destination.tenant, NameKind::Destination, &destination.name).await?;
            destinations.insert(DestinationId(id), destination.clone());
            destination_ids.insert(destination.name.clone(), DestinationId(id));
        }
        Ok(Live { hub, egress, routes, destinations, route_ids, destination_ids, source_ids })
    }

    /// With numbers of its own, for cases that touch no store.
    pub fn without_store(hub: Hub) -> Live {
        let egress = Arc::new(Egress::new(Vec::new(), crate::runtime::clock()));
        let route_ids: HashMap<_, _> =
            (0..).map(RouteId).zip(&hub.routes).map(|(id, r)| (r.name.clone(), id)).collect();
        let numbered = (0..).map(DestinationId).zip(&hub.destinations);
        let destination_ids: HashMap<_, _> = numbered.map(|(id, d)| (d.name.clone(), id)).collect();
        let routes = hub.routes.iter().map(|route| (route_ids[&route.name], route.clone())).collect();
        let destinations = hub.destinations.iter().map(|d| (destination_ids[&d.name], d.clone())).collect();
        let source_ids = HashMap::new();
        Live { hub, egress, routes, destinations, route_ids, destination_ids, source_ids }
    }

    /// True for a webhook endpoint that the API made.
    pub fn is_endpoint(&self, destination: DestinationId) -> bool {
        self.destinations.get(&destination).is_some_and(|destination| destination.endpoint)
    }

    pub fn route_id(&self, name: &Name) -> Option<RouteId> {
        self.route_ids.get(name).copied()
    }

    /// The number of a source of the configuration.
    pub fn source_id(&self, name: &Name) -> Option<i64> {
        self.source_ids.get(name).copied()
    }

    pub fn destination_id(&self, name: &str) -> Option<DestinationId> {
        self.destination_ids.get(&Name::new(name)).copied()
    }
}

/// What is to be kept of how a destination stands.
pub enum Stood {
    /// Paused or active: with a fence what the engine decided, without one an operator's word.
    Word { destination: DestinationId, fence: Option<Fence>, paused: Option<Reason> },
    /// Its breaker opened or closed.
    Breaker { destination: DestinationId, fence: Fence, what: Notice },
}

/// The ways into a running engine.
pub struct Engine {
    pub happened: mpsc::Sender<Happened>,
    pub asks: mpsc::Sender<Ask>,
    pub stands: mpsc::Sender<Stood>,
}

/// Shared by all; cheap to clone.
#[derive(Clone)]
pub struct App(pub Arc<Shared>);

/// What the last renewal of all leases gave.
#[derive(Clone, Copy)]
struct Leased {
    until: Instant,
    /// How many sessions had been lost when it was asked for.
    lost: u64,
}

pub struct Shared {
    live: RwLock<Arc<Live>>,
    pub store: Store,
    /// Into the engine; nothing in a command that runs without a hub.
    pub engine: Option<mpsc::Sender<Happened>>,
    /// What is mapped and planned just now; nothing in a command that runs without a hub.
    pub flight: OnceLock<Arc<Flight>>,
    /// What is on its way from the newest ends of queues; nothing in a command that runs without a hub.
    pub newest: OnceLock<Newest>,
    asks: Option<mpsc::Sender<Ask>>,
    stands: Option<mpsc::Sender<Stood>>,
    /// Standings that the engine gave, and those of them that are kept.
    pub stood: AtomicU64,
    pub stood_kept: AtomicU64,
    /// Destinations that this process serves, where several share a store; nothing: all.
    owned: Mutex<Option<HashSet<DestinationId>>>,
    /// Destinations that another process shall serve and of which nothing is in flight here any more.
    left: Mutex<Vec<DestinationId>>,
    /// Leases are to be looked at now: the configuration changed, a destination was left.
    pub lease_wake: Notify,
    /// Until when this process may send by its leases; nothing: as long as it lives.
    leased_until: Mutex<Option<Leased>>,
    /// Of the store, where several processes share it.
    lost: Option<watch::Receiver<u64>>,
    /// Who may compute users' programs now.
    pub turns: Turns,
    /// Held while another configuration takes the place of this one.
    pub applying: tokio::sync::Mutex<()>,
    /// Of this process, in leases that it takes for a moment.
    owner: u128,
    /// Another process may have changed webhook endpoints.
    pub endpoints_wake: Notify,
    /// Something waits in `unrouted`.
    pub route_wake: Notify,
    /// Somebody was erased.
    pub erase_wake: Notify,
    /// A job was asked for, paused or resumed.
    pub job_wake: Notify,
    /// A round may be due: the configuration changed, one was asked for.
    pub round_wake: Notify,
    /// Rounds that this process is at.
    pub rounds: Rounds,
    /// Raised whenever deliveries were made or settled: `?wait=` looks again.
    pub moved: watch::Sender<u64>,
    pub metrics: Metrics,
    pub refusals: Refusals,
    pub rates: Rates,
    pub tenants: Tenants,
    pub said: Said,
    /// When the last write was refused by the disk, in milliseconds; 0 once one goes through: not ready until then.
    pub broken_at: AtomicI64,
    /// Raised once, when the program is told to stop.
    pub stop: watch::Receiver<bool>,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    pub fn new(live: Live, store: Store, engine: Option<Engine>, stop: watch::Receiver<bool>) -> App {
        let (engine, asks, stands) = match engine {
            Some(Engine { happened, asks, stands }) => (Some(happened), Some(asks), Some(stands)),
            None => (None, None, None),
        };
        App(Arc::new(Shared {
            live: RwLock::new(Arc::new(live)),
            lost: store.lost(),
            store,
            engine,
            flight: OnceLock::new(),
            newest: OnceLock::new(),
            asks,
            stands,
            stood: AtomicU64::new(0),
            stood_kept: AtomicU64::new(0),
            owned: Mutex::new(None),
            left: Mutex::default(),
            lease_wake: Notify::new(),
            leased_until: Mutex::new(None),
            turns: Turns::default(),
            applying: tokio::sync::Mutex::new(()),
            owner: crate::runtime::random_u128(),
            endpoints_wake: Notify::new(),
            route_wake: Notify::new(),
            erase_wake: Notify::new(),
            job_wake: Notify::new(),
            round_wake: Notify::new(),
            rounds: Rounds::default(),
            moved: watch::channel(0).0,
            metrics: Metrics::new(),
            refusals: Refusals::default(),
            rates: Rates::default(),
            tenants: Tenants::default(),
            said: Said::default(),
            broken_at: AtomicI64::new(0),
            stop,
        }))
    }

    /// The configuration in force now. Hold it for one piece of work, not longer.
    pub fn live(&self) -> Arc<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn swap(&self, live: Live) -> Arc<Live> {
        let mut slot = self.live.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *slot, Arc::new(live))
    }

    /// Who this process is, in leases that it takes for a moment.
    pub fn owner(&self) -> u128 {
        self.owner
    }

    pub fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Tells the engine; without one (a command beside no hub) nothing needs telling.
    pub async fn tell(&self, happened: Happened) {
        if let Some(engine) = &self.engine {
            // The channel closes only when the program ends.
            let _ = engine.send(happened).await;
        }
    }

    /// Several processes share the store: this one serves nothing until it took it.
    pub fn share(&self) {
        *self.owned.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashSet::new());
    }

    /// The engine is through with a destination that another process shall serve.
    pub fn left(&self, destination: DestinationId) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(destination);
        self.lease_wake.notify_one();
    }

    /// Those since the last call.
    pub fn take_left(&self) -> Vec<DestinationId> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This process took or lost a destination.
    pub fn owns(&self, destination: DestinationId, does: bool) {
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        let owned = owned.get_or_insert_default();
        if does {
            owned.insert(destination)
        } else {
            owned.remove(&destination)
        };
    }

    /// True when the desk of a destination is in this process.
    pub fn serves(&self, destination: DestinationId) -> bool {
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        self.engine.is_some() && owned.as_ref().is_none_or(|owned| owned.contains(&destination))
    }

    /// All leases were renewed, asked for at `began`, when so many sessions had been lost.
    pub fn leased_until(&self, began: Instant, ms: u64, lost: u64) {
        let mut leased = self.leased_until.lock().unwrap_or_else(PoisonError::into_inner);
        *leased = Some(Leased { until: began + Duration::from_millis(ms), lost });
    }

    /// By the monotonic clock: a process that was frozen past its leases sends nothing any more. Nor does one
    /// whose session ended, as its leases may be another's.
    pub fn may_send(&self) -> bool {
        let leased = *self.leased_until.lock().unwrap_or_else(PoisonError::into_inner);
        leased.is_none_or(|leased| {
            crate::runtime::instant() < leased.until && self.sessions_lost() == leased.lost
        })
    }

    /// How many sessions that hold leases were lost so far.
    pub fn sessions_lost(&self) -> u64 {
        self.lost.as_ref().map_or(0, |lost| *lost.borrow())
    }

    /// A standing to be kept, after those before it.
    pub fn stand(&self, stood: Stood) {
        let Some(stands) = &self.stands else { return };
        self.stood.fetch_add(1, Ordering::SeqCst);
        if stands.try_send(stood).is_err() {
            self.stood_kept.fetch_add(1, Ordering::SeqCst);
            tracing::error!("more standings wait than can be kept: the store does not answer");
        }
    }

    /// How a destination is doing; nothing where no hub runs or it has no desk.
    pub async fn standing(&self, destination: DestinationId, backlog: u64) -> Option<Standing> {
        let (reply, answer) = oneshot::channel();
        self.asks.as_ref()?.send(Ask { destination, backlog, reply }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// Deliveries were made or settled.
    pub fn has_moved(&self) {
        self.moved.send_modify(|n| *n = n.wrapping_add(1));
    }
}

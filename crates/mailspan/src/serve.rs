//! `mailspan serve`: everything put together.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use mailspan_core::limits::{self, DRAIN_MS_MAX};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::{mpsc, watch};

use crate::app::{App, Engine, Live};
use crate::deliver::{alone, leases, shell, stands, start};
use crate::http::auth::FromSocket;
use crate::http::crowd::Origin;
use crate::http::{router, server};
use crate::hub::{Hub, Role, Storage};
use crate::open::{self, Opened};
use crate::{drill, jobs, poll, reload, route, runtime};

/// With the drain before it, a stop ends within ten seconds.
const CLOSE_MS_MAX: u64 = 1_500;
/// Happenings that wait for the engine: each is small, and who sends waits.
const INBOX_MAX: usize = 4_096;
/// Connections that the kernel keeps until they are accepted; it takes no more than `net.core.somaxconn`.
const BACKLOG: u32 = 4_096;
/// Open files at full load: connections in (two listeners), out, idle ones out, and some for the store.
const FILES_MAX: u64 = 2 * limits::CONNECTIONS_MAX as u64 + 4 * limits::SENDS_MAX as u64;
/// Standings that wait for the store: each destination changes its own a few times an hour.
const STANDS_MAX: usize = 1_024;
/// Questions about destinations that wait for the engine.
const ASKS_MAX: usize = 16;

/// A hub that serves.
pub struct Serving {
    pub app: App,
    opened: Opened,
    /// Of commands, beside a file.
    socket: Option<PathBuf>,
    stop: watch::Sender<bool>,
    ends: Vec<tokio::sync::oneshot::Receiver<()>>,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(hub: Hub) -> anyhow::Result<()> {
    let mut told = runtime::StopSignals::listen()?;
    allow_files();
    let serving = begin(hub).await?;
    tracing::info!("ready");
    told.told().await;
    tracing::info!("stopping: no new work is taken, what is in flight is finished");
    end(serving).await;
    Ok(())
}

/// Every connection is an open file: as many as the machine allows, up to what can be used.
fn allow_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.map_or(FILES_MAX, |most| most.min(FILES_MAX));
    if current.is_some_and(|current| current < most) {
        // Refused: then as many as before.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum });
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(FILES_MAX);
    if allowed < FILES_MAX {
        tracing::warn!(
            "only {allowed} files may be open at once: raise `ulimit -n` to {FILES_MAX} for full load"
        );
    }
}

/// Opens the store, binds, takes the leases, starts every task.
pub async fn begin(hub: Hub) -> anyhow::Result<Serving> {
    // From here on a SIGHUP is heard, though it is answered only once the hub serves.
    let hangups = runtime::hangups().context("listen for SIGHUP")?;
    if matches!(hub.storage, Storage::Sqlite { .. }) && hub.server.role != Role::All {
        bail!(
            "role `{}` needs a store that several processes share: one process serves a SQLite file and does all; leave the role out, or name a PostgreSQL under [storage]",
            hub.server.role.name()
        );
    }
    for warning in &hub.warnings {
        tracing::warn!("{warning}");
    }
    let opened =
        open::to_serve(&hub.storage, &hub.store_keys, hub.intake_queue).await.context("open the store")?;
    let socket = match &hub.storage {
        Storage::Sqlite { path } => Some(open::socket_path(path)),
        // Commands go to the database themselves, and so reach every node.
        Storage::Postgres { .. } => None,
    };
    drill::point("start-after-migrations");
    // Who only receives maps nothing.
    let delivers = hub.server.role.delivers();
    let (flight, newest) =
        (delivers.then(|| open::flight(&hub)).flatten(), delivers.then(|| open::newest(&hub)).flatten());
    let (stop, stopped) = watch::channel(false);
    let (engine, inbox) = mpsc::channel(INBOX_MAX);
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let (stands, standings) = mpsc::channel(STANDS_MAX);
    let (listen, operator_listen, role) = (hub.server.listen, hub.server.operator_listen, hub.server.role);
    let live = Live::new(hub, &opened.store).await.context("register names in the store")?;
    let app = App::new(live, opened.store.clone(), Some(Engine { happened: engine, asks, stands }), stopped);
    let mut serving = Serving { app: app.clone(), opened, socket, stop, ends: Vec::new() };

    let erased =
        crate::erase::again(&app).await.context("erase again who was erased after this store was saved")?;
    let doors = Doors {
        public: bind(listen)?,
        operator: operator_listen.map(bind).transpose()?,
        unix: serving.socket.as_deref().map(open::listen).transpose()?,
    };

    let owner = app.owner();
    serving.task(shell::run(app.clone(), inbox, asked));
    runtime::spawn(stands::keep_standings(app.clone(), standings));
    if let Some((flight, left)) = flight {
        alone::run(&app, &flight, left, owner).await.context("run alone what the last process ended at")?;
        flight.begin();
        app.flight.get_or_init(|| Arc::new(flight));
    }
    newest.map(|note| app.newest.get_or_init(|| note));
    if serving.socket.is_some() {
        serving.serve_file(owner).await?;
    } else {
        serving.share_database(role, owner);
    }
    runtime::spawn(reload::on_signal(app.clone(), owner, hangups));
    runtime::spawn(reload::tell_disabled(app.clone()));
    if role.delivers() {
        serving.task(jobs::retention::run(app.clone()));
        serving.task(jobs::run::run(app.clone(), owner));
        serving.task(poll::follow::run(app.clone(), owner));
        serving.task(crate::erase::run(app.clone(), erased));
    }
    let scheme = if app.live().hub.server.tls.is_some() { "https" } else { "http" };
    // With port 0 the system has chosen one.
    tracing::info!("listening on {scheme}://{}", doors.public.local_addr().unwrap_or(listen));
    runtime::spawn(reload::on_renewal(app.clone(), owner));
    serving.answer(doors);
    Ok(serving)
}

/// Where requests come in.
struct Doors {
    public: TcpListener,
    operator: Option<TcpListener>,
    unix: Option<UnixListener>,
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = || -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // What a connection of the last process left behind does not keep the port.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().with_context(|| format!("listen on {address}: is another program there?"))
}

/// By the configuration in force when the connection comes.
fn reception(app: &App) -> server::Reception {
    let (counts, shows) = (app.clone(), app.clone());
    let shares: server::Shares = Arc::new(move |address| {
        let live = counts.live();
        let server = &live.hub.server;
        (Origin::of(address, &server.trusted_proxies), server.connections_per_address)
    });
    server::Reception { shares, certificates: Arc::new(move || shows.live().hub.server.tls.clone()) }
}

impl Serving {
    /// Everything is this process's.
    async fn serve_file(&mut self, owner: u128) -> anyhow::Result<()> {
        let app = self.app.clone();
        let fence = start::lease(&app.store, "router", owner).await.context("take the router's lease")?;
        start::open_desks(&app, owner).await.context("take the destinations' leases")?;
        self.task(route::follow::follow(app, fence, watch::channel(false).1));
        Ok(())
    }

    /// What this process routes and serves is by lease.
    fn share_database(&mut self, role: Role, owner: u128) {
        tracing::info!(role = role.name(), "this process shares its store with others");
        self.app.share();
        if role.delivers() {
            self.task(leases::keep(self.app.clone(), owner));
        }
        runtime::spawn(leases::listen(self.app.clone()));
        runtime::spawn(reload::follow_endpoints(self.app.clone()));
    }

    fn answer(&mut self, Doors { public, operator, unix }: Doors) {
        let (app, stop) = (self.app.clone(), || self.app.stop.clone());
        let routes = match &operator {
            Some(_) => router::public(app.clone()),
            None => router::all(app.clone()),
        };
        let public = server::serve(public, routes, reception(&app), stop(), runtime::spawner());
        let operator = operator.map(|operator| {
            let routes = router::operator_alone(app.clone());
            server::serve(operator, routes, reception(&app), stop(), runtime::spawner())
        });
        let unix = unix.map(|unix| {
            let commands = router::all(app.clone()).layer(axum::Extension(FromSocket));
            server::serve_unix(unix, commands, stop(), runtime::spawner())
        });
        self.task(public);
        operator.into_iter().for_each(|task| self.task(task));
        unix.into_iter().for_each(|task| self.task(task));
    }

    fn task(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let (done, end) = tokio::sync::oneshot::channel();
        self.ends.push(end);
        runtime::spawn(async move {
            task.await;
            // The receiver is gone when the deadline has passed.
            let _ = done.send(());
        });
    }
}

/// Stops taking work, finishes what is in flight, closes the store. At most `DRAIN_MS_MAX`, then the rest.
pub async fn end(serving: Serving) {
    let Serving { app, opened, socket, stop, ends } = serving;
    // Nobody listens any more only when all have ended already.
    let _ = stop.send(true);
    app.route_wake.notify_one();
    let all = async {
        for end in ends {
            let _ = end.await;
        }
    };
    if runtime::within(DRAIN_MS_MAX, all).await.is_none() {
        tracing::warn!("something was still in flight: it is sent again at the next start");
    }
    if let Some(flight) = app.flight.get() {
        flight.land();
    }
    if let Some(newest) = app.newest.get() {
        newest.land();
    }
    drop(app);
    if let Some(socket) = socket {
        // It is made anew at the next start, whatever becomes of it.
        let _ = std::fs::remove_file(&socket);
    }
    if !opened.close(CLOSE_MS_MAX).await {
        tracing::warn!("the store is still read from: it closes with the process, nothing is lost");
    }
}

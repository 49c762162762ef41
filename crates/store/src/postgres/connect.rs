//! From an address to connections: settings of each session, notifications.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use mailspan_core::DestinationId;
use tokio::sync::{broadcast, watch};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};

use super::base::{Base, Fault, get};
use super::journal::{CHANNEL, ENDPOINTS, STOOD};
use super::moving::WRITES;
use super::names::Names;
use super::tls::{Encrypted, Tls};
use super::url::{Address, CONNECT_WAIT, parse};
use crate::identity::IdentityKey;
use crate::write::Trouble;
use crate::{Heard, OpenError};

/// A way to start tasks: nothing here spawns by itself.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// Each statement ends within half a minute. A transaction that is silent for five seconds is ended: a node that
/// is frozen inside one gives its locks back.
const SETTINGS: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '5s'; SET jit = off; SET client_min_messages = 'warning';
    SET default_transaction_isolation = 'read committed'; SET standard_conforming_strings = on;";
/// All hot statements find their rows by an index; plans made while the tables were small, or before they were
/// analysed, must not say otherwise.
const PLANS: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
    SET enable_bitmapscan = off; SET enable_material = off;";
/// A 2xx must survive a power cut. Plans are made once: each statement has one shape, whatever its values.
const WRITER_SETTINGS: &str = "SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') IN ('off', 'local');
    SET plan_cache_mode = 'force_generic_plan';";
const READER_SETTINGS: &str = "SET default_transaction_read_only = on;";

pub(crate) struct Connector {
    config: Config,
    tls: Tls,
    /// Host and database, without user and password.
    pub place: String,
    pub heard: broadcast::Sender<Heard>,
    /// How many connections of the writer ended.
    pub lost: Arc<watch::Sender<u64>>,
    pub names: Arc<Mutex<Names>>,
    spawn: Spawn,
}

impl Connector {
    pub(crate) fn new(url: &str, spawn: Spawn) -> Result<Connector, OpenError> {
        let Address { config, place, tls } = parse(url)?;
        let heard = broadcast::channel(1_024).0;
        let lost = Arc::new(watch::channel(0).0);
        Ok(Connector { config, tls, place, heard, lost, names: Arc::default(), spawn })
    }

    /// For migrations: no settings, no notifications.
    pub(crate) async fn plain(&self) -> Result<Client, Fault> {
        let (client, connection) = self.connect().await?;
        (self.spawn)(Box::pin(drive(connection)));
        Ok(client)
    }

    pub(crate) async fn reader(&self, key: IdentityKey) -> Result<Base, Fault> {
        let client = self.plain().await?;
        client.batch_execute(SETTINGS).await?;
        client.batch_execute(PLANS).await?;
        client.batch_execute(READER_SETTINGS).await?;
        Ok(Base::new(client, self.names.clone(), key))
    }

    pub(crate) async fn writer(&self, key: IdentityKey) -> Result<Base, Fault> {
        let (client, connection) = self.connect().await?;
        let (heard, lost) = (self.heard.clone(), self.lost.clone());
        (self.spawn)(Box::pin(async move {
            drive_listening(connection, heard).await;
            lost.send_modify(|count| *count += 1);
        }));
        client.batch_execute(SETTINGS).await?;
        client.batch_execute(PLANS).await?;
        client.batch_execute(WRITER_SETTINGS).await?;
        client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
        let may_write = format!("SELECT pg_try_advisory_lock_shared({WRITES})");
        if !client.query_one(&may_write, &[]).await?.get::<_, bool>(0) {
            let why = format!("{} is being moved: wait for the end of `mailspan move`", self.place);
            return Err(Fault::Trouble(Trouble::Broken(why)));
        }
        Ok(Base::new(client, self.names.clone(), key))
    }

    /// The shard of sums that this process adds to.
    pub(crate) async fn shard(&self, base: &Base) -> Result<i64, Fault> {
        let row = base.row("SELECT nextval('shards') % $1::bigint", &[&super::counts::SHARDS]).await?;
        row.map_or(Ok(0), |row| get(&row, 0))
    }

    async fn connect(&self) -> Result<(Client, Connection<Socket, Encrypted>), Fault> {
        match tokio::time::timeout(2 * CONNECT_WAIT, self.config.connect(self.tls.clone())).await {
            Ok(Ok(connected)) => Ok(connected),
            // The driver has no kind for it.
            Ok(Err(error)) if super::base::shown(&error).ends_with("server does not support TLS") => {
                Err(Fault::Trouble(Trouble::Broken(format!(
                    "{} speaks no TLS: switch `ssl` on there, or write sslmode=disable for a network that you trust",
                    self.place
                ))))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Fault::Trouble(Trouble::Broken(format!("{} does not answer", self.place)))),
        }
    }
}

async fn drive(connection: Connection<Socket, Encrypted>) {
    if let Err(error) = connection.await {
        tracing::warn!(cause = %super::base::shown(&error), "a connection to PostgreSQL ended");
    }
}

/// Hands notifications on. Those of this node come too and are harmless; it sends them only for others.
async fn drive_listening(mut connection: Connection<Socket, Encrypted>, heard: broadcast::Sender<Heard>) {
    // What was said before this connection, or between two of them, is looked for.
    let _ = heard.send(Heard::Endpoints);
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(said))) => {
                // Nobody listens: nobody to wake.
                let _ = heard.send(read(said.payload()));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(cause = %super::base::shown(&error), "the writer's connection to PostgreSQL ended");
                return;
            }
            None => return,
        }
    }
}

/// A notification: nothing where events wait for the router, a word, or numbers of destinations. A word of a later
/// version is as good as any hint.
fn read(payload: &str) -> Heard {
    match payload {
        "" => Heard::Accepted,
        STOOD => Heard::Stood,
        ENDPOINTS => Heard::Endpoints,
        ids => Heard::Offered(ids.split(',').filter_map(|id| id.parse().ok()).map(DestinationId).collect()),
    }
}

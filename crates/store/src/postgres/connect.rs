//! From a URL to connections: what is refused before anything is sent, settings of each session, notifications.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailspan_core::DestinationId;
use tokio::sync::{broadcast, watch};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};

use super::base::{Base, Fault, get};
use super::journal::CHANNEL;
use super::names::Names;
use crate::OpenError;
use crate::sqlite::IdentityKey;
use crate::write::Trouble;

/// A way to start tasks: nothing here spawns by itself.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// Until the server has let us in.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A way that is cut is noticed within so long.
const SILENCE_MAX: Duration = Duration::from_secs(10);

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
    /// Host and database, without user and password.
    pub place: String,
    pub offered: broadcast::Sender<Vec<DestinationId>>,
    /// How many connections of the writer ended.
    pub lost: Arc<watch::Sender<u64>>,
    pub names: Arc<Mutex<Names>>,
    spawn: Spawn,
}

impl Connector {
    pub(crate) fn new(url: &str, spawn: Spawn) -> Result<Connector, OpenError> {
        let (config, place) = parse(url)?;
        let offered = broadcast::channel(1_024).0;
        let lost = Arc::new(watch::channel(0).0);
        Ok(Connector { config, place, offered, lost, names: Arc::default(), spawn })
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
        let (offered, lost) = (self.offered.clone(), self.lost.clone());
        (self.spawn)(Box::pin(async move {
            drive_listening(connection, offered).await;
            lost.send_modify(|count| *count += 1);
        }));
        client.batch_execute(SETTINGS).await?;
        client.batch_execute(PLANS).await?;
        client.batch_execute(WRITER_SETTINGS).await?;
        client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
        Ok(Base::new(client, self.names.clone(), key))
    }

    /// The shard of sums that this process adds to.
    pub(crate) async fn shard(&self, base: &Base) -> Result<i64, Fault> {
        let row = base.row("SELECT nextval('shards') % $1::bigint", &[&super::counts::SHARDS]).await?;
        row.map_or(Ok(0), |row| get(&row, 0))
    }

    async fn connect(&self) -> Result<(Client, Connection<Socket, NoTlsStream>), Fault> {
        match tokio::time::timeout(2 * CONNECT_WAIT, self.config.connect(NoTls)).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Fault::Trouble(Trouble::Broken(format!("{} does not answer", self.place)))),
        }
    }
}

async fn drive(connection: Connection<Socket, NoTlsStream>) {
    if let Err(error) = connection.await {
        tracing::warn!(cause = %super::base::shown(&error), "a connection to PostgreSQL ended");
    }
}

/// Hands notifications on: numbers of destinations, or nothing where events wait for the router. Those of this
/// node come too and are harmless; it sends them only for others.
async fn drive_listening(
    mut connection: Connection<Socket, NoTlsStream>,
    offered: broadcast::Sender<Vec<DestinationId>>,
) {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(said))) => {
                let ids = said.payload().split(',').filter_map(|id| id.parse().ok()).map(DestinationId);
                // Nobody listens: nobody to wake.
                let _ = offered.send(ids.collect());
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

/// Refuses what would go over a network in plain text without having been asked to.
fn parse(url: &str) -> Result<(Config, String), OpenError> {
    let refuse = |cause: &str| OpenError::Url(cause.to_owned());
    let no_tls = "this version speaks no TLS to PostgreSQL: reach it over a unix socket or 127.0.0.1 (a tunnel ends there too), or write sslmode=disable for a network that you trust";
    if url.contains("sslmode=verify") {
        return Err(refuse(no_tls));
    }
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        refuse(&format!(
            "{} (postgres://user:password@host:port/database is expected)",
            super::base::shown(&error)
        ))
    })?;
    if config.get_hosts().is_empty() {
        return Err(refuse("it names no host: write postgres://user:password@host:port/database"));
    }
    let is_near = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
    });
    match config.get_ssl_mode() {
        SslMode::Disable => {}
        SslMode::Prefer if is_near => {}
        _ => return Err(refuse(no_tls)),
    }
    let hosts: Vec<String> = config.get_hosts().iter().map(shown_host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    let place = format!("postgres://{}/{database}", hosts.join(","));
    config.application_name("mailspan").connect_timeout(CONNECT_WAIT).tcp_user_timeout(SILENCE_MAX);
    config.keepalives_idle(SILENCE_MAX / 2).keepalives_interval(SILENCE_MAX / 4).keepalives_retries(2);
    Ok((config, place))
}

fn shown_host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Result<&str, &str>) {
        match (parse(url), expected) {
            (Ok((_, place)), Ok(expected)) => assert_eq!(place, expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{url}: {error}"),
            (other, _) => panic!("{url}: {:?}", other.map(|(_, place)| place)),
        }
    }

    #[test]
    fn what_needs_tls_is_refused_and_passwords_are_not_shown() {
        check("postgres://hub:s3cret@127.0.0.1/hub", Ok("postgres://127.0.0.1/hub"));
        check("postgres://hub:s3cret@%2Frun%2Fpg/hub", Ok("postgres:///run/pg/hub"));
        check("postgres://hub@db.example.com/hub?sslmode=disable", Ok("postgres://db.example.com/hub"));
        check("postgres://hub@db.example.com/hub", Err("speaks no TLS"));
        check("postgres://hub@127.0.0.1/hub?sslmode=require", Err("speaks no TLS"));
        check("postgres://hub@127.0.0.1/hub?sslmode=verify-full", Err("speaks no TLS"));
        check("postgres:///hub", Err("no host"));
        check("postgres://hub@127.0.0.1:x/hub", Err("is expected"));
    }
}

//! Opening a store on PostgreSQL: URL, server, migrations, connections.

use std::sync::Arc;

use mailspan_core::{Millis, limits};

use super::base::Fault;
use super::connect::{Connector, Spawn};
use super::handle::Postgres;
use super::journal::Journal;
use super::migrate::migrate;
use super::writer::PostgresWriter;
use crate::identity::{self, StoreKeys};
use crate::queue::Queues;
use crate::{OpenError, Store};

/// How a store on PostgreSQL is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`; a unix socket's folder is a percent-encoded host. The
    /// first schema of its search path is used. No pooler in between that shares sessions.
    pub url: String,
    /// Read connections, at least 1.
    pub readers: usize,
    /// Random bits: the key under which identities are hashed, used at the very first start only.
    pub seed: u128,
    pub now: Millis,
    /// Keys in one dedupe segment; smaller in tests.
    pub segment_keys_max: i64,
    /// Writes of intake that wait before further ones are [`crate::Trouble::Busy`], at least 1.
    pub intake_queue_max: usize,
    /// Under which the key of identities is kept; the same for all nodes.
    pub keys: StoreKeys,
    /// Runs a connection's task.
    pub spawn: Spawn,
}

impl PostgresOptions {
    /// Three readers, no store key, segments of the usual size.
    pub fn new(url: String, seed: u128, now: Millis, spawn: Spawn) -> PostgresOptions {
        let segment_keys_max = limits::SEGMENT_KEYS_MAX;
        let intake_queue_max = limits::INTAKE_QUEUE_MAX;
        let keys = StoreKeys::none();
        PostgresOptions { url, readers: 3, seed, now, segment_keys_max, intake_queue_max, keys, spawn }
    }
}

/// Opens the store, brings its tables up to date in one transaction that other nodes wait for, and frees no
/// lease: other nodes may live. The caller runs the writer as a task.
pub async fn open_postgres(options: PostgresOptions) -> Result<(Store, PostgresWriter), OpenError> {
    let connector = Arc::new(Connector::new(&options.url, options.spawn)?);
    let refuse = |fault: Fault| OpenError::Server {
        place: connector.place.clone(),
        cause: match fault.trouble() {
            crate::Trouble::Broken(cause) => cause,
            other => other.to_string(),
        },
    };
    let mut client = connector.plain().await.map_err(refuse)?;
    let value = migrate(&mut client, &connector.place, options.seed, options.now).await?;
    if super::moving::is_marked(&client).await.map_err(|error| refuse(error.into()))? {
        return Err(OpenError::Moving { place: connector.place.clone() });
    }
    let kept = identity::read(&value, &options.keys, &connector.place)?;
    if let Some(sealed) = &kept.seal {
        // Unless another node was faster; it wrote the same, or its keys differ and the next start says so.
        let sql = "UPDATE meta SET value = $1 WHERE name = 'identity_key' AND value = $2";
        client.execute(sql, &[sealed, &value]).await.map_err(|error| refuse(error.into()))?;
    }
    drop(client);
    let key = kept.key;
    let base = connector.writer(key.clone()).await.map_err(refuse)?;
    let shard = connector.shard(&base).await.map_err(refuse)?;
    let journal = Journal::new(base, options.segment_keys_max, shard);
    let queues = Arc::new(Queues::new(options.intake_queue_max));
    let handle = Postgres::new(queues.clone(), connector.clone(), key.clone(), options.readers);
    Ok((Store::Postgres(handle), PostgresWriter { queues, connector, key, journal }))
}

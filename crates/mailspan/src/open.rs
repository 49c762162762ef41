//! Opens the store with its threads, and finds the socket beside it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::Context;
use mailspan_core::Secret;
use mailspan_store::{OpenError, OpenOptions, PostgresOptions, Store, StoreKeys};
use tokio::sync::oneshot;

use crate::contacts::seal::Seals;
use crate::deliver::flight::{Flight, Left};
use crate::deliver::newest::Newest;
use crate::hub::{Hub, Storage};
use crate::runtime;

/// Threads that read; two suffice on two cores, and each keeps a page cache.
const READERS: usize = 2;
/// `sockaddr_un` holds 108 bytes, the last of them zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How long a hub that starts waits for commands that hold its file, and how often it looks: they follow on
/// each other where a script asks.
const COMMAND_MS_MAX: u128 = 10_000;
const COMMAND_LOOK_MS: u64 = 5;

/// How long a command waits for its store to close.
pub const CLOSE_MS_MAX: u64 = 30_000;

/// An open store and what serves it.
pub struct Opened {
    pub store: Store,
    threads: Vec<JoinHandle<()>>,
    /// Of the task that writes to PostgreSQL.
    ended: Option<oneshot::Receiver<()>>,
}

impl Opened {
    /// Ends after what is queued is written, at most `ms`; false when the time was up.
    pub async fn close(self, ms: u64) -> bool {
        let Opened { store, threads, ended } = self;
        store.close();
        drop(store);
        let all = async {
            if let Some(ended) = ended {
                // An error: the task has ended already.
                let _ = ended.await;
            }
            runtime::blocking(move || join(threads)).await;
        };
        runtime::within(ms, all).await.is_some()
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a store thread panicked");
        }
    }
}

/// Opens the store of the configuration, made where it is missing, for a command. [`OpenError::Held`] names
/// the process that holds a file; a database may be held by several. `keys` are those of `[storage]`.
pub async fn store(storage: &Storage, keys: &[Secret], intake_queue_max: usize) -> Result<Opened, OpenError> {
    let sealed_under = Seals::for_store(storage, keys);
    match storage {
        Storage::Sqlite { path } => sqlite(path, sealed_under, intake_queue_max, None),
        Storage::Postgres { url, .. } => postgres(url.expose(), sealed_under, intake_queue_max).await,
    }
}

/// Opens it for a hub. A command that holds the file is waited for; another hub is not.
pub async fn to_serve(
    storage: &Storage,
    keys: &[Secret],
    intake_queue_max: usize,
) -> Result<Opened, OpenError> {
    let Storage::Sqlite { path } = storage else { return store(storage, keys, intake_queue_max).await };
    let began = runtime::instant();
    loop {
        let sealed_under = Seals::for_store(storage, keys);
        match sqlite(path, sealed_under, intake_queue_max, Some(socket_path(path))) {
            Err(OpenError::Held(holder))
                if holder.socket.is_none() && began.elapsed().as_millis() < COMMAND_MS_MAX =>
            {
                runtime::sleep(COMMAND_LOOK_MS).await;
            }
            other => return other,
        }
    }
}

fn sqlite(
    path: &Path,
    keys: StoreKeys,
    intake_queue_max: usize,
    socket: Option<PathBuf>,
) -> Result<Opened, OpenError> {
    let options = OpenOptions {
        readers: READERS,
        socket,
        intake_queue_max,
        keys,
        ..OpenOptions::new(path.to_owned(), runtime::random_u128(), runtime::now())
    };
    let (store, writer, readers) = mailspan_store::open(options)?;
    let mut threads = vec![runtime::thread("store-writer", move || writer.run())];
    for reader in readers {
        threads.push(runtime::thread("store-reader", move || reader.run()));
    }
    Ok(Opened { store, threads, ended: None })
}

async fn postgres(url: &str, keys: StoreKeys, intake_queue_max: usize) -> Result<Opened, OpenError> {
    let seed = runtime::random_u128();
    let mut options = PostgresOptions::new(url.to_owned(), seed, runtime::now(), runtime::spawner());
    options.intake_queue_max = intake_queue_max;
    options.keys = keys;
    let (store, writer) = mailspan_store::open_postgres(options).await?;
    let (done, ended) = oneshot::channel();
    runtime::spawn(async move {
        writer.run().await;
        // Nobody waits when the time for closing is up.
        let _ = done.send(());
    });
    Ok(Opened { store, threads: Vec::new(), ended: Some(ended) })
}

/// The flight note with what an unclean end left in it: beside the file of the store, or beside the
/// configuration, one for each port, where the store is a database. It is a help, never a condition: without
/// room for it the hub serves all the same.
pub fn flight(hub: &Hub) -> Option<(Flight, Left)> {
    let path = note(hub, "flight");
    let said = |error: &std::io::Error| {
        tracing::warn!(
            %error, "no flight note {}: what ends the process will not be found by itself", path.display()
        );
    };
    Flight::open(&path).inspect_err(said).ok()
}

/// The note of what is on its way from the newest ends of queues, in the same place.
pub fn newest(hub: &Hub) -> Option<Newest> {
    let path = note(hub, "newest");
    let said = |error: &std::io::Error| {
        tracing::warn!(%error, "no note {}: after a kill some of what was in flight waits", path.display());
    };
    Newest::open(&path).inspect_err(said).ok()
}

fn note(hub: &Hub, what: &str) -> PathBuf {
    match &hub.storage {
        Storage::Sqlite { path } => {
            let mut beside = path.as_os_str().to_owned();
            beside.push(format!(".{what}"));
            PathBuf::from(beside)
        }
        Storage::Postgres { folder, .. } => {
            folder.join(format!("mailspan-{}.{what}", hub.server.listen.port()))
        }
    }
}

/// `FILE.sock`, or a short path in the temporary folder where that is too long for a socket.
pub fn socket_path(database: &Path) -> PathBuf {
    let mut beside = database.as_os_str().to_owned();
    beside.push(".sock");
    let absolute = std::path::absolute(&beside).unwrap_or_else(|_| PathBuf::from(&beside));
    if absolute.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return absolute;
    }
    let digest = mailspan_connectors::signature::digest(absolute.as_os_str().as_bytes());
    std::env::temp_dir().join(format!("mailspan-{digest}.sock"))
}

/// A listener on the socket, for its owner only.
pub fn listen(path: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    // We hold the store's lock, so whoever made this file is dead.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener =
        tokio::net::UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("make {} ours alone", path.display()))?;
    Ok(listener)
}

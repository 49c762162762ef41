//! Opening a store: lock, file, migrations, connections.

use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mailspan_core::{Millis, limits};

use crate::identity::StoreKeys;
use crate::lock::{self, Holder};
use crate::queue::Queues;
use crate::reader::{ReadQueue, Reader};
use crate::sqlite::known_keys::KnownKeys;
use crate::sqlite::log::Log;
use crate::sqlite::recent::Recent;
use crate::sqlite::{self, Journal, Sqlite};
use crate::{Store, Writer};

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The SQLite file; made (0600) where it does not exist. Its folder must exist.
    pub path: PathBuf,
    /// Read connections, at least 1; each needs a thread, and one more that brings the log into the file.
    pub readers: usize,
    /// Random bits: the key under which identities are hashed, used at the very first start only.
    pub seed: u128,
    pub now: Millis,
    /// Where the API of this process listens: named in the lock file for clients.
    pub socket: Option<PathBuf>,
    /// Keys in one dedupe segment; smaller in tests.
    pub segment_keys_max: i64,
    /// Writes of intake that wait before further ones are [`crate::Trouble::Busy`], at least 1.
    pub intake_queue_max: usize,
    /// Under which the key of identities is kept.
    pub keys: StoreKeys,
}

impl OpenOptions {
    /// Two readers, no socket, no store key, segments of the usual size.
    pub fn new(path: PathBuf, seed: u128, now: Millis) -> OpenOptions {
        let segment_keys_max = limits::SEGMENT_KEYS_MAX;
        let intake_queue_max = limits::INTAKE_QUEUE_MAX;
        let keys = StoreKeys::none();
        OpenOptions { path, readers: 2, seed, now, socket: None, segment_keys_max, intake_queue_max, keys }
    }
}

/// Why a store was not opened, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store is held by process {} since {}: stop it, or let it do the work{}", .0.pid, .0.since.rfc3339(), socket_hint(.0))]
    Held(Holder),
    #[error(
        "{path} was written by a newer version: it has migration {found}, this program knows {known}; start the newer version"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error(
        "{path} was made with another text of migration {number}: it comes from a build that was never released; restore a copy or start anew"
    )]
    Changed { path: PathBuf, number: i64 },
    #[error("{path} is a database of another program: name another file under [storage]")]
    Foreign { path: PathBuf },
    #[error(
        "{path} cannot be used: {cause}; check that its folder exists and that this user may write there"
    )]
    Io { path: PathBuf, cause: io::Error },
    #[error("{path} cannot be opened as a SQLite database: {cause}")]
    Sql { path: PathBuf, cause: rusqlite::Error },
    #[error(
        "{place} is the target of a move that is not finished: run the same `mailspan move` once more, then serve"
    )]
    Moving { place: String },
    #[error(
        "{place} could not be brought up to date: migration {number} waited for tables that others use; end long transactions there (pg_stat_activity shows them), then start again"
    )]
    Locked { place: String, number: i64 },
    #[error("{place} cannot be opened: {text}")]
    StoreKey { place: String, text: String },
    #[error("the store's URL cannot be used: {0}")]
    Url(String),
    #[error("{place} cannot be used as a store: {cause}")]
    Server { place: String, cause: String },
}

impl OpenError {
    pub(crate) fn server(place: &str, cause: &tokio_postgres::Error) -> OpenError {
        OpenError::Server { place: place.to_owned(), cause: crate::postgres::shown(cause) }
    }
}

fn socket_hint(holder: &Holder) -> String {
    holder.socket.as_ref().map(|path| format!(" (its socket is {})", path.display())).unwrap_or_default()
}

/// Opens the store at `options.path`: takes its lock, brings its tables up to date in one transaction
/// and frees all leases, as the lock proves that nobody else lives. The writer and each reader are
/// run by the caller on threads of their own.
pub fn open(options: OpenOptions) -> Result<(Store, Writer, Vec<Reader>), OpenError> {
    let path = options.path.clone();
    let io = |cause| OpenError::Io { path: path.clone(), cause };
    let me = Holder { pid: std::process::id(), since: options.now, socket: options.socket.clone() };
    let lock = lock::take(&path, &me).map_err(io)?.map_err(OpenError::Held)?;
    make_private(&path).map_err(io)?;
    let sql = |cause| OpenError::Sql { path: path.clone(), cause };
    let mut connection = sqlite::connect_writer(&path).map_err(sql)?;
    sqlite::migrate(&mut connection, &path, options.seed, options.now)?;
    if sqlite::moving::is_marked(&connection).map_err(sql)? {
        return Err(OpenError::Moving { place: path.display().to_string() });
    }
    let key = sqlite::migrate::identity_key(&connection, &path, &options.keys)?;
    let checkpoints = Arc::new(ReadQueue::default());
    let log = Log::start(&mut connection, &path, checkpoints.clone()).map_err(sql)?;
    let journal =
        Journal::start(connection, key.clone(), Some(log), options.segment_keys_max).map_err(sql)?;
    let queues = Arc::new(Queues::new(options.intake_queue_max));
    let reads = Arc::new(ReadQueue::default());
    let recent = Arc::new(Recent::default());
    let known_keys = Arc::new(KnownKeys::default());
    let mut readers = Vec::new();
    for _ in 0..options.readers.max(1) {
        let base = sqlite::connect_reader(&path, key.clone()).map_err(sql)?;
        readers.push(Reader { queue: reads.clone(), base });
    }
    let base = sqlite::connect_checkpointer(&path, key.clone()).map_err(sql)?;
    readers.push(Reader { queue: checkpoints, base });
    let store = Sqlite::new(queues.clone(), reads, recent.clone(), known_keys.clone(), key, path.clone());
    Ok((Store::Sqlite(store), Writer { queues, journal, recent, known_keys, lock }, readers))
}

/// Readable by its owner alone, also where it was made by another tool. SQLite gives its log and
/// shared memory the mode of the file.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let file = std::fs::File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Writes the file anew, without what was deleted in it, and brings its log into it. Nobody may serve it; needs
/// as much room again as the file has.
pub fn compact(path: &Path, now: Millis) -> Result<(), OpenError> {
    let io = |cause| OpenError::Io { path: path.to_owned(), cause };
    let me = Holder { pid: std::process::id(), since: now, socket: None };
    let _lock = lock::take(path, &me).map_err(io)?.map_err(OpenError::Held)?;
    let sql = |cause| OpenError::Sql { path: path.to_owned(), cause };
    let connection = sqlite::connect_writer(path).map_err(sql)?;
    sqlite::compact(&connection).map_err(sql)
}

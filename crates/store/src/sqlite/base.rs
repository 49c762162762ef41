//! A connection with what every statement needs: cached names and the key of identities.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use mailspan_core::limits::{PAGE_ROWS, PAGE_ROWS_MAX};
use mailspan_core::{Millis, Reason};
use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, Row};

use super::names::Names;
use crate::identity::IdentityKey;
use crate::write::Trouble;

/// Page cache of the writer, in KiB; readers have a tenth each, so all stay under 64 MiB.
const WRITER_CACHE_KIB: i64 = 32 << 10;
const READER_CACHE_KIB: i64 = 3 << 10;
/// Pages in the log before a connection without a `Log` brings them into the file (64 MiB).
const CHECKPOINT_PAGES: i64 = 16_000;
/// The log is cut back to this size when it begins anew.
const LOG_BYTES_KEPT: i64 = 64 << 20;
/// Statements kept prepared: more than there are in hot paths.
const STATEMENTS_CACHED: usize = 160;
/// Only a checkpoint or another tool can hold the file for a moment.
const BUSY_WAIT: Duration = Duration::from_secs(5);

pub(crate) struct Base {
    pub conn: Connection,
    pub names: RefCell<Names>,
    pub key: IdentityKey,
}

impl Base {
    pub(crate) fn new(conn: Connection, key: IdentityKey) -> rusqlite::Result<Base> {
        conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        // Else a statement over a partial index is prepared anew whenever another value is bound to it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(Base { conn, names: RefCell::default(), key })
    }

    /// A statement, prepared once. Every one of them passes here, so the test of plans sees them all.
    pub(crate) fn sql(&self, text: &str) -> rusqlite::Result<CachedStatement<'_>> {
        #[cfg(test)]
        super::plans::saw(text);
        self.conn.prepare_cached(text)
    }
}

pub(crate) fn connect_writer(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BUSY_WAIT)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode only FULL syncs at each commit: a 2xx must survive a power cut.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    // What is deleted or written over is zeroed where its page is written anyway; the rest goes with a compaction.
    conn.pragma_update(None, "secure_delete", "FAST")?;
    Ok(conn)
}

/// The whole file written anew: pages that were freed are gone, and the log is empty.
pub(crate) fn compact(conn: &Connection) -> rusqlite::Result<()> {
    let cut = || conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    cut()?;
    conn.execute_batch("VACUUM")?;
    cut()
}

/// A reader that may bring the log into the file.
pub(crate) fn connect_checkpointer(path: &Path, key: IdentityKey) -> rusqlite::Result<Base> {
    reader(path, key, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

pub(crate) fn connect_reader(path: &Path, key: IdentityKey) -> rusqlite::Result<Base> {
    reader(path, key, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn reader(path: &Path, key: IdentityKey, may: OpenFlags) -> rusqlite::Result<Base> {
    let conn = Connection::open_with_flags(path, may | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_WAIT)?;
    conn.pragma_update(None, "query_only", true)?;
    // A log must be on the disk before its pages go into the file.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Base::new(conn, key)
}

/// Why a statement, or a step made of several, did not work.
#[derive(Debug)]
pub(crate) enum Fault {
    Trouble(Trouble),
    Sql(rusqlite::Error),
}

impl Fault {
    pub(crate) fn refused(code: &str, text: impl Into<String>) -> Fault {
        Fault::Trouble(Trouble::Refused(Reason::new(code, text)))
    }

    /// A row that this version cannot read.
    pub(crate) fn unreadable(what: &str, id: i64) -> Fault {
        Fault::Trouble(Trouble::Broken(format!(
            "{what} {id} cannot be read: it is damaged, or was written by a newer version"
        )))
    }

    /// The whole group fails: it is the disk or the file, not one write.
    pub(crate) fn is_of_the_file(&self) -> bool {
        let Fault::Sql(error) = self else { return false };
        !matches!(
            error.sqlite_error_code(),
            None | Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
        )
    }

    pub(crate) fn trouble(self) -> Trouble {
        match self {
            Fault::Trouble(trouble) => trouble,
            Fault::Sql(error) => Trouble::Broken(shown(&error)),
        }
    }
}

/// SQLite's own words, with what to do about the disk where it is the disk.
pub(crate) fn shown(error: &rusqlite::Error) -> String {
    let next = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            "make room on the disk of the store, or raise the limit on the size of its file; what was answered is kept, \
             and writing goes on by itself"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "let the hub's user write the store's file and its folder"
        }
        Some(ErrorCode::SystemIoFailure) => {
            "look whether the disk of the store is full or fails (`df`, the system's log)"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "stop the hub, keep a copy of the file, and take a back-up in its place"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {next}")
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        Fault::Sql(error)
    }
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Fault {
        Fault::Trouble(trouble)
    }
}

/// A page's rows: the default for 0, never more than the bound.
pub(crate) fn page(limit: usize) -> i64 {
    let rows = if limit == 0 { PAGE_ROWS } else { limit.min(PAGE_ROWS_MAX) };
    rows as i64
}

pub(crate) fn millis(row: &Row, column: &str) -> rusqlite::Result<Millis> {
    row.get(column).map(Millis)
}

pub(crate) fn maybe_millis(row: &Row, column: &str) -> rusqlite::Result<Option<Millis>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Millis))
}

/// A reason kept in two columns.
pub(crate) fn reason(row: &Row, code: &str, text: &str) -> rusqlite::Result<Option<Reason>> {
    let code: Option<String> = row.get(code)?;
    let text: Option<String> = row.get(text)?;
    Ok(code.map(|code| Reason { code, text: text.unwrap_or_default() }))
}

//! The write-ahead log: when it is brought into the file, and by whom. Most of the work is done by a connection
//! of its own beside the writer, which would otherwise stand still for some hundred milliseconds; the writer
//! brings over the small rest, between two groups, so that its next group begins the log anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use rusqlite::Connection;

use super::base::Base;
use crate::reader::ReadQueue;

/// Pages in the log before they are brought into the file (50 MiB): a page that changes often is then brought
/// over once for many of its changes, and reading such a log at a start takes a tenth of a second.
const PAGES: i64 = 12_500;
/// What the writer brings over by itself, at most (4 MiB): a few milliseconds.
const REST_PAGES: i64 = 1_000;
/// Passes of the helper before the writer takes the rest, whatever it is: each leaves what was written meanwhile.
const PASSES_MAX: usize = 4;
/// The log is cut back at this size, should readers have kept it from being begun anew (a long-lived
/// reader once grew one to 15 GB beside a 4 GB file).
const BYTES_MAX: u64 = 128 << 20;
/// Groups between two looks at the log's size.
const LOOK_GROUPS: u32 = 64;

pub(crate) struct Log {
    path: PathBuf,
    helper: Arc<ReadQueue>,
    state: Arc<State>,
    /// Pages at which the helper is called.
    next: i64,
    before: i64,
    groups: u32,
}

#[derive(Default)]
struct State {
    /// Pages in the log since it began anew; set by the writer's commits.
    pages: AtomicI64,
    under_way: AtomicBool,
    /// The helper has ended: the rest is the writer's.
    ready: AtomicBool,
}

impl Log {
    /// The log of the store at `path`, whose writer is `conn`. A reader that may write (the pragma and nothing
    /// else) must serve `helper`; until one does, the log is only cut back at its highest size.
    pub(crate) fn start(conn: &mut Connection, path: &Path, helper: Arc<ReadQueue>) -> rusqlite::Result<Log> {
        let state = Arc::new(State::default());
        let pages = state.clone();
        conn.wal_hook(Some(move |_: &mut _, now: std::ffi::c_int| {
            pages.pages.store(i64::from(now), Ordering::Release);
            Ok(())
        }))?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Ok(Log { path: log.into(), helper, state, next: PAGES, before: 0, groups: 0 })
    }

    /// Between two groups.
    pub(crate) fn tidy(&mut self, conn: &Connection) {
        let pages = self.state.pages.load(Ordering::Acquire);
        if pages < self.before {
            self.next = PAGES;
        }
        self.before = pages;
        if self.state.ready.swap(false, Ordering::AcqRel) {
            // Readers may hold a part of it: then it goes on growing, and the helper comes again.
            let _ = pass(conn);
            self.next = pages + PAGES;
        } else if pages >= self.next && !self.state.under_way.swap(true, Ordering::AcqRel) {
            self.call_helper();
        }
        self.groups = self.groups.wrapping_add(1);
        if self.groups.is_multiple_of(LOOK_GROUPS) && self.bytes() > BYTES_MAX {
            cut(conn);
        }
    }

    fn call_helper(&self) {
        let state = self.state.clone();
        // Closed only when the store is.
        let _ = self.helper.push(Box::new(move |base| {
            bring_over(base, &state);
            state.ready.store(true, Ordering::Release);
            state.under_way.store(false, Ordering::Release);
        }));
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }
}

/// The helper's thread ends with the writer.
impl Drop for Log {
    fn drop(&mut self) {
        self.helper.close();
    }
}

fn bring_over(base: &Base, state: &State) {
    for _ in 0..PASSES_MAX {
        match pass(&base.conn) {
            Ok(done) if state.pages.load(Ordering::Acquire) - done > REST_PAGES => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "the log could not be brought into the file; it is tried again");
                return;
            }
        }
    }
}

/// Brings over what nobody reads from the log any more, beside whoever writes; says how many pages of the log
/// are in the file.
fn pass(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2))
}

/// Brings the log into the file, so that the file alone is the whole store. Readers may hold the
/// log: then it stays, and nothing is lost.
pub(crate) fn cut(conn: &Connection) {
    let cut = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    tracing::debug!(ok = cut.is_ok(), "the log was cut back");
}

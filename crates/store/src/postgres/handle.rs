//! What tasks hold: a cheap handle that queues writes and reads on a few connections of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mailspan_core::Name;
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit, broadcast, oneshot, watch};

use super::base::{Base, Fault};
use super::connect::Connector;
use crate::identity::IdentityKey;
use crate::prepare::{Prepared, prepare, prepare_name};
use crate::queue::{Job, Queues, closed};
use crate::reader::READ_QUEUE_MAX;
use crate::write::{Trouble, Write, Wrote};
use crate::{Heard, NameKind};

#[derive(Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    writes: Arc<Queues>,
    connector: Arc<Connector>,
    key: IdentityKey,
    /// One a connection; empty where it is not made, or broke.
    slots: Vec<Mutex<Option<Base>>>,
    room: Semaphore,
    waiting: AtomicUsize,
    closed: AtomicBool,
}

/// The last handle closes the store.
impl Drop for Shared {
    fn drop(&mut self) {
        self.writes.close();
    }
}

impl Postgres {
    pub(crate) fn key(&self) -> &IdentityKey {
        &self.shared.key
    }

    pub(crate) fn new(
        writes: Arc<Queues>,
        connector: Arc<Connector>,
        key: IdentityKey,
        readers: usize,
    ) -> Postgres {
        let readers = readers.max(1);
        let shared = Shared {
            writes,
            connector,
            key,
            slots: (0..readers).map(|_| Mutex::default()).collect(),
            room: Semaphore::new(readers),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        };
        Postgres { shared: Arc::new(shared) }
    }

    pub(crate) async fn write(&self, write: Write) -> Result<Wrote, Trouble> {
        self.queue(prepare(write, &self.shared.key)).await
    }

    pub(crate) async fn name(&self, tenant: &Name, kind: NameKind, name: &Name) -> Result<i64, Trouble> {
        match self.queue(prepare_name(tenant.clone(), kind, name.clone())).await? {
            Wrote::Key { id } => Ok(id),
            other => Err(Trouble::Broken(format!("a name was answered by {other:?}"))),
        }
    }

    async fn queue(&self, write: Prepared) -> Result<Wrote, Trouble> {
        let (reply, answer) = oneshot::channel();
        self.shared.writes.push(Job { write, reply })?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// A connection for one read.
    pub(crate) async fn link(&self) -> Result<Link<'_>, Trouble> {
        let shared = &*self.shared;
        if shared.closed.load(Ordering::Relaxed) {
            return Err(closed());
        }
        let waits = Waits::new(&shared.waiting).ok_or(Trouble::Busy)?;
        let permit = shared.room.acquire().await.map_err(|_| closed())?;
        drop(waits);
        // As many permits as slots: one is free.
        let slot = shared.slots.iter().find_map(|slot| slot.try_lock().ok()).ok_or(Trouble::Busy)?;
        let mut link = Link { slot, dirty: false, _permit: permit };
        if link.slot.as_ref().is_none_or(Base::is_closed) {
            *link.slot = None;
            let made = shared.connector.reader(shared.key.clone()).await.map_err(Fault::trouble)?;
            *link.slot = Some(made);
        }
        link.base()?.refresh_plans().await.map_err(Fault::trouble)?;
        Ok(link)
    }

    /// A connection for a read of several statements, all on one state of the tables.
    pub(crate) async fn state(&self) -> Result<Link<'_>, Trouble> {
        let mut link = self.link().await?;
        link.dirty = true;
        let begun = link.base()?.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
        begun.map_err(Fault::trouble)?;
        Ok(link)
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Heard> {
        self.shared.connector.heard.subscribe()
    }

    pub(crate) fn lost(&self) -> watch::Receiver<u64> {
        self.shared.connector.lost.subscribe()
    }

    /// How many writes wait: intake, work.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        self.shared.writes.waiting()
    }

    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.room.close();
        self.shared.writes.close();
    }
}

/// Counts who waits for a connection; nothing where too many do.
struct Waits<'a>(&'a AtomicUsize);

impl Waits<'_> {
    fn new(waiting: &AtomicUsize) -> Option<Waits<'_>> {
        let waits = Waits(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < READ_QUEUE_MAX).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that one read has for itself. Dropped inside a transaction (the request was given up), the
/// connection goes too: none with an open transaction is ever used again.
pub(crate) struct Link<'a> {
    slot: MutexGuard<'a, Option<Base>>,
    dirty: bool,
    _permit: SemaphorePermit<'a>,
}

impl Link<'_> {
    pub(crate) fn base(&self) -> Result<&Base, Trouble> {
        self.slot.as_ref().ok_or_else(closed)
    }

    /// Ends the read.
    pub(crate) async fn end<T>(mut self, found: Result<T, Fault>) -> Result<T, Trouble> {
        let found = found.map_err(Fault::trouble)?;
        if self.dirty {
            self.base()?.batch("COMMIT").await.map_err(Fault::trouble)?;
            self.dirty = false;
        }
        Ok(found)
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if self.dirty {
            *self.slot = None;
        }
    }
}

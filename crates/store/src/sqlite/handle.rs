//! What tasks hold: a cheap handle that queues writes and reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mailspan_core::{Event, Name};
use tokio::sync::oneshot;

use super::base::{Base, Fault};
use super::known_keys::KnownKeys;
use super::recent::Recent;
use super::{events, keys, standing};
use crate::identity::IdentityKey;
use crate::prepare::{Prepared, prepare, prepare_name};
use crate::queue::{Job, Queues, closed};
use crate::reader::ReadQueue;
use crate::write::{Trouble, Write, Wrote};
use crate::{KeyRow, NameKind, Sizes};

#[derive(Clone)]
pub struct Sqlite {
    shared: Arc<Shared>,
}

struct Shared {
    writes: Arc<Queues>,
    reads: Arc<ReadQueue>,
    recent: Arc<Recent>,
    known_keys: Arc<KnownKeys>,
    key: IdentityKey,
    path: PathBuf,
}

/// The last handle closes the store.
impl Drop for Shared {
    fn drop(&mut self) {
        self.writes.close();
        self.reads.close();
    }
}

impl Sqlite {
    pub(crate) fn key(&self) -> &IdentityKey {
        &self.shared.key
    }

    pub(crate) fn new(
        writes: Arc<Queues>,
        reads: Arc<ReadQueue>,
        recent: Arc<Recent>,
        known_keys: Arc<KnownKeys>,
        key: IdentityKey,
        path: PathBuf,
    ) -> Sqlite {
        Sqlite { shared: Arc::new(Shared { writes, reads, recent, known_keys, key, path }) }
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

    /// Runs a read on one of the readers, all its statements on one state of the file.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Base) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Trouble> {
        let (reply, answer) = oneshot::channel();
        self.shared.reads.push(Box::new(move |base| {
            let _ = reply.send(on_one_state(base, read).map_err(Fault::trouble));
        }))?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(crate) async fn key_by_hash(&self, hash: [u8; 32]) -> Result<Option<KeyRow>, Trouble> {
        let state = match self.shared.known_keys.get(&hash) {
            Ok(key) => return Ok(Some(key)),
            Err(state) => state,
        };
        let found = self.read(move |base| keys::by_hash(base, &hash)).await?;
        if let Some(key) = &found {
            self.shared.known_keys.keep(state, hash, key);
        }
        Ok(found)
    }

    pub(crate) async fn unrouted(&self, limit: usize) -> Result<Vec<Event>, Trouble> {
        let recent = self.shared.recent.clone();
        self.read(move |base| events::unrouted(base, limit, &recent)).await
    }

    pub(crate) async fn sizes(&self) -> Result<Sizes, Trouble> {
        let mut sizes = self.read(standing::sizes).await?;
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let mut log = self.shared.path.as_os_str().to_owned();
        log.push("-wal");
        sizes.file_bytes = bytes(&self.shared.path);
        sizes.wal_bytes = bytes(Path::new(&log));
        let (intake, work) = self.shared.writes.waiting();
        sizes.intake_waiting = intake as u64;
        sizes.work_waiting = work as u64;
        Ok(sizes)
    }

    pub(crate) fn close(&self) {
        self.shared.writes.close();
        self.shared.reads.close();
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }
}

fn on_one_state<T>(base: &Base, read: impl FnOnce(&Base) -> Result<T, Fault>) -> Result<T, Fault> {
    base.conn.execute_batch("BEGIN")?;
    let result = read(base);
    base.conn.execute_batch("COMMIT")?;
    result
}

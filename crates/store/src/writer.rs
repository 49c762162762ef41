//! Group commit: one thread, one transaction for all that waits, one sync.

use std::sync::Arc;

use crate::lock::Lock;
use crate::queue::{AbandonOnEnd, Job, Queues};
use crate::sqlite::Journal;
use crate::sqlite::known_keys::KnownKeys;
use crate::sqlite::recent::Recent;

/// The one writer of a store. The program runs it on a thread of its own.
pub struct Writer {
    pub(crate) queues: Arc<Queues>,
    pub(crate) journal: Journal,
    pub(crate) recent: Arc<Recent>,
    pub(crate) known_keys: Arc<KnownKeys>,
    /// Freed last: after the file is closed.
    pub(crate) lock: Lock,
}

impl Writer {
    /// Writes until the store is closed (or its last handle is dropped) and nothing waits.
    pub fn run(self) {
        let Writer { queues, mut journal, recent, known_keys, lock } = self;
        let _abandon = AbandonOnEnd(queues.clone());
        while let Some(mut jobs) = queues.take_group() {
            jobs.sort_by_key(|job| !job.write.goes_first());
            let (writes, replies): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|Job { write, reply }| (write, reply)).unzip();
            let results = journal.group(&writes);
            recent.keep(journal.accepted.drain(..));
            known_keys.committed(&writes);
            for (reply, result) in replies.into_iter().zip(results) {
                // Whoever asked may have gone; the write is done all the same.
                let _ = reply.send(result);
            }
            journal.tidy();
        }
        journal.checkpoint();
        drop(journal);
        drop(lock);
    }
}

//! Group commit on PostgreSQL: one task, one connection, one transaction for all that waits.

use std::sync::Arc;
use std::time::Duration;

use super::base::Fault;
use super::connect::Connector;
use super::journal::Journal;
use crate::identity::IdentityKey;
use crate::prepare::Prepared;
use crate::queue::{AbandonOnEnd, Job, Queues};
use crate::write::{Trouble, Wrote};

/// Longer than any statement of a group may take: then the connection is given up.
const GROUP_WAIT: Duration = Duration::from_secs(60);
/// Between two tries to connect again: from the first to the second, doubled each time.
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// The one writer of a node. The program runs it as a task of its own.
pub struct PostgresWriter {
    pub(crate) queues: Arc<Queues>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) key: IdentityKey,
    pub(crate) journal: Journal,
}

impl PostgresWriter {
    /// Writes until the store is closed (or its last handle is dropped) and nothing waits; then frees the
    /// leases that this node holds. While the server cannot be reached, writes fail as broken.
    pub async fn run(self) {
        let PostgresWriter { queues, connector, key, mut journal } = self;
        let _abandon = AbandonOnEnd(queues.clone());
        while let Some(jobs) = queues.next_group().await {
            let (writes, replies): (Vec<Prepared>, Vec<_>) =
                jobs.into_iter().map(|Job { write, reply }| (write, reply)).unzip();
            let done = tokio::time::timeout(GROUP_WAIT, journal.group(&writes)).await;
            let is_given_up = done.is_err();
            let results: Vec<Result<Wrote, Trouble>> = done.unwrap_or_else(|_| {
                let text = format!("{} does not answer", connector.place);
                writes.iter().map(|_| Err(Trouble::Broken(text.clone()))).collect()
            });
            for (reply, result) in replies.into_iter().zip(results) {
                // Whoever asked may have gone; the write is done all the same.
                let _ = reply.send(result);
            }
            if is_given_up || journal.is_closed() {
                match again(&queues, &connector, &key, journal).await {
                    Some(connected) => journal = connected,
                    None => return,
                }
            } else if tokio::time::timeout(GROUP_WAIT, journal.tidy()).await.is_err() {
                tracing::warn!("PostgreSQL does not answer");
            }
        }
        let _ = tokio::time::timeout(GROUP_WAIT, journal.end()).await;
    }
}

/// Connects again, and tells what arrives meanwhile that the store is broken. Nothing when it was closed.
async fn again(
    queues: &Queues,
    connector: &Connector,
    key: &IdentityKey,
    journal: Journal,
) -> Option<Journal> {
    let connected = connect(connector, key);
    tokio::pin!(connected);
    loop {
        tokio::select! {
            biased;
            base = &mut connected => {
                tracing::info!(place = connector.place, "connected to PostgreSQL again");
                return Some(journal.reconnected(base).await);
            }
            jobs = queues.next_group() => {
                for job in jobs? {
                    let text = format!("{} cannot be reached: it is tried again", connector.place);
                    let _ = job.reply.send(Err(Trouble::Broken(text)));
                }
            }
        }
    }
}

async fn connect(connector: &Connector, key: &IdentityKey) -> super::base::Base {
    let mut wait = AGAIN_MIN;
    loop {
        match connector.writer(key.clone()).await {
            Ok(base) => return base,
            Err(fault) => told(connector, fault),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(AGAIN_MAX);
    }
}

fn told(connector: &Connector, fault: Fault) {
    tracing::warn!(place = connector.place, cause = %fault.trouble(), "PostgreSQL cannot be reached");
}

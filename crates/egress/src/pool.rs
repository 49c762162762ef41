//! Connections that wait for their next request: bounded in number, idle time and age.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use mailspan_core::limits;
use rustls::ClientConfig;
use tokio::sync::oneshot;
use tokio::time::Instant;
use url::Url;

use crate::Target;
use crate::dial::Wire;

/// An open connection. Dropping it closes it, and ends what it was doing.
pub(crate) struct Connection {
    pub sender: SendRequest<Full<Bytes>>,
    pub wire: Arc<Wire>,
    /// Its end tells the driver to close.
    pub _alive: oneshot::Sender<()>,
    pub made: Instant,
    /// When it was last given back; nothing before its first request.
    pub idle_since: Option<Instant>,
}

impl Connection {
    fn is_usable(&self, now: Instant, ahead: Duration) -> bool {
        let then = now + ahead;
        let idle = self.idle_since.unwrap_or(now);
        !self.sender.is_closed()
            && then.duration_since(idle) < Duration::from_millis(limits::OUT_IDLE_MS_MAX)
            && then.duration_since(self.made) < Duration::from_millis(limits::OUT_AGE_MS_MAX)
    }
}

/// By [`crate::Target::key`].
#[derive(Default)]
pub(crate) struct Pool {
    kept: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    targets: HashMap<String, Kept>,
    sweeping: bool,
}

#[derive(Default)]
struct Kept {
    idle: Vec<Connection>,
    tls: Option<Arc<ClientConfig>>,
    /// As it was written, and read.
    base: Option<(String, Url)>,
    used: Option<Instant>,
}

/// How often connections that nobody asks for are looked through.
const SWEEP: Duration = Duration::from_secs(5);

impl Pool {
    /// The connection used last: the others may then age and close.
    pub fn take(&self, key: &str) -> Option<Connection> {
        let mut shelf = self.lock();
        let kept = shelf.targets.get_mut(key)?;
        let now = Instant::now();
        while let Some(connection) = kept.idle.pop() {
            if connection.is_usable(now, Duration::ZERO) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose last answer was read to its end; at most `most` for that target.
    pub fn give(self: &Arc<Pool>, key: &str, mut connection: Connection, most: usize) {
        let now = Instant::now();
        connection.idle_since = Some(now);
        if !connection.is_usable(now, Duration::ZERO) {
            return;
        }
        let mut shelf = self.lock();
        let kept = shelf.target(key, now);
        if kept.idle.len() < most {
            kept.idle.push(connection);
        }
        if !shelf.sweeping {
            shelf.sweeping = true;
            TokioExecutor::new().execute(sweep(Arc::downgrade(self)));
        }
    }

    pub fn tls(&self, key: &str) -> Option<Arc<ClientConfig>> {
        self.lock().targets.get(key)?.tls.clone()
    }

    pub fn keep_tls(&self, key: &str, config: Arc<ClientConfig>) {
        self.lock().target(key, Instant::now()).tls = Some(config);
    }

    pub fn base(&self, target: &Target) -> Option<Url> {
        let shelf = self.lock();
        let (written, read) = shelf.targets.get(&target.key)?.base.as_ref()?;
        (*written == target.base_url).then(|| read.clone())
    }

    pub fn keep_base(&self, target: &Target, read: Url) {
        self.lock().target(&target.key, Instant::now()).base = Some((target.base_url.clone(), read));
    }

    #[cfg(test)]
    pub fn sizes(&self) -> (usize, usize) {
        let shelf = self.lock();
        (shelf.targets.len(), shelf.targets.values().map(|kept| kept.idle.len()).sum())
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // A panic under the lock cannot leave a connection half given back.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn target(&mut self, key: &str, now: Instant) -> &mut Kept {
        if !self.targets.contains_key(key) && self.targets.len() >= limits::TARGETS_MAX {
            let oldest = self.targets.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.targets.remove(&oldest);
            }
        }
        let kept = self.targets.entry(key.to_owned()).or_default();
        kept.used = Some(now);
        kept
    }

    /// True when a connection is left to look at later.
    fn tidy(&mut self, now: Instant) -> bool {
        for kept in self.targets.values_mut() {
            kept.idle.retain(|connection| connection.is_usable(now, SWEEP));
        }
        self.targets.values().any(|kept| !kept.idle.is_empty())
    }
}

/// Runs while connections wait, and ends with the last of them or with the pool.
async fn sweep(pool: Weak<Pool>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        let mut shelf = pool.lock();
        if !shelf.tidy(Instant::now()) {
            shelf.sweeping = false;
            return;
        }
    }
}

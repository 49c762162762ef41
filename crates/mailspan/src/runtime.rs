//! The only place that spawns, sleeps, reads the wall clock or the environment, or draws randomness.
#![allow(clippy::disallowed_methods, reason = "this is the one home of what clippy.toml bans elsewhere")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mailspan_core::Millis;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::drill;

/// How long a step of the clock can go unseen.
const LOOK_MS: u64 = 1_000;

/// A way to start tasks that is handed to code which may not spawn by itself.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// The wall clock.
pub fn now() -> Millis {
    #[cfg(test)]
    if let Some(now) = virtual_clock::now() {
        return now;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(drill::clock_offset_ms()))
}

/// The wall clock as the engine takes it: where that is set back, time goes on from where it was, so that
/// no retry waits for an hour to come again. It follows a step forward at once.
pub fn steady() -> Millis {
    #[cfg(test)]
    if let Some(now) = virtual_clock::now() {
        return now;
    }
    static ANCHOR: Mutex<Option<(Instant, Millis)>> = Mutex::new(None);
    let (instant, wall) = (Instant::now(), now());
    let mut anchor = ANCHOR.lock().unwrap_or_else(PoisonError::into_inner);
    let gone_on = anchor.map(|(since, at)| {
        at.plus(u64::try_from(instant.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX))
    });
    match gone_on {
        Some(at) if at >= wall => at,
        _ => {
            *anchor = Some((instant, wall));
            wall
        }
    }
}

/// The monotonic clock, for measuring.
pub fn instant() -> Instant {
    Instant::now()
}

/// Milliseconds that the calling thread has computed.
pub fn computed_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The wall clock as it is injected into the sandbox.
pub fn clock() -> Arc<dyn Fn() -> Millis + Send + Sync> {
    Arc::new(now)
}

/// The same of the engine's clock: answers are judged by it.
pub fn steady_clock() -> Arc<dyn Fn() -> Millis + Send + Sync> {
    Arc::new(steady)
}

/// A variable of the environment; nothing where it is not UTF-8.
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Names of the environment's variables that begin so.
pub fn env_names(prefix: &str) -> Vec<String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// 128 random bits of the system's generator.
pub fn random_u128() -> u128 {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator cannot fail once it is seeded");
    u128::from_be_bytes(bytes)
}

pub fn random_u64() -> u64 {
    random_u128() as u64
}

/// Starts a task of the running runtime.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

/// [`spawn`] where something is dropped: not where the runtime itself ends.
pub fn spawn_at_last(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(handle) = tokio::runtime::Handle::try_current() {
        handle.spawn(task);
    }
}

/// [`spawn`] as a value.
pub fn spawner() -> Spawn {
    Arc::new(spawn)
}

/// Starts a thread with a name that shows in `top -H`.
pub fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    started.expect("a process that cannot start its few threads cannot work at all")
}

/// Runs on a thread of the blocking pool.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Holds up the calling thread, which must be its own: finer than [`sleep`], which wakes by the millisecond.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Sleeps until a time of the [`steady`] clock. Looks at the clock each second: a step forward would
/// otherwise be slept through.
pub async fn sleep_until(at: Millis) {
    loop {
        match at.since(steady()) {
            0 => return,
            left => sleep(left.min(LOOK_MS)).await,
        }
    }
}

/// The future's result, or nothing when it took longer.
pub async fn within<T>(ms: u64, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(ms), future).await.ok()
}

/// All of these at once, in their order. For some tens: whoever wakes has all polled that are not done.
pub async fn together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in running.iter_mut().filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                *done = Some(output);
            }
        }
        if running.iter().any(|(_, done)| done.is_none()) {
            return Poll::Pending;
        }
        Poll::Ready(running.iter_mut().filter_map(|(_, done)| done.take()).collect())
    })
    .await
}

/// The tokio runtime of the program: as many workers as there are cores.
pub fn build() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("mailspan").build()
}

/// SIGTERM and SIGINT from the moment it is made.
pub struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    pub fn listen() -> std::io::Result<StopSignals> {
        Ok(StopSignals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    pub async fn told(&mut self) {
        tokio::select! { _ = self.term.recv() => {}, _ = self.int.recv() => {} }
    }
}

/// Resolves at the first SIGTERM or SIGINT.
pub async fn told_to_stop() {
    match StopSignals::listen() {
        Ok(mut signals) => signals.told().await,
        Err(_) => std::future::pending().await,
    }
}

/// SIGHUPs from now on.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// For tests of this crate: from its start on the wall clock stands still but for what a test advances it by. It is
/// the whole process's, and begins in the present, so that whoever reads it beside the test is not led astray.
#[cfg(test)]
pub mod virtual_clock {
    use std::sync::atomic::{AtomicI64, Ordering};

    use mailspan_core::Millis;

    static AT: AtomicI64 = AtomicI64::new(0);

    pub fn start() {
        let now = super::now();
        AT.fetch_max(now.0, Ordering::SeqCst);
    }

    pub fn now() -> Option<Millis> {
        Some(Millis(AT.load(Ordering::SeqCst))).filter(|at| at.0 > 0)
    }

    pub fn advance(ms: u64) {
        AT.fetch_add(i64::try_from(ms).unwrap(), Ordering::SeqCst);
    }
}

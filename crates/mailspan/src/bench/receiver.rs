//! The receiver of the bench: takes all, answers 200, and remembers which event came when. What is sent to
//! `/3/hangs` is not answered, and to `/3/fails` with 500.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri};
use axum::serve::ListenerExt;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::event::Maker;
use super::load::micros;
use crate::runtime;

/// A batch of a thousand events, with room.
const BODY_BYTES_MAX: usize = 8 << 20;
/// 24 bytes each. More are counted and not remembered, which shows as lost.
const RECEIPTS_MAX: usize = 8_000_000;

/// One event at one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub index: u64,
    /// Microseconds from the epoch.
    pub at: u64,
    /// The number that is the path: `/3` is destination 3.
    pub destination: u16,
}

/// A receiver that listens until it is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    /// Receipts so far, repeated ones too.
    pub count: Arc<AtomicU64>,
    inbox: Arc<Inbox>,
    _stop: watch::Sender<bool>,
}

struct Inbox {
    maker: Arc<Maker>,
    epoch: Instant,
    count: Arc<AtomicU64>,
    receipts: Mutex<Vec<Receipt>>,
}

/// Starts a receiver at a free port of this machine.
pub async fn start(maker: Arc<Maker>, epoch: Instant) -> anyhow::Result<Receiver> {
    let count = Arc::new(AtomicU64::new(0));
    let inbox = Arc::new(Inbox { maker, epoch, count: count.clone(), receipts: Mutex::default() });
    let router =
        Router::new().fallback(take).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(inbox.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen as the receiver")?;
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    runtime::spawn(serve(listener, router, stopped));
    Ok(Receiver { address, count, inbox, _stop: stop })
}

/// Serves until the sender of `stopped` is dropped; small answers go out at once.
pub async fn serve(listener: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) {
    let listener = listener.tap_io(|stream| {
        // Without it an answer may wait for an acknowledgement of the packet before.
        let _ = stream.set_nodelay(true);
    });
    let server = axum::serve(listener, router);
    tokio::select! {
        _ = server => {}
        _ = stopped.changed() => {}
    }
}

async fn take(State(inbox): State<Arc<Inbox>>, uri: Uri, body: Bytes) -> StatusCode {
    let at = micros(inbox.epoch);
    let (path, manner) = uri.path().trim_matches('/').split_once('/').unwrap_or((uri.path(), ""));
    match manner {
        "hangs" => return std::future::pending().await,
        "fails" => return StatusCode::INTERNAL_SERVER_ERROR,
        _ => {}
    }
    let destination = path.trim_matches('/').parse().unwrap_or(0);
    let indices = inbox.maker.indices(&body);
    inbox.count.fetch_add(indices.len() as u64, Ordering::Relaxed);
    let mut receipts = inbox.receipts.lock().unwrap_or_else(PoisonError::into_inner);
    let room = RECEIPTS_MAX.saturating_sub(receipts.len());
    receipts.extend(indices.into_iter().take(room).map(|index| Receipt { index, at, destination }));
    StatusCode::OK
}

impl Receiver {
    /// All receipts in the order of their arrival.
    pub fn receipts(&self) -> Vec<Receipt> {
        self.inbox.receipts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

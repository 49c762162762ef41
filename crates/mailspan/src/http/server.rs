//! The accept loop: HTTP/1.1 with a bound on everything a sender can hold open.
//!
//! Where the hub has a certificate of its own ([`crate::http::own_tls`]), each TCP connection begins with a TLS
//! handshake, under a deadline and in the same place as the rest.
//!
//! axum is the router only; its own `serve` sets no timer. The head timer of hyper bounds slow heads and
//! idle keep-alive alike; bodies have their deadline in [`crate::http::limit`]. Who holds a place without
//! using it gives it to the next ([`crate::http::crowd`]).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mailspan_core::limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

use crate::drill;
use crate::http::crowd::{Crowd, Origin, Seat, Watched};
use crate::http::impatient::Impatient;
use crate::http::own_tls::OwnCertificate;
use crate::http::peer::OwnTls;
use crate::runtime::{self, Spawn};

/// The address at the other end of a TCP connection, in the extensions of each of its requests. It is a
/// proxy's where one stands before the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Whose connections are counted together with those of an address, and how many there may be; asked for each
/// connection.
pub type Shares = Arc<dyn Fn(IpAddr) -> (Option<Origin>, usize) + Send + Sync>;

/// The certificate that a connection is received with; nothing: in clear. Asked for each connection, so that a
/// renewed one holds from the next on.
pub type Certificates = Arc<dyn Fn() -> Option<Arc<OwnCertificate>> + Send + Sync>;

/// How the senders of a TCP listener are received.
#[derive(Clone)]
pub struct Reception {
    pub shares: Shares,
    pub certificates: Certificates,
}

/// In clear, and nobody is counted: for what listens for tests and demonstrations.
pub fn for_all() -> Reception {
    Reception { shares: Arc::new(|_| (None, 0)), certificates: Arc::new(|| None) }
}

/// Serves until `stop` is true, then drains: what is in flight ends, at most `DRAIN_MS_MAX`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    reception: Reception,
    stop: watch::Receiver<bool>,
    spawn: Spawn,
) {
    run(Door::Tcp(listener, reception), app, stop, spawn, bounds()).await;
}

/// The same on the command socket; its requests carry no [`Peer`], and nobody is counted.
pub async fn serve_unix(listener: UnixListener, app: Router, stop: watch::Receiver<bool>, spawn: Spawn) {
    run(Door::Unix(listener), app, stop, spawn, bounds()).await;
}

/// Numbers of one loop; tests make them small.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    connections: u32,
    /// Further ones, while those that were sent away for them still end.
    leaving: u32,
    /// From the accepted connection to the end of the TLS handshake.
    handshake_ms: u64,
    head_ms: u64,
    /// How long a sender may take none of the answer.
    stall_ms: u64,
    drain_ms: u64,
    /// When stopping: how long a connection that never began a request may still begin one.
    grace_ms: u64,
}

const BOUNDS: Bounds = Bounds {
    connections: limits::CONNECTIONS_MAX as u32,
    leaving: 128,
    handshake_ms: limits::HANDSHAKE_MS_MAX,
    head_ms: limits::HEAD_MS_MAX,
    stall_ms: limits::BODY_MS_MAX,
    // A little less, so that whoever waits for the drain as a whole sees it end.
    drain_ms: limits::DRAIN_MS_MAX - 500,
    grace_ms: 250,
};

fn bounds() -> Bounds {
    Bounds { head_ms: drill::number("MAILSPAN_HEAD_MS", BOUNDS.head_ms), ..BOUNDS }
}

/// After an accept that failed for want of files or memory: the kernel would fail again at once.
const BACK_OFF_MS: u64 = 50;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Door {
    Tcp(TcpListener, Reception),
    Unix(UnixListener),
}

/// A connection that was let in.
struct Guest {
    stream: Box<dyn Stream>,
    peer: Option<Peer>,
    certificate: Option<Arc<OwnCertificate>>,
    seat: Arc<Seat>,
    crowd: Arc<Crowd>,
}

impl Door {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Option<Peer>)> {
        match self {
            Door::Tcp(listener, _) => {
                let (stream, peer) = listener.accept().await?;
                // Small answers leave at once (RFC 896 would hold them for an acknowledgement).
                let _ = stream.set_nodelay(true);
                Ok((Box::new(stream), Some(Peer(peer))))
            }
            Door::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), None))
            }
        }
    }
}

impl Door {
    fn share(&self, peer: Option<Peer>) -> (Option<Origin>, usize) {
        match (self, peer) {
            (Door::Tcp(_, reception), Some(Peer(address))) => (reception.shares)(address.ip()),
            _ => (None, 0),
        }
    }

    fn certificate(&self) -> Option<Arc<OwnCertificate>> {
        match self {
            Door::Tcp(_, reception) => (reception.certificates)(),
            Door::Unix(_) => None,
        }
    }
}

async fn run(door: Door, app: Router, mut stop: watch::Receiver<bool>, spawn: Spawn, bounds: Bounds) {
    let most = bounds.connections + bounds.leaving;
    let permits = Arc::new(Semaphore::new(most as usize));
    let crowd = Arc::new(Crowd::default());
    let (kill, killed) = watch::channel(false);
    while let Some((stream, peer)) = next(&door, &mut stop).await {
        let Some(permit) = place(&permits, &crowd, &mut stop, bounds).await else { break };
        let (origin, share) = door.share(peer);
        // All places of this address work: it gets no further one now.
        let Some(seat) = crowd.enter(origin, share) else { continue };
        let guest = Guest { stream, peer, certificate: door.certificate(), seat, crowd: crowd.clone() };
        let (app, stop, killed) = (app.clone(), stop.clone(), killed.clone());
        spawn(Box::pin(async move {
            let (crowd, seat) = (guest.crowd.clone(), guest.seat.clone());
            tokio::select! {
                () = connection(guest, app, stop, killed, bounds) => {}
                () = seat.sent_away() => {}
            }
            crowd.leave(&seat);
            drop(permit);
        }));
    }
    drop(door);
    if runtime::within(bounds.drain_ms, permits.acquire_many(most)).await.is_none() {
        let left = most as usize - permits.available_permits();
        tracing::warn!(left, "connections were still busy at the end of the drain and are closed");
        // Without connections nobody listens, and nothing is left to do.
        let _ = kill.send(true);
        let _ = runtime::within(bounds.grace_ms, permits.acquire_many(most)).await;
    }
}

/// One of the places; where none is free, the connection that waits longest leaves it. Where all of them work,
/// senders wait in the kernel's backlog. Nothing when told to stop.
async fn place(
    permits: &Arc<Semaphore>,
    crowd: &Crowd,
    stop: &mut watch::Receiver<bool>,
    bounds: Bounds,
) -> Option<OwnedSemaphorePermit> {
    if permits.available_permits() <= bounds.leaving as usize {
        crowd.make_room();
    }
    tokio::select! {
        permit = permits.clone().acquire_owned() => permit.ok(),
        () = told(stop) => None,
    }
}

/// The next connection; nothing when told to stop.
async fn next(door: &Door, stop: &mut watch::Receiver<bool>) -> Option<(Box<dyn Stream>, Option<Peer>)> {
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            () = told(stop) => return None,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            Err(error) if is_of_sender(&error) => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept connections; if files ran out, raise `ulimit -n`");
                }
                failing = true;
                if runtime::within(BACK_OFF_MS, told(stop)).await.is_some() {
                    return None;
                }
            }
        }
    }
}

/// The connection was gone before it was accepted.
fn is_of_sender(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Resolves when the value is true, or nobody is left to set it.
async fn told(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}

async fn connection(
    guest: Guest,
    app: Router,
    mut stop: watch::Receiver<bool>,
    mut killed: watch::Receiver<bool>,
    bounds: Bounds,
) {
    let Guest { stream, peer, certificate, seat, crowd } = guest;
    let stream: Box<dyn Stream> = Box::new(Impatient::new(stream, bounds.stall_ms));
    let secure = certificate.is_some();
    let stream = tokio::select! {
        stream = shaken(stream, certificate, bounds) => stream,
        // It has begun no request, and a handshake is soon made again elsewhere.
        () = told(&mut stop) => None,
    };
    let Some(stream) = stream else { return };
    let began = Arc::new(AtomicBool::new(false));
    let began_here = began.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        began_here.store(true, Ordering::Relaxed);
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        if secure {
            request.extensions_mut().insert(OwnTls);
        }
        crowd.waits(&seat);
        let (crowd, seat) = (crowd.clone(), seat.clone());
        let answer =
            app.clone().oneshot(request.map(|body| Watched::body(body, seat.clone(), crowd.clone())));
        async move {
            let answer = answer.await;
            crowd.waits(&seat);
            answer
        }
    });
    let mut serving = pin!(builder(bounds).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = serving.as_mut() => return log(ended),
        () = told(&mut stop) => {}
    }
    serving.as_mut().graceful_shutdown();
    if let Some(ended) = runtime::within(bounds.grace_ms, serving.as_mut()).await {
        return log(ended);
    }
    // Browsers open spare connections and say nothing on them: hyper would wait (hyperium/hyper#3576).
    if !began.load(Ordering::Relaxed) {
        return;
    }
    tokio::select! {
        ended = serving.as_mut() => log(ended),
        () = told(&mut killed) => {}
    }
}

/// The connection after its handshake, where the hub has a certificate; nothing where that failed or took too
/// long.
async fn shaken(
    stream: Box<dyn Stream>,
    certificate: Option<Arc<OwnCertificate>>,
    bounds: Bounds,
) -> Option<Box<dyn Stream>> {
    let Some(certificate) = certificate else { return Some(stream) };
    match runtime::within(bounds.handshake_ms, certificate.accept(stream)).await {
        Some(Ok(stream)) => Some(Box::new(stream)),
        // What senders do wrong here is theirs, too: a scanner, plain HTTP, an old client.
        Some(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        None => {
            tracing::debug!("a TLS handshake took longer than {} ms", bounds.handshake_ms);
            None
        }
    }
}

fn builder(bounds: Bounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(bounds.head_ms))
        .max_headers(limits::HEADERS_MAX)
        .max_header_size(limits::HEAD_BYTES_MAX)
        .max_buf_size(limits::HEAD_BYTES_MAX);
    builder
}

/// What senders do wrong on the wire is theirs, and too frequent for a louder word.
fn log(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests;

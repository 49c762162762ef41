//! The accept loop: HTTP/1.1 with a bound on everything a sender can hold open.
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
use crate::runtime::{self, Spawn};

/// The address at the other end of a TCP connection, in the extensions of each of its requests. It is a
/// proxy's where one stands before the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Whose connections are counted together with those of an address, and how many there may be; asked for each
/// connection.
pub type Shares = Arc<dyn Fn(IpAddr) -> (Option<Origin>, usize) + Send + Sync>;

/// Nobody is counted: for what listens for tests and demonstrations.
pub fn for_all() -> Shares {
    Arc::new(|_| (None, 0))
}

/// Serves until `stop` is true, then drains: what is in flight ends, at most `DRAIN_MS_MAX`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    shares: Shares,
    stop: watch::Receiver<bool>,
    spawn: Spawn,
) {
    run(Door::Tcp(listener, shares), app, stop, spawn, bounds()).await;
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
    Tcp(TcpListener, Shares),
    Unix(UnixListener),
}

/// A connection that was let in.
struct Guest {
    stream: Box<dyn Stream>,
    peer: Option<Peer>,
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
            (Door::Tcp(_, shares), Some(Peer(address))) => shares(address.ip()),
            _ => (None, 0),
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
        let guest = Guest { stream, peer, seat, crowd: crowd.clone() };
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
    let Guest { stream, peer, seat, crowd } = guest;
    let began = Arc::new(AtomicBool::new(false));
    let began_here = began.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        began_here.store(true, Ordering::Relaxed);
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
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
    let stream = TokioIo::new(Impatient::new(stream, bounds.stall_ms));
    let mut serving = pin!(builder(bounds).serve_connection(stream, service));
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
mod tests {
    #![allow(clippy::disallowed_methods, reason = "senders run beside the server that is tested")]

    use axum::Extension;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::*;

    const GET: &str = "GET /who HTTP/1.1\r\nhost: a\r\n\r\n";

    struct Running {
        address: SocketAddr,
        stop: watch::Sender<bool>,
        server: JoinHandle<()>,
        /// The handler of `/slow` was entered; it ends when `go` is told.
        entered: Arc<Notify>,
        go: Arc<Notify>,
    }

    fn patient() -> Bounds {
        Bounds {
            connections: 8,
            leaving: 0,
            head_ms: 20_000,
            stall_ms: 20_000,
            drain_ms: 20_000,
            grace_ms: 1,
        }
    }

    async fn start(bounds: Bounds) -> Running {
        let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (stop, stopped) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = app(entered.clone(), go.clone());
        let server =
            tokio::spawn(run(Door::Tcp(listener, for_all()), app, stopped, runtime::spawner(), bounds));
        Running { address, stop, server, entered, go }
    }

    fn app(entered: Arc<Notify>, go: Arc<Notify>) -> Router {
        Router::new()
            .route("/who", get(|peer: Option<Extension<Peer>>| async move { format!("{}", peer.is_some()) }))
            .route("/big", get(|| async { vec![0_u8; 64 << 20] }))
            .route("/echo", post(|body: bytes::Bytes| async { body }))
            .route(
                "/slow",
                get(|| async move {
                    entered.notify_one();
                    go.notified().await;
                    "done"
                }),
            )
    }

    async fn say(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// All until the other side closes (or resets).
    async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read).await;
        String::from_utf8_lossy(&read).into_owned()
    }

    async fn until(stream: &mut (impl AsyncRead + Unpin), end: &str) {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            read.push(stream.read_u8().await.expect("closed before the answer was complete"));
        }
    }

    #[tokio::test]
    async fn a_request_knows_its_peer_and_the_connection_stays() {
        let running = start(patient()).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        for _ in 0..3 {
            say(&mut stream, GET).await;
            until(&mut stream, "true").await;
        }
        // Told to stop, an idle connection is closed at once and the loop ends.
        running.stop.send(true).unwrap();
        assert_eq!(rest(&mut stream).await, "");
        running.server.await.unwrap();
        assert!(TcpStream::connect(running.address).await.is_err(), "still listening after the stop");
    }

    #[tokio::test]
    async fn the_unix_socket_is_served_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (stop, stopped) = watch::channel(false);
        let listener = UnixListener::bind(&path).unwrap();
        let app = app(Arc::default(), Arc::default());
        let server = tokio::spawn(serve_unix(listener, app, stopped, runtime::spawner()));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        say(&mut stream, GET).await;
        until(&mut stream, "false").await;
        stop.send(true).unwrap();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_in_flight_ends_and_what_never_began_is_closed() {
        let running = start(patient()).await;
        let mut spare = TcpStream::connect(running.address).await.unwrap();
        let mut half = TcpStream::connect(running.address).await.unwrap();
        say(&mut half, "GET /who HT").await;
        let mut busy = TcpStream::connect(running.address).await.unwrap();
        say(&mut busy, "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
        running.entered.notified().await;
        running.stop.send(true).unwrap();
        assert_eq!(rest(&mut spare).await, "");
        assert_eq!(rest(&mut half).await, "");
        running.go.notify_one();
        let answer = rest(&mut busy).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        assert!(answer.contains("connection: close"), "the sender is told not to use it again: {answer}");
        running.server.await.unwrap();
    }

    #[tokio::test]
    async fn the_drain_has_an_end() {
        let running = start(Bounds { drain_ms: 50, ..patient() }).await;
        let mut busy = TcpStream::connect(running.address).await.unwrap();
        say(&mut busy, "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
        running.entered.notified().await;
        running.stop.send(true).unwrap();
        running.server.await.unwrap();
        assert_eq!(rest(&mut busy).await, "");
    }

    #[tokio::test]
    async fn silence_half_a_head_and_idle_keep_alive_are_closed() {
        let running = start(Bounds { head_ms: 50, ..patient() }).await;
        for begin in ["", "GET /who HTTP/1.1\r\nhost: a\r\nx-a: ", GET] {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            say(&mut stream, begin).await;
            let answer = rest(&mut stream).await;
            assert_eq!(answer.contains("200 OK"), begin == GET, "{answer}");
        }
    }

    #[tokio::test]
    async fn huge_heads_and_many_headers_are_refused() {
        let running = start(patient()).await;
        let huge = format!("x-a: {}\r\n", "x".repeat(limits::HEAD_BYTES_MAX + 1));
        for headers in [huge, "x-a: 1\r\n".repeat(limits::HEADERS_MAX + 1)] {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            say(&mut stream, &format!("GET /who HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).await;
            assert!(rest(&mut stream).await.starts_with("HTTP/1.1 431"));
        }
    }

    #[tokio::test]
    async fn who_waits_makes_room_for_the_next_and_who_works_does_not() {
        let running = start(Bounds { connections: 2, ..patient() }).await;
        let mut busy = TcpStream::connect(running.address).await.unwrap();
        say(&mut busy, "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
        running.entered.notified().await;
        let half_a_body = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nx";
        for begin in ["", "GET /who HT", half_a_body, GET] {
            let mut idle = TcpStream::connect(running.address).await.unwrap();
            say(&mut idle, begin).await;
            if begin == GET {
                until(&mut idle, "true").await;
            }
            let mut next = TcpStream::connect(running.address).await.unwrap();
            say(&mut next, "GET /who HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            assert!(rest(&mut next).await.ends_with("true"));
            assert_eq!(rest(&mut idle).await, "", "{begin}");
        }
        running.go.notify_one();
        until(&mut busy, "done").await;
    }

    #[tokio::test]
    async fn more_connections_than_the_bound_wait() {
        let running = start(Bounds { connections: 1, ..patient() }).await;
        let mut first = TcpStream::connect(running.address).await.unwrap();
        say(&mut first, "GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        running.entered.notified().await;
        let mut second = TcpStream::connect(running.address).await.unwrap();
        say(&mut second, GET).await;
        running.go.notify_one();
        assert!(rest(&mut first).await.ends_with("done"));
        until(&mut second, "true").await;
    }

    #[tokio::test]
    async fn who_takes_nothing_of_the_answer_is_closed() {
        let running = start(Bounds { connections: 1, stall_ms: 50, ..patient() }).await;
        let mut first = TcpStream::connect(running.address).await.unwrap();
        say(&mut first, "GET /big HTTP/1.1\r\nhost: a\r\n\r\n").await;
        // Only the end of the first lets the second in.
        let mut second = TcpStream::connect(running.address).await.unwrap();
        say(&mut second, GET).await;
        until(&mut second, "true").await;
    }
}

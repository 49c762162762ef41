//! Senders over real connections.
#![allow(clippy::disallowed_methods, reason = "senders run beside the server that is tested")]

use axum::Extension;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::http::own_tls::Pem;

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
        handshake_ms: 20_000,
        head_ms: 20_000,
        stall_ms: 20_000,
        drain_ms: 20_000,
        grace_ms: 1,
    }
}

async fn start(bounds: Bounds) -> Running {
    start_as(for_all(), bounds).await
}

async fn start_as(reception: Reception, bounds: Bounds) -> Running {
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (stop, stopped) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app(entered.clone(), go.clone());
    let server = tokio::spawn(run(Door::Tcp(listener, reception), app, stopped, runtime::spawner(), bounds));
    Running { address, stop, server, entered, go }
}

fn app(entered: Arc<Notify>, go: Arc<Notify>) -> Router {
    Router::new()
        .route("/who", get(who))
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

async fn who(peer: Option<Extension<Peer>>, tls: Option<Extension<OwnTls>>) -> String {
    format!("{}{}", peer.is_some(), if tls.is_some() { " by tls" } else { "" })
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

/// A server with a certificate, and what a client needs to trust it.
async fn start_with_tls(bounds: Bounds) -> (Running, tokio_rustls::TlsConnector) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["hub.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let pem = |text: String| Pem { text: mailspan_core::Secret::new(text), file: None };
    let own = Arc::new(OwnCertificate::new(pem(certificate.pem()), pem(key.serialize_pem())).unwrap());
    let reception = Reception { certificates: Arc::new(move || Some(own.clone())), ..for_all() };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (start_as(reception, bounds).await, Arc::new(config).into())
}

const CLOSE: &str = "GET /who HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

async fn by_tls(running: &Running, connector: &tokio_rustls::TlsConnector) -> String {
    let stream = TcpStream::connect(running.address).await.unwrap();
    let mut stream = connector.connect("hub.test".try_into().unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "HTTP/2 is not spoken");
    say(&mut stream, CLOSE).await;
    rest(&mut stream).await
}

#[tokio::test]
async fn with_a_certificate_requests_come_by_tls_and_say_so() {
    let (running, connector) = start_with_tls(patient()).await;
    let answer = by_tls(&running, &connector).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("true by tls"), "{answer}");
    running.stop.send(true).unwrap();
    running.server.await.unwrap();
}

/// A hello of TLS 1.1 (RFC 4346, 7.4.1.2) with two suites of its time.
fn old_hello() -> Vec<u8> {
    let hello = [&[3, 2][..], &[7; 32], &[0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]].concat();
    let handshake = [&[1, 0, 0, hello.len() as u8][..], &hello].concat();
    [&[0x16, 3, 1, 0, handshake.len() as u8][..], &handshake].concat()
}

#[tokio::test]
async fn what_is_no_tls_of_today_is_cut_and_costs_the_others_nothing() {
    let (running, connector) = start_with_tls(patient()).await;
    for begin in [CLOSE.as_bytes(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0x17, 3, 3, 0, 1, 0], &old_hello()]
    {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.len() <= 7 && !answer.contains("HTTP"), "more than an alert: {answer:?}");
        assert!(by_tls(&running, &connector).await.ends_with("true by tls"));
    }
}

#[tokio::test]
async fn a_handshake_that_is_silent_or_stops_half_way_is_closed() {
    let (running, connector) = start_with_tls(Bounds { connections: 1, handshake_ms: 50, ..patient() }).await;
    for begin in [&[][..], &old_hello()[..20]] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(begin).await.unwrap();
        assert_eq!(rest(&mut stream).await, "");
    }
    assert!(by_tls(&running, &connector).await.ends_with("true by tls"));
}

#[tokio::test]
async fn a_handshake_makes_room_for_the_next_and_ends_with_the_loop() {
    let (running, connector) = start_with_tls(Bounds { connections: 1, ..patient() }).await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    assert!(by_tls(&running, &connector).await.ends_with("true by tls"));
    assert_eq!(rest(&mut silent).await, "");
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    silent.write_all(&old_hello()[..20]).await.unwrap();
    running.stop.send(true).unwrap();
    assert_eq!(rest(&mut silent).await, "");
    running.server.await.unwrap();
}

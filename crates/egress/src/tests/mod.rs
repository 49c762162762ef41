//! The client against real sockets on loopback.
#![allow(clippy::disallowed_methods, reason = "receivers run beside the client that is tested")]

mod bad_answers;
mod plain;
mod reuse;
mod tls;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mailspan_core::{Lost, Millis, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Allowance, Egress, Target};

const NOW: Millis = Millis(1_777_777_777_000);

/// What a receiver does with one connection.
type Script = Arc<dyn Fn(TcpStream, Arc<Seen>) -> tokio::task::JoinHandle<()> + Send + Sync>;

struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
    /// One permit for each connection that the receiver has closed.
    closed: tokio::sync::Semaphore,
    /// The test gives a permit when the receiver may go on.
    late: tokio::sync::Semaphore,
}

struct Receiver {
    address: SocketAddr,
    seen: Arc<Seen>,
}

impl Receiver {
    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    fn target(&self) -> Target {
        target(&format!("http://{}/hook", self.address))
    }
}

async fn receiver(script: Script) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen {
        connections: AtomicUsize::new(0),
        requests: Mutex::default(),
        closed: tokio::sync::Semaphore::new(0),
        late: tokio::sync::Semaphore::new(0),
    });
    let shared = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            script(stream, shared.clone());
        }
    });
    Receiver { address, seen }
}

/// Answers every request of a connection with these bytes, and keeps it open.
fn always(answer: &'static str) -> Script {
    Arc::new(move |mut stream, seen| {
        tokio::spawn(async move {
            while let Some(request) = read_request(&mut stream).await {
                seen.requests.lock().unwrap().push(request);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
    })
}

/// Head and body of one request, or nothing when the client has closed.
async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let byte = stream.read_u8().await.ok()?;
        read.push(byte);
        if read.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(read).unwrap();
    let length = head
        .to_lowercase()
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + &String::from_utf8(body).unwrap())
}

fn target(base_url: &str) -> Target {
    Target {
        key: base_url.to_owned(),
        base_url: base_url.to_owned(),
        concurrency: 4,
        timeout_ms: 20_000,
        ca: None,
        client_certificate: None,
        title_case_headers: false,
    }
}

/// Everything on loopback is allowed; names are looked up in `table`.
fn egress_with(allow: &[&str], table: &'static [(&'static str, &'static str)]) -> Egress {
    let allow = allow.iter().map(|text| Allowance::parse(text).unwrap()).collect();
    let lookup: crate::resolve::Lookup = Arc::new(move |name, port| {
        let found: Vec<SocketAddr> = table
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, ip)| SocketAddr::new(ip.parse().unwrap(), port))
            .collect();
        Box::pin(async move { Ok(found) })
    });
    Egress::with_lookup(allow, Arc::new(|| NOW), lookup)
}

fn egress() -> Egress {
    egress_with(&["127.0.0.0/8:*"], &[("crm.test", "127.0.0.1"), ("other.test", "127.0.0.1")])
}

fn post(body: &'static str) -> Request {
    Request {
        method: "POST",
        path: String::new(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: bytes::Bytes::from_static(body.as_bytes()),
    }
}

fn get() -> Request {
    Request { method: "GET", path: String::new(), headers: Vec::new(), body: bytes::Bytes::new() }
}

fn assert_lost(lost: &Lost, code: &str, sent: bool, part: &str) {
    assert_eq!((lost.why.code.as_str(), lost.sent), (code, sent), "{lost:?}");
    assert!(lost.why.text.contains(part), "`{}` should say `{part}`", lost.why.text);
}

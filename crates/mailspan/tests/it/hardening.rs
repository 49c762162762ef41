//! Senders that misbehave: slow, large, packed, garbled. Honest ones are served all the while.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use mailspan_core::limits;
use mailspan_testkit::{Hub, Receiver, post, until};

use crate::support::{AT, BINARY, SECRET, config, event, send, send_raw, signed};

const BODY_MAX: usize = 64 << 10;

fn hub(env: &[(&str, &str)]) -> (Hub, Receiver) {
    let crm = Receiver::start();
    let text = config(&crm, "", "").replace("[server]", "[server]\nbody_max = \"64KiB\"");
    let mut hub = Hub::new(BINARY, &text, &[("MAILTARGET_SECRET", SECRET)]);
    env.iter().for_each(|(name, value)| hub.set_env(name, value));
    hub.start();
    (hub, crm)
}

/// A signed event, filled up with white space.
fn padded(who: &str, bytes: usize) -> Vec<u8> {
    let mut body = event("open", who, AT).to_string().into_bytes();
    assert!(body.len() <= bytes);
    body.resize(bytes, b' ');
    body
}

fn accepted(hub: &Hub) -> u64 {
    hub.rows(&["audit"])[0]["accepted"].as_u64().unwrap()
}

/// Sends bytes as they are; what came back until the other side closed, or nothing came for five seconds.
fn exchange(hub: &Hub, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", hub.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // The hub may close before all is sent: its answer counts.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(body: &[u8], more: &str) -> String {
    let mac = signed(SECRET, body);
    format!("POST /in/mailtarget HTTP/1.1\r\nhost: hub\r\nx-mailtarget-signature: {mac}\r\n{more}\r\n")
}

/// The most memory that the hub has had so far, in KiB (proc(5)).
fn peak_kib(hub: &Hub) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", hub.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn answers_honest_senders(hub: &Hub, crm: &Receiver, who: &str) {
    assert_eq!(send(hub, &event("open", who, AT)).status, 200);
    until(10, "an honest event did not arrive", || crm.ok_about(who).pop());
}

/// A connection that sends a byte at a time, and when it was closed.
struct Drip {
    stream: TcpStream,
    rest: Vec<u8>,
    began: Instant,
    closed: Option<Duration>,
}

impl Drip {
    fn begin(hub: &Hub, from: Ipv4Addr, at_once: &str, rest: &str) -> Drip {
        // The hub may take it before this machine comes back to us.
        let began = Instant::now();
        let mut stream = dial_from(from, hub.port);
        stream.write_all(at_once.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        Drip { stream, rest: rest.bytes().rev().collect(), began, closed: None }
    }

    fn drop_falls(&mut self) {
        if self.closed.is_some() {
            return;
        }
        let byte = self.rest.pop().unwrap_or(b'x');
        let written = self.stream.write(&[byte]);
        let mut said = [0; 512];
        let open = loop {
            match self.stream.read(&mut said) {
                Ok(0) => break false,
                Ok(_) => {}
                Err(error) => break error.kind() == std::io::ErrorKind::WouldBlock,
            }
        };
        if !open || written.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock) {
            self.closed = Some(self.began.elapsed());
        }
    }
}

/// All of 127.0.0.0/8 is this machine; each address of it is a sender of its own.
fn dial_from(from: Ipv4Addr, port: u16) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap()
    });
    stream.into_std().unwrap()
}

/// A sender that sends whole requests, one after the other, until it is told to stop.
struct Honest {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl Honest {
    fn begin(hub: &Hub, name: &'static str) -> Honest {
        let (stop, port) = (Arc::new(AtomicBool::new(false)), hub.port);
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut took = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let body = event("open", &format!("{name}{}@example.com", took.len()), AT).to_string();
                let mac = signed(SECRET, body.as_bytes());
                let asked = Instant::now();
                let reply =
                    post(port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], body.as_bytes());
                assert_eq!(reply.unwrap().status, 200);
                took.push(asked.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            took
        });
        Honest { stop, thread }
    }

    /// How long each request took.
    fn end(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn shown(took: &mut [Duration]) -> String {
    took.sort();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    format!(
        "{} honest requests: middle {:?}, 99 % within {:?}, slowest {:?}",
        took.len(),
        at(50),
        at(99),
        at(100)
    )
}

/// Of one address, more than which make room for each other, as many drip.
const OF_ONE: usize = 200;

/// 500 in the suite, `MAILSPAN_DRIPS=10000` for more than the hub takes at once (`CONNECTIONS_MAX`): raise
/// `ulimit -n` above that number. They come from several addresses, 200 from each.
#[test]
fn dripping_connections_end_at_their_deadline_while_honest_senders_are_answered() {
    let count = std::env::var("MAILSPAN_DRIPS").map_or(500, |text| text.parse::<usize>().unwrap());
    let deadline = Duration::from_millis(2_500);
    let (hub, crm) = hub(&[("MAILSPAN_HEAD_MS", "2500"), ("MAILSPAN_BODY_MS", "2500")]);
    let body = padded("drip@example.com", 4_000);
    let whole_head = head(&body, "content-length: 4000\r\n");
    let slow_head = "x-a: ".to_owned() + &"y".repeat(20_000);
    let first_line = "POST /in/mailtarget HTTP/1.1\r\nhost: hub\r\n";
    let alone = Honest::begin(&hub, "alone");
    std::thread::sleep(Duration::from_millis(1_500));
    let mut alone = alone.end();
    let honest = Honest::begin(&hub, "beside");
    let mut drips: Vec<Drip> = (0..count)
        .map(|n| {
            let from = Ipv4Addr::new(127, 1, 0, u8::try_from(1 + n / OF_ONE).unwrap());
            match n % 2 {
                0 => Drip::begin(&hub, from, first_line, &slow_head),
                _ => Drip::begin(&hub, from, &whole_head, &" ".repeat(20_000)),
            }
        })
        .collect();
    let began = Instant::now();
    while drips.iter().any(|drip| drip.closed.is_none()) {
        assert!(began.elapsed() < deadline * 12, "some dripping connections are never closed");
        drips.iter_mut().for_each(Drip::drop_falls);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut took = honest.end();
    let closed = drips.iter().filter_map(|drip| drip.closed);
    let (first, last) = (closed.clone().min().unwrap(), closed.max().unwrap());
    println!(
        "{count} dripping connections were closed after {first:?} to {last:?}; alone {}; beside them {}",
        shown(&mut alone),
        shown(&mut took)
    );
    // Not before its time, or an honest slow sender could not get through: but where all places are taken.
    assert!(
        count > limits::CONNECTIONS_MAX || first >= deadline - Duration::from_millis(100),
        "closed after {first:?}"
    );
    assert_eq!(accepted(&hub), (alone.len() + took.len()) as u64, "half a body was taken for a whole one");
    answers_honest_senders(&hub, &crm, "after@example.com");
}

/// One address has its share of connections; a further one costs it its own that waits longest.
#[test]
fn one_address_does_not_take_the_places_of_others() {
    let (hub, crm) = hub(&[]);
    let greedy = Ipv4Addr::new(127, 2, 0, 1);
    let mut drips: Vec<Drip> = (0..limits::CONNECTIONS_PER_ADDRESS + 50)
        .map(|_| Drip::begin(&hub, greedy, "POST /in/mailtarget HTTP/1.1\r\n", &"x".repeat(20_000)))
        .collect();
    until(10, "the connections above the share are not closed", || {
        drips.iter_mut().for_each(Drip::drop_falls);
        (drips.iter().filter(|drip| drip.closed.is_some()).count() == 50).then_some(())
    });
    assert!(drips[..50].iter().all(|drip| drip.closed.is_some()), "not the oldest ones were closed");
    // The greedy one itself is answered too, at the price of another of its own.
    let mut stream = dial_from(greedy, hub.port);
    stream.set_nonblocking(false).unwrap();
    let body = event("open", "greedy@example.com", AT).to_string();
    let length = format!("content-length: {}\r\nconnection: close\r\n", body.len());
    stream.write_all((head(body.as_bytes(), &length) + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answers_honest_senders(&hub, &crm, "other@example.com");
}

#[test]
fn a_body_up_to_the_limit_is_taken_and_a_byte_more_is_413_and_not_kept() {
    let (hub, crm) = hub(&[]);
    assert_eq!(send_raw(&hub, &padded("a@example.com", BODY_MAX - 1)).status, 200);
    assert_eq!(send_raw(&hub, &padded("b@example.com", BODY_MAX)).status, 200);
    let over = send_raw(&hub, &padded("c@example.com", BODY_MAX + 1));
    assert_eq!((over.status, over.json()["code"].as_str()), (413, Some("too_large")));
    for (size, expected) in [(BODY_MAX, "HTTP/1.1 200"), (BODY_MAX + 1, "HTTP/1.1 413")] {
        let body = padded(&format!("chunked{size}@example.com"), size);
        let mut bytes = head(&body, "transfer-encoding: chunked\r\nconnection: close\r\n").into_bytes();
        for chunk in body.chunks(1_000) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        let answer = exchange(&hub, &bytes);
        assert!(answer.starts_with(expected), "{size} bytes in chunks: {answer}");
    }
    assert_eq!(accepted(&hub), 3);
    assert_eq!(hub.rows(&["refused"]).len() + hub.rows(&["quarantined"]).len(), 0);
    answers_honest_senders(&hub, &crm, "after@example.com");
}

#[test]
fn a_body_that_is_shorter_than_announced_is_nothing() {
    let (hub, crm) = hub(&[]);
    let body = event("open", "cut@example.com", AT).to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", hub.port)).unwrap();
    let head = head(body.as_bytes(), &format!("content-length: {}\r\n", body.len() + 10));
    stream.write_all((head + &body).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert_eq!(accepted(&hub), 0);
    answers_honest_senders(&hub, &crm, "after@example.com");
}

#[test]
fn garbage_after_a_request_is_400_and_no_second_request() {
    let (hub, crm) = hub(&[]);
    let body = event("open", "first@example.com", AT).to_string();
    let whole = head(body.as_bytes(), &format!("content-length: {}\r\n", body.len())) + &body;
    let answer = exchange(&hub, format!("{whole}\0\x01garbage \r\n\r\n{whole}").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    assert!(answer.contains("HTTP/1.1 400"), "{answer}");
    // Both lengths: who wins would be a matter of taste (RFC 9112, 6.1).
    let both =
        head(body.as_bytes(), "content-length: 3\r\ntransfer-encoding: chunked\r\nconnection: close\r\n");
    let answer = exchange(&hub, format!("{both}0\r\n\r\n").as_bytes());
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert_eq!(accepted(&hub), 1);
    answers_honest_senders(&hub, &crm, "after@example.com");
}

#[test]
fn floods_of_headers_are_refused() {
    let (hub, crm) = hub(&[]);
    let before = peak_kib(&hub);
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(64 << 10));
    let line = "y".repeat(64 << 20);
    for (what, flood) in [("many", &many), ("long", &long), ("endless", &line)] {
        let answer =
            exchange(&hub, format!("POST /in/mailtarget HTTP/1.1\r\nhost: hub\r\n{flood}\r\n").as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
    }
    assert!(peak_kib(&hub) < before + (16 << 10), "{} KiB, {before} before", peak_kib(&hub));
    assert_eq!(accepted(&hub), 0);
    answers_honest_senders(&hub, &crm, "after@example.com");
}

/// Members of zeros, each 1:1,000, as many as fit into a body: five GiB. They take no more memory than
/// honest bodies of that size.
#[test]
fn a_bomb_is_413_and_memory_stays_flat() {
    let crm = Receiver::start();
    let mut hub = Hub::new(BINARY, &config(&crm, "", ""), &[("MAILTARGET_SECRET", SECRET)]);
    hub.start();
    let mut writer = GzEncoder::new(Vec::new(), Compression::best());
    writer.write_all(&vec![0; 4 << 20]).unwrap();
    let member = writer.finish().unwrap();
    let bomb = member.repeat((5 << 20) / member.len());
    println!("{} bytes unpack to {} MiB", bomb.len(), (bomb.len() / member.len()) * 4);
    for n in 0..4 {
        assert_eq!(send_raw(&hub, &padded(&format!("large{n}@example.com"), 5 << 20)).status, 200);
    }
    let before = peak_kib(&hub);
    let post = |coding: &str, body: &[u8]| {
        let mac = signed(SECRET, body);
        let headers = [("x-mailtarget-signature", mac.as_str()), ("content-encoding", coding)];
        hub.post("/in/mailtarget", &headers, body).status
    };
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(&vec![0; 40 << 20]).unwrap();
    let zlib = zlib.finish().unwrap();
    for _ in 0..4 {
        assert_eq!(post("gzip", &bomb), 413);
        assert_eq!(post("deflate", &zlib), 413);
    }
    // These are not read at all.
    assert_eq!([post("br", &zlib), post("zstd", &zlib)], [415, 415]);
    let grown = peak_kib(&hub).saturating_sub(before);
    println!("the most memory was {before} KiB after honest bodies, and {grown} KiB more after bombs");
    assert!(grown < 32 << 10, "{grown} KiB");
    let mut twice = GzEncoder::new(Vec::new(), Compression::best());
    twice.write_all(&member).unwrap();
    assert_eq!(post("gzip", &twice.finish().unwrap()), 400, "what is packed twice is no JSON");
    assert_eq!(accepted(&hub), 4);
    answers_honest_senders(&hub, &crm, "after@example.com");
}

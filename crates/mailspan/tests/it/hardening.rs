//! Senders that misbehave: slow, large, packed, garbled. Honest ones are served all the while.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
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
    fn begin(hub: &Hub, at_once: &str, rest: &str) -> Drip {
        let mut stream = TcpStream::connect(("127.0.0.1", hub.port)).unwrap();
        stream.write_all(at_once.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        Drip { stream, rest: rest.bytes().rev().collect(), began: Instant::now(), closed: None }
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

/// A sender that sends whole requests, one after the other, until it is told to stop.
struct Honest {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl Honest {
    fn begin(hub: &Hub) -> Honest {
        let (stop, port) = (Arc::new(AtomicBool::new(false)), hub.port);
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut took = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let body = event("open", &format!("h{}@example.com", took.len()), AT).to_string();
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

/// 500 in the suite; `MAILSPAN_DRIPS=10000` for more than the hub takes at once (`CONNECTIONS_MAX`).
#[test]
fn dripping_connections_end_at_their_deadline_while_honest_senders_are_answered() {
    let count = std::env::var("MAILSPAN_DRIPS").map_or(500, |text| text.parse::<usize>().unwrap());
    let deadline = Duration::from_millis(2_500);
    let (hub, crm) = hub(&[("MAILSPAN_HEAD_MS", "2500"), ("MAILSPAN_BODY_MS", "2500")]);
    let body = padded("drip@example.com", 4_000);
    let whole_head = head(&body, "content-length: 4000\r\n");
    let slow_head = "x-a: ".to_owned() + &"y".repeat(20_000);
    let first_line = "POST /in/mailtarget HTTP/1.1\r\nhost: hub\r\n";
    let honest = Honest::begin(&hub);
    let mut drips: Vec<Drip> = (0..count)
        .map(|n| match n % 2 {
            0 => Drip::begin(&hub, first_line, &slow_head),
            _ => Drip::begin(&hub, &whole_head, &" ".repeat(20_000)),
        })
        .collect();
    let began = Instant::now();
    while drips.iter().any(|drip| drip.closed.is_none()) {
        assert!(began.elapsed() < deadline * 12, "some dripping connections are never closed");
        drips.iter_mut().for_each(Drip::drop_falls);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut took = honest.end();
    took.sort();
    let closed = drips.iter().filter_map(|drip| drip.closed);
    let (first, last) = (closed.clone().min().unwrap(), closed.max().unwrap());
    println!(
        "{count} dripping connections were closed after {first:?} to {last:?}; of {} honest requests meanwhile \
         the middle one took {:?}, the slowest {:?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
    // Not before its time, or an honest slow sender could not get through.
    assert!(first >= deadline - Duration::from_millis(100), "closed after {first:?}");
    assert_eq!(accepted(&hub), took.len() as u64, "half a body was taken for a whole one");
    answers_honest_senders(&hub, &crm, "after@example.com");
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
fn a_gzip_bomb_is_413_and_memory_stays_flat() {
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
    let post = |body: &[u8]| {
        let mac = signed(SECRET, body);
        let headers = [("x-mailtarget-signature", mac.as_str()), ("content-encoding", "gzip")];
        hub.post("/in/mailtarget", &headers, body).status
    };
    for _ in 0..4 {
        assert_eq!(post(&bomb), 413);
    }
    let grown = peak_kib(&hub).saturating_sub(before);
    println!("the most memory was {before} KiB after honest bodies, and {grown} KiB more after bombs");
    assert!(grown < 32 << 10, "{grown} KiB");
    let mut twice = GzEncoder::new(Vec::new(), Compression::best());
    twice.write_all(&member).unwrap();
    assert_eq!(post(&twice.finish().unwrap()), 400, "what is packed twice is no JSON");
    assert_eq!(accepted(&hub), 4);
    answers_honest_senders(&hub, &crm, "after@example.com");
}

//! Bodies that nobody should send: each gets an answer of its own fault, and the hub goes on.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use mailspan_testkit::{Hub, until};
use serde_json::json;

use crate::support::{AT, SECRET, event, hub, send, send_raw, signed};

/// Name and body: the parts of JSON that parsers disagree about (after JSONTestSuite of Nicolas
/// Seriot), and shapes that are JSON and no event.
const BODIES: [(&str, &[u8]); 94] = [
    ("nothing", b""),
    ("a blank", b" "),
    ("a line break", b"\n"),
    ("a byte order mark alone", b"\xef\xbb\xbf"),
    ("a byte order mark before an object", b"\xef\xbb\xbf{}"),
    ("UTF-16 LE", b"\xff\xfe{\x00}\x00"),
    ("UTF-16 BE", b"\xfe\xff\x00{\x00}"),
    ("null", b"null"),
    ("true", b"true"),
    ("false", b"false"),
    ("nul", b"nul"),
    ("True", b"True"),
    ("undefined", b"undefined"),
    ("a number", b"0"),
    ("minus zero", b"-0"),
    ("minus", b"-"),
    ("plus", b"+1"),
    ("a leading zero", b"[012]"),
    ("a point without digits", b"[1.]"),
    ("digits without a one before the point", b"[.5]"),
    ("an exponent without digits", b"[1e]"),
    ("a huge exponent", b"[1e999999999]"),
    ("a tiny number", b"[1e-999999999]"),
    ("a long number", b"[123123123123123123123123123123123123123123123123]"),
    ("hexadecimal", b"[0x1F]"),
    ("infinity", b"[Infinity]"),
    ("not a number", b"[NaN]"),
    ("a string", b"\"text\""),
    ("an empty string", b"\"\""),
    ("an open string", b"\"text"),
    ("single quotes", b"'text'"),
    ("an unknown escape", b"[\"\\x41\"]"),
    ("half an escape", b"[\"\\u00\"]"),
    ("a lone high surrogate", b"[\"\\uD800\"]"),
    ("a lone low surrogate", b"[\"\\uDC00\"]"),
    ("surrogates in the wrong order", b"[\"\\uDC00\\uD800\"]"),
    ("an escaped zero", b"[\"\\u0000\"]"),
    ("a raw zero in a string", b"[\"\x00\"]"),
    ("a raw tab in a string", b"[\"\t\"]"),
    ("a raw line break in a string", b"[\"\n\"]"),
    ("invalid UTF-8", b"[\"\xff\"]"),
    ("overlong UTF-8", b"[\"\xc0\xaf\"]"),
    ("a surrogate in UTF-8", b"[\"\xed\xa0\x80\"]"),
    ("cut UTF-8", b"[\"\xe0\xa4\"]"),
    ("an empty array", b"[]"),
    ("an open array", b"["),
    ("a closed array", b"]"),
    ("a comma at the end", b"[1,]"),
    ("a comma at the beginning", b"[,1]"),
    ("two commas", b"[1,,2]"),
    ("a colon in an array", b"[1:2]"),
    ("crossed brackets", b"[{]}"),
    ("arrays in arrays", b"[[[[[[]]]]]]"),
    ("an array of null", b"[null]"),
    ("an array of numbers", b"[1,2,3]"),
    ("an array of strings", b"[\"a\",\"b\"]"),
    ("an array of arrays", b"[[],[]]"),
    ("an array of empty objects", b"[{},{}]"),
    ("an empty object", b"{}"),
    ("an open object", b"{"),
    ("a closed object", b"}"),
    ("a key without a value", b"{\"a\"}"),
    ("a colon without a value", b"{\"a\":}"),
    ("a key without quotes", b"{a:1}"),
    ("a number as a key", b"{1:1}"),
    ("a comma at the end of an object", b"{\"a\":1,}"),
    ("the same key twice", b"{\"event\":\"open\",\"event\":\"click\"}"),
    ("an empty key", b"{\"\":1}"),
    ("two values", b"{}{}"),
    ("rubbish behind", b"{} x"),
    ("a zero behind", b"{}\x00"),
    ("a comment", b"{/* x */}"),
    ("a comment behind", b"{} // x"),
    ("XML", b"<event/>"),
    ("a form", b"event=open&recipient=a%40example.com"),
    ("lines of JSON", b"{\"type\":\"app.a\"}\n{\"type\":\"app.b\"}"),
    ("events null", b"{\"events\":null}"),
    ("events a number", b"{\"events\":1}"),
    ("events a string", b"{\"events\":\"x\"}"),
    ("events an object", b"{\"events\":{}}"),
    ("events empty", b"{\"events\":[]}"),
    ("events of null", b"{\"events\":[null,null]}"),
    ("events in events", b"{\"events\":[{\"events\":[{}]}]}"),
    ("event null", b"{\"event\":null,\"recipient\":null,\"timestamp\":null}"),
    ("event a number", b"{\"event\":1,\"recipient\":2,\"timestamp\":3}"),
    ("event an object", b"{\"event\":{},\"recipient\":{},\"timestamp\":{}}"),
    ("no address", b"{\"event\":\"open\",\"recipient\":\"nobody\",\"timestamp\":\"2026-05-08T03:14:15Z\"}"),
    ("an empty address", b"{\"event\":\"open\",\"recipient\":\"\",\"timestamp\":\"2026-05-08T03:14:15Z\"}"),
    ("a time that is none", b"{\"event\":\"open\",\"recipient\":\"t@example.com\",\"timestamp\":\"yesterday\"}"),
    ("a time beyond all", b"{\"event\":\"open\",\"recipient\":\"t@example.com\",\"timestamp\":99999999999999999999}"),
    ("a time before all", b"{\"event\":\"open\",\"recipient\":\"t@example.com\",\"timestamp\":-9223372036854775808}"),
    ("metadata that is none", b"{\"batchId\":\"x\",\"events\":[{\"status\":\"open\",\"recipient\":\"t@example.com\",\"recipientMeta\":\"{\"}]}"),
    ("a type null", b"{\"type\":null}"),
    ("a type of nothing", b"{\"type\":\"\"}"),
];

/// Bodies that are too much for a table.
fn large_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let repeated = |before: &str, unit: &str, n: usize, after: &str| {
        [before, &unit.repeat(n), after].concat().into_bytes()
    };
    let keys: Vec<String> = (0..300_000).map(|n| format!("\"k{n}\":1")).collect();
    vec![
        ("deep arrays", repeated("", "[", 100_000, "")),
        ("deep closed arrays", [vec![b'['; 50_000], vec![b']'; 50_000]].concat()),
        ("deep objects", repeated("", "{\"a\":", 100_000, "")),
        ("deep in an event", repeated("{\"type\":\"app.a\",\"data\":{\"a\":", "[", 5_000, "")),
        ("a long number", repeated("{\"type\":\"app.a\",\"data\":{\"n\":", "9", 200_000, "}}")),
        ("a long type", repeated("{\"type\":\"app.", "a", 100_000, "\"}")),
        ("a long word", repeated("{\"recipient\":\"t@example.com\",\"event\":\"", "a", 100_000, "\"}")),
        ("a long subject", repeated("{\"type\":\"app.a\",\"subject\":\"", "a", 100_000, "@example.com\"}")),
        (
            "a long recipient",
            repeated("{\"event\":\"open\",\"recipient\":\"", "a", 100_000, "@example.com\"}"),
        ),
        ("a long id", repeated("{\"type\":\"app.a\",\"id\":\"", "a", 100_000, "\"}")),
        ("much data", repeated("{\"type\":\"app.a\",\"data\":{\"a\":\"", "a", 300_000, "\"}}")),
        ("many keys", [b"{".to_vec(), keys.join(",").into_bytes(), b"}".to_vec()].concat()),
        ("many elements", repeated("[", "{},", 5_000, "{}]")),
        ("many blanks", repeated("", " ", 1_000_000, "{}")),
    ]
}

fn write_key(hub: &Hub) -> String {
    let made = &hub.rows(&["keys", "create", "--scope", "events:write"])[0];
    format!("Bearer {}", made["key"].as_str().unwrap())
}

/// Never our own fault, and always with words.
fn check_answer(name: &str, door: &str, reply: &mailspan_testkit::Reply) {
    assert!((200..500).contains(&reply.status), "{name} at {door}: {}", reply.status);
    if reply.status >= 300 {
        let detail = reply.json()["detail"].as_str().map_or(0, str::len);
        assert!(detail > 5, "{name} at {door}: {} says nothing", reply.status);
    } else {
        assert!(reply.json()["accepted"].is_u64(), "{name} at {door}");
    }
}

/// A good event still goes all the way, and nothing got lost.
fn check_alive(hub: &Hub, crm: &mailspan_testkit::Receiver) {
    assert_eq!(send(hub, &event("open", "alive@example.com", AT)).status, 200);
    until(30, "the hub does not deliver any more", || crm.ok_about("alive@example.com").pop());
    let audit = until(30, "not settled", || {
        let audit = hub.rows(&["audit"]).remove(0);
        (audit["pending"] == 0 && audit["waiting"] == 0).then_some(audit)
    });
    assert_eq!((&audit["adds_up"], &audit["dead"]), (&json!(true), &json!(0)), "{audit}");
    assert!(!hub.log().contains("panicked"), "{}", hub.log());
}

#[test]
fn no_body_is_our_fault() {
    let (hub, crm) = hub();
    let key = write_key(&hub);
    let large = large_bodies();
    let large = large.iter().map(|(name, body)| (*name, body.as_slice()));
    for (name, body) in BODIES.into_iter().chain(large) {
        check_answer(name, "/in/mailtarget", &send_raw(&hub, body));
        for kind in [
            "application/json",
            "application/cloudevents+json",
            "application/cloudevents-batch+json",
            "text/plain",
        ] {
            let headers = [("authorization", key.as_str()), ("content-type", kind)];
            check_answer(name, kind, &hub.post("/v1/events", &headers, body));
        }
    }
    check_alive(&hub, &crm);
}

#[test]
fn what_is_no_json_is_never_taken() {
    let (hub, _crm) = hub();
    let key = write_key(&hub);
    for (name, body) in BODIES {
        // Its grammar alone counts: a number may be larger than anything that we could hold.
        if serde_json::from_slice::<&serde_json::value::RawValue>(body).is_ok() {
            continue;
        }
        assert_eq!(send_raw(&hub, body).status, 400, "{name} at /in/mailtarget");
        let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
        assert_eq!(hub.post("/v1/events", &headers, body).status, 400, "{name} at /v1/events");
    }
    assert!(hub.rows(&["events", "list"]).is_empty());
}

fn packed(encoding: &str, body: &[u8]) -> Vec<u8> {
    if encoding == "gzip" {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).unwrap();
        return encoder.finish().unwrap();
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn packed_bodies_are_unpacked_within_bounds() {
    let (hub, crm) = hub();
    let send_packed = |encoding: &str, body: &[u8]| {
        let mac = signed(SECRET, body);
        let headers = [("x-mailtarget-signature", mac.as_str()), ("content-encoding", encoding)];
        hub.post("/in/mailtarget", &headers, body).status
    };
    for encoding in ["gzip", "deflate"] {
        let body = event("open", &format!("{encoding}@example.com"), AT).to_string();
        assert_eq!(send_packed(encoding, &packed(encoding, body.as_bytes())), 200, "{encoding}");
        until(10, "not delivered", || crm.ok_about(&format!("{encoding}@example.com")).pop());
        let bomb = packed(encoding, &vec![b' '; 8 << 20]);
        assert_eq!(send_packed(encoding, &bomb), 413, "a bomb in {encoding}");
        let whole = packed(encoding, body.as_bytes());
        assert_eq!(send_packed(encoding, &whole[..whole.len() / 2]), 400, "half a body in {encoding}");
        assert_eq!(send_packed(encoding, b"no packed body"), 400, "rubbish in {encoding}");
        assert_eq!(send_packed(encoding, b""), 400, "nothing in {encoding}");
    }
    let body = event("open", "br@example.com", AT).to_string();
    assert_eq!(send_packed("br", body.as_bytes()), 415);
    let twice = packed("gzip", &packed("gzip", body.as_bytes()));
    assert_eq!(send_packed("gzip, gzip", &twice), 415);
    check_alive(&hub, &crm);
}

#[test]
fn too_large_is_said_before_it_is_read() {
    let (hub, crm) = hub();
    let body = vec![b' '; (5 << 20) + 1];
    let mac = signed(SECRET, &body);
    // Cut off while it was still sending, or answered: never taken.
    let sent = mailspan_testkit::post(hub.port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], &body);
    assert!(sent.map_or(true, |reply| reply.status == 413));
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", hub.port)).unwrap();
    write!(stream, "POST /in/mailtarget HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    check_alive(&hub, &crm);
}

/// What the first line of the answer to these bytes is; empty where the connection was closed.
fn raw(hub: &Hub, bytes: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", hub.port)).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(40))).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn requests_that_are_no_http_do_no_harm() {
    let (hub, crm) = hub();
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    let wide = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(100_000));
    let cases: [&[u8]; 12] = [
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /in/mailtarget HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /in/mailtarget HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /in/mailtarget HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /in/mailtarget HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /in/mailtarget HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\nhalf",
        long.as_bytes(),
        many.as_bytes(),
        wide.as_bytes(),
    ];
    for (n, bytes) in cases.into_iter().enumerate() {
        let line = raw(&hub, bytes);
        let fine = line.is_empty() || line.starts_with("HTTP/1.1 4") || line.starts_with("HTTP/1.0 4");
        assert!(fine, "case {n}: {line}");
    }
    check_alive(&hub, &crm);
}

#[test]
fn a_batch_of_everything_keeps_the_good_ones() {
    let (hub, crm) = hub();
    let key = write_key(&hub);
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    let body = format!(
        r#"[{{"type":"app.a","subject":"one@example.com"}},null,1,"x",[],{{}},{{"type":7}},
        {{"type":"system.dead_letter"}},{{"type":"app.a","data":{{"deep":{deep}}},"subject":"two@example.com"}},
        {{"type":"app.a","subject":"three@example.com","data":"text"}},{{"type":"no family"}}]"#
    );
    let reply = hub.post("/v1/events", &headers, body.as_bytes());
    assert_eq!(reply.status, 202, "{}", reply.json());
    let answer = reply.json();
    let (accepted, quarantined) =
        (answer["accepted"].as_u64().unwrap(), answer["quarantined"].as_u64().unwrap());
    assert_eq!((accepted, accepted + quarantined), (3, 11), "{answer}");
    for who in ["one@example.com", "two@example.com", "three@example.com"] {
        until(10, "a good one was lost", || crm.ok_about(who).pop());
    }
    let rows = hub.rows(&["quarantined"]);
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().all(|row| row["text"].as_str().is_some_and(|text| text.len() > 5)), "{rows:?}");
    check_alive(&hub, &crm);
}

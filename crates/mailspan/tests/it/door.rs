//! What senders do by mistake or on purpose, at the door: copies at once, probes, odd bytes, old requests, a
//! clock that is off, another protocol, a secret that changes, a store that is gone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use mailspan_connectors::signature::{base64, hmac_sha256};
use mailspan_testkit::{Hub, PostgresServer, Receiver, Reply, now_ms, post, until};
use serde_json::Value;

use crate::reload::{apply, text_of};
use crate::support::{AT, BINARY, SECRET, config, event, hub, hub_with, send, send_raw, signed};

fn accepted(hub: &Hub) -> u64 {
    hub.rows(&["audit"])[0]["accepted"].as_u64().unwrap()
}

#[test]
fn what_is_committed_for_a_sender_that_went_away_is_routed_and_delivered() {
    let (hub, crm) = hub();
    for n in 0..20 {
        let body = event("open", &format!("gone{n}@example.com"), AT).to_string();
        let mac = signed(SECRET, body.as_bytes());
        let mut sender = TcpStream::connect(("127.0.0.1", hub.port)).unwrap();
        let head = format!(
            "POST /in/mailtarget HTTP/1.1\r\nhost: hub\r\nx-mailtarget-signature: {mac}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        sender.write_all((head + &body).as_bytes()).unwrap();
        drop(sender);
        until(10, "an event waits for the next one to be routed", || {
            (hub.rows(&["audit"])[0]["waiting"] == 0).then_some(())
        });
    }
    assert!(accepted(&hub) > 0, "no sender went away after its request was taken: the test looks at nothing");
    until(10, "what was committed was not delivered", || {
        (crm.ok().len() as u64 == accepted(&hub)).then_some(())
    });
}

/// Whoever says `replay` and goes away leaves nothing that waits: its desk is woken all the same.
#[test]
fn a_replay_whose_caller_went_away_is_delivered() {
    let (hub, crm) = hub();
    let key = &hub.rows(&["keys", "create", "--scope", "operate"])[0];
    let key = key["key"].as_str().unwrap().to_owned();
    send(&hub, &event("open", "again@example.com", AT));
    until(10, "it was not delivered", || crm.ok_about("again@example.com").pop());
    let id = until(10, "no delivery is listed", || {
        let row = hub.rows(&["deliveries", "list"]).pop()?;
        (row["state"] == "delivered").then(|| row["id"].as_str().unwrap_or_default().to_owned())
    });
    for n in 0..40 {
        let mut caller = TcpStream::connect(("127.0.0.1", hub.port)).unwrap();
        let body = r#"{"again":true}"#;
        let request = format!(
            "POST /v1/deliveries/{id}/replay HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        caller.write_all(request.as_bytes()).unwrap();
        // Sooner and later: before it is read, half way through its write, after its answer.
        std::thread::sleep(Duration::from_micros(400 * n));
        drop(caller);
        until(10, "a replay waits for something else to wake its desk", || {
            (hub.rows(&["audit"])[0]["pending"] == 0).then_some(())
        });
    }
    assert!(crm.ok().len() > 1, "no caller went away after its replay was kept: the test looks at nothing");
}

#[test]
fn a_hundred_copies_at_once_are_one_event() {
    let (hub, crm) = hub();
    let body = event("open", "copied@example.com", AT).to_string();
    let (mac, start, port) = (signed(SECRET, body.as_bytes()), Arc::new(Barrier::new(100)), hub.port);
    let copies: Vec<_> = (0..100)
        .map(|_| {
            let (body, mac, start) = (body.clone(), mac.clone(), start.clone());
            std::thread::spawn(move || {
                start.wait();
                post(port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], body.as_bytes()).unwrap()
            })
        })
        .collect();
    let replies: Vec<Reply> = copies.into_iter().map(|copy| copy.join().unwrap()).collect();
    let sum =
        |field: &str| replies.iter().map(|reply| reply.json()[field].as_u64().unwrap_or(0)).sum::<u64>();
    assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    assert_eq!((sum("accepted"), sum("duplicates")), (1, 99));
    until(10, "it did not arrive", || crm.ok_about("copied@example.com").pop());
    assert_eq!(accepted(&hub), 1);
}

#[test]
fn an_unsigned_probe_learns_nothing_of_what_is_there_and_leaves_nothing() {
    let (hub, _crm) = hub();
    let (known, new) = (event("open", "known@example.com", AT), event("open", "new@example.com", AT));
    assert_eq!(send(&hub, &known).json()["accepted"], 1);
    let probe = |body: &Value| {
        let reply = hub.post(
            "/in/mailtarget",
            &[("x-mailtarget-signature", &"0".repeat(64))],
            body.to_string().as_bytes(),
        );
        let told = reply.headers.iter().filter(|(name, _)| name != "date").cloned().collect::<Vec<_>>();
        (reply.status, told, reply.body)
    };
    assert_eq!(probe(&known).0, 401);
    assert_eq!(probe(&known), probe(&new), "the answer tells whether an event is there");
    assert_eq!(send(&hub, &new).json()["accepted"], 1, "the probe left a key that hides the event");
}

/// A signature is over bytes, so what a parser would change must come through unchanged.
#[test]
fn odd_bytes_are_verified_and_kept_as_they_came() {
    let (hub, crm) = hub();
    let whole = |who: &str, more: &str| {
        format!(
            "{{\"transmissionId\":\"tx-{who}\",\"event\":\"open\",\"timestamp\":\"{AT}\",\"recipient\":\"{who}\",\
             \"raw\":{{{more}}}}}"
        )
    };
    let taken = [
        ("crlf@example.com", whole("crlf@example.com", "\r\n\t\"a\" : 1\r\n") + "\r\n"),
        ("newline@example.com", whole("newline@example.com", "") + "\n\n"),
        ("keys@example.com", whole("keys@example.com", "\"a\":1,\"a\":2")),
        (
            "digits@example.com",
            whole("digits@example.com", "\"n\":9223372036854775807,\"m\":1.10,\"e\":1E400"),
        ),
        ("zero@example.com", whole("zero@example.com", "\"z\":\"\\u0000\\ud83d\\ude00\"")),
        ("umlaut@example.com", whole("umlaut@example.com", "\"u\":\"zürich \u{2028}\"")),
    ];
    for (who, body) in &taken {
        let reply = send_raw(&hub, body.as_bytes());
        assert_eq!((reply.status, reply.json()["accepted"].as_u64()), (200, Some(1)), "{who}: {reply:?}");
        let row = hub.rows(&["events", "list", "--subject", who]).remove(0);
        let shown = hub.rows(&["events", "show", row["id"].as_str().unwrap()]).remove(0);
        assert_eq!(shown["request"]["body"].as_str(), Some(body.as_str()), "{who}");
    }
    // Readers of JSON that know only doubles cannot read this one.
    let text = until(10, "it did not arrive", || {
        let mut bodies = crm.ok().into_iter().map(|seen| String::from_utf8_lossy(&seen.body).into_owned());
        bodies.find(|body| body.contains("digits@example.com"))
    });
    for number in ["9223372036854775807", "1.10", "1E400"] {
        assert!(text.contains(number), "{number} was respelled: {text}");
    }
    let unreadable: [(&str, &[u8]); 4] = [
        ("nothing", b""),
        ("a mark", b"\xef\xbb\xbf{}"),
        ("no UTF-8", b"{\"a\":\"\xff\"}"),
        ("a zero", b"{}\0"),
    ];
    for (what, body) in unreadable {
        let status = send_raw(&hub, body).status;
        assert!(status == 200 || status == 400, "{what}: {status}, though its signature is right");
    }
}

const PARTNER: &str = "[sources.partner]\nkind = \"standard_webhooks\"\nsecrets = [{ env = \"WHSEC\" }]\n\
    [[routes]]\nname = \"partner\"\nfrom = [\"partner\"]\nto = [\"crm\"]\n";
const KEY: &[u8] = b"0123456789abcdefghijklmn";

/// A hub whose clock can be set, and a request signed for a time.
fn partner() -> (Hub, Receiver) {
    let crm = Receiver::start();
    let secret = format!("whsec_{}", base64(KEY));
    let env = [("MAILTARGET_SECRET", SECRET), ("WHSEC", secret.as_str())];
    let mut hub = Hub::new(BINARY, &config(&crm, "", PARTNER), &env);
    let clock = hub.folder().join("clock").display().to_string();
    std::fs::write(&clock, "0").unwrap();
    hub.set_env("MAILSPAN_CLOCK_FILE", &clock);
    hub.start();
    (hub, crm)
}

fn post_signed(hub: &Hub, id: &str, at_s: i64) -> Reply {
    let body = format!("{{\"type\":\"app.used\",\"data\":{{\"email\":\"{id}@example.com\"}}}}");
    let mac = base64(&hmac_sha256(KEY, format!("{id}.{at_s}.{body}").as_bytes()));
    let (signature, at) = (format!("v1,{mac}"), at_s.to_string());
    let headers = [("webhook-id", id), ("webhook-timestamp", &at), ("webhook-signature", &signature)];
    hub.post("/in/partner", &headers, body.as_bytes())
}

fn set_clock(hub: &Hub, seconds: i64) {
    std::fs::write(hub.folder().join("clock"), (seconds * 1_000).to_string()).unwrap();
}

#[test]
fn a_recorded_request_is_a_copy_within_its_window_and_refused_after_it() {
    let (hub, _crm) = partner();
    let sent_at = now_ms() / 1_000;
    assert_eq!(post_signed(&hub, "recorded", sent_at).json()["accepted"], 1);
    // Some seconds of room, as the real clock goes on meanwhile.
    for (later, expected) in [(0, 200), (280, 200), (301, 401), (86_400, 401)] {
        set_clock(&hub, later);
        let reply = post_signed(&hub, "recorded", sent_at);
        assert_eq!(reply.status, expected, "{later} s later");
        assert!(expected == 401 || reply.json()["duplicates"] == 1, "{later} s later: {reply:?}");
    }
    assert_eq!(accepted(&hub), 1);
    assert!(hub.rows(&["refused"]).iter().all(|row| row["check"] == "timestamp_out_of_window"));
}

#[test]
fn a_clock_that_is_off_is_named_as_the_cause() {
    let (hub, _crm) = partner();
    for (off, side) in [(600, "behind"), (-600, "ahead of")] {
        set_clock(&hub, off);
        assert_eq!(post_signed(&hub, &format!("off{off}"), now_ms() / 1_000).status, 401);
        let rows = hub.rows(&["refused"]);
        let row = rows.iter().find(|row| row.to_string().contains(&format!("off{off}@example.com"))).unwrap();
        assert_eq!(row["check"], "timestamp_out_of_window", "{row}");
        let shown = row.to_string();
        assert!(shown.contains("the signature is right") && shown.contains(side), "{shown}");
        assert!(row["hint"].as_str().unwrap_or_default().contains("clock off by"), "{row}");
    }
}

/// The hub speaks HTTP/1.1 only: the floods of HTTP/2 (streams reset at once, heads without end) have
/// nothing to flood.
#[test]
fn http_2_is_not_spoken_and_its_floods_cost_nothing() {
    let (hub, crm) = hub();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // A request (END_STREAM, END_HEADERS; method, scheme and path from the static table), reset at once.
    let mut flood = Vec::new();
    for stream in (1..20_000_u32).step_by(2) {
        flood.extend_from_slice(&[0, 0, 3, 1, 5]);
        flood.extend_from_slice(&stream.to_be_bytes());
        flood.extend_from_slice(&[0x82, 0x86, 0x84]);
        flood.extend_from_slice(&[0, 0, 4, 3, 0]);
        flood.extend_from_slice(&stream.to_be_bytes());
        flood.extend_from_slice(&8_u32.to_be_bytes());
    }
    let endless = [0, 0, 1, 9, 0, 0, 0, 0, 1, 0x82].repeat(20_000);
    for frames in [flood, endless] {
        let mut stream = TcpStream::connect(("127.0.0.1", hub.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // The hub closes as soon as it sees the preface.
        let _ =
            stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings.as_slice(), &frames].concat());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    assert_eq!(send(&hub, &event("open", "after@example.com", AT)).status, 200);
    until(10, "an honest event did not arrive", || crm.ok_about("after@example.com").pop());
}

/// Old, then both, then the new one alone, while a sender goes on.
#[test]
fn a_secret_is_rotated_under_load_without_a_refusal() {
    const NEXT: &str = "the-secret-that-comes-after-it";
    let crm = Receiver::start();
    let env = [("MAILTARGET_SECRET", SECRET), ("NEXT_SECRET", NEXT)];
    let mut hub = Hub::new(BINARY, &config(&crm, "", ""), &env);
    hub.start();
    let (uses, sent, port) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)), hub.port);
    let (which, count) = (uses.clone(), sent.clone());
    let sender = std::thread::spawn(move || {
        let mut refused = Vec::new();
        while which.load(Ordering::SeqCst) < 2 {
            let secret = [SECRET, NEXT][which.load(Ordering::SeqCst).min(1)];
            let n = count.fetch_add(1, Ordering::SeqCst);
            let body = event("open", &format!("r{n}@example.com"), AT).to_string();
            let mac = signed(secret, body.as_bytes());
            let reply = post(port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], body.as_bytes());
            refused.extend(Some(reply.unwrap().status).filter(|status| *status != 200));
        }
        refused
    });
    let more = |than: u64| {
        until(20, "the sender stands still", || (sent.load(Ordering::SeqCst) > than).then_some(()))
    };
    let old = text_of(&hub);
    let secrets = |list: &str| old.replace("[{ env = \"MAILTARGET_SECRET\" }]", list);
    more(20);
    apply(&hub, &secrets("[{ env = \"NEXT_SECRET\" }, { env = \"MAILTARGET_SECRET\" }]"));
    more(sent.load(Ordering::SeqCst) + 20);
    uses.store(1, Ordering::SeqCst);
    more(sent.load(Ordering::SeqCst) + 20);
    apply(&hub, &secrets("[{ env = \"NEXT_SECRET\" }]"));
    more(sent.load(Ordering::SeqCst) + 20);
    uses.store(2, Ordering::SeqCst);
    assert_eq!(sender.join().unwrap(), [] as [u16; 0], "answers to a sender that did nothing wrong");
    let late = signed(SECRET, b"{}");
    assert_eq!(hub.post("/in/mailtarget", &[("x-mailtarget-signature", &late)], b"{}").status, 401);
    assert_eq!(accepted(&hub), sent.load(Ordering::SeqCst));
}

/// Trouble of our own is never the sender's fault: 503 with a time to come again, and what is forged is 401
/// all the same.
#[test]
fn without_its_database_the_hub_says_503_and_nothing_acknowledged_is_lost() {
    let mut server = PostgresServer::start();
    let crm = Receiver::start();
    let text = config(&crm, "retry = { calendar = [\"200ms\"], for = \"1h\" }", "")
        .replace("url = \"sqlite:hub.db\"", "url = { env = \"DATABASE_URL\" }");
    let env = [("MAILTARGET_SECRET", SECRET), ("DATABASE_URL", &server.database("gone"))];
    let mut hub = Hub::new(BINARY, &text, &env);
    hub.start();
    assert_eq!(send(&hub, &event("open", "before@example.com", AT)).status, 200);
    server.down();
    for n in 0..20 {
        let reply = send(&hub, &event("open", &format!("gone{n}@example.com"), AT));
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.header("retry-after").is_some(), "a 503 without Retry-After: {reply:?}");
    }
    assert_eq!(hub.post("/in/mailtarget", &[("x-mailtarget-signature", "00")], b"{}").status, 401);
    server.up();
    until(30, "no event is taken though the database is back", || {
        (send(&hub, &event("open", "after@example.com", AT)).status == 200).then_some(())
    });
    for who in ["before@example.com", "after@example.com"] {
        until(30, "an acknowledged event did not arrive", || crm.ok_about(who).pop());
    }
    until(20, "the audit does not add up", || (hub.rows(&["audit"])[0]["adds_up"] == true).then_some(()));
}

/// Clock ticks of a process (1/100 s), its own and the kernel's for it (proc(5)).
fn ticks(hub: &Hub) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", hub.pid())).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    after_name.split_whitespace().skip(11).take(2).map(|number| number.parse::<u64>().unwrap()).sum()
}

/// An hour of rest costs next to nothing: the hub waits for a word or a due time, and asks for nothing.
#[test]
fn at_rest_the_hub_computes_and_asks_next_to_nothing() {
    const REST: Duration = Duration::from_secs(10);
    let (sqlite, _crm) = hub_with("", "");
    send(&sqlite, &event("open", "once@example.com", AT));
    let server = PostgresServer::start();
    let database = server.database("rest");
    server.log_statements("rest");
    let crm = Receiver::start();
    // However many destinations there are, their leases are renewed by one statement.
    let more =
        |n| format!("[destinations.more{n}]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n", crm.port);
    let more: String = (0..20).map(more).collect();
    let text = config(&crm, "", &more).replace("url = \"sqlite:hub.db\"", "url = { env = \"DATABASE_URL\" }");
    let env = [("MAILTARGET_SECRET", SECRET), ("DATABASE_URL", database.as_str())];
    let mut postgres = Hub::new(BINARY, &text, &env);
    postgres.start();
    send(&postgres, &event("open", "once@example.com", AT));
    until(20, "it did not arrive", || crm.ok_about("once@example.com").pop());
    std::thread::sleep(Duration::from_secs(3));
    // Every statement, BEGIN and COMMIT too.
    let asked = || {
        let log = server.log();
        log.lines().filter(|line| line.contains("statement:") || line.contains("execute ")).count() as u64
    };
    let before = (ticks(&sqlite), ticks(&postgres), asked());
    std::thread::sleep(REST);
    let after = (ticks(&sqlite), ticks(&postgres), asked());
    let (files, shared, queries) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    println!("in {REST:?} at rest: {files} and {shared} ticks of 10 ms, {queries} statements on PostgreSQL");
    // Five ticks are half a per cent.
    assert!(files <= 5, "{files} ticks at rest on SQLite");
    assert!(shared <= 5, "{shared} ticks at rest on PostgreSQL");
    assert!(queries > 0, "the statements are not seen");
    // Each 3.3 s all leases of the node are renewed, and the others are looked at.
    assert!(queries <= REST.as_secs(), "{queries} statements at rest");
}

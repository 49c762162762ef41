//! What the writer spends on each step, printed: `cargo bench -p mailspan-store`.

// A benchmark measures time itself; the product does so in runtime.rs only.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Instant;

use mailspan_core::contact::{CONTACTS, Change, ContactKey, ContactWrite, WriteMode};
use mailspan_core::{
    Address, Attempt, DestinationId, Digest, Event, EventId, EventType, Millis, Name, Outcome, RawRequest,
    RawValue, RouteId, Settlement, SplitMix64, State, Subject,
};
use mailspan_engine::Fence;
use mailspan_store::sqlite::Journal;
use mailspan_store::{Arrived, NameKind, OpenOptions, Receipt, Routed, Towards, Write, open, pack_request};

const EVENTS: u64 = 20_000;

fn main() {
    let mut journal = Journal::in_memory(1, 262_144).unwrap();
    let tenant = Name::default_tenant();
    let route = RouteId(journal.name(&tenant, NameKind::Route, &Name::new("r")).unwrap());
    let destination = DestinationId(journal.name(&tenant, NameKind::Destination, &Name::new("d")).unwrap());
    for name in ["router".to_owned(), format!("destination/{}", destination.0)] {
        journal.write(Write::Lease { name, owner: 1, now: Millis(0), until: Millis(i64::MAX) }).unwrap();
    }
    let mut random = SplitMix64(3);
    let start = Instant::now();
    let receipts: Vec<_> = (0..EVENTS).map(|n| receipt(n, &mut random)).collect();
    println!("make and pack   {:6.1} µs an event", micros(start));
    let start = Instant::now();
    for receipt in receipts {
        journal.write(Write::Accept(Box::new(receipt))).unwrap();
    }
    println!("accept          {:6.1} µs an event, one a transaction", micros(start));
    let (mut read, mut routing) = (0.0, 0.0);
    loop {
        let start = Instant::now();
        let events = journal.unrouted(1_024).unwrap();
        read += micros(start);
        if events.is_empty() {
            break;
        }
        let routed = events.into_iter().map(|event| Routed {
            times: mailspan_core::LastTimes::of(&event),
            to: vec![Towards {
                say: None,
                route,
                destination,
                class: event.event_type.class(),
                failed: None,
                ordered: true,
            }],
            event,
            opens: 1,
            clicks: 0,
        });
        let routed = routed.collect();
        let start = Instant::now();
        journal.write(Write::Route { fence: Fence(1), routed }).unwrap();
        routing += micros(start);
    }
    println!(
        "read unrouted   {read:6.1} µs an event\nroute           {routing:6.1} µs an event, 1,024 a transaction"
    );
    let (mut claiming, mut settling) = (0.0, 0.0);
    loop {
        let start = Instant::now();
        let (claims, _) = journal.claim(destination, [256; 6], Millis(i64::MAX - 1)).unwrap();
        claiming += micros(start);
        if claims.is_empty() {
            break;
        }
        for claim in claims {
            let outcome = Outcome::Ended { state: State::Delivered, reason: None };
            let delivery = claim.delivery;
            let one = Settlement {
                delivery,
                outcome,
                attempts: 1,
                crashes: 0,
                progress: vec![],
                attempt: Some(0),
                hand_on: None,
            };
            let attempt =
                Attempt { at: Millis(1), took_ms: 1, items: 1, status: 200, request: None, answer: None };
            let (settlements, attempts) = (vec![one], vec![attempt]);
            let start = Instant::now();
            let settle = Write::Settle {
                say: vec![],
                destination,
                fence: Fence(1),
                settlements,
                attempts,
                at: Millis(1),
            };
            journal.write(settle).unwrap();
            settling += micros(start);
        }
    }
    println!(
        "claim           {claiming:6.1} µs an event\nsettle          {settling:6.1} µs an event, one a transaction"
    );
    let start = Instant::now();
    assert!(journal.audit().unwrap().adds_up);
    println!("audit           {:6.1} µs an event", micros(start));
    audience(&mut random);
}

/// Bulk receipts of 1,000 contacts, in a file: first all new, then each with another locale, then unchanged.
fn audience(random: &mut SplitMix64) {
    const RECEIPTS: u64 = 50;
    let folder = tempfile::tempdir().unwrap();
    let (store, writer, _readers) =
        open(OpenOptions::new(folder.path().join("hub.db"), 1, Millis(1))).unwrap();
    let writer = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (what, locale) in [("first load", "en"), ("changed", "it"), ("unchanged", "it")] {
        let receipts: Vec<_> = (0..RECEIPTS).map(|n| bulk(n, locale, random)).collect();
        let start = Instant::now();
        for receipt in receipts {
            runtime.block_on(store.write(Write::Accept(Box::new(receipt)))).unwrap();
        }
        let rows = RECEIPTS as f64 * 1_000.0;
        println!(
            "contacts        {:6.0} rows a second, 1,000 a receipt: {what}",
            rows / start.elapsed().as_secs_f64()
        );
    }
    drop(store);
    writer.join().unwrap();
}

fn bulk(n: u64, locale: &str, random: &mut SplitMix64) -> Receipt {
    let mut all = receipt(n, random);
    all.source = Name::new(CONTACTS);
    all.arrivals = (0..1_000)
        .map(|row| {
            let number = n * 1_000 + row;
            let address = Address::parse(&format!("a{number}@example.org")).unwrap();
            let (key, at) = (format!("u-{number}"), Millis(1_700_000_000_000));
            let key = ContactKey::Subject { address: Some(address), external_id: Some(key) };
            let mut write = ContactWrite::new(key, WriteMode::Upsert, format!("c{number:024}"), at, "bulk");
            write.opt_in = Some(true);
            write.locale = Change::Set(locale.to_owned());
            write.attributes =
                Change::Set([("plan".to_owned(), "pro".into()), ("city".to_owned(), "Graz".into())].into());
            let mut arrived = receipt(number, random).arrivals.remove(0);
            arrived.dedupe = None;
            arrived.contact = Some(Box::new(write));
            arrived
        })
        .collect();
    all
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6 / EVENTS as f64
}

fn receipt(n: u64, random: &mut SplitMix64) -> Receipt {
    let person = random.below(100_000);
    let data = format!(
        r#"{{"eventId":"{n}","recipient":"a{person}@example.org","transmissionId":"t{n}","targetLinkUrl":"https://www.example.com/{n}","userAgent":"Mozilla/5.0 (X11; Linux x86_64)","correlation":{{"crm_contact_id":"{person}"}}}}"#
    );
    let request = RawRequest {
        method: "POST".to_owned(),
        url: String::new(),
        path: "/in/mailtarget".to_owned(),
        query: String::new(),
        headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
        body: data.clone().into(),
        received_at: Millis(1),
    };
    let event = Event {
        seq: None,
        id: EventId::v7(Millis(1_700_000_000_000 + n as i64), u128::from(random.next_u64())),
        tenant: Name::default_tenant(),
        source: Name::new("s"),
        event_type: EventType::known("email.opened"),
        subject: Subject::read(&format!("a{person}@example.org")),
        time: Millis(1),
        received_at: Millis(1),
        test: false,
        transmission: Some(format!("t{n}")),
        recipient_role: None,
        extensions: None,
        data: RawValue::from_string(data).unwrap().into(),
    };
    Receipt {
        tenant: Name::default_tenant(),
        source: Name::new("s"),
        credential: "one".to_owned(),
        received_at: Millis(1),
        digest: Digest([0; 16]),
        packed: Some(pack_request(&request, &[])),
        arrivals: vec![Arrived {
            event,
            part: 0,
            dedupe: Some(Digest(u128::from(n).to_le_bytes())),
            contact: None,
        }],
        unreadable: vec![],
        idempotency: None,
        round: None,
        say: Vec::new(),
    }
}

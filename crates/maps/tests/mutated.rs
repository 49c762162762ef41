//! The guard with mutated programs and a `parse` program with mutated bodies: 10,000 inputs each from one
//! seed. A panic is a fault of the function that the trace names; the input is printed. (The token soup of
//! `tests/it/soup.rs` goes deeper into the compiler, with fewer inputs.)
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use mailspan_core::{Millis, RawRequest, SplitMix64};
use mailspan_maps::{Program, Purpose, fuzzing};

const INPUTS: usize = 10_000;

const PROGRAMS: [&str; 4] = [
    "exists(.data.url) && .source == \"mailtarget\" # only ours",
    "x, err = to_int(.body.b[0])\n{\"type\": \"a.b\", \"data\": {\"x\": x ?? 1, \"s\": \"{{ err }}\"}}",
    "out = []\nfor_each(array!(.body.a)) -> |i, v| { out = push(out, v) }\n{\"n\": out[-1], \"t\": t'2020-01-01T00:00:00Z'}",
    "if .data.n > 1_000 { .a.\"b c\"[3] } else if match(string!(.x), r'^[a-z]+$') { s'raw' } else { null }",
];

const SHOP: &str = r#"
{
  "type": "order.created",
  "id": to_string!(.body.id),
  "subject": downcase(string!(.body.email)),
  "data": { "total": .body.total_price, "tags": split(string(.body.tags) ?? "", ",") },
}
"#;

const BODIES: [&str; 3] = [
    r#"{"id": 9007199254740993, "email": "Ana@Example.com", "total_price": "10.00", "tags": "a,b"}"#,
    r#"{"id": "x", "email": "chloé@example.com", "total_price": -1.5e3, "tags": null, "id": 2}"#,
    r#"{"id": [1, {"a": "\ud83d\ude00"}], "email": "", "total_price": {}}"#,
];

/// Bits flipped, bytes replaced, cut, taken out, repeated, words put in.
fn mutated(from: &str, random: &mut SplitMix64) -> Vec<u8> {
    const WORDS: [&[u8]; 10] =
        [b"{{", b"}", b"[[", b"99999999999", b"\xff", b"\\u{d800}", b"null", b"r'", b"\"", b"\0"];
    let mut data = from.as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() as u64) as usize;
        let end = data.len().min(at + random.below(20) as usize);
        match random.below(6) {
            _ if data.len() < 2 => break,
            0 => data[at] ^= 1 << random.below(8),
            1 => data[at] = random.next_u64() as u8,
            2 => data.truncate(at.max(1)),
            3 if end - at < data.len() => drop(data.drain(at..end)),
            4 => {
                let piece = data[at..end].repeat(1 + random.below(3) as usize);
                data.splice(at..at, piece);
            }
            _ => {
                data.splice(at..at, WORDS[random.below(WORDS.len() as u64) as usize].iter().copied());
            }
        }
    }
    data
}

fn drive(what: &str, seed: u64, corpus: &[&str], run: impl Fn(&[u8])) {
    let mut random = SplitMix64(seed);
    for round in 0..INPUTS {
        let data = mutated(corpus[round % corpus.len()], &mut random);
        let run = std::panic::AssertUnwindSafe(|| run(&data));
        if std::panic::catch_unwind(run).is_err() {
            panic!("{what} panicked (seed {seed}, round {round}) on {:?}", String::from_utf8_lossy(&data));
        }
    }
}

fn request(body: &[u8]) -> RawRequest {
    RawRequest {
        method: "POST".to_owned(),
        url: String::new(),
        path: String::new(),
        query: String::new(),
        headers: Vec::new(),
        body: Bytes::copy_from_slice(body),
        received_at: Millis(0),
    }
}

#[test]
fn guard_and_compiler_survive_mutated_programs() {
    drive("the guard", 1, &PROGRAMS, fuzzing::guard);
}

#[test]
fn a_parse_program_survives_mutated_bodies() {
    let program = Program::compile(SHOP, Purpose::Parse).unwrap();
    let read = |data: &[u8]| program.parse(&request(data)).is_ok();
    assert!(read(BODIES[0].as_bytes()), "the first body makes an event, or mutations test little");
    drive("the parse program", 2, &BODIES, |data| fuzzing::sound(program.parse(&request(data))));
}

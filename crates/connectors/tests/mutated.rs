//! Every verifier and parser with mutated fixtures: 10,000 inputs each from one seed. A panic is a
//! fault of the function that is named in the trace; the input is printed as hex.

#![allow(clippy::disallowed_methods, reason = "a test reads its fixtures from files")]

use std::path::Path;

use mailspan_connectors::fuzzing;
use mailspan_core::SplitMix64;
use serde_json::Value;

const INPUTS: usize = 10_000;

/// A fixture's request, signed by the first secret of its target where it can sign.
fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for kind in ["mailtarget", "standard_webhooks", "hmac", "api", "mailingcore", "maileon"] {
        for entry in std::fs::read_dir(folder.join(kind)).expect("fixtures of every source kind") {
            let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a fixture");
            let fixture: Value = serde_json::from_str(&text).expect("a fixture is JSON");
            let request = &fixture["request"];
            let body = match request["body"].as_str() {
                Some(text) => text.to_owned(),
                None => request["body_json"].to_string(),
            };
            let headers = request["headers"].as_object().into_iter().flatten();
            let headers: Vec<(String, Vec<u8>)> = headers
                .map(|(name, value)| (name.to_lowercase(), value.as_str().unwrap_or_default().into()))
                .collect();
            for (at, target) in fuzzing::targets().iter().enumerate() {
                if target.label.starts_with(kind) {
                    let mut request = fuzzing::request(headers.clone(), body.as_bytes());
                    let query = fixture["request"]["query"].as_str();
                    request.query = query.map_or(request.query, str::to_owned);
                    if let Some(secret) = target.secrets.first() {
                        let signed = target.source.sign(&request, secret, fuzzing::NOW);
                        request
                            .headers
                            .extend(signed.into_iter().map(|(name, value)| (name, value.into_bytes())));
                    }
                    corpus.push(fuzzing::write(at as u8, &request));
                }
            }
        }
    }
    corpus
}

/// Bits flipped, bytes replaced, cut, repeated, spliced with another input.
fn mutated(corpus: &[Vec<u8>], random: &mut SplitMix64) -> Vec<u8> {
    let pick = |random: &mut SplitMix64, bound: usize| random.below(bound as u64) as usize;
    let mut data = corpus[pick(random, corpus.len())].clone();
    for _ in 0..=random.below(4) {
        if data.len() < 2 {
            break;
        }
        let at = 1 + pick(random, data.len() - 1);
        match random.below(8) {
            0 | 1 => data[at] ^= 1 << random.below(8),
            2 => data[at] = random.next_u64() as u8,
            3 => data.truncate(at),
            4 => {
                let end = (at + pick(random, 40)).min(data.len());
                data.drain(at..end);
            }
            5 => {
                let end = (at + pick(random, 40)).min(data.len());
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            6 => {
                let other = &corpus[pick(random, corpus.len())];
                let from = pick(random, other.len());
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            _ => {
                const WORDS: [&[u8]; 8] =
                    [b"null", b"\"\"", b"\\ud800", b"1e999", b"\xff", b"[[", b"\"events\":", b"\0"];
                data.splice(at..at, WORDS[pick(random, WORDS.len())].iter().copied());
            }
        }
    }
    data
}

/// Runs one kind's targets; a panic prints the input first.
fn drive(kind: &str, seed: u64, run: fn(&[u8])) {
    let corpus: Vec<Vec<u8>> = corpus()
        .into_iter()
        .filter(|data| fuzzing::read(data).is_some_and(|(target, _)| target.label.starts_with(kind)))
        .collect();
    let mut random = SplitMix64(seed);
    for _ in 0..INPUTS {
        let data = mutated(&corpus, &mut random);
        if std::panic::catch_unwind(|| run(&data)).is_err() {
            panic!("{kind} panicked (seed {seed}) on {}", mailspan_connectors::signature::hex(&data));
        }
    }
}

fn verify(data: &[u8]) {
    fuzzing::verify(data);
}

fn parse(data: &[u8]) {
    fuzzing::parse(data);
}

#[test]
fn the_corpus_is_let_in_and_read() {
    let corpus = corpus();
    let verified = corpus.iter().filter(|data| fuzzing::verify(data)).count();
    let read: usize = corpus.iter().map(|data| fuzzing::parse(data)).sum();
    assert!(
        verified * 2 > corpus.len(),
        "{verified} of {} inputs verify: mutations would test little",
        corpus.len()
    );
    assert!(read > corpus.len() / 2, "{read} events in {} inputs", corpus.len());
}

#[test]
fn mailtarget_verifier() {
    drive("mailtarget", 1, verify);
}

#[test]
fn mailtarget_parser() {
    drive("mailtarget", 2, parse);
}

#[test]
fn standard_webhooks_verifier() {
    drive("standard_webhooks", 3, verify);
}

#[test]
fn standard_webhooks_parser() {
    drive("standard_webhooks", 4, parse);
}

#[test]
fn hmac_verifier() {
    drive("hmac", 5, verify);
}

#[test]
fn hmac_parser() {
    drive("hmac", 6, parse);
}

#[test]
fn api_parser() {
    drive("api", 7, parse);
}

#[test]
fn mailingcore_verifier() {
    drive("mailingcore", 8, verify);
}

#[test]
fn mailingcore_parser() {
    drive("mailingcore", 9, parse);
}

#[test]
fn maileon_parser() {
    drive("maileon", 10, parse);
}

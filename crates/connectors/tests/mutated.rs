//! Every verifier and parser with mutated fixtures: 10,000 inputs of its own for each kind, each preset of `hmac` and
//! each scheme that is spelled out. A panic is a fault of the function that is named in the trace; the input is
//! printed as hex.

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
    for kind in KINDS {
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

/// Drives each target of a kind with inputs of its own: mutations leave the byte alone that chooses the target. A
/// panic prints the input first.
fn drive(kind: &str, seed: u64, run: fn(&[u8])) {
    let corpus = corpus();
    let targets =
        || fuzzing::targets().iter().enumerate().filter(|(_, target)| target.label.starts_with(kind));
    let one = |at: usize, label: &str| {
        let own: Vec<Vec<u8>> = corpus.iter().filter(|data| data[0] == at as u8).cloned().collect();
        assert!(!own.is_empty(), "{label} has no fixture to mutate: add one to fixtures/{kind}");
        let seed = seed << 32 | at as u64;
        let mut random = SplitMix64(seed);
        for _ in 0..INPUTS {
            let data = mutated(&own, &mut random);
            assert_eq!(data[0], at as u8, "a mutation changed the target");
            if std::panic::catch_unwind(|| run(&data)).is_err() {
                panic!("{label} panicked (seed {seed}) on {}", mailspan_connectors::signature::hex(&data));
            }
        }
    };
    assert!(targets().next().is_some(), "no target is of kind {kind}");
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            targets().map(|(at, target)| scope.spawn(move || one(at, &target.label))).collect();
        // The text of each panic has been printed by its thread.
        let fell = threads.into_iter().map(|thread| thread.join()).filter(Result::is_err).count();
        assert_eq!(fell, 0, "verifiers or parsers of {kind} panicked");
    });
}

fn verify(data: &[u8]) {
    fuzzing::verify(data);
}

fn parse(data: &[u8]) {
    fuzzing::parse(data);
}

/// Kinds that the tests below drive.
const KINDS: [&str; 6] = ["mailtarget", "standard_webhooks", "hmac", "api", "mailingcore", "maileon"];

#[test]
fn the_corpus_of_each_target_is_let_in_and_read() {
    let corpus = corpus();
    for (at, target) in fuzzing::targets().iter().enumerate() {
        let label = &target.label;
        assert!(KINDS.iter().any(|kind| label.starts_with(kind)), "no test drives {label}: add its kind");
        let own: Vec<&Vec<u8>> = corpus.iter().filter(|data| data[0] == at as u8).collect();
        let verified = own.iter().filter(|data| fuzzing::verify(data)).count();
        let read: usize = own.iter().map(|data| fuzzing::parse(data)).sum();
        println!("{label}: {verified} of {} verify, {read} events", own.len());
        let enough = target.secrets.is_empty() || verified * 2 > own.len();
        assert!(enough, "{verified} of {} inputs of {label} verify: mutations would test little", own.len());
        assert!(read > own.len() / 2, "{read} events in {} inputs of {label}", own.len());
    }
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
fn the_verifiers_of_hmac_each_preset_for_itself() {
    drive("hmac", 5, verify);
}

#[test]
fn the_parsers_of_hmac_each_preset_for_itself() {
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

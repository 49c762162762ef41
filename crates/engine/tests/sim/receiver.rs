//! A destination of the simulation: acts on items, and fails in the ways that vendors do.

use mailspan_core::{Answer, Lost, Millis, Reason, Request, SplitMix64, Verdict};
use serde_json::{Value, json};

/// What becomes of one request.
pub struct Reply {
    pub answer: Result<Answer, Lost>,
    pub after_ms: u64,
    /// Items that were acted on.
    pub acted: Vec<Sent>,
    /// How long each item must wait at least when it is settled as `Again`, by its key.
    pub floors: Vec<(String, u64)>,
    /// Nothing may be sent for so long.
    pub throttled_ms: Option<u64>,
}

/// An item of a request as the receiver sees it.
#[derive(Debug, Clone)]
pub struct Sent {
    pub key: String,
    pub step: Option<String>,
    pub op: Value,
}

/// The least wait after a failure that names none: a tenth of the calendar's first.
pub const LEAST_WAIT_MS: u64 = 50;

pub fn items(request: &Request) -> Vec<Sent> {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let items = body["items"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    items
        .into_iter()
        .map(|item| Sent {
            key: text(&item["key"]).unwrap_or_default(),
            step: text(&item["step"]),
            op: item["op"].clone(),
        })
        .collect()
}

/// A receiver that is away: 500, or no answer.
pub fn down(now: Millis, request: &Request, random: &mut SplitMix64) -> Reply {
    let after_ms = 1 + random.below(100);
    let floors = items(request).into_iter().map(|item| (item.key, LEAST_WAIT_MS)).collect();
    let answer = match random.chance(50) {
        true => Ok(answer(now.plus(after_ms), 500, None, Vec::new())),
        false => Err(Lost { sent: true, refused: false, why: Reason::new("lost", "no answer") }),
    };
    Reply { answer, after_ms, acted: Vec::new(), floors, throttled_ms: None }
}

/// Whatever is decided by key is the same for every try of it.
pub fn handle(now: Millis, request: &Request, random: &mut SplitMix64, healthy: bool) -> Reply {
    let items = items(request);
    let after_ms = 1 + random.below(100);
    let fate = if healthy { 0 } else { random.below(100) };
    let failed = |floor: u64| items.iter().map(|item| (item.key.clone(), floor)).collect::<Vec<_>>();
    let plain = |status: u16, retry_after: Option<u64>, floors: Vec<(String, u64)>| Reply {
        answer: Ok(answer(now.plus(after_ms), status, retry_after, Vec::new())),
        after_ms,
        acted: Vec::new(),
        floors,
        throttled_ms: None,
    };
    let lost = |sent: bool, after_ms: u64, acted: Vec<Sent>| Reply {
        answer: Err(Lost { sent, refused: false, why: Reason::new("lost", "no answer") }),
        after_ms,
        acted,
        floors: failed(LEAST_WAIT_MS),
        throttled_ms: None,
    };
    if items.iter().any(|item| number(&item.key) % 17 == 3) && (items.len() > 1 || random.chance(50)) {
        return plain(413, None, Vec::new());
    }
    match fate {
        0..=5 if !healthy => {
            let seconds = 1 + random.below(3);
            let mut reply = plain(429, Some(seconds), failed(seconds * 1_000));
            reply.throttled_ms = Some(seconds * 1_000);
            reply
        }
        6 => plain(429, Some(7_200), Vec::new()),
        7..=14 => plain(500, None, failed(LEAST_WAIT_MS)),
        15..=18 => plain(401, None, Vec::new()),
        19 => plain(403, None, Vec::new()),
        20..=23 => lost(true, 5_000, Vec::new()),
        24..=27 => lost(true, 5_000, act(&items)),
        28..=32 => lost(true, after_ms, act(&items)),
        33..=36 => lost(false, after_ms, Vec::new()),
        _ => done(now, request, items, random, (fate, after_ms)),
    }
}

/// Answered 200 with a verdict an item; now and then one too few.
fn done(
    now: Millis,
    request: &Request,
    items: Vec<Sent>,
    random: &mut SplitMix64,
    (fate, after_ms): (u64, u64),
) -> Reply {
    let mut floors = Vec::new();
    let mut acted = Vec::new();
    let mut verdicts = Vec::new();
    for item in items {
        let number = number(&item.key);
        let verdict = match number % 23 {
            1 => Verdict::reject("refused", "refused by key"),
            2 => Verdict::skipped("unknown_contact", "not known here"),
            _ if fate > 90 => {
                let after_ms = random.chance(50).then(|| 500 + random.below(3_000));
                floors.push((item.key.clone(), after_ms.unwrap_or(LEAST_WAIT_MS)));
                Verdict::Retry { after_ms, reason: Reason::new("flaky", "not now") }
            }
            _ if item.op["op"] == "log_activity" && item.step.is_none() => {
                let after_ms = if number.is_multiple_of(2) { 0 } else { 700 };
                floors.push((item.key.clone(), after_ms));
                acted.push(item);
                Verdict::Next { step: mailspan_core::Step("made".to_owned()), after_ms }
            }
            _ => {
                acted.push(item);
                Verdict::Done
            }
        };
        verdicts.push(verdict);
    }
    if fate == 37 {
        verdicts.pop();
        floors = acted.iter().map(|item| (item.key.clone(), LEAST_WAIT_MS)).collect();
    }
    if String::from_utf8_lossy(&request.body).contains(crate::sink::POISON_JUDGE) {
        floors.clear();
    }
    let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let body = match asked["ask"].as_str() {
        Some(_) => json!({ "owner": "17" }),
        None => json!({ "verdicts": verdicts }),
    };
    let answer = Ok(answer(now.plus(after_ms), 200, None, body.to_string().into_bytes()));
    Reply { answer, after_ms, acted, floors, throttled_ms: None }
}

/// What a receiver does that acts and then resets the connection: nothing for keys that it refuses.
fn act(items: &[Sent]) -> Vec<Sent> {
    items.iter().filter(|item| !matches!(number(&item.key) % 23, 1 | 2)).cloned().collect()
}

fn answer(at: Millis, status: u16, retry_after: Option<u64>, body: Vec<u8>) -> Answer {
    let headers =
        retry_after.map(|seconds| ("retry-after".to_owned(), seconds.to_string())).into_iter().collect();
    Answer { at, status, headers, body, cut: false }
}

/// A number that is the same for every try of a key.
pub fn number(key: &str) -> u64 {
    key.bytes().fold(7, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)) >> 8
}

//! What a server says is left of its limit, in the headers that are common to many.
//!
//! * `RateLimit: "name";r=50;t=30` (draft-ietf-httpapi-ratelimit-headers from 08 on): of several the one that
//!   runs out first counts.
//! * `RateLimit: limit=100, remaining=50, reset=30` (draft 07), `RateLimit-Remaining` and `RateLimit-Reset`
//!   (up to draft 06): seconds from now.
//! * `X-RateLimit-Remaining` and `X-RateLimit-Reset`, also spelled `X-Rate-Limit-…`: nobody has written down
//!   whether seconds from now or a time since 1970 (GitHub, Braze): a number that large is a time, and one
//!   beyond that is in milliseconds.

use mailspan_core::Answer;

use crate::contract::Left;

/// From here on a number of seconds is a time since 1970 (the year 2001), and not 31 years to wait.
const EPOCH_FROM: u64 = 1_000_000_000;
const EPOCH_MS_FROM: u64 = 1_000_000_000_000;
/// A window that ends later is a mistake, or says nothing about how fast to send.
const WINDOW_MS_MAX: u64 = 86_400_000;

/// Nothing where neither number is there, or where one of them cannot be.
pub fn left(answer: &Answer) -> Option<Left> {
    let structured = answer.header("ratelimit").and_then(|text| of_list(text, answer));
    structured.or_else(|| {
        ["ratelimit", "x-ratelimit", "x-rate-limit"].into_iter().find_map(|prefix| {
            let number = |name: &str| number(answer.header(&format!("{prefix}-{name}"))?);
            until(answer, number("remaining")?, number("reset")?)
        })
    })
}

/// Whole seconds; some servers write `12.0`, and some add their policy after a comma.
fn number(text: &str) -> Option<u64> {
    let first = text.split([',', ';', '.']).next()?.trim();
    (first.len() <= 18).then(|| first.parse().ok())?
}

fn until(answer: &Answer, requests: u64, reset: u64) -> Option<Left> {
    let now = u64::try_from(answer.at.0).ok()?;
    let ms = match reset {
        EPOCH_MS_FROM.. => reset.saturating_sub(now),
        EPOCH_FROM.. => reset.saturating_mul(1_000).saturating_sub(now),
        _ => reset.saturating_mul(1_000),
    };
    (ms <= WINDOW_MS_MAX).then(|| Left { requests, until: answer.at.plus(ms) })
}

/// The structured field of both drafts. Members are parted by commas; a name in quotes may hold anything.
fn of_list(text: &str, answer: &Answer) -> Option<Left> {
    let (mut requests, mut reset) = (None, None);
    let mut least: Option<Left> = None;
    let mut keep = |requests: &mut Option<u64>, reset: &mut Option<u64>| {
        if let (Some(requests), Some(reset)) = (requests.take(), reset.take())
            && let Some(left) = until(answer, requests, reset)
        {
            least = Some(least.map_or(left, |known| sooner(known, left, answer)));
        }
    };
    for member in unquoted(text).split(',') {
        // In draft 07 the three numbers are members of their own.
        if member.contains(';') {
            (requests, reset) = (None, None);
        }
        for word in member.split(';') {
            match word.split_once('=').map(|(name, value)| (name.trim(), number(value))) {
                Some(("r" | "remaining", value)) => requests = value,
                Some(("t" | "reset", value)) => reset = value,
                _ => {}
            }
        }
        if requests.is_some() && reset.is_some() {
            keep(&mut requests, &mut reset);
        }
    }
    least
}

/// The one of which less may be sent in a second.
fn sooner(one: Left, other: Left, answer: &Answer) -> Left {
    let ms = |left: Left| u128::from(left.until.since(answer.at).max(1));
    let slower = u128::from(other.requests) * ms(one) < u128::from(one.requests) * ms(other);
    if slower { other } else { one }
}

fn unquoted(text: &str) -> String {
    let mut within = false;
    let outside = |c: &char| {
        within ^= *c == '"';
        !within && *c != '"'
    };
    text.chars().filter(outside).collect()
}

#[cfg(test)]
mod tests {
    use mailspan_core::Millis;

    use super::*;

    const NOW: i64 = 1_795_799_532_000;

    /// Requests, and seconds until the window ends.
    fn check(headers: &[(&str, &str)], expected: Option<(u64, u64)>) {
        let named = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let answer = Answer { at: Millis(NOW), status: 200, headers: named, body: vec![], cut: false };
        let found = left(&answer).map(|left| (left.requests, left.until.since(answer.at) / 1_000));
        assert_eq!(found, expected, "{headers:?}");
    }

    #[test]
    fn both_spellings_of_a_reset_are_read() {
        let x = |remaining, reset| [("x-ratelimit-remaining", remaining), ("x-ratelimit-reset", reset)];
        check(&x("42", "30"), Some((42, 30)));
        check(&x("42", "1795799562"), Some((42, 30)));
        check(&x("42", "1795799562000"), Some((42, 30)));
        check(&x("0", "1795799000"), Some((0, 0)));
        check(&x("7", "12.5"), Some((7, 12)));
        check(&x("7, 7;w=60", "12"), Some((7, 12)));
        check(&[("x-rate-limit-remaining", "3"), ("x-rate-limit-reset", "60")], Some((3, 60)));
        check(&[("ratelimit-remaining", "9"), ("ratelimit-reset", "5")], Some((9, 5)));
    }

    #[test]
    fn the_structured_field_of_both_drafts_is_read() {
        check(&[("ratelimit", "\"default\";r=50;t=30")], Some((50, 30)));
        check(&[("ratelimit", "limit=100, remaining=50, reset=5")], Some((50, 5)));
        check(&[("ratelimit", "\"second\";r=9;t=1, \"day\";r=100;t=50000")], Some((100, 50_000)));
        check(&[("ratelimit", "\"day\";r=80000;t=50000, \"second\";r=0;t=1")], Some((0, 1)));
        check(&[("ratelimit", "\"a;r=1,\";r=8;t=4;pk=:abc=:")], Some((8, 4)));
        let both = [("ratelimit", "nonsense"), ("ratelimit-remaining", "9"), ("ratelimit-reset", "5")];
        check(&both, Some((9, 5)));
    }

    #[test]
    fn what_cannot_be_says_nothing() {
        check(&[], None);
        check(&[("x-ratelimit-remaining", "5")], None);
        check(&[("x-ratelimit-reset", "5")], None);
        check(&[("ratelimit", "\"default\";r=50")], None);
        check(&[("ratelimit", "\"default\";q=50;w=30")], None);
        let x = |remaining, reset| [("x-ratelimit-remaining", remaining), ("x-ratelimit-reset", reset)];
        check(&x("many", "30"), None);
        check(&x("-1", "30"), None);
        check(&x("5", "100000"), None);
        check(&x("5", "1798000000"), None);
        check(&x("5", "99999999999999999999"), None);
        check(&x("5", "Sun, 06 Nov 1994 08:49:37 GMT"), None);
    }
}

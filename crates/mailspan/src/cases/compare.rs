//! Expected against made.

use mailspan_core::json::{self, Node, Value};
use serde_json::value::RawValue;

use super::Made;

/// What differs, in words; empty when the case holds. The order of requests counts for each
/// destination; members that an expectation leaves out may be anything.
pub fn differences(expected: &[Made], made: &[Made]) -> Vec<String> {
    let mut names: Vec<&str> = expected.iter().chain(made).map(|made| made.destination.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut out = Vec::new();
    for name in names {
        let wanted: Vec<&Made> = expected.iter().filter(|made| made.destination == name).collect();
        let got: Vec<&Made> = made.iter().filter(|made| made.destination == name).collect();
        for n in 0..wanted.len().max(got.len()) {
            let at = format!("{name}, request {}", n + 1);
            match (wanted.get(n), got.get(n)) {
                (Some(wanted), Some(got)) => one(&at, wanted, got, &mut out),
                (Some(wanted), None) => out.push(format!("{at}: expected {}, none was made", line(wanted))),
                (None, Some(got)) => out.push(format!("{at}: not expected: {}", line(got))),
                (None, None) => {}
            }
        }
    }
    out
}

fn line(made: &Made) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_else(|| "*".to_owned());
    let body = made.body.as_ref().map(|body| body.get()).unwrap_or_default();
    format!("{} {} {}", part(&made.method), part(&made.path), mailspan_core::clip(body, 300))
}

fn one(at: &str, wanted: &Made, got: &Made, out: &mut Vec<String>) {
    for (what, wanted, got) in [("method", &wanted.method, &got.method), ("path", &wanted.path, &got.path)] {
        if wanted.is_some() && wanted != got {
            let shown = |text: &Option<String>| text.clone().unwrap_or_default();
            out.push(format!("{at}: {what}: expected {}, got {}", shown(wanted), shown(got)));
        }
    }
    if let Some(wanted) = &wanted.body {
        bodies(&format!("{at}: body"), wanted, got.body.as_deref(), out);
    }
}

fn bodies(at: &str, wanted: &RawValue, got: Option<&RawValue>, out: &mut Vec<String>) {
    let got = got.map_or("null", RawValue::get);
    match (json::parse(wanted.get().as_bytes()), json::parse(got.as_bytes())) {
        (Ok(wanted), Ok(got)) => value(at, &wanted, Some(&got), out),
        (Err(why), _) => out.push(format!("{at}: the expectation cannot be read: {why}")),
        (_, Err(why)) => out.push(format!("{at}: what was made cannot be read: {why}")),
    }
}

/// Objects may have more members than expected; arrays must have as many elements; numbers are
/// compared as they are written.
fn value(at: &str, wanted: &Node, got: Option<&Node>, out: &mut Vec<String>) {
    match (&wanted.value, got.map(|got| &got.value)) {
        (Value::Object(members), Some(Value::Object(_))) => {
            for (name, wanted) in members {
                value(&format!("{at}.{name}"), wanted, got.and_then(|got| got.get(name)), out);
            }
        }
        (Value::Array(wanted), Some(Value::Array(got))) if wanted.len() == got.len() => {
            for (n, (wanted, got)) in wanted.iter().zip(got).enumerate() {
                value(&format!("{at}[{n}]"), wanted, Some(got), out);
            }
        }
        (Value::String(wanted), Some(Value::String(got))) if wanted == got => {}
        _ if got.is_some_and(|got| got.raw == wanted.raw) => {}
        _ => out.push(format!("{at}: expected {}, got {}", wanted.raw, got.map_or("nothing", |got| got.raw))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, got: &str, expected: &[&str]) {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let mut out = Vec::new();
        bodies("b", &raw(wanted), Some(&raw(got)), &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn an_expectation_may_leave_out_but_not_differ() {
        check(r#"{"a": 1}"#, r#"{"a":1,"b":2}"#, &[]);
        check(r#"{"a": {"c": [1]}}"#, r#"{"a": {"c": [2]}}"#, &["b.a.c[0]: expected 1, got 2"]);
        check("[1]", "[1,2]", &["b: expected [1], got [1,2]"]);
        check(r#"{"a": 1}"#, "{}", &["b.a: expected 1, got nothing"]);
        check(
            "92356927693813856123",
            "92356927693813856124",
            &["b: expected 92356927693813856123, got 92356927693813856124"],
        );
        check(r#""a/b""#, r#""a\/b""#, &[]);
    }
}

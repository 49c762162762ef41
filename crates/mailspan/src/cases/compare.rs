//! Expected against made.

use serde_json::Value;

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
    let body = made.body.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("{} {} {}", part(&made.method), part(&made.path), mailspan_core::clip(&body, 300))
}

fn one(at: &str, wanted: &Made, got: &Made, out: &mut Vec<String>) {
    for (what, wanted, got) in [("method", &wanted.method, &got.method), ("path", &wanted.path, &got.path)] {
        if wanted.is_some() && wanted != got {
            let shown = |text: &Option<String>| text.clone().unwrap_or_default();
            out.push(format!("{at}: {what}: expected {}, got {}", shown(wanted), shown(got)));
        }
    }
    if let Some(wanted) = &wanted.body {
        value(&format!("{at}: body"), wanted, got.body.as_ref().unwrap_or(&Value::Null), out);
    }
}

/// Objects may have more members than expected; arrays must have as many elements.
fn value(at: &str, wanted: &Value, got: &Value, out: &mut Vec<String>) {
    match (wanted, got) {
        (Value::Object(members), Value::Object(_)) => {
            for (name, wanted) in members {
                value(&format!("{at}.{name}"), wanted, &got[name.as_str()], out);
            }
        }
        (Value::Array(wanted), Value::Array(got)) if wanted.len() == got.len() => {
            for (n, (wanted, got)) in wanted.iter().zip(got).enumerate() {
                value(&format!("{at}[{n}]"), wanted, got, out);
            }
        }
        _ if wanted == got => {}
        _ => out.push(format!("{at}: expected {wanted}, got {got}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: Value, got: Value, expected: &[&str]) {
        let mut out = Vec::new();
        value("b", &wanted, &got, &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn an_expectation_may_leave_out_but_not_differ() {
        use serde_json::json;
        check(json!({"a": 1}), json!({"a": 1, "b": 2}), &[]);
        check(json!({"a": {"c": [1]}}), json!({"a": {"c": [2]}}), &["b.a.c[0]: expected 1, got 2"]);
        check(json!([1]), json!([1, 2]), &["b: expected [1], got [1,2]"]);
        check(json!({"a": 1}), json!({}), &["b.a: expected 1, got null"]);
    }
}

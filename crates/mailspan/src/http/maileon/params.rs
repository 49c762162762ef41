//! Parameters from query and body, the body winning; and the request without its key.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use bytes::Bytes;
use mailspan_core::{RawRequest, clip};
use serde_json::{Map, Value};
use url::form_urlencoded;

/// Parameters of one call: form builders send a few dozen.
const PARAMS_MAX: usize = 1_000;

/// Names and values, as last given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

type Wrong = (StatusCode, String);

impl Params {
    /// Total: anything is read, or refused with a status and a text that does not show values.
    pub fn read(raw: &RawRequest) -> Result<Params, Wrong> {
        let mut params = Params::default();
        params.form(raw.query.as_bytes())?;
        match kind(raw) {
            Kind::Json if raw.body.is_empty() => {}
            Kind::Json => params.json(&raw.body)?,
            Kind::Form => params.form(&raw.body)?,
            Kind::None if raw.body.is_empty() => {}
            Kind::None | Kind::Other => {
                let text = "the body is application/json or application/x-www-form-urlencoded".to_owned();
                return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
            }
        }
        match params.0.len() <= PARAMS_MAX {
            true => Ok(params),
            false => Err((StatusCode::BAD_REQUEST, format!("more than {PARAMS_MAX} parameters"))),
        }
    }

    /// Trimmed; empty where it is not given.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.trim())
    }

    pub fn key(&self) -> &str {
        self.get("key")
    }

    /// Names behind a prefix, with their trimmed values.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.trim())))
    }

    /// The request as it may be stored: every value of `key` replaced by the key's name.
    pub fn without_key(&self, raw: &RawRequest, by: &str) -> RawRequest {
        let body = match kind(raw) {
            Kind::Form => Bytes::from(masked(&String::from_utf8_lossy(&raw.body), by)),
            Kind::Json => json_masked(&raw.body, by),
            _ => raw.body.clone(),
        };
        let query = masked(&raw.query, by);
        let url = raw.url.split('?').next().unwrap_or_default().to_owned();
        RawRequest { query, body, url, ..raw.clone() }
    }

    fn form(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        for (name, value) in form_urlencoded::parse(bytes) {
            // What cannot be decoded is replaced by the parser.
            if name.contains('\u{fffd}') || value.contains('\u{fffd}') {
                return Err((StatusCode::BAD_REQUEST, format!("`{}` is not UTF-8", clip(&name, 60))));
            }
            self.0.insert(name.into_owned(), value.into_owned());
        }
        Ok(())
    }

    fn json(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let bad = |text: String| (StatusCode::BAD_REQUEST, text);
        mailspan_core::json::parse(bytes).map_err(|error| bad(format!("the body is not JSON: {error}")))?;
        let members: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|_| bad("the body is a JSON object".to_owned()))?;
        for (name, value) in members {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text,
                Value::Bool(truth) => truth.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Array(_) | Value::Object(_) => {
                    return Err(bad(format!("`{}` is a text, a number or a truth value", clip(&name, 60))));
                }
            };
            self.0.insert(name, text);
        }
        Ok(())
    }
}

enum Kind {
    Json,
    Form,
    None,
    Other,
}

fn kind(raw: &RawRequest) -> Kind {
    let Some(kind) = raw.header("content-type") else { return Kind::None };
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Kind::Json,
        "application/x-www-form-urlencoded" => Kind::Form,
        "" => Kind::None,
        _ => Kind::Other,
    }
}

fn masked(pairs: &str, by: &str) -> String {
    let is_key = |pair: &str| form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name.trim() == "key");
    let shown =
        pairs.split('&').map(|pair| if is_key(pair) { format!("key=[{by}]") } else { pair.to_owned() });
    shown.collect::<Vec<_>>().join("&")
}

/// An object is written anew where it holds a key: an escaped one would not be found as text.
fn json_masked(body: &Bytes, by: &str) -> Bytes {
    let Ok(mut members) = serde_json::from_slice::<Map<String, Value>>(body) else { return body.clone() };
    match members.get_mut("key") {
        None => body.clone(),
        Some(key) => {
            *key = Value::from(format!("[{by}]"));
            Bytes::from(Value::Object(members).to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use mailspan_core::Millis;
    use proptest::prelude::*;

    use super::*;

    fn raw(query: &str, kind: Option<&str>, body: &[u8]) -> RawRequest {
        RawRequest {
            method: "POST".to_owned(),
            url: String::new(),
            path: "/webhooks/contacts/email".to_owned(),
            query: query.to_owned(),
            headers: kind
                .map(|kind| ("content-type".to_owned(), kind.as_bytes().to_vec()))
                .into_iter()
                .collect(),
            body: Bytes::copy_from_slice(body),
            received_at: Millis(0),
        }
    }

    fn check(query: &str, kind: Option<&str>, body: &str, expected: Option<&[(&str, &str)]>) {
        let read = Params::read(&raw(query, kind, body.as_bytes())).ok();
        let expected = expected.map(|pairs| {
            Params(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        });
        assert_eq!(read, expected, "{query} {kind:?} {body}");
    }

    #[test]
    fn three_ways_and_the_body_wins() {
        check("a=1&b=2", None, "", Some(&[("a", "1"), ("b", "2")]));
        check(
            "a=1&b=2",
            Some("application/json"),
            r#"{"a":3,"c":true,"d":null}"#,
            Some(&[("a", "3"), ("b", "2"), ("c", "true")]),
        );
        check(
            "a=1",
            Some("application/x-www-form-urlencoded; charset=utf-8"),
            "a=4&custom_special+date=x",
            Some(&[("a", "4"), ("custom_special date", "x")]),
        );
        check("a=1", Some("application/json"), "", Some(&[("a", "1")]));
        check("a=1&a=2", None, "", Some(&[("a", "2")]));
        check("", Some("application/json"), r#"{"a":[1]}"#, None);
        check("", Some("application/json"), "[]", None);
        check("", Some("text/plain"), "a=1", None);
        check("a=%ff", None, "", None);
    }

    #[test]
    fn the_key_is_not_stored() {
        let secret = "k-3f9c-secret";
        for (query, kind, body) in [
            (format!("key={secret}&email=a"), None, String::new()),
            ("k%65y=%6b-3f9c-secret&email=a".to_owned(), None, String::new()),
            (
                String::new(),
                Some("application/json"),
                r#"{"key":"\u006b-3f9c-secret","email":"a"}"#.to_owned(),
            ),
            (String::new(), Some("application/x-www-form-urlencoded"), format!("email=a&key={secret}")),
        ] {
            let raw = raw(&query, kind, body.as_bytes());
            let params = Params::read(&raw).unwrap();
            assert_eq!(params.key(), secret);
            let stored = params.without_key(&raw, "key 7");
            let all = format!("{}{}", stored.query, String::from_utf8_lossy(&stored.body));
            assert!(!all.contains("3f9c") && all.contains("[key 7]") && all.contains("email"), "{all}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(query in "\\PC{0,80}", body: Vec<u8>, kind in 0..4_usize) {
            let kinds = [None, Some("application/json"), Some("application/x-www-form-urlencoded"), Some("x/y")];
            let raw = raw(&query, kinds[kind], &body);
            if let Ok(params) = Params::read(&raw) {
                let _ = params.without_key(&raw, "k");
            }
        }
    }
}

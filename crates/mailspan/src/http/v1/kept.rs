//! A kept request as it left: what was planned, with the names of what was added to prove who we are.

use mailspan_core::KEY;
use serde_json::{Value, json};

use crate::contacts::links::without_tokens;
use crate::deliver::sign;
use crate::hub::Destination;

/// `{method, url, headers, body}` of a request kept as text: method and path, a line a header, an empty
/// line, the body. Without its destination (it left the configuration) the path alone, nothing added.
pub fn whole(destination: Option<&Destination>, kept: &[u8]) -> Value {
    let text = String::from_utf8_lossy(kept);
    let text = without_tokens(&text);
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let (method, path) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or_default();
    let mut headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| *name != KEY)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut url = path.to_owned();
    if let Some(destination) = destination {
        url = format!("{}{path}", destination.target.base_url);
        let added = sign::added(destination);
        headers.retain(|(name, _)| added.iter().all(|(other, _)| other != name));
        headers.extend(added);
    }
    json!({ "method": method, "url": url, "headers": headers, "body": body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_request_is_taken_apart() {
        let kept = b"POST /notes?a=b\ncontent-type: text/plain\n:key: k1\nx: a: b\n\none\n\ntwo";
        let expected = json!({
            "method": "POST", "url": "/notes?a=b", "headers": [["content-type", "text/plain"], ["x", "a: b"]],
            "body": "one\n\ntwo",
        });
        assert_eq!(whole(None, kept), expected);
        assert_eq!(
            whole(None, b"GET /\n\n"),
            json!({ "method": "GET", "url": "/", "headers": [], "body": "" })
        );
    }
}

//! CloudEvents in binary mode: attributes in `ce-` headers, the body is the data (HTTP binding 1.0.2, 3.1).

use mailspan_core::{RawRequest, json};

use super::event;
use crate::contract::{Arrival, Dedupe};
use crate::reading;
use crate::signature::base64;

/// Attributes that an event is made of; what else begins with `ce-` is an extension.
const ATTRIBUTES: [&str; 6] = ["specversion", "id", "source", "type", "subject", "time"];

/// Reads the one event of the request; `media` is its content type without parameters.
pub fn arrival(request: &RawRequest, media: &str) -> Result<Arrival, String> {
    let mut members = Vec::new();
    for attribute in ATTRIBUTES {
        let name = format!("ce-{attribute}");
        let Some((_, value)) = request.headers.iter().find(|(header, _)| *header == name) else { continue };
        members.push((attribute, json::quote(&decode(value))));
    }
    for (header, value) in &request.headers {
        let Some(name) = header.strip_prefix("ce-") else { continue };
        // The data is in the body, whatever a header of that name says.
        if !ATTRIBUTES.contains(&name) && !name.starts_with("data") {
            members.push((name, json::quote(&decode(value))));
        }
    }
    members.push(("data", data(request, media)?));
    let text = json::object(members);
    let node = json::parse(text.as_bytes()).map_err(|error| format!("the body cannot be read: {error}"))?;
    event(&node, 0, Dedupe::Never).map_err(|text| text.replacen("field \"", "header \"ce-", 1))
}

/// The body as JSON text: as it is where it is JSON, `{"text": …}` for other text, else `{"data_base64": …}`.
fn data(request: &RawRequest, media: &str) -> Result<String, String> {
    if request.body.is_empty() {
        return Ok("{}".to_owned());
    }
    if media.is_empty() || media == "application/json" || media.ends_with("+json") {
        let node = reading::body(request).map_err(|bad| bad.text)?;
        return Ok(node.raw.to_owned());
    }
    let kind = ("content_type", json::quote(media));
    Ok(match std::str::from_utf8(&request.body) {
        Ok(text) if media.starts_with("text/") || media.ends_with("xml") => {
            json::object([("text", json::quote(text)), kind])
        }
        _ => json::object([("data_base64", json::quote(&base64(&request.body))), kind]),
    })
}

/// A header's value (3.1.3.2): quotes are undone, then `%XX`; what is not UTF-8 becomes U+FFFD.
fn decode(value: &[u8]) -> String {
    let value = value.trim_ascii();
    let quoted = value.len() >= 2 && value.starts_with(b"\"") && value.ends_with(b"\"");
    let value = if quoted { unquote(&value[1..value.len() - 1]) } else { value.to_vec() };
    let mut out = Vec::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        let digits = value.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(crate::signature::unhex) {
            Some(bytes) if value[at] == b'%' => {
                out.extend(bytes);
                at += 3;
            }
            _ => {
                out.push(value[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn unquote(value: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    let mut keep = |byte: &u8| {
        escaped = !escaped && *byte == b'\\';
        !escaped
    };
    value.iter().copied().filter(|byte| keep(byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_decoded() {
        for (value, expected) in [
            ("plain", "plain"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("\"a \\\"b\\\\\"", "a \"b\\"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%ff", "\u{fffd}"),
            ("é", "é"),
        ] {
            assert_eq!(decode(value.as_bytes()), expected, "{value}");
        }
    }
}

//! Text that stands in a path or a query.

/// Percent-encodes everything but RFC 3986's unreserved characters (2.3).
pub(crate) fn percent(text: &str) -> String {
    let keep = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if keep(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

//! Confirmation links as they are shown and kept: without the token, which confirms for whoever holds it.

use std::borrow::Cow;

use mailspan_core::RawRequest;

/// Characters of a token: 32 bytes in base64url without padding.
const TOKEN_CHARS: usize = 43;
/// What stands before a token: in a path, in JSON with its slashes escaped, in a form or query.
const BEFORE: [&str; 4] = ["/doi/", "\\/doi\\/", "%2Fdoi%2F", "%2fdoi%2f"];

/// Each token becomes `[token]`; anything else stays to the letter.
pub fn without_tokens(text: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed(text);
    for before in BEFORE {
        if shown.contains(before) {
            let cut = cut(&shown, before);
            shown = Cow::Owned(cut);
        }
    }
    shown
}

fn cut(text: &str, before: &str) -> String {
    let mut pieces = text.split(before);
    let mut shown = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        shown.push_str(before);
        let is_of_token = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let length = piece.chars().take_while(is_of_token).count();
        if length < TOKEN_CHARS {
            shown.push_str(piece);
        } else {
            shown.push_str("[token]");
            shown.push_str(&piece[length..]);
        }
    }
    shown
}

/// The request of a click on the button as it is kept: path, and what a browser says it came from.
pub fn kept(raw: &RawRequest) -> RawRequest {
    let text = |text: &str| without_tokens(text).into_owned();
    let header = |value: &[u8]| match std::str::from_utf8(value) {
        Ok(value) => text(value).into_bytes(),
        Err(_) => value.to_vec(),
    };
    RawRequest {
        url: text(&raw.url),
        path: text(&raw.path),
        query: text(&raw.query),
        headers: raw.headers.iter().map(|(name, value)| (name.clone(), header(value))).collect(),
        ..raw.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(without_tokens(text), expected, "{text}");
    }

    #[test]
    fn a_token_is_cut_wherever_it_stands() {
        let token = "aZ09-_".repeat(7) + "x";
        assert_eq!(token.len(), TOKEN_CHARS);
        check(&format!("/doi/{token}"), "/doi/[token]");
        check(
            &format!(r#"{{"a":"https://x.org/b/doi/{token}","c":"https:\/\/x.org\/doi\/{token}?d"}}"#),
            r#"{"a":"https://x.org/b/doi/[token]","c":"https:\/\/x.org\/doi\/[token]?d"}"#,
        );
        check(
            &format!("u=https%3A%2F%2Fx.org%2Fdoi%2F{token}&v=1"),
            "u=https%3A%2F%2Fx.org%2Fdoi%2F[token]&v=1",
        );
        for other in ["", "/doi/", "/doi/short/doi/ü", "say /doi/10.1000/182"] {
            check(other, other);
        }
    }
}

//! What is judged, as bytes in the flight note: the items' keys and the answer to them, so that it can be judged
//! again without asking the destination.

use mailspan_core::limits::{ANSWER_BYTES_MAX, ANSWER_HEAD_BYTES_MAX};
use mailspan_core::{Answer, DestinationId, Key, Millis};

/// A thousand keys of at most [`Key`]'s length, an answer and its head.
pub const BYTES_MAX: usize = (128 << 10) + 2 * ANSWER_HEAD_BYTES_MAX + ANSWER_BYTES_MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub destination: DestinationId,
    pub keys: Vec<Key>,
    pub answer: Answer,
    /// Length of its form in the note.
    pub bytes: usize,
}

/// Destination, time, status, cut, then keys, names and values of headers (each ends with a zero byte, and so
/// does each of the two lists), then the body.
pub fn write<'a>(
    destination: DestinationId,
    keys: impl Iterator<Item = &'a Key>,
    answer: &Answer,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + answer.body.len());
    bytes.extend_from_slice(&destination.0.to_be_bytes());
    bytes.extend_from_slice(&answer.at.0.to_be_bytes());
    bytes.extend_from_slice(&answer.status.to_be_bytes());
    bytes.push(u8::from(answer.cut));
    let mut text = |text: &str| {
        bytes.extend(text.bytes().filter(|byte| *byte != 0));
        bytes.push(0);
    };
    keys.for_each(|key| text(&key.0));
    text("");
    for (name, value) in &answer.headers {
        text(name);
        text(value);
    }
    text("");
    bytes.extend_from_slice(&answer.body);
    bytes
}

/// Total: what was cut is nothing.
pub fn read(bytes: &[u8]) -> Option<Judged> {
    let (destination, rest) = bytes.split_first_chunk()?;
    let (at, rest) = rest.split_first_chunk()?;
    let (status, rest) = rest.split_first_chunk()?;
    let (cut, mut rest) = rest.split_first()?;
    let mut text = || {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(&rest[..end]).ok()?.to_owned();
        rest = &rest[end + 1..];
        Some(text)
    };
    let mut keys = Vec::new();
    loop {
        match text()? {
            end if end.is_empty() => break,
            key => keys.push(Key(key.into())),
        }
    }
    let mut headers = Vec::new();
    loop {
        match text()? {
            end if end.is_empty() => break,
            name => headers.push((name, text()?)),
        }
    }
    let answer = Answer {
        at: Millis(i64::from_be_bytes(*at)),
        status: u16::from_be_bytes(*status),
        headers,
        body: rest.to_vec(),
        cut: *cut != 0,
    };
    let destination = DestinationId(i64::from_be_bytes(*destination));
    Some(Judged { destination, keys, answer, bytes: bytes.len() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_are_nothing(bytes: Vec<u8>) {
            let _ = super::read(&bytes);
        }
    }
}

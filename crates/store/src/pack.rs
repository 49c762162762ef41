//! Packed rows: zstd with a small built-in dictionary, its number in front.
//!
//! Layout: dictionary (1 byte; 0: not compressed), length before compression (4 bytes, little endian),
//! then the frame. Runs on the request's task, never on the writer.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::OnceLock;

use mailspan_core::{RawRequest, Secret};
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use crate::bytes_io::{Fields, put};
use crate::rows::RequestRow;

/// Text that payloads have in common; what is likeliest stands last. Read only: new rows use the second.
const FIRST: &[u8] = include_bytes!("dictionary.txt");
/// Parts of rows that `mailspan demo` writes, then the text of the first, with the coding tables of zstd for such
/// rows and for the connectors' fixtures (`ZDICT_finalizeDictionary`, id 2). With tables at hand a row is packed
/// in half the time, as none are made and written for it.
const SECOND: &[u8] = include_bytes!("dictionary2.bin");
/// Dictionaries are never changed: rows name them by number.
const PLAIN: u8 = 0;
const BY_FIRST: u8 = 1;
const BY_SECOND: u8 = 2;
const LEVEL: i32 = 1;
/// A request of [`mailspan_core::limits::BODY_BYTES_MAX`] with its head, and room to spare.
const PLAIN_BYTES_MAX: usize = 32 << 20;
/// Shorter rows gain nothing.
const PACK_BYTES_MIN: usize = 64;
const REQUEST_VERSION: u8 = 1;
const CREDENTIAL_HEADERS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

/// What proves the sender and must not be stored.
#[derive(Debug, Clone)]
pub enum Cut {
    /// The value of this header (lower case) is replaced by `[by]`.
    Header { name: String, by: String },
    /// Wherever this text stands in path, query, headers or body, it is replaced by `[by]`.
    Text { text: Secret, by: String },
}

/// A request as it is stored: as received, credentials cut out. The headers `authorization`, `cookie`,
/// `proxy-authorization` and `x-api-key` are always cut; where `cut` names one, its `by` is shown.
pub fn pack_request(request: &RawRequest, cut: &[Cut]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(request.body.len() + 1_024);
    plain.push(REQUEST_VERSION);
    put(&mut plain, request.method.as_bytes());
    put(&mut plain, &without_texts(request.path.as_bytes(), cut));
    put(&mut plain, &without_texts(request.query.as_bytes(), cut));
    put(&mut plain, &(request.headers.len() as u32).to_le_bytes());
    for (name, value) in &request.headers {
        put(&mut plain, name.as_bytes());
        put(&mut plain, &header_shown(name, value, cut));
    }
    put(&mut plain, &without_texts(&request.body, cut));
    squeeze(&plain)
}

/// Packs again what [`unpack_request`] gave, as it is.
pub(crate) fn repack_request(request: &RequestRow) -> Vec<u8> {
    let mut plain = Vec::with_capacity(request.body.len() + 1_024);
    plain.push(REQUEST_VERSION);
    for text in [&request.method, &request.path, &request.query] {
        put(&mut plain, text.as_bytes());
    }
    put(&mut plain, &(request.headers.len() as u32).to_le_bytes());
    for (name, value) in &request.headers {
        put(&mut plain, name.as_bytes());
        put(&mut plain, value.as_bytes());
    }
    put(&mut plain, &request.body);
    squeeze(&plain)
}

/// The packed request again; the columns beside it are left empty.
pub(crate) fn unpack_request(packed: &[u8]) -> Option<RequestRow> {
    let plain = unsqueeze(packed)?;
    let mut fields = Fields(&plain);
    if fields.byte()? != REQUEST_VERSION {
        return None;
    }
    let (method, path, query) = (fields.text()?, lossy(fields.next()?), lossy(fields.next()?));
    let count = u32::from_le_bytes(fields.next()?.try_into().ok()?);
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((fields.text()?, lossy(fields.next()?)));
    }
    Some(RequestRow {
        received_at: mailspan_core::Millis(0),
        credential: String::new(),
        digest: String::new(),
        redacted: false,
        method,
        path,
        query,
        headers,
        body: fields.next()?.to_vec(),
    })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn header_shown<'v>(name: &str, value: &'v [u8], cut: &[Cut]) -> Cow<'v, [u8]> {
    let named = cut.iter().find_map(|c| match c {
        Cut::Header { name: header, by } if header == name => Some(by.as_str()),
        _ => None,
    });
    match named {
        Some(by) => format!("[{by}]").into_bytes().into(),
        None if CREDENTIAL_HEADERS.contains(&name) => b"[cut]".as_slice().into(),
        None => without_texts(value, cut),
    }
}

fn without_texts<'b>(bytes: &'b [u8], cut: &[Cut]) -> Cow<'b, [u8]> {
    let mut kept = Cow::Borrowed(bytes);
    for one in cut {
        if let Cut::Text { text, by } = one {
            kept = replaced(&kept, text.expose().as_bytes(), format!("[{by}]").as_bytes()).into();
        }
    }
    kept
}

fn replaced(bytes: &[u8], text: &[u8], by: &[u8]) -> Vec<u8> {
    if text.is_empty() {
        return bytes.to_vec();
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        match rest.strip_prefix(text) {
            Some(after) => {
                out.extend_from_slice(by);
                rest = after;
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

// Contexts are kept a thread: making one costs more than compressing a kilobyte.
thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(
        Compressor::with_prepared_dictionary(encoder_dictionary()).ok());
    static BY_FIRST_AGAIN: RefCell<Option<Decompressor<'static>>> = RefCell::new(
        Decompressor::with_prepared_dictionary(decoder_dictionary(&PREPARED_FIRST, FIRST)).ok());
    static BY_SECOND_AGAIN: RefCell<Option<Decompressor<'static>>> = RefCell::new(
        Decompressor::with_prepared_dictionary(decoder_dictionary(&PREPARED_SECOND, SECOND)).ok());
}

type Prepared = OnceLock<DecoderDictionary<'static>>;
static PREPARED_FIRST: Prepared = OnceLock::new();
static PREPARED_SECOND: Prepared = OnceLock::new();

fn encoder_dictionary() -> &'static EncoderDictionary<'static> {
    static PREPARED: OnceLock<EncoderDictionary<'static>> = OnceLock::new();
    PREPARED.get_or_init(|| EncoderDictionary::copy(SECOND, LEVEL))
}

fn decoder_dictionary(prepared: &'static Prepared, text: &[u8]) -> &'static DecoderDictionary<'static> {
    prepared.get_or_init(|| DecoderDictionary::copy(text))
}

/// Compresses; keeps the bytes as they are where that is not shorter.
pub(crate) fn squeeze(plain: &[u8]) -> Vec<u8> {
    let frame = if plain.len() < PACK_BYTES_MIN {
        None
    } else {
        COMPRESSOR.with_borrow_mut(|c| c.as_mut().and_then(|c| c.compress(plain).ok()))
    };
    let (dictionary, bytes) = match &frame {
        Some(frame) if frame.len() < plain.len() => (BY_SECOND, frame.as_slice()),
        _ => (PLAIN, plain),
    };
    let mut out = Vec::with_capacity(bytes.len() + 5);
    out.push(dictionary);
    out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

/// The bytes again; `None` where they are damaged or name a dictionary that is not known.
pub(crate) fn unsqueeze(packed: &[u8]) -> Option<Vec<u8>> {
    let (dictionary, rest) = packed.split_first()?;
    let (length, bytes) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > PLAIN_BYTES_MAX {
        return None;
    }
    match *dictionary {
        PLAIN => (bytes.len() == length).then(|| bytes.to_vec()),
        BY_FIRST => BY_FIRST_AGAIN.with_borrow_mut(|d| unpacked(d.as_mut(), bytes, length)),
        BY_SECOND => BY_SECOND_AGAIN.with_borrow_mut(|d| unpacked(d.as_mut(), bytes, length)),
        _ => None,
    }
}

fn unpacked(with: Option<&mut Decompressor>, bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    with?.decompress(bytes, length).ok().filter(|plain| plain.len() == length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailspan_core::Millis;
    use proptest::prelude::*;

    fn request(path: &str, query: &str, headers: &[(&str, &str)], body: &str) -> RawRequest {
        RawRequest {
            method: "POST".to_owned(),
            url: String::new(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect(),
            body: body.to_owned().into(),
            received_at: Millis(0),
        }
    }

    #[test]
    fn credentials_are_cut_and_named() {
        let cut = [
            Cut::Header { name: "x-api-key".to_owned(), by: "key ms_ab".to_owned() },
            Cut::Text { text: Secret::new("s3cret".to_owned()), by: "path".to_owned() },
        ];
        let headers =
            [("x-api-key", "k"), ("authorization", "Bearer t"), ("cookie", "c"), ("x-a", "b s3cret")];
        let raw = request("/in/a/s3cret", "key=s3cret&x=1", &headers, "{\"key\":\"s3cret\"}");
        let kept = unpack_request(&pack_request(&raw, &cut)).unwrap();
        assert_eq!((kept.path.as_str(), kept.query.as_str()), ("/in/a/[path]", "key=[path]&x=1"));
        let values: Vec<_> = kept.headers.iter().map(|(_, v)| v.as_str()).collect();
        assert_eq!(values, ["[key ms_ab]", "[cut]", "[cut]", "b [path]"]);
        assert_eq!(kept.body, b"{\"key\":\"[path]\"}");
    }

    #[test]
    fn rows_of_the_first_dictionary_are_read() {
        let body = r#"{"eventType":"click","recipient":"ann@example.org","transmissionId":"t-1"}"#.repeat(3);
        let mut by_first = Compressor::with_dictionary(LEVEL, FIRST).unwrap();
        let mut row = vec![BY_FIRST];
        row.extend_from_slice(&(body.len() as u32).to_le_bytes());
        row.extend_from_slice(&by_first.compress(body.as_bytes()).unwrap());
        assert_eq!(unsqueeze(&row).unwrap(), body.as_bytes());
        row[0] = BY_SECOND + 1;
        assert_eq!(unsqueeze(&row), None);
    }

    #[test]
    fn a_usual_payload_becomes_a_third() {
        let body = r#"[{"eventId":"92356927693813857","eventType":"click","recipient":"ann@example.org","transmissionId":"t-1","recipientMeta":"{\"crm_contact_id\":\"17\"}","targetLinkUrl":"https://www.example.com/a","eventTime":1767225600123,"ipAddress":"203.0.113.9"}]"#;
        let packed = squeeze(body.as_bytes());
        assert!(packed.len() * 2 < body.len(), "{} of {}: look at dictionary.txt", packed.len(), body.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn what_is_packed_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(unsqueeze(&squeeze(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn damaged_rows_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack_request(&bytes);
        }
    }
}

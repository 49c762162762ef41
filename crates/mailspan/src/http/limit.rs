//! Bodies: read whole within bounds, or refused; never cut.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt;
use mailspan_core::limits::{BODY_BYTES_PER_SECOND_MIN, BODY_GRACE_MS, BODY_MS_MAX, INFLATE_RATIO_MAX};
use tokio::time::{Instant, timeout_at};

use crate::drill;

/// Why a body was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyTrouble {
    /// 413: more bytes than allowed, as they came or unpacked.
    TooLarge,
    /// 408: not complete by the deadline.
    TooSlow,
    /// 400: it ended early, or is not what its encoding says.
    Broken,
    /// 415: an encoding that is not read.
    Encoding,
}

/// The bytes as they came, at most `max`, within `BODY_MS_MAX` and, after `BODY_GRACE_MS`, no slower than
/// `BODY_BYTES_PER_SECOND_MIN`. A length announced above `max` is
/// refused before a byte is read; a length that lies is found by hyper and is `Broken`.
pub async fn read_body(body: Body, headers: &HeaderMap, max: usize) -> Result<Bytes, BodyTrouble> {
    let ms_max = drill::number("MAILSPAN_BODY_MS", BODY_MS_MAX);
    read_within(body, headers, max, ms_max, BODY_GRACE_MS).await
}

async fn read_within(
    mut body: Body,
    headers: &HeaderMap,
    max: usize,
    ms_max: u64,
    grace_ms: u64,
) -> Result<Bytes, BodyTrouble> {
    let announced = announced(headers).unwrap_or(0);
    if announced > max as u64 {
        return Err(BodyTrouble::TooLarge);
    }
    let began = Instant::now();
    // Room is not given on a promise alone: a thousand connections could promise the most.
    let mut read = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0).min(64 << 10));
    loop {
        let deadline = began + Duration::from_millis(ms_max.min(grace_ms + fast_enough_ms(read.len())));
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| BodyTrouble::TooSlow)?;
        let Some(frame) = frame else { return Ok(read.freeze()) };
        // Trailers are not part of the body.
        let Ok(data) = frame.map_err(|_| BodyTrouble::Broken)?.into_data() else { continue };
        if data.len() > max - read.len() {
            return Err(BodyTrouble::TooLarge);
        }
        read.extend_from_slice(&data);
    }
}

/// How long so many bytes may take.
fn fast_enough_ms(read: usize) -> u64 {
    (read as u64).saturating_mul(1_000) / BODY_BYTES_PER_SECOND_MIN
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Unpacks a body by its `Content-Encoding` (RFC 9110, 8.4.1), to at most `max` bytes and at most
/// `INFLATE_RATIO_MAX` times its size. Call it after the signature was verified, which is over the bytes
/// as they came. One encoding only: packed twice is no honest sender.
pub fn inflate(bytes: &Bytes, encoding: &str, max: usize) -> Result<Bytes, BodyTrouble> {
    let packed: &[u8] = bytes;
    match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" if bytes.len() > max => Err(BodyTrouble::TooLarge),
        "" | "identity" => Ok(bytes.clone()),
        "gzip" | "x-gzip" => unpack(MultiGzDecoder::new(packed), packed.len(), max),
        // The standard says zlib; some senders leave its two bytes of head out.
        "deflate" if is_zlib(packed) => unpack(ZlibDecoder::new(packed), packed.len(), max),
        "deflate" => unpack(DeflateDecoder::new(packed), packed.len(), max),
        _ => Err(BodyTrouble::Encoding),
    }
}

/// RFC 1950, 2.2: method 8, and both bytes together a multiple of 31.
fn is_zlib(packed: &[u8]) -> bool {
    match packed {
        [method, flags, ..] => method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]) % 31 == 0,
        _ => false,
    }
}

fn unpack(mut reader: impl Read, packed: usize, max: usize) -> Result<Bytes, BodyTrouble> {
    let most = max.min(packed.saturating_mul(INFLATE_RATIO_MAX));
    let mut unpacked = Vec::with_capacity(most.min(packed.saturating_mul(4)));
    let mut chunk = [0_u8; 16 << 10];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(unpacked.into()),
            Ok(read) if read > most - unpacked.len() => return Err(BodyTrouble::TooLarge),
            Ok(read) => unpacked.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(BodyTrouble::Broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use hyper::body::Frame;
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    fn gzip(plain: &[u8]) -> Bytes {
        let mut writer = GzEncoder::new(Vec::new(), Compression::best());
        writer.write_all(plain).unwrap();
        writer.finish().unwrap().into()
    }

    fn zlib(plain: &[u8]) -> Bytes {
        let mut writer = ZlibEncoder::new(Vec::new(), Compression::default());
        writer.write_all(plain).unwrap();
        writer.finish().unwrap().into()
    }

    fn raw_deflate(plain: &[u8]) -> Bytes {
        let mut writer = DeflateEncoder::new(Vec::new(), Compression::default());
        writer.write_all(plain).unwrap();
        writer.finish().unwrap().into()
    }

    fn check(bytes: &Bytes, encoding: &str, expected: Result<&[u8], BodyTrouble>) {
        let result = inflate(bytes, encoding, MAX);
        assert_eq!(result.as_deref(), expected.as_ref().map(|plain| *plain), "{encoding}");
    }

    #[test]
    fn what_senders_pack() {
        let plain = br#"{"events":[{"id":1}]}"#;
        check(&Bytes::from_static(plain), "", Ok(plain));
        check(&Bytes::from_static(plain), "identity", Ok(plain));
        check(&gzip(plain), "gzip", Ok(plain));
        check(&gzip(plain), " X-GZip ", Ok(plain));
        check(&zlib(plain), "deflate", Ok(plain));
        check(&raw_deflate(plain), "deflate", Ok(plain));
        // Two members are one body (RFC 1952, 2.2).
        check(&[gzip(b"ab"), gzip(b"cd")].concat().into(), "gzip", Ok(b"abcd"));
    }

    #[test]
    fn what_is_refused() {
        let packed = gzip(b"{}");
        check(&packed, "br", Err(BodyTrouble::Encoding));
        check(&packed, "gzip, gzip", Err(BodyTrouble::Encoding));
        check(&packed.slice(..packed.len() - 3), "gzip", Err(BodyTrouble::Broken));
        check(&Bytes::from_static(b"{}"), "gzip", Err(BodyTrouble::Broken));
        check(&Bytes::from_static(b""), "gzip", Err(BodyTrouble::Broken));
        check(&Bytes::from_static(b"\x07\x07"), "deflate", Err(BodyTrouble::Broken));
        check(&vec![b'x'; MAX + 1].into(), "identity", Err(BodyTrouble::TooLarge));
    }

    #[test]
    fn bombs_end_at_the_ratio_and_at_the_size() {
        // A thousand to one, though its size would be allowed.
        check(&gzip(&vec![b'x'; MAX]), "gzip", Err(BodyTrouble::TooLarge));
        check(&zlib(&vec![b'x'; 32 * MAX]), "deflate", Err(BodyTrouble::TooLarge));
        // A modest ratio, but too large.
        let text: Vec<u8> =
            (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        check(&gzip(&text), "gzip", Err(BodyTrouble::TooLarge));
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(bytes: Vec<u8>, encoding in "gzip|deflate|identity|[a-z, ]{0,9}") {
            let _ = inflate(&bytes.into(), &encoding, MAX);
        }
    }

    /// Chunks one by one, then the end, an error, or silence.
    struct Chunks(Vec<&'static str>, End);

    #[derive(Clone, Copy)]
    enum End {
        Whole,
        Error,
        Silence,
    }

    impl hyper::body::Body for Chunks {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            if !self.0.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.0.remove(0).as_bytes())))));
            }
            match self.1 {
                End::Whole => Poll::Ready(None),
                End::Error => Poll::Ready(Some(Err(std::io::ErrorKind::UnexpectedEof.into()))),
                End::Silence => Poll::Pending,
            }
        }
    }

    fn chunks(list: &[&'static str], end: End) -> Body {
        Body::new(Chunks(list.to_vec(), end))
    }

    async fn read(body: Body, length: Option<&'static str>, max: usize) -> Result<Bytes, BodyTrouble> {
        let mut headers = HeaderMap::new();
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from_static(length));
        }
        read_within(body, &headers, max, 50, 50).await
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_whole_and_one_byte_more_is_refused() {
        assert_eq!(
            read(chunks(&["abc", "", "de"], End::Whole), None, 5).await,
            Ok(Bytes::from_static(b"abcde"))
        );
        assert_eq!(read(chunks(&["abc", "def"], End::Silence), None, 5).await, Err(BodyTrouble::TooLarge));
        assert_eq!(read(Body::empty(), None, 0).await, Ok(Bytes::new()));
        assert_eq!(read(chunks(&[], End::Silence), Some("6"), 5).await, Err(BodyTrouble::TooLarge));
        assert_eq!(
            read(chunks(&["abc"], End::Whole), Some("nonsense"), 5).await,
            Ok(Bytes::from_static(b"abc"))
        );
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_never_half_a_body() {
        assert_eq!(read(chunks(&["abc"], End::Silence), Some("5"), 5).await, Err(BodyTrouble::TooSlow));
        assert_eq!(read(chunks(&["abc"], End::Error), Some("5"), 5).await, Err(BodyTrouble::Broken));
    }

    #[tokio::test]
    async fn a_body_that_drips_ends_long_before_its_deadline() {
        let an_hour = 3_600_000;
        let drip = chunks(&["abc"], End::Silence);
        let result = read_within(drip, &HeaderMap::new(), 5, an_hour, 50).await;
        assert_eq!(result, Err(BodyTrouble::TooSlow));
        // Who sent a lot may rest as long as that would have taken.
        assert_eq!([0, 1_024, 1 << 20].map(fast_enough_ms), [0, 1_000, 1_024_000]);
    }
}

//! Names in a certificate (RFC 5280, 4.1): as much of DER (X.690) as that needs. Any bytes give a value or nothing.

/// Issuer and subject: the content of each `Name`, without its outer tag, as trust anchors have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names<'a> {
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
}

const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0] EXPLICIT Version`
const VERSION: u8 = 0xa0;
const BMP_STRING: u8 = 0x1e;
/// 2.5.4.3 and 2.5.4.10
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANIZATION: &[u8] = &[0x55, 4, 10];
/// Names are read on a terminal: longer ones are cut.
const SHOWN_CHARS_MAX: usize = 100;

/// Nothing where it cannot be read.
pub fn names(certificate: &[u8]) -> Option<Names<'_>> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    let (_serial, rest) = expect(rest, INTEGER)?;
    let (_algorithm, rest) = expect(rest, SEQUENCE)?;
    let (issuer, rest) = expect(rest, SEQUENCE)?;
    let (_validity, rest) = expect(rest, SEQUENCE)?;
    let (subject, _) = expect(rest, SEQUENCE)?;
    Some(Names { issuer, subject })
}

/// `` `R11` of Let's Encrypt ``: the common name and the organisation, without what a terminal would act on.
pub fn shown(name: &[u8]) -> String {
    let (common, organization) = (part(name, COMMON_NAME), part(name, ORGANIZATION));
    match (common, organization) {
        (Some(common), Some(organization)) => format!("`{common}` of {organization}"),
        (Some(one), None) | (None, Some(one)) => format!("`{one}`"),
        (None, None) => "without a name".to_owned(),
    }
}

/// The first attribute of this kind.
fn part(mut name: &[u8], kind: &[u8]) -> Option<String> {
    while let Some((mut set, rest)) = expect(name, SET) {
        while let Some((attribute, others)) = expect(set, SEQUENCE) {
            if let Some((oid, value)) = expect(attribute, OID)
                && oid == kind
            {
                return text(value);
            }
            set = others;
        }
        name = rest;
    }
    None
}

fn text(value: &[u8]) -> Option<String> {
    let (tag, bytes, _) = item(value)?;
    let text = match tag {
        BMP_STRING => {
            let units: Vec<u16> =
                bytes.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    let plain = |c: char| if c.is_control() || c == '`' { '\u{fffd}' } else { c };
    let text: String = text.chars().map(plain).collect();
    Some(crate::clip(text.trim(), SHOWN_CHARS_MAX).into_owned()).filter(|text| !text.is_empty())
}

/// The content of an item of this tag, and what follows it.
fn expect(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = item(input)?;
    (found == tag).then_some((content, rest))
}

fn item(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = input.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

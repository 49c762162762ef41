//! Settings of an `hmac` source to a scheme: the preset first, then what is set beside it.

use mailspan_core::{EventType, Span};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Hmac, Same};
use crate::contract::BadSetting;
use crate::signature::presets::{self, Handshake, Preset, TOLERANCE_MS};
use crate::signature::recipe::{Piece, Place, Scheme, Stamp, Unit, pieces};
use crate::signature::{Algorithm, Encoding};

/// Settings of an `hmac` source. Without `preset`, `header` is needed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A known sender: stripe, github, shopify, woocommerce, hubspot_v1, hubspot_v2, hubspot_v3, zendesk,
    /// greenhouse, typeform, slack, intercom, pagerduty, mailingcore.
    pub preset: Option<String>,
    /// The header that holds the signature.
    pub header: Option<String>,
    /// What stands before the signature in the header, like "sha256=".
    pub prefix: Option<String>,
    /// The header is a list of parts with this between them, like ",".
    pub separator: Option<String>,
    /// How the signature is written. Default: hex.
    pub encoding: Option<Encoding>,
    /// Default: sha256, which is HMAC-SHA256.
    pub algorithm: Option<Algorithm>,
    /// What is signed: {body}, {timestamp}, {id}, {method}, {url}, {secret} and text between. Default: "{body}".
    pub signed: Option<String>,
    /// Where the sender's time stands.
    pub timestamp: Option<TimestampSetting>,
    /// The header that {id} stands for.
    pub id: Option<HeaderSetting>,
    /// How far the timestamp may be from our clock, either way. Default: "5m".
    #[schemars(with = "Option<String>")]
    pub tolerance: Option<Span>,
    /// What tells a repeat. Default: the body.
    pub dedupe: Option<DedupeSetting>,
    /// A set-up request that is answered at once.
    pub handshake: Option<Handshake>,
}

/// `{ header = "X-Timestamp", unit = "s" }`, or `{ part = "t=", unit = "s" }` for a part of the signature header.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimestampSetting {
    pub header: Option<String>,
    pub part: Option<String>,
    pub unit: Unit,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderSetting {
    pub header: String,
}

/// `{ header = "X-Delivery" }`, `{ body = "event.id" }` or `{ fields = ["portalId", "eventId"] }`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DedupeSetting {
    pub header: Option<String>,
    /// A path in the body.
    pub body: Option<String>,
    /// Several paths in the body.
    pub fields: Option<Vec<String>>,
}

impl Settings {
    /// The source that they describe, or the first setting that cannot be.
    pub(super) fn resolve(self) -> Result<Hmac, BadSetting> {
        let preset = match &self.preset {
            Some(name) => Some(presets::find(name).map_err(|text| wrong(&["preset"], text))?),
            None => None,
        };
        let mut scheme = preset.and_then(Preset::scheme).unwrap_or_else(blank);
        self.apply(&mut scheme)?;
        if self.tolerance.is_some_and(|span| span.ms < 1_000) {
            return Err(crate::contract::too_narrow());
        }
        check(&scheme, self.tolerance.is_some())?;
        let dedupe = match self.dedupe {
            Some(setting) => Some(same(setting)?),
            None => preset.and_then(|preset| preset.dedupe).map(preset_same),
        };
        let label = preset.map_or("received", |preset| preset.name);
        Ok(Hmac {
            scheme,
            dedupe,
            handshake: self.handshake.or(preset.and_then(|preset| preset.handshake)),
            preset: preset.map(|preset| preset.name),
            event_type: EventType::parse(&format!("app.{label}"))
                .unwrap_or_else(|_| EventType::known("app.received")),
        })
    }

    fn apply(&self, scheme: &mut Scheme) -> Result<(), BadSetting> {
        if let Some(name) = &self.header {
            scheme.header = header_name(name, &["header"])?;
        }
        if let Some(prefix) = &self.prefix {
            scheme.prefix = prefix.clone();
        }
        if let Some(separator) = &self.separator {
            if separator.is_empty() {
                return Err(wrong(&["separator"], "an empty separator parts nothing: leave it out"));
            }
            scheme.separator = Some(separator.clone());
        }
        if let Some(encoding) = self.encoding {
            scheme.encoding = encoding;
        }
        if let Some(algorithm) = self.algorithm {
            scheme.algorithm = algorithm;
        }
        if let Some(signed) = &self.signed {
            scheme.signed = pieces(signed).map_err(|text| wrong(&["signed"], text))?;
        }
        if let Some(setting) = &self.timestamp {
            scheme.timestamp = Some(stamp(setting)?);
        }
        if let Some(id) = &self.id {
            scheme.id = Some(header_name(&id.header, &["id", "header"])?);
        }
        scheme.tolerance_ms = self.tolerance.map_or(TOLERANCE_MS, |span| span.ms);
        Ok(())
    }
}

fn blank() -> Scheme {
    Scheme {
        header: String::new(),
        prefix: String::new(),
        prefix_optional: false,
        separator: None,
        encoding: Encoding::Hex,
        algorithm: Algorithm::Sha256,
        signed: vec![Piece::Body],
        timestamp: None,
        id: None,
        tolerance_ms: TOLERANCE_MS,
    }
}

/// What would let in what it should not, or could never match.
fn check(scheme: &Scheme, tolerance: bool) -> Result<(), BadSetting> {
    let signed = |piece: &Piece| scheme.signed.contains(piece);
    let plain = scheme.algorithm == Algorithm::Sha256Plain;
    let part = matches!(&scheme.timestamp, Some(Stamp { place: Place::Part(_), .. }));
    let problems = [
        (
            scheme.header.is_empty(),
            "header",
            "it has no `header`: name the one that holds the signature, or a `preset`",
        ),
        (
            !signed(&Piece::Body),
            "signed",
            "it must contain {body}: a signature that does not cover the body proves nothing",
        ),
        (
            plain && !signed(&Piece::Secret),
            "signed",
            "with sha256_plain it must contain {secret}: without it anybody can sign",
        ),
        (
            !plain && signed(&Piece::Secret),
            "signed",
            "{secret} belongs to sha256_plain only: an HMAC has it as its key",
        ),
        (
            signed(&Piece::Timestamp) && scheme.timestamp.is_none(),
            "signed",
            "it contains {timestamp}: say where that stands, like timestamp = { header = \"X-Timestamp\", unit = \"s\" }",
        ),
        (
            !signed(&Piece::Timestamp) && scheme.timestamp.is_some(),
            "timestamp",
            "`signed` does not contain {timestamp}: a time that is not signed can be changed by anybody",
        ),
        (
            tolerance && scheme.timestamp.is_none(),
            "tolerance",
            "there is no `timestamp` to hold against the clock: leave it out, or say where the time stands",
        ),
        (
            signed(&Piece::Id) && scheme.id.is_none(),
            "signed",
            "it contains {id}: say where that stands, like id = { header = \"X-Id\" }",
        ),
        (
            part && scheme.separator.is_none(),
            "timestamp",
            "a `part` needs a `separator` that parts the header: write separator = \",\"",
        ),
    ];
    match problems.into_iter().find(|(wrong, ..)| *wrong) {
        Some((_, setting, text)) => Err(wrong(&[setting], text)),
        None => Ok(()),
    }
}

fn stamp(setting: &TimestampSetting) -> Result<Stamp, BadSetting> {
    let place = match (&setting.header, &setting.part) {
        (Some(name), None) => Place::Header(header_name(name, &["timestamp", "header"])?),
        (None, Some(prefix)) if !prefix.is_empty() => Place::Part(prefix.clone()),
        _ => {
            return Err(wrong(
                &["timestamp"],
                "write either `header` or `part`, like { part = \"t=\", unit = \"s\" }",
            ));
        }
    };
    Ok(Stamp { place, unit: setting.unit })
}

fn same(setting: DedupeSetting) -> Result<Same, BadSetting> {
    let help =
        "write one of { header = \"X-Delivery\" }, { body = \"event.id\" }, { fields = [\"a\", \"b.c\"] }";
    match (setting.header, setting.body, setting.fields) {
        (Some(name), None, None) => Ok(Same::Header(header_name(&name, &["dedupe", "header"])?)),
        (None, Some(path), None) if !path.is_empty() => Ok(Same::Body(vec![path])),
        (None, None, Some(paths)) if !paths.is_empty() => Ok(Same::Body(paths)),
        _ => Err(wrong(&["dedupe"], help)),
    }
}

fn preset_same(same: presets::Same) -> Same {
    match same {
        presets::Same::Header(name) => Same::Header(name.to_owned()),
        presets::Same::Body(paths) => Same::Body(paths.iter().map(|path| (*path).to_owned()).collect()),
    }
}

/// A header's name in lower case (RFC 9110, 5.1: a token).
fn header_name(name: &str, path: &[&str]) -> Result<String, BadSetting> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(wrong(
            path,
            format!(
                "`{}` is no name of a header: write letters, digits and `-`",
                mailspan_core::clip(name, 60)
            ),
        ));
    }
    Ok(name.to_ascii_lowercase())
}

fn wrong(path: &[&str], text: impl Into<String>) -> BadSetting {
    BadSetting { path: path.iter().map(|key| (*key).to_owned()).collect(), text: text.into() }
}

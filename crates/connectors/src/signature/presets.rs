//! The schemes of known senders (`hmac` with `preset = "…"`). Facts from the vendors' pages.

use super::recipe::{Place, Scheme, Stamp, Unit, pieces};
use super::{Algorithm, Encoding};

/// What a sender's documentation says, before a configuration changes any of it.
pub struct Preset {
    pub name: &'static str,
    pub header: &'static str,
    pub prefix: &'static str,
    pub separator: Option<&'static str>,
    pub encoding: Encoding,
    pub algorithm: Algorithm,
    pub signed: &'static str,
    pub timestamp: Option<(Where, Unit)>,
    pub dedupe: Option<Same>,
    pub handshake: Option<Handshake>,
}

#[derive(Debug, Clone, Copy)]
pub enum Where {
    Header(&'static str),
    Part(&'static str),
}

/// What makes two requests of a sender the same.
#[derive(Debug, Clone, Copy)]
pub enum Same {
    Header(&'static str),
    /// Paths in the body; several make a recipe.
    Body(&'static [&'static str]),
}

/// A set-up request that is answered at once and not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Handshake {
    /// A signed body `{"type": "url_verification", "challenge": "…"}`: the challenge is echoed as text.
    Slack,
    /// An unsigned first ping, the form `webhook_id=…`: answered 200.
    Woocommerce,
}

/// The default tolerance of every scheme that signs a time.
pub const TOLERANCE_MS: u64 = 300_000;

const PLAIN: Preset = Preset {
    name: "",
    header: "",
    prefix: "",
    separator: None,
    encoding: Encoding::Hex,
    algorithm: Algorithm::Sha256,
    signed: "{body}",
    timestamp: None,
    dedupe: None,
    handshake: None,
};

const HUBSPOT_EVENT: Same = Same::Body(&["portalId", "subscriptionId", "eventId", "occurredAt", "objectId"]);

pub const PRESETS: &[Preset] = &[
    Preset {
        name: "stripe",
        header: "stripe-signature",
        prefix: "v1=",
        separator: Some(","),
        signed: "{timestamp}.{body}",
        timestamp: Some((Where::Part("t="), Unit::S)),
        dedupe: Some(Same::Body(&["id"])),
        ..PLAIN
    },
    Preset {
        name: "github",
        header: "x-hub-signature-256",
        prefix: "sha256=",
        dedupe: Some(Same::Header("x-github-delivery")),
        ..PLAIN
    },
    Preset {
        name: "shopify",
        header: "x-shopify-hmac-sha256",
        encoding: Encoding::Base64,
        dedupe: Some(Same::Header("x-shopify-webhook-id")),
        ..PLAIN
    },
    Preset {
        name: "woocommerce",
        header: "x-wc-webhook-signature",
        encoding: Encoding::Base64,
        dedupe: Some(Same::Header("x-wc-webhook-delivery-id")),
        handshake: Some(Handshake::Woocommerce),
        ..PLAIN
    },
    Preset {
        name: "hubspot_v1",
        header: "x-hubspot-signature",
        algorithm: Algorithm::Sha256Plain,
        signed: "{secret}{body}",
        dedupe: Some(HUBSPOT_EVENT),
        ..PLAIN
    },
    Preset {
        name: "hubspot_v2",
        header: "x-hubspot-signature",
        algorithm: Algorithm::Sha256Plain,
        signed: "{secret}{method}{url}{body}",
        dedupe: Some(HUBSPOT_EVENT),
        ..PLAIN
    },
    Preset {
        name: "hubspot_v3",
        header: "x-hubspot-signature-v3",
        encoding: Encoding::Base64,
        signed: "{method}{url}{body}{timestamp}",
        timestamp: Some((Where::Header("x-hubspot-request-timestamp"), Unit::Ms)),
        dedupe: Some(HUBSPOT_EVENT),
        ..PLAIN
    },
    Preset {
        name: "zendesk",
        header: "x-zendesk-webhook-signature",
        encoding: Encoding::Base64,
        signed: "{timestamp}{body}",
        timestamp: Some((Where::Header("x-zendesk-webhook-signature-timestamp"), Unit::Rfc3339)),
        dedupe: Some(Same::Header("x-zendesk-webhook-invocation-id")),
        ..PLAIN
    },
    Preset {
        name: "greenhouse",
        header: "signature",
        prefix: "sha256 ",
        dedupe: Some(Same::Header("greenhouse-event-id")),
        ..PLAIN
    },
    Preset {
        name: "typeform",
        header: "typeform-signature",
        prefix: "sha256=",
        encoding: Encoding::Base64,
        dedupe: Some(Same::Body(&["event_id"])),
        ..PLAIN
    },
    Preset {
        name: "slack",
        header: "x-slack-signature",
        prefix: "v0=",
        signed: "v0:{timestamp}:{body}",
        timestamp: Some((Where::Header("x-slack-request-timestamp"), Unit::S)),
        dedupe: Some(Same::Body(&["event_id"])),
        handshake: Some(Handshake::Slack),
        ..PLAIN
    },
    Preset {
        name: "intercom",
        header: "x-hub-signature",
        prefix: "sha1=",
        algorithm: Algorithm::Sha1,
        dedupe: Some(Same::Body(&["id"])),
        ..PLAIN
    },
    Preset {
        name: "pagerduty",
        header: "x-pagerduty-signature",
        prefix: "v1=",
        separator: Some(","),
        dedupe: Some(Same::Body(&["event.id"])),
        ..PLAIN
    },
    Preset {
        name: "mailingcore",
        header: "x-mailingcore-signature",
        prefix: "v1=",
        separator: Some(","),
        signed: "{timestamp}.{body}",
        timestamp: Some((Where::Part("t="), Unit::S)),
        dedupe: Some(Same::Header("x-mailingcore-delivery-id")),
        ..PLAIN
    },
];

/// Senders that are known and not supported yet, and why.
const LATER: &[(&[&str], &str)] = &[
    (&["lever", "mailgun"], "its signature stands inside the body"),
    (&["mandrill", "twilio"], "it signs the URL and the sorted form"),
    (&["sendgrid"], "it signs with an asymmetric key (ECDSA)"),
    (&["ses", "sns", "amazon_ses"], "its signature stands inside the body and is asymmetric (RSA)"),
];

/// The preset of a name, or what to write instead.
pub fn find(name: &str) -> Result<&'static Preset, String> {
    if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) {
        return Ok(preset);
    }
    let shown = mailspan_core::clip(name, 40);
    let lower = name.to_ascii_lowercase();
    if let Some((_, why)) = LATER.iter().find(|(names, _)| names.contains(&lower.as_str())) {
        return Err(format!("`{shown}` is not supported, it comes later: {why}"));
    }
    let names = PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
    Err(format!(
        "`{shown}` is no preset: write one of {names}, or leave `preset` out and spell the scheme (`header`, `signed`, …)"
    ))
}

impl Preset {
    /// The scheme as the vendor documents it. `None` only if `signed` were not a recipe, which a test excludes.
    pub fn scheme(&self) -> Option<Scheme> {
        Some(Scheme {
            header: self.header.to_owned(),
            prefix: self.prefix.to_owned(),
            prefix_optional: false,
            separator: self.separator.map(str::to_owned),
            encoding: self.encoding,
            algorithm: self.algorithm,
            signed: pieces(self.signed).ok()?,
            timestamp: self.timestamp.map(|(place, unit)| Stamp {
                place: match place {
                    Where::Header(name) => Place::Header(name.to_owned()),
                    Where::Part(prefix) => Place::Part(prefix.to_owned()),
                },
                unit,
            }),
            id: None,
            tolerance_ms: TOLERANCE_MS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_scheme() {
        for preset in PRESETS {
            let scheme = preset.scheme().expect(preset.name);
            assert!(!scheme.header.is_empty() && scheme.header == scheme.header.to_ascii_lowercase());
            assert!(find(preset.name).is_ok());
        }
    }

    #[test]
    fn what_comes_later_is_named_so() {
        for name in ["lever", "mailgun", "sendgrid", "mandrill", "ses", "sns", "twilio", "Twilio"] {
            assert!(find(name).err().is_some_and(|text| text.contains("comes later")), "{name}");
        }
        assert!(find("strpe").err().is_some_and(|text| text.contains("stripe, github")));
    }
}

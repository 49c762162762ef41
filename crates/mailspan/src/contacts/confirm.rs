//! Double opt-in: tokens of confirmation links, and what a visit of one does.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mailspan_connectors::signature::{hmac_sha256, same, sha256};
use mailspan_core::contact::{
    Ask, CONFIRM, CONTACTS, ContactKey, ContactWrite, Permission, Stated, WriteMode,
};
use mailspan_core::limits::CONFIRM_MS_MAX;
use mailspan_core::{Address, Event, EventId, EventType, Millis, Name, RawValue, Subject};
use serde_json::json;

use crate::app::App;
use crate::contacts::door;
use crate::runtime;

/// Random bytes of a token, and of its signature.
const RANDOM_BYTES: usize = 16;
const SIGNATURE_BYTES: usize = 16;
/// What the signing key is derived for.
const LABEL: &str = "confirmation token";

/// What is asked for.
pub struct Asking<'a> {
    pub tenant: &'a Name,
    pub address: &'a Address,
    pub gives: Permission,
    pub mailing: Option<String>,
    pub source: Option<String>,
    pub page: Option<String>,
}

/// A fresh token with the event that tells whoever sends the mail. `again`: also where the contact has
/// confirmed before.
pub fn ask(app: &App, asking: Asking, now: Millis, again: bool) -> Ask {
    let token = new_token(app);
    let expires_at = now.plus(CONFIRM_MS_MAX);
    let data = json!({
        "confirm_url": format!("{}/doi/{token}", app.live().hub.server.public_url),
        "expires_at": expires_at.rfc3339(),
        "permission": asking.gives,
        "mailing": asking.mailing,
        "source": asking.source,
        "page": asking.page,
        "origin": "intake",
    });
    let data = RawValue::from_string(data.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned());
    let event = Event {
        seq: None,
        id: EventId::v7(now, runtime::random_u128()),
        tenant: asking.tenant.clone(),
        source: Name::new(CONTACTS),
        event_type: EventType::known("contact.confirmation_asked"),
        subject: Subject { address: Some(asking.address.clone()), external_id: None },
        time: now,
        received_at: now,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: data.into(),
    };
    Ask {
        token: sha256(token.as_bytes()),
        expires_at,
        gives: asking.gives,
        mailing: asking.mailing,
        again,
        event,
    }
}

/// 128 random bits and their signature: what nobody made here is turned away without a look into the store.
fn new_token(app: &App) -> String {
    let random: [u8; RANDOM_BYTES] = runtime::random_u128().to_be_bytes();
    let signature = hmac_sha256(&app.store.derived_key(LABEL), &random);
    URL_SAFE_NO_PAD.encode([&random[..], &signature[..SIGNATURE_BYTES]].concat())
}

/// What a token is known by; nothing where it was not made here.
pub fn read_token(app: &App, token: &str) -> Option<[u8; 32]> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (random, signature) = bytes.split_at_checked(RANDOM_BYTES)?;
    let wanted = hmac_sha256(&app.store.derived_key(LABEL), random);
    same(signature, &wanted[..SIGNATURE_BYTES]).then(|| sha256(token.as_bytes()))
}

/// The write that a visitor's click on the button makes.
pub fn confirmed(token: [u8; 32], gives: Permission, now: Millis) -> ContactWrite {
    let mut write =
        ContactWrite::new(ContactKey::Token(token), WriteMode::Update, door::new_uid(), now, CONFIRM);
    write.stated = vec![Stated::OptIn(Some(gives))];
    write.evidence.actor = Some("visitor".to_owned());
    write
}

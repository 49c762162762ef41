//! Events as Mailtarget posts them: generation A one by one, generation B in batches.

use aws_lc_rs::hmac;
use serde_json::{Map, Value, json};

use super::maker::{Happening, What};

/// The header that carries the signature.
pub const SIGNATURE: &str = "x-mailtarget-signature";

/// Lower-case hexadecimal HMAC-SHA256 over the raw body, keyed with the secret's UTF-8 bytes.
pub fn signature(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One event of generation A; its instant is a second.
pub fn generation_a(event: &Happening) -> Value {
    let second = mailspan_core::Millis(event.at.0.div_euclid(1_000) * 1_000);
    let mut raw = Map::new();
    let extra = [("url", &event.url), ("reason", &event.reason)];
    for (name, value) in extra {
        value.as_ref().map(|value| raw.insert(name.to_owned(), json!(value)));
    }
    if matches!(event.what, What::Open | What::Click) {
        raw.insert("userAgent".to_owned(), json!("Mozilla/5.0 (sandbox)"));
    }
    json!({
        "transmissionId": event.transmission_id,
        "messageId": event.message_id,
        "event": name_a(event.what),
        "timestamp": second.rfc3339(),
        "recipient": event.recipient,
        "campaignId": event.metadata.get("campaign_id"),
        "metadata": event.metadata,
        "raw": raw,
    })
}

/// An entry of the log of a transmission; its instant is a number of seconds. Nothing of what the log does not keep.
pub fn logged(event: &Happening) -> Option<Value> {
    let kind = match event.what {
        What::Injection | What::Delivery | What::Open | What::Click => name_a(event.what),
        What::Bounce | What::SoftBounce | What::OutOfBand => "bounce",
        What::Delay | What::Complaint | What::Unsubscribe => return None,
    };
    Some(json!({
        "type": kind,
        "recipient": event.recipient,
        "subject": event.subject,
        "friendlyFrom": event.sender,
        "reason": event.reason.clone().unwrap_or_default(),
        "url": event.url.clone().unwrap_or_default(),
        "userAgent": if matches!(event.what, What::Open | What::Click) { "Mozilla/5.0 (sandbox)" } else { "" },
        "timestamp": event.at.0.div_euclid(1_000),
    }))
}

/// A batch of generation B; its instants are milliseconds, its metadata JSON inside a string.
pub fn generation_b(batch_id: &str, retry_count: u32, events: &[Happening]) -> Value {
    let events: Vec<Value> = events.iter().map(event_b).collect();
    json!({"batchId": batch_id, "retryCount": retry_count, "events": events})
}

fn event_b(event: &Happening) -> Value {
    let domain = event.recipient.rsplit('@').next().unwrap_or("");
    let mut shown = json!({
        "status": name_b(event.what),
        "eventId": event.event_id,
        "messageId": event.message_id,
        "transmissionId": event.transmission_id,
        "subject": event.subject,
        "sender": event.sender,
        "sendingIp": "192.0.2.72",
        "recipient": event.recipient,
        "recipientMeta": Value::Object(event.metadata.clone()).to_string(),
        "mailboxProvider": "Sandbox",
        "recipientDomain": domain,
        "recipientType": event.role,
        "timestamp": event.at.0,
    });
    let extra = [
        ("targetLinkUrl", event.url.as_ref().map(|url| json!(url))),
        ("rawReason", event.reason.as_ref().map(|reason| json!(reason))),
        ("bounceClassificationCode", event.bounce_class.map(|class| json!(class))),
        ("userAgent", matches!(event.what, What::Open | What::Click).then(|| json!("Mozilla/5.0 (sandbox)"))),
    ];
    for (name, value) in extra {
        if let Some(value) = value {
            shown[name] = value;
        }
    }
    shown
}

fn name_a(what: What) -> &'static str {
    match what {
        What::Injection => "injection",
        What::Delivery => "delivery",
        What::Delay => "delay",
        What::Bounce => "bounce",
        What::SoftBounce => "soft_bounce",
        What::Open => "open",
        What::Click => "click",
        What::Complaint => "complaint",
        What::Unsubscribe => "unsubscribe",
        What::OutOfBand => "out_of_band",
    }
}

fn name_b(what: What) -> &'static str {
    match what {
        What::SoftBounce => "bounce",
        What::Complaint => "spam_complaint",
        What::Unsubscribe => "link_unsubscribe",
        other => name_a(other),
    }
}

//! Credentials, configured headers and signatures: added after planning, so no stored request holds one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mailspan_connectors::signature::{hex, hmac_sha1, hmac_sha256, standard};
use mailspan_core::{Answer, KEY, Millis, Named, Reason, Request, Secret};

use crate::hub::{Auth, Destination, Sign};

/// A shorter text would be found by chance.
const REDACT_BYTES_MIN: usize = 6;

/// The request as it leaves.
pub fn sign(destination: &Destination, mut request: Request, now: Millis) -> Result<Request, Reason> {
    for (name, value) in &destination.headers {
        set(&mut request, name, value.expose().to_owned());
    }
    if let Some(auth) = &destination.auth {
        authorize(auth, &mut request);
    }
    match &destination.sign {
        None => {}
        Some(Sign::StandardWebhooks { secrets }) => {
            let id = id_of(&request);
            let at = now.0 / 1_000;
            let signature = standard::sign(secrets, &id, at, &request.body);
            if signature.is_empty() {
                return Err(Reason::new("cannot_sign", "none of its signing secrets can sign"));
            }
            set(&mut request, "webhook-id", id);
            set(&mut request, "webhook-timestamp", at.to_string());
            set(&mut request, "webhook-signature", signature);
        }
        Some(Sign::MailingCore { secret, next, standard }) => {
            let secret = next.as_ref().filter(|(from, _)| *from <= now).map_or(secret, |(_, next)| next);
            mailingcore(&mut request, secret, *standard, now)?;
        }
        Some(Sign::Hmac { secret, header, prefix, base64, sha1, signed, timestamp_header }) => {
            let at = (now.0 / 1_000).to_string();
            let id = id_of(&request);
            let text = fill(signed, &at, &id, &request.body);
            let key = secret.secret.expose().as_bytes();
            let mac = if *sha1 { hmac_sha1(key, &text).to_vec() } else { hmac_sha256(key, &text).to_vec() };
            let mac = if *base64 { STANDARD.encode(mac) } else { hex(&mac) };
            set(&mut request, header, format!("{prefix}{mac}"));
            if let Some(name) = timestamp_header {
                set(&mut request, name, at);
            }
        }
    }
    request.headers.retain(|(name, _)| name != KEY);
    Ok(request)
}

/// `t=<seconds>,v1=<hex>` over `<seconds>.<body>`, keyed with the secret's text as it is (MailingCore, «verify
/// signature»), with the event's type and the delivery's id beside it.
fn mailingcore(request: &mut Request, secret: &Named, standard: bool, now: Millis) -> Result<(), Reason> {
    let (id, at) = (id_of(request), now.0 / 1_000);
    let text = [at.to_string().as_bytes(), b".", &request.body[..]].concat();
    let mac = hex(&hmac_sha256(secret.secret.expose().as_bytes(), &text));
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let event_type = body["type"].as_str().unwrap_or_default().to_owned();
    set(request, "x-mailingcore-signature", format!("t={at},v1={mac}"));
    set(request, "x-mailingcore-event", event_type);
    set(request, "x-mailingcore-delivery-id", id.clone());
    if standard {
        // The same secret, taken as the bytes of its text where it is no base64.
        let key = Named {
            name: secret.name.clone(),
            secret: Secret::new(format!("whsec_{}", STANDARD.encode(secret.secret.expose()))),
        };
        let signature = standard::sign(&[key], &id, at, &request.body);
        if signature.is_empty() {
            return Err(Reason::new("cannot_sign", "its secret cannot sign by Standard Webhooks"));
        }
        set(request, "webhook-id", id);
        set(request, "webhook-timestamp", at.to_string());
        set(request, "webhook-signature", signature);
    }
    Ok(())
}

/// Adds the credential.
pub fn authorize(auth: &Auth, request: &mut Request) {
    match auth {
        Auth::Bearer { token } => {
            set(request, "authorization", format!("Bearer {}", token.secret.expose()));
        }
        Auth::Basic { user, password } => {
            let both = STANDARD.encode(format!("{user}:{}", password.secret.expose()));
            set(request, "authorization", format!("Basic {both}"));
        }
        Auth::Header { name, value } => set(request, name, value.secret.expose().to_owned()),
        Auth::Key { key } => {
            set(request, "authorization", format!("Basic {}", STANDARD.encode(key.secret.expose())));
        }
    }
}

/// The name of the secret in it.
pub fn name_of(auth: &Auth) -> &str {
    match auth {
        Auth::Bearer { token: named }
        | Auth::Basic { password: named, .. }
        | Auth::Header { value: named, .. }
        | Auth::Key { key: named } => &named.name,
    }
}

/// Names of the headers that [`sign`] sets, in lower case, with what may be shown of each.
pub fn added(destination: &Destination) -> Vec<(String, String)> {
    let mut added = Vec::new();
    let mut add = |name: &str, shown: String| added.push((name.to_ascii_lowercase(), shown));
    for (name, _) in &destination.headers {
        add(name, "[cut out]".to_owned());
    }
    match &destination.auth {
        None => {}
        Some(Auth::Bearer { token }) => add("authorization", format!("Bearer [{}]", token.name)),
        Some(Auth::Basic { user, password }) => {
            add("authorization", format!("Basic [{user}:{}]", password.name));
        }
        Some(Auth::Header { name, value }) => add(name, format!("[{}]", value.name)),
        Some(Auth::Key { key }) => add("authorization", format!("Basic [{}]", key.name)),
    }
    match &destination.sign {
        None => {}
        Some(Sign::StandardWebhooks { secrets }) => {
            let names: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
            add("webhook-id", "[the idempotency key]".to_owned());
            add("webhook-timestamp", "[time of sending]".to_owned());
            add("webhook-signature", format!("[signed with {}]", names.join(", ")));
        }
        Some(Sign::MailingCore { secret, .. }) => {
            add("x-mailingcore-signature", format!("[signed with {}]", secret.name));
        }
        Some(Sign::Hmac { secret, header, timestamp_header, .. }) => {
            add(header, format!("[signed with {}]", secret.name));
            if let Some(name) = timestamp_header {
                add(name, "[time of sending]".to_owned());
            }
        }
    }
    added
}

/// Takes the destination's own credentials out of what it answered: some receivers echo what they got, and
/// answers are kept and shown.
pub fn redact(destination: &Destination, answer: &mut Answer) {
    let headers = destination.headers.iter().map(|(name, value)| (value.expose(), name.as_str()));
    cut_out(headers.collect(), destination.auth.as_ref(), answer);
}

/// The same for a source that is asked.
pub fn redact_auth(auth: &Auth, answer: &mut Answer) {
    cut_out(Vec::new(), Some(auth), answer);
}

fn cut_out(headers: Vec<(&str, &str)>, auth: Option<&Auth>, answer: &mut Answer) {
    let basic = match auth {
        Some(Auth::Basic { user, password }) => {
            Some(STANDARD.encode(format!("{user}:{}", password.secret.expose())))
        }
        Some(Auth::Key { key }) => Some(STANDARD.encode(key.secret.expose())),
        _ => None,
    };
    let mut secrets = headers;
    match auth {
        Some(
            Auth::Bearer { token: named }
            | Auth::Basic { password: named, .. }
            | Auth::Header { value: named, .. }
            | Auth::Key { key: named },
        ) => {
            secrets.push((named.secret.expose(), &named.name));
        }
        None => {}
    }
    secrets.extend(basic.as_deref().map(|both| (both, "authorization")));
    for (secret, name) in secrets.into_iter().filter(|(secret, _)| secret.len() >= REDACT_BYTES_MIN) {
        let found = answer.body.windows(secret.len()).any(|window| window == secret.as_bytes());
        if found {
            let text = String::from_utf8_lossy(&answer.body).replace(secret, &format!("[{name}]"));
            answer.body = text.into_bytes();
        }
    }
}

/// The id that is the same for every attempt: the idempotency key that the connector planned.
fn id_of(request: &Request) -> String {
    let under = |wanted: &str| request.headers.iter().find(|(name, _)| name == wanted);
    under(KEY).or_else(|| under("idempotency-key")).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn set(request: &mut Request, name: &str, value: String) {
    let name = name.to_ascii_lowercase();
    request.headers.retain(|(other, _)| *other != name);
    request.headers.push((name, value));
}

/// Fills `{timestamp}`, `{id}` and `{body}` of a recipe; the body's bytes are taken as they are.
fn fill(recipe: &str, timestamp: &str, id: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(recipe.len() + body.len());
    let mut rest = recipe;
    while let Some(open) = rest.find('{') {
        out.extend_from_slice(&rest.as_bytes()[..open]);
        rest = &rest[open..];
        let (name, after) = match rest.find('}') {
            Some(close) => (&rest[1..close], &rest[close + 1..]),
            None => break,
        };
        match name {
            "timestamp" => out.extend_from_slice(timestamp.as_bytes()),
            "id" => out.extend_from_slice(id.as_bytes()),
            "body" => out.extend_from_slice(body),
            _ => out.extend_from_slice(&rest.as_bytes()[..name.len() + 2]),
        }
        rest = after;
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_recipe_is_filled() {
        assert_eq!(super::fill("{timestamp}.{body}", "17", "k", b"{}"), b"17.{}");
        assert_eq!(super::fill("v0:{id}:{x}{", "17", "k", b""), b"v0:k:{x}{");
    }
}

//! Reads what MailingCore answers: errors in both dialects, limits, a contact. Every field may be missing.

use mailspan_core::{Answer, Millis, clip};
use serde_json::Value;

use crate::contract::{Left, retry_after};

/// An error: `{statusCode, message, path, timestamp}` as documented, or `type`, `title`, `detail`, `status` as
/// the public SDK reads them. Texts may be in any language, so none is matched.
#[derive(Debug, Default)]
pub struct Fault {
    pub text: String,
    /// The monthly quota is used up.
    pub quota: bool,
    /// False where the body is no error of MailingCore (a proxy's page, nothing at all).
    pub is_envelope: bool,
}

impl Fault {
    pub fn of(answer: &Answer) -> Fault {
        let Ok(body) = serde_json::from_slice::<Value>(&answer.body) else { return Fault::default() };
        let names = ["message", "detail", "title", "error"];
        let mut text = names.iter().find_map(|name| said(body.get(*name)?)).unwrap_or_default();
        if let Some(more) = body.get("errors").and_then(said)
            && !text.contains(&more)
        {
            text = if text.is_empty() { more } else { format!("{text} ({more})") };
        }
        let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
        Fault {
            text,
            quota: body.get("quota").is_some() || kind.contains("quota"),
            is_envelope: ["statusCode", "message", "detail", "title", "status"]
                .iter()
                .any(|name| body.get(*name).is_some()),
        }
    }

    /// `HTTP 409: externalId conflict with another contact`.
    pub fn shown(&self, answer: &Answer) -> String {
        let text = match self.text.is_empty() {
            true => String::from_utf8_lossy(&answer.body).into_owned(),
            false => self.text.clone(),
        };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match text.is_empty() {
            true => format!("HTTP {}, no reason given", answer.status),
            false => format!("HTTP {}: {}", answer.status, clip(&text, 400)),
        }
    }
}

/// A text, or the texts of a list.
pub fn said(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Value::Array(items) => {
            let texts: Vec<String> = items.iter().filter_map(said).take(10).collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        }
        Value::Object(members) => members.get("message").and_then(said),
        _ => None,
    }
}

/// The contact in an answer, which may stand under `data`.
pub fn contact(answer: &Answer) -> Option<Value> {
    let mut body: Value = serde_json::from_slice(&answer.body).ok()?;
    let inner = body.get_mut("data").filter(|inner| inner.is_object()).map(Value::take);
    Some(inner.unwrap_or(body)).filter(Value::is_object)
}

/// How long a 429 asks to wait: `Retry-After`, else `X-RateLimit-Reset` (seconds since 1970).
pub fn wait(answer: &Answer) -> Option<u64> {
    retry_after(answer).or_else(|| Some(reset(answer)?.since(answer.at)))
}

/// What MailingCore says is left of its limit.
pub fn left(answer: &Answer) -> Option<Left> {
    let requests = answer.header("x-ratelimit-remaining")?.trim().parse().ok()?;
    Some(Left { requests, until: reset(answer)? })
}

fn reset(answer: &Answer) -> Option<Millis> {
    let seconds: i64 =
        answer.header("x-ratelimit-reset")?.trim().parse().ok().filter(|seconds| *seconds > 0)?;
    Some(Millis(seconds.saturating_mul(1_000)))
}

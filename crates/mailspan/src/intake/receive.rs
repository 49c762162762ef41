//! From a raw request to what is kept: verify, parse, keys, pack. Pure.

use mailspan_connectors::api::event_from_json;
use mailspan_connectors::contract::{Arrival, BadBody, Dedupe, Parsed, Refusal, Unreadable, Verified};
use mailspan_connectors::signature::{digest, same};
use mailspan_core::limits::{EVENT_DATA_BYTES_MAX, EVENTS_PER_REQUEST_MAX};
use mailspan_core::{Digest, Event, EventId, Millis, RawRequest, Reason};
use mailspan_store::{Arrived, Cut, Receipt, Unread};

use crate::contacts::door;
use crate::http::limit::{self, BodyTrouble};
use crate::hub::{Access, Source};

/// What a request became.
pub enum Received {
    Receipt(Box<Receipt>),
    /// It was one, and nothing is kept of it.
    Handshake,
}

/// Whose request it is.
pub enum Admitted {
    By { credential: String },
    Handshake { status: u16, content_type: &'static str, body: String },
}

/// Why nothing is kept of it.
#[derive(Debug)]
pub enum NotReceived {
    /// 401, without detail to the caller.
    Refused(Refusal),
    /// 400, with this text.
    BadBody(String),
    /// Too large when unpacked, or in an unknown encoding.
    Body(BodyTrouble),
}

/// Both steps of receiving: [`admit`], then [`read`].
pub fn receive(
    source: &Source,
    request: &RawRequest,
    credential: Option<&str>,
    body_bytes_max: usize,
    now: Millis,
    ids: &mut dyn FnMut() -> EventId,
) -> Result<Received, NotReceived> {
    let credential = match credential {
        Some(key) => key.to_owned(),
        None => match admit(source, request, now)? {
            Admitted::By { credential } => credential,
            Admitted::Handshake { .. } => return Ok(Received::Handshake),
        },
    };
    read(source, request, credential, body_bytes_max, ids).map(Received::Receipt)
}

/// Who sent it, before anything of it is read: cheap, as strangers ask for it.
pub fn admit(source: &Source, request: &RawRequest, now: Millis) -> Result<Admitted, NotReceived> {
    match verify(source, request, now)? {
        Verified::By { credential } => Ok(Admitted::By { credential }),
        Verified::Refused(refusal) => Err(NotReceived::Refused(refusal)),
        Verified::Handshake { status, content_type, body } => {
            Ok(Admitted::Handshake { status, content_type, body })
        }
    }
}

/// The events of a request that was admitted by `credential` (for kind `api` the key). The source's program runs
/// here: not on a thread that serves requests. `body_bytes_max` holds for what a packed body unpacks to.
pub fn read(
    source: &Source,
    request: &RawRequest,
    credential: String,
    body_bytes_max: usize,
    ids: &mut dyn FnMut() -> EventId,
) -> Result<Box<Receipt>, NotReceived> {
    let parsed = match request.header("content-encoding") {
        // The signature was over the bytes as they came; what is read is what they hold.
        Some(encoding) => inflated(source, request, encoding, body_bytes_max)?,
        _ => parse(source, request).map_err(bad_body)?,
    };
    if parsed.arrivals.len() + parsed.unreadable.len() > EVENTS_PER_REQUEST_MAX {
        let text = format!("more than {EVENTS_PER_REQUEST_MAX} events in one request: send several");
        return Err(NotReceived::BadBody(text));
    }
    if let ([only], true) = (&parsed.arrivals[..], source.kind.name == "api" && parsed.unreadable.is_empty())
        && is_reserved(only)
    {
        return Err(NotReceived::BadBody(format!("field \"type\": {RESERVED}")));
    }
    let body_digest = digest(&request.body);
    let (arrivals, unreadable) = arrived_all(source, parsed, body_digest, request.received_at, ids);
    Ok(Box::new(Receipt {
        tenant: source.tenant.clone(),
        source: source.name.clone(),
        received_at: request.received_at,
        digest: body_digest,
        packed: Some(mailspan_store::pack_request(request, &cuts(source, &credential))),
        credential,
        arrivals,
        unreadable,
        idempotency: None,
        round: None,
        say: Vec::new(),
    }))
}

/// The events of what was parsed, and what is put aside of it.
pub fn arrived_all(
    source: &Source,
    parsed: Parsed,
    body_digest: Digest,
    received_at: Millis,
    ids: &mut dyn FnMut() -> EventId,
) -> (Vec<Arrived>, Vec<Unread>) {
    let mut unreadable: Vec<Unread> = parsed.unreadable.into_iter().map(unread).collect();
    let mut arrivals = Vec::with_capacity(parsed.arrivals.len());
    for arrival in parsed.arrivals {
        if is_reserved(&arrival) {
            let part = u32::try_from(arrival.part).unwrap_or(u32::MAX);
            let raw = mailspan_core::clip(arrival.data.get(), 4_096).into_owned();
            unreadable.push(Unread { part, reason: Reason::new("reserved_type", RESERVED), raw });
            continue;
        }
        if arrival.data.get().len() > EVENT_DATA_BYTES_MAX {
            let text = format!("the event's data has more than {EVENT_DATA_BYTES_MAX} bytes");
            let raw = mailspan_core::clip(arrival.data.get(), 4_096).into_owned();
            let part = u32::try_from(arrival.part).unwrap_or(u32::MAX);
            unreadable.push(Unread { part, reason: Reason::new("too_large", text), raw });
            continue;
        }
        arrivals.push(arrived(source, arrival, body_digest, received_at, ids()));
    }
    (arrivals, unreadable)
}

const RESERVED: &str = "types of the family `system` are the hub's own: name the event otherwise";

fn is_reserved(arrival: &Arrival) -> bool {
    arrival.event_type.as_str().starts_with("system.")
}

fn bad_body(bad: BadBody) -> NotReceived {
    NotReceived::BadBody(bad.text)
}

fn inflated(
    source: &Source,
    request: &RawRequest,
    encoding: &str,
    max: usize,
) -> Result<Parsed, NotReceived> {
    let body = limit::inflate(&request.body, encoding, max).map_err(NotReceived::Body)?;
    parse(source, &RawRequest { body, ..request.clone() }).map_err(bad_body)
}

/// Access (Basic, Bearer, secret path) first, then the signature where secrets are set.
fn verify(source: &Source, request: &RawRequest, now: Millis) -> Result<Verified, NotReceived> {
    let by_access = match &source.access {
        Some(access) => Some(check_access(access, source, request).map_err(NotReceived::Refused)?),
        None => None,
    };
    match by_access {
        Some(credential) if source.secrets.is_empty() => Ok(Verified::By { credential }),
        _ => Ok(source.logic.verify(request, &source.secrets, now, false)),
    }
}

/// What follows the name of a scheme, which has no case (RFC 9110, 11.1).
fn credential<'a>(value: &'a str, scheme: &str) -> Option<&'a str> {
    let (given, rest) = value.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then_some(rest)
}

fn check_access(access: &Access, source: &Source, request: &RawRequest) -> Result<String, Refusal> {
    let refusal = |check, text: &str| Refusal { check, text: text.to_owned(), hint: None };
    let authorization = request.header("authorization");
    match access {
        Access::Basic { user, password } => {
            use base64::Engine;
            let given = authorization
                .and_then(|value| credential(value, "basic"))
                .ok_or_else(|| refusal("no_credential", "the request has no Basic credential"))?;
            let wanted = format!("{user}:{}", password.secret.expose());
            let given = base64::engine::general_purpose::STANDARD.decode(given.trim()).unwrap_or_default();
            let fits = same(&given, wanted.as_bytes());
            fits.then(|| password.name.clone()).ok_or_else(|| {
                refusal("wrong_credential", "user or password of the Basic credential is another")
            })
        }
        Access::Bearer { token } => {
            let given = authorization
                .and_then(|value| credential(value, "bearer"))
                .ok_or_else(|| refusal("no_credential", "the request has no bearer token"))?;
            let fits = same(given.trim().as_bytes(), token.secret.expose().as_bytes());
            fits.then(|| token.name.clone())
                .ok_or_else(|| refusal("wrong_credential", "the bearer token is another"))
        }
        Access::Path { secret } => {
            let given = request
                .path
                .strip_prefix(&source.path)
                .and_then(|rest| rest.strip_prefix('/'))
                .unwrap_or_default();
            let fits = same(given.as_bytes(), secret.secret.expose().as_bytes());
            fits.then(|| secret.name.clone())
                .ok_or_else(|| refusal("wrong_path", "the last segment of the path is not the secret"))
        }
    }
}

/// What proves the sender is replaced in the stored request by the name of what matched.
fn cuts(source: &Source, credential: &str) -> Vec<Cut> {
    let mut cuts = credential_cuts(source, credential);
    cuts.push(door::without_idempotency_key());
    cuts
}

fn credential_cuts(source: &Source, credential: &str) -> Vec<Cut> {
    match &source.access {
        Some(Access::Path { secret }) => {
            vec![Cut::Text { text: secret.secret.clone(), by: credential.to_owned() }]
        }
        Some(Access::Basic { password: named, .. } | Access::Bearer { token: named }) => {
            vec![Cut::Header { name: "authorization".to_owned(), by: named.name.clone() }]
        }
        None => vec![Cut::Header { name: "authorization".to_owned(), by: credential.to_owned() }],
    }
}

fn parse(source: &Source, request: &RawRequest) -> Result<Parsed, BadBody> {
    let Some(program) = &source.parse else {
        return source.logic.parse(request);
    };
    if request.body.is_empty() {
        return Err(BadBody { text: "the body is empty".to_owned() });
    }
    let json = request.header("content-type").is_none_or(|kind| kind.contains("json"));
    if json && let Err(error) = mailspan_core::json::parse(&request.body) {
        return Err(BadBody { text: format!("the body is not JSON: {error}") });
    }
    let mut parsed = Parsed::default();
    let made = match program.parse(request) {
        Ok(made) => made,
        Err(reason) => {
            let raw = String::from_utf8_lossy(&request.body).into_owned();
            parsed.unreadable.push(Unreadable { part: 0, reason, raw });
            return Ok(parsed);
        }
    };
    let request_id = source.logic.request_id(request);
    let several = made.len() > 1;
    for (part, text) in made.iter().enumerate() {
        let dedupe = match &request_id {
            Some(id) if several => Dedupe::Id(format!("{id}\0{part}")),
            Some(id) => Dedupe::Id(id.clone()),
            None => Dedupe::Body,
        };
        match event_from_json(text, part, dedupe) {
            Ok(arrival) => parsed.arrivals.push(arrival),
            // Its own text: the whole body once an element would be the body's size squared.
            Err(reason) => parsed.unreadable.push(Unreadable { part, reason, raw: text.clone() }),
        }
    }
    Ok(parsed)
}

fn unread(unreadable: Unreadable) -> Unread {
    let part = u32::try_from(unreadable.part).unwrap_or(u32::MAX);
    Unread { part, reason: unreadable.reason, raw: unreadable.raw }
}

fn arrived(source: &Source, arrival: Arrival, body: Digest, received_at: Millis, id: EventId) -> Arrived {
    let part = u32::try_from(arrival.part).unwrap_or(u32::MAX);
    let dedupe = dedupe_digest(&arrival.dedupe, body, part, arrival.test);
    let event = Event {
        seq: None,
        id,
        tenant: source.tenant.clone(),
        source: source.name.clone(),
        event_type: arrival.event_type,
        subject: arrival.subject,
        time: arrival.time.unwrap_or(received_at),
        received_at,
        test: arrival.test,
        transmission: arrival.transmission,
        recipient_role: arrival.recipient_role,
        data: arrival.data.into(),
        extensions: arrival.extensions.map(Into::into),
    };
    Arrived { event, part, dedupe, contact: None }
}

/// The parts are told apart by their lengths, so `["ab","c"]` is not `["a","bc"]`.
fn dedupe_digest(dedupe: &Dedupe, body: Digest, part: u32, test: bool) -> Option<Digest> {
    let mut bytes = Vec::with_capacity(64);
    if test {
        // A provider's sample never stands in the way of a real event with its ids.
        bytes.push(b't');
    }
    match dedupe {
        Dedupe::Never => return None,
        Dedupe::Id(id) => {
            bytes.push(b'i');
            bytes.extend_from_slice(id.as_bytes());
        }
        Dedupe::Fields(fields) => {
            bytes.push(b'f');
            for field in fields {
                bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
                bytes.extend_from_slice(field.as_bytes());
            }
        }
        Dedupe::Body => {
            bytes.push(b'b');
            bytes.extend_from_slice(&body.0);
            bytes.extend_from_slice(&part.to_be_bytes());
        }
    }
    Some(digest(&bytes))
}

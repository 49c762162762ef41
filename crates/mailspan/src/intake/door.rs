//! The shell of receiving: keeps what was received and answers the sender.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mailspan_connectors::contract::{Refusal, Verified};
use mailspan_connectors::signature::digest;
use mailspan_core::contact::{ContactWrite, Mirror, concerns_contacts, read_event};
use mailspan_core::limits::REFUSED_BODY_BYTES_MAX;
use mailspan_core::{Digest, Event, EventId, RawRequest, Reason, clip};
use mailspan_store::{
    Accepted, Arrived, FieldRow, Idempotency, Receipt, RefusedRequest, Trouble, Unread, Write, Wrote,
};

use crate::app::{App, Live};
use crate::begun::to_its_end;
use crate::contacts::{door, rules};
use crate::drill;
use crate::http::intake::body_problem;
use crate::http::problem::Problem;
use crate::hub::{Destination, Source};
use crate::intake::receive::{Admitted, NotReceived, admit, read};
use crate::intake::system;
use crate::runtime;
use crate::turns::NoTurn;

/// Of what was left out of a contact: enough to see what is wrong.
const LEFT_OUT_CHARS_MAX: usize = 800;

/// An API key that was checked, for kind `api`.
pub struct Caller {
    pub key_id: i64,
    pub name: String,
    pub idempotency_key: Option<String>,
}

/// What the sender gets.
pub enum Entered {
    Accepted { accepted: Accepted, again: bool },
    Other(Response),
}

/// One request at a source, whole: size was checked before, the answer comes after the commit.
/// `peer` is shown to the operator where the request is refused.
pub async fn enter(
    app: &App,
    source: &Arc<Source>,
    request: RawRequest,
    peer: Option<IpAddr>,
    caller: Option<Caller>,
) -> Entered {
    let began = runtime::instant();
    let now = request.received_at;
    let admitted = match &caller {
        Some(caller) => Ok(Admitted::By { credential: caller.name.clone() }),
        None => admit(source, &request, now),
    };
    let read = match admitted {
        Ok(Admitted::By { credential }) => read_events(app, source, &request, credential).await,
        Ok(Admitted::Handshake { status, content_type, body }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            let headers = [(header::CONTENT_TYPE, content_type), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
            return Entered::Other((status, headers, body).into_response());
        }
        Err(NotReceived::Refused(refusal)) => {
            return Entered::Other(refuse(app, source, request, peer, refusal).await);
        }
        Err(other) => Err(not_read(app, source, other)),
    };
    let mut receipt = match read {
        Ok(receipt) => receipt,
        Err(problem) => return Entered::Other(problem.into_response()),
    };
    if let Err(trouble) = read_contacts(app, &mut receipt).await {
        return Entered::Other(Problem::from(trouble).into_response());
    }
    if let Some(Caller { key_id, idempotency_key: Some(key), .. }) = caller {
        receipt.idempotency =
            Some(Idempotency { api_key: key_id, key, body: whole_digest(&request), tell: None });
    }
    let entered = keep_of(app, source, receipt).await;
    app.metrics.acknowledged(began.elapsed());
    match entered {
        Ok((accepted, again)) => {
            app.metrics.accepted(&source.name, &accepted);
            Entered::Accepted { accepted, again }
        }
        Err(trouble) => Entered::Other(Problem::from(trouble).into_response()),
    }
}

/// What a source told is kept, with what the hub says of it itself.
pub async fn keep_of(
    app: &App,
    source: &Source,
    mut receipt: Box<Receipt>,
) -> Result<(Accepted, bool), Trouble> {
    let complaints = complaints(source, &receipt);
    let live = app.live();
    let said = |id: &EventId| Some((*id, system::of_complaint(&live, source, *id)?));
    receipt.say = complaints.iter().filter_map(said).collect();
    if complaints.is_empty() {
        return keep(app, receipt).await;
    }
    // The operator hears of it though the sender goes away.
    let (own, source) = (app.clone(), source.name.clone());
    to_its_end(async move {
        let kept = keep(&own, receipt).await;
        if let Ok((accepted, false)) = &kept {
            for event in complaints.iter().filter(|id| accepted.ids.contains(id)) {
                tracing::warn!(
                    %source, %event,
                    "a recipient complained of spam: mailspan events show {event}"
                );
            }
        }
        kept
    })
    .await
}

/// A source's own program takes its turn, on a thread that serves no requests: neither another source nor anything
/// else waits for it.
async fn read_events(
    app: &App,
    source: &Arc<Source>,
    request: &RawRequest,
    credential: String,
) -> Result<Box<Receipt>, Problem> {
    let now = request.received_at;
    let mut ids = move || EventId::v7(now, runtime::random_u128());
    let body_bytes_max = app.live().hub.server.body_bytes_max;
    let received = if source.parse.is_none() {
        read(source, request, credential, body_bytes_max, &mut ids)
    } else {
        let (of, request) = (source.clone(), request.clone());
        let work = move || read(&of, &request, credential, body_bytes_max, &mut ids);
        app.turns.parse(&source.name, work).await.map_err(|none| no_turn(app, source, none))?
    };
    received.map_err(|other| not_read(app, source, other))
}

fn no_turn(app: &App, source: &Source, none: NoTurn) -> Problem {
    match none {
        NoTurn::Busy => {
            app.metrics.intake(&source.name, "busy", 1);
            let detail = "the program that reads these requests is busy with earlier ones: come again";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail)
        }
        NoTurn::Broke => {
            tracing::error!(source = %source.name, "a request broke what reads it: nothing of it is kept");
            let detail = "the request could not be read, and nothing of it is kept";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not_read", detail)
        }
    }
}

fn not_read(app: &App, source: &Source, why: NotReceived) -> Problem {
    match why {
        NotReceived::BadBody(text) => {
            app.metrics.intake(&source.name, "bad_body", 1);
            Problem::new(StatusCode::BAD_REQUEST, "bad_body", text)
        }
        NotReceived::Body(trouble) => body_problem(trouble, app.live().hub.server.body_bytes_max),
        NotReceived::Refused(_) => {
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "the request is not authenticated")
        }
    }
}

/// Of a mailing platform whose complaints somebody has to look at: enough of them, and it stops sending.
fn complaints(source: &Source, receipt: &Receipt) -> Vec<EventId> {
    if source.kind.name != "mailingcore" {
        return Vec::new();
    }
    let is_one = |event: &&Event| !event.test && event.event_type.as_str() == "email.complained";
    receipt.arrivals.iter().map(|arrived| &arrived.event).filter(is_one).map(|event| event.id).collect()
}

/// What the events say of contacts is written with them. What no other door would let in is left out of the contact,
/// and named beside the event, which is kept as it came.
pub async fn read_contacts(app: &App, receipt: &mut Receipt) -> Result<(), Trouble> {
    let mut declared: Option<Vec<FieldRow>> = None;
    for arrived in &mut receipt.arrivals {
        if !concerns_contacts(&arrived.event.event_type) {
            continue;
        }
        let settings = app.tenants.settings(&app.store, &receipt.tenant).await?;
        let write = read_event(&arrived.event, door::new_uid(), settings.bounces_suppress);
        let Some(mut write) = write else { continue };
        if declared.is_none() && !write.custom.is_empty() {
            declared = Some(app.store.field_kinds(&receipt.tenant).await?);
        }
        write.evidence.actor = Some(receipt.credential.clone());
        let data = arrived.event.data.get();
        let wrong = rules::screen(&mut write, data, declared.as_deref().unwrap_or_default());
        if !wrong.is_empty() {
            receipt.unreadable.push(left_out(arrived, &wrong));
        }
        let found = receipt.round.is_some();
        let mirror = mirror(&app.live(), &arrived.event);
        arrived.contact = Some(Box::new(ContactWrite { found, mirror, ..write }));
    }
    Ok(())
}

fn left_out(arrived: &Arrived, wrong: &[String]) -> Unread {
    let text = format!(
        "event {} is kept; left out of its contact: {}",
        arrived.event.id,
        clip(&wrong.join("; "), LEFT_OUT_CHARS_MAX)
    );
    let raw = clip(arrived.event.data.get(), 4_096).into_owned();
    Unread { part: arrived.part, reason: Reason::new("contact_fields", text), raw }
}

/// Where the source is an account that the hub writes to as well, and the event is not the person's own word: what
/// MailingCore's webhook says was done on its page or with one click is that, whoever had written there before.
pub fn mirror(live: &Live, event: &Event) -> Option<Mirror> {
    let is_same = |one: &Destination| one.tenant == event.tenant && one.echo_of.contains(&event.source);
    let destinations: Vec<_> =
        live.destinations.iter().filter(|(_, one)| is_same(one)).map(|(id, _)| *id).collect();
    if destinations.is_empty() {
        return None;
    }
    let data: serde_json::Value = serde_json::from_str(event.data.get()).unwrap_or_default();
    let is = |name: &str, word: &str| data[name].as_str() == Some(word);
    let own_word = is("reason", "hosted_page") || is("reason", "one_click");
    let repeats = is("reason", "api") || is("kind", "poll");
    (!own_word).then_some(Mirror { destinations, repeats })
}

/// Of all that makes the events: in binary CloudEvents the headers are half of them.
fn whole_digest(request: &RawRequest) -> Digest {
    let mut bytes = Vec::with_capacity(request.body.len() + 256);
    for (name, value) in &request.headers {
        if name == "content-type" || name == "content-encoding" || name.starts_with("ce-") {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
            // `application/json; charset=utf-8` says no more than `application/json`.
            let kind = name == "content-type";
            let value = if kind { value.split(|b| *b == b';').next().unwrap_or_default() } else { value };
            bytes.extend_from_slice(value.trim_ascii());
            bytes.push(0);
        }
    }
    bytes.extend_from_slice(&request.body);
    digest(&bytes)
}

/// Everything enters by this one function: what was received is committed, and the router is woken. Both happen
/// though the sender goes away meanwhile, and this future with it: a write that was begun is brought to its end.
pub async fn keep(app: &App, receipt: Box<Receipt>) -> Result<(Accepted, bool), Trouble> {
    let (own, erases) = (app.clone(), receipt.arrivals.iter().any(erases));
    drill::point("accept-before-commit");
    let write = async move {
        let wrote = drill::begun("accept-in-commit", own.store.write(Write::Accept(receipt))).await;
        kept(&own, wrote, erases)
    };
    to_its_end(write).await
}

fn erases(arrived: &Arrived) -> bool {
    arrived.contact.as_ref().is_some_and(|write| write.erase)
}

fn kept(app: &App, wrote: Result<Wrote, Trouble>, erases: bool) -> Result<(Accepted, bool), Trouble> {
    let broken_at = if matches!(wrote, Err(Trouble::Broken(_))) { runtime::now().0 } else { 0 };
    app.broken_at.store(broken_at, Ordering::Relaxed);
    let Wrote::Accepted { accepted, again } = wrote? else {
        return Err(Trouble::Broken("the store gave another answer than to an accept".to_owned()));
    };
    drill::point("accept-after-commit");
    if !accepted.ids.is_empty() && !again {
        app.route_wake.notify_one();
    }
    if erases {
        app.erase_wake.notify_one();
    }
    Ok((accepted, again))
}

/// 401 without detail; the operator finds the reason under `refused`. Of a flood some are explained and
/// kept, all are counted: who cannot sign must not cost more than who can.
async fn refuse(
    app: &App,
    source: &Arc<Source>,
    request: RawRequest,
    peer: Option<IpAddr>,
    refusal: Refusal,
) -> Response {
    app.metrics.intake(&source.name, "refused", 1);
    if app.refusals.take(&source.name, request.received_at) {
        let (logic, raw) = (source.clone(), request.clone());
        let explain = move || logic.logic.verify(&raw, &logic.secrets, raw.received_at, true);
        let explained = match runtime::blocking(explain).await {
            // The access check refuses where the signature may be right.
            Some(Verified::Refused(explained)) if explained.check == refusal.check => explained,
            _ => refusal,
        };
        keep_refused(app, source, &request, peer, explained).await;
    }
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "the request is not authenticated").into_response()
}

async fn keep_refused(
    app: &App,
    source: &Source,
    request: &RawRequest,
    peer: Option<IpAddr>,
    refusal: Refusal,
) {
    let from = peer.map(|peer| peer.to_string()).unwrap_or_default();
    tracing::warn!(source = %source.name, from, check = refusal.check, hint = refusal.hint, "request refused: {}", refusal.text);
    let write = Write::Refused(Box::new(RefusedRequest {
        tenant: source.tenant.clone(),
        source: source.name.clone(),
        at: request.received_at,
        check: refusal.check.to_owned(),
        text: if from.is_empty() { refusal.text } else { format!("{} (from {from})", refusal.text) },
        hint: refusal.hint,
        headers: shown_headers(request),
        body: request.body.slice(..request.body.len().min(REFUSED_BODY_BYTES_MAX)),
    }));
    // The answer is the same whether the note could be kept: a stranger learns nothing of our disk.
    if let Err(trouble) = app.store.write(write).await {
        tracing::warn!("a refused request could not be kept for the operator: {trouble}");
    }
}

/// Headers as received, credentials cut out.
fn shown_headers(request: &RawRequest) -> Vec<(String, String)> {
    let secret = ["authorization", "cookie", "proxy-authorization", "x-api-key"];
    let show = |(name, value): &(String, Vec<u8>)| {
        let value = if secret.contains(&name.as_str()) {
            "[cut out]".to_owned()
        } else {
            String::from_utf8_lossy(value).into_owned()
        };
        (name.clone(), value)
    };
    request.headers.iter().map(show).collect()
}

/// The body of a 200 or 202: counts, the ids of what was accepted, and what `?wait=` waited for.
#[derive(serde::Serialize)]
pub struct AnswerBody<'a> {
    accepted: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<serde_json::Value>,
    duplicates: u64,
    ids: &'a [EventId],
    quarantined: u64,
}

pub fn answer_body(accepted: &Accepted) -> AnswerBody<'_> {
    AnswerBody {
        accepted: accepted.ids.len(),
        deliveries: None,
        duplicates: accepted.duplicates,
        ids: &accepted.ids,
        quarantined: accepted.quarantined,
    }
}

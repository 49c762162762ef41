//! From a case to the requests that it makes: parse → route → map → plan → judge, without a store
//! or a network; the vendors are the sandbox's.

use std::sync::Arc;

use mailspan_connectors::contract::{Item, Known, Plan};
use mailspan_connectors::registry::kind;
use mailspan_core::json;
use mailspan_core::limits::BODY_BYTES_MAX;
use mailspan_core::{
    Answer, Event, EventId, LastTimes, Millis, Name, Operation, Part, Person, PersonId, RawRequest, Reason,
    Request, Step, Verdict,
};
use mailspan_store::{Arrived, Claim};
use serde_json::value::RawValue;

use super::vendor::Vendor;
use super::{Case, Made};
use crate::app::Live;
use crate::deliver::claim;
use crate::hub::{Destination, OWN_SOURCES, Route, Source};
use crate::intake::receive::{NotReceived, Received, receive};
use crate::route;

/// How deep a body stands in a file of cases.
const BODY_DEPTH: usize = 4;
/// When every case happens, so that what is expected stays the same: 2026-01-01T00:00:00Z.
const NOW: Millis = Millis(1_767_225_600_000);
/// Requests of one operation: more is a loop in a connector.
const EXCHANGES_MAX: usize = 16;

/// What the case's body makes, in the order made; an error where it cannot be read.
pub async fn requests(live: &Live, case: &Case) -> Result<Vec<Made>, String> {
    let own = own(&case.source);
    let source = live.hub.source(&case.source).map(Arc::as_ref).or(own.as_ref());
    let source = source.ok_or_else(|| format!("the configuration has no source `{}`", case.source))?;
    let mut headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
    headers
        .extend(case.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone().into_bytes())));
    let raw = RawRequest {
        method: "POST".to_owned(),
        url: format!("{}{}", live.hub.server.public_url, source.path),
        path: source.path.clone(),
        query: String::new(),
        headers,
        body: case.body.get().to_owned().into(),
        received_at: NOW,
    };
    let mut n = 0u128;
    let mut ids = || {
        n += 1;
        EventId::v7(NOW, n)
    };
    let received = receive(source, &raw, Some("case"), BODY_BYTES_MAX, NOW, &mut ids);
    let receipt = match received {
        Ok(Received::Receipt(receipt)) => receipt,
        Ok(Received::Handshake) => return Ok(Vec::new()),
        Err(NotReceived::BadBody(text)) => return Err(text),
        Err(other) => return Err(format!("{other:?}")),
    };
    if let Some(unread) = receipt.unreadable.first() {
        return Err(format!("element {} cannot be read: {}", unread.part, unread.reason.text));
    }
    let mut made = Vec::new();
    for Arrived { event, .. } in receipt.arrivals {
        of_event(live, case, event, &mut made).await?;
    }
    Ok(made)
}

/// What the hub says itself, written as `POST /v1/events` takes it.
fn own(name: &str) -> Option<Source> {
    let kind = OWN_SOURCES.contains(&name).then(|| kind("api")).flatten()?;
    let logic = (kind.source.as_ref()?.build)(&serde_json::json!({})).ok()?;
    Some(Source {
        name: Name::new(name),
        tenant: Name::default_tenant(),
        kind,
        path: String::new(),
        secrets: Vec::new(),
        access: None,
        logic,
        parse: None,
        asked: None,
    })
}

async fn of_event(live: &Live, case: &Case, event: Event, made: &mut Vec<Made>) -> Result<(), String> {
    let routed = route::route(live, event);
    let person = person(case, &routed.event, u64::from(routed.opens), u64::from(routed.clicks));
    for towards in routed.to {
        if let Some(reason) = towards.failed {
            return Err(format!("a condition failed: {}", reason.text));
        }
        let (Some(route), Some(destination)) =
            (live.routes.get(&towards.route), live.destinations.get(&towards.destination))
        else {
            continue;
        };
        if destination.echo_of.contains(&routed.event.source) {
            continue;
        }
        let claim = Claim {
            delivery: mailspan_core::DeliveryId(0),
            event: routed.event.clone(),
            route: towards.route,
            destination: towards.destination,
            class: towards.class,
            cause: mailspan_core::Cause::Live,
            attempts: 0,
            crashes: 0,
            since: NOW,
            person: person.clone(),
            progress: Vec::new(),
            several_recipients: false,
            times: LastTimes::of(&routed.event),
            newest: false,
            contact: None,
            gone: false,
        };
        let operations =
            claim::operations(route, destination, &claim).map_err(|reason| reason.to_string())?;
        let vendor = Vendor::new(destination, case, &routed.event);
        for (n, mut operation) in operations.into_iter().enumerate() {
            // The clock of cases stands still: what happened after it is not of the future.
            if let Operation::SetConsent { at, .. } = &mut operation {
                *at = routed.event.time;
            }
            exchange(&vendor, route, destination, &claim, (n, operation), made).await?;
        }
    }
    Ok(())
}

fn person(case: &Case, event: &Event, opens: u64, clicks: u64) -> Option<Person> {
    event.subject.shown()?;
    Some(Person {
        id: PersonId(1),
        subject: event.subject.clone(),
        opens: case.opens + opens,
        clicks: case.clicks + clicks,
        opted_out_at: None,
        opted_in_at: None,
        suppressed: false,
        erased: false,
        formerly: mailspan_core::Formerly::default(),
    })
}

/// All requests of one operation, until its verdict is final.
async fn exchange(
    vendor: &Vendor,
    route: &Route,
    destination: &Destination,
    claim: &Claim,
    (n, operation): (usize, Operation),
    made: &mut Vec<Made>,
) -> Result<(), String> {
    let key = claim::key(&claim.event, route, destination, n);
    let mut part = Part { key, operation, step: None, verdict: None, map: 0 };
    let mut known = Known::default();
    for _ in 0..EXCHANGES_MAX {
        let items = [Item {
            key: &part.key,
            person: claim.person.as_ref(),
            operation: &part.operation,
            step: part.step.as_ref(),
            elsewhere: route.notify.is_some(),
        }];
        let request = match destination.sink.plan(&items, &known) {
            Plan::Settle { verdict, .. } => return ended(verdict),
            Plan::Send { request, .. } | Plan::Ask { request, .. } => request,
        };
        made.push(shown(destination, &request));
        let answer: Answer = vendor.answer(&request, NOW).await;
        let judged = destination.sink.judge(&items, &answer);
        if let Some((question, text)) = judged.answer {
            known.0.insert(question, text);
            continue;
        }
        match judged.verdicts.into_iter().next() {
            Some(Verdict::Next { step, .. }) => next(&mut part, step),
            Some(verdict) => return ended(verdict),
            None => return Err(format!("{} could not answer a look-up", destination.name)),
        }
    }
    Err(format!("more than {EXCHANGES_MAX} requests for one operation"))
}

fn next(part: &mut Part, step: Step) {
    part.step = Some(step);
}

fn ended(verdict: Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Reject { reason } | Verdict::Retry { reason, .. } => Err(refused(&reason)),
        _ => Ok(()),
    }
}

fn refused(reason: &Reason) -> String {
    format!("the destination would refuse it: {}", reason.text)
}

/// The path as it goes out: that of the destination's URL, and what was planned behind it.
fn shown(destination: &Destination, request: &Request) -> Made {
    let text = match json::parse(&request.body) {
        Ok(node) => super::pretty(&node, BODY_DEPTH),
        Err(_) => json::quote(&String::from_utf8_lossy(&request.body)),
    };
    let body = RawValue::from_string(text);
    let base = url::Url::parse(&destination.target.base_url).ok();
    let base = base.as_ref().map_or("", |url| url.path()).trim_end_matches('/');
    let path = format!("{base}{}", request.path);
    Made {
        destination: destination.name.to_string(),
        method: Some(request.method.to_owned()),
        path: Some(if path.is_empty() { "/".to_owned() } else { path }),
        body: body.ok().filter(|_| !request.body.is_empty()),
    }
}

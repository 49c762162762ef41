//! From a claimed row to a parcel: today's map is run here, panics are caught.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mailspan_connectors::signature::digest;
use mailspan_core::limits::OPERATIONS_MAX;
use mailspan_core::{
    Elsewhere, Event, Key, Operation, Parcel, Part, Person, PersonId, Reason, Verdict, class_of, cloudevents,
};
use mailspan_maps::CrmContext;
use mailspan_store::Claim;

use crate::app::Live;
use crate::drill;
use crate::hub::{Destination, Map, Route};

/// `parts` is an error where the map failed: code `crash` for a panic.
pub fn parcel(live: &Live, mut claim: Claim) -> Parcel {
    // The person has no name any more; whom a destination is to erase is what the event says.
    if claim.person.is_none() && claim.event.event_type.as_str() == "contact.erased" {
        claim.person = Some(nobody_here(&claim.event));
    }
    if let Some(person) = claim.person.as_mut().filter(|person| person.erased) {
        person.subject.clone_from(&claim.event.subject);
    }
    let mapped = match (live.routes.get(&claim.route), live.destinations.get(&claim.destination)) {
        (Some(route), Some(destination)) => mapped(route, destination, &claim),
        (None, _) => Err(Reason::new(
            "no_route",
            "its route is not in the configuration any more: put it back and replay",
        )),
        (_, None) => {
            Err(Reason::new("no_destination", "its destination is not in the configuration any more"))
        }
    };
    let elsewhere = elsewhere(live, &claim);
    Parcel {
        delivery: claim.delivery,
        class: claim.class,
        cause: claim.cause,
        attempts: claim.attempts,
        crashes: claim.crashes,
        since: claim.since,
        person: claim.person,
        parts: mapped,
        newest: claim.newest,
        elsewhere,
        behind: Vec::new(),
    }
}

/// Whom an erasure is about that the hub knows nobody of: a destination may.
fn nobody_here(event: &Event) -> Person {
    let subject = event.subject.clone();
    let opted_out_at = Some(event.time);
    Person {
        id: PersonId(0),
        subject,
        opens: 0,
        clicks: 0,
        opted_out_at,
        opted_in_at: None,
        suppressed: false,
        erased: true,
    }
}

/// The route's `notify` destination, for deliveries to another one.
fn elsewhere(live: &Live, claim: &Claim) -> Option<Elsewhere> {
    let notify = live.routes.get(&claim.route)?.notify.as_ref()?;
    let destination = live.destination_id(notify.as_str()).filter(|id| *id != claim.destination)?;
    Some(Elsewhere { destination, class: class_of(&claim.event) })
}

fn mapped(route: &Route, destination: &Destination, claim: &Claim) -> Result<Vec<Part>, Reason> {
    drill::poison(&claim.event.subject);
    let made = catch_unwind(AssertUnwindSafe(|| operations(route, destination, claim)));
    let operations = made.unwrap_or_else(|panic| Err(Reason::new("crash", panic_text(&*panic))))?;
    if operations.len() > OPERATIONS_MAX {
        let text =
            format!("the map made {} operations, at most {OPERATIONS_MAX} are taken", operations.len());
        return Err(Reason::new("too_many_operations", text));
    }
    let map = map_digest(route);
    let echo = echo(destination, &claim.event);
    let part = |(n, operation): (usize, Operation)| Part {
        key: key(&claim.event, route, destination, n),
        operation,
        step: None,
        verdict: echo.clone(),
        map,
    };
    let mut parts: Vec<Part> = operations.into_iter().enumerate().map(part).collect();
    // Progress belongs to the operations it was made with: under another map the parts start anew.
    let same =
        claim.progress.len() == parts.len() && claim.progress.iter().all(|progress| progress.map == map);
    if same && echo.is_none() {
        for (part, progress) in parts.iter_mut().zip(&claim.progress) {
            part.step.clone_from(&progress.step);
            part.verdict.clone_from(&progress.verdict);
        }
    }
    Ok(parts)
}

/// What came from an account is not sent back to it.
fn echo(destination: &Destination, event: &Event) -> Option<Verdict> {
    let source = &event.source;
    destination.echo_of.contains(source).then(|| {
        let text = format!("it came from `{source}`, which is the same account");
        Verdict::skipped("echo", text)
    })
}

/// Another number for another map: its text, or which built-in one.
fn map_digest(route: &Route) -> u32 {
    let text = match &route.map {
        Map::Default => "default",
        Map::MailingCore => "mailingcore",
        Map::Crm => "crm",
        Map::Audience => "audience",
        Map::Program(program) => &program.text,
    };
    let digest = digest(format!("{}\0{text}", route.create_contacts).as_bytes());
    u32::from_be_bytes([digest.0[0], digest.0[1], digest.0[2], digest.0[3]])
}

pub fn key(event: &Event, route: &Route, destination: &Destination, part: usize) -> Key {
    let part = u16::try_from(part).unwrap_or(u16::MAX);
    Key::derive(event.id, route.name.as_str(), destination.name.as_str(), part)
}

/// What the route wants of this destination. Pure; may panic only by a fault of a map.
pub fn operations(route: &Route, destination: &Destination, claim: &Claim) -> Result<Vec<Operation>, Reason> {
    let event = &claim.event;
    let context = CrmContext {
        create_contacts: route.create_contacts,
        several_recipients: claim.several_recipients,
        times: claim.times,
    };
    let http = destination.kind.name == "http";
    if route.notify.as_ref() == Some(&destination.name) {
        let all = mailspan_maps::crm(event, claim.person.as_ref(), context);
        return Ok(all.into_iter().filter(|op| matches!(op, Operation::NotifyOwner { .. })).collect());
    }
    match (&route.map, http) {
        (Map::Default, true) => Ok(vec![Operation::Send {
            content_type: cloudevents::STRUCTURED.to_owned(),
            body: cloudevents::write(event),
        }]),
        (Map::MailingCore, _) => Ok(vec![Operation::Send {
            content_type: "application/json".to_owned(),
            body: mailspan_maps::mailingcore::webhook(event, claim.person.as_ref()),
        }]),
        (Map::Audience, _) => Ok(mailspan_maps::audience(event, claim.person.as_ref(), claim.times)),
        (Map::Default, _) if destination.kind.sink.as_ref().is_some_and(|sink| sink.audience) => {
            Ok(mailspan_maps::audience(event, claim.person.as_ref(), claim.times))
        }
        (Map::Default | Map::Crm, _) => Ok(mailspan_maps::crm(event, claim.person.as_ref(), context)),
        (Map::Program(program), true) => {
            let send = |body| Operation::Send { content_type: "application/json".to_owned(), body };
            Ok(program.bodies(event)?.into_iter().map(send).collect())
        }
        (Map::Program(program), false) => program.operations(event),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the map panicked: {}", text.unwrap_or("without a text"))
}

//! From a claimed row to a parcel: today's map is run here, panics are caught.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mailspan_connectors::signature::digest;
use mailspan_core::contact::{contact_json, formerly, formerly_erased, is_by_program};
use mailspan_core::limits::OPERATIONS_MAX;
use mailspan_core::{
    Cause, Consent, ECHOED, Elsewhere, Event, Formerly, Key, Operation, Parcel, Part, Person, PersonId,
    Reason, Seq, Verdict, class_of, cloudevents, consent_of, counted_time, fields, states_opt_in,
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
    if let Some(person) = claim.person.as_mut() {
        person.formerly = match &claim.contact {
            _ if claim.event.event_type.as_str() == "contact.erased" => {
                formerly_erased(claim.event.data.get(), claim.event.time)
            }
            Some(contact) => formerly(contact),
            None => Formerly::default(),
        };
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
    let whole = mapped.as_ref().is_ok_and(|parts| tells_today(live, &claim) && writes_contact(parts));
    Parcel {
        delivery: claim.delivery,
        class: claim.class,
        cause: claim.cause,
        attempts: claim.attempts,
        crashes: claim.crashes,
        since: claim.since,
        person: claim.person,
        whole,
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
        // Two strangers are two persons: none waits for the other.
        id: PersonId::nobody(event.seq.unwrap_or(Seq(0))),
        subject,
        opens: 0,
        clicks: 0,
        opted_out_at,
        opted_in_at: None,
        suppressed: false,
        erased: true,
        formerly: Formerly::default(),
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
    if let Some(part) = held_back(route, destination, claim) {
        return Ok(vec![part]);
    }
    let made = catch_unwind(AssertUnwindSafe(|| operations(route, destination, claim)));
    let operations = made.unwrap_or_else(|panic| Err(Reason::new("crash", panic_text(&*panic))))?;
    if operations.len() > OPERATIONS_MAX {
        let text =
            format!("the map made {} operations, at most {OPERATIONS_MAX} are taken", operations.len());
        return Err(Reason::new("too_many_operations", text));
    }
    let map = map_digest(route, creates(route, claim));
    let returned = returned(route, destination, claim, &operations);
    let left_out = match returned {
        Some(_) => None,
        None => echo(destination, &claim.event).or_else(|| gone(claim)),
    };
    let operations = returned.unwrap_or(operations);
    let void = void(claim);
    let part = |(n, operation): (usize, Operation)| Part {
        key: key(&claim.event, route, destination, n),
        step: None,
        verdict: left_out.clone(),
        operation,
        map,
    };
    let mut parts: Vec<Part> = operations.into_iter().enumerate().map(part).collect();
    // Progress belongs to the operations it was made with: under another map the parts start anew.
    let same =
        claim.progress.len() == parts.len() && claim.progress.iter().all(|progress| progress.map == map);
    if same && left_out.is_none() {
        for (part, progress) in parts.iter_mut().zip(&claim.progress) {
            part.step.clone_from(&progress.step);
            part.verdict.clone_from(&progress.verdict);
        }
    }
    let is_sent = |part: &&mut Part| part.is_open() && matches!(part.operation, Operation::Send { .. });
    for part in parts.iter_mut().filter(is_sent) {
        part.verdict = void.clone().or(part.verdict.take());
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

/// What forbids to mail an address is written back to the account that tells of it, to its list of suppressions
/// alone: the hub may have lifted an older entry there a moment later, and with it this one. An unsubscription as
/// long as it stands: nobody lifts the others by agreeing anew.
fn returned(
    route: &Route,
    destination: &Destination,
    claim: &Claim,
    made: &[Operation],
) -> Option<Vec<Operation>> {
    let event = &claim.event;
    if !tells_contacts(route, destination) || !destination.echo_of.contains(&event.source) {
        return None;
    }
    let is_suppressed = || claim.person.as_ref().is_some_and(|person| person.suppressed);
    let reason = match event.event_type.as_str() {
        "email.complained" => "complaint",
        "email.bounced" if !made.is_empty() => "bounce",
        "contact.unsubscribed" if is_suppressed() && !is_by_program(event) => "unsubscribe",
        _ => return None,
    };
    let set = [(fields::SUPPRESSED, true.into()), (fields::SUPPRESSED_FOR, reason.into())];
    let fields = set.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Some(vec![Operation::SetFields { fields, record: None }])
}

/// What an account tells of the hub's own writes goes nowhere, and its story says why.
fn held_back(route: &Route, destination: &Destination, claim: &Claim) -> Option<Part> {
    let event = &claim.event;
    if event.event_type.as_str() != ECHOED {
        return None;
    }
    let text = format!("`{}` tells what the hub had written there", event.source);
    Some(Part {
        key: key(event, route, destination, 0),
        operation: Operation::SetConsent { consent: Consent::OptOut, at: event.time, reason: None },
        step: None,
        verdict: Some(Verdict::skipped("echo", text)),
        map: map_digest(route, creates(route, claim)),
    })
}

/// What would make a contact of who was erased meanwhile is not sent: it would come after the erasure, as without an
/// opt-in it is not urgent any more.
fn gone(claim: &Claim) -> Option<Verdict> {
    let makes = ["contact.created", "contact.updated", "contact.subscribed", "contact.confirmed"];
    let is_gone = claim.person.as_ref().is_some_and(|person| person.erased);
    (is_gone && makes.contains(&claim.event.event_type.as_str()))
        .then(|| Verdict::skipped("erased", "the person was erased meanwhile"))
}

/// An opt-in that is older than the person's last opt-out is void, also where the event itself is sent: a receiver
/// that takes what comes last for true must not be told of it after the opt-out. An event with a whole contact says
/// more than that: it is sent in its order, and void only where it would be sent again.
fn void(claim: &Claim) -> Option<Verdict> {
    let out = claim.person.as_ref()?.opted_out_at?;
    let by_type = consent_of(&claim.event.event_type) == Some(Consent::OptIn);
    let again = claim.cause != Cause::Live;
    let is_opt_in = by_type || (again && states_opt_in(&claim.event));
    (out >= counted_time(&claim.event) && is_opt_in).then(|| {
        let text = format!("the person opted out at {}, later than this opt-in happened", out.rfc3339());
        Verdict::skipped("superseded", text)
    })
}

/// What happens to an address makes no contact of who was erased: an old mail may be opened at any time.
fn creates(route: &Route, claim: &Claim) -> bool {
    route.create_contacts && !claim.gone
}

/// Another number for another map: its text, or which built-in one.
fn map_digest(route: &Route, creates: bool) -> u32 {
    let text = match &route.map {
        Map::Default => "default",
        Map::MailingCore => "mailingcore",
        Map::Crm => "crm",
        Map::Audience => "audience",
        Map::Program(program) => &program.text,
    };
    let digest = digest(format!("{creates}\0{text}").as_bytes());
    u32::from_be_bytes([digest.0[0], digest.0[1], digest.0[2], digest.0[3]])
}

pub fn key(event: &Event, route: &Route, destination: &Destination, part: usize) -> Key {
    let part = u16::try_from(part).unwrap_or(u16::MAX);
    Key::derive(event.id, route.name.as_str(), destination.name.as_str(), part)
}

/// Its route tells its destination of contacts as they are today.
pub fn tells_today(live: &Live, claim: &Claim) -> bool {
    let pair = live.routes.get(&claim.route).zip(live.destinations.get(&claim.destination));
    pair.is_some_and(|(route, destination)| tells_contacts(route, destination))
}

/// The built-in map of audiences is what the route wants of this destination.
fn tells_contacts(route: &Route, destination: &Destination) -> bool {
    match route.map {
        Map::Audience => true,
        Map::Default => keeps_contacts(destination),
        Map::MailingCore | Map::Crm | Map::Program(_) => false,
    }
}

fn keeps_contacts(destination: &Destination) -> bool {
    destination.kind.sink.as_ref().is_some_and(|sink| sink.audience)
}

/// A whole contact is still to be written.
fn writes_contact(parts: &[Part]) -> bool {
    parts.iter().any(|part| part.is_open() && matches!(part.operation, Operation::UpsertContact { .. }))
}

/// What the route wants of this destination. Pure; may panic only by a fault of a map.
pub fn operations(route: &Route, destination: &Destination, claim: &Claim) -> Result<Vec<Operation>, Reason> {
    let event = &claim.event;
    let context = CrmContext {
        create_contacts: creates(route, claim),
        several_recipients: claim.several_recipients,
        times: claim.times,
    };
    let http = destination.kind.name == "http";
    if route.notify.as_ref() == Some(&destination.name) {
        let all = mailspan_maps::crm(event, claim.person.as_ref(), context);
        return Ok(all.into_iter().filter(|op| matches!(op, Operation::NotifyOwner { .. })).collect());
    }
    let as_today = || {
        let today =
            claim.contact.as_ref().and_then(|contact| serde_json::from_str(&contact_json(contact)).ok());
        mailspan_maps::audience(event, claim.person.as_ref(), claim.times, today.as_ref())
    };
    match (&route.map, http) {
        (Map::Audience, _) => Ok(as_today()),
        (Map::Default, _) if keeps_contacts(destination) => Ok(as_today()),
        (Map::Default, true) => Ok(vec![Operation::Send {
            content_type: cloudevents::STRUCTURED.to_owned(),
            body: cloudevents::write(event),
        }]),
        (Map::MailingCore, _) => Ok(vec![Operation::Send {
            content_type: "application/json".to_owned(),
            body: mailspan_maps::mailingcore::webhook(event, claim.person.as_ref()),
        }]),
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

#[cfg(test)]
mod tests {
    use mailspan_core::{EventId, EventType, Millis, Name, RawValue, Subject};

    use super::*;

    fn erased(seq: i64) -> Person {
        nobody_here(&Event {
            seq: Some(Seq(seq)),
            id: EventId(1),
            tenant: Name::default_tenant(),
            source: Name::new("contacts"),
            event_type: EventType::known("contact.erased"),
            subject: Subject::read("a@x.org"),
            time: Millis(0),
            received_at: Millis(0),
            test: false,
            transmission: None,
            recipient_role: None,
            extensions: None,
            data: RawValue::NULL.to_owned().into(),
        })
    }

    #[test]
    fn two_strangers_who_are_erased_are_two_persons() {
        let (one, other) = (erased(7), erased(8));
        assert!(one.erased && one.id != other.id, "one would wait for the other");
        assert!(one.id.0 < 0 && other.id.0 < 0, "a number of somebody who is known");
    }
}

//! The built-in map «audience»: what a system that keeps contacts is told (MailingCore, Maileon).

use mailspan_core::contact::CONTACTS;
use mailspan_core::json::{self, Node, Value};
use mailspan_core::{
    Consent, Event, Fields, LastTimes, Millis, Operation, Person, clip, consent_of, counted_time, fields,
    stated_opt_in,
};
use serde_json::Value as Json;

use crate::{before, contact};

/// Of a contact's members those that hold many; what is said of one of them is told with all.
const WHOLE: [&str; 3] = [fields::ATTRIBUTES, fields::STANDARD, fields::CUSTOM];

/// Members of `data.contact` that go on under their own names; `opt_in` and `permission` are judged apart.
const PLAIN: [&str; 6] = [
    fields::LOCALE,
    fields::CONSENT_VERSION,
    fields::SOURCE,
    fields::ATTRIBUTES,
    fields::STANDARD,
    fields::CUSTOM,
];

/// The built-in map of audiences: event and person to operations, in the order in which they are to be done.
///
/// Reads `data.contact`, or the same members at the top of `data`; `data.changed`, `data.previous.email`,
/// `data.reason`, `data.bounce`. Other types than those below give nothing.
///
/// * `contact.created`, `.updated`, `.subscribed`, `.confirmed`: one `upsert_contact` with what the event says.
///   `opt_in` and `permission` are in it only where the event states them ([`stated_opt_in`]) and nothing newer
///   is known of the person: an opt-out at the same time or later voids an opt-in, a later opt-in voids an
///   opt-out. An opt-in of somebody who is suppressed is told as none (`opt_in` false), and a `set_fields` with
///   `suppressed` follows: who is so here may not be so there. Where `suppressed_at` changed, it follows with
///   `suppressed_for`; where nothing else did, that alone. Where another system's `contact.updated` states an
///   opt-out, `set_consent` follows; so of a `contact.created` of somebody who had opted in. `previous_email` and
///   `previous_external_id` name what the contact was called before, as far as destinations may not have heard.
///
/// `today` is the contact as it is now (the `contact` of the hub's events): what the event says of a profile is told
/// as it is today, so that an event which comes late takes nothing back.
///
/// * `contact.suppression_changed`: of an address that is no contact, that `set_fields` alone.
/// * `contact.unsubscribed`, `email.complained`: `set_consent`, and that `set_fields` where the hub suppressed the
///   address by it. An unsubscription that the hub suppresses for a complaint is one; of one that is older than an
///   opt-in of the person, nothing but that the address is suppressed, where it is. A hard `email.bounced`: `set_fields` with
///   `email_status`, and with `suppressed` where the address is so by now. `contact.erased`: `erase_contact`.
pub fn audience(
    event: &Event,
    person: Option<&Person>,
    times: LastTimes,
    today: Option<&Json>,
) -> Vec<Operation> {
    let data = json::parse(event.data.get().as_bytes()).ok();
    let data = data.as_ref();
    let reason = |what: &str| match text(data, "reason") {
        Some(reason) => format!("{what}: {reason}"),
        None => format!("{what}, reported by {}", event.source),
    };
    let consent = |consent, what| Operation::SetConsent {
        consent,
        at: counted_time(event),
        reason: Some(reason(what)),
    };
    match event.event_type.as_str() {
        "contact.created" | "contact.updated" | "contact.subscribed" | "contact.confirmed" => {
            let mut operations = Vec::new();
            let mut blocked = None;
            if !data.is_some_and(only_suppresses) {
                let (fields, is_blocked) = upsert(event, data, person, today);
                operations.push(Operation::UpsertContact { fields });
                operations.extend(revokes(event, data, person).then(|| consent(Consent::OptOut, "revoked")));
                // Who is suppressed here may not be so there: an address that was erased, or never was a contact there.
                blocked = is_blocked.then(|| suppressed(true, None));
            }
            operations.extend(data.and_then(|data| suppression(data, person)).or(blocked));
            operations
        }
        "contact.suppression_changed" => {
            data.and_then(|data| suppression(data, person)).into_iter().collect()
        }
        "contact.unsubscribed" if text(data, "suppressed_for").as_deref() == Some("complaint") => {
            vec![consent(Consent::DoNotContact, "spam complaint")]
        }
        // It comes late: what the person agreed to since stands, and is written there already or will be.
        "contact.unsubscribed" if !is_newest(false, counted_time(event), person) => {
            let is_suppressed = person.is_some_and(|person| person.suppressed);
            is_suppressed.then(|| suppressed(true, None)).into_iter().collect()
        }
        "contact.unsubscribed" => {
            let suppression = data.and_then(|data| suppression(data, person));
            [consent(Consent::OptOut, "unsubscribed")].into_iter().chain(suppression).collect()
        }
        "contact.erased" => vec![Operation::EraseContact],
        "email.complained" => vec![consent(Consent::DoNotContact, "spam complaint")],
        "email.bounced" if text(data, "bounce").as_deref() == Some("hard") => {
            vec![undeliverable(event, data, times, person.is_some_and(|person| person.suppressed))]
        }
        _ => Vec::new(),
    }
}

fn text(data: Option<&Node<'_>>, key: &str) -> Option<String> {
    let text = data?.get(key)?.scalar()?;
    let text = text.trim();
    (!text.is_empty()).then(|| clip(text, 500).into_owned())
}

/// What is written of the contact, and whether an opt-in was held back as its address is suppressed now.
fn upsert(
    event: &Event,
    data: Option<&Node<'_>>,
    person: Option<&Person>,
    today: Option<&Json>,
) -> (Fields, bool) {
    let mut found = Fields::new();
    let said = |name: &str| contact::member(data, name);
    let now = |name: &str| today.and_then(|contact| contact.get(name)).cloned();
    let member = |name: &str| said(name).map(|said| now(name).unwrap_or(said));
    let address = || event.subject.address.as_ref().map(|address| Json::from(address.as_str()));
    let external = || event.subject.external_id.as_deref().map(Json::from);
    let known = [
        (fields::EMAIL, said(fields::EMAIL).or_else(address)),
        (fields::EXTERNAL_ID, said(fields::EXTERNAL_ID).or_else(external)),
    ];
    for (name, value) in known {
        let value = match now(name) {
            Some(now) if !now.is_null() && value.is_some() => Some(now),
            _ => value,
        };
        found.extend(value.filter(|value| !value.is_null()).map(|value| (name.to_owned(), value)));
    }
    found.extend(before::names(event, data, person));
    let says_fields = WHOLE.iter().any(|name| said(name).is_some());
    for name in PLAIN {
        // Some systems keep these in one object, which they replace whole.
        let rest = || now(name).filter(|value| says_fields && WHOLE.contains(&name) && !is_empty(value));
        found.extend(member(name).or_else(rest).map(|value| (name.to_owned(), value)));
    }
    let stated = match consent_of(&event.event_type) {
        Some(Consent::OptIn) => Some(true),
        _ => data.and_then(|data| stated_opt_in(&event.event_type, data)),
    };
    let stated = stated.or_else(|| leaves_a_suppressed_address(data?, today?).then_some(true));
    let mut is_blocked = false;
    if let Some(opt_in) = stated.filter(|opt_in| is_newest(*opt_in, counted_time(event), person)) {
        let is_suppressed = person.is_some_and(|person| person.suppressed)
            || said("suppressed_at").is_some_and(|at| !at.is_null());
        is_blocked = opt_in && person.is_some_and(|person| person.suppressed);
        let opt_in = opt_in && !is_suppressed;
        found.insert(fields::OPT_IN.to_owned(), opt_in.into());
        // What is lower comes late, and does not lower it there.
        let level = now(fields::PERMISSION).filter(|level| level.as_u64() > Some(1));
        let level = level.or_else(|| said(fields::PERMISSION)).filter(|level| is_permission(level) && opt_in);
        found.extend(level.map(|level| (fields::PERMISSION.to_owned(), level)));
    }
    (found, is_blocked)
}

fn is_empty(value: &Json) -> bool {
    value.as_object().is_none_or(serde_json::Map::is_empty)
}

/// Nobody was opted in while the old address was suppressed; at the new one the contact's own consent counts.
fn leaves_a_suppressed_address(data: &Node<'_>, today: &Json) -> bool {
    let changed = changed(data);
    let free = |contact: &Json| contact["suppressed_at"].is_null() && contact["opt_in"] == true;
    changed.contains(&"email") && changed.contains(&"suppressed_at") && free(today)
}

/// Another system says that consent was taken back, by an event that is about more than that. Of somebody new that is
/// no more than that nothing was agreed to. The hub itself has a type for it.
fn revokes(event: &Event, data: Option<&Node<'_>>, person: Option<&Person>) -> bool {
    let was_in = || person.is_some_and(|person| person.opted_in_at.is_some());
    let can = match event.event_type.as_str() {
        "contact.updated" => true,
        "contact.created" => was_in(),
        _ => false,
    };
    can && event.source.as_str() != CONTACTS
        && data.and_then(|data| stated_opt_in(&event.event_type, data)) == Some(false)
        && is_newest(false, counted_time(event), person)
}

/// False where something newer is known of the person: at equal times the opt-out wins.
fn is_newest(opt_in: bool, at: Millis, person: Option<&Person>) -> bool {
    match person {
        Some(person) if opt_in => person.opted_out_at.is_none_or(|out| out < at),
        Some(person) => person.opted_in_at.is_none_or(|back| back <= at),
        None => true,
    }
}

fn is_permission(level: &Json) -> bool {
    level.as_u64().is_some_and(|level| (1..=6).contains(&level))
}

/// Where the hub's own suppression of the address was set or lifted by this event. Lifted, and suppressed again since,
/// it stays: an account may have told of that itself, and is not told what it told.
fn suppression(data: &Node<'_>, person: Option<&Person>) -> Option<Operation> {
    let changed = changed(data);
    let contact = data.get("contact").filter(|contact| contact.as_object().is_some()).unwrap_or(data);
    let set = contact.get("suppressed_at").is_some_and(|at| at.value != Value::Null);
    // Who moved away from a suppressed address has not had another one lifted.
    if !changed.contains(&"suppressed_at") || !set && changed.contains(&"email") {
        return None;
    }
    if !set && person.is_some_and(|person| person.suppressed) {
        return None;
    }
    Some(suppressed(set, text(Some(data), fields::SUPPRESSED_FOR).filter(|_| set)))
}

fn suppressed(set: bool, reason: Option<String>) -> Operation {
    let mut fields = Fields::from([(fields::SUPPRESSED.to_owned(), set.into())]);
    fields.extend(reason.map(|reason| (fields::SUPPRESSED_FOR.to_owned(), reason.into())));
    Operation::SetFields { fields, record: None }
}

fn changed<'n>(data: &'n Node<'_>) -> Vec<&'n str> {
    let list = data.get("changed").and_then(Node::as_array).unwrap_or_default();
    list.iter().filter_map(Node::as_str).collect()
}

/// Nothing else of the contact changed.
fn only_suppresses(data: &Node<'_>) -> bool {
    changed(data) == ["suppressed_at"]
}

/// `suppresses`: the hub mails the address no more, for that or another reason, and says so.
fn undeliverable(event: &Event, data: Option<&Node<'_>>, times: LastTimes, suppresses: bool) -> Operation {
    let at = times.bounced_at.map_or(event.time, |known| known.max(event.time));
    let mut set = Fields::from([
        (fields::EMAIL_STATUS.to_owned(), "undeliverable".into()),
        (fields::BOUNCED_AT.to_owned(), at.0.into()),
    ]);
    set.extend(text(data, "reason").map(|reason| (fields::BOUNCE_REASON.to_owned(), reason.into())));
    if suppresses {
        set.insert(fields::SUPPRESSED.to_owned(), true.into());
        set.insert(fields::SUPPRESSED_FOR.to_owned(), "bounce".into());
    }
    Operation::SetFields { fields: set, record: None }
}

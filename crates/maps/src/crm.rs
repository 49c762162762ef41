//! The built-in map: what a CRM is told of an event (design, section 5).

use mailspan_core::contact::CONTACTS;
use mailspan_core::json::{self, Node};
use mailspan_core::limits::EXTERNAL_ID_BYTES_MAX;
use mailspan_core::{
    Consent, Event, Fields, LastTimes, Millis, Operation, Person, RecipientRole, clip, consent_of,
    counted_time, fields, stated_opt_in,
};

use crate::contact;

/// What the built-in map needs beside the event.
#[derive(Debug, Clone, Copy, Default)]
pub struct CrmContext {
    pub create_contacts: bool,
    /// The transmission was seen with several recipients: a record id in the metadata decides nothing.
    pub several_recipients: bool,
    /// When each thing last happened to the person, as known now: what is written never goes back.
    pub times: LastTimes,
}

/// The built-in map: event and person to operations, in the order in which they are to be done.
///
/// Reads `data.url`, `data.bounce` (`hard` or anything else), `data.reason`, `data.subject` and
/// `data.correlation.{crm_contact_id, crm_deal_id, crm_owner}`, whose values may be strings or numbers.
/// Other types than those of the table give nothing, `email.sent` among them.
///
/// * Without a person the counts are left out, nothing else: the positions of the operations, and with
///   them the idempotency keys, stay the same.
/// * `crm_contact_id` and `crm_deal_id` decide for activities and counts, and only where the
///   transmission has one recipient who is neither `cc` nor `bcc`. Consent and bounce state have no
///   record: they follow the recipient's address.
/// * With `create_contacts`, the fields go into an `upsert_contact` that comes first (an event that is
///   only an activity gets one without fields), unless the metadata names the record, which exists.
///   Opt-outs and complaints create nobody.
/// * With `create_contacts`, `contact.created`, `.updated`, `.subscribed` and `.confirmed` give an
///   `upsert_contact` with the standard fields that CRMs share ([`STANDARD`]); consent comes before it, also where
///   another system's event states it of a contact.
/// * A suppression by the hub for a complaint forbids to contact, as the complaint does.
pub fn crm(event: &Event, person: Option<&Person>, context: CrmContext) -> Vec<Operation> {
    let data = json::parse(event.data.get().as_bytes()).ok();
    let facts = Facts::read(event, data.as_ref(), context);
    let mut operations = match event.event_type.as_str() {
        "email.delivered" => {
            vec![facts.set([(fields::LAST_DELIVERED_AT, facts.last(facts.times.delivered_at))], None)]
        }
        "email.opened" => opened(&facts, person),
        "email.clicked" => clicked(&facts, person),
        "email.bounced" if facts.hard => vec![undeliverable(&facts)],
        "email.bounced" => vec![facts.activity("Email bounced", facts.because("Not delivered"))],
        "email.deferred" => vec![facts.activity("Email delayed", facts.because("Delivery delayed"))],
        "email.complained" => complained(&facts),
        "contact.erased" => vec![Operation::EraseContact],
        _ if is_for_a_complaint(&facts, data.as_ref()) => forbids(&facts),
        _ => consent(&facts, data.as_ref(), person).into_iter().collect(),
    };
    if context.create_contacts {
        match event.event_type.as_str() {
            "contact.created" | "contact.updated" | "contact.subscribed" | "contact.confirmed" => {
                operations.push(Operation::UpsertContact { fields: standard(data.as_ref()) });
            }
            _ if consent_of(&event.event_type).is_none() => create(&mut operations),
            _ => {}
        }
    }
    operations
}

/// Standard fields of a contact, and the words under which CRMs keep them.
const STANDARD: [(&str, &str); 9] = [
    ("FIRSTNAME", "firstname"),
    ("LASTNAME", "lastname"),
    ("SALUTATION", "salutation"),
    ("ORGANIZATION", "company"),
    ("ADDRESS", "address"),
    ("ZIP", "zip"),
    ("CITY", "city"),
    ("STATE", "state"),
    ("COUNTRY", "country"),
];

fn standard(data: Option<&Node<'_>>) -> Fields {
    let stated = contact::member(data, fields::STANDARD);
    let value = |name: &str| stated.as_ref()?.get(name).cloned();
    STANDARD.iter().filter_map(|(name, word)| Some(((*word).to_owned(), value(name)?))).collect()
}

/// What the operations are made of.
struct Facts<'a> {
    event: &'a Event,
    /// `“Spring news”`, or `an email` where the subject is not known.
    mail: String,
    url: Option<String>,
    reason: Option<String>,
    hard: bool,
    record: Option<String>,
    deal: Option<String>,
    owner: Option<String>,
    times: LastTimes,
}

impl<'a> Facts<'a> {
    fn read(event: &'a Event, data: Option<&Node<'_>>, context: CrmContext) -> Facts<'a> {
        let text = |key: &str, chars: usize| {
            let text = data?.get(key)?.scalar()?;
            let text = text.trim();
            (!text.is_empty()).then(|| clip(text, chars).into_owned())
        };
        let correlation = data.and_then(|data| data.get("correlation"));
        let id = |key: &str| {
            let text = correlation?.get(key)?.scalar()?;
            let text = text.trim();
            (!text.is_empty() && text.len() <= EXTERNAL_ID_BYTES_MAX).then(|| text.to_owned())
        };
        let copied = matches!(event.recipient_role, Some(RecipientRole::Cc | RecipientRole::Bcc));
        let decides = !context.several_recipients && !copied;
        Facts {
            event,
            mail: text("subject", 300).map_or("an email".to_owned(), |subject| format!("“{subject}”")),
            url: text("url", 2_000),
            reason: text("reason", 500),
            hard: text("bounce", 10).as_deref() == Some("hard"),
            record: id("crm_contact_id").filter(|_| decides),
            deal: id("crm_deal_id").filter(|_| decides),
            owner: id("crm_owner"),
            times: context.times,
        }
    }

    /// The later of what is known and what the event says.
    fn last(&self, known: Option<Millis>) -> serde_json::Value {
        known.map_or(self.event.time, |known| known.max(self.event.time)).0.into()
    }

    /// `Not delivered: “Spring news” (mailbox full)`.
    fn because(&self, what: &str) -> String {
        match &self.reason {
            Some(reason) => format!("{what}: {} ({reason})", self.mail),
            None => format!("{what}: {}", self.mail),
        }
    }

    fn activity(&self, title: &str, body: String) -> Operation {
        Operation::LogActivity {
            title: title.to_owned(),
            body,
            at: self.event.time,
            record: self.record.clone(),
            deal: self.deal.clone(),
        }
    }

    fn set<const N: usize>(
        &self,
        facts: [(&str, serde_json::Value); N],
        count: Option<(&str, u64)>,
    ) -> Operation {
        let count = count.map(|(name, count)| (name, serde_json::Value::from(count)));
        let fields = facts.into_iter().chain(count).map(|(name, value)| (name.to_owned(), value)).collect();
        Operation::SetFields { fields, record: self.record.clone() }
    }

    fn set_consent(&self, consent: Consent, reason: String) -> Operation {
        Operation::SetConsent { consent, at: counted_time(self.event), reason: Some(reason) }
    }
}

fn opened(facts: &Facts<'_>, person: Option<&Person>) -> Vec<Operation> {
    let count = person.map(|person| (fields::OPEN_COUNT, person.opens));
    vec![
        facts.activity("Email opened", format!("Opened {}", facts.mail)),
        facts.set([(fields::LAST_OPENED_AT, facts.last(facts.times.opened_at))], count),
    ]
}

fn clicked(facts: &Facts<'_>, person: Option<&Person>) -> Vec<Operation> {
    let count = person.map(|person| (fields::CLICK_COUNT, person.clicks));
    let link = facts.url.as_deref().unwrap_or("a link");
    vec![
        facts.activity("Email clicked", format!("Clicked {link} in {}", facts.mail)),
        facts.set([(fields::LAST_CLICKED_AT, facts.last(facts.times.clicked_at))], count),
    ]
}

/// Follows the address: the record in the metadata may be another person's.
fn undeliverable(facts: &Facts<'_>) -> Operation {
    let at = facts.last(facts.times.bounced_at);
    let mut set = Fields::from([
        (fields::EMAIL_STATUS.to_owned(), "undeliverable".into()),
        (fields::BOUNCED_AT.to_owned(), at.clone()),
        (fields::REVALIDATE_AT.to_owned(), at),
    ]);
    if let Some(reason) = &facts.reason {
        set.insert(fields::BOUNCE_REASON.to_owned(), reason.as_str().into());
    }
    Operation::SetFields { fields: set, record: None }
}

/// The hub suppressed the address as somebody complained elsewhere.
fn is_for_a_complaint(facts: &Facts<'_>, data: Option<&Node<'_>>) -> bool {
    let reason = data.and_then(|data| data.get(fields::SUPPRESSED_FOR)).and_then(Node::as_str);
    facts.event.event_type.as_str().starts_with("contact.") && reason == Some("complaint")
}

fn complained(facts: &Facts<'_>) -> Vec<Operation> {
    let who = facts.event.subject.shown().unwrap_or("a recipient");
    let mut operations = forbids(facts);
    operations.push(Operation::NotifyOwner {
        owner: facts.owner.clone(),
        title: "Spam complaint".to_owned(),
        text: format!("{who} marked {} as spam. Do not contact them again.", facts.mail),
        at: facts.event.time,
    });
    operations
}

fn forbids(facts: &Facts<'_>) -> Vec<Operation> {
    vec![
        facts.set_consent(
            Consent::DoNotContact,
            format!("spam complaint, reported by {}", facts.event.source),
        ),
        Operation::SetFields {
            fields: Fields::from([(fields::DO_NOT_CONTACT.to_owned(), true.into())]),
            record: None,
        },
    ]
}

/// Opt-in and opt-out, by the type of the event, or as another system states it of a contact; nothing of others. Of
/// somebody new an opt-out says no more than that nothing was agreed to.
fn consent(facts: &Facts<'_>, data: Option<&Node<'_>>, person: Option<&Person>) -> Option<Operation> {
    let event = facts.event;
    let has_agreed = || person.is_some_and(|person| person.opted_in_at.is_some());
    let stated = || match (event.event_type.as_str(), stated_opt_in(&event.event_type, data?)?) {
        _ if event.source.as_str() == CONTACTS => None,
        ("contact.created" | "contact.updated", true) => Some(Consent::OptIn),
        ("contact.updated", false) => Some(Consent::OptOut),
        ("contact.created", false) if has_agreed() => Some(Consent::OptOut),
        _ => None,
    };
    let consent = consent_of(&event.event_type).or_else(stated)?;
    let verb = facts.event.event_type.as_str().rsplit('.').next().unwrap_or_default();
    let reason = match &facts.reason {
        Some(reason) => format!("{verb}: {reason}"),
        None => format!("{verb}, reported by {}", facts.event.source),
    };
    Some(facts.set_consent(consent, reason))
}

/// Puts an `upsert_contact` first, which takes the place of the fields that it carries.
fn create(operations: &mut Vec<Operation>) {
    let by_address = |operation: &Operation| match operation {
        Operation::SetFields { record, .. } | Operation::LogActivity { record, .. } => record.is_none(),
        _ => false,
    };
    if !operations.iter().any(by_address) {
        return;
    }
    let set = operations.iter().position(|operation| matches!(operation, Operation::SetFields { .. }));
    let fields = match set.map(|position| operations.remove(position)) {
        Some(Operation::SetFields { fields, .. }) => fields,
        _ => Fields::new(),
    };
    operations.insert(0, Operation::UpsertContact { fields });
}

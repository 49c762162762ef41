//! The one way in for what the hub itself says of contacts.

use mailspan_connectors::signature::digest;
use mailspan_core::contact::{CONTACTS, ContactOutcome, ContactWrite};
use mailspan_core::{Address, Event, EventId, EventType, Millis, Name, RawRequest, RawValue, Subject};
use mailspan_store::{Accepted, Arrived, Cut, Idempotency, Receipt, Trouble};

use crate::app::App;
use crate::intake::door::keep;
use crate::runtime;

/// Who writes, and with what: the raw request is kept as evidence, what proves the sender cut out.
pub struct Origin<'a> {
    pub tenant: &'a Name,
    /// The name of the key or page that let it in.
    pub credential: &'a str,
    /// Nothing where the hub itself writes (an import's row is in the job).
    pub request: Option<&'a RawRequest>,
    /// Further texts to cut out of the stored request.
    pub cuts: Vec<Cut>,
}

/// Writes all in one transaction; an outcome for each, in their order. The types of their events are
/// decided where they are written.
pub async fn write(
    app: &App,
    origin: Origin<'_>,
    writes: Vec<ContactWrite>,
) -> Result<Vec<ContactOutcome>, Trouble> {
    write_once(app, origin, writes, None).await.map(|(accepted, _)| accepted.contacts)
}

/// The same for a request that may have an `Idempotency-Key`: true where it was answered before, and nothing was
/// written.
pub async fn write_once(
    app: &App,
    origin: Origin<'_>,
    writes: Vec<ContactWrite>,
    idempotency: Option<Idempotency>,
) -> Result<(Accepted, bool), Trouble> {
    let now = origin.request.map_or_else(runtime::now, |request| request.received_at);
    let digest = origin.request.map_or_else(|| digest(&[]), digest_of);
    let mut cuts = origin.cuts;
    cuts.push(Cut::Header { name: "authorization".to_owned(), by: origin.credential.to_owned() });
    cuts.push(without_idempotency_key());
    let arrivals = (0_u32..).zip(writes).map(|(part, write)| arrived(origin.tenant, part, write, now));
    let receipt = Receipt {
        tenant: origin.tenant.clone(),
        source: Name::new(CONTACTS),
        credential: origin.credential.to_owned(),
        received_at: now,
        digest,
        packed: origin.request.map(|request| mailspan_store::pack_request(request, &cuts)),
        arrivals: arrivals.collect(),
        unreadable: Vec::new(),
        idempotency,
        round: None,
        say: Vec::new(),
    };
    keep(app, Box::new(receipt)).await
}

/// Of the body as it is kept; of a request with a query, of the query, a line feed and the body: an intake may say all
/// it has to say there.
fn digest_of(request: &RawRequest) -> mailspan_core::Digest {
    match request.query.is_empty() {
        true => digest(&request.body),
        false => digest(&[request.query.as_bytes(), b"\n", &request.body].concat()),
    }
}

/// Kept as a digest where it counts; in the stored request it proves nothing, and callers name people in it.
pub fn without_idempotency_key() -> Cut {
    Cut::Header { name: "idempotency-key".to_owned(), by: "not kept".to_owned() }
}

/// The event that stands for the write until the store knows what it changed.
fn arrived(tenant: &Name, part: u32, write: ContactWrite, now: Millis) -> Arrived {
    let event = Event {
        seq: None,
        id: EventId::v7(now, runtime::random_u128()),
        tenant: tenant.clone(),
        source: Name::new(CONTACTS),
        event_type: EventType::known("contact.updated"),
        subject: subject(&write),
        time: write.at,
        received_at: now,
        test: false,
        transmission: None,
        recipient_role: None,
        extensions: None,
        data: RawValue::NULL.to_owned().into(),
    };
    Arrived { event, part, dedupe: None, contact: Some(Box::new(write)) }
}

fn subject(write: &ContactWrite) -> Subject {
    use mailspan_core::contact::{Change, ContactKey};
    let (address, external_id): (Option<&Address>, Option<&String>) = match &write.key {
        ContactKey::Address(address) => (Some(address), None),
        ContactKey::Subject { address, external_id } => (address.as_ref(), external_id.as_ref()),
        ContactKey::ExternalId(id) => (None, Some(id)),
        ContactKey::Id(_) | ContactKey::Token(_) => (None, None),
    };
    let given = match &write.external_id {
        Change::Set(id) => Some(id),
        _ => None,
    };
    Subject {
        address: write.address.as_ref().or(address).cloned(),
        external_id: external_id.or(given).cloned(),
    }
}

/// `c` and 24 characters of base 36: 124 random bits.
pub fn new_uid() -> String {
    let mut bits = runtime::random_u128();
    let mut uid = String::with_capacity(25);
    uid.push('c');
    for _ in 0..24 {
        let digit = u8::try_from(bits % 36).unwrap_or(0);
        bits /= 36;
        uid.push(char::from(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }));
    }
    uid
}

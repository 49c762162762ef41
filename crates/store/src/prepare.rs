//! What can be done before the writer: packing, hashing, sizing. Runs on the caller's task.

use aws_lc_rs::digest::{Context, SHA256};
use mailspan_core::{Digest, Event, Name, Subject, consent_of};

use crate::identity::IdentityKey;
use crate::sqlite::envelope;
use crate::write::Write;
use crate::{NameKind, Receipt};

/// A write, ready for the writer.
pub(crate) struct Prepared {
    pub what: What,
    /// About what it adds to the log: groups are bounded by it.
    pub bytes: usize,
}

pub(crate) enum What {
    Write(Write),
    Accept {
        receipt: Box<Receipt>,
        arrivals: Vec<Arrival>,
    },
    /// With the identities of each event's subject.
    Route {
        fence: mailspan_engine::Fence,
        routed: Vec<crate::Routed>,
        identities: Vec<Identities>,
    },
    Name {
        tenant: Name,
        kind: NameKind,
        name: Name,
    },
}

/// What goes with an arrived event of the same position.
pub(crate) struct Arrival {
    /// Nothing where the store decides the event.
    pub packed: Vec<u8>,
    /// Scoped to tenant and source.
    pub key: Option<[u8; 16]>,
    /// Only where the event states consent and comes without a contact.
    pub identities: Option<Identities>,
}

/// Keyed hashes of the parts of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Identities {
    pub address: Option<[u8; 16]>,
    pub external_id: Option<[u8; 16]>,
}

impl Prepared {
    pub(crate) fn is_intake(&self) -> bool {
        matches!(self.what, What::Accept { .. } | What::Write(Write::Refused(_) | Write::Key(_)))
    }

    /// Settlements and consent go first in a group.
    pub(crate) fn goes_first(&self) -> bool {
        match &self.what {
            What::Write(write) => matches!(write, Write::Settle { .. }),
            What::Accept { receipt, arrivals } => {
                let contacts = receipt.arrivals.iter().any(|arrived| arrived.contact.is_some());
                contacts || arrivals.iter().any(|a| a.identities.is_some())
            }
            What::Route { .. } | What::Name { .. } => false,
        }
    }
}

pub(crate) fn prepare(write: Write, key: &IdentityKey) -> Prepared {
    match write {
        Write::Accept(mut receipt) => {
            let writes = receipt.arrivals.iter_mut().filter_map(|arrived| arrived.contact.as_deref_mut());
            writes.for_each(crate::audience::fill);
            let arrivals: Vec<Arrival> =
                receipt.arrivals.iter().map(|arrived| arrival(&receipt, arrived, key)).collect();
            let bytes = receipt.packed.as_ref().map_or(0, Vec::len)
                + arrivals.iter().map(|a| a.packed.len() + 150).sum::<usize>()
                + 500 * receipt.say.len()
                + 500 * receipt.arrivals.iter().filter(|arrived| arrived.contact.is_some()).count()
                + receipt.unreadable.iter().map(|u| u.raw.len() + 100).sum::<usize>();
            Prepared { what: What::Accept { receipt, arrivals }, bytes }
        }
        Write::Route { fence, routed } => {
            let identities = routed.iter().map(|one| identities(&one.event.subject, key)).collect();
            let bytes = routed.iter().map(|one| 50 + 150 * one.to.len()).sum();
            Prepared { what: What::Route { fence, routed, identities }, bytes }
        }
        other => {
            let bytes = rough_bytes(&other);
            Prepared { what: What::Write(other), bytes }
        }
    }
}

pub(crate) fn prepare_name(tenant: Name, kind: NameKind, name: Name) -> Prepared {
    Prepared { what: What::Name { tenant, kind, name }, bytes: 100 }
}

fn arrival(receipt: &Receipt, arrived: &crate::Arrived, key: &IdentityKey) -> Arrival {
    let is_decided = arrived.contact.is_some() && decides(receipt);
    Arrival {
        packed: if is_decided { vec![] } else { envelope::pack(&arrived.event) },
        key: arrived.dedupe.map(|digest| scoped(&receipt.tenant, &receipt.source, digest)),
        identities: (arrived.contact.is_none() && states_consent(&arrived.event))
            .then(|| identities(&arrived.event.subject, key)),
    }
}

/// True where the store decides the events from what became of their contacts.
pub(crate) fn decides(receipt: &Receipt) -> bool {
    receipt.source.as_str() == mailspan_core::contact::CONTACTS
}

/// True where accepting the event writes a fact into the ledger.
pub(crate) fn states_consent(event: &Event) -> bool {
    !event.test && consent_of(&event.event_type).is_some()
}

pub(crate) fn identities(subject: &Subject, key: &IdentityKey) -> Identities {
    Identities {
        address: subject.address.as_ref().map(|address| key.hash(b"address", address.key().as_bytes())),
        external_id: subject.external_id.as_ref().map(|id| key.hash(b"external_id", id.as_bytes())),
    }
}

fn scoped(tenant: &Name, source: &Name, digest: Digest) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    for part in [tenant.as_str().as_bytes(), b"\0", source.as_str().as_bytes(), b"\0", &digest.0] {
        context.update(part);
    }
    first_16(context.finish().as_ref())
}

/// The first half of a SHA-256.
pub(crate) fn first_16(bytes: &[u8]) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&bytes[..16]);
    first
}

fn rough_bytes(write: &Write) -> usize {
    match write {
        Write::Settle { settlements, attempts, .. } => {
            let kept = attempts.iter().map(|a| {
                100 + a.request.as_ref().map_or(0, Vec::len) + a.answer.as_ref().map_or(0, String::len)
            });
            100 + 150 * settlements.len() + kept.sum::<usize>()
        }
        Write::Offer { offers, .. } => 100 + 150 * offers.len(),
        Write::Page(page) => 500 + page.cursor.len() + 150 * page.work.items(),
        Write::Job(job) => 500 + job.argument.len(),
        Write::Round(mark) => 500 + mark.cursor.len(),
        Write::Refused(refused) => 500 + refused.body.len(),
        _ => 500,
    }
}

//! What was done where, in a form that can be handed out: it names the person by keyed hash alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use mailspan_core::contact::CONTACTS;
use mailspan_core::{EventType, Millis, Name, State};
use mailspan_store::{ErasureRow, ErasureVerdict};
use serde_json::{Value, json};

use crate::app::Live;
use crate::hub::Destination;

const VERSION: u64 = 1;

pub fn write(live: &Live, row: &ErasureRow, verdicts: &[ErasureVerdict], now: Millis) -> Value {
    let asked: BTreeSet<&Name> = verdicts.iter().map(|verdict| &verdict.destination).collect();
    json!({
        "v": VERSION,
        "erasure": row.id,
        "tenant": row.tenant,
        "asked_at": row.asked_at.rfc3339(),
        "asked_by": row.asked_by,
        "identities": row.hashes,
        "hub": { "removed": row.removed, "not_readable": row.unread },
        "destinations": verdicts.iter().map(shown).collect::<Vec<_>>(),
        "not_asked": not_asked(live, &row.tenant, &asked),
        "remains": remains(live, row, verdicts),
        "done_at": now.rfc3339(),
    })
}

fn shown(verdict: &ErasureVerdict) -> Value {
    json!({
        "destination": verdict.destination,
        "route": verdict.route,
        "verdict": verdict.state.name(),
        "reason": verdict.reason.as_ref().map(|reason| &reason.text),
        "at": verdict.at.rfc3339(),
    })
}

/// Destinations of the tenant that nothing told, and why.
pub fn not_asked(live: &Live, tenant: &Name, asked: &BTreeSet<&Name>) -> Vec<Value> {
    let others =
        live.hub.destinations.iter().filter(|one| one.tenant == *tenant && !asked.contains(&one.name));
    let why = |name: &Name| match reached(live, tenant).contains(name) {
        true => format!("a route leads contact.erased to {name}, and its condition was not met"),
        false => format!("no route takes contact.erased to {name}: erase there by hand, or add a route"),
    };
    others.map(|one| json!({ "destination": one.name, "why": why(&one.name) })).collect()
}

/// Destinations that a route takes `contact.erased` of the hub's contacts to.
pub fn reached(live: &Live, tenant: &Name) -> BTreeSet<Name> {
    let (source, erased) = (Name::new(CONTACTS), EventType::known("contact.erased"));
    let routes = live.hub.routes.iter().filter(|route| route.takes(tenant, &source, &erased));
    routes.flat_map(|route| route.to.iter().cloned()).collect()
}

/// Destinations of the tenant that keep contacts and are not pushed what others lost.
fn unpushed<'l>(live: &'l Live, tenant: &'l Name) -> impl Iterator<Item = &'l Name> {
    let keeps = |one: &&Arc<Destination>| {
        one.tenant == *tenant
            && one.resync.is_none()
            && one.kind.sink.as_ref().is_some_and(|sink| sink.audience)
    };
    live.hub.destinations.iter().filter(keeps).map(|one| &one.name)
}

fn remains(live: &Live, row: &ErasureRow, verdicts: &[ErasureVerdict]) -> Vec<String> {
    let mut remains = vec![
        "facts of consent: what, when, which words; without address and machine, as proof".to_owned(),
        "a suppression of the address under a keyed hash, so that it is not mailed or imported again"
            .to_owned(),
        "back-ups made before: a store that is restored from one erases the person again before it serves"
            .to_owned(),
    ];
    for verdict in verdicts.iter().filter(|one| matches!(one.state, State::Dead | State::Discarded)) {
        remains.push(format!("{} was not erased at: do it there by hand", verdict.destination));
    }
    let others = row.removed.get("contacts").copied().unwrap_or_default();
    for name in unpushed(live, &row.tenant).filter(|_| others > 0) {
        remains.push(format!(
            "{name} keeps what {others} other contacts said of the person until they change: give it `resync`, \
             then push with: mailspan destinations resync {name}"
        ));
    }
    if row.unread > 0 {
        remains.push(format!("{} rows that this version cannot read", row.unread));
    }
    remains
}

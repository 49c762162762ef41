//! What was done where, in a form that can be handed out: it names the person by keyed hash alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use mailspan_core::contact::CONTACTS;
use mailspan_core::{EventType, Millis, Name, State};
use mailspan_store::{ErasureRow, ErasureVerdict};
use serde_json::{Value, json};

use crate::app::Live;
use crate::hub::{Destination, Hub};

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
        "remains": remains(&live.hub, row, verdicts),
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
fn unpushed<'h>(hub: &'h Hub, tenant: &'h Name) -> impl Iterator<Item = &'h Name> {
    let keeps = |one: &&Arc<Destination>| {
        one.tenant == *tenant
            && one.resync.is_none()
            && one.kind.sink.as_ref().is_some_and(|sink| sink.audience)
    };
    hub.destinations.iter().filter(keeps).map(|one| &one.name)
}

fn remains(hub: &Hub, row: &ErasureRow, verdicts: &[ErasureVerdict]) -> Vec<String> {
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
    for name in unpushed(hub, &row.tenant).filter(|_| others > 0) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mailspan_core::PersonId;
    use mailspan_store::ErasureStage;

    use super::*;
    use crate::config::{self, Options};

    const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:1"
public_url = "https://hub.example.com"

[storage]
url = "sqlite:hub.db"

[destinations.pushed]
kind = "mailingcore"
auth = { kind = "bearer", token = { env = "KEY" } }
resync = { every = "24h" }

[destinations.unpushed]
kind = "mailingcore"
auth = { kind = "bearer", token = { env = "KEY" } }

[destinations.told]
kind = "http"
url = "https://app.example.com/told"

[[routes]]
name = "all"
from = ["contacts"]
to = ["pushed", "unpushed", "told"]
"#;

    /// Destinations that the certificate says to keep what so many other contacts said of the person.
    #[track_caller]
    fn check(others: u64, expected: &[&str]) {
        let env = |name: &str| (name == "KEY").then(|| "mc_live_0123456789abcdef".to_owned());
        let options = Options { env: &env, names: &[], dev: false };
        let hub = config::read("hub.toml", std::path::Path::new("."), CONFIG, &options)
            .unwrap_or_else(|bad| panic!("{bad}"));
        let row = ErasureRow {
            id: 1,
            tenant: Name::default_tenant(),
            person: PersonId(1),
            event: None,
            asked_at: Millis(0),
            asked_by: None,
            stage: ErasureStage::Certifying,
            removed: BTreeMap::from([("contacts".to_owned(), others)]),
            unread: 0,
            hashes: vec![],
            done_at: None,
            certificate: None,
        };
        let all = remains(&hub, &row, &[]);
        let named = all.iter().filter_map(|line| line.split_once(" keeps what ").map(|parts| parts.0));
        assert_eq!(named.collect::<Vec<_>>(), expected, "{all:?}");
    }

    #[test]
    fn who_is_not_pushed_what_others_lost_is_named() {
        check(0, &[]);
        check(2, &["unpushed"]);
    }
}

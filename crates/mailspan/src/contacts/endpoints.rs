//! Webhook endpoints: destinations that the API makes, with the route that leads to them. They are rows of
//! the store; [`add`] puts them beside what the file configures.

use std::sync::Arc;

use mailspan_connectors::registry::kind;
use mailspan_connectors::signature::digest;
use mailspan_core::{Millis, Name, Named, Rate, Reason, Secret};
use mailspan_egress::Target;
use mailspan_engine::{Calendar, Limits, Trip};
use mailspan_store::{EndpointRow, SealedRow, Store, Trouble};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::seal::Seals;
use crate::hub::{Destination, Hub, Map as RouteMap, Route, Sign};

/// Endpoints of one tenant (proposed reading of MailingCore's pages).
pub const ENDPOINTS_MAX: usize = 10;
/// The documented schedule: five attempts, 10 s doubling after each, without jitter.
const WAITS_MS: [u64; 4] = [10_000, 20_000, 40_000, 80_000];
const TIMEOUT_MS: u64 = 10_000;
/// Requests at once to one endpoint.
const CONCURRENCY: u32 = 8;
/// Requests a second to one endpoint: more would be an attack on a small receiver.
const RATE: Rate = Rate { count: 100, per_ms: 1_000 };
const USER_AGENT: &str = "MailingCore-Webhook/1.0";
const VERSION: u8 = 1;

/// One endpoint, as its row keeps it; its secrets are sealed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub v: u8,
    pub id: String,
    pub url: String,
    pub events: Vec<String>,
    pub active: bool,
    /// The headers of Standard Webhooks beside MailingCore's.
    #[serde(default)]
    pub standard_webhooks: bool,
    /// The last characters of the secret.
    pub secret_hint: String,
    /// Those of the next one, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hint: Option<String>,
    /// From when on the next secret signs, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_from: Option<Millis>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

impl Endpoint {
    pub fn new(id: String, url: String, events: Vec<String>, secret: &str, now: Millis) -> Endpoint {
        Endpoint {
            v: VERSION,
            id,
            url,
            events,
            active: true,
            standard_webhooks: false,
            secret_hint: hint(secret),
            next_hint: None,
            next_from: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// Of the secret that signs now.
    pub fn hint_at(&self, now: Millis) -> &str {
        let next = self.next_hint.as_deref().filter(|_| self.next_from.is_some_and(|from| from <= now));
        next.unwrap_or(&self.secret_hint)
    }
}

/// The last four characters.
pub fn hint(secret: &str) -> String {
    let chars: Vec<char> = secret.chars().collect();
    chars[chars.len().saturating_sub(4)..].iter().collect()
}

/// What a secret is sealed about; `next`: the one that comes.
pub fn about(id: &str, next: bool) -> String {
    if next { format!("endpoint/{id}/next") } else { format!("endpoint/{id}") }
}

/// Puts every active endpoint of the store beside the destinations and routes of the file, and takes away
/// those that were put there before. One whose secret cannot be opened is held: its deliveries are made, and wait
/// until it can be.
pub async fn add(hub: Hub, store: &Store) -> Result<Hub, Trouble> {
    let mut hub = without(hub);
    let rows = store.endpoints().await?;
    if rows.is_empty() {
        return Ok(hub);
    }
    let seals = Seals::of(&hub.storage, &hub.store_keys).map_err(|why| why.to_string());
    let sealed = store.sealed_all().await?;
    for row in rows {
        match made(&row, &sealed, &seals) {
            Ok(Some((destination, route))) => {
                if let Some(why) = destination.held() {
                    tracing::error!(endpoint = %row.name, "a webhook endpoint waits: {}", why.text);
                }
                hub.destinations.push(Arc::new(destination));
                hub.routes.push(Arc::new(route));
            }
            Ok(None) => {}
            Err(why) => tracing::error!(endpoint = %row.name, "a webhook endpoint is not served: {why}"),
        }
    }
    Ok(hub)
}

/// As the file has it.
pub fn without(mut hub: Hub) -> Hub {
    hub.destinations.retain(|destination| !destination.endpoint);
    hub.routes.retain(|route| !matches!(route.map, RouteMap::MailingCore));
    hub
}

/// The name of the route that leads to an endpoint.
pub fn route_name(id: &str) -> Name {
    Name::new(&format!("webhooks-{id}"))
}

/// Nothing for one that is switched off.
fn made(
    row: &EndpointRow,
    sealed: &[SealedRow],
    seals: &Result<Seals, String>,
) -> Result<Option<(Destination, Route)>, String> {
    let endpoint: Endpoint =
        serde_json::from_str(&row.settings).map_err(|error| format!("its row cannot be read: {error}"))?;
    if !endpoint.active {
        return Ok(None);
    }
    let sign = match secrets(row, &endpoint, sealed, seals) {
        Ok((secret, next)) => Sign::MailingCore { secret, next, standard: endpoint.standard_webhooks },
        Err(why) => {
            let text = format!(
                "the secret of this endpoint cannot be opened ({why}): give the store key back that it was sealed under, \
                 or rotate the secret"
            );
            Sign::Lost(Reason::new("secret_lost", text))
        }
    };
    let route = Route {
        name: route_name(&endpoint.id),
        tenant: row.tenant.clone(),
        from: Vec::new(),
        events: endpoint.events.clone(),
        when: None,
        map: RouteMap::MailingCore,
        to: vec![row.name.clone()],
        create_contacts: false,
        notify: None,
    };
    let destination = destination(row, &endpoint, sign)?;
    Ok(Some((destination, route)))
}

/// What signs now, and what will from its time on.
type Secrets = (Named, Option<(Millis, Named)>);

fn secrets(
    row: &EndpointRow,
    endpoint: &Endpoint,
    sealed: &[SealedRow],
    seals: &Result<Seals, String>,
) -> Result<Secrets, String> {
    let find = |next: bool| {
        let about = about(&endpoint.id, next);
        sealed.iter().find(|sealed| sealed.tenant == row.tenant && sealed.about == about)
    };
    let seals = seals.as_ref().map_err(String::clone)?;
    let current = find(false).ok_or("it is gone")?;
    let open = |row: &SealedRow| seals.open(row).map_err(|why| why.to_string());
    let name = format!("endpoint {}", endpoint.id);
    let secret = Named { name: name.clone(), secret: open(current)? };
    let next = match (endpoint.next_from, find(true)) {
        (Some(from), Some(row)) => Some((from, Named { name, secret: open(row)? })),
        _ => None,
    };
    Ok((secret, next))
}

fn destination(row: &EndpointRow, endpoint: &Endpoint, sign: Sign) -> Result<Destination, String> {
    let kind = kind("http").ok_or("kind `http` is not in this build")?;
    let of = kind.sink.as_ref().ok_or("kind `http` is no destination in this build")?;
    // Any answer but 2xx is a failure that is tried again (MailingCore, «webhook retries»); 410 says that
    // nobody will ever listen there.
    let own = json!({ "errors": { "300-599": "retry", "410": "refuse" } });
    let sink = (of.build)(&own).map_err(|bad| bad.text)?;
    let number = match &sign {
        Sign::MailingCore { secret, next, .. } => {
            number(row, secret.secret.expose(), next.as_ref().map(|(_, next)| &next.secret))
        }
        _ => number(row, "", None),
    };
    let limits = Limits {
        rate: RATE,
        concurrency: CONCURRENCY,
        adapts: true,
        batch_max: 1,
        batch_wait_ms: 0,
        calendar: Calendar { waits_ms: WAITS_MS.to_vec(), horizon_ms: None, exact: true },
        retry_after_max_ms: 3_600_000,
        merges: false,
        // The schedule is used up before a breaker would have asked a second time.
        breaker: Trip::OFF,
        daily: None,
        day_starts_ms: 0,
        coalesces: false,
    };
    let target = Target {
        key: format!("{}-{number:016x}", row.name),
        base_url: endpoint.url.clone(),
        concurrency: CONCURRENCY,
        timeout_ms: TIMEOUT_MS,
        ca: None,
        client_certificate: None,
        title_case_headers: false,
    };
    Ok(Destination {
        resync: None,
        name: row.name.clone(),
        tenant: row.tenant.clone(),
        kind,
        target,
        auth: None,
        sign: Some(sign),
        headers: vec![("user-agent".to_owned(), Secret::new(USER_AGENT.to_owned()))],
        limits,
        sink,
        // The vendor promises no order; the hub keeps it for a person, as everywhere.
        ordered: true,
        echo_of: Vec::new(),
        own,
        digest: number,
        endpoint: true,
    })
}

/// Another one for another row or secret.
fn number(row: &EndpointRow, secret: &str, next: Option<&Secret>) -> u64 {
    let next = next.map(Secret::expose).unwrap_or_default();
    let bytes = format!("{}\0{}\0{}\0{next}", row.name, row.settings, secret);
    digest(bytes.as_bytes()).0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

//! The hub as configured: one value, built whole, swapped whole on reload.

use std::path::PathBuf;
use std::sync::Arc;

use mailspan_connectors::contract::{self, Kind};
use mailspan_core::{EventType, Name, Named, Secret, Span};
use mailspan_egress::{Allowance, Target};
use mailspan_engine::Limits;
use mailspan_maps::Program;

use crate::http::own_tls::OwnCertificate;

/// Everything that a configuration file says, checked, with secrets read and programs compiled.
#[derive(Clone)]
pub struct Hub {
    /// The file it was read from; relative paths were taken from its folder.
    pub file: PathBuf,
    /// Read with `--dev`: secrets in clear were taken.
    pub dev: bool,
    pub server: Server,
    pub storage: Storage,
    /// Under which secrets made through the API are sealed: the first seals, every one opens.
    pub store_keys: Vec<Secret>,
    pub egress_allow: Vec<Allowance>,
    /// Requests that wait to be stored before further ones are answered 429.
    pub intake_queue: usize,
    pub retention: Retention,
    /// In the order of the file.
    pub sources: Vec<Arc<Source>>,
    pub destinations: Vec<Arc<Destination>>,
    pub routes: Vec<Arc<Route>>,
    /// What works but should be seen: a short secret, a source without a route.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Server {
    /// Fixed while the process lives; a reload keeps it.
    pub role: Role,
    pub listen: std::net::SocketAddr,
    /// Where operators' paths listen (`/v1`, `/metrics`); `None`: beside the public ones.
    pub operator_listen: Option<std::net::SocketAddr>,
    /// What connections to both addresses are received with; `None`: in clear.
    pub tls: Option<Arc<OwnCertificate>>,
    /// Without a slash at its end.
    pub public_url: String,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    pub body_bytes_max: usize,
    /// Connections of one address at once.
    pub connections_per_address: usize,
}

/// What a process does where several share a store; operators' paths are answered by every one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    #[default]
    All,
    /// Takes webhooks and events; routes and delivers nothing.
    Intake,
    /// Routes, delivers, runs jobs and retention; takes no events.
    Delivery,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::All, Role::Intake, Role::Delivery];

    pub fn name(self) -> &'static str {
        match self {
            Role::All => "all",
            Role::Intake => "intake",
            Role::Delivery => "delivery",
        }
    }

    pub fn takes(self) -> bool {
        self != Role::Delivery
    }

    pub fn delivers(self) -> bool {
        self != Role::Intake
    }
}

#[derive(Debug, Clone)]
pub enum Storage {
    Sqlite {
        path: PathBuf,
    },
    /// The URL may hold a password.
    Postgres {
        url: Secret,
        /// Of the configuration file.
        folder: PathBuf,
    },
}

impl Storage {
    /// True when both name the same store.
    pub fn is(&self, other: &Storage) -> bool {
        match (self, other) {
            (Storage::Sqlite { path: one }, Storage::Sqlite { path: other }) => one == other,
            (Storage::Postgres { url: one, .. }, Storage::Postgres { url: other, .. }) => {
                one.expose() == other.expose()
            }
            _ => false,
        }
    }
}

/// How long what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub requests: Span,
    pub events: Span,
    pub dedupe: Span,
}

pub struct Source {
    pub name: Name,
    pub tenant: Name,
    pub kind: &'static Kind,
    /// `/in/{source}` where the file names none; `/v1/events` for kind `api`.
    pub path: String,
    pub secrets: Vec<Named>,
    /// `user:password` of HTTP Basic, bearer token or secret path segment, required in addition to
    /// the signature, or instead of it where `secrets` is empty.
    pub access: Option<Access>,
    pub logic: Box<dyn contract::Source>,
    pub parse: Option<Program>,
    /// How it is asked for what it did not tell; nothing where it is only listened to.
    pub asked: Option<Asked>,
}

/// The way to a source that is asked.
pub struct Asked {
    pub target: Target,
    pub auth: Auth,
    /// Of kinds that list what has changed.
    pub poll: Option<Arc<dyn contract::Poll>>,
    /// Of kinds that keep a log of a transmission's events.
    pub log: Option<Arc<dyn contract::Log>>,
    /// Between two pages, by the vendor's rate.
    pub pause_ms: u64,
}

/// A credential that stands beside or instead of a signature.
#[derive(Debug, Clone)]
pub enum Access {
    Basic {
        user: String,
        password: Named,
    },
    Bearer {
        token: Named,
    },
    /// The path is `{path}/{secret}`.
    Path {
        secret: Named,
    },
}

pub struct Destination {
    pub name: Name,
    pub tenant: Name,
    pub kind: &'static Kind,
    pub target: Target,
    pub auth: Option<Auth>,
    pub sign: Option<Sign>,
    /// Added to each request; values may be secrets.
    pub headers: Vec<(String, Secret)>,
    pub limits: Limits,
    pub sink: Arc<dyn contract::Sink>,
    /// False where the file says `order = "none"`: every delivery is a lane of its own.
    pub ordered: bool,
    /// Sources of the same account: what came from them is not sent back.
    pub echo_of: Vec<Name>,
    /// How often contacts that changed are told again; nothing: never.
    pub resync: Option<Span>,
    /// The settings of the kind alone, as `sink` was built from them.
    pub own: serde_json::Value,
    /// Of the whole section with its secrets as they were read: another number, another configuration.
    pub digest: u64,
    /// A row of the API, not a section of the file.
    pub endpoint: bool,
}

/// The credential of a destination, or of a source that is asked; added after `plan` or `ask`.
#[derive(Debug, Clone)]
pub enum Auth {
    Bearer {
        token: Named,
    },
    Basic {
        user: String,
        password: Named,
    },
    Header {
        name: String,
        value: Named,
    },
    /// `Basic` with the key alone, without user and colon.
    Key {
        key: Named,
    },
}

/// How a request of kind `http` is signed, after `plan`.
#[derive(Debug, Clone)]
pub enum Sign {
    /// Several secrets while one is rotated: signed with all of them.
    StandardWebhooks { secrets: Vec<Named> },
    /// `X-MailingCore-Signature`, made anew at each attempt; from its time on the next secret signs.
    MailingCore {
        secret: Named,
        next: Option<(mailspan_core::Millis, Named)>,
        /// The headers of Standard Webhooks beside it.
        standard: bool,
    },
    /// `header: prefix + encoding(HMAC(secret, signed))`; `signed` is a recipe of `{timestamp}`,
    /// `{id}`, `{body}`; `timestamp_header` carries the seconds where the recipe has them.
    Hmac {
        secret: Named,
        header: String,
        prefix: String,
        base64: bool,
        sha1: bool,
        signed: String,
        timestamp_header: Option<String>,
    },
}

pub struct Route {
    pub name: Name,
    pub tenant: Name,
    /// Empty: from every source of the tenant.
    pub from: Vec<Name>,
    /// Empty: every type. A pattern ends in `*` for a family: `email.*`.
    pub events: Vec<String>,
    pub when: Option<Program>,
    pub map: Map,
    pub to: Vec<Name>,
    pub create_contacts: bool,
    /// The name of the `http` destination made for the route's `notify` URL.
    pub notify: Option<Name>,
}

#[derive(Clone)]
pub enum Map {
    /// None given: «crm» for a CRM kind, «audience» for a kind that keeps contacts, the event itself for
    /// kind `http`.
    Default,
    /// The body of MailingCore's webhooks, for endpoints.
    MailingCore,
    /// `map = "crm"`: the built-in operations, as JSON for kind `http`.
    Crm,
    /// `map = "audience"`: what a system that keeps contacts is told, as JSON for kind `http`.
    Audience,
    Program(Program),
}

/// The name of the hub's own source: what it reports of itself.
pub const SYSTEM: &str = "system";
/// Names that no configured source may have: routes take from them all the same.
pub const OWN_SOURCES: [&str; 2] = [SYSTEM, mailspan_core::contact::CONTACTS];

impl Route {
    /// By source and type alone; the condition comes after.
    pub fn takes(&self, tenant: &Name, source: &Name, event_type: &EventType) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(family) => event_type.as_str().starts_with(family),
            None => pattern == event_type.as_str(),
        };
        // Who takes everything from everywhere did not ask for what the hub says of itself.
        let from = match self.from.is_empty() {
            true => source.as_str() != SYSTEM || !self.events.is_empty(),
            false => self.from.contains(source),
        };
        *tenant == self.tenant && from && (self.events.is_empty() || self.events.iter().any(fits))
    }
}

impl Hub {
    pub fn source(&self, name: &str) -> Option<&Arc<Source>> {
        self.sources.iter().find(|source| source.name.as_str() == name)
    }

    pub fn destination(&self, name: &str) -> Option<&Arc<Destination>> {
        self.destinations.iter().find(|destination| destination.name.as_str() == name)
    }

    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.name.as_str() == name)
    }
}

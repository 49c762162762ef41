//! The SQLite back end: statements and what keeps them in step.

pub(crate) mod accept;
pub(crate) mod audit;
pub(crate) mod base;
pub(crate) mod claim;
pub(crate) mod contact_list;
pub(crate) mod contact_rows;
pub(crate) mod contacts;
pub(crate) mod counts;
#[cfg(test)]
mod dedupe;
pub(crate) mod deliveries;
pub(crate) mod endpoints;
pub(crate) mod envelope;
pub(crate) mod erase;
pub(crate) mod erase_reads;
pub(crate) mod events;
mod group;
mod handle;
pub(crate) mod held;
pub(crate) mod jobs;
mod journal;
pub(crate) mod keys;
pub(crate) mod known_keys;
pub(crate) mod lanes;
pub(crate) mod leases;
pub(crate) mod ledger;
pub(crate) mod log;
pub(crate) mod migrate;
pub(crate) mod moving;
mod names;
mod no_news;
pub(crate) mod offer;
pub(crate) mod outlived;
pub(crate) mod persons;
#[cfg(test)]
mod plans;
pub(crate) mod proof;
pub(crate) mod recent;
pub(crate) mod refused;
pub(crate) mod retain;
pub(crate) mod rounds;
pub(crate) mod route;
mod runs;
mod said;
pub(crate) mod segments;
pub(crate) mod settle;
pub(crate) mod standing;
pub(crate) mod tenants;
pub(crate) mod unsubscribes;
pub(crate) mod walk;

pub(crate) use base::{Base, compact, connect_checkpointer, connect_reader, connect_writer};
pub use handle::Sqlite;
pub use journal::Journal;
pub use migrate::SCHEMA;
pub(crate) use migrate::migrate;

//! The PostgreSQL back end: the statements of the SQLite one for several nodes on one database. Each node has
//! one writing connection with a group commit of its own, and a few for reads.

mod accept;
mod answers;
mod audit;
mod base;
mod claim;
pub(crate) mod connect;
mod contact_list;
mod contact_reads;
mod contact_rows;
mod contacts;
mod counts;
mod crowd;
mod deliveries;
mod endpoints;
mod erase;
mod erase_reads;
mod events;
mod handle;
mod jobs;
mod journal;
mod keys;
mod lanes;
mod leases;
mod ledger;
mod migrate;
pub(crate) mod moving;
mod names;
mod no_news;
mod offer;
mod open;
mod outlived;
mod persons;
mod proof;
mod reads;
mod refused;
mod retain;
mod rounds;
mod route;
mod said;
mod segments;
mod settle;
mod standing;
mod tenants;
mod tls;
mod unsubscribes;
mod url;
mod walk;
mod writer;

pub use connect::Spawn;
pub use handle::Postgres;
pub use open::{PostgresOptions, open_postgres};
pub use writer::PostgresWriter;

pub(crate) use base::shown;

//! The program as its users see it: a process, its HTTP surface and its command line.
#![allow(clippy::disallowed_methods, reason = "tests start threads and read clocks as their user would")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod api;
mod audience;
mod bad_input;
mod bench;
mod coalesce;
mod commands;
mod contact_files;
mod contacts;
mod crash;
mod crm;
mod deliver;
mod disk;
mod door;
mod endpoints;
mod erase;
mod fleet;
mod fleet_cuts;
mod hardening;
mod hubspot;
mod hubspot_faults;
mod intake;
mod interop;
mod kill;
mod maileon;
mod moving;
mod notices;
mod on_postgres;
mod operations;
mod overload;
mod own_tls;
mod poison;
mod prepare;
mod quota;
mod recovery;
mod reload;
mod replay;
mod roles;
mod store_key;
mod support;
mod sync;
mod tape;
mod tidy;
mod tls;

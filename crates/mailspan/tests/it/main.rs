//! The program as its users see it: a process, its HTTP surface and its command line.
#![allow(clippy::disallowed_methods, reason = "tests start threads and read clocks as their user would")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod bench;
mod commands;
mod crash;
mod deliver;
mod disk;
mod fleet;
mod hardening;
mod intake;
mod interop;
mod kill;
mod poison;
mod recovery;
mod replay;
mod support;
mod sync;
mod tape;
mod tidy;

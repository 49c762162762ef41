//! The `mailspan` binary.

#[cfg(test)]
mod agreement;
mod app;
mod begun;
mod bench;
mod cases;
mod cli;
mod config;
mod contacts;
mod deliver;
mod drill;
mod erase;
mod http;
mod hub;
mod intake;
mod jobs;
mod memory;
mod open;
mod poll;
mod reload;
mod route;
mod runtime;
mod sandbox;
mod serve;
#[cfg(test)]
mod simulation;
mod telemetry;
mod turns;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: memory::Counted = memory::Counted;

fn main() -> ExitCode {
    cli::run()
}

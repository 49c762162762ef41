//! `mailspan check`.

use std::process::ExitCode;

use super::Common;
use crate::{config, runtime};

/// Prints what is there, or every problem with its place.
pub fn run(common: &Common) -> ExitCode {
    let environment = |name: &str| runtime::env(name);
    let options = config::Options { env: &environment, now: runtime::now(), dev: common.dev };
    match config::load(&common.config, &options) {
        Ok(hub) => {
            for warning in &hub.warnings {
                println!("warning: {warning}");
            }
            println!(
                "{} is right: {} sources, {} destinations, {} routes",
                common.config.display(),
                hub.sources.len(),
                hub.destinations.len(),
                hub.routes.len()
            );
            ExitCode::SUCCESS
        }
        Err(problems) => {
            eprint!("{problems}");
            ExitCode::FAILURE
        }
    }
}

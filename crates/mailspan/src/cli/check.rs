//! `mailspan check`.

use std::process::ExitCode;

use clap::Args;

use super::Common;
use crate::{config, runtime};

#[derive(Debug, Args)]
pub struct Check {
    /// Print a commented example instead
    #[arg(long, conflicts_with = "schema")]
    example: bool,
    /// Print the JSON Schema of the configuration, for editors
    #[arg(long)]
    schema: bool,
}

/// Prints what is there, or every problem with its place.
pub fn run(common: &Common, command: &Check) -> ExitCode {
    if command.example {
        print!("{}", config::example());
        return ExitCode::SUCCESS;
    }
    if command.schema {
        println!("{}", config::json_schema());
        return ExitCode::SUCCESS;
    }
    let environment = |name: &str| runtime::env(name);
    let options = config::Options { env: &environment, dev: common.dev };
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

//! `mailspan check`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::Common;
use super::table::say;
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
        say(format_args!("{}", config::example().trim_end()));
        return ExitCode::SUCCESS;
    }
    if command.schema {
        say(format_args!("{}", config::json_schema()));
        return ExitCode::SUCCESS;
    }
    let environment = |name: &str| runtime::env(name);
    let options =
        config::Options { env: &environment, names: &runtime::env_names("MAILSPAN_"), dev: common.dev };
    match config::load(&common.config, &options) {
        Ok(hub) => {
            if common.json {
                let counts = json!({
                    "ok": true, "sources": hub.sources.len(), "destinations": hub.destinations.len(),
                    "routes": hub.routes.len(), "warnings": hub.warnings,
                });
                say(format_args!("{counts}"));
                return ExitCode::SUCCESS;
            }
            for warning in &hub.warnings {
                say(format_args!("warning: {warning}"));
            }
            say(format_args!(
                "{} is right: {} sources, {} destinations, {} routes",
                common.config.display(),
                hub.sources.len(),
                hub.destinations.len(),
                hub.routes.len()
            ));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            if common.json {
                let texts: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
                say(format_args!("{}", json!({ "ok": false, "problems": texts })));
            }
            eprint!("{problems}");
            ExitCode::FAILURE
        }
    }
}

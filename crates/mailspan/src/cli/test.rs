//! `mailspan test`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::Common;
use super::table::say;
use crate::app::Live;
use crate::cases::{self, Case};
use crate::{config, runtime};

/// Stands in for secrets that are not there: a case signs nothing that leaves.
const PLACEHOLDER: &str = "whsec_bWFpbHNwYW4tdGVzdC1zZWNyZXQtMDEyMzQ1Njc4OQ==";

#[derive(Debug, Args)]
pub struct Test {
    /// Files of cases
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write what was made as what is expected
    #[arg(long)]
    write: bool,
}

/// Exit status 1 when a case does not hold.
pub async fn run(common: &Common, command: Test) -> anyhow::Result<ExitCode> {
    let environment = |name: &str| {
        let placeholder = || (!name.starts_with("MAILSPAN_")).then(|| PLACEHOLDER.to_owned());
        runtime::env(name).or_else(placeholder)
    };
    let options = config::Options { env: &environment, names: &runtime::env_names("MAILSPAN_"), dev: true };
    let hub = config::load(&common.config, &options)
        .map_err(|problems| anyhow::anyhow!("the configuration is not right\n{problems}"))?;
    let live = Live::without_store(hub);
    let (mut passed, mut failed) = (0, 0);
    for file in &command.files {
        let mut all = cases::read(file)?;
        for case in &mut all {
            if hold(&live, case, command.write).await { passed += 1 } else { failed += 1 }
        }
        if command.write {
            let text = serde_json::to_string_pretty(&all)? + "\n";
            std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        }
    }
    say(format_args!("{passed} passed, {failed} failed"));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn hold(live: &Live, case: &mut Case, write: bool) -> bool {
    let differences = match cases::requests(live, case).await {
        Ok(made) if write => {
            case.expect = made;
            Vec::new()
        }
        Ok(made) => cases::differences(&case.expect, &made),
        Err(why) => vec![why],
    };
    let mark = if differences.is_empty() { "ok   " } else { "FAIL " };
    say(format_args!("{mark} {}", case.name));
    for difference in &differences {
        say(format_args!("      {difference}"));
    }
    differences.is_empty()
}

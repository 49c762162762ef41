//! `mailspan audit`.

use std::process::ExitCode;

use super::Common;
use super::client::Client;
use super::progress::Progress;
use super::table;

/// Exit status 1 when the sums do not add up.
pub async fn run(common: &Common) -> anyhow::Result<ExitCode> {
    let client = Client::open(common).await?;
    let progress = Progress::new(common.json);
    let audit = progress.during("adding up", client.get("/v1/audit")).await;
    drop(progress);
    client.close().await;
    let audit = audit?;
    table::one(common, &audit);
    Ok(if audit["adds_up"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

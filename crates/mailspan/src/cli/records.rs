//! `mailspan ledger`, `refused`, `quarantined`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::deliveries::pages;
use super::{Common, table};

#[derive(Debug, Subcommand)]
pub enum Ledger {
    /// List facts, the oldest first; `--json` is the export
    List {
        /// An address
        #[arg(long)]
        subject: Option<String>,
        #[arg(long)]
        limit: Option<usize>,
    },
}

#[derive(Debug, Args)]
pub struct Refused {
    #[arg(long)]
    source: Option<String>,
    #[arg(long)]
    limit: Option<usize>,
}

#[derive(Debug, Args)]
pub struct Quarantined {
    #[arg(long)]
    limit: Option<usize>,
}

pub async fn ledger(common: &Common, command: Ledger) -> anyhow::Result<ExitCode> {
    let Ledger::List { subject, limit } = command;
    let query: Vec<(&str, &str)> =
        subject.as_deref().map(|subject| ("subject", subject)).into_iter().collect();
    let items = pages(common, "/v1/ledger", &query, limit).await?;
    let columns = ["id", "what", "subject", "happened_at", "learned_at", "event_id", "request_digest"];
    table::rows(common, &columns, &items, "no consent fact is known");
    Ok(ExitCode::SUCCESS)
}

pub async fn refused(common: &Common, command: Refused) -> anyhow::Result<ExitCode> {
    let query: Vec<(&str, &str)> =
        command.source.as_deref().map(|source| ("source", source)).into_iter().collect();
    let items = pages(common, "/v1/refused", &query, command.limit).await?;
    table::rows(common, &["at", "source", "check", "text", "hint"], &items, "nothing was refused");
    Ok(ExitCode::SUCCESS)
}

pub async fn quarantined(common: &Common, command: Quarantined) -> anyhow::Result<ExitCode> {
    let items = pages(common, "/v1/quarantined", &[], command.limit).await?;
    table::rows(common, &["received_at", "source", "part", "text", "raw"], &items, "nothing is quarantined");
    Ok(ExitCode::SUCCESS)
}

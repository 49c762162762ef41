//! `mailspan dead-letters`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::Client;
use super::deliveries::{Filter, list, segment, show};
use super::{Common, table};

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List what needs a human, the newest first
    List(Dead),
    /// Show one with its attempts: the request without credentials, the answer
    Show { id: String },
    /// Try again with today's route and map
    Replay(Replay),
    /// Give up, with a note
    Discard(Discard),
}

#[derive(Debug, Args)]
pub struct Dead {
    /// An address or external id
    #[arg(long)]
    subject: Option<String>,
    #[arg(long)]
    destination: Option<String>,
    /// An event's id
    #[arg(long)]
    event: Option<String>,
    /// At most so many rows; 1,000 in a table, all with --json
    #[arg(long)]
    limit: Option<usize>,
}

#[derive(Debug, Args)]
pub struct Replay {
    #[arg(required = true)]
    ids: Vec<String>,
    /// Do again what is done already
    #[arg(long)]
    again: bool,
}

#[derive(Debug, Args)]
pub struct Discard {
    #[arg(required = true)]
    ids: Vec<String>,
    /// Why; kept with the delivery
    #[arg(long, default_value = "")]
    note: String,
}

pub async fn run(common: &Common, command: DeadLetters) -> anyhow::Result<ExitCode> {
    match command {
        DeadLetters::List(Dead { subject, destination, event, limit }) => {
            let filter = Filter { subject, destination, state: Some("dead".to_owned()), event, limit };
            list(common, &filter, "there are no dead letters").await
        }
        DeadLetters::Show { id } => show(common, &id).await,
        DeadLetters::Replay(replay) => {
            each(common, &replay.ids, "replay", &json!({ "again": replay.again })).await
        }
        DeadLetters::Discard(discard) => {
            each(common, &discard.ids, "discard", &json!({ "note": discard.note })).await
        }
    }
}

/// Does all it can; exit status 1 when one was refused.
async fn each(
    common: &Common,
    ids: &[String],
    verb: &str,
    body: &serde_json::Value,
) -> anyhow::Result<ExitCode> {
    let client = Client::open(common).await?;
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match client.post(&format!("/v1/deliveries/{}/{verb}", segment(id)), body).await {
            Ok(row) if common.json => table::one(common, &row),
            Ok(row) => table::say(format_args!("{id}: {}", row["state"].as_str().unwrap_or_default())),
            Err(error) => {
                eprintln!("mailspan: {id}: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    client.close().await;
    Ok(code)
}

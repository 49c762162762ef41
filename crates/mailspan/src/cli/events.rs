//! `mailspan events` and `mailspan explain`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::Client;
use super::deliveries::{pages, segment};
use super::send::{self, Send};
use super::{Common, table};

#[derive(Debug, Subcommand)]
pub enum Events {
    /// List events, the newest first
    List {
        #[arg(long)]
        source: Option<String>,
        #[arg(long = "type")]
        event_type: Option<String>,
        /// An address or external id
        #[arg(long)]
        subject: Option<String>,
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one event to the letter, with the raw request that it came in
    Show { id: String },
    /// Sign a sample with the source's secret and send it through the front door
    Send(Send),
}

#[derive(Debug, Args)]
pub struct Explain {
    /// An event's id
    event: String,
}

pub async fn run(common: &Common, command: Events) -> anyhow::Result<ExitCode> {
    match command {
        Events::List { source, event_type, subject, limit } => {
            let given = [("source", &source), ("type", &event_type), ("subject", &subject)];
            let query: Vec<(&str, &str)> = given
                .iter()
                .filter_map(|(name, value)| value.as_deref().map(|value| (*name, value)))
                .collect();
            let items = pages(common, "/v1/events", &query, limit).await?;
            let columns = ["id", "received_at", "source", "type", "subject", "place", "deliveries"];
            let none = if query.is_empty() { "no event has arrived yet" } else { "no such event" };
            table::rows(common, &columns, &items, none);
        }
        Events::Show { id } => {
            table::one(common, &get(common, &format!("/v1/events/{}", segment(&id))).await?)
        }
        Events::Send(command) => return send::run(common, command).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(common: &Common, path: &str) -> anyhow::Result<Value> {
    let client = Client::open(common).await?;
    let answer = client.get(path).await;
    client.close().await;
    answer
}

pub async fn explain(common: &Common, command: Explain) -> anyhow::Result<ExitCode> {
    let value = get(common, &format!("/v1/events/{}/explain", segment(&command.event))).await?;
    if common.json {
        table::one(common, &value);
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").replace('\n', " ");
    table::say(format_args!(
        "{} about {}, from {}: {}",
        text(&value["type"]),
        text(&value["subject"]),
        text(&value["source"]),
        text(&value["place"])
    ));
    if value["several_recipients"] == true {
        table::say(format_args!(
            "its transmission has several recipients: record ids in its metadata decide nothing"
        ));
    }
    for route in value["routes"].as_array().into_iter().flatten() {
        let mark = if route["matched"] == true { "matched" } else { "not matched" };
        table::say(format_args!("\nroute {}: {mark}: {}", text(&route["route"]), text(&route["why"])));
        for row in route["deliveries"].as_array().into_iter().flatten() {
            let error = row["last_error"].as_str().map(|error| format!(" ({error})")).unwrap_or_default();
            let by = row["carried_by"].as_str().map(|id| format!(" into delivery {id}")).unwrap_or_default();
            table::say(format_args!(
                "  delivery {} to {}: {}{by}, attempts: {}{error}",
                text(&row["id"]),
                text(&row["destination"]),
                text(&row["state"]),
                row["attempts"]
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

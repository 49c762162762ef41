//! `mailspan destinations`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::deliveries::segment;
use super::{Common, table};

#[derive(Debug, Subcommand)]
pub enum Destinations {
    /// State, queue and reason of each
    List,
    /// One harmless exchange: do address and credential work?
    Test { id: String },
    /// Send nothing for now; the queue is kept
    Pause {
        id: String,
        /// Why; shown in the listing
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Send again
    Resume { id: String },
    /// Tell those contacts again that changed since the last push that arrived; a hub that runs does it
    Resync { id: String },
    /// Show which properties, unique keys and scopes are missing at the vendor
    Prepare {
        id: String,
        /// Create what is missing
        #[arg(long)]
        yes: bool,
    },
}

pub async fn run(common: &Common, command: Destinations) -> anyhow::Result<ExitCode> {
    let client = Client::open(common).await?;
    let done = carry_out(common, &client, command).await;
    client.close().await;
    done
}

async fn carry_out(common: &Common, client: &Client, command: Destinations) -> anyhow::Result<ExitCode> {
    let path = |id: &str, verb: &str| format!("/v1/destinations/{}/{verb}", segment(id));
    match command {
        Destinations::List => {
            let answer = client.get("/v1/destinations").await?;
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            let columns = ["id", "kind", "state", "pending", "dead", "oldest", "through_at", "reason"];
            table::rows(common, &columns, &items, "the configuration has no destinations");
        }
        Destinations::Test { id } => {
            let answer = client.post(&path(&id, "test"), &json!({})).await?;
            table::one(common, &answer);
            if answer["ok"] != true {
                return Ok(ExitCode::FAILURE);
            }
        }
        Destinations::Pause { id, note } => {
            table::one(common, &client.post(&path(&id, "pause"), &json!({ "note": note })).await?);
        }
        Destinations::Resume { id } => {
            table::one(common, &client.post(&path(&id, "resume"), &json!({})).await?)
        }
        Destinations::Resync { id } => {
            table::one(common, &client.post(&path(&id, "resync"), &json!({})).await?)
        }
        Destinations::Prepare { id, yes } => {
            let answer = client.post(&path(&id, "prepare"), &json!({ "yes": yes })).await?;
            return Ok(prepared(common, &id, yes, &answer));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn prepared(common: &Common, id: &str, yes: bool, answer: &Value) -> ExitCode {
    if common.json {
        table::one(common, answer);
    }
    let texts = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let missing = texts("missing");
    if !common.json {
        for text in &missing {
            table::say(format_args!("missing: {}", text.as_str().unwrap_or_default()));
        }
        for text in texts("created") {
            table::say(format_args!("created: {}", text.as_str().unwrap_or_default()));
        }
        match (missing.is_empty(), yes) {
            (true, _) => table::say(format_args!("{id} has all that is needed")),
            (false, false) => table::say(format_args!(
                "`mailspan destinations prepare {id} --yes` creates what can be created"
            )),
            (false, true) => {}
        }
    }
    if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! `mailspan sources`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::deliveries::segment;
use super::{Common, table};

#[derive(Debug, Subcommand)]
pub enum Sources {
    /// Each source: whether it is asked, when next, and how much of what it lists had been told before
    List,
    /// One source, day by day: what it lists against what was known here
    Show { id: String },
    /// Ask now until the round ends, whatever the source waited for
    Poll { id: String },
}

/// What a command asks at most: a first round over a million contacts has 2,000 pages, 50 a turn.
const TURNS_MAX: u32 = 10_000;

pub async fn run(common: &Common, command: Sources) -> anyhow::Result<ExitCode> {
    let client = Client::open(common).await?;
    let done = carry_out(common, &client, command).await;
    client.close().await;
    done
}

async fn carry_out(common: &Common, client: &Client, command: Sources) -> anyhow::Result<ExitCode> {
    match command {
        Sources::List => {
            let answer = client.get("/v1/sources").await?;
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            let columns =
                ["id", "kind", "state", "every", "due", "listed", "known", "completeness", "reason"];
            table::rows(common, &columns, &items, "the configuration has no sources");
        }
        Sources::Show { id } => {
            let mut answer = client.get(&format!("/v1/sources/{}", segment(&id))).await?;
            if common.json {
                table::one(common, &answer);
                return Ok(ExitCode::SUCCESS);
            }
            let days = answer["days"].take();
            if let Some(members) = answer.as_object_mut() {
                members.remove("days");
            }
            table::one(common, &answer);
            let columns = ["day", "type", "listed", "known", "found", "completeness"];
            let none = "it has listed nothing since it is asked";
            table::rows(common, &columns, days.as_array().map_or(&[], Vec::as_slice), none);
        }
        Sources::Poll { id } => return poll(common, client, &id).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn poll(common: &Common, client: &Client, id: &str) -> anyhow::Result<ExitCode> {
    let all = ask(client, id).await?;
    table::one(common, &all);
    Ok(if all["reason"].is_null() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Turn after turn until the round ends, or nothing comes of it; the sums of all.
pub async fn ask(client: &Client, id: &str) -> anyhow::Result<Value> {
    let path = format!("/v1/sources/{}/poll", segment(id));
    let mut all = json!({ "id": id });
    for _ in 0..TURNS_MAX {
        let turned = client.post(&path, &json!({})).await?;
        for name in ["pages", "found", "known", "again", "quarantined"] {
            let sum = |value: &Value| value[name].as_u64().unwrap_or(0);
            all[name] = json!(sum(&all) + sum(&turned));
        }
        for name in ["more", "reason", "paused"] {
            all[name] = turned[name].clone();
        }
        if all["more"] != true || !all["reason"].is_null() {
            break;
        }
    }
    Ok(all)
}

//! `mailspan jobs`, and waiting for one.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::deliveries::{pages, segment};
use super::progress::Progress;
use super::{Common, table};
use crate::runtime;

#[derive(Debug, Subcommand)]
pub enum Jobs {
    /// List long work, the newest first
    List {
        /// At most so many rows; 1,000 in a table, all with --json
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one: what was asked for, how far it is, what it found
    Show { id: String },
    /// End it; what is done stays done
    Cancel { id: String },
    /// Stop it for a while
    Pause { id: String },
    /// Let it go on
    Resume { id: String },
}

const COLUMNS: &[&str] = &["id", "asked_at", "kind", "state", "dry_run", "percent", "summary", "waits_for"];
const LOOK_MS: u64 = 200;

pub async fn run(common: &Common, command: Jobs) -> anyhow::Result<ExitCode> {
    let (id, verb) = match command {
        Jobs::List { limit } => {
            let items = pages(common, "/v1/jobs", &[], limit).await?;
            table::rows(common, COLUMNS, &items, "there are no jobs");
            return Ok(ExitCode::SUCCESS);
        }
        Jobs::Show { id } => (id, None),
        Jobs::Cancel { id } => (id, Some("cancel")),
        Jobs::Pause { id } => (id, Some("pause")),
        Jobs::Resume { id } => (id, Some("resume")),
    };
    let client = Client::open(common).await?;
    let path = format!("/v1/jobs/{}", segment(&id));
    let row = match verb {
        None => client.get(&path).await,
        Some(verb) => client.post(&format!("{path}/{verb}"), &json!({})).await,
    };
    client.close().await;
    table::one(common, &row?);
    Ok(ExitCode::SUCCESS)
}

/// Begins a job, and follows it to its end where that is wanted.
pub async fn begin(common: &Common, path: &str, body: &Value, wait: bool) -> anyhow::Result<ExitCode> {
    let client = Client::open(common).await?;
    let job = follow(common, &client, path, body, wait).await;
    client.close().await;
    let job = job?;
    let state = job["state"].as_str().unwrap_or_default().to_owned();
    if common.json {
        table::one(common, &job);
    } else {
        say(common, &job, &state);
    }
    Ok(if matches!(state.as_str(), "failed" | "cancelled") { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn say(common: &Common, job: &Value, state: &str) {
    let text = |member: &str| job[member].as_str().unwrap_or_default().to_owned();
    let id = text("id");
    if !matches!(state, "done" | "failed" | "cancelled") {
        table::say(format_args!("job {id} is {state}: `mailspan jobs show {id}` says how far it is"));
        return;
    }
    if let Some(counts) = job["counts"].as_array().filter(|counts| !counts.is_empty()) {
        table::rows(common, &["destination", "state", "reason", "count"], counts, "");
    }
    table::say(format_args!("job {id} is {state}: {}", text("summary")));
}

async fn follow(
    common: &Common,
    client: &Client,
    path: &str,
    body: &Value,
    wait: bool,
) -> anyhow::Result<Value> {
    let mut job = client.post(path, body).await?;
    let path = format!("/v1/jobs/{}", segment(job["id"].as_str().unwrap_or_default()));
    let progress = Progress::new(common.json);
    while wait && matches!(job["state"].as_str(), Some("running" | "paused")) {
        if client.is_in_process() {
            eprintln!("no hub runs: the job goes on when one is started");
            break;
        }
        progress.say(&so_far(&job));
        runtime::sleep(LOOK_MS).await;
        job = client.get(&path).await?;
    }
    Ok(job)
}

fn so_far(job: &Value) -> String {
    let waits = match job["waits_for"].as_array().filter(|names| !names.is_empty()) {
        Some(_) => " (waits: enough replays are pending)",
        None => "",
    };
    let (percent, done) = (job["percent"].as_u64().unwrap_or(0), job["done"].as_u64().unwrap_or(0));
    format!("{percent:3} %  {done} done{waits}")
}

//! `mailspan dead-letters`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::deliveries::{Filter, list, segment, show};
use super::progress::Progress;
use super::{Common, jobs, table};

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List what needs a human, the newest first
    List(Dead),
    /// Show one with its attempts: the request without credentials, the answer
    Show { id: String },
    /// Try again with today's route and map: some, all that match, or one as you mended it
    Replay(Box<Replay>),
    /// Give up, with a note: some, or all that match
    Discard(Box<Discard>),
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
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Do again what is done already
    #[arg(long)]
    again: bool,
    /// A corrected event for one dead letter, as JSON; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all", "again"])]
    with: Option<PathBuf>,
    /// Deliveries in this state; may be given several times [default: dead]
    #[arg(long, value_name = "STATE", requires = "all", conflicts_with = "ids")]
    state: Vec<String>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct Discard {
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Why; kept with the delivery
    #[arg(long, default_value = "")]
    note: String,
    #[command(flatten)]
    selection: Selection,
}

/// Which, where all are meant that match.
#[derive(Debug, Args)]
pub struct Selection {
    /// All that match the options below, page by page beside live traffic
    #[arg(long)]
    all: bool,
    #[arg(long, requires = "all", conflicts_with = "ids")]
    destination: Option<String>,
    #[arg(long, requires = "all", conflicts_with = "ids")]
    route: Option<String>,
    /// The code of a reason, as `dead-letters show` has it
    #[arg(long, value_name = "CODE", requires = "all", conflicts_with = "ids")]
    reason: Option<String>,
    /// An event type, or a family: email.*
    #[arg(long = "type", value_name = "TYPE", requires = "all", conflicts_with = "ids")]
    event_type: Option<String>,
    /// An address or external id
    #[arg(long, requires = "all", conflicts_with = "ids")]
    subject: Option<String>,
    /// Events received from then on: 2026-05-01T00:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", requires = "all", conflicts_with = "ids")]
    since: Option<String>,
    /// Events received before then
    #[arg(long, value_name = "TIME", requires = "all", conflicts_with = "ids")]
    until: Option<String>,
    /// Another tenant than the destination's, or `default`
    #[arg(long, requires = "all", conflicts_with = "ids")]
    tenant: Option<String>,
    /// Only count, by destination, state and reason; waits for the result
    #[arg(long, requires = "all", conflicts_with = "ids")]
    dry_run: bool,
    /// Stay until it is done, with its progress
    #[arg(long, requires = "all", conflicts_with = "ids")]
    wait: bool,
}

impl Selection {
    fn body(&self) -> Value {
        let mut body = json!({
            "tenant": self.tenant, "destination": self.destination, "route": self.route, "reason": self.reason,
            "type": self.event_type, "subject": self.subject, "since": self.since, "until": self.until,
            "dry_run": self.dry_run,
        });
        if let Some(members) = body.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        body
    }

    fn waits(&self) -> bool {
        self.wait || self.dry_run
    }
}

pub async fn run(common: &Common, command: DeadLetters) -> anyhow::Result<ExitCode> {
    match command {
        DeadLetters::List(Dead { subject, destination, event, limit }) => {
            let filter = Filter { subject, destination, state: Some("dead".to_owned()), event, limit };
            list(common, &filter, "there are no dead letters").await
        }
        DeadLetters::Show { id } => show(common, &id).await,
        DeadLetters::Replay(replay) => replay_them(common, &replay).await,
        DeadLetters::Discard(discard) if discard.selection.all => {
            let mut body = discard.selection.body();
            body["note"] = json!(discard.note);
            jobs::begin(common, "/v1/discards", &body, discard.selection.waits()).await
        }
        DeadLetters::Discard(discard) => {
            each(common, &discard.ids, "discard", &json!({ "note": discard.note })).await
        }
    }
}

async fn replay_them(common: &Common, replay: &Replay) -> anyhow::Result<ExitCode> {
    if replay.selection.all {
        let mut body = replay.selection.body();
        body["states"] = json!(replay.state);
        body["again"] = json!(replay.again);
        return jobs::begin(common, "/v1/replays", &body, replay.selection.waits()).await;
    }
    if let Some(file) = &replay.with {
        ensure!(replay.ids.len() == 1, "--with corrects one dead letter: give one id");
        return correct(common, &replay.ids[0], file).await;
    }
    let code = each(common, &replay.ids, "replay", &json!({ "again": replay.again })).await?;
    if let [id] = &replay.ids[..] {
        settled(common, id).await?;
    }
    Ok(code)
}

async fn correct(common: &Common, id: &str, file: &Path) -> anyhow::Result<ExitCode> {
    let text = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()).context("read standard input")?,
        _ => std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?,
    };
    let client = Client::open(common).await?;
    let row = client.post_text(&format!("/v1/deliveries/{}/correct", segment(id)), text).await;
    client.close().await;
    let row = row?;
    if common.json {
        table::one(common, &row);
    } else {
        let event = row["replaced_by"].as_str().unwrap_or_default();
        table::say(format_args!("{id}: discarded, replaced by event {event}; `mailspan explain {event}`"));
    }
    Ok(ExitCode::SUCCESS)
}

/// At most half a second, as long as nobody would notice.
const SETTLED_LOOKS_MAX: u32 = 10;
const SETTLED_REST_MS: u64 = 50;

/// Does all it can, a line each: progress only where those lines go elsewhere. Exit status 1 when one was refused.
async fn each(common: &Common, ids: &[String], verb: &str, body: &Value) -> anyhow::Result<ExitCode> {
    let client = Client::open(common).await?;
    let mut code = ExitCode::SUCCESS;
    let progress = Progress::new(common.json || std::io::stdout().is_terminal());
    for (n, id) in ids.iter().enumerate() {
        progress.count(n as u64, "done");
        match client.post(&format!("/v1/deliveries/{}/{verb}", segment(id)), body).await {
            Ok(row) if common.json => table::one(common, &row),
            Ok(row) => table::say(format_args!("{id}: {}", row["state"].as_str().unwrap_or_default())),
            Err(error) => {
                eprintln!("mailspan: {id}: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    drop(progress);
    client.close().await;
    Ok(code)
}

/// Who replays one looks at it next: it is given a moment to be sent and settled.
async fn settled(common: &Common, id: &str) -> anyhow::Result<()> {
    let client = Client::open(common).await?;
    for _ in 0..SETTLED_LOOKS_MAX {
        let row = client.get(&format!("/v1/deliveries/{}", segment(id))).await;
        // What cannot be read was said by the replay already.
        if row.map_or(true, |row| row["state"] != "pending") {
            break;
        }
        crate::runtime::sleep(SETTLED_REST_MS).await;
    }
    client.close().await;
    Ok(())
}

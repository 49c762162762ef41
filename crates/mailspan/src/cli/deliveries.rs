//! `mailspan deliveries`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::client::Client;
use super::progress::Progress;
use super::{Common, table};

#[derive(Debug, Subcommand)]
pub enum Deliveries {
    /// List deliveries, the newest first
    List(Filter),
    /// Show one delivery with its attempts
    Show { id: String },
}

#[derive(Debug, Args, Default)]
pub struct Filter {
    /// An address or external id
    #[arg(long)]
    pub subject: Option<String>,
    #[arg(long)]
    pub destination: Option<String>,
    /// pending, delivered, skipped, coalesced, dead or discarded
    #[arg(long)]
    pub state: Option<String>,
    /// An event's id
    #[arg(long)]
    pub event: Option<String>,
    /// At most so many rows; 1,000 in a table, all with --json
    #[arg(long)]
    pub limit: Option<usize>,
}

pub const COLUMNS: &[&str] =
    &["id", "created_at", "type", "subject", "route", "destination", "state", "attempts", "last_error"];

pub async fn run(common: &Common, command: Deliveries) -> anyhow::Result<ExitCode> {
    match command {
        Deliveries::List(filter) => list(common, &filter, "there are no such deliveries").await,
        Deliveries::Show { id } => show(common, &id).await,
    }
}

pub async fn list(common: &Common, filter: &Filter, none: &str) -> anyhow::Result<ExitCode> {
    let mut query = Vec::new();
    let pairs = [
        ("subject", &filter.subject),
        ("destination", &filter.destination),
        ("state", &filter.state),
        ("event", &filter.event),
    ];
    for (name, value) in pairs {
        if let Some(value) = value {
            query.push((name, value.as_str()));
        }
    }
    let items = pages(common, "/v1/deliveries", &query, filter.limit).await?;
    let mut columns = COLUMNS.to_vec();
    if items.iter().any(|row| row["carried_by"].is_string()) {
        columns.push("carried_by");
    }
    table::rows(common, &columns, &items, none);
    Ok(ExitCode::SUCCESS)
}

pub async fn show(common: &Common, id: &str) -> anyhow::Result<ExitCode> {
    let client = Client::open(common).await?;
    let row = client.get(&format!("/v1/deliveries/{}", segment(id))).await;
    client.close().await;
    table::one(common, &row?);
    Ok(ExitCode::SUCCESS)
}

/// A table of more is not read.
const TABLE_ROWS: usize = 1_000;
/// What a listing holds in memory: about a kilobyte a row.
const ROWS_MAX: usize = 1_000_000;

/// One path segment, escaped.
pub fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// All rows of a listing up to `limit`, page after page; without one 1,000 in a table, a million as JSON.
pub async fn pages(
    common: &Common,
    path: &str,
    query: &[(&str, &str)],
    limit: Option<usize>,
) -> anyhow::Result<Vec<serde_json::Value>> {
    if limit == Some(0) {
        anyhow::bail!("--limit: expected 1 at least");
    }
    let limit = limit.unwrap_or(if common.json { ROWS_MAX } else { TABLE_ROWS });
    let client = Client::open(common).await?;
    let progress = Progress::new(common.json);
    let rows = read_pages(&client, path, query, limit, &progress).await;
    drop(progress);
    client.close().await;
    let (rows, more) = rows?;
    if more {
        eprintln!("there are more than these {}: raise --limit", rows.len());
    }
    Ok(rows)
}

async fn read_pages(
    client: &Client,
    path: &str,
    query: &[(&str, &str)],
    limit: usize,
    progress: &Progress,
) -> anyhow::Result<(Vec<serde_json::Value>, bool)> {
    let mut items = Vec::new();
    // The ledger is read forward, everything else from the newest back.
    let cursor = if path == "/v1/ledger" { "after" } else { "before" };
    let mut before: Option<String> = None;
    loop {
        let page = limit.saturating_sub(items.len()).clamp(1, mailspan_core::limits::PAGE_ROWS_MAX);
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(query).append_pair("limit", &page.to_string());
        if let Some(before) = &before {
            text.append_pair(cursor, before);
        }
        let mut answer = client.get(&format!("{path}?{}", text.finish())).await?;
        if let serde_json::Value::Array(rows) = answer["items"].take() {
            items.extend(rows);
        }
        progress.count(items.len() as u64, "rows");
        before = answer["next"].as_str().map(str::to_owned);
        if before.is_none() || items.len() >= limit {
            items.truncate(limit);
            return Ok((items, before.is_some()));
        }
    }
}

//! `mailspan contacts person`, `erase` and `erasures`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::deliveries::segment;
use super::{Common, table};

#[derive(Debug, Args)]
pub struct Person {
    /// An address or external id
    who: String,
    #[arg(long, default_value = "default")]
    pub tenant: String,
    /// The file to write
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Erase {
    /// An address or external id
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    who: Option<String>,
    #[arg(long, default_value = "default")]
    pub tenant: String,
    /// Say what would be removed, and remove nothing
    #[arg(long, conflicts_with = "from")]
    dry_run: bool,
    /// A list of erasures (`FILE.erased`, or `contacts erasures identities`): erase again who is here from a back-up
    #[arg(long)]
    from: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Erasures {
    /// List erasures, newest first
    List {
        /// Of one tenant
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Show one, with its certificate
    Show {
        /// Its number
        id: u64,
    },
    /// Keyed hashes of all who were erased: keep it apart from the back-ups of a PostgreSQL store
    Identities,
}

/// Lines that one request takes.
const LINES_MAX: usize = 1_000;

pub async fn person(client: &Client, command: &Person) -> anyhow::Result<()> {
    let answer = client.get(&format!("/v1/persons/export?subject={}", segment(&command.who))).await?;
    let text = serde_json::to_string_pretty(&answer)? + "\n";
    match &command.output {
        Some(path) => std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?,
        None => table::say(format_args!("{}", text.trim_end())),
    }
    Ok(())
}

pub async fn erase(common: &Common, client: &Client, command: &Erase) -> anyhow::Result<()> {
    if let Some(path) = &command.from {
        return from_list(common, client, path).await;
    }
    let Some(who) = &command.who else { bail!("name an address or external id") };
    let ask = json!({ "subject": who, "dry_run": command.dry_run });
    table::one(common, &client.post("/v1/erasures", &ask).await?);
    Ok(())
}

async fn from_list(common: &Common, client: &Client, path: &PathBuf) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut erased = 0;
    for part in lines.chunks(LINES_MAX) {
        let answer = client.post("/v1/erasures/again", &json!({ "lines": part })).await?;
        erased += answer["erased"].as_u64().unwrap_or(0);
    }
    table::one(common, &json!({ "lines": lines.len(), "erased": erased }));
    Ok(())
}

pub async fn look(common: &Common, client: &Client, which: &Erasures) -> anyhow::Result<()> {
    match which {
        Erasures::List { tenant } => {
            let of = tenant.as_ref().map(|tenant| format!("?tenant={}", segment(tenant))).unwrap_or_default();
            let answer = client.get(&format!("/v1/erasures{of}")).await?;
            let rows: Vec<Value> = answer["items"].as_array().cloned().unwrap_or_default();
            let columns = ["id", "tenant", "stage", "asked_at", "asked_by", "done_at"];
            table::rows(common, &columns, &rows, "nobody was erased");
        }
        Erasures::Show { id } => table::one(common, &client.get(&format!("/v1/erasures/{id}")).await?),
        Erasures::Identities => {
            let answer = client.get("/v1/erasures/identities").await?;
            for line in answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                table::say(format_args!("{line}"));
            }
        }
    }
    Ok(())
}

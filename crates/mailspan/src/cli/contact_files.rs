//! `mailspan contacts import` and `export`: files of contacts, read and written piece by piece.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use mailspan_core::clip;
use serde_json::{Value, json};

use super::client::Client;
use super::deliveries::segment;
use super::{Common, table};
use crate::contacts::import::file::{Format, Rows, formula};

/// Rows of one request: a transaction of some tens of milliseconds, so live writes are not held up.
const PAGE_ROWS: usize = 500;
/// Contacts of one request of an export.
const EXPORT_ROWS: usize = 500;

#[derive(Debug, Args)]
pub struct Import {
    /// A CSV file with a header, or one JSON object a line
    file: PathBuf,
    #[arg(long, default_value = "default")]
    pub tenant: String,
    /// Guessed from the file's name where it is not given
    #[arg(long)]
    format: Option<Format>,
    /// Say what would happen, write nothing
    #[arg(long)]
    dry_run: bool,
    /// When those who are opted in agreed, where the rows do not say it (RFC 3339)
    #[arg(long, requires = "consent_note")]
    consent_at: Option<String>,
    /// How they agreed, and where that is kept
    #[arg(long)]
    consent_note: Option<String>,
    /// Write refused rows to this file, one JSON object a line
    #[arg(long)]
    refused: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Export {
    #[arg(long, default_value = "default")]
    pub tenant: String,
    #[arg(long, default_value = "ndjson")]
    format: Format,
    /// Where to write; standard output where it is not given
    #[arg(long, short)]
    output: Option<PathBuf>,
}

pub async fn import(common: &Common, client: &Client, command: &Import) -> anyhow::Result<()> {
    let name = command.file.display().to_string();
    let format = match command.format {
        Some(format) => format,
        None if name.ends_with(".csv") => Format::Csv,
        None if name.ends_with(".ndjson") || name.ends_with(".jsonl") => Format::Ndjson,
        None => bail!("{name} is neither .csv nor .ndjson: say --format csv or --format ndjson"),
    };
    // A file that is no table begins no job.
    let mut rows = Rows::open(&command.file, format)?;
    let body = json!({
        "file": name, "digest": digest(&command.file)?, "dry_run": command.dry_run,
        "consent_at": command.consent_at, "consent_note": command.consent_note,
    });
    let job = client.post("/v1/imports", &body).await?;
    let path = format!("/v1/imports/{}", segment(job["id"].as_str().unwrap_or_default()));
    let mut behind = job["cursor"]["rows"].as_u64().unwrap_or(0);
    if behind > 0 {
        eprintln!("this file was begun before: {behind} rows are done, it goes on there");
    }
    let mut refused = match &command.refused {
        Some(path) => Some(
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| path.display().to_string())?,
        ),
        None => None,
    };
    rows.skip(behind)?;
    loop {
        let page = rows.page(PAGE_ROWS)?;
        if page.is_empty() {
            break;
        }
        let (lines, values): (Vec<u64>, Vec<Value>) = page.into_iter().unzip();
        let answer =
            client.post(&format!("{path}/rows"), &json!({ "after": behind, "rows": values })).await?;
        for refusal in answer["refused"].as_array().into_iter().flatten() {
            let place = refusal["row"].as_u64().unwrap_or(0).saturating_sub(behind + 1);
            let line = usize::try_from(place).ok().and_then(|place| lines.get(place)).copied().unwrap_or(0);
            report(refused.as_mut(), line, refusal)?;
        }
        behind = answer["cursor"]["rows"].as_u64().unwrap_or(behind + lines.len() as u64);
        progress(behind);
    }
    clear();
    let ended = client.post(&format!("{path}/end"), &json!({})).await?;
    let cursor = ended["cursor"].clone();
    let shown = json!({
        "id": ended["id"], "file": ended["file"], "dry_run": ended["dry_run"], "rows": cursor["rows"],
        "created": cursor["created"], "updated": cursor["updated"], "unchanged": cursor["unchanged"],
        "refused": cursor["refused"],
    });
    table::one(common, &shown);
    Ok(())
}

fn report(file: Option<&mut File>, line: u64, refusal: &Value) -> anyhow::Result<()> {
    let (email, why) =
        (refusal["email"].as_str().unwrap_or_default(), refusal["why"].as_str().unwrap_or_default());
    match file {
        Some(file) => writeln!(file, "{}", json!({ "line": line, "email": email, "why": why }))?,
        None => eprintln!("line {line}: {}: {why}", clip(email, 80)),
    }
    Ok(())
}

fn progress(rows: u64) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{rows} rows");
        let _ = std::io::stderr().flush();
    }
}

fn clear() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

/// SHA-256 of a file, read piece by piece.
fn digest(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut piece = vec![0_u8; 64 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => context.update(&piece[..read]),
        }
    }
    Ok(mailspan_connectors::signature::hex(context.finish().as_ref()))
}

/// Columns of an exported CSV; an import of it takes them back.
const EXPORTED: [&str; 22] = [
    "id",
    "email",
    "externalId",
    "locale",
    "optIn",
    "permission",
    "consentVersion",
    "source",
    "projectId",
    "consentAt",
    "consentNote",
    "consentIp",
    "consentPage",
    "consentTextHash",
    "suppressedAt",
    "suppressedFor",
    "unsubscribedAt",
    "createdAt",
    "updatedAt",
    "attributes",
    "standardFields",
    "customFields",
];

pub async fn export(client: &Client, command: &Export) -> anyhow::Result<()> {
    let out: Box<dyn Write> = match &command.output {
        Some(path) => Box::new(File::create(path).with_context(|| format!("write {}", path.display()))?),
        None => Box::new(std::io::stdout()),
    };
    let mut out = std::io::BufWriter::new(out);
    if command.format == Format::Csv {
        write_record(&mut out, EXPORTED.iter().map(|name| (*name).to_owned()))?;
    }
    let (mut cursor, mut rows) = ("0".to_owned(), 0_u64);
    loop {
        let page = client
            .get(&format!("/v1/contacts/export?limit={EXPORT_ROWS}&after={}", segment(&cursor)))
            .await?;
        for contact in page["items"].as_array().into_iter().flatten() {
            rows += 1;
            match command.format {
                Format::Ndjson => writeln!(out, "{contact}")?,
                Format::Csv => write_record(&mut out, EXPORTED.iter().map(|name| cell(&contact[*name])))?,
            }
        }
        if command.output.is_some() {
            progress(rows);
        }
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    out.flush()?;
    if command.output.is_some() {
        clear();
        eprintln!("{rows} contacts");
    }
    Ok(())
}

fn write_record(out: &mut impl Write, cells: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut writer = csv::WriterBuilder::new().from_writer(out);
    writer.write_record(cells)?;
    writer.flush()?;
    Ok(())
}

/// A cell that a spreadsheet would run as a formula gets an apostrophe before it, as does what begins like such a
/// cell: an import takes one away again.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match formula(&text) {
        true => format!("'{text}"),
        false => text,
    }
}

//! `mailspan contacts import` and `export`: files of contacts, read and written piece by piece.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use mailspan_core::clip;
use mailspan_core::limits::{IMPORT_COLUMNS_MAX, IMPORT_ROW_BYTES_MAX};
use serde_json::{Map, Value, json};

use super::client::Client;
use super::deliveries::segment;
use super::{Common, table};
use crate::contacts::import::row::column;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Csv,
    Ndjson,
}

pub async fn import(common: &Common, client: &Client, command: &Import) -> anyhow::Result<()> {
    let name = command.file.display().to_string();
    let format = match command.format {
        Some(format) => format,
        None if name.ends_with(".csv") => Format::Csv,
        None if name.ends_with(".ndjson") || name.ends_with(".jsonl") => Format::Ndjson,
        None => bail!("{name} is neither .csv nor .ndjson: say --format csv or --format ndjson"),
    };
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
    let mut rows = Rows::open(&command.file, format)?;
    rows.skip(behind)?;
    loop {
        let page = rows.page(PAGE_ROWS)?;
        if page.is_empty() {
            break;
        }
        let lines: Vec<u64> = page.iter().map(|(line, _)| *line).collect();
        let values: Vec<Map<String, Value>> = page.into_iter().map(|(_, values)| values).collect();
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

/// Rows of a file with the lines they begin at.
struct Rows {
    reader: BufReader<File>,
    format: Format,
    /// Of CSV: what each column means; nothing: passed over.
    columns: Vec<Option<String>>,
    line: u64,
}

impl Rows {
    fn open(path: &Path, format: Format) -> anyhow::Result<Rows> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut rows = Rows { reader: BufReader::new(file), format, columns: Vec::new(), line: 0 };
        if format == Format::Csv {
            let (_, header) =
                rows.record()?.context("the file is empty: its first line names the columns")?;
            for name in header {
                let known = column(name.trim_start_matches('\u{feff}')).map_err(anyhow::Error::msg)?;
                rows.columns.push(known);
            }
            if !rows.columns.iter().flatten().any(|name| name == "email") {
                bail!("the first line names no column `email`: it must name the columns");
            }
        }
        Ok(rows)
    }

    fn skip(&mut self, rows: u64) -> anyhow::Result<()> {
        for _ in 0..rows {
            if self.next()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn page(&mut self, most: usize) -> anyhow::Result<Vec<(u64, Map<String, Value>)>> {
        let mut page = Vec::with_capacity(most);
        while page.len() < most {
            match self.next()? {
                Some(row) => page.push(row),
                None => break,
            }
        }
        Ok(page)
    }

    fn next(&mut self) -> anyhow::Result<Option<(u64, Map<String, Value>)>> {
        match self.format {
            Format::Csv => self.next_record(),
            Format::Ndjson => self.next_object(),
        }
    }

    fn next_record(&mut self) -> anyhow::Result<Option<(u64, Map<String, Value>)>> {
        let Some((line, cells)) = self.record()? else { return Ok(None) };
        if cells.len() != self.columns.len() {
            let wanted = self.columns.len();
            bail!(
                "line {line} has {} cells, the first line names {wanted}: is a quote or a comma missing?",
                cells.len()
            );
        }
        let mut values = Map::new();
        for (name, cell) in self.columns.iter().zip(cells) {
            let Some(name) = name else { continue };
            insert(&mut values, name, Value::String(plain(cell)));
        }
        Ok(Some((line, values)))
    }

    /// A line that is no object is a row too: the hub refuses it, with its line.
    fn next_object(&mut self) -> anyhow::Result<Option<(u64, Map<String, Value>)>> {
        loop {
            let Some(text) = self.text_line()? else { return Ok(None) };
            if text.trim().is_empty() {
                continue;
            }
            let object: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
            let mut values = Map::new();
            for (name, value) in object {
                let line = self.line;
                if let Some(known) = column(&name).map_err(|why| anyhow::anyhow!("line {line}: {why}"))? {
                    insert(&mut values, &known, value);
                }
            }
            return Ok(Some((self.line, values)));
        }
    }

    fn text_line(&mut self) -> anyhow::Result<Option<String>> {
        let mut bytes = Vec::new();
        let most = IMPORT_ROW_BYTES_MAX as u64 + 1;
        let read = (&mut self.reader).take(most).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if bytes.len() > IMPORT_ROW_BYTES_MAX {
            bail!("line {} has more than {IMPORT_ROW_BYTES_MAX} bytes", self.line);
        }
        let text = String::from_utf8(bytes).with_context(|| format!("line {} is not UTF-8", self.line))?;
        Ok(Some(text))
    }

    /// One record of CSV (RFC 4180): a quoted cell may go over lines. Bounded by lines and columns, which
    /// the crate's own reader is not: one open quote would read the whole file.
    fn record(&mut self) -> anyhow::Result<Option<(u64, Vec<String>)>> {
        let mut text = String::new();
        let mut began = 0;
        loop {
            let Some(line) = self.text_line()? else {
                match text.trim().is_empty() {
                    true => return Ok(None),
                    false => bail!("a quote that line {began} opens is never closed"),
                }
            };
            if text.is_empty() && line.trim().is_empty() {
                continue;
            }
            if text.is_empty() {
                began = self.line;
            }
            text.push_str(&line);
            if text.len() > IMPORT_ROW_BYTES_MAX {
                bail!("the row of line {began} has more than {IMPORT_ROW_BYTES_MAX} bytes: is a quote open?");
            }
            if text.matches('"').count().is_multiple_of(2) {
                return Ok(Some((began, cells(&text, began)?)));
            }
        }
    }
}

/// What an export writes as one JSON object becomes a column for each field.
fn insert(values: &mut Map<String, Value>, name: &str, value: Value) {
    let prefix = match name {
        "standard_fields" => "standard_",
        "custom_fields" => "custom_",
        _ => {
            values.insert(name.to_owned(), value);
            return;
        }
    };
    let object = match value {
        Value::Object(object) => object,
        Value::String(text) => serde_json::from_str(&text).unwrap_or_default(),
        _ => Map::new(),
    };
    values.extend(object.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
}

/// Without the apostrophe that an export puts before what a spreadsheet would run.
fn plain(cell: String) -> String {
    match cell.strip_prefix('\'') {
        Some(rest) if rest.starts_with(FORMULA) => rest.to_owned(),
        _ => cell,
    }
}

const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

fn cells(text: &str, line: u64) -> anyhow::Result<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    reader.read_record(&mut record).with_context(|| format!("line {line}"))?;
    if record.len() > IMPORT_COLUMNS_MAX {
        bail!("line {line} has more than {IMPORT_COLUMNS_MAX} cells");
    }
    Ok(record.iter().map(str::to_owned).collect())
}

/// Columns of an exported CSV; an import of it takes them back.
const EXPORTED: [&str; 16] = [
    "id",
    "email",
    "externalId",
    "locale",
    "optIn",
    "permission",
    "consentVersion",
    "source",
    "projectId",
    "suppressedAt",
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
    let (mut cursor, mut rows) = (String::new(), 0_u64);
    loop {
        let page = client.get(&format!("/contacts?limit={EXPORT_ROWS}&cursor={}", segment(&cursor))).await?;
        for contact in page["data"].as_array().into_iter().flatten() {
            rows += 1;
            match command.format {
                Format::Ndjson => writeln!(out, "{contact}")?,
                Format::Csv => write_record(&mut out, EXPORTED.iter().map(|name| cell(&contact[*name])))?,
            }
        }
        if command.output.is_some() {
            progress(rows);
        }
        match page["meta"]["nextCursor"].as_str() {
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

/// A cell that a spreadsheet would run as a formula gets an apostrophe before it.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.starts_with(FORMULA) {
        true => format!("'{text}"),
        false => text,
    }
}

//! `mailspan move`: a hub's data from one store to another, while no hub serves either.

use std::convert::Infallible;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use mailspan_core::Secret;
use mailspan_core::limits::MOVE_PAGE_ROWS_MAX;
use mailspan_store::moving::{self, MoveOptions, MoveReport, Part, Place, Step, Sum};
use serde_json::{Value, json};

use super::{Common, table};
use crate::{drill, runtime};

/// Rows of a table between two lines of progress.
const SAY_ROWS: u64 = 100_000;

#[derive(Debug, Args)]
pub struct Move {
    /// The store to move from: `sqlite:FILE` or `postgres://user@host/database`
    #[arg(long, value_name = "URL", env = "MAILSPAN_MOVE_FROM", hide_env_values = true, value_parser = secret)]
    from: Secret,
    /// An empty store, made where it is missing, or the one where this move was ended
    #[arg(long, value_name = "URL", env = "MAILSPAN_MOVE_TO", hide_env_values = true, value_parser = secret)]
    to: Secret,
    /// Look at both and count; write nothing
    #[arg(long)]
    dry_run: bool,
}

/// A URL may hold a password, so it is no plain text from the start.
fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text.to_owned()))
}

pub async fn run(common: &Common, command: Move) -> anyhow::Result<ExitCode> {
    let (from, to) = (place("--from", &command.from)?, place("--to", &command.to)?);
    if is_same(&from, &to) {
        bail!("--from and --to name the same store: name the new one in --to");
    }
    let options =
        MoveOptions { dry_run: command.dry_run, page_rows: MOVE_PAGE_ROWS_MAX, now: runtime::now() };
    let mut progress = Progress::default();
    let mut said = |step: Step| {
        if step.part == Part::Copied {
            drill::command_point("move-page");
        }
        progress.say(step);
    };
    let report = moving::move_store(&from, &to, options, &mut said).await?;
    progress.end();
    show(common, &report, command.dry_run);
    hint(&from, command.dry_run);
    Ok(ExitCode::SUCCESS)
}

fn place(flag: &str, url: &Secret) -> anyhow::Result<Place> {
    match url.expose().split_once(':') {
        Some(("sqlite", path)) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path == ":memory:" || path.ends_with('/') || path.contains('?') {
                bail!("{flag}: `sqlite:` needs the path of a file");
            }
            Ok(Place::Sqlite { path: path.into() })
        }
        Some(("postgres" | "postgresql", _)) => {
            Ok(Place::Postgres { url: url.expose().to_owned(), spawn: runtime::spawner() })
        }
        // What was written may be a password: it is not shown.
        _ => bail!("{flag}: write sqlite:FILE or postgres://user@host/database"),
    }
}

/// As they are written, and where both are files also as they are found.
fn is_same(from: &Place, to: &Place) -> bool {
    match (from, to) {
        (Place::Sqlite { path: from }, Place::Sqlite { path: to }) => {
            from == to || from.canonicalize().is_ok_and(|from| to.canonicalize().is_ok_and(|to| from == to))
        }
        (Place::Postgres { url: from, .. }, Place::Postgres { url: to, .. }) => from == to,
        _ => false,
    }
}

/// What is sealed moves as it is, so the target is of no use without the key that the source has.
fn hint(from: &Place, dry_run: bool) {
    if dry_run {
        return;
    }
    let beside = match from {
        Place::Sqlite { path } => Some(format!("{}.key", path.display())),
        Place::Postgres { .. } => None,
    };
    match beside.filter(|key| std::path::Path::new(key).exists()) {
        Some(key) => eprintln!(
            "What the store keeps sealed opens there under the same key: write [storage] key = {{ file = \"{key}\" }}, or its text under another reference"
        ),
        None => eprintln!(
            "What the store keeps sealed opens there under the same key: leave [storage] key as it was for the old store"
        ),
    }
}

/// Says on stderr when another table or part begins, and how far a large one is.
#[derive(Default)]
struct Progress {
    last: Option<Step>,
    /// Rows of the last step that was said.
    said: Option<u64>,
}

impl Progress {
    fn say(&mut self, step: Step) {
        let began = self.last.is_none_or(|last| (last.table, last.part) != (step.table, step.part));
        let before = if began { 0 } else { self.last.map_or(0, |last| last.rows) };
        if began {
            self.end();
        }
        self.last = Some(step);
        if began || step.rows / SAY_ROWS > before / SAY_ROWS {
            self.say_last();
        }
    }

    /// The number that a table or part ended with, where it was not said yet.
    fn end(&mut self) {
        if self.said != self.last.map(|last| last.rows) {
            self.say_last();
        }
    }

    fn say_last(&mut self) {
        let Some(step) = self.last else { return };
        let verb = match step.part {
            Part::Copied => "copied",
            Part::CountedSource => "counted at the source",
            Part::CountedTarget => "counted at the target",
        };
        eprintln!("{}: {} rows {verb}", step.table, step.rows);
        self.said = Some(step.rows);
    }
}

fn show(common: &Common, report: &MoveReport, dry_run: bool) {
    let row = |moved: &moving::Moved| {
        json!({
            "table": moved.table,
            "rows": moved.source.rows, "sum": hex(&moved.source),
            "rows_at_target": moved.target.map(|target| target.rows),
            "sum_at_target": moved.target.map(|target| hex(&target)),
        })
    };
    let rows: Vec<Value> = report.tables.iter().map(row).collect();
    let total: u64 = report.tables.iter().map(|moved| moved.source.rows).sum();
    if common.json {
        let MoveReport { from, to, resumed, .. } = report;
        let whole = json!({
            "from": from, "to": to, "dry_run": dry_run, "resumed": resumed, "rows": total, "tables": rows,
        });
        table::say(format_args!("{whole}"));
        return;
    }
    let columns = ["table", "rows", "rows_at_target", "sum", "sum_at_target"];
    table::rows(common, if dry_run { &["table", "rows", "sum"] } else { &columns }, &rows, "");
    let end = if dry_run {
        format!("{total} rows would be moved from {} to {}; nothing was written", report.from, report.to)
    } else {
        format!(
            "{total} rows were moved from {} to {}, and are the same on both sides\nName the new store in [storage] url before you start the hub; the old one must not be served again",
            report.from, report.to
        )
    };
    table::say(format_args!("{end}"));
}

fn hex(sum: &Sum) -> String {
    format!("{:032x}", sum.digest)
}

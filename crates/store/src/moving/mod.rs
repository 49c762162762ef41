//! The move of a hub's data from one store to another, table by table and page by page.
//!
//! The target keeps how far each table is, in the transaction of the page, so a move that was ended goes on.
//! Until both sides have the same rows the target is marked, and no hub serves it. Nothing is written to the
//! source.

mod error;
mod row;
mod side;
mod tables;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use mailspan_core::Millis;
use mailspan_core::limits::MOVE_PAGE_ROWS_MAX;
use serde::{Deserialize, Serialize};

use crate::postgres::Spawn;
pub use error::MoveError;
pub use row::Sum;
pub(crate) use row::{Column, Kind, Plan, Row, Value, bytes_of};
pub(crate) use side::Number;
use side::Side;
pub(crate) use tables::{MARK, is_of_one_store};
use tables::{TABLES, TELLING, Table};

/// The version of the marks in the target.
const MARK_VERSION: u32 = 1;

/// A store by its address.
#[derive(Clone)]
pub enum Place {
    Sqlite {
        path: PathBuf,
    },
    /// A URL as in [`crate::PostgresOptions`], and what runs a connection's task.
    Postgres {
        url: String,
        spawn: Spawn,
    },
}

#[derive(Debug, Clone, Copy)]
pub struct MoveOptions {
    /// Look at both and count; write nothing.
    pub dry_run: bool,
    /// Rows of a page; smaller in tests.
    pub page_rows: usize,
    pub now: Millis,
}

/// How far a move is; said after each page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub table: &'static str,
    /// Rows of this table so far.
    pub rows: u64,
    pub part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Copied,
    CountedSource,
    CountedTarget,
}

/// One table on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub table: &'static str,
    pub source: Sum,
    /// Nothing in a dry run.
    pub target: Option<Sum>,
}

/// What a move did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveReport {
    /// Both places, without users and passwords.
    pub from: String,
    pub to: String,
    /// A move that was ended before went on.
    pub resumed: bool,
    pub tables: Vec<Moved>,
}

/// How far a table is, as the target keeps it.
#[derive(Default, Serialize, Deserialize)]
struct Cursor {
    rows: u64,
    after: Option<Row>,
    done: bool,
}

/// What the target knows of its source.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    v: u32,
    source: Vec<String>,
}

/// Moves everything, or goes on where a move was ended; at the end both sides were read whole and are the same.
/// `said` hears of each page. Blocks its task while it works on a file.
pub async fn move_store(
    from: &Place,
    to: &Place,
    options: MoveOptions,
    said: &mut dyn FnMut(Step),
) -> Result<MoveReport, MoveError> {
    let mut source =
        Side::look(from, options.now).await?.ok_or_else(|| MoveError::NoSource { place: shown(from) })?;
    if source.mark(MARK).await?.is_some() {
        return Err(MoveError::Unfinished { place: source.place().to_owned() });
    }
    if options.dry_run {
        return dry_run(&mut source, to, options, said).await;
    }
    let mut target = Side::make(to, options.now).await?;
    let plans = plans(&source, &target).await?;
    let resumed = begin(&mut source, &mut target, &plans).await?;
    for plan in &plans {
        copy(&mut source, &mut target, plan, options, said).await?;
    }
    let mut tables = vec![];
    for plan in &plans {
        let of_source = count(&mut source, plan, (Part::CountedSource, options), said).await?;
        let of_target = count(&mut target, plan, (Part::CountedTarget, options), said).await?;
        tables.push(Moved { table: plan.table.name, source: of_source, target: Some(of_target) });
    }
    let differing: Vec<&str> = differing(&tables);
    if !differing.is_empty() {
        return Err(MoveError::Differs { place: target.place().to_owned(), tables: differing.join(", ") });
    }
    let mut numbers = vec![];
    for table in TABLES {
        numbers.extend(source.highest(table).await?);
    }
    target.finish(&numbers).await?;
    Ok(report(&source, target.place().to_owned(), resumed, tables))
}

async fn dry_run(
    source: &mut Side,
    to: &Place,
    options: MoveOptions,
    said: &mut dyn FnMut(Step),
) -> Result<MoveReport, MoveError> {
    let target = Side::look(to, options.now).await?;
    let plans = plans(source, target.as_ref().unwrap_or(source)).await?;
    let resumed = match &target {
        Some(target) => is_begun(source, target, &plans, options).await?,
        None => false,
    };
    let mut tables = vec![];
    for plan in &plans {
        let sum = count(source, plan, (Part::CountedSource, options), said).await?;
        tables.push(Moved { table: plan.table.name, source: sum, target: None });
    }
    let place = target.map_or_else(|| shown(to), |target| target.place().to_owned());
    Ok(report(source, place, resumed, tables))
}

fn report(source: &Side, to: String, resumed: bool, tables: Vec<Moved>) -> MoveReport {
    MoveReport { from: source.place().to_owned(), to, resumed, tables }
}

fn differing(tables: &[Moved]) -> Vec<&'static str> {
    let differs = |moved: &&Moved| moved.target.is_some_and(|target| target != moved.source);
    tables.iter().filter(differs).map(|moved| moved.table).collect()
}

/// The columns that each table has on both sides; others must be known.
async fn plans(source: &Side, target: &Side) -> Result<Vec<Plan<'static>>, MoveError> {
    let mut plans = vec![];
    for table in TABLES {
        plans.push(plan(table, &source.columns(table.name).await?, &target.columns(table.name).await?)?);
    }
    Ok(plans)
}

fn plan(table: &'static Table, source: &[Column], target: &[Column]) -> Result<Plan<'static>, MoveError> {
    let known = |columns: &[Column], name: &str| columns.iter().any(|column| column.name == name);
    let unknown = |column: &Column| MoveError::Column { table: table.name, column: column.name.clone() };
    let mut columns = vec![];
    for column in source {
        if known(target, &column.name) && !is_of_one_store(table.name, &column.name) {
            columns.push(column.clone());
        } else if !is_of_one_store(table.name, &column.name) {
            return Err(unknown(column));
        }
    }
    let extra = |column: &&Column| !known(source, &column.name) && !is_of_one_store(table.name, &column.name);
    if let Some(column) = target.iter().find(extra) {
        return Err(unknown(column));
    }
    let place = |name: &&str| columns.iter().position(|column| column.name == **name);
    let key: Option<Vec<usize>> = table.key.iter().map(place).collect();
    let key = key.ok_or_else(|| MoveError::Column { table: table.name, column: table.key.join(", ") })?;
    Ok(Plan { table, columns, key })
}

/// Marks an empty target, or finds the mark of this source; true for the latter.
async fn begin(source: &mut Side, target: &mut Side, plans: &[Plan<'_>]) -> Result<bool, MoveError> {
    let options = MoveOptions { dry_run: false, page_rows: MOVE_PAGE_ROWS_MAX, now: Millis(0) };
    if is_begun(source, target, plans, options).await? {
        return Ok(true);
    }
    let begun = Begun { v: MARK_VERSION, source: telling(source, plans, options).await? };
    target.set_mark(MARK, written(&begun)).await?;
    Ok(false)
}

async fn is_begun(
    source: &mut Side,
    target: &Side,
    plans: &[Plan<'_>],
    options: MoveOptions,
) -> Result<bool, MoveError> {
    if let Some(mark) = target.mark(MARK).await? {
        let now = Begun { v: MARK_VERSION, source: telling(source, plans, options).await? };
        return match serde_json::from_slice::<Begun>(&mark) {
            Ok(begun) if begun == now => Ok(true),
            _ => Err(MoveError::OtherSource { place: target.place().to_owned() }),
        };
    }
    let mut full = vec![];
    for table in TABLES {
        if target.holds_rows(table).await? {
            full.push(table.name);
        }
    }
    if full.is_empty() {
        return Ok(false);
    }
    Err(MoveError::NotEmpty { place: target.place().to_owned(), tables: full.join(", ") })
}

/// What a source is known by, and known to be unchanged by.
async fn telling(
    source: &mut Side,
    plans: &[Plan<'_>],
    options: MoveOptions,
) -> Result<Vec<String>, MoveError> {
    let mut sums = vec![];
    for plan in plans.iter().filter(|plan| TELLING.contains(&plan.table.name)) {
        let Sum { rows, digest } = count(source, plan, (Part::CountedSource, options), &mut |_| {}).await?;
        sums.push(format!("{}: {rows} {digest:032x}", plan.table.name));
    }
    Ok(sums)
}

async fn copy(
    source: &mut Side,
    target: &mut Side,
    plan: &Plan<'_>,
    options: MoveOptions,
    said: &mut dyn FnMut(Step),
) -> Result<(), MoveError> {
    let table = plan.table.name;
    let name = format!("{MARK}/{table}");
    let mark = target.mark(&name).await?;
    let mut cursor = match mark {
        Some(mark) => serde_json::from_slice(&mark)
            .map_err(|_| MoveError::OtherSource { place: target.place().to_owned() })?,
        None => Cursor::default(),
    };
    while !cursor.done {
        let rows = source.page(plan, cursor.after.as_ref(), options.page_rows).await?;
        cursor.rows += rows.len() as u64;
        cursor.done = rows.is_empty();
        cursor.after = rows.last().map(|row| plan.key_of(row)).or(cursor.after);
        target.keep(plan, rows, (&name, written(&cursor))).await?;
        said(Step { table, rows: cursor.rows, part: Part::Copied });
    }
    Ok(())
}

async fn count(
    side: &mut Side,
    plan: &Plan<'_>,
    (part, options): (Part, MoveOptions),
    said: &mut dyn FnMut(Step),
) -> Result<Sum, MoveError> {
    let mut sum = Sum::default();
    let mut after = None;
    loop {
        let rows = side.page(plan, after.as_ref(), options.page_rows).await?;
        let Some(last) = rows.last() else { return Ok(sum) };
        after = Some(plan.key_of(last));
        rows.iter().for_each(|row| sum.add(row));
        said(Step { table: plan.table.name, rows: sum.rows, part });
    }
}

fn written(mark: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(mark).expect("numbers, texts and lists of them are always written as JSON")
}

fn shown(place: &Place) -> String {
    match place {
        Place::Sqlite { path } => path.display().to_string(),
        Place::Postgres { .. } => "the database".to_owned(),
    }
}

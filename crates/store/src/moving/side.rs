//! One end of a move: a store that nobody serves, whatever is behind it.

use super::row::{Column, Plan, Row};
use super::tables::Table;
use super::{MoveError, Place};
use crate::postgres::moving::PostgresSide;
use crate::sqlite::moving::SqliteSide;
use mailspan_core::Millis;

pub(crate) enum Side {
    Sqlite(SqliteSide),
    Postgres(PostgresSide),
}

/// The highest number that a table's key was ever given.
#[derive(Debug, Clone)]
pub(crate) struct Number {
    pub table: &'static str,
    pub column: &'static str,
    pub highest: i64,
}

impl Side {
    /// Opens what is there, and changes nothing. Nothing where no store is there yet.
    pub(crate) async fn look(place: &Place, now: Millis) -> Result<Option<Side>, MoveError> {
        Ok(match place {
            Place::Sqlite { path } => SqliteSide::look(path, now)?.map(Side::Sqlite),
            Place::Postgres { url, spawn } => {
                PostgresSide::look(url, spawn.clone(), now).await?.map(Side::Postgres)
            }
        })
    }

    /// Opens it to be written, made and brought to this schema where needed.
    pub(crate) async fn make(place: &Place, now: Millis) -> Result<Side, MoveError> {
        Ok(match place {
            Place::Sqlite { path } => Side::Sqlite(SqliteSide::make(path, now)?),
            Place::Postgres { url, spawn } => {
                Side::Postgres(PostgresSide::make(url, spawn.clone(), now).await?)
            }
        })
    }

    /// Without user and password.
    pub(crate) fn place(&self) -> &str {
        match self {
            Side::Sqlite(side) => &side.place,
            Side::Postgres(side) => &side.place,
        }
    }

    /// The columns of a table, in its own order.
    pub(crate) async fn columns(&self, table: &str) -> Result<Vec<Column>, MoveError> {
        match self {
            Side::Sqlite(side) => side.columns(table),
            Side::Postgres(side) => side.columns(table).await,
        }
    }

    /// The next rows by key, at most `rows_max` and about [`mailspan_core::limits::MOVE_PAGE_BYTES_MAX`]; none at the end.
    pub(crate) async fn page(
        &mut self,
        plan: &Plan<'_>,
        after: Option<&Row>,
        rows_max: usize,
    ) -> Result<Vec<Row>, MoveError> {
        match self {
            Side::Sqlite(side) => side.page(plan, after, rows_max),
            Side::Postgres(side) => side.page(plan, after, rows_max).await,
        }
    }

    /// Writes rows and a mark in one transaction.
    pub(crate) async fn keep(
        &mut self,
        plan: &Plan<'_>,
        rows: Vec<Row>,
        mark: (&str, Vec<u8>),
    ) -> Result<(), MoveError> {
        match self {
            Side::Sqlite(side) => side.keep(plan, &rows, mark),
            Side::Postgres(side) => side.keep(plan, rows, mark).await,
        }
    }

    pub(crate) async fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, MoveError> {
        match self {
            Side::Sqlite(side) => side.mark(name),
            Side::Postgres(side) => side.mark(name).await,
        }
    }

    pub(crate) async fn set_mark(&mut self, name: &str, value: Vec<u8>) -> Result<(), MoveError> {
        match self {
            Side::Sqlite(side) => side.set_mark(name, value),
            Side::Postgres(side) => side.set_mark(name, value).await,
        }
    }

    /// Whether a table has a row that a move would bring. The key of identities is made with the store.
    pub(crate) async fn holds_rows(&self, table: &Table) -> Result<bool, MoveError> {
        match self {
            Side::Sqlite(side) => side.holds_rows(table.name),
            Side::Postgres(side) => side.holds_rows(table.name).await,
        }
    }

    pub(crate) async fn highest(&self, table: &Table) -> Result<Option<Number>, MoveError> {
        let [column] = table.key else { return Ok(None) };
        let highest = match self {
            Side::Sqlite(side) => side.highest(table.name, column)?,
            Side::Postgres(side) => side.highest(table.name, column).await?,
        };
        Ok(highest.map(|highest| Number { table: table.name, column, highest }))
    }

    /// The last transaction, synced: numbers go on after the source's, and the marks are gone.
    pub(crate) async fn finish(&mut self, numbers: &[Number]) -> Result<(), MoveError> {
        match self {
            Side::Sqlite(side) => side.finish(numbers),
            Side::Postgres(side) => side.finish(numbers).await,
        }
    }
}

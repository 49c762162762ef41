//! A connection with what every statement needs: prepared statements, cached names, the key of identities.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mailspan_core::{Millis, Reason};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Row, Statement};

use super::names::Names;
use crate::identity::IdentityKey;
use crate::write::Trouble;

pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(crate) struct Base {
    client: Client,
    statements: Mutex<HashMap<String, Statement>>,
    pub names: Arc<Mutex<Names>>,
    pub key: IdentityKey,
    /// A statement that writes was run since it was last reset.
    changed: AtomicBool,
    /// How often [`Base::refresh_plans`] was called.
    uses: AtomicU64,
}

impl Base {
    pub(crate) fn new(client: Client, names: Arc<Mutex<Names>>, key: IdentityKey) -> Base {
        let (statements, changed, uses) = (Mutex::default(), AtomicBool::new(false), AtomicU64::new(0));
        Base { client, statements, names, key, changed, uses }
    }

    pub(crate) async fn rows(&self, text: &str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        let statement = self.statement(text).await?;
        Ok(self.client.query(&statement, params).await?)
    }

    pub(crate) async fn row(&self, text: &str, params: Params<'_>) -> Result<Option<Row>, Fault> {
        let statement = self.statement(text).await?;
        Ok(self.client.query_opt(&statement, params).await?)
    }

    /// For statements that write; how many rows.
    pub(crate) async fn execute(&self, text: &str, params: Params<'_>) -> Result<u64, Fault> {
        self.changed.store(true, Ordering::Relaxed);
        let statement = self.statement(text).await?;
        Ok(self.client.execute(&statement, params).await?)
    }

    /// For statements that write and give rows.
    pub(crate) async fn written(&self, text: &str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        self.changed.store(true, Ordering::Relaxed);
        self.rows(text, params).await
    }

    /// Without parameters: begin, commit, settings.
    pub(crate) async fn batch(&self, text: &str) -> Result<(), Fault> {
        Ok(self.client.batch_execute(text).await?)
    }

    /// New numbers of a sequence, ascending. Never given twice, so a rollback leaves a gap.
    pub(crate) async fn numbers(&self, sequence: &str, count: usize) -> Result<Vec<i64>, Fault> {
        if count == 0 {
            return Ok(vec![]);
        }
        let sql = format!("SELECT nextval('{sequence}') FROM generate_series(1, $1::bigint)");
        let rows = self.rows(&sql, &[&(count as i64)]).await?;
        let mut numbers = rows.iter().map(|row| get(row, 0)).collect::<Result<Vec<i64>, _>>()?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Plans that were made while the tables were small are slow when they have grown: they are made again at
    /// the second, fourth, eighth … use. Later the server's own analysis does that.
    pub(crate) async fn refresh_plans(&self) -> Result<(), Fault> {
        let uses = self.uses.fetch_add(1, Ordering::Relaxed) + 1;
        if uses.is_power_of_two() && uses > 1 { self.batch("DISCARD PLANS").await } else { Ok(()) }
    }

    /// Whether something was written since the last call.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Prepared once a connection; all texts are constants, so their number is bounded.
    async fn statement(&self, text: &str) -> Result<Statement, Fault> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(text).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let made = self.client.prepare(text).await?;
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        statements.insert(text.to_owned(), made.clone());
        Ok(made)
    }
}

/// Why a statement, or a step made of several, did not work.
#[derive(Debug)]
pub(crate) enum Fault {
    Trouble(Trouble),
    Sql(tokio_postgres::Error),
}

impl Fault {
    pub(crate) fn refused(code: &str, text: impl Into<String>) -> Fault {
        Fault::Trouble(Trouble::Refused(Reason::new(code, text)))
    }

    /// A row that this version cannot read.
    pub(crate) fn unreadable(what: &str, id: i64) -> Fault {
        Fault::Trouble(Trouble::Broken(format!(
            "{what} {id} cannot be read: it is damaged, or was written by a newer version"
        )))
    }

    fn code(&self) -> Option<&SqlState> {
        match self {
            Fault::Sql(error) => error.code(),
            Fault::Trouble(_) => None,
        }
    }

    /// The whole group fails: it is the server or the way to it, not one write. Classes 22 (data) and 23
    /// (constraints) of PostgreSQL's appendix A are about one write.
    pub(crate) fn is_of_the_server(&self) -> bool {
        match (self, self.code()) {
            (Fault::Trouble(_), _) => false,
            (Fault::Sql(_), None) => true,
            (Fault::Sql(_), Some(code)) => !matches!(code.code().get(..2), Some("22" | "23")),
        }
    }

    /// Two nodes were in each other's way: the same again may work.
    pub(crate) fn passes(&self) -> bool {
        let passing = [
            &SqlState::T_R_DEADLOCK_DETECTED,
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::LOCK_NOT_AVAILABLE,
        ];
        self.code().is_some_and(|code| passing.contains(&code))
    }

    /// An earlier statement has ended the transaction.
    pub(crate) fn is_consequence(&self) -> bool {
        self.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION)
    }

    /// What a unique index says about the row in its way.
    pub(crate) fn conflict(&self, index: &str) -> Option<&str> {
        let Fault::Sql(error) = self else { return None };
        let error = error.as_db_error().filter(|error| error.constraint() == Some(index))?;
        Some(error.detail().unwrap_or_default())
    }

    pub(crate) fn trouble(self) -> Trouble {
        match self {
            Fault::Trouble(trouble) => trouble,
            Fault::Sql(error) => Trouble::Broken(shown(&error)),
        }
    }
}

/// The server's own words, or what stands behind a terse text.
pub(crate) fn shown(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(db), _) if *db.code() == SqlState::DISK_FULL => {
            format!(
                "PostgreSQL says: {} ({}): make room on the server's disk",
                db.message(),
                db.code().code()
            )
        }
        (Some(db), _) => format!("PostgreSQL says: {} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("PostgreSQL cannot be reached: {error}: {source}"),
        (None, None) => format!("PostgreSQL cannot be reached: {error}"),
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Fault {
        Fault::Sql(error)
    }
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Fault {
        Fault::Trouble(trouble)
    }
}

/// A column, by place or name.
pub(crate) fn get<'a, T: FromSql<'a>, I: tokio_postgres::row::RowIndex + std::fmt::Display>(
    row: &'a Row,
    column: I,
) -> Result<T, Fault> {
    Ok(row.try_get(column)?)
}

pub(crate) fn millis(row: &Row, column: &str) -> Result<Millis, Fault> {
    get(row, column).map(Millis)
}

pub(crate) fn maybe_millis(row: &Row, column: &str) -> Result<Option<Millis>, Fault> {
    Ok(get::<Option<i64>, _>(row, column)?.map(Millis))
}

/// A count, which is never below zero.
pub(crate) fn small(row: &Row, column: &str) -> Result<u32, Fault> {
    Ok(u32::try_from(get::<i64, _>(row, column)?).unwrap_or(0))
}

pub(crate) fn digest(row: &Row, column: &str) -> Result<[u8; 16], Fault> {
    let bytes: &[u8] = get(row, column)?;
    bytes.try_into().map_err(|_| Fault::unreadable("digest", 0))
}

/// A reason kept in two columns.
pub(crate) fn reason(row: &Row, code: &str, text: &str) -> Result<Option<Reason>, Fault> {
    let code: Option<String> = get(row, code)?;
    let text: Option<String> = get(row, text)?;
    Ok(code.map(|code| Reason { code, text: text.unwrap_or_default() }))
}

/// PostgreSQL's texts hold no zero character; what senders and receivers wrote may.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

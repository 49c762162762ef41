//! A SQLite file as one end of a move.

use std::path::Path;

use mailspan_core::Millis;
use mailspan_core::limits::MOVE_PAGE_BYTES_MAX;
use rusqlite::types::{ToSqlOutput, Type, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, ToSql, params, params_from_iter};

use super::migrate::SCHEMA;
use super::runs::{self, WITH_RUNS};
use crate::OpenError;
use crate::filter::FILTER_VERSION;
use crate::lock::{self, Holder, Lock};
use crate::moving::{Column, Kind, MARK, MoveError, Number, Plan, Row, Value, bytes_of};

/// Tables whose highest number `meta` keeps, as retention may have dropped its row.
const DROPPED: [&str; 4] = ["events", "requests", "deliveries", "attempts"];

/// Held as the hub would hold it, so that none serves it meanwhile.
pub(crate) struct SqliteSide {
    conn: Connection,
    pub place: String,
    _lock: Lock,
}

impl SqliteSide {
    pub(crate) fn look(path: &Path, now: Millis) -> Result<Option<SqliteSide>, MoveError> {
        if std::fs::metadata(path).map_or(0, |meta| meta.len()) == 0 {
            return Ok(None);
        }
        refuse_foreign(path)?;
        let lock = held(path, now)?;
        let side = SqliteSide {
            conn: Connection::open_with_flags(
                path,
                OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )
            .map_err(|cause| sql(path, cause))?,
            place: path.display().to_string(),
            _lock: lock,
        };
        let found = "SELECT (SELECT max(number) FROM migrations)";
        let found: Result<Option<i64>, _> = side.conn.query_row(found, [], |row| row.get(0));
        match found {
            Ok(Some(SCHEMA)) => Ok(Some(side)),
            Ok(found) => {
                Err(MoveError::Schema { place: side.place, found: found.unwrap_or(0), known: SCHEMA })
            }
            Err(_) => Err(OpenError::Foreign { path: path.to_owned() }.into()),
        }
    }

    pub(crate) fn make(path: &Path, now: Millis) -> Result<SqliteSide, MoveError> {
        refuse_foreign(path)?;
        let lock = held(path, now)?;
        crate::open::make_private(path).map_err(|cause| OpenError::Io { path: path.to_owned(), cause })?;
        let mut conn = super::connect_writer(path).map_err(|cause| sql(path, cause))?;
        // The seed makes a key of identities that the source's takes the place of.
        super::migrate(&mut conn, path, 0, now)?;
        // Pages and their marks are in one transaction: what a power cut takes back is copied again.
        conn.pragma_update(None, "synchronous", "NORMAL").map_err(|cause| sql(path, cause))?;
        Ok(SqliteSide { conn, place: path.display().to_string(), _lock: lock })
    }

    pub(crate) fn columns(&self, table: &str) -> Result<Vec<Column>, MoveError> {
        let read = || -> rusqlite::Result<Vec<Column>> {
            let mut statement =
                self.conn.prepare("SELECT name, type FROM pragma_table_info(?1) ORDER BY cid")?;
            let rows = statement.query_map([table], |row| {
                let kind: String = row.get(1)?;
                let kind = match kind.as_str() {
                    "INTEGER" => Kind::Int,
                    "TEXT" => Kind::Text,
                    _ => Kind::Bytes,
                };
                Ok(Column { name: row.get(0)?, kind })
            })?;
            rows.collect()
        };
        read().map_err(|error| self.failed(&error))
    }

    pub(crate) fn page(
        &self,
        plan: &Plan<'_>,
        after: Option<&Row>,
        rows_max: usize,
    ) -> Result<Vec<Row>, MoveError> {
        let read = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = self.conn.prepare_cached(&select(plan, after.is_some()))?;
            let after = after.map(Vec::as_slice).unwrap_or_default();
            let limit = Value::Int(rows_max as i64);
            let mut found = statement.query(params_from_iter(after.iter().chain([&limit])))?;
            let (mut rows, mut bytes) = (vec![], 0);
            while bytes < MOVE_PAGE_BYTES_MAX
                && let Some(row) = found.next()?
            {
                let row: Row = (0..plan.columns.len())
                    .map(|place| value(row.get_ref(place)?, place))
                    .collect::<rusqlite::Result<_>>()?;
                bytes += bytes_of(&row);
                rows.push(row);
            }
            Ok(rows)
        };
        read().map_err(|error| self.failed(&error))
    }

    pub(crate) fn keep(
        &mut self,
        plan: &Plan<'_>,
        rows: &[Row],
        (name, mark): (&str, Vec<u8>),
    ) -> Result<(), MoveError> {
        let filled = self.filled(plan)?;
        let write = || -> rusqlite::Result<()> {
            let tx = self.conn.transaction()?;
            {
                let mut insert = tx.prepare_cached(&insert(plan, &filled))?;
                for row in rows {
                    insert.execute(params_from_iter(row))?;
                }
            }
            set_mark(&tx, name, mark)?;
            tx.commit()
        };
        let written = write();
        written.map_err(|error| self.failed(&error))
    }

    pub(crate) fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, MoveError> {
        let sql = "SELECT value FROM meta WHERE name = ?1";
        let found = self.conn.query_row(sql, [name], |row| row.get(0)).optional();
        found.map_err(|error| self.failed(&error))
    }

    pub(crate) fn set_mark(&self, name: &str, value: Vec<u8>) -> Result<(), MoveError> {
        set_mark(&self.conn, name, value).map_err(|error| self.failed(&error))
    }

    pub(crate) fn holds_rows(&self, table: &str) -> Result<bool, MoveError> {
        let but = if table == "meta" { "WHERE name <> 'identity_key'" } else { "" };
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} {but})");
        self.conn.query_row(&sql, [], |row| row.get(0)).map_err(|error| self.failed(&error))
    }

    pub(crate) fn highest(&self, table: &str, column: &str) -> Result<Option<i64>, MoveError> {
        // An unreadable element's number holds that of its request, which is not kept for itself everywhere.
        let also = if table == "requests" { "(SELECT max(id) >> 13 FROM unreadable)" } else { "0" };
        let sql = format!(
            "SELECT max(coalesce((SELECT max({column}) FROM {table}), 0), coalesce({also}, 0),
             coalesce((SELECT value FROM meta WHERE name = 'dropped_{table}'), 0))"
        );
        let found = self.conn.query_row(&sql, [], |row| {
            // A key that is a text has no highest number.
            Ok(row.get_ref(0)?.as_i64_or_null().unwrap_or(None))
        });
        found.map_err(|error| self.failed(&error))
    }

    pub(crate) fn finish(&mut self, numbers: &[Number]) -> Result<(), MoveError> {
        let mut write = || -> rusqlite::Result<()> {
            self.conn.pragma_update(None, "synchronous", "FULL")?;
            let tx = self.conn.transaction()?;
            for number in numbers.iter().filter(|number| DROPPED.contains(&number.table)) {
                tx.execute(
                    "INSERT OR REPLACE INTO meta (name, value) VALUES ('dropped_' || ?1, ?2)",
                    params![number.table, number.highest],
                )?;
            }
            tx.execute("DELETE FROM meta WHERE name LIKE ?1", [format!("{MARK}%")])?;
            tx.execute_batch("ANALYZE")?;
            tx.commit()
        };
        let written = write();
        written.map_err(|error| self.failed(&error))
    }

    /// Columns of this store alone.
    fn filled(&self, plan: &Plan<'_>) -> Result<Vec<String>, MoveError> {
        let columns = self.columns(plan.table.name)?;
        let own = columns.into_iter().map(|column| column.name);
        Ok(own.filter(|name| crate::moving::is_of_one_store(plan.table.name, name)).collect())
    }

    fn failed(&self, error: &rusqlite::Error) -> MoveError {
        MoveError::Failed { place: self.place.clone(), cause: error.to_string() }
    }
}

/// The file is the target of a move that is not finished.
/// Keys of runs and new ones become the bare keys that a file without runs has; the caller holds the lock. One
/// transaction a segment, so that a log is not longer than a segment.
pub(crate) fn write_keys_bare(path: &Path) -> Result<(), MoveError> {
    let write = || -> rusqlite::Result<()> {
        let mut conn = super::connect_writer(path)?;
        let segments: Vec<i64> = conn
            .prepare("SELECT id FROM segments ORDER BY id")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for segment in segments {
            let transaction = conn.transaction()?;
            transaction.execute(
                "INSERT OR IGNORE INTO keys_seen (segment, key, seq)
                 SELECT segment, substr(key, -16), seq FROM keys_seen
                 WHERE segment = ?1 AND length(key) > 16 ORDER BY 2",
                [segment],
            )?;
            transaction
                .execute("DELETE FROM keys_seen WHERE segment = ?1 AND length(key) > 16", [segment])?;
            leave_out_runs(&transaction, segment)?;
            transaction.commit()?;
        }
        Ok(())
    };
    write().map_err(|cause| sql(path, cause))
}

/// A stored filter that knows of runs becomes one that does not.
fn leave_out_runs(conn: &Connection, segment: i64) -> rusqlite::Result<()> {
    let stored: (i64, Option<Vec<u8>>) =
        conn.query_row("SELECT v, filter FROM segments WHERE id = ?1", [segment], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (WITH_RUNS, Some(bytes)) = stored else { return Ok(()) };
    // What cannot be read is made anew from the keys.
    let filter = runs::unpack(WITH_RUNS, bytes).map(|(filter, _)| filter.as_bytes().to_vec());
    conn.execute(
        "UPDATE segments SET v = ?2, filter = ?3 WHERE id = ?1",
        params![segment, FILTER_VERSION, filter],
    )?;
    Ok(())
}

pub(crate) fn is_marked(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM meta WHERE name = ?1)", [MARK], |row| row.get(0))
}

/// Before the lock is taken: beside a file of somebody else nothing is left.
fn refuse_foreign(path: &Path) -> Result<(), MoveError> {
    if std::fs::metadata(path).map_or(0, |meta| meta.len()) == 0 {
        return Ok(());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|cause| sql(path, cause))?;
    // A file in which a move had only just begun has no tables at all.
    let foreign = "SELECT count(*) > 0 AND count(*) FILTER (WHERE name = 'migrations') = 0
        FROM sqlite_master WHERE type = 'table'";
    match conn.query_row(foreign, [], |row| row.get(0)) {
        Ok(false) => Ok(()),
        Ok(true) => Err(OpenError::Foreign { path: path.to_owned() }.into()),
        Err(cause) if cause.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
            Err(OpenError::Foreign { path: path.to_owned() }.into())
        }
        Err(cause) => Err(sql(path, cause)),
    }
}

fn held(path: &Path, now: Millis) -> Result<Lock, MoveError> {
    let me = Holder { pid: std::process::id(), since: now, socket: None };
    let io = |cause| OpenError::Io { path: path.to_owned(), cause };
    Ok(lock::take(path, &me).map_err(io)?.map_err(OpenError::Held)?)
}

fn sql(path: &Path, cause: rusqlite::Error) -> MoveError {
    OpenError::Sql { path: path.to_owned(), cause }.into()
}

fn select(plan: &Plan<'_>, goes_on: bool) -> String {
    let table = plan.table;
    let shown = |column: &Column| match column.name == table.cleared {
        true => format!("0 AS {}", column.name),
        false => column.name.clone(),
    };
    let columns = plan.columns.iter().map(shown).collect::<Vec<_>>().join(", ");
    let key = table.key.join(", ");
    let mut only: Vec<String> = vec![];
    if !table.only.is_empty() {
        only.push(table.only.to_owned());
    }
    if goes_on {
        let asked: Vec<&str> = table.key.iter().map(|_| "?").collect();
        only.push(format!("({key}) > ({})", asked.join(", ")));
    }
    let only = if only.is_empty() { String::new() } else { format!("WHERE {}", only.join(" AND ")) };
    format!("SELECT {columns} FROM {} {only} ORDER BY {key} LIMIT ?", table.name)
}

fn insert(plan: &Plan<'_>, filled: &[String]) -> String {
    let mut columns: Vec<&str> = plan.columns.iter().map(|column| column.name.as_str()).collect();
    let mut values: Vec<&str> = columns.iter().map(|_| "?").collect();
    for column in filled {
        columns.push(column);
        values.push("0");
    }
    // The one row that a store is made with: the key of identities.
    let verb = if plan.table.name == "meta" { "INSERT OR REPLACE" } else { "INSERT" };
    format!("{verb} INTO {} ({}) VALUES ({})", plan.table.name, columns.join(", "), values.join(", "))
}

fn set_mark(conn: &Connection, name: &str, value: Vec<u8>) -> rusqlite::Result<()> {
    conn.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", params![name, value])?;
    Ok(())
}

fn value(cell: ValueRef<'_>, place: usize) -> rusqlite::Result<Value> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    match cell {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(number) => Ok(Value::Int(number)),
        ValueRef::Text(bytes) => Ok(Value::Text(text(bytes))),
        ValueRef::Blob(bytes) => Ok(Value::Bytes(bytes.to_vec())),
        ValueRef::Real(_) => Err(rusqlite::Error::InvalidColumnType(place, String::new(), Type::Real)),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Int(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

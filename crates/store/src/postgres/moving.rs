//! A database of PostgreSQL as one end of a move.

use mailspan_core::Millis;
use mailspan_core::limits::MOVE_PAGE_BYTES_MAX;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row as Found};

use super::connect::{Connector, Spawn};
use super::migrate::migrate;
use crate::moving::{Column, Kind, MARK, MoveError, Number, Plan, Row, Value, bytes_of};
use crate::{OpenError, SCHEMA};

/// Rows fetched at once: a page of large ones ends early.
const FETCH_ROWS: i32 = 32;

/// Held shared by the session of each writer, alone by a move.
pub(crate) const WRITES: &str = "hashtext('mailspan move'), hashtext(current_schema())";

pub(crate) struct PostgresSide {
    client: Client,
    pub place: String,
}

type Param = Box<dyn ToSql + Sync + Send>;

impl PostgresSide {
    pub(crate) async fn look(
        url: &str,
        spawn: Spawn,
        now: Millis,
    ) -> Result<Option<PostgresSide>, MoveError> {
        let side = PostgresSide::connect(url, spawn).await?;
        let tables = "SELECT (SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()) AS tables,
            to_regclass('migrations') IS NOT NULL AND to_regclass('keys_seen') IS NOT NULL AS ours";
        let row = side.client.query_one(tables, &[]).await.map_err(|error| side.failed(&error))?;
        let (tables, ours): (i64, bool) = (row.get(0), row.get(1));
        if tables == 0 {
            return Ok(None);
        }
        if !ours {
            return Err(OpenError::Foreign { path: side.place.into() }.into());
        }
        let found = side.client.query_one("SELECT coalesce(max(number), 0) FROM migrations", &[]).await;
        let found: i64 = found.map_err(|error| side.failed(&error))?.get(0);
        if found != SCHEMA {
            return Err(MoveError::Schema { place: side.place, found, known: SCHEMA });
        }
        side.check_free(now).await?;
        side.lock_out().await?;
        Ok(Some(side))
    }

    pub(crate) async fn make(url: &str, spawn: Spawn, now: Millis) -> Result<PostgresSide, MoveError> {
        let mut side = PostgresSide::connect(url, spawn).await?;
        // The seed makes a key of identities that the source's takes the place of.
        migrate(&mut side.client, &side.place, 0, now).await?;
        side.check_free(now).await?;
        side.lock_out().await?;
        // Pages and their marks are in one transaction: what a power cut takes back is copied again.
        side.batch("SET synchronous_commit = off").await?;
        Ok(side)
    }

    async fn connect(url: &str, spawn: Spawn) -> Result<PostgresSide, MoveError> {
        let connector = Connector::new(url, spawn)?;
        let place = connector.place.clone();
        let client = connector.plain().await.map_err(|fault| MoveError::Failed {
            place: place.clone(),
            cause: fault.trouble().to_string(),
        })?;
        let side = PostgresSide { client, place };
        // Walks go by the primary key, also where the tables were never analysed.
        side.batch("SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off").await?;
        Ok(side)
    }

    /// Nobody else writes there from here to the end of this session: no other move, and no hub, of whatever role,
    /// whose writer holds [`WRITES`]. One that was killed a moment ago is waited for.
    async fn lock_out(&self) -> Result<(), MoveError> {
        self.batch("SET lock_timeout = '3s'").await?;
        let locked = self.client.batch_execute(&format!("SELECT pg_advisory_lock({WRITES})")).await;
        match locked {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                Err(MoveError::Busy { place: self.place.clone() })
            }
            Err(error) => Err(self.failed(&error)),
            Ok(()) => self.batch("SET lock_timeout = 0").await,
        }
    }

    async fn check_free(&self, now: Millis) -> Result<(), MoveError> {
        let sql = "SELECT name FROM leases WHERE until > $1 ORDER BY name LIMIT 1";
        let held = self.client.query_opt(sql, &[&now.0]).await.map_err(|error| self.failed(&error))?;
        match held {
            Some(row) => Err(MoveError::Served { place: self.place.clone(), lease: row.get(0) }),
            None => Ok(()),
        }
    }

    pub(crate) async fn columns(&self, table: &str) -> Result<Vec<Column>, MoveError> {
        let sql = "SELECT column_name::text, data_type::text FROM information_schema.columns
            WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position";
        let rows = self.client.query(sql, &[&table]).await.map_err(|error| self.failed(&error))?;
        let column = |row: &Found| {
            let kind = match row.get::<_, &str>(1) {
                "bigint" => Kind::Int,
                "text" => Kind::Text,
                _ => Kind::Bytes,
            };
            Column { name: row.get(0), kind }
        };
        Ok(rows.iter().map(column).collect())
    }

    pub(crate) async fn page(
        &mut self,
        plan: &Plan<'_>,
        after: Option<&Row>,
        rows_max: usize,
    ) -> Result<Vec<Row>, MoveError> {
        let place = self.place.clone();
        let read = async {
            let tx = self.client.transaction().await?;
            let statement = tx.prepare(&select(plan, after.is_some())).await?;
            let mut params: Vec<Param> = after.into_iter().flatten().map(param).collect();
            params.push(Box::new(rows_max as i64));
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| &**param as _).collect();
            let portal = tx.bind(&statement, &params).await?;
            let (mut rows, mut bytes) = (vec![], 0);
            loop {
                let found = tx.query_portal(&portal, FETCH_ROWS).await?;
                for row in &found {
                    let row = row_of(plan, row)?;
                    bytes += bytes_of(&row);
                    rows.push(row);
                }
                if found.len() < FETCH_ROWS as usize || bytes >= MOVE_PAGE_BYTES_MAX {
                    break;
                }
            }
            tx.commit().await?;
            Ok(rows)
        };
        read.await.map_err(|error: tokio_postgres::Error| failed(&place, &error))
    }

    pub(crate) async fn keep(
        &mut self,
        plan: &Plan<'_>,
        rows: Vec<Row>,
        (name, mark): (&str, Vec<u8>),
    ) -> Result<(), MoveError> {
        let own = self.columns(plan.table.name).await?.into_iter().map(|column| column.name);
        let filled: Vec<String> =
            own.filter(|name| crate::moving::is_of_one_store(plan.table.name, name)).collect();
        let params = by_column(plan, rows);
        let place = self.place.clone();
        let write = async {
            let tx = self.client.transaction().await?;
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| &**param as _).collect();
            tx.execute(&insert(plan, &filled), &params).await?;
            tx.execute(SET_MARK, &[&name, &mark]).await?;
            tx.commit().await
        };
        write.await.map_err(|error| failed(&place, &error))
    }

    pub(crate) async fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, MoveError> {
        let found = self.client.query_opt("SELECT value FROM meta WHERE name = $1", &[&name]).await;
        Ok(found.map_err(|error| self.failed(&error))?.map(|row| row.get(0)))
    }

    pub(crate) async fn set_mark(&self, name: &str, value: Vec<u8>) -> Result<(), MoveError> {
        let set = self.client.execute(SET_MARK, &[&name, &value]).await;
        set.map(drop).map_err(|error| self.failed(&error))
    }

    pub(crate) async fn holds_rows(&self, table: &str) -> Result<bool, MoveError> {
        let but = if table == "meta" { "WHERE name <> 'identity_key'" } else { "" };
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} {but})");
        let row = self.client.query_one(&sql, &[]).await.map_err(|error| self.failed(&error))?;
        Ok(row.get(0))
    }

    /// Nothing where the key is no number, or is given by others.
    pub(crate) async fn highest(&self, table: &str, column: &str) -> Result<Option<i64>, MoveError> {
        let Some(sequence) = self.sequence(table, column).await? else { return Ok(None) };
        let sql = format!(
            "SELECT greatest((SELECT coalesce(max({column}), 0) FROM {table}),
             (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}))"
        );
        let row = self.client.query_one(&sql, &[]).await.map_err(|error| self.failed(&error))?;
        Ok(Some(row.get(0)))
    }

    /// What gives a key its numbers: the sequence of an identity, or one named after table and column.
    pub(crate) async fn sequence(&self, table: &str, column: &str) -> Result<Option<String>, MoveError> {
        let sql =
            "SELECT coalesce(pg_get_serial_sequence($1, $2), (SELECT c.oid::regclass::text FROM pg_class c
            WHERE c.oid = to_regclass($1 || '_' || $2) AND c.relkind = 'S'))";
        let row = self.client.query_one(sql, &[&table, &column]).await;
        let name: Option<String> = row.map_err(|error| self.failed(&error))?.get(0);
        Ok(name.filter(|name| !name.is_empty()))
    }

    pub(crate) async fn finish(&mut self, numbers: &[Number]) -> Result<(), MoveError> {
        let mut sequences = vec![];
        for number in numbers.iter().filter(|number| number.highest > 0) {
            if let Some(name) = self.sequence(number.table, number.column).await? {
                sequences.push((name, number.highest));
            }
        }
        let place = self.place.clone();
        let write = async {
            let tx = self.client.transaction().await?;
            // All pages before it are synced with it.
            tx.batch_execute("SET LOCAL synchronous_commit = on").await?;
            for (name, highest) in &sequences {
                let sql = "SELECT setval($1::text::regclass, greatest($2, nextval($1::text::regclass)))";
                tx.query_one(sql, &[name, highest]).await?;
            }
            tx.execute("DELETE FROM meta WHERE name LIKE $1", &[&format!("{MARK}%")]).await?;
            tx.commit().await
        };
        write.await.map_err(|error| failed(&place, &error))?;
        self.batch("ANALYZE").await
    }

    async fn batch(&self, text: &str) -> Result<(), MoveError> {
        self.client.batch_execute(text).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &tokio_postgres::Error) -> MoveError {
        failed(&self.place, error)
    }
}

/// The database is the target of a move that is not finished.
pub(crate) async fn is_marked(client: &Client) -> Result<bool, tokio_postgres::Error> {
    Ok(client.query_opt("SELECT 1 FROM meta WHERE name = $1", &[&MARK]).await?.is_some())
}

const SET_MARK: &str =
    "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";

fn failed(place: &str, error: &tokio_postgres::Error) -> MoveError {
    MoveError::Failed { place: place.to_owned(), cause: super::shown(error) }
}

fn select(plan: &Plan<'_>, goes_on: bool) -> String {
    let table = plan.table;
    let shown = |column: &Column| match column.name == table.cleared {
        true => format!("0::bigint AS {}", column.name),
        false => column.name.clone(),
    };
    let columns: Vec<String> = plan.columns.iter().map(shown).collect();
    let key = table.key.join(", ");
    let mut only: Vec<String> = vec![];
    if !table.only.is_empty() {
        only.push(table.only.to_owned());
    }
    if goes_on {
        let asked: Vec<String> = (1..=table.key.len()).map(|n| format!("${n}")).collect();
        only.push(format!("({key}) > ({})", asked.join(", ")));
    }
    let only = if only.is_empty() { String::new() } else { format!("WHERE {}", only.join(" AND ")) };
    let from = if table.on_postgres.is_empty() { table.name } else { table.on_postgres };
    let limit = if goes_on { table.key.len() + 1 } else { 1 };
    format!(
        "SELECT {} FROM {from} AS {} {only} ORDER BY {key} LIMIT ${limit}",
        columns.join(", "),
        table.name
    )
}

fn insert(plan: &Plan<'_>, filled: &[String]) -> String {
    let mut columns: Vec<&str> = plan.columns.iter().map(|column| column.name.as_str()).collect();
    let array = |(place, column): (usize, &Column)| {
        let kind = match column.kind {
            Kind::Int => "bigint",
            Kind::Text => "text",
            Kind::Bytes => "bytea",
        };
        format!("${}::{kind}[]", place + 1)
    };
    let arrays: Vec<String> = plan.columns.iter().enumerate().map(array).collect();
    columns.extend(filled.iter().map(String::as_str));
    let zeros: String = filled.iter().map(|_| ", 0").collect();
    // The one row that a store is made with: the key of identities.
    let conflict = match plan.table.name {
        "meta" => "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        _ => "",
    };
    format!(
        "INSERT INTO {} ({}) SELECT r.*{zeros} FROM unnest({}) AS r {conflict}",
        plan.table.name,
        columns.join(", "),
        arrays.join(", ")
    )
}

/// An array for each column.
fn by_column(plan: &Plan<'_>, rows: Vec<Row>) -> Vec<Param> {
    let mut columns: Vec<Vec<Value>> = plan.columns.iter().map(|_| Vec::with_capacity(rows.len())).collect();
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    plan.columns.iter().zip(columns).map(|(column, values)| array(column.kind, values)).collect()
}

fn array(kind: Kind, values: Vec<Value>) -> Param {
    match kind {
        Kind::Int => Box::new(values.into_iter().map(int).collect::<Vec<_>>()),
        Kind::Text => Box::new(values.into_iter().map(text).collect::<Vec<_>>()),
        Kind::Bytes => Box::new(values.into_iter().map(bytes).collect::<Vec<_>>()),
    }
}

fn int(value: Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(number) } else { None }
}

fn text(value: Value) -> Option<String> {
    if let Value::Text(text) = value { Some(text) } else { None }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    if let Value::Bytes(bytes) = value { Some(bytes) } else { None }
}

fn param(value: &Value) -> Param {
    match value {
        Value::Null => Box::new(None::<i64>),
        Value::Int(number) => Box::new(*number),
        Value::Text(text) => Box::new(text.clone()),
        Value::Bytes(bytes) => Box::new(bytes.clone()),
    }
}

fn row_of(plan: &Plan<'_>, row: &Found) -> Result<Row, tokio_postgres::Error> {
    let cell = |(place, column): (usize, &Column)| {
        Ok(match column.kind {
            Kind::Int => row.try_get::<_, Option<i64>>(place)?.map(Value::Int),
            Kind::Text => row.try_get::<_, Option<String>>(place)?.map(Value::Text),
            Kind::Bytes => row.try_get::<_, Option<Vec<u8>>>(place)?.map(Value::Bytes),
        }
        .unwrap_or(Value::Null))
    };
    plan.columns.iter().enumerate().map(cell).collect()
}

/// A connection for tests that look at the tables.
#[cfg(test)]
pub(crate) async fn plain(url: &str, spawn: Spawn) -> Result<Client, MoveError> {
    Ok(PostgresSide::connect(url, spawn).await?.client)
}

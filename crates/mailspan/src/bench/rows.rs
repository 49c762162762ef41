//! The store of the floors: SQLite, WAL, `synchronous=FULL`, one writer thread, group commit.

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use mailspan_core::limits::GROUP_WRITES_MAX;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use crate::runtime;

/// Rows that wait for the writer.
const WAITING_MAX: usize = 4_096;

pub enum Row {
    /// `done` hears the number of the row after the commit.
    Keep {
        key: [u8; 16],
        body: Bytes,
        done: oneshot::Sender<i64>,
    },
    Done {
        row: i64,
    },
}

/// Opens the file and starts its writer, which ends when the sender is dropped.
pub fn start(file: &Path) -> anyhow::Result<mpsc::Sender<Row>> {
    let connection = Connection::open(file).with_context(|| format!("open {}", file.display()))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE row(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, body BLOB NOT NULL, done INTEGER)",
    )?;
    let (sender, waiting) = mpsc::channel(WAITING_MAX);
    drop(runtime::thread("floor-writer", move || write(connection, waiting)));
    Ok(sender)
}

/// Rows kept and rows done.
pub fn count(file: &Path) -> rusqlite::Result<(i64, i64)> {
    let connection = Connection::open(file)?;
    connection.query_row("SELECT count(*), count(done) FROM row", [], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Takes what waits, at most 1,024 rows, commits, and only then says so.
fn write(mut connection: Connection, mut waiting: mpsc::Receiver<Row>) {
    let mut group = Vec::with_capacity(GROUP_WRITES_MAX);
    while waiting.blocking_recv_many(&mut group, GROUP_WRITES_MAX) > 0 {
        // A floor whose disk fails measures nothing; those who wait hear that their row was not kept.
        let Ok(kept) = commit(&mut connection, &mut group) else { return };
        for (row, done) in kept {
            // Whoever asked may have gone.
            let _ = done.send(row);
        }
    }
}

type Kept = Vec<(i64, oneshot::Sender<i64>)>;

fn commit(connection: &mut Connection, group: &mut Vec<Row>) -> rusqlite::Result<Kept> {
    let mut kept = Vec::with_capacity(group.len());
    let transaction = connection.transaction()?;
    {
        let mut keep = transaction.prepare_cached("INSERT INTO row(key, body) VALUES (?, ?)")?;
        let mut mark = transaction.prepare_cached("UPDATE row SET done = 1 WHERE id = ?")?;
        for row in group.drain(..) {
            match row {
                Row::Keep { key, body, done } => {
                    let id = keep.insert(params![key, &body[..]])?;
                    kept.push((id, done));
                }
                Row::Done { row } => {
                    mark.execute([row])?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(kept)
}

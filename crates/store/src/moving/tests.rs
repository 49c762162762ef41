#![allow(clippy::disallowed_methods, reason = "a test starts tasks itself")]

use mailspan_testkit::PostgresServer;

use super::tables::{OF_ONE_STORE, STAYING};
use super::*;
use crate::sqlite::Journal;

const HELP: &str =
    "list it in crates/store/src/moving/tables.rs (TABLES to move it, STAYING with a reason not to)";

fn listed() -> Vec<&'static str> {
    let mut names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    names.extend(STAYING.iter().map(|(name, _)| *name));
    names.sort_unstable();
    names
}

#[test]
fn every_table_of_sqlite_moves_or_stays_for_a_reason() {
    let journal = Journal::in_memory(1, 10).unwrap();
    let conn = &journal.base.conn;
    let texts = |sql: &str| -> Vec<String> {
        conn.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let found = texts(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name",
    );
    assert_eq!(found, listed(), "{HELP}");
    for table in TABLES {
        let name = table.name;
        let key = texts(&format!("SELECT name FROM pragma_table_info('{name}') WHERE pk > 0 ORDER BY pk"));
        assert_eq!(key, table.key, "the key of {name} in TABLES is not its primary key");
        let all = texts(&format!("SELECT name FROM pragma_table_info('{name}')"));
        assert!(table.cleared.is_empty() || all.iter().any(|column| column == table.cleared), "{name}");
    }
}

/// Tables, columns with their kinds, and sequences.
#[test]
fn every_table_of_postgres_moves_or_stays_for_a_reason() {
    let server = PostgresServer::start();
    let url = server.database("tables");
    let spawn: Spawn = std::sync::Arc::new(|task| drop(tokio::spawn(task)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = Place::Sqlite { path: folder.path().join("hub.db") };
        let sqlite = Side::make(&sqlite, Millis(1)).await.unwrap();
        let postgres =
            Side::make(&Place::Postgres { url: url.clone(), spawn: spawn.clone() }, Millis(1)).await.unwrap();
        let client = crate::postgres::moving::plain(&url, spawn).await.unwrap();
        let texts = async |sql: &str| -> Vec<String> {
            client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
        };
        let found = texts("SELECT tablename::text COLLATE \"C\" FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1");
        assert_eq!(found.await, listed(), "{HELP}");
        let kinds = "SELECT DISTINCT data_type::text FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY 1";
        assert_eq!(texts(kinds).await, ["bigint", "bytea", "text"], "a kind of column that the move does not know");
        let mut numbered = vec!["shards".to_owned()];
        for (table, plan) in TABLES.iter().zip(plans(&sqlite, &postgres).await.unwrap()) {
            let of_postgres = postgres.columns(table.name).await.unwrap();
            for column in &plan.columns {
                // A value of any kind in SQLite is bytes in PostgreSQL.
                assert!(of_postgres.contains(column), "{}.{} differs in kind", table.name, column.name);
            }
            let Side::Postgres(side) = &postgres else { unreachable!() };
            if let [column] = table.key {
                numbered.extend(side.sequence(table.name, column).await.unwrap());
            }
        }
        numbered.sort_unstable();
        let sequences = texts("SELECT c.oid::regclass::text COLLATE \"C\" FROM pg_class c WHERE relkind = 'S' AND relnamespace = current_schema()::regnamespace ORDER BY 1");
        let short = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
        let mut numbered: Vec<String> = numbered.iter().map(short).collect();
        numbered.sort_unstable();
        assert_eq!(sequences.await, numbered, "a sequence must be an identity, or be named TABLE_KEY, to go on after a move");
        for (table, column) in OF_ONE_STORE {
            let here = [&sqlite, &postgres];
            let mut has = 0;
            for side in here {
                has += usize::from(side.columns(table).await.unwrap().iter().any(|one| one.name == *column));
            }
            assert_eq!(has, 1, "{table}.{column} is not a column of one store alone");
        }
    });
}

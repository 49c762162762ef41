//! Where a bench keeps its stores: a file of its own in the folder, or a schema of its own in a database.

use std::path::Path;

use anyhow::Context;
use mailspan_core::Secret;
use mailspan_store::floor;
use mailspan_store::moving::Place;

use crate::hub::Storage;
use crate::runtime;

/// What a store of the bench is made on.
#[derive(Debug, Clone)]
pub enum On {
    Sqlite,
    Postgres { url: Secret },
}

impl On {
    pub fn name(&self) -> &'static str {
        match self {
            On::Sqlite => "SQLite, WAL, synchronous=FULL",
            On::Postgres { .. } => "PostgreSQL, synchronous_commit as the server has it, at least on",
        }
    }

    /// `sqlite`, or the URL of a database.
    pub fn parse(text: &str) -> Result<On, String> {
        match text {
            "sqlite" => Ok(On::Sqlite),
            _ if text.starts_with("postgres://") || text.starts_with("postgresql://") => {
                Ok(On::Postgres { url: Secret::new(text.to_owned()) })
            }
            // What was written may be a password: it is not shown.
            _ => Err("write `sqlite`, or postgres://user@host/database".to_owned()),
        }
    }
}

/// A new, empty place; [`Made::remove`] takes a schema away, the folder goes with its owner.
pub struct Made {
    pub storage: Storage,
    schema: Option<(Secret, String)>,
}

impl Made {
    pub async fn new(on: &On, folder: &Path, name: &str) -> anyhow::Result<Made> {
        match on {
            On::Sqlite => Ok(Made {
                storage: Storage::Sqlite { path: folder.join(format!("{name}.db")) },
                schema: None,
            }),
            On::Postgres { url } => {
                let schema = format!("mailspan_bench_{name}_{:08x}", runtime::random_u64() as u32);
                let made = floor::make_schema(url.expose(), runtime::spawner(), &schema);
                let own = made.await.context("make a schema for the bench")?;
                let storage = Storage::Postgres { url: Secret::new(own), folder: folder.to_owned() };
                Ok(Made { storage, schema: Some((url.clone(), schema)) })
            }
        }
    }

    pub fn place(&self) -> Place {
        match &self.storage {
            Storage::Sqlite { path } => Place::Sqlite { path: path.clone() },
            Storage::Postgres { url, .. } => {
                Place::Postgres { url: url.expose().to_owned(), spawn: runtime::spawner() }
            }
        }
    }

    pub async fn remove(self) {
        if let Some((url, schema)) = self.schema
            && let Err(error) = floor::drop_schema(url.expose(), runtime::spawner(), &schema).await
        {
            eprintln!("schema {schema} could not be removed: {error}");
        }
    }
}

//! `mailspan migrate`: brings the store to this binary's schema without serving.

use std::process::ExitCode;

use anyhow::{Context, bail};
use mailspan_store::OpenError;

use super::progress::Progress;
use super::{Common, table};
use crate::hub::Storage;
use crate::open;

/// `serve` does the same at its start; this is for doing it apart, before a new version serves.
pub async fn run(common: &Common, compact: bool) -> anyhow::Result<ExitCode> {
    let hub = super::load(common)?;
    let progress = Progress::new(common.json);
    let opened = progress
        .during(
            "bringing the store to its schema",
            open::store(&hub.storage, &hub.store_keys, hub.intake_queue),
        )
        .await;
    drop(progress);
    let opened = match opened {
        Err(OpenError::Held(holder)) => bail!(
            "process {} serves {}: it brought the store to its schema when it started",
            holder.pid,
            shown(&hub.storage)
        ),
        opened => opened.context("open the store")?,
    };
    table::say(format_args!(
        "{} has schema {}, the newest that this version knows",
        shown(&hub.storage),
        mailspan_store::SCHEMA
    ));
    opened.close(crate::open::CLOSE_MS_MAX).await;
    match (&hub.storage, compact) {
        (Storage::Sqlite { path }, true) => {
            let (path, now) = (path.clone(), crate::runtime::now());
            let done = crate::runtime::blocking(move || mailspan_store::compact(&path, now)).await;
            done.context("the work ended with a panic")?.context("write the file anew")?;
            table::say(format_args!("{} was written anew", shown(&hub.storage)));
        }
        (Storage::Postgres { .. }, true) => {
            bail!("on PostgreSQL the server does that: `VACUUM FULL`, while no hub serves")
        }
        (_, false) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Without a password.
fn shown(storage: &Storage) -> String {
    match storage {
        Storage::Sqlite { path } => path.display().to_string(),
        Storage::Postgres { .. } => "the database".to_owned(),
    }
}

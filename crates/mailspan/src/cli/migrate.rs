//! `mailspan migrate`: brings the store to this binary's schema without serving.

use std::process::ExitCode;

use anyhow::{Context, bail};
use mailspan_store::OpenError;

use super::Common;
use super::table::say;
use crate::hub::Storage;
use crate::{open, runtime};

/// `serve` does the same at its start; this is for doing it apart, before a new version serves.
pub async fn run(common: &Common) -> anyhow::Result<ExitCode> {
    let hub = super::load(common)?;
    let Storage::Sqlite { path } = &hub.storage;
    match open::store(&hub.storage) {
        Ok(opened) => {
            say(format_args!(
                "{} has schema {}, the newest that this version knows",
                path.display(),
                mailspan_store::SCHEMA
            ));
            runtime::blocking(move || opened.close()).await;
            Ok(ExitCode::SUCCESS)
        }
        Err(OpenError::Held(holder)) => bail!(
            "process {} serves {}: it brought the store to its schema when it started",
            holder.pid,
            path.display()
        ),
        Err(error) => Err(error).context("open the store"),
    }
}

//! `mailspan migrate`: brings the store to this binary's schema without serving.

use std::process::ExitCode;

use anyhow::Context;

use super::{Common, table};
use crate::open;

/// `serve` does the same at its start; this is for doing it apart, before a new version serves.
pub async fn run(common: &Common) -> anyhow::Result<ExitCode> {
    let hub = super::load(common)?;
    let opened = open::store(&hub.storage).await.context("open the store")?;
    table::say(format_args!(
        "the store has schema {}, the newest that this version knows",
        mailspan_store::SCHEMA
    ));
    opened.close(crate::open::CLOSE_MS_MAX).await;
    Ok(ExitCode::SUCCESS)
}

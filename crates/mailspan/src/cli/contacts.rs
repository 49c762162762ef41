//! `mailspan contacts`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::Client;
use super::deliveries::segment;
use super::{Common, contact_files, erasures, table};

#[derive(Debug, Subcommand)]
pub enum Contacts {
    /// List contacts, in the order of their last change
    List {
        #[command(flatten)]
        whose: Whose,
        /// Rows of a page
        #[arg(long, default_value_t = 50)]
        limit: u16,
        /// `next` of the page before
        #[arg(long, default_value = "")]
        cursor: String,
    },
    /// Show one contact
    Show {
        /// Its id or external id
        id: String,
        #[command(flatten)]
        whose: Whose,
    },
    /// Bring contacts in from a file; goes on where it was cut off
    Import(contact_files::Import),
    /// Write all contacts to a file
    Export(contact_files::Export),
    /// Write all that is held about a person, as JSON
    Person(erasures::Person),
    /// Erase a person, here and at every destination that can; or all of a list
    Erase(erasures::Erase),
    /// Erasures: how far they are, and what was done where
    #[command(subcommand)]
    Erasures(erasures::Erasures),
    /// How many subscribed, by source and page
    Report {
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Debug, Args)]
pub struct Whose {
    #[arg(long, default_value = "default")]
    tenant: String,
}

pub async fn run(common: &Common, command: Contacts) -> anyhow::Result<ExitCode> {
    let tenant: &str = match &command {
        Contacts::List { whose, .. } | Contacts::Show { whose, .. } | Contacts::Report { whose } => {
            &whose.tenant
        }
        Contacts::Import(import) => &import.tenant,
        Contacts::Export(export) => &export.tenant,
        Contacts::Person(person) => &person.tenant,
        Contacts::Erase(erase) => &erase.tenant,
        Contacts::Erasures(_) => "default",
    };
    let client = Client::open(common).await?.for_tenant(tenant);
    let done = carry_out(common, &client, &command).await;
    client.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

async fn carry_out(common: &Common, client: &Client, command: &Contacts) -> anyhow::Result<()> {
    match command {
        Contacts::List { limit, cursor, .. } => {
            let answer = client.get(&format!("/contacts?limit={limit}&cursor={}", segment(cursor))).await?;
            let columns =
                ["id", "email", "externalId", "locale", "optIn", "permission", "suppressedAt", "updatedAt"];
            table::rows(common, &columns, &items(&answer["data"]), "there are no contacts");
            if let Some(next) = answer["meta"]["nextCursor"].as_str() {
                eprintln!("more: --cursor {next}");
            }
        }
        Contacts::Show { id, .. } => {
            table::one(common, &client.get(&format!("/contacts/{}", segment(id))).await?);
        }
        Contacts::Import(import) => contact_files::import(common, client, import).await?,
        Contacts::Export(export) => contact_files::export(client, export).await?,
        Contacts::Person(person) => erasures::person(client, person).await?,
        Contacts::Erase(erase) => erasures::erase(common, client, erase).await?,
        Contacts::Erasures(which) => erasures::look(common, client, which).await?,
        Contacts::Report { .. } => {
            let answer = client.get("/v1/contacts/report").await?;
            let columns = ["source", "page", "contacts", "asked", "confirmed"];
            table::rows(common, &columns, &items(&answer["items"]), "nobody has subscribed through a form");
        }
    }
    Ok(())
}

fn items(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

//! `mailspan tenants` and `mailspan fields`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::deliveries::segment;
use super::{Common, table};

#[derive(Debug, Subcommand)]
pub enum Tenants {
    /// Make a tenant and its first API key, which is shown once
    Create {
        /// Lower-case letters, digits, - and _
        name: String,
    },
    /// List tenants with their settings
    List,
    /// Change settings of a tenant
    Set {
        name: String,
        /// Requests a minute of each API key; 0: no limit
        #[arg(long)]
        rate_per_minute: Option<u32>,
        /// Ask for a confirmation again of who has confirmed before
        #[arg(long)]
        confirm_again: Option<bool>,
        /// A hard bounce suppresses the address
        #[arg(long)]
        bounces_suppress: Option<bool>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Fields {
    /// List the custom fields of a tenant
    List {
        #[arg(long, default_value = "default")]
        tenant: String,
    },
    /// Declare a custom field
    Declare {
        /// As it is written in requests, case and spaces included
        name: String,
        /// string, integer, float, date, boolean or timestamp
        kind: String,
        #[arg(long, default_value = "default")]
        tenant: String,
    },
    /// Take no values for a field any more
    Drop {
        name: String,
        #[arg(long, default_value = "default")]
        tenant: String,
    },
}

pub async fn tenants(common: &Common, command: Tenants) -> anyhow::Result<ExitCode> {
    let client = Client::open(common).await?;
    let done = carry_out(common, &client, command).await;
    client.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

async fn carry_out(common: &Common, client: &Client, command: Tenants) -> anyhow::Result<()> {
    match command {
        Tenants::Create { name } => {
            table::one(common, &client.post("/v1/tenants", &json!({ "name": name })).await?);
            if !common.json {
                eprintln!("keep the key now: only its hash is stored");
            }
        }
        Tenants::List => {
            let items = items(client.get("/v1/tenants").await?);
            let none = "there are no tenants: `mailspan tenants create NAME`";
            table::rows(common, &["tenant", "settings", "made_at"], &items, none);
        }
        Tenants::Set { name, rate_per_minute, confirm_again, bounces_suppress } => {
            let given = [
                ("rate_per_minute", rate_per_minute.map(Value::from)),
                ("confirm_again", confirm_again.map(Value::from)),
                ("bounces_suppress", bounces_suppress.map(Value::from)),
            ];
            let body: Map<String, Value> =
                given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
            let path = format!("/v1/tenants/{}", segment(&name));
            table::one(common, &client.patch(&path, &Value::Object(body)).await?);
        }
    }
    Ok(())
}

pub async fn fields(common: &Common, command: Fields) -> anyhow::Result<ExitCode> {
    let tenant = match &command {
        Fields::List { tenant } | Fields::Declare { tenant, .. } | Fields::Drop { tenant, .. } => {
            tenant.clone()
        }
    };
    let client = Client::open(common).await?.for_tenant(&tenant);
    let done = carry_out_fields(common, &client, command).await;
    client.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

async fn carry_out_fields(common: &Common, client: &Client, command: Fields) -> anyhow::Result<()> {
    match command {
        Fields::List { .. } => {
            let items = items(client.get("/v1/fields").await?);
            let none = "no custom fields are declared: `mailspan fields declare NAME KIND`";
            table::rows(common, &["name", "kind", "made_at"], &items, none);
        }
        Fields::Declare { name, kind, .. } => {
            table::one(common, &client.post("/v1/fields", &json!({ "name": name, "kind": kind })).await?);
        }
        Fields::Drop { name, .. } => {
            table::one(common, &client.delete(&format!("/v1/fields/{}", segment(&name))).await?);
        }
    }
    Ok(())
}

fn items(answer: Value) -> Vec<Value> {
    answer["items"].as_array().cloned().unwrap_or_default()
}

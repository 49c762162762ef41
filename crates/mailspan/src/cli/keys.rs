//! `mailspan keys`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::deliveries::segment;
use super::{Common, table};
use crate::http::v1::keys::new_secret;

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Create an API key; it is shown once
    Create {
        /// events:write, read, operate or admin; may be given several times
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
        /// When it stops working, like 90d
        #[arg(long)]
        expires: Option<String>,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// List keys by their first characters, with scopes and last use
    List,
    /// Make a key stop working at once
    Revoke {
        /// As `keys list` shows it
        id: String,
    },
    /// Seal the secrets of the store and the key of its address hashes under the first store key; then old_keys can go
    Reseal,
    /// Print a long random secret, for a webhook or a signing key
    Secret {
        /// As Standard Webhooks writes it: whsec_ and base64
        #[arg(long)]
        standard_webhooks: bool,
    },
}

pub async fn run(common: &Common, command: Keys) -> anyhow::Result<ExitCode> {
    if let Keys::Secret { standard_webhooks } = command {
        match common.json {
            true => table::say(format_args!("{}", json!({ "secret": secret(standard_webhooks) }))),
            false => table::say(format_args!("{}", secret(standard_webhooks))),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let client = Client::open(common).await?;
    let done = carry_out(common, &client, command).await;
    client.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

fn secret(standard_webhooks: bool) -> String {
    use base64::Engine;
    if !standard_webhooks {
        return new_secret("");
    }
    let bytes =
        [crate::runtime::random_u128().to_be_bytes(), crate::runtime::random_u128().to_be_bytes()].concat();
    format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

async fn carry_out(common: &Common, client: &Client, command: Keys) -> anyhow::Result<()> {
    match command {
        Keys::Create { scopes, note, expires, tenant } => {
            let mut body = json!({ "scopes": scopes, "note": note });
            if let Some(expires) = expires {
                body["expires"] = json!(expires);
            }
            if let Some(tenant) = tenant {
                body["tenant"] = json!(tenant);
            }
            let made = client.post("/v1/keys", &body).await?;
            table::one(common, &made);
            if !common.json {
                eprintln!("keep the key now: only its hash is stored");
            }
        }
        Keys::List => {
            let answer = client.get("/v1/keys").await?;
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            let columns =
                ["id", "key", "scopes", "note", "created_at", "expires_at", "revoked_at", "last_used_at"];
            table::rows(
                common,
                &columns,
                &items,
                "there are no keys: `mailspan keys create --scope events:write`",
            );
        }
        Keys::Revoke { id } => {
            table::one(common, &client.delete(&format!("/v1/keys/{}", segment(&id))).await?)
        }
        Keys::Reseal => {
            table::one(common, &client.post("/v1/keys/reseal", &json!({})).await?);
        }
        Keys::Secret { .. } => {}
    }
    Ok(())
}

//! A tenant with a key in a store of the bench, made before a hub is started on it.

use anyhow::Context;
use mailspan_connectors::signature::sha256;
use mailspan_core::Name;
use mailspan_core::limits::INTAKE_QUEUE_MAX;
use mailspan_store::{NewKey, TenantWrite, Write};

use crate::contacts::tenants::Settings;
use crate::http::v1::keys::new_secret;
use crate::hub::Storage;
use crate::{open, runtime};

/// Makes a tenant, without a limit on its requests; its key may do what an integration needs, and read.
pub async fn make(storage: &Storage, name: Name) -> anyhow::Result<String> {
    let opened = open::store(storage, &[], INTAKE_QUEUE_MAX).await.context("make the store")?;
    let (at, text) = (runtime::now(), new_secret("msk_"));
    let settings = Settings { rate_per_minute: 0, ..Settings::default() };
    let settings = serde_json::to_string(&settings).context("write the settings")?;
    opened.store.write(Write::Tenant(TenantWrite { name: name.clone(), settings, at })).await?;
    let scopes = ["contacts:read", "contacts:write", "webhooks:manage", "events:write", "read"];
    let key = NewKey {
        tenant: name,
        hash: sha256(text.as_bytes()),
        shown: "msk_bench".to_owned(),
        scopes: scopes.map(str::to_owned).to_vec(),
        note: "the bench".to_owned(),
        created_at: at,
        expires_at: None,
    };
    opened.store.write(Write::Key(key)).await?;
    opened.close(open::CLOSE_MS_MAX).await;
    Ok(text)
}

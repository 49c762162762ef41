//! Tenants and names: written once, then numbers. Cached in both directions for the whole node; made in
//! transactions of their own, so never stale.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use mailspan_core::{EventType, Name};

use super::base::{Base, Fault, clean, get};

/// Event types are names too, of a kind that only the store knows.
pub(crate) const TYPE: u8 = 4;
/// Sources, routes and destinations are few, types can be many: the cache is emptied at so many.
const NAMES_CACHED_MAX: usize = 10_000;

#[derive(Default)]
pub(crate) struct Names {
    tenants: HashMap<Arc<str>, i64>,
    numbers: HashMap<(i64, u8), HashMap<Arc<str>, i64>>,
    shown: HashMap<i64, Name>,
    shown_tenants: HashMap<i64, Name>,
    types: HashMap<i64, EventType>,
    cached: usize,
}

impl Names {
    fn count(&mut self) {
        self.cached += 1;
        if self.cached > NAMES_CACHED_MAX {
            *self = Names::default();
        }
    }
}

impl Base {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a tenant, where it has one.
    pub(crate) async fn tenant(&self, name: &str) -> Result<Option<i64>, Fault> {
        let name = &*clean(name);
        let known = self.names().tenants.get(name).copied();
        if known.is_some() {
            return Ok(known);
        }
        let row = self.row("SELECT id FROM tenants WHERE name = $1", &[&name]).await?;
        let Some(id) = row.map(|row| get(&row, 0)).transpose()? else { return Ok(None) };
        let mut names = self.names();
        names.count();
        names.tenants.insert(name.into(), id);
        Ok(Some(id))
    }

    /// The number of a name, where it has one.
    pub(crate) async fn number(&self, tenant: i64, kind: u8, name: &str) -> Result<Option<i64>, Fault> {
        let name = &*clean(name);
        let known = self.names().numbers.get(&(tenant, kind)).and_then(|known| known.get(name).copied());
        if known.is_some() {
            return Ok(known);
        }
        let row = self
            .row(
                "SELECT id FROM names WHERE tenant = $1 AND kind = $2 AND name = $3",
                &[&tenant, &i64::from(kind), &name],
            )
            .await?;
        let Some(id) = row.map(|row| get(&row, 0)).transpose()? else { return Ok(None) };
        let mut names = self.names();
        names.count();
        names.numbers.entry((tenant, kind)).or_default().insert(name.into(), id);
        Ok(Some(id))
    }

    /// Only outside of a transaction: a rollback must not take a cached number back.
    pub(crate) async fn make_tenant(&self, name: &str) -> Result<i64, Fault> {
        if let Some(id) = self.tenant(name).await? {
            return Ok(id);
        }
        self.execute("INSERT INTO tenants (name) VALUES ($1) ON CONFLICT DO NOTHING", &[&clean(name)])
            .await?;
        self.made_tenant(name).await
    }

    /// Only outside of a transaction: a rollback must not take a cached number back.
    pub(crate) async fn make_number(&self, tenant: i64, kind: u8, name: &str) -> Result<i64, Fault> {
        if let Some(id) = self.number(tenant, kind, name).await? {
            return Ok(id);
        }
        self.execute(
            "INSERT INTO names (tenant, kind, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[&tenant, &i64::from(kind), &clean(name)],
        )
        .await?;
        self.made_number(tenant, kind, name).await
    }

    /// Of a tenant that was made before the transaction began.
    pub(crate) async fn made_tenant(&self, name: &str) -> Result<i64, Fault> {
        self.tenant(name).await?.ok_or_else(|| Fault::unreadable("tenant", 0))
    }

    /// Of a name that was made before the transaction began.
    pub(crate) async fn made_number(&self, tenant: i64, kind: u8, name: &str) -> Result<i64, Fault> {
        self.number(tenant, kind, name).await?.ok_or_else(|| Fault::unreadable("name of tenant", tenant))
    }

    pub(crate) async fn name(&self, id: i64) -> Result<Name, Fault> {
        let known = self.names().shown.get(&id).cloned();
        if let Some(name) = known {
            return Ok(name);
        }
        let name = Name::new(&self.text("SELECT name FROM names WHERE id = $1", id).await?);
        let mut names = self.names();
        names.count();
        names.shown.insert(id, name.clone());
        Ok(name)
    }

    pub(crate) async fn tenant_name(&self, id: i64) -> Result<Name, Fault> {
        let known = self.names().shown_tenants.get(&id).cloned();
        if let Some(name) = known {
            return Ok(name);
        }
        let name = Name::new(&self.text("SELECT name FROM tenants WHERE id = $1", id).await?);
        let mut names = self.names();
        names.count();
        names.shown_tenants.insert(id, name.clone());
        Ok(name)
    }

    pub(crate) async fn event_type(&self, id: i64) -> Result<EventType, Fault> {
        let known = self.names().types.get(&id).cloned();
        if let Some(event_type) = known {
            return Ok(event_type);
        }
        let written = self.text("SELECT name FROM names WHERE id = $1", id).await?;
        let event_type = EventType::parse(&written).map_err(|_| Fault::unreadable("event type", id))?;
        let mut names = self.names();
        names.count();
        names.types.insert(id, event_type.clone());
        Ok(event_type)
    }

    async fn text(&self, sql: &str, id: i64) -> Result<String, Fault> {
        let row = self.row(sql, &[&id]).await?.ok_or_else(|| Fault::unreadable("name", id))?;
        get(&row, 0)
    }
}

//! Tenants and names: written once, then numbers. Cached in both directions; never changed, so never stale.

use std::collections::HashMap;
use std::sync::Arc;

use mailspan_core::{EventType, Name};
use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault};

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
    /// The number of a tenant, where it has one.
    pub(crate) fn tenant(&self, name: &str) -> Result<Option<i64>, Fault> {
        if let Some(id) = self.names.borrow().tenants.get(name) {
            return Ok(Some(*id));
        }
        let id: Option<i64> = self
            .sql("SELECT id FROM tenants WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        if let Some(id) = id {
            let mut names = self.names.borrow_mut();
            names.count();
            names.tenants.insert(name.into(), id);
        }
        Ok(id)
    }

    /// The number of a name, where it has one.
    pub(crate) fn number(&self, tenant: i64, kind: u8, name: &str) -> Result<Option<i64>, Fault> {
        if let Some(id) = self.names.borrow().numbers.get(&(tenant, kind)).and_then(|known| known.get(name)) {
            return Ok(Some(*id));
        }
        let id: Option<i64> = self
            .sql("SELECT id FROM names WHERE tenant = ?1 AND kind = ?2 AND name = ?3")?
            .query_row(params![tenant, kind, name], |row| row.get(0))
            .optional()?;
        if let Some(id) = id {
            let mut names = self.names.borrow_mut();
            names.count();
            names.numbers.entry((tenant, kind)).or_default().insert(name.into(), id);
        }
        Ok(id)
    }

    pub(crate) fn tenant_or_new(&self, name: &str) -> Result<i64, Fault> {
        if let Some(id) = self.tenant(name)? {
            return Ok(id);
        }
        self.sql("INSERT INTO tenants (name) VALUES (?1)")?.execute([name])?;
        Ok(self.conn.last_insert_rowid())
    }

    pub(crate) fn number_or_new(&self, tenant: i64, kind: u8, name: &str) -> Result<i64, Fault> {
        if let Some(id) = self.number(tenant, kind, name)? {
            return Ok(id);
        }
        self.sql("INSERT INTO names (tenant, kind, name) VALUES (?1, ?2, ?3)")?
            .execute(params![tenant, kind, name])?;
        Ok(self.conn.last_insert_rowid())
    }

    pub(crate) fn name(&self, id: i64) -> Result<Name, Fault> {
        if let Some(name) = self.names.borrow().shown.get(&id) {
            return Ok(name.clone());
        }
        let name = Name::new(&text(self, "SELECT name FROM names WHERE id = ?1", id)?);
        let mut names = self.names.borrow_mut();
        names.count();
        names.shown.insert(id, name.clone());
        Ok(name)
    }

    pub(crate) fn tenant_name(&self, id: i64) -> Result<Name, Fault> {
        if let Some(name) = self.names.borrow().shown_tenants.get(&id) {
            return Ok(name.clone());
        }
        let name = Name::new(&text(self, "SELECT name FROM tenants WHERE id = ?1", id)?);
        let mut names = self.names.borrow_mut();
        names.count();
        names.shown_tenants.insert(id, name.clone());
        Ok(name)
    }

    pub(crate) fn event_type(&self, id: i64) -> Result<EventType, Fault> {
        if let Some(event_type) = self.names.borrow().types.get(&id) {
            return Ok(event_type.clone());
        }
        let written = text(self, "SELECT name FROM names WHERE id = ?1", id)?;
        let event_type = EventType::parse(&written).map_err(|_| Fault::unreadable("event type", id))?;
        let mut names = self.names.borrow_mut();
        names.count();
        names.types.insert(id, event_type.clone());
        Ok(event_type)
    }

    /// After a rollback: what was cached may never have been.
    pub(crate) fn forget_names(&self) {
        *self.names.borrow_mut() = Names::default();
    }
}

fn text(base: &Base, sql: &str, id: i64) -> Result<String, Fault> {
    Ok(base.sql(sql)?.query_row([id], |row| row.get(0))?)
}

//! The stored request behind a fact.

use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault};
use super::events::request_row;
use crate::RequestRow;
use crate::proof::{Halving, Sought};

pub(crate) fn find(base: &Base, sought: &Sought) -> Result<Option<RequestRow>, Fault> {
    let Some(tenant) = base.tenant(sought.tenant.as_str())? else { return Ok(None) };
    let last: Option<i64> = base.sql("SELECT max(id) FROM requests")?.query_row([], |row| row.get(0))?;
    let mut halving = Halving::new(sought, last.unwrap_or(0));
    let mut next = base.sql("SELECT id, received_at FROM requests WHERE id > ?1 ORDER BY id LIMIT 1")?;
    while let Some(middle) = halving.middle() {
        let found = next.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        halving.saw(middle, found);
    }
    let (after, limit) = halving.place();
    // The packed requests are not read on the way.
    let number: Option<i64> = base
        .sql(
            "SELECT id FROM (SELECT id, tenant, received_at, digest FROM requests WHERE id > ?1 ORDER BY id LIMIT ?2)
             WHERE tenant = ?3 AND received_at = ?4 AND digest = ?5 LIMIT 1",
        )?
        .query_row(params![after, limit, tenant, sought.at, sought.digest], |row| row.get(0))
        .optional()?;
    let Some(number) = number else { return Ok(None) };
    let mut statement =
        base.sql("SELECT id, received_at, credential, digest, redacted, packed FROM requests WHERE id = ?1")?;
    let mut rows = statement.query([number])?;
    rows.next()?.map(request_row).transpose()
}

//! The stored request behind a fact.

use super::base::{Base, Fault, get};
use super::events::request_row;
use super::handle::Postgres;
use crate::proof::{Halving, Sought};
use crate::{RequestRow, Trouble};

impl Postgres {
    pub(crate) async fn proof(&self, sought: &Sought) -> Result<Option<RequestRow>, Trouble> {
        let link = self.link().await?;
        let found = find(link.base()?, sought).await;
        link.end(found).await
    }
}

async fn find(base: &Base, sought: &Sought) -> Result<Option<RequestRow>, Fault> {
    let Some(tenant) = base.tenant(sought.tenant.as_str()).await? else { return Ok(None) };
    let last = base.row("SELECT coalesce(max(id), 0) FROM requests", &[]).await?;
    let mut halving = Halving::new(sought, last.map_or(Ok(0), |row| get(&row, 0))?);
    while let Some(middle) = halving.middle() {
        let sql = "SELECT id, received_at FROM requests WHERE id > $1 ORDER BY id LIMIT 1";
        let found = base.row(sql, &[&middle]).await?;
        let found = found.map(|row| Ok::<_, Fault>((get(&row, 0)?, get(&row, 1)?))).transpose()?;
        halving.saw(middle, found);
    }
    let (after, limit) = halving.place();
    let sql = "SELECT id, received_at, credential, digest, redacted, packed FROM requests WHERE id =
        (SELECT r.id FROM (SELECT id, tenant, received_at, digest FROM requests WHERE id > $1 ORDER BY id LIMIT $2) AS r
         WHERE r.tenant = $3 AND r.received_at = $4 AND r.digest = $5 LIMIT 1)";
    let row = base.row(sql, &[&after, &limit, &tenant, &sought.at, &&sought.digest[..]]).await?;
    row.map(|row| request_row(&row)).transpose()
}

//! Webhook endpoints: destinations that the API makes, as rows. Their names are made already.

use mailspan_core::{DestinationId, State};

use super::base::{Base, Fault, get};
use super::standing;
use crate::NameKind;
use crate::contacts::{EndpointRow, EndpointWrite};
use crate::sqlite::counts::{Counts, Place};
use crate::sqlite::endpoints::{GIVEN_UP, GIVEN_UP_TEXT, OF_API, SETTINGS};
use crate::veil::{unveiled, veiled};
use crate::write::Wrote;

pub(crate) async fn write(base: &Base, counts: &mut Counts, write: &EndpointWrite) -> Result<Wrote, Fault> {
    standing::name(base, &write.tenant, NameKind::Destination, &write.name).await?;
    let tenant = base.made_tenant(write.tenant.as_str()).await?;
    let id = base.made_number(tenant, NameKind::Destination as u8, write.name.as_str()).await?;
    let settings = write.settings.as_deref().map(|text| veiled(&base.key, SETTINGS, text));
    let sql = "UPDATE destinations SET origin = $2, settings = $3, changed_at = $4 WHERE id = $1";
    base.execute(sql, &[&id, &OF_API, &settings, &write.at.0]).await?;
    let what = if write.settings.is_some() { "set endpoint" } else { "remove endpoint" };
    standing::log(base, tenant, write.at, what, id, write.name.as_str()).await?;
    if write.gives_up {
        let given_up = base
            .execute(
                "UPDATE deliveries SET state = $2, due = NULL, reason_code = $3, reason = $4, changed_at = $5,
                    progress = NULL
                 WHERE destination = $1 AND state = 0",
                &[&id, &(State::Discarded as i64), &GIVEN_UP, &GIVEN_UP_TEXT, &write.at.0],
            )
            .await?;
        let count = i64::try_from(given_up).unwrap_or(i64::MAX);
        counts.raise(id, Place::Delivery(State::Pending), -count);
        counts.raise(id, Place::Delivery(State::Discarded), count);
    }
    Ok(Wrote::Key { id })
}

/// See [`crate::Store::endpoints_mark`].
pub(crate) async fn mark(base: &Base) -> Result<(i64, i64), Fault> {
    let sql = "SELECT count(*), coalesce(sum(changed_at), 0)::bigint FROM destinations WHERE origin = $1";
    let row = base.row(sql, &[&OF_API]).await?;
    row.map_or(Ok((0, 0)), |row| Ok((get(&row, 0)?, get(&row, 1)?)))
}

/// All that have settings, by their numbers.
pub(crate) async fn list(base: &Base) -> Result<Vec<EndpointRow>, Fault> {
    let rows = base
        .rows(
            "SELECT d.id, t.name, n.name, d.settings FROM destinations d
             JOIN tenants t ON t.id = d.tenant JOIN names n ON n.id = d.id
             WHERE d.origin = $1 AND d.settings IS NOT NULL ORDER BY d.id LIMIT 100000",
            &[&OF_API],
        )
        .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let (id, tenant, name): (i64, String, String) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
        found.push(EndpointRow {
            destination: DestinationId(id),
            tenant: mailspan_core::Name::new(&tenant),
            name: mailspan_core::Name::new(&name),
            settings: unveiled(&base.key, SETTINGS, get(row, 3)?)
                .ok_or_else(|| Fault::unreadable("endpoint", id))?,
        });
    }
    Ok(found)
}

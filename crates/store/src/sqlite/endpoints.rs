//! Webhook endpoints: destinations that the API makes, as rows.

use mailspan_core::{DestinationId, Name, State};
use rusqlite::params;

use super::base::{Base, Fault};
use super::counts::Place;
use super::group::Group;
use super::standing;
use crate::NameKind;
use crate::contacts::{EndpointRow, EndpointWrite};
use crate::veil::{unveiled, veiled};
use crate::write::Wrote;

/// `destinations.origin` of a row that the API made.
pub(crate) const OF_API: i64 = 1;
/// What the settings are veiled for: their URL may hold a word of somebody who is erased.
pub(crate) const SETTINGS: &str = "endpoints";
pub(crate) const GIVEN_UP: &str = "endpoint_off";
pub(crate) const GIVEN_UP_TEXT: &str = "its webhook endpoint was switched off or removed";

pub(crate) fn write(group: &mut Group, write: &EndpointWrite) -> Result<Wrote, Fault> {
    standing::name(&group.base, &write.tenant, NameKind::Destination, &write.name)?;
    let base = &group.base;
    let tenant = base.tenant_or_new(write.tenant.as_str())?;
    let id = base.number_or_new(tenant, NameKind::Destination as u8, write.name.as_str())?;
    let settings = write.settings.as_deref().map(|text| veiled(&base.key, SETTINGS, text));
    base.sql("UPDATE destinations SET origin = ?2, settings = ?3, changed_at = ?4 WHERE id = ?1")?
        .execute(params![id, OF_API, settings, write.at.0])?;
    let what = if write.settings.is_some() { "set endpoint" } else { "remove endpoint" };
    standing::log(base, tenant, write.at, what, id, write.name.as_str())?;
    if write.gives_up {
        let given_up = base
            .sql(
                "UPDATE deliveries SET state = ?2, due = NULL, reason_code = ?3, reason = ?4, changed_at = ?5,
                    progress = NULL
                 WHERE destination = ?1 AND state = 0",
            )?
            .execute(params![id, State::Discarded as i64, GIVEN_UP, GIVEN_UP_TEXT, write.at.0])?;
        let count = i64::try_from(given_up).unwrap_or(i64::MAX);
        group.counts.raise(id, Place::Delivery(State::Pending), -count);
        group.counts.raise(id, Place::Delivery(State::Discarded), count);
    }
    Ok(Wrote::Key { id })
}

/// All that have settings, by their numbers.
pub(crate) fn list(base: &Base) -> Result<Vec<EndpointRow>, Fault> {
    let mut statement = base.sql(
        "SELECT id, tenant, settings FROM destinations WHERE origin = ?1 AND settings IS NOT NULL
         ORDER BY id LIMIT 100000",
    )?;
    let mut rows = statement.query([OF_API])?;
    let mut found = vec![];
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let name: Name = base.name(id)?;
        found.push(EndpointRow {
            destination: DestinationId(id),
            tenant: base.tenant_name(row.get(1)?)?,
            name,
            settings: unveiled(&base.key, SETTINGS, row.get(2)?)
                .ok_or_else(|| Fault::unreadable("endpoint", id))?,
        });
    }
    Ok(found)
}

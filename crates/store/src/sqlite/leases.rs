//! Leases: who may work, until when, under which number.

use std::collections::{HashMap, HashSet};

use mailspan_core::{DestinationId, Millis};
use mailspan_engine::Fence;
use rusqlite::{OptionalExtension, params};

use super::base::{Base, Fault};
use super::held::Held;
use crate::write::{Trouble, Wrote};
use crate::{LeaseRow, Look};

pub(crate) const ROUTER: &str = "router";
/// Before the name of a node: a lease that says that it lives.
pub(crate) const NODE: &str = "node/";

pub(crate) fn of_destination(destination: DestinationId) -> String {
    format!("destination/{}", destination.0)
}

/// Renews for the owner (the fence stays), gives a free or expired one to a new owner (the fence grows).
pub(crate) fn take(base: &Base, name: &str, owner: u128, now: Millis, until: Millis) -> Result<Wrote, Fault> {
    let held: Option<([u8; 16], i64, i64)> = base
        .sql("SELECT owner, until, fence FROM leases WHERE name = ?1")?
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let owner = owner.to_be_bytes();
    let fence = match held {
        None => 1,
        Some((holder, _, fence)) if holder == owner => fence,
        Some((_, until, fence)) if until <= now.0 => fence + 1,
        Some(_) => return Ok(Wrote::Lease { fence: None }),
    };
    base.sql(
        "INSERT INTO leases (name, owner, until, fence) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET owner = ?2, until = ?3, fence = ?4",
    )?
    .execute(params![name, owner, until.0, fence])?;
    Ok(Wrote::Lease { fence: Some(Fence(fence)) })
}

/// Those that are the owner's, in one statement.
pub(crate) fn renew(base: &Base, names: &[String], owner: u128, until: Millis) -> Result<Wrote, Fault> {
    let list = serde_json::to_string(names).map_err(|_| Fault::refused("bad_names", "names are text"))?;
    let mut statement = base.sql(
        "UPDATE leases SET until = ?3 WHERE name IN (SELECT value FROM json_each(?1)) AND owner = ?2
         RETURNING name, fence",
    )?;
    let rows = statement
        .query_map(params![list, owner.to_be_bytes(), until.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let renewed: HashMap<String, i64> = rows.collect::<Result<_, _>>()?;
    let fence = |name| renewed.get(name).copied().map(Fence);
    Ok(Wrote::Renewed { fences: names.iter().map(fence).collect() })
}

/// Of its owner; that of a node goes, as its name never comes again.
pub(crate) fn release(base: &Base, name: &str, owner: u128) -> Result<Wrote, Fault> {
    let sql = if name.starts_with(NODE) {
        "DELETE FROM leases WHERE name = ?1 AND owner = ?2"
    } else {
        "UPDATE leases SET until = 0 WHERE name = ?1 AND owner = ?2"
    };
    base.sql(sql)?.execute(params![name, owner.to_be_bytes()])?;
    Ok(Wrote::Done)
}

pub(crate) fn list(base: &Base) -> Result<Vec<LeaseRow>, Fault> {
    let mut statement = base.sql("SELECT name, owner, until FROM leases ORDER BY name")?;
    let rows = statement.query_map([], |row| {
        let (name, owner, until): (String, [u8; 16], i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(LeaseRow { name, owner: u128::from_be_bytes(owner), until: Millis(until) })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Of these destinations how they stand, beside all leases.
pub(crate) fn look(base: &Base, destinations: &[DestinationId]) -> Result<Look, Fault> {
    let of: HashSet<DestinationId> = destinations.iter().copied().collect();
    let rows = super::standing::list(base, None)?.into_iter().filter(|row| of.contains(&row.destination));
    let standings = rows.map(|row| (row.destination, (row.paused, row.pending))).collect();
    let unrouted = base.sql("SELECT 1 FROM unrouted LIMIT 1")?.exists([])?;
    Ok(Look { leases: list(base)?, standings, unrouted })
}

/// `FenceLost` unless the lease stands at this fence.
pub(crate) fn check(base: &Held, name: &str, fence: Fence) -> Result<(), Fault> {
    let stands =
        base.sql("SELECT 1 FROM leases WHERE name = ?1 AND fence = ?2")?.exists(params![name, fence.0])?;
    if stands { Ok(()) } else { Err(Fault::Trouble(Trouble::FenceLost)) }
}

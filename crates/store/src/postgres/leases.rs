//! Leases: who may work, until when, under which number. Their rows are what nodes lock before they change
//! the lanes of a destination, so an offer and a settlement never pass each other unseen.
//!
//! Who holds a lease also holds an advisory lock of the session that writes, under a number of its owner. The
//! server lets go of it the moment that session ends, so the leases of a process that was killed are taken
//! over at once, and not when they run out. A process that is frozen or cut off keeps its session for a while:
//! there the time of the lease decides.

use std::collections::{HashMap, HashSet};

use mailspan_core::Millis;
use mailspan_engine::Fence;

use super::base::{Base, Fault, get};
use super::journal::Journal;
use crate::prepare::{Prepared, What};
use crate::sqlite::jobs::lease_of;
use crate::sqlite::leases::{NODE, ROUTER, of_destination};
use crate::write::{Trouble, Write, Wrote};
use crate::{LeaseRow, Page, PageWork};

#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub owner: Vec<u8>,
    pub until: i64,
    pub fence: i64,
}

/// The rows that this transaction has locked.
pub(crate) type Locked = HashMap<String, Lease>;

/// The leases that a write checks or whose destinations it changes.
pub(crate) fn needed(write: &Prepared) -> Vec<String> {
    match &write.what {
        What::Route { routed, .. } => {
            let to = routed.iter().flat_map(|one| &one.to).map(|towards| of_destination(towards.destination));
            to.chain([ROUTER.to_owned()]).collect()
        }
        What::Write(Write::Settle { destination, settlements, .. }) => {
            let handed_on = settlements.iter().filter_map(|settlement| settlement.hand_on);
            let to = handed_on.map(|elsewhere| of_destination(elsewhere.destination));
            to.chain([of_destination(*destination)]).collect()
        }
        What::Write(Write::Stand { destination, fence: Some(_), .. }) => vec![of_destination(*destination)],
        What::Write(Write::Offer { offers, .. }) => {
            offers.iter().map(|offer| of_destination(offer.destination)).collect()
        }
        What::Write(Write::Discard { unserved, .. }) => {
            unserved.iter().map(|of| of_destination(*of)).collect()
        }
        What::Write(Write::Page(page)) => match &**page {
            Page { work: PageWork::Discard { unserved, .. }, .. } => {
                unserved.iter().map(|of| of_destination(*of)).collect()
            }
            Page { work: PageWork::Offer { items, .. }, .. } => {
                items.iter().map(|item| of_destination(item.offer.destination)).collect()
            }
            _ => vec![],
        },
        What::Write(Write::Lease { name, .. }) => vec![name.clone()],
        _ => vec![],
    }
}

/// The lease that a write checks, gives up or ends with its work: a late write must not make it again.
pub(crate) fn of_job(write: &Prepared) -> Option<String> {
    match &write.what {
        What::Write(Write::Page(page)) => Some(lease_of(page.job)),
        What::Write(Write::Release { name, .. }) => Some(name.clone()),
        What::Write(Write::JobStand { id, .. }) => Some(lease_of(*id)),
        _ => None,
    }
}

/// Locks them, in order of name: two nodes never wait for each other. Rows of `needed` that are missing are made
/// free.
pub(crate) async fn lock(base: &Base, needed: Vec<String>, jobs: Vec<String>) -> Result<Locked, Fault> {
    let mut names = needed.clone();
    names.extend(jobs);
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(Locked::new());
    }
    let locked = read(base, &names).await?;
    let mut missing: Vec<&String> = needed.iter().filter(|name| !locked.contains_key(*name)).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(locked);
    }
    base.rows(
        "INSERT INTO leases (name, owner, until, fence) SELECT n, '', 0, 0 FROM unnest($1::text[]) AS n
         ON CONFLICT DO NOTHING RETURNING name",
        &[&missing],
    )
    .await?;
    read(base, &names).await
}

async fn read(base: &Base, names: &[String]) -> Result<Locked, Fault> {
    let rows = base
        .rows(
            "SELECT name, owner, until, fence FROM leases WHERE name = ANY($1) ORDER BY name FOR UPDATE",
            &[&names],
        )
        .await?;
    let mut locked = Locked::new();
    for row in &rows {
        let lease = Lease { owner: get(row, 1)?, until: get(row, 2)?, fence: get(row, 3)? };
        locked.insert(get(row, 0)?, lease);
    }
    Ok(locked)
}

/// Owners whose advisory lock this session holds.
pub(crate) type Present = HashSet<i64>;

/// Renews for the owner (the fence stays), gives a free or expired one, or one of a session that ended, to a new
/// owner (the fence grows).
pub(crate) async fn take(
    journal: &mut Journal,
    name: &str,
    owner: u128,
    now: Millis,
    until: Millis,
) -> Result<Wrote, Fault> {
    let bytes = owner.to_be_bytes().to_vec();
    let Some(held) = journal.leases.get(name).cloned() else { return Err(Fault::Trouble(Trouble::Busy)) };
    let fence = if held.owner == bytes {
        held.fence
    } else if held.until <= now.0 || is_gone(journal, &held.owner).await? {
        held.fence + 1
    } else {
        return Ok(Wrote::Lease { fence: None });
    };
    appear(&journal.base, &mut journal.present, owner).await?;
    journal
        .base
        .execute(
            "UPDATE leases SET owner = $2, until = $3, fence = $4 WHERE name = $1",
            &[&name, &bytes, &until.0, &fence],
        )
        .await?;
    journal.leases.insert(name.to_owned(), Lease { owner: bytes, until: until.0, fence });
    Ok(Wrote::Lease { fence: Some(Fence(fence)) })
}

/// Says with a lock of this session that the owner lives. A rollback does not take it back.
pub(crate) async fn appear(base: &Base, present: &mut Present, owner: u128) -> Result<(), Fault> {
    let number = number_of(&owner.to_be_bytes());
    if !present.contains(&number) {
        base.rows("SELECT pg_advisory_lock_shared($1)", &[&number]).await?;
        present.insert(number);
    }
    Ok(())
}

/// True when no session says that this owner lives.
async fn is_gone(journal: &Journal, owner: &[u8]) -> Result<bool, Fault> {
    let number = number_of(owner);
    if journal.present.contains(&number) {
        return Ok(false);
    }
    let row = journal.base.row("SELECT pg_try_advisory_xact_lock($1)", &[&number]).await?;
    row.map_or(Ok(false), |row| get(&row, 0))
}

/// Owners are random, so half of their bits do.
fn number_of(owner: &[u8]) -> i64 {
    owner.last_chunk::<8>().map_or(0, |half| i64::from_be_bytes(*half))
}

/// Of its owner; that of a node goes, as its name never comes again.
pub(crate) async fn release(
    base: &Base,
    locked: &mut Locked,
    name: &str,
    owner: u128,
) -> Result<Wrote, Fault> {
    let owner = owner.to_be_bytes().to_vec();
    let Some(held) = locked.get_mut(name).filter(|held| held.owner == owner) else {
        return Ok(Wrote::Done);
    };
    if name.starts_with(NODE) {
        drop(base, locked, name).await?;
    } else {
        base.execute("UPDATE leases SET until = 0 WHERE name = $1 AND owner = $2", &[&name, &owner]).await?;
        held.until = 0;
    }
    Ok(Wrote::Done)
}

/// A lease whose owner's session ended has run out, whatever time it names.
pub(crate) async fn list(base: &Base) -> Result<Vec<LeaseRow>, Fault> {
    let locks = base
        .rows(
            "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[],
        )
        .await?;
    let alive = locks.iter().map(|row| get(row, 0)).collect::<Result<Present, _>>()?;
    let rows = base.rows("SELECT name, owner, until FROM leases WHERE fence > 0 ORDER BY name", &[]).await?;
    let read = |row| {
        let bytes = super::base::digest(row, "owner")?;
        let lives = alive.contains(&number_of(&bytes));
        let until = if lives { super::base::millis(row, "until")? } else { Millis(0) };
        Ok(LeaseRow { name: get(row, "name")?, owner: u128::from_be_bytes(bytes), until })
    };
    rows.iter().map(read).collect()
}

/// `FenceLost` unless the lease stands at this fence.
pub(crate) fn check(locked: &Locked, name: &str, fence: Fence) -> Result<(), Fault> {
    match locked.get(name) {
        Some(lease) if lease.fence == fence.0 && lease.fence > 0 => Ok(()),
        _ => Err(Fault::Trouble(Trouble::FenceLost)),
    }
}

/// With the end of what it was for.
pub(crate) async fn drop(base: &Base, locked: &mut Locked, name: &str) -> Result<(), Fault> {
    base.execute("DELETE FROM leases WHERE name = $1", &[&name]).await?;
    locked.remove(name);
    Ok(())
}

/// At an orderly end: others need not wait until they run out.
pub(crate) async fn free(base: &Base, taken: &HashMap<String, u128>) -> Result<(), Fault> {
    let names: Vec<&String> = taken.keys().collect();
    let owners: Vec<Vec<u8>> = taken.values().map(|owner| owner.to_be_bytes().to_vec()).collect();
    base.execute(
        "UPDATE leases SET until = 0 FROM unnest($1::text[], $2::bytea[]) AS mine (name, owner)
         WHERE leases.name = mine.name AND leases.owner = mine.owner",
        &[&names, &owners],
    )
    .await?;
    Ok(())
}

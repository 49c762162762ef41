//! Leases: who may work, until when, under which number. Their rows are what nodes lock before they change
//! the lanes of a destination, so an offer and a settlement never pass each other unseen.
//!
//! Who holds a lease also holds an advisory lock of the session that writes, under a number of its owner. The
//! server lets go of it the moment that session ends, so the leases of a process that was killed are taken
//! over at once, and not when they run out. A process that is frozen or cut off keeps its session for a while:
//! there the time of the lease decides.

use std::collections::{HashMap, HashSet};

use mailspan_core::{DestinationId, Millis};
use mailspan_engine::Fence;

use super::base::{Base, Fault, get};
use super::journal::Journal;
use crate::prepare::{Prepared, What};
use crate::rounds::round_lease;
use crate::sqlite::jobs::lease_of;
use crate::sqlite::leases::{NODE, ROUTER, of_destination};
use crate::write::{Trouble, Write, Wrote};
use crate::{LeaseRow, Look, Page, PageWork};

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
        What::Write(
            Write::Stand { destination, fence: Some(_), .. } | Write::Degrade { destination, .. },
        ) => vec![of_destination(*destination)],
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

/// The leases that a write checks, renews, gives up or ends with its work: a late write must not make them again.
pub(crate) fn of_job(write: &Prepared) -> Vec<String> {
    match &write.what {
        What::Write(Write::Page(page)) => vec![lease_of(page.job)],
        What::Write(Write::Release { name, .. }) => vec![name.clone()],
        What::Write(Write::JobStand { id, .. }) => vec![lease_of(*id)],
        What::Write(Write::Renew { names, .. }) => names.clone(),
        What::Write(Write::Round(mark)) => vec![round_lease(mark.about)],
        What::Accept { receipt, .. } => receipt.round.iter().map(|mark| round_lease(mark.about)).collect(),
        _ => vec![],
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

/// Those that are the owner's, in one statement that locks them in the order of all nodes: alone in its group it
/// needs no transaction around it.
pub(crate) async fn renew(
    base: &Base,
    present: &mut Present,
    locked: &mut Locked,
    (names, owner, until): (&[String], u128, Millis),
) -> Result<Wrote, Fault> {
    appear(base, present, owner).await?;
    let bytes = owner.to_be_bytes().to_vec();
    let rows = base
        .written(
            "WITH mine AS (SELECT name FROM leases WHERE name = ANY($1) AND owner = $2 ORDER BY name FOR UPDATE)
             UPDATE leases SET until = $3 FROM mine WHERE leases.name = mine.name AND leases.owner = $2
             RETURNING leases.name, leases.fence",
            &[&names, &bytes, &until.0],
        )
        .await?;
    let mut fences: HashMap<String, i64> = HashMap::new();
    for row in &rows {
        let (name, fence): (String, i64) = (get(row, 0)?, get(row, 1)?);
        locked.insert(name.clone(), Lease { owner: bytes.clone(), until: until.0, fence });
        fences.insert(name, fence);
    }
    let fence = |name| fences.get(name).copied().map(Fence);
    Ok(Wrote::Renewed { fences: names.iter().map(fence).collect() })
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
    // A lock of our own would look to others as if the owner lived. Who comes back meanwhile finds its leases taken:
    // their rows are locked.
    let row = journal.base.row(&format!("SELECT NOT $1::bigint = ANY (ARRAY({ALIVE}))"), &[&number]).await?;
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
    Ok(look(base, &[]).await?.leases)
}

/// The numbers of owners who live: a session of theirs holds it, shared.
const ALIVE: &str = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
                WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND mode = 'ShareLock'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Leases, the locks of the sessions that hold them, how these destinations stand and whether events wait: one
/// statement, as every node asks for it every few seconds. It has a row, even where there is no lease.
fn look_sql() -> String {
    format!(
        "SELECT l.name, l.owner, l.until, d.id, d.paused_code, d.paused, w.waits, w.alive,
        (SELECT coalesce(sum(n), 0)::bigint FROM counts c WHERE c.about = d.id AND c.place = 0) AS pending
    FROM (SELECT EXISTS (SELECT 1 FROM unrouted) AS waits,
            ARRAY({ALIVE}) AS alive) AS w
    LEFT JOIN leases l ON l.fence > 0
    LEFT JOIN destinations d ON d.id = ANY($1) AND l.name = 'destination/' || d.id
    ORDER BY l.name"
    )
}

pub(crate) async fn look(base: &Base, destinations: &[DestinationId]) -> Result<Look, Fault> {
    let ids: Vec<i64> = destinations.iter().map(|id| id.0).collect();
    let rows = base.rows(&look_sql(), &[&ids]).await?;
    let mut look = Look::default();
    let mut alive: Option<Present> = None;
    for row in &rows {
        look.unrouted = get(row, "waits")?;
        let Some(name) = get::<Option<String>, _>(row, "name")? else { continue };
        let bytes = super::base::digest(row, "owner")?;
        let sessions = match alive.take() {
            Some(sessions) => sessions,
            None => get::<Vec<i64>, _>(row, "alive")?.into_iter().collect(),
        };
        let lives = sessions.contains(&number_of(&bytes));
        alive = Some(sessions);
        let until = if lives { super::base::millis(row, "until")? } else { Millis(0) };
        look.leases.push(LeaseRow { name, owner: u128::from_be_bytes(bytes), until });
        if let Some(id) = get::<Option<i64>, _>(row, "id")? {
            let pending = u64::try_from(get::<i64, _>(row, "pending")?).unwrap_or(0);
            let paused = super::base::reason(row, "paused_code", "paused")?;
            look.standings.insert(DestinationId(id), (paused, pending));
        }
    }
    Ok(look)
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

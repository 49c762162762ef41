//! The writer's side: a group of writes in one transaction on one connection.
//!
//! Nodes lock in one order, so that they wait for each other and do not block each other: leases by name, jobs, the
//! run of dedupe keys, answers, keys, persons, deliveries, sums. Where two meet in another order, PostgreSQL
//! ends one of them, and that group is run again.

use std::collections::HashMap;

use mailspan_core::DestinationId;
use mailspan_core::contact::CONTACTS;

use super::base::{Base, Fault};
use super::leases::{self, Locked, Present};
use super::names::TYPE;
use super::retain::Cursors;
use super::segments::Segments;
use super::{
    accept, contacts, counts, endpoints, erase, jobs, keys, offer, refused, retain, rounds, route, said,
    settle, standing, tenants,
};
use crate::decided::{DECIDED, HELD_BACK};
use crate::prepare::{Prepared, What, decides};
use crate::said::LIFTED;
use crate::sqlite::counts::Counts;
use crate::sqlite::jobs::lease_of;
use crate::sqlite::leases::{ROUTER, of_destination};
use crate::write::{Trouble, Write, Wrote};
use crate::{FieldWrite, NameKind, SealedWrite, TenantWrite};

/// So often is a group run that meets others; then it is told that the store is busy with them.
const PASSES: usize = 6;
/// A notification holds at most 8,000 bytes, a number at most 20.
const NOTIFIED_MAX: usize = 300;
pub(crate) const CHANNEL: &str = "mailspan_offered";
/// The notification that a destination was paused or resumed.
pub(crate) const STOOD: &str = "stood";
pub(crate) const ENDPOINTS: &str = "endpoints";

/// The one write connection of this node, with what it keeps in memory.
pub(crate) struct Journal {
    pub base: Base,
    pub counts: Counts,
    pub segments: Segments,
    pub cursors: Cursors,
    /// Rows that the running transaction has locked.
    pub leases: Locked,
    /// Owners of leases for whom this session stands.
    pub present: Present,
    shard: i64,
    /// Leases that this node was given, with the owner it named.
    taken: HashMap<String, u128>,
    /// Whom to wake after the commit: destinations of other nodes, the router of another.
    offered: Vec<DestinationId>,
    accepted: bool,
    stood: bool,
    /// The same of a webhook endpoint.
    endpoints: bool,
}

impl Journal {
    pub(crate) fn new(base: Base, segment_keys_max: i64, shard: i64) -> Journal {
        Journal {
            base,
            counts: Counts::default(),
            segments: Segments::new(segment_keys_max),
            cursors: Cursors::default(),
            leases: Locked::new(),
            present: Present::new(),
            shard,
            taken: HashMap::new(),
            offered: vec![],
            accepted: false,
            stood: false,
            endpoints: false,
        }
    }

    /// After a broken connection: what was known of the tables is read again.
    pub(crate) async fn reconnected(self, base: Base) -> Journal {
        let mut segments = self.segments;
        segments.forget();
        let mut present = Present::new();
        for owner in self.taken.values() {
            if let Err(fault) = leases::appear(&base, &mut present, *owner).await {
                tracing::debug!(cause = %fault.trouble(), "it is said when leases are renewed that we live");
            }
        }
        Journal { base, segments, present, counts: Counts::default(), leases: Locked::new(), ..self }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.base.is_closed()
    }

    /// All in one transaction and one sync; one result for each, in order. A write that fails for a
    /// reason of its own fails alone.
    pub(crate) async fn group(&mut self, writes: &[Prepared]) -> Vec<Result<Wrote, Trouble>> {
        let mut guarded = false;
        let mut trouble = Trouble::Busy;
        for _ in 0..PASSES {
            let done = match writes {
                [only] if is_renewal(only) => self.renewal(only).await,
                _ => self.transaction(writes, guarded).await,
            };
            if done.is_err() {
                self.roll_back().await;
            }
            match done {
                Ok(results) => return results,
                Err(GroupFault::OneOfThem) => guarded = true,
                Err(GroupFault::Passing) => trouble = Trouble::Busy,
                Err(GroupFault::All(cause)) => {
                    trouble = cause;
                    break;
                }
            }
        }
        writes.iter().map(|_| Err(trouble.clone())).collect()
    }

    /// A statement is a transaction: at rest a node sends no other one here.
    async fn renewal(&mut self, write: &Prepared) -> Result<Vec<Result<Wrote, Trouble>>, GroupFault> {
        let What::Write(write) = &write.what else { return Err(GroupFault::All(Trouble::Busy)) };
        self.leases = Locked::new();
        let wrote = self.apply_write(write).await.map_err(GroupFault::whole)?;
        let results = vec![Ok(wrote)];
        self.renewed(write, &results[0]);
        Ok(results)
    }

    async fn transaction(
        &mut self,
        writes: &[Prepared],
        guarded: bool,
    ) -> Result<Vec<Result<Wrote, Trouble>>, GroupFault> {
        self.base.refresh_plans().await.map_err(GroupFault::whole)?;
        self.prepare(writes).await.map_err(GroupFault::whole)?;
        self.base.batch("BEGIN").await.map_err(GroupFault::whole)?;
        let mut needed: Vec<String> = writes.iter().flat_map(leases::needed).collect();
        needed.extend(contacts::leases_to_erase(&self.base, writes).await.map_err(GroupFault::whole)?);
        let of_jobs = writes.iter().flat_map(leases::of_job).collect();
        self.leases = leases::lock(&self.base, needed, of_jobs).await.map_err(GroupFault::whole)?;
        let mut results: Vec<Option<Result<Wrote, Trouble>>> = writes.iter().map(|_| None).collect();
        // What was turned away takes its place in a ring of all nodes: last, to hold it shortly.
        for (phase, together) in
            [(is_accept as fn(&Prepared) -> bool, true), (is_other, false), (is_refused, true)]
        {
            let places: Vec<usize> = (0..writes.len()).filter(|place| phase(&writes[*place])).collect();
            let size = if together && !guarded { places.len().max(1) } else { 1 };
            for step in places.chunks(size) {
                for (place, result) in step.iter().zip(self.step(writes, step, guarded).await?) {
                    results[*place] = Some(result);
                }
            }
        }
        counts::write(&self.base, &mut self.counts, self.shard).await.map_err(GroupFault::whole)?;
        self.base.batch("COMMIT").await.map_err(GroupFault::whole)?;
        let results: Vec<_> =
            results.into_iter().map(|result| result.unwrap_or(Err(Trouble::Busy))).collect();
        self.committed(writes, &results);
        Ok(results)
    }

    /// Before the transaction: names, which no rollback takes back, and an open run of dedupe keys.
    async fn prepare(&mut self, writes: &[Prepared]) -> Result<(), Fault> {
        self.counts = Counts::default();
        for write in writes {
            match &write.what {
                What::Accept { receipt, .. } => {
                    self.segments.roll(&self.base, receipt.received_at, None).await?;
                    let tenant = self.base.make_tenant(receipt.tenant.as_str()).await?;
                    let source = receipt.source.as_str();
                    self.base.make_number(tenant, NameKind::Source as u8, source).await?;
                    for arrived in &receipt.arrivals {
                        self.base.make_number(tenant, TYPE, arrived.event.event_type.as_str()).await?;
                        if let Some(ask) = arrived.contact.as_ref().and_then(|write| write.ask.as_ref()) {
                            self.base.make_number(tenant, TYPE, ask.event.event_type.as_str()).await?;
                        }
                    }
                    if receipt.arrivals.iter().any(|arrived| arrived.contact.is_some()) {
                        let types = if decides(receipt) { &DECIDED[..] } else { &HELD_BACK[..] };
                        self.base.make_number(tenant, NameKind::Source as u8, CONTACTS).await?;
                        for event_type in types.iter().chain(&LIFTED) {
                            self.base.make_number(tenant, TYPE, event_type).await?;
                        }
                    }
                }
                What::Name { tenant, kind, name } => {
                    let tenant = self.base.make_tenant(tenant.as_str()).await?;
                    self.base.make_number(tenant, *kind as u8, name.as_str()).await?;
                }
                What::Write(Write::Refused(request)) => {
                    let tenant = self.base.make_tenant(request.tenant.as_str()).await?;
                    self.base.make_number(tenant, NameKind::Source as u8, request.source.as_str()).await?;
                }
                What::Write(Write::Key(key)) => {
                    self.base.make_tenant(key.tenant.as_str()).await?;
                }
                What::Write(Write::RoundNow { tenant, .. }) => {
                    self.base.make_tenant(tenant.as_str()).await?;
                }
                What::Write(Write::Round(mark)) => {
                    self.base.make_tenant(mark.tenant.as_str()).await?;
                }
                What::Write(Write::Job(job)) => {
                    self.base.make_tenant(job.tenant.as_str()).await?;
                }
                What::Write(Write::Tenant(TenantWrite { name: tenant, .. }))
                | What::Write(Write::Field(FieldWrite { tenant, .. }))
                | What::Write(Write::Sealed(SealedWrite { tenant, .. })) => {
                    self.base.make_tenant(tenant.as_str()).await?;
                }
                What::Write(Write::Endpoint(write)) => {
                    let tenant = self.base.make_tenant(write.tenant.as_str()).await?;
                    self.base.make_number(tenant, NameKind::Destination as u8, write.name.as_str()).await?;
                }
                // A store where nothing arrives any more still forgets.
                What::Write(Write::Retain(keep)) => {
                    let until = mailspan_core::Millis(keep.now.0.saturating_sub(keep.dedupe_ms.max(0)));
                    self.segments.roll(&self.base, keep.now, Some(until)).await?;
                }
                What::Route { .. } | What::Write(_) => {}
            }
            for event in crate::said::events(write) {
                self.segments.roll(&self.base, event.received_at, None).await?;
                let tenant = self.base.make_tenant(event.tenant.as_str()).await?;
                self.base.make_number(tenant, NameKind::Source as u8, event.source.as_str()).await?;
                self.base.make_number(tenant, TYPE, event.event_type.as_str()).await?;
            }
        }
        Ok(())
    }

    /// A part of the group. Plain: a refusal that has changed nothing stands, one that has ends the
    /// transaction. Guarded: one write behind a savepoint.
    async fn step(
        &mut self,
        writes: &[Prepared],
        places: &[usize],
        guarded: bool,
    ) -> Result<Vec<Result<Wrote, Trouble>>, GroupFault> {
        if guarded {
            self.base.batch("SAVEPOINT one").await.map_err(GroupFault::whole)?;
        }
        self.base.take_changed();
        let before = self.counts.clone();
        let fault = match self.apply(writes, places).await {
            Ok(results) => {
                if guarded {
                    self.base.batch("RELEASE one").await.map_err(GroupFault::whole)?;
                }
                return Ok(results);
            }
            Err(fault) if fault.passes() => return Err(GroupFault::Passing),
            Err(fault) if fault.is_of_the_server() => return Err(GroupFault::All(fault.trouble())),
            Err(fault) => fault,
        };
        self.counts = before;
        if guarded {
            self.base.batch("ROLLBACK TO one; RELEASE one").await.map_err(GroupFault::whole)?;
            self.segments.forget();
        } else if matches!(fault, Fault::Sql(_)) || self.base.take_changed() || places.len() > 1 {
            return Err(GroupFault::OneOfThem);
        }
        Ok(vec![Err(fault.trouble())])
    }

    async fn apply(
        &mut self,
        writes: &[Prepared],
        places: &[usize],
    ) -> Result<Vec<Result<Wrote, Trouble>>, Fault> {
        let Some(first) = places.first() else { return Ok(vec![]) };
        match &writes[*first].what {
            What::Accept { .. } => {
                let receipts: Vec<_> = places
                    .iter()
                    .filter_map(|place| match &writes[*place].what {
                        What::Accept { receipt, arrivals } => Some((&**receipt, arrivals.as_slice())),
                        _ => None,
                    })
                    .collect();
                let results = accept::accept(self, &receipts).await?;
                said::say_accepted(self, &receipts, &results).await?;
                Ok(results)
            }
            What::Write(Write::Refused(_)) => {
                let requests: Vec<_> = places
                    .iter()
                    .filter_map(|place| match &writes[*place].what {
                        What::Write(Write::Refused(request)) => Some(&**request),
                        _ => None,
                    })
                    .collect();
                refused::keep(&self.base, &requests).await?;
                Ok(places.iter().map(|_| Ok(Wrote::Done)).collect())
            }
            What::Route { fence, routed, identities } => {
                Ok(vec![Ok(route::route(self, *fence, routed, identities).await?)])
            }
            What::Name { tenant, kind, name } => {
                Ok(vec![Ok(standing::name(&self.base, tenant, *kind, name).await?)])
            }
            What::Write(write) => Ok(vec![Ok(self.apply_write(write).await?)]),
        }
    }

    async fn apply_write(&mut self, write: &Write) -> Result<Wrote, Fault> {
        match write {
            Write::Settle { destination, fence, settlements, attempts, at, say } => {
                settle::settle(self, *destination, *fence, settlements, attempts, *at, say).await
            }
            Write::Offer { offers, again, at } => offer::offer(self, offers, *again, *at).await,
            Write::Discard { delivery, unserved, note, at } => {
                offer::discard(self, *delivery, *unserved, note, *at).await
            }
            write @ (Write::Stand { .. } | Write::Degrade { .. }) => standing::write(self, write).await,
            Write::Key(key) => keys::make(&self.base, key).await,
            Write::RevokeKey { id, at } => keys::revoke(&self.base, *id, *at).await,
            Write::KeyUsed { id, at } => keys::used(&self.base, *id, *at).await,
            Write::Lease { name, owner, now, until } => leases::take(self, name, *owner, *now, *until).await,
            Write::Renew { names, owner, until } => {
                let what = (names.as_slice(), *owner, *until);
                leases::renew(&self.base, &mut self.present, &mut self.leases, what).await
            }
            Write::Release { name, owner } => {
                leases::release(&self.base, &mut self.leases, name, *owner).await
            }
            Write::Round(mark) => rounds::write(self, mark).await,
            Write::RoundNow { tenant, about, at } => rounds::now(&self.base, tenant, *about, *at).await,
            Write::Retain(keep) => retain::step(self, *keep).await,
            Write::Job(job) => jobs::make(&self.base, job).await,
            Write::JobStand { id, state, note, at, say } => {
                let wrote = jobs::stand(self, *id, *state, note, *at).await?;
                said::say_job(self, *id, say.as_ref()).await?;
                Ok(wrote)
            }
            Write::Page(page) => {
                let wrote = jobs::page(self, page).await?;
                said::say_job(self, page.job, page.say.as_ref()).await?;
                Ok(wrote)
            }
            Write::Tenant(tenant) => tenants::set(&self.base, tenant).await,
            Write::Field(field) => tenants::field(&self.base, field).await,
            Write::IdentityKey(under) => tenants::keep_identity_key(&self.base, under).await,
            Write::Sealed(write) => tenants::seal(&self.base, write).await,
            Write::Endpoint(write) => endpoints::write(&self.base, &mut self.counts, write).await,
            Write::Erase => erase::step(self).await,
            Write::Certify(certified) => erase::certify(&self.base, certified).await,
            // `prepare` and `apply` make other values of these.
            Write::Accept(_) | Write::Route { .. } | Write::Refused(_) => {
                Err(Fault::refused("unprepared", "a write was not prepared"))
            }
        }
    }

    /// Remembers which leases are held here, and whom else to wake.
    fn committed(&mut self, writes: &[Prepared], results: &[Result<Wrote, Trouble>]) {
        for (write, result) in writes.iter().zip(results) {
            self.accepted |=
                result.is_ok() && !self.taken.contains_key(ROUTER) && !crate::said::events(write).is_empty();
            match (&write.what, result) {
                (What::Write(Write::Lease { name, owner, .. }), Ok(Wrote::Lease { fence })) => {
                    match fence {
                        Some(_) => self.taken.insert(name.clone(), *owner),
                        None => self.taken.remove(name),
                    };
                }
                (What::Write(write @ Write::Renew { .. }), result) => self.renewed(write, result),
                (What::Write(Write::Stand { destination, .. }), Ok(_)) => {
                    self.stood |= !self.taken.contains_key(&of_destination(*destination));
                }
                (What::Write(Write::Endpoint(_)), Ok(_)) => self.endpoints = true,
                (What::Write(Write::Release { name, .. }), Ok(_)) => {
                    self.taken.remove(name);
                }
                (_, Ok(Wrote::Offered { destinations } | Wrote::Settled { offered: destinations, .. })) => {
                    self.wake(destinations);
                }
                (What::Write(Write::Page(page)), Ok(Wrote::Paged { destinations, .. })) => {
                    self.wake(destinations);
                    if page.end.is_some() {
                        self.taken.remove(&lease_of(page.job));
                    }
                }
                (_, Ok(Wrote::Accepted { accepted, again: false })) => {
                    self.accepted |= !accepted.ids.is_empty() && !self.taken.contains_key(ROUTER);
                }
                _ => {}
            }
        }
    }

    fn renewed(&mut self, write: &Write, result: &Result<Wrote, Trouble>) {
        let (Write::Renew { names, owner, .. }, Ok(Wrote::Renewed { fences })) = (write, result) else {
            return;
        };
        for (name, fence) in names.iter().zip(fences) {
            match fence {
                Some(_) => self.taken.insert(name.clone(), *owner),
                None => self.taken.remove(name),
            };
        }
    }

    /// Those of them that another node serves.
    fn wake(&mut self, destinations: &[DestinationId]) {
        let others = destinations.iter().filter(|destination| {
            let name = of_destination(**destination);
            let mine = self.taken.get(&name).map(|owner| owner.to_be_bytes());
            let held = self.leases.get(&name).filter(|lease| lease.fence > 0);
            held.is_some_and(|lease| mine.is_none_or(|mine| lease.owner != mine))
        });
        self.offered.extend(others);
    }

    /// What is in memory follows the tables again.
    async fn roll_back(&mut self) {
        // An error here means that the connection is gone, and the transaction with it.
        let _ = self.base.batch("ROLLBACK").await;
        self.counts = Counts::default();
        self.segments.forget();
    }

    /// Between two groups: wakes other nodes, and gets a part of a filter that is not in memory yet. What fails here
    /// is only slower: desks look each second, and a run without a filter is asked by its index.
    pub(crate) async fn tidy(&mut self) {
        let mut offered = std::mem::take(&mut self.offered);
        offered.sort();
        offered.dedup();
        for some in offered.chunks(NOTIFIED_MAX) {
            let ids: Vec<String> = some.iter().map(|destination| destination.0.to_string()).collect();
            self.notify(&ids.join(",")).await;
        }
        if std::mem::take(&mut self.accepted) {
            self.notify("").await;
        }
        if std::mem::take(&mut self.stood) {
            self.notify(STOOD).await;
        }
        if std::mem::take(&mut self.endpoints) {
            self.notify(ENDPOINTS).await;
        }
        if let Err(fault) = self.segments.load_some(&self.base).await {
            tracing::debug!(cause = %fault.trouble(), "the filter of a dedupe segment was not read");
        }
    }

    async fn notify(&self, payload: &str) {
        let sent = self.base.rows("SELECT pg_notify($1, $2)", &[&CHANNEL, &payload]).await;
        if let Err(fault) = sent {
            tracing::debug!(cause = %fault.trouble(), "other nodes were not woken");
        }
    }

    /// At an orderly end: what is held here is free for others at once.
    pub(crate) async fn end(&mut self) {
        if let Err(fault) = leases::free(&self.base, &self.taken).await {
            tracing::debug!(cause = %fault.trouble(), "leases were not freed: they run out");
        }
    }
}

fn is_renewal(write: &Prepared) -> bool {
    matches!(write.what, What::Write(Write::Renew { .. }))
}

fn is_accept(write: &Prepared) -> bool {
    matches!(write.what, What::Accept { .. })
}

fn is_refused(write: &Prepared) -> bool {
    matches!(write.what, What::Write(Write::Refused(_)))
}

fn is_other(write: &Prepared) -> bool {
    !is_accept(write) && !is_refused(write)
}

/// Why a transaction was ended.
enum GroupFault {
    /// The server, or the way to it.
    All(Trouble),
    /// One write failed after it had changed something.
    OneOfThem,
    /// Another node was in the way.
    Passing,
}

impl GroupFault {
    fn whole(fault: Fault) -> GroupFault {
        if fault.passes() { GroupFault::Passing } else { GroupFault::All(fault.trouble()) }
    }
}

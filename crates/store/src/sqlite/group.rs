//! A group of writes in one transaction: each is applied, and one that fails for a reason of its own fails alone.

use mailspan_core::{DestinationId, Event};
use mailspan_engine::Fence;

use super::base::{Fault, shown};
use super::counts::Counts;
use super::held::Held;
use super::journal::Marks;
use super::retain::Cursors;
use super::segments::Segments;
use super::{
    accept, endpoints, erase, jobs, keys, leases, offer, refused, retain, rounds, route, said, settle,
    standing, tenants,
};
use crate::prepare::{Prepared, What};
use crate::write::{Trouble, Write, Wrote};

/// What a journal has, lent to one transaction.
pub(crate) struct Group<'j> {
    pub base: Held<'j>,
    pub counts: &'j mut Counts,
    pub marks: &'j mut Marks,
    pub segments: &'j mut Segments,
    pub cursors: &'j mut Cursors,
    /// Events of this transaction, for the router.
    pub accepted: &'j mut Vec<Event>,
}

/// Inside: what is told to whoever asked for this write. Outside: the transaction cannot go on.
pub(super) type Applied = Result<Result<Wrote, Trouble>, GroupFault>;

/// Why a transaction was ended.
pub(super) enum GroupFault {
    /// The file or the disk.
    All(Trouble),
    /// One write failed after it had changed something.
    OneOfThem,
}

pub(super) fn broken(error: rusqlite::Error) -> GroupFault {
    GroupFault::All(Trouble::Broken(shown(&error)))
}

impl Group<'_> {
    /// From the beginning of the transaction to its commit. Whoever called rolls back what failed.
    pub(super) fn in_transaction(
        mut self,
        writes: &[Prepared],
        apply: fn(&mut Group, &Prepared) -> Applied,
    ) -> Result<Vec<Result<Wrote, Trouble>>, GroupFault> {
        self.base.conn.execute_batch("BEGIN IMMEDIATE").map_err(broken)?;
        let results = writes.iter().map(|write| apply(&mut self, write)).collect::<Result<Vec<_>, _>>()?;
        self.counts.write(&self.base).map_err(|fault| GroupFault::All(fault.trouble()))?;
        self.base.conn.execute_batch("COMMIT").map_err(broken)?;
        Ok(results)
    }

    /// Without a savepoint: a refusal that has changed nothing stands; one that has ends the transaction.
    pub(super) fn apply_plain(&mut self, write: &Prepared) -> Applied {
        let before = self.base.conn.total_changes();
        match self.apply(write) {
            Ok(wrote) => Ok(Ok(wrote)),
            Err(fault) if fault.is_of_the_file() => Err(GroupFault::All(fault.trouble())),
            Err(fault) if self.base.conn.total_changes() == before => Ok(Err(fault.trouble())),
            Err(_) => Err(GroupFault::OneOfThem),
        }
    }

    pub(super) fn apply_guarded(&mut self, write: &Prepared) -> Applied {
        let (counts, marks, accepted) = (self.counts.clone(), *self.marks, self.accepted.len());
        let keys = self.segments.mark();
        self.base.conn.execute_batch("SAVEPOINT one").map_err(broken)?;
        let result = self.apply(write);
        match result {
            Ok(wrote) => {
                self.base.conn.execute_batch("RELEASE one").map_err(broken)?;
                Ok(Ok(wrote))
            }
            Err(fault) if fault.is_of_the_file() => Err(GroupFault::All(fault.trouble())),
            Err(fault) => {
                self.base.conn.execute_batch("ROLLBACK TO one; RELEASE one").map_err(broken)?;
                *self.counts = counts;
                *self.marks = marks;
                self.accepted.truncate(accepted);
                self.base.forget_names();
                self.segments.undo(&self.base.conn, keys).map_err(broken)?;
                Ok(Err(fault.trouble()))
            }
        }
    }

    fn apply(&mut self, write: &Prepared) -> Result<Wrote, Fault> {
        match &write.what {
            What::Accept { receipt, arrivals } => {
                let wrote = accept::accept(self, receipt, arrivals)?;
                said::say_accepted(self, receipt, &wrote)?;
                Ok(wrote)
            }
            What::Route { fence, routed, identities } => route::route(self, *fence, routed, identities),
            What::Name { tenant, kind, name } => standing::name(&self.base, tenant, *kind, name),
            What::Write(write) => self.apply_write(write),
        }
    }

    fn apply_write(&mut self, write: &Write) -> Result<Wrote, Fault> {
        match write {
            Write::Settle { destination, fence, settlements, attempts, at, say } => {
                settle::settle(self, *destination, *fence, settlements, attempts, *at, say)
            }
            Write::Offer { offers, again, at } => offer::offer(self, offers, *again, *at),
            Write::Discard { delivery, unserved, note, at } => {
                offer::discard(self, *delivery, *unserved, note, *at)
            }
            Write::Stand { destination, fence, paused, at, say } => {
                self.check_desk(*destination, *fence)?;
                let is_news = standing::stand(&self.base, *destination, paused.as_ref(), *at)?;
                said::say_news(self, say.as_deref(), is_news)
            }
            Write::Degrade { destination, fence, degraded, at, say } => {
                self.check_desk(*destination, Some(*fence))?;
                let is_news = standing::degrade(&self.base, *destination, *degraded, *at)?;
                said::say_news(self, say.as_deref(), is_news)
            }
            Write::Refused(request) => refused::keep(self, request),
            Write::Key(key) => keys::make(&self.base, key),
            Write::RevokeKey { id, at } => keys::revoke(&self.base, *id, *at),
            Write::KeyUsed { id, at } => keys::used(&self.base, *id, *at),
            Write::Release { name, owner } => leases::release(&self.base, name, *owner),
            Write::Lease { name, owner, now, until } => leases::take(&self.base, name, *owner, *now, *until),
            Write::Renew { names, owner, until } => leases::renew(&self.base, names, *owner, *until),
            Write::Job(job) => jobs::make(&self.base, job),
            Write::JobStand { id, state, note, at, say } => {
                let wrote = jobs::stand(&self.base, *id, *state, note, *at)?;
                said::say_job(self, *id, say.as_ref())?;
                Ok(wrote)
            }
            Write::Page(page) => {
                let wrote = jobs::page(self, page)?;
                said::say_job(self, page.job, page.say.as_ref())?;
                Ok(wrote)
            }
            Write::Round(mark) => {
                let is_news = rounds::write(&self.base, mark)?;
                said::say_news(self, mark.say.as_deref(), is_news)
            }
            Write::RoundNow { tenant, about, at } => rounds::now(&self.base, tenant, *about, *at),
            Write::Retain(keep) => retain::step(self, *keep),
            Write::Tenant(tenant) => tenants::set(&self.base, tenant),
            Write::Field(field) => tenants::field(&self.base, field),
            Write::IdentityKey(under) => {
                super::migrate::keep_identity_key(&self.base.conn, &self.base.key.sealed(under))?;
                Ok(Wrote::Done)
            }
            Write::Sealed(write) => tenants::seal(&self.base, write),
            Write::Endpoint(write) => endpoints::write(self, write),
            Write::Erase => erase::step(self),
            Write::Certify(certified) => erase::certify(&self.base, certified),
            // `prepare` makes other values of these two.
            Write::Accept(_) | Write::Route { .. } => {
                Err(Fault::refused("unprepared", "a write was not prepared"))
            }
        }
    }

    /// Without a fence it is an operator's word, and needs no lease.
    fn check_desk(&self, destination: DestinationId, fence: Option<Fence>) -> Result<(), Fault> {
        let check = |fence| leases::check(&self.base, &leases::of_destination(destination), fence);
        fence.map_or(Ok(()), check)
    }
}

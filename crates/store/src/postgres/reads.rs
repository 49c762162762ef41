//! The reads of the handle: which statements each runs, and whether they need one state of the tables.

use mailspan_core::{
    DeliveryId, DestinationId, Event, EventId, Millis, Name, Person, Progress, Room, Subject,
};

use super::handle::Postgres;
use super::{
    audit, claim, deliveries, events, jobs, keys, leases, ledger, persons, refused, rounds, standing,
    unsubscribes, walk,
};
use crate::{
    AttemptRow, Audit, Claim, Claimed, DeliveryFilter, DeliveryRow, EventFilter, EventRow, Fact, FactFilter,
    JobFilter, JobRow, KeyRow, LastSent, LeaseRow, ListedDay, Look, RefusedRow, RequestRow, RoundRow, Sizes,
    StandingRow, Trouble, UnreadableRow, Walk, Walked,
};

impl Postgres {
    pub(crate) async fn unrouted(&self, limit: usize) -> Result<Vec<Event>, Trouble> {
        let link = self.link().await?;
        let found = events::unrouted(link.base()?, limit).await;
        link.end(found).await
    }

    pub(crate) async fn claim(
        &self,
        destination: DestinationId,
        room: Room,
        now: Millis,
        held: &[DeliveryId],
    ) -> Result<Claimed, Trouble> {
        let link = self.link().await?;
        let found = claim::claim(link.base()?, destination, room, now, held).await;
        link.end(found).await
    }

    pub(crate) async fn leases(&self) -> Result<Vec<LeaseRow>, Trouble> {
        let link = self.link().await?;
        let found = leases::list(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn look(&self, destinations: &[DestinationId]) -> Result<Look, Trouble> {
        let link = self.link().await?;
        let found = leases::look(link.base()?, destinations).await;
        link.end(found).await
    }

    pub(crate) async fn behind(
        &self,
        destination: DestinationId,
        heads: &[DeliveryId],
    ) -> Result<Vec<(DeliveryId, Claim)>, Trouble> {
        let link = self.link().await?;
        let found = claim::behind(link.base()?, destination, heads).await;
        link.end(found).await
    }

    pub(crate) async fn spent_since(
        &self,
        destination: DestinationId,
        since: Millis,
    ) -> Result<u64, Trouble> {
        let link = self.link().await?;
        let found = walk::spent_since(link.base()?, destination, since).await;
        link.end(found).await
    }

    pub(crate) async fn work(&self) -> Result<Vec<DestinationId>, Trouble> {
        let link = self.link().await?;
        let found = claim::work(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRow>, Trouble> {
        let link = self.state().await?;
        let found = events::list(link.base()?, filter).await;
        link.end(found).await
    }

    pub(crate) async fn event(&self, id: EventId) -> Result<Option<EventRow>, Trouble> {
        let link = self.state().await?;
        let found = events::by_id(link.base()?, id).await;
        link.end(found).await
    }

    pub(crate) async fn request_of(&self, id: EventId) -> Result<Option<RequestRow>, Trouble> {
        let link = self.link().await?;
        let found = events::request_of(link.base()?, id).await;
        link.end(found).await
    }

    pub(crate) async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<DeliveryRow>, Trouble> {
        let link = self.state().await?;
        let found = deliveries::list(link.base()?, filter).await;
        link.end(found).await
    }

    pub(crate) async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRow>, Trouble> {
        let link = self.link().await?;
        let found = deliveries::by_id(link.base()?, id).await;
        link.end(found).await
    }

    pub(crate) async fn offer_of(&self, id: DeliveryId) -> Result<Option<mailspan_core::Offer>, Trouble> {
        let link = self.link().await?;
        let found = deliveries::offer_of(link.base()?, id).await;
        link.end(found).await
    }

    pub(crate) async fn progress(&self, id: DeliveryId) -> Result<Vec<Progress>, Trouble> {
        let link = self.link().await?;
        let found = deliveries::progress(link.base()?, id).await;
        link.end(found).await
    }

    pub(crate) async fn attempts(&self, id: DeliveryId) -> Result<Vec<AttemptRow>, Trouble> {
        let link = self.link().await?;
        let found = deliveries::attempts(link.base()?, id).await;
        link.end(found).await
    }

    pub(crate) async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, Trouble> {
        let link = self.link().await?;
        let found = jobs::list(link.base()?, filter).await;
        link.end(found).await
    }

    pub(crate) async fn job(&self, id: i64) -> Result<Option<JobRow>, Trouble> {
        let link = self.link().await?;
        let found = jobs::by_id(link.base()?, id).await;
        link.end(found).await
    }

    pub(crate) async fn running_jobs(&self) -> Result<Vec<JobRow>, Trouble> {
        let link = self.link().await?;
        let found = jobs::running(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn rounds(&self) -> Result<Vec<RoundRow>, Trouble> {
        let link = self.link().await?;
        let found = rounds::list(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn listed(&self, about: i64, days: i64) -> Result<Vec<ListedDay>, Trouble> {
        let link = self.link().await?;
        let found = rounds::listed(link.base()?, about, days).await;
        link.end(found).await
    }

    pub(crate) async fn walk(&self, walk: &Walk) -> Result<Walked, Trouble> {
        let link = self.state().await?;
        let found = walk::page(link.base()?, walk).await;
        link.end(found).await
    }

    pub(crate) async fn delivery_span(&self) -> Result<(DeliveryId, DeliveryId), Trouble> {
        let link = self.link().await?;
        let found = walk::span(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn replays_pending(&self, destination: DestinationId) -> Result<usize, Trouble> {
        let link = self.link().await?;
        let found = walk::replays_pending(link.base()?, destination).await;
        link.end(found).await
    }

    pub(crate) async fn last_sent(&self) -> Result<LastSent, Trouble> {
        let link = self.link().await?;
        let found = walk::last_sent(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn unreadable(
        &self,
        limit: usize,
        before: Option<i64>,
    ) -> Result<Vec<UnreadableRow>, Trouble> {
        let link = self.link().await?;
        let found = refused::unreadable(link.base()?, limit, before).await;
        link.end(found).await
    }

    pub(crate) async fn refused(
        &self,
        source: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<RefusedRow>, Trouble> {
        let link = self.link().await?;
        let found = refused::list(link.base()?, source, limit).await;
        link.end(found).await
    }

    pub(crate) async fn destinations(&self, tenant: Option<&Name>) -> Result<Vec<StandingRow>, Trouble> {
        let link = self.link().await?;
        let found = standing::list(link.base()?, tenant).await;
        link.end(found).await
    }

    pub(crate) async fn standing(&self, destination: DestinationId) -> Result<Option<StandingRow>, Trouble> {
        let link = self.link().await?;
        let found = standing::one(link.base()?, destination).await;
        link.end(found).await
    }

    pub(crate) async fn audit(&self) -> Result<Audit, Trouble> {
        let link = self.state().await?;
        let found = audit::audit(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn key_by_hash(&self, hash: [u8; 32]) -> Result<Option<KeyRow>, Trouble> {
        let link = self.link().await?;
        let found = keys::by_hash(link.base()?, &hash).await;
        link.end(found).await
    }

    pub(crate) async fn keys(&self) -> Result<Vec<KeyRow>, Trouble> {
        let link = self.link().await?;
        let found = keys::list(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn facts(&self, filter: &FactFilter) -> Result<Vec<Fact>, Trouble> {
        let link = self.state().await?;
        let found = ledger::list(link.base()?, filter).await;
        link.end(found).await
    }

    pub(crate) async fn person(&self, tenant: &Name, subject: &Subject) -> Result<Option<Person>, Trouble> {
        let link = self.state().await?;
        let found = persons::by_subject(link.base()?, tenant, subject).await;
        link.end(found).await
    }

    pub(crate) async fn unsubscribes_under_way(&self) -> Result<Vec<Millis>, Trouble> {
        let link = self.link().await?;
        let found = unsubscribes::under_way(link.base()?).await;
        link.end(found).await
    }

    pub(crate) async fn sizes(&self) -> Result<Sizes, Trouble> {
        let link = self.link().await?;
        let found = standing::sizes(link.base()?).await;
        let mut sizes = link.end(found).await?;
        let (intake, work) = self.waiting();
        sizes.intake_waiting = intake as u64;
        sizes.work_waiting = work as u64;
        Ok(sizes)
    }
}

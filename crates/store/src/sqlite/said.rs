//! The hub's own events about a write, in its transaction.

use mailspan_core::{DeliveryId, Event};

use super::accept::accept;
use super::base::Fault;
use super::group::Group;
use super::{deliveries, jobs};
use crate::said::{of_accepted, of_dead, of_job, receipt};
use crate::write::{Receipt, Say, Wrote};
use crate::{DeliveryRow, JobRow};

pub(crate) fn say(group: &mut Group, event: &Event) -> Result<(), Fault> {
    let Some((receipt, arrivals)) = receipt(event, &group.base.key) else { return Ok(()) };
    accept(group, &receipt, &arrivals).map(|_| ())
}

/// Where what was written is news.
pub(crate) fn say_news(group: &mut Group, event: Option<&Event>, is_news: bool) -> Result<Wrote, Fault> {
    if let Some(event) = event.filter(|_| is_news) {
        say(group, event)?;
    }
    Ok(Wrote::Done)
}

/// Of events that were just accepted.
pub(crate) fn say_accepted(group: &mut Group, receipt: &Receipt, wrote: &Wrote) -> Result<(), Fault> {
    let Wrote::Accepted { accepted, again: false } = wrote else { return Ok(()) };
    of_accepted(receipt, accepted, &group.base.key).iter().try_for_each(|event| say(group, event))
}

/// Of a delivery that was just written.
pub(crate) fn say_dead(
    group: &mut Group,
    delivery: DeliveryId,
    say_it: &Say<DeliveryRow>,
) -> Result<(), Fault> {
    let row = deliveries::by_id(&group.base, delivery)?;
    match row.and_then(|row| of_dead(say_it, &row)) {
        Some(event) => say(group, &event),
        None => Ok(()),
    }
}

/// Of a job that was just written.
pub(crate) fn say_job(group: &mut Group, job: i64, say_it: Option<&Say<JobRow>>) -> Result<(), Fault> {
    let Some(say_it) = say_it else { return Ok(()) };
    match jobs::by_id(&group.base, job)?.and_then(|row| of_job(say_it, &row)) {
        Some(event) => say(group, &event),
        None => Ok(()),
    }
}

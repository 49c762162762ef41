//! The hub's own events about a write, in its transaction. Their names were made before it.

use mailspan_core::{DeliveryId, Event};

use super::accept::accept;
use super::base::{Base, Fault, get};
use super::journal::Journal;
use super::{deliveries, jobs};
use crate::prepare::Arrival;
use crate::said::{of_accepted, of_dead, of_job, receipt};
use crate::write::{Receipt, Say, Trouble, Wrote};
use crate::{DeliveryRow, JobRow};

pub(crate) async fn say(journal: &mut Journal, event: &Event) -> Result<(), Fault> {
    let Some((receipt, arrivals)) = receipt(event, &journal.base.key) else { return Ok(()) };
    let results = accept(journal, &[(&*receipt, arrivals.as_slice())]).await?;
    // Refused is refused with the write that it is about.
    results.into_iter().try_for_each(|result| result.map(|_| ())).map_err(Fault::Trouble)
}

/// Where what was written is news.
pub(crate) async fn say_news(
    journal: &mut Journal,
    event: Option<&Event>,
    is_news: bool,
) -> Result<Wrote, Fault> {
    if let Some(event) = event.filter(|_| is_news) {
        say(journal, event).await?;
    }
    Ok(Wrote::Done)
}

/// Of events that were just accepted.
pub(crate) async fn say_accepted(
    journal: &mut Journal,
    receipts: &[(&Receipt, &[Arrival])],
    results: &[Result<Wrote, Trouble>],
) -> Result<(), Fault> {
    for ((receipt, _), result) in receipts.iter().zip(results) {
        let Ok(Wrote::Accepted { accepted, again: false }) = result else { continue };
        for event in of_accepted(receipt, accepted, &journal.base.key) {
            say(journal, &event).await?;
        }
    }
    Ok(())
}

/// Of a delivery that was just written.
pub(crate) async fn say_dead(
    journal: &mut Journal,
    delivery: DeliveryId,
    say_it: &Say<DeliveryRow>,
) -> Result<(), Fault> {
    let row = deliveries::by_id(&journal.base, delivery).await?;
    match row.and_then(|row| of_dead(say_it, &row)) {
        Some(event) => say(journal, &event).await,
        None => Ok(()),
    }
}

/// Of a job that was just written.
pub(crate) async fn say_job(
    journal: &mut Journal,
    job: i64,
    say_it: Option<&Say<JobRow>>,
) -> Result<(), Fault> {
    let Some(say_it) = say_it else { return Ok(()) };
    match jobs::by_id(&journal.base, job).await?.and_then(|row| of_job(say_it, &row)) {
        Some(event) => say(journal, &event).await,
        None => Ok(()),
    }
}

/// Of an event, a route and a destination, where there is one.
pub(crate) async fn delivery(
    base: &Base,
    event: i64,
    route: i64,
    destination: i64,
) -> Result<Option<DeliveryId>, Fault> {
    let sql = "SELECT id FROM deliveries WHERE event = $1 AND route = $2 AND destination = $3";
    let row = base.row(sql, &[&event, &route, &destination]).await?;
    row.map(|row| Ok(DeliveryId(get(&row, 0)?))).transpose()
}

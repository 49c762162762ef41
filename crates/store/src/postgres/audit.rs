//! The audit: rows counted now against running sums kept since the first start.

use super::base::{Base, Fault, get};
use super::counts::total;
use crate::Audit;
use crate::sqlite::audit::{Sums, judge};
use crate::sqlite::counts::Place;
use crate::sqlite::route::{TEST, UNMATCHED};
use mailspan_core::State;

/// It reads whole tables: longer than a statement may take otherwise, and not by an index.
const PATIENCE: &str = "SET LOCAL statement_timeout = '30min'; SET LOCAL enable_seqscan = on;
    SET LOCAL enable_hashjoin = on";

pub(crate) async fn audit(base: &Base) -> Result<Audit, Fault> {
    base.batch(PATIENCE).await?;
    let sql = format!(
        "SELECT (SELECT count(*) FROM unrouted),
            (SELECT count(*) FROM (SELECT DISTINCT event FROM deliveries) AS d
                WHERE NOT EXISTS (SELECT 1 FROM unrouted u WHERE u.seq = d.event)),
            (SELECT count(*) FROM without_delivery WHERE place = {UNMATCHED}),
            (SELECT count(*) FROM without_delivery WHERE place = {TEST}),
            (SELECT count(*) FROM events)"
    );
    let row = base.row(&sql, &[]).await?.ok_or_else(|| Fault::unreadable("count", 0))?;
    let count = |column: usize| Ok::<u64, Fault>(u64::try_from(get::<i64, _>(&row, column)?).unwrap_or(0));
    let mut rows = [0; 6];
    for row in &base.rows("SELECT state, count(*) FROM deliveries GROUP BY state", &[]).await? {
        let state = usize::try_from(get::<i64, _>(row, 0)?).unwrap_or(usize::MAX);
        if let Some(place) = rows.get_mut(state) {
            *place = u64::try_from(get::<i64, _>(row, 1)?).unwrap_or(0);
        }
    }
    let mut sums = [0; 6];
    for (sum, state) in sums.iter_mut().zip(State::ALL) {
        *sum = total(base, Place::Delivery(state)).await?;
    }
    Ok(judge(Sums {
        accepted: total(base, Place::Accepted).await?,
        duplicates: total(base, Place::Duplicate).await?,
        refused: total(base, Place::Refused).await?,
        quarantined: total(base, Place::Quarantined).await?,
        dropped_events: total(base, Place::DroppedEvent).await?,
        dropped_deliveries: total(base, Place::DroppedDelivery).await?,
        waiting: count(0)?,
        routed: count(1)?,
        unmatched: count(2)?,
        test: count(3)?,
        events: count(4)?,
        rows,
        sums,
    }))
}

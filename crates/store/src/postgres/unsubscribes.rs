//! How far unsubscribes have come; the rules are those of the SQLite back end.
//!
//! A node sees what others have committed: where two nodes tell the last two destinations in the same moment, neither
//! sees that all know, and the time of that one is not counted.

use mailspan_core::limits::UNSUBSCRIBES_LOOKED_AT_MAX;
use mailspan_core::{Millis, Seq};

use super::base::{Base, Fault, get};

/// Condition on a fact `l`: it is an opt-out or «do not contact», and no repeat of what the person had said before.
const IS_NEWS: &str = "l.what IN (1, 2) AND NOT EXISTS (
    SELECT 1 FROM ledger b WHERE b.person = l.person AND b.id < l.id AND b.what IN (1, 2) AND b.what >= l.what
        AND NOT EXISTS (SELECT 1 FROM ledger i
            WHERE i.person = l.person AND i.what = 0 AND i.id BETWEEN b.id AND l.id))";

/// Those of the events whose consent the destination has answered before.
pub(crate) async fn knew(base: &Base, events: &[i64], destination: i64) -> Result<Vec<Seq>, Fault> {
    if events.is_empty() {
        return Ok(vec![]);
    }
    let sql = "SELECT DISTINCT f.event FROM ledger f JOIN ledger_answers a ON a.fact = f.id
        WHERE f.event = ANY($1) AND a.destination = $2 AND a.verdict NOT LIKE 'dead%'";
    base.rows(sql, &[&events, &destination]).await?.iter().map(|row| Ok(Seq(get(row, 0)?))).collect()
}

/// Of events that one more destination knows since `at`: milliseconds from learning of it, of each unsubscribe that
/// no destination is left to tell.
pub(crate) async fn known(base: &Base, events: &[i64], at: Millis) -> Result<Vec<u64>, Fault> {
    if events.is_empty() {
        return Ok(vec![]);
    }
    let sql = format!(
        "SELECT min(l.learned_at) FROM ledger l
        WHERE l.event = ANY($1) AND {IS_NEWS} AND NOT EXISTS (
            SELECT 1 FROM deliveries d WHERE d.event = l.event AND d.flags & 1 <> 0 AND d.state IN (0, 4) AND NOT EXISTS (
                SELECT 1 FROM ledger f JOIN ledger_answers a ON a.fact = f.id
                WHERE f.event = d.event AND a.destination = d.destination AND a.verdict NOT LIKE 'dead%'))
        GROUP BY l.event ORDER BY 1"
    );
    let mut known = vec![];
    for row in &base.rows(&sql, &[&events]).await? {
        known.push(at.since(Millis(get(row, 0)?)));
    }
    Ok(known)
}

/// When those were learned that are under way, the oldest first.
pub(crate) async fn under_way(base: &Base) -> Result<Vec<Millis>, Fault> {
    let sql = format!(
        "WITH untold (event, destination) AS (
            (SELECT u.seq, 0::bigint FROM unrouted u ORDER BY u.seq LIMIT $1)
            UNION SELECT w.event, n.id FROM destinations n CROSS JOIN LATERAL
                (SELECT d.event, d.flags FROM deliveries d
                 WHERE d.destination = n.id AND d.queue = 0 AND d.due IS NOT NULL ORDER BY d.due, d.id LIMIT $1) AS w
                WHERE w.flags & 1 <> 0
            UNION SELECT w.event, n.id FROM destinations n CROSS JOIN LATERAL
                (SELECT d.event, d.flags FROM deliveries d
                 WHERE d.destination = n.id AND d.queue = 5 AND d.due IS NOT NULL ORDER BY d.due, d.id LIMIT $1) AS w
                WHERE w.flags & 1 <> 0
            UNION SELECT w.event, n.id FROM destinations n CROSS JOIN LATERAL
                (SELECT d.event, d.flags FROM deliveries d
                 WHERE d.destination = n.id AND d.state = 4 ORDER BY d.id LIMIT $1) AS w
                WHERE w.flags & 1 <> 0)
        SELECT min(l.learned_at) FROM untold u JOIN ledger l ON l.event = u.event
        WHERE {IS_NEWS} AND NOT EXISTS (
            SELECT 1 FROM ledger f JOIN ledger_answers a ON a.fact = f.id
            WHERE f.event = u.event AND a.destination = u.destination AND a.verdict NOT LIKE 'dead%')
        GROUP BY l.event ORDER BY 1"
    );
    let rows = base.rows(&sql, &[&(UNSUBSCRIBES_LOOKED_AT_MAX as i64)]).await?;
    rows.iter().map(|row| Ok(Millis(get(row, 0)?))).collect()
}

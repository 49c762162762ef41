//! Running sums: gathered in memory, written once a group into the shard of this node.

use super::base::{Base, Fault, get};
use crate::sqlite::counts::{Counts, Place};

/// Nodes share so many shards: more would make sums slower to read than commits are helped.
pub(crate) const SHARDS: i64 = 16;

/// Part of each transaction, just before its commit; in one order, so that nodes cannot wait for each other.
pub(crate) async fn write(base: &Base, counts: &mut Counts, shard: i64) -> Result<(), Fault> {
    let mut raised = counts.take();
    if raised.is_empty() {
        return Ok(());
    }
    raised.sort_unstable();
    let abouts: Vec<i64> = raised.iter().map(|row| row.0).collect();
    let places: Vec<i64> = raised.iter().map(|row| row.1).collect();
    let ns: Vec<i64> = raised.iter().map(|row| row.2).collect();
    base.execute(
        "INSERT INTO counts (about, place, shard, n)
         SELECT c.about, c.place, $4, c.n FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS c (about, place, n)
         ON CONFLICT (about, place, shard) DO UPDATE SET n = counts.n + excluded.n",
        &[&abouts, &places, &ns, &shard],
    )
    .await?;
    Ok(())
}

/// The written sum of one place over everything it is counted for.
pub(crate) async fn total(base: &Base, place: Place) -> Result<u64, Fault> {
    let sql = "SELECT coalesce(sum(n), 0)::bigint FROM counts WHERE place = $1";
    let row = base.row(sql, &[&place.number()]).await?;
    let n: i64 = row.map_or(Ok(0), |row| get(&row, 0))?;
    Ok(u64::try_from(n).unwrap_or(0))
}

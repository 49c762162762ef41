//! The floors of `bench store`: bare tables on the same disk, written in transactions as large as the hub's can
//! be with so many writers, by one connection and without any other work.

use mailspan_core::limits::{QUEUE_ROOM, ROUTE_BATCH_MAX};
use mailspan_store::floor::Floor;

use super::figures::{Figure, Unit};
use super::place::Made;
use super::store_contacts;
use crate::runtime;

/// About what the hub keeps of the bench's request.
const BODY_BYTES: usize = 1_000;

pub const JOURNAL: &str = "journal";
pub const ROUTER: &str = "router";
pub const QUEUE: &str = "queue";

/// Rows a second: with a body under a random key, as many in a transaction as write at once; small ones that are
/// due, in transactions of the router's batch; those read and marked done, as many as
/// are claimed at once of one queue; contacts.
pub async fn measure(made: &Made, rows: u64, writers: u64) -> anyhow::Result<Vec<Figure>> {
    let mut floor = Floor::open(&made.place()).await?;
    let mut figures = vec![];
    let body = [b'x'; BODY_BYTES];
    let began = runtime::instant();
    let mut left = rows;
    while left > 0 {
        let count = left.min(writers);
        let keys: Vec<[u8; 16]> = (0..count).map(|_| runtime::random_u128().to_be_bytes()).collect();
        floor.keep(&keys, &body).await?;
        left -= count;
    }
    let mut add = |part: &str, began: std::time::Instant, rows: u64| {
        let speed = rows as f64 / began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        figures.push(Figure::new(part, Unit::PerSecond, speed));
    };
    add(JOURNAL, began, rows);
    let began = runtime::instant();
    let numbers: Vec<i64> = (1..=i64::try_from(rows)?).collect();
    for some in numbers.chunks(ROUTE_BATCH_MAX) {
        floor.offer(some).await?;
    }
    add(ROUTER, began, rows);
    let began = runtime::instant();
    let mut taken = 0;
    loop {
        match floor.take(usize::from(QUEUE_ROOM[0])).await? {
            0 => break,
            count => taken += count as u64,
        }
    }
    add(QUEUE, began, taken);
    figures.extend(store_contacts::bare(&mut floor, rows, writers).await?);
    Ok(figures)
}

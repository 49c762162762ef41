//! Rate, concurrency, batch, calendar and timeout of a destination.

use mailspan_connectors::contract::Policy;
use mailspan_core::{Rate, limits::SENDS_MAX};
use mailspan_engine::{Calendar, Limits, Trip};

use super::reader::Reader;
use super::retry::calendar;
use super::settings::{BATCH, BREAKER, names};
use super::tree::{Node, Table};

const HOUR_MS: u64 = 3_600_000;
const TIMEOUT_MIN_MS: u64 = 10;
/// A receiver that needs longer hangs.
const TIMEOUT_MAX_MS: u64 = 300_000;
const RETRY_AFTER_MAX_MS: u64 = 7 * 24 * HOUR_MS;
/// No vendor takes more items in one request.
const BATCH_MAX: u32 = 1_000;
const BATCH_WAIT_MAX_MS: u64 = 60_000;
/// A list of waits shorter than this needs no breaker.
const BREAKER_LEAST_MS: u64 = 60_000;
/// More failures in a row than this are no breaker.
const FAILURES_MAX: u32 = 1_000;

/// What the section sets, over the kind's defaults.
pub fn limits(reader: &Reader, table: &Table, place: &str, of: Policy) -> Option<Limits> {
    let before = reader.count();
    let mut limits = defaults(of);
    if let Some(rate) = table.get("rate").and_then(|node| reader.rate(node)) {
        limits.rate = rate;
    }
    let sends_max = u32::try_from(SENDS_MAX).unwrap_or(u32::MAX);
    if let Some(number) = table.get("concurrency").and_then(|node| reader.number(node, 1, sends_max)) {
        limits.concurrency = number;
    }
    if let Some(calendar) = table.get("retry").and_then(|node| calendar(reader, node, place)) {
        limits.calendar = calendar;
    }
    if let Some(span) = table.get("retry_after_max").and_then(|node| reader.span(node, 1, RETRY_AFTER_MAX_MS))
    {
        limits.retry_after_max_ms = span.ms;
    }
    if let Some(node) = table.get("batch") {
        batch(reader, node, place, &mut limits);
    }
    if let Some(coalesces) = table.get("coalesce").and_then(|node| reader.flag(node)) {
        limits.coalesces = coalesces;
    }
    limits.daily = table.get("daily").and_then(|node| reader.number(node, 1, u32::MAX));
    match table.get("breaker") {
        Some(node) => breaker(reader, node, place, &mut limits),
        // Who gives up within a minute gains nothing by waiting.
        None if gives_up_soon(&limits.calendar) => limits.breaker = Trip::OFF,
        None => {}
    }
    (reader.count() == before).then_some(limits)
}

pub fn defaults(of: Policy) -> Limits {
    let (count, per_ms) = of.rate;
    Limits {
        rate: Rate { count, per_ms },
        concurrency: of.concurrency,
        batch_max: of.batch,
        batch_wait_ms: of.batch_wait_ms,
        calendar: Calendar::default(),
        retry_after_max_ms: HOUR_MS,
        merges: of.merges,
        coalesces: of.coalesces,
        adapts: true,
        breaker: Trip::default(),
        daily: None,
        day_starts_ms: 0,
    }
}

fn batch(reader: &Reader, node: &Node, place: &str, limits: &mut Limits) {
    let Some(table) = reader.table(node, "write batch = { max = 100, wait = \"200ms\" }") else { return };
    reader.known(table, &format!("{place}.batch"), &names(BATCH));
    if let Some(max) = table.get("max").and_then(|node| reader.number(node, 1, BATCH_MAX)) {
        limits.batch_max = max;
    }
    if let Some(wait) = table.get("wait").and_then(|node| reader.span(node, 0, BATCH_WAIT_MAX_MS)) {
        limits.batch_wait_ms = wait.ms;
    }
}

/// A list of waits that is used up before a breaker would have asked a second time.
fn gives_up_soon(calendar: &Calendar) -> bool {
    calendar.horizon_ms.is_none() && calendar.waits_ms.iter().sum::<u64>() < BREAKER_LEAST_MS
}

fn breaker(reader: &Reader, node: &Node, place: &str, limits: &mut Limits) {
    let Some(table) = reader.table(node, "write breaker = { failures = 10, wait = \"5s\" }") else { return };
    reader.known(table, &format!("{place}.breaker"), &names(BREAKER));
    let mut trip = Trip::default();
    match table.get("failures").and_then(|node| reader.number(node, 0, FAILURES_MAX)) {
        Some(0) => trip = Trip::OFF,
        Some(failures) => trip.run = failures,
        None => {}
    }
    if let Some(share) = table.get("share").and_then(|node| reader.number(node, 1, 100)) {
        trip.percent = share;
    }
    if let Some(wait) = table.get("wait").and_then(|node| reader.span(node, 100, HOUR_MS)) {
        trip.wait_ms = wait.ms;
        trip.wait_max_ms = trip.wait_max_ms.max(wait.ms);
    }
    if let Some(wait) = table.get("wait_max").and_then(|node| reader.span(node, 100, HOUR_MS)) {
        trip.wait_max_ms = wait.ms.max(trip.wait_ms);
    }
    limits.breaker = trip;
}

/// Of one request, in milliseconds.
pub fn timeout(reader: &Reader, table: &Table, of: Policy) -> Option<u64> {
    match table.get("timeout") {
        Some(node) => reader.span(node, TIMEOUT_MIN_MS, TIMEOUT_MAX_MS).map(|span| span.ms),
        None => Some(of.timeout_ms),
    }
}

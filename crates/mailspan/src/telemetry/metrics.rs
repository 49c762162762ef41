//! `/metrics`: counted in place, label sets bounded by the configuration.

use std::time::Duration;

use mailspan_core::{Millis, Name};
use mailspan_store::{Accepted, Sizes};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Intake {
    source: String,
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exchange {
    destination: String,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Settled {
    destination: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    destination: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    source: String,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Told {
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Aged {
    age: &'static str,
}

/// Ages of unsubscribes that are under way: each counts in the first that it is younger than (milliseconds).
const AGES: [(&str, u64); 5] = [
    ("under_5s", 5_000),
    ("under_1m", 60_000),
    ("under_10m", 600_000),
    ("under_1h", 3_600_000),
    ("under_1d", 86_400_000),
];
const OLDER: &str = "over_1d";
/// Bounds of the histogram: the aim is 5 s, a retry calendar may take a day.
const UNSUBSCRIBE_SECONDS: [f64; 12] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0];

pub struct Metrics {
    registry: Registry,
    asked: Family<Answered, Counter>,
    listed: Family<Told, Gauge>,
    known: Family<Told, Gauge>,
    intake: Family<Intake, Counter>,
    acknowledge: Histogram,
    routed: Counter,
    waiting: Gauge,
    file_bytes: Gauge,
    wal_bytes: Gauge,
    writes_waiting: Gauge,
    exchanges: Family<Exchange, Counter>,
    settled: Family<Settled, Counter>,
    pending: Family<Of, Gauge>,
    dead: Family<Of, Gauge>,
    paused: Family<Of, Gauge>,
    unsubscribe_known: Histogram,
    unsubscribes_under_way: Family<Aged, Gauge>,
    oldest_unsubscribe: Gauge,
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("mailspan");
        let buckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];
        let metrics = Metrics {
            asked: Family::default(),
            listed: Family::default(),
            known: Family::default(),
            intake: Family::default(),
            acknowledge: Histogram::new(buckets),
            routed: Counter::default(),
            waiting: Gauge::default(),
            file_bytes: Gauge::default(),
            wal_bytes: Gauge::default(),
            writes_waiting: Gauge::default(),
            exchanges: Family::default(),
            settled: Family::default(),
            pending: Family::default(),
            dead: Family::default(),
            paused: Family::default(),
            unsubscribe_known: Histogram::new(UNSUBSCRIBE_SECONDS),
            unsubscribes_under_way: Family::default(),
            oldest_unsubscribe: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("intake_events", "Events at the door by outcome", metrics.intake.clone());
        registry.register(
            "acknowledge_seconds",
            "From request to answer after the commit",
            metrics.acknowledge.clone(),
        );
        registry.register("routed_events", "Events that the router took", metrics.routed.clone());
        registry.register(
            "waiting_events",
            "Accepted events that wait for the router",
            metrics.waiting.clone(),
        );
        registry.register("store_bytes", "Size of the store's file", metrics.file_bytes.clone());
        registry.register("store_wal_bytes", "Size of its write-ahead log", metrics.wal_bytes.clone());
        registry.register(
            "store_writes_waiting",
            "Writes that wait for the writer",
            metrics.writes_waiting.clone(),
        );
        registry.register("exchanges", "Exchanges with destinations by status", metrics.exchanges.clone());
        registry.register("asked", "Questions to sources by status", metrics.asked.clone());
        registry.register("listed_today", "What a source lists of today (UTC)", metrics.listed.clone());
        registry.register(
            "listed_known_today",
            "Of it, what had arrived before it was asked for",
            metrics.known.clone(),
        );
        registry.register("settled_deliveries", "Deliveries that ended, by state", metrics.settled.clone());
        registry.register("pending_deliveries", "Deliveries that wait", metrics.pending.clone());
        registry.register("dead_letters", "Deliveries that need a human", metrics.dead.clone());
        registry.register("destination_paused", "1 while the destination is paused", metrics.paused.clone());
        metrics.register_unsubscribes(&mut registry);
        Metrics { registry, ..metrics }
    }

    fn register_unsubscribes(&self, registry: &mut Registry) {
        registry.register(
            "unsubscribe_known_seconds",
            "From learning of an unsubscribe until the last destination knows it",
            self.unsubscribe_known.clone(),
        );
        registry.register(
            "unsubscribes_under_way",
            "Unsubscribes that some destination does not know yet, by their age",
            self.unsubscribes_under_way.clone(),
        );
        registry.register(
            "unsubscribe_oldest_seconds",
            "Age of the oldest unsubscribe that some destination does not know yet",
            self.oldest_unsubscribe.clone(),
        );
    }

    pub fn intake(&self, source: &Name, outcome: &str, n: u64) {
        let labels = Intake { source: source.to_string(), outcome: outcome.to_owned() };
        self.intake.get_or_create_owned(&labels).inc_by(n);
    }

    pub fn accepted(&self, source: &Name, accepted: &Accepted) {
        let counts = [
            ("accepted", accepted.ids.len() as u64),
            ("duplicate", accepted.duplicates),
            ("quarantined", accepted.quarantined),
            ("known", accepted.unchanged),
        ];
        for (outcome, n) in counts.into_iter().filter(|(_, n)| *n > 0) {
            self.intake(source, outcome, n);
        }
    }

    pub fn acknowledged(&self, took: Duration) {
        self.acknowledge.observe(took.as_secs_f64());
    }

    pub fn routed(&self, n: u64) {
        self.routed.inc_by(n);
    }

    pub fn sizes(&self, sizes: &Sizes) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.waiting.set(signed(sizes.unrouted));
        self.file_bytes.set(signed(sizes.file_bytes));
        self.wal_bytes.set(signed(sizes.wal_bytes));
        self.writes_waiting.set(signed(sizes.intake_waiting + sizes.work_waiting));
    }

    /// `status` 0: no answer came.
    pub fn exchange(&self, destination: &Name, status: u16) {
        let labels = Exchange { destination: destination.to_string(), status: status.to_string() };
        self.exchanges.get_or_create_owned(&labels).inc();
    }

    /// `status` 0: no answer came.
    pub fn asked(&self, source: &Name, status: u16) {
        let labels = Answered { source: source.to_string(), status: status.to_string() };
        self.asked.get_or_create_owned(&labels).inc();
    }

    /// Of today: how much a source lists, and how much of it had arrived before.
    pub fn completeness(&self, source: &Name, listed: u64, known: u64) {
        let of = Told { source: source.to_string() };
        self.listed.get_or_create_owned(&of).set(i64::try_from(listed).unwrap_or(i64::MAX));
        self.known.get_or_create_owned(&of).set(i64::try_from(known).unwrap_or(i64::MAX));
    }

    pub fn settled(&self, destination: &Name, state: &str) {
        let labels = Settled { destination: destination.to_string(), state: state.to_owned() };
        self.settled.get_or_create_owned(&labels).inc();
    }

    pub fn standing(&self, destination: &Name, pending: u64, dead: u64, paused: bool) {
        let of = Of { destination: destination.to_string() };
        self.pending.get_or_create_owned(&of).set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.dead.get_or_create_owned(&of).set(i64::try_from(dead).unwrap_or(i64::MAX));
        self.paused.get_or_create_owned(&of).set(i64::from(paused));
    }

    /// Unsubscribes that the last destination knows now, each with the time that it took.
    pub fn unsubscribes_known(&self, after_ms: &[u64]) {
        for ms in after_ms {
            self.unsubscribe_known.observe(*ms as f64 / 1_000.0);
        }
    }

    /// Those under way, by when they were learned, the oldest first.
    pub fn unsubscribes_under_way(&self, since: &[Millis], now: Millis) {
        let mut counts = [0_i64; AGES.len() + 1];
        for at in since {
            let age = now.since(*at);
            counts[AGES.iter().position(|(_, below)| age < *below).unwrap_or(AGES.len())] += 1;
        }
        let names = AGES.iter().map(|(name, _)| *name).chain([OLDER]);
        for (age, count) in names.zip(counts) {
            self.unsubscribes_under_way.get_or_create_owned(&Aged { age }).set(count);
        }
        let oldest = since.first().map_or(0, |at| now.since(*at) / 1_000);
        self.oldest_unsubscribe.set(i64::try_from(oldest).unwrap_or(i64::MAX));
    }

    /// The text exposition format (OpenMetrics).
    pub fn text(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsubscribes_under_way_count_by_their_age() {
        let metrics = Metrics::new();
        let now = Millis(100_000_000);
        metrics.unsubscribes_under_way(&[0, 96_000_000, 99_990_000, 99_999_000].map(Millis), now);
        metrics.unsubscribes_known(&[40, 3_000]);
        let text = metrics.text();
        for line in [
            "mailspan_unsubscribes_under_way{age=\"over_1d\"} 1",
            "mailspan_unsubscribes_under_way{age=\"under_1d\"} 1",
            "mailspan_unsubscribes_under_way{age=\"under_1m\"} 1",
            "mailspan_unsubscribes_under_way{age=\"under_5s\"} 1",
            "mailspan_unsubscribes_under_way{age=\"under_1h\"} 0",
            "mailspan_unsubscribe_oldest_seconds 100000",
            "mailspan_unsubscribe_known_seconds_bucket{le=\"0.05\"} 1",
            "mailspan_unsubscribe_known_seconds_bucket{le=\"5.0\"} 2",
        ] {
            assert!(text.lines().any(|one| one == line), "`{line}` is missing in\n{text}");
        }
        metrics.unsubscribes_under_way(&[], now);
        let text = metrics.text();
        assert!(text.contains("mailspan_unsubscribes_under_way{age=\"over_1d\"} 0"), "{text}");
        assert!(text.contains("mailspan_unsubscribe_oldest_seconds 0"), "{text}");
    }
}

//! What was measured and found.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Figure, SyncPlan};
use crate::bench::figures::{medians, value};
use crate::bench::report::{STORE, key, rounded};
use crate::bench::table::shown;

/// The aim, at the 99th percentile.
const LAST_MS_MAX: f64 = 5_000.0;
const LAST_P99: &str = "last system knows p99";

/// The second phase, over all rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    pub unsubscribes: u64,
    /// Answered otherwise than 2xx.
    pub refused: u64,
    /// Acknowledged, and unknown to one system at least.
    pub untold: u64,
    /// Deliveries to the application beyond the first of each.
    pub doubled: u64,
    /// Told of somebody who never unsubscribed, or lost there.
    pub wrongly_told: u64,
    /// Contacts whose last acknowledged profile is not what MailingCore has.
    pub stale: u64,
    /// Unsubscribes in the hub's own histogram.
    pub told_by_metric: u64,
}

pub struct SyncReport {
    pub plan: SyncPlan,
    ours: Vec<Figure>,
    theirs: Vec<Figure>,
    found: Found,
    pub notes: Vec<String>,
}

impl SyncReport {
    pub fn new(
        plan: SyncPlan,
        ours: &[Vec<Figure>],
        theirs: &[Vec<Figure>],
        found: Found,
        notes: Vec<String>,
    ) -> SyncReport {
        SyncReport { plan, ours: medians(ours), theirs: medians(theirs), found, notes }
    }

    /// False where a system was not told, was told wrongly, or the hub's own count differs.
    pub fn whole(&self) -> bool {
        let Found { unsubscribes, refused, untold, wrongly_told, stale, told_by_metric, .. } = self.found;
        let known = unsubscribes - refused;
        known > 0 && untold + wrongly_told + stale == 0 && told_by_metric == known
    }

    fn in_time(&self) -> bool {
        value(&self.ours, LAST_P99).is_some_and(|ms| ms < LAST_MS_MAX)
    }

    fn ratio(&self, name: &str) -> Option<f64> {
        let floor = value(&self.theirs, name).filter(|floor| *floor > 0.0)?;
        Some(value(&self.ours, name)? / floor)
    }

    fn headline(&self) -> String {
        let SyncPlan { per_second, profiles, ms, rounds, limited, .. } = &self.plan;
        let limits = if *limited { "the vendors' limits" } else { "no limits" };
        format!(
            "bench sync: {per_second} unsubscribes/s among {profiles} changes/s for {} s, {limits}, medians of {rounds} rounds",
            *ms as f64 / 1_000.0
        )
    }

    /// For people.
    pub fn table(&self) -> String {
        let head = format!("  {:32}{:>12}{:>12}{:>9}", "", "hub", "floor", "÷ floor");
        let mut text = format!("{}\nstore: {STORE}\n\n{head}\n", self.headline());
        for figure in &self.ours {
            let floor = value(&self.theirs, &figure.name);
            let beside = floor.map_or("–".to_owned(), |floor| shown(figure.unit, floor));
            let ratio = self.ratio(&figure.name).map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
            let own = shown(figure.unit, figure.value);
            text += &format!("  {:32}{own:>12}{beside:>12}{ratio:>9}\n", figure.name);
        }
        let Found { unsubscribes, refused, untold, doubled, wrongly_told, stale, told_by_metric } =
            self.found;
        text += &format!(
            "\nevery fake looked at: {unsubscribes} unsubscribes, {refused} refused, {untold} not known everywhere, {doubled} \
             told twice, {wrongly_told} told wrongly, {stale} profiles out of date; {told_by_metric} in the hub's histogram\n"
        );
        let words = |ok: bool| if ok { "ok  " } else { "FAIL" };
        text += &format!("{}  {LAST_P99} < 5 s\n", words(self.in_time()));
        text += &format!("{}  every system is right\n", words(self.whole()));
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let of = |figures: &[Figure]| -> Map<String, Value> {
            figures.iter().map(|figure| (key(figure), json!(rounded(figure.value)))).collect()
        };
        let ratio = |figure: &Figure| Some((key(figure), json!(rounded(self.ratio(&figure.name)?))));
        let ratios: Map<String, Value> = self.ours.iter().filter_map(ratio).collect();
        json!({
            "bench": "sync", "settings": self.headline(), "store": STORE, "figures": of(&self.ours),
            "floors": of(&self.theirs), "ratios": ratios, "in_time": self.in_time(), "found": self.found,
            "whole": self.whole(), "notes": self.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::quantiles;

    #[test]
    fn a_system_that_does_not_know_fails() {
        let (per_second, profiles, ms, rounds, limited) = (1, 1, 1_000, 1, false);
        let plan = SyncPlan { per_second, profiles, ms, rounds, limited, folder: None };
        let good = Found { unsubscribes: 3, refused: 1, told_by_metric: 2, ..Found::default() };
        let of = |micros: u64| vec![quantiles("last system knows", &[micros])];
        let report = |found, micros| SyncReport::new(plan.clone(), &of(micros), &of(20_000), found, vec![]);
        let text = report(good, 40_000).table();
        assert!(text.contains("2.00") && text.contains("ok    every system is right"), "{text}");
        assert!(report(good, 40_000).whole());
        assert!(report(good, 6_000_000).table().contains("FAIL  last system knows p99 < 5 s"));
        for bad in [
            Found { untold: 1, ..good },
            Found { wrongly_told: 1, ..good },
            Found { stale: 1, ..good },
            Found { told_by_metric: 1, ..good },
            Found { refused: 3, told_by_metric: 0, ..good },
        ] {
            assert!(!report(bad, 1).whole(), "{bad:?}");
        }
    }
}

//! What was measured over all rounds, as one JSON object; [`super::table`] shows it to people.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::figures::{Figure, Unit, medians, value};
use super::look::Found;
use super::round::Measured;
use super::table::shown;
use super::{Goal, MapKind, Plan, Subject};

/// Of hub and floor alike.
pub const STORE: &str = "SQLite, WAL, synchronous=FULL";
/// The seed's demands.
const ACKNOWLEDGE_P95_MS: f64 = 200.0;
const SYNC_P95_MS: f64 = 30_000.0;
const NOTES_MAX: usize = 10;

/// All rounds of one bench.
pub struct Report {
    pub plan: Plan,
    pub folder: String,
    in_memory: bool,
    measured: BTreeMap<&'static str, Vec<Measured>>,
}

/// One demand, and whether it was met.
pub struct Outcome {
    pub name: &'static str,
    pub ok: bool,
    pub found: String,
}

impl Report {
    pub fn new(plan: Plan, folder: String, in_memory: bool) -> Report {
        Report { plan, folder, in_memory, measured: BTreeMap::new() }
    }

    pub fn add(&mut self, subject: Subject, measured: Measured) {
        self.measured.entry(subject.name()).or_default().push(measured);
    }

    /// False when the hub lost something or delivered out of order, also while retention was at work.
    pub fn whole(&self) -> bool {
        let whole = |subject| {
            let found = self.found(subject);
            found.lost == 0 && found.out_of_order == 0 && found.acknowledged > 0
        };
        whole(Subject::Hub) && (self.plan.aged.is_none() || whole(Subject::Dropping))
    }

    /// The acknowledgement's 99th percentile while retention drops old rows, to that without it.
    pub fn retention(&self) -> Option<f64> {
        self.plan.aged?;
        let p99 = |subject| {
            let open = self.plan.per_second.is_some();
            let figures = if open { self.open(subject) } else { self.full(subject) };
            value(&figures, "acknowledge p99")
        };
        Some(p99(Subject::Dropping)? / p99(Subject::Hub).filter(|p99| *p99 > 0.0)?)
    }

    fn rounds(&self, subject: Subject) -> &[Measured] {
        self.measured.get(subject.name()).map_or(&[], Vec::as_slice)
    }

    pub fn found(&self, subject: Subject) -> Found {
        let mut sum = Found::default();
        for measured in self.rounds(subject) {
            sum.add(&measured.found);
        }
        sum
    }

    pub fn open(&self, subject: Subject) -> Vec<Figure> {
        medians(&self.rounds(subject).iter().map(|measured| measured.open.clone()).collect::<Vec<_>>())
    }

    pub fn full(&self, subject: Subject) -> Vec<Figure> {
        medians(&self.rounds(subject).iter().map(|measured| measured.full.clone()).collect::<Vec<_>>())
    }

    pub fn notes(&self) -> Vec<String> {
        let mut notes = super::warnings(self.in_memory);
        let measured = self.measured.values().flatten().flat_map(|measured| measured.notes.iter().cloned());
        for note in measured.take(NOTES_MAX) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }

    pub fn outcomes(&self) -> Vec<Outcome> {
        let measured =
            if self.plan.per_second.is_some() { self.open(Subject::Hub) } else { self.full(Subject::Hub) };
        let below = |name: &'static str, figure: &str, limit: f64| {
            let found = value(&measured, figure);
            let ok = found.is_some_and(|found| found < limit);
            Outcome {
                name,
                ok,
                found: found.map_or("not measured".to_owned(), |found| shown(Unit::Ms, found)),
            }
        };
        let mut outcomes = vec![below("acknowledge p95 < 200 ms", "acknowledge p95", ACKNOWLEDGE_P95_MS)];
        if self.plan.delivers() {
            outcomes.push(below("sync p95 < 30 s", "end to end p95", SYNC_P95_MS));
        }
        let found = self.found(Subject::Hub);
        outcomes.push(Outcome {
            name: "drop rate zero",
            ok: found.lost == 0 && found.acknowledged > 0,
            found: format!("{} of {} lost", found.lost, found.acknowledged),
        });
        outcomes
    }

    pub fn others(&self) -> Vec<Subject> {
        self.plan.subjects().iter().rev().copied().filter(|subject| *subject != Subject::Hub).collect()
    }

    /// For programs: medians, ratios hub ÷ floor, and each round.
    pub fn json(&self) -> Value {
        let mut of_each = Map::new();
        for subject in self.plan.subjects() {
            let rounds: Vec<Value> = self
                .rounds(*subject)
                .iter()
                .map(
                    |one| json!({ "open": object(&one.open), "full": object(&one.full), "found": one.found }),
                )
                .collect();
            let whole = json!({
                "open": object(&self.open(*subject)),
                "full": object(&self.full(*subject)),
                "found": self.found(*subject),
                "rounds": rounds,
            });
            of_each.insert(subject.name().to_owned(), whole);
        }
        let (hub, floor) = (Subject::Hub, Subject::Floor);
        let outcomes = self.outcomes();
        let outcome = |one: &Outcome| json!({ "name": one.name, "ok": one.ok, "found": one.found });
        json!({
            "bench": if self.plan.delivers() { "deliver" } else { "ingest" },
            "settings": headline(&self.plan),
            "store": STORE,
            "folder": self.folder,
            "medians": of_each,
            "ratios_to_floor": {
                "open": ratios(&self.open(hub), &self.open(floor)),
                "full": ratios(&self.full(hub), &self.full(floor)),
            },
            "acknowledge_p99_dropping_to_hub": self.retention().map(rounded),
            "outcomes": outcomes.iter().map(outcome).collect::<Vec<_>>(),
            "whole": self.whole(),
            "notes": self.notes(),
        })
    }
}

/// What was measured and how, in a line.
pub fn headline(plan: &Plan) -> String {
    let rounds =
        if plan.rounds == 1 { "1 round".to_owned() } else { format!("medians of {} rounds", plan.rounds) };
    let what = match plan.goal {
        Goal::Ingest { routes, matching } => {
            let matching =
                if matching { "whose deliveries are written" } else { "whose condition does not hold" };
            let routes = if routes == 1 { "1 route".to_owned() } else { format!("{routes} routes") };
            let aged = plan.aged.map(|events| format!(", beside retention of {events} old events"));
            format!("bench ingest: {routes} {matching}{}", aged.unwrap_or_default())
        }
        Goal::Deliver { batch, fan_out, signed, map } => {
            let map = if map == MapKind::Vrl { "a VRL map" } else { "no map" };
            let signed = if signed { ", signed" } else { "" };
            format!("bench deliver: {map}, batches of {batch}, 1 : {fan_out}{signed}")
        }
    };
    let sent = match plan.per_request {
        1 => String::new(),
        n => format!(", sent in requests of {n} at full speed"),
    };
    format!("{what}{sent}, {} connections, {rounds}", plan.connections)
}

/// `acknowledge p99.9` in milliseconds is `acknowledge_p99.9_ms`.
pub fn key(figure: &Figure) -> String {
    let unit = match figure.unit {
        Unit::Ms => "_ms",
        Unit::Micros => "_us",
        Unit::PerSecond => "",
    };
    bare_key(figure) + unit
}

fn bare_key(figure: &Figure) -> String {
    figure.name.replace("/s", "_per_second").replace(", ", "_").replace(' ', "_").to_lowercase()
}

fn object(figures: &[Figure]) -> Value {
    figures.iter().map(|figure| (key(figure), json!(rounded(figure.value)))).collect::<Map<_, _>>().into()
}

fn ratios(hub: &[Figure], floor: &[Figure]) -> Value {
    let of = |figure: &Figure| {
        let floor = value(floor, &figure.name).filter(|floor| *floor > 0.0)?;
        Some((bare_key(figure), json!(rounded(figure.value / floor))))
    };
    hub.iter().filter_map(of).collect::<Map<_, _>>().into()
}

/// To three digits after the point.
pub fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lost: u64) -> Report {
        let mut report = Report::new(Plan::default(), "/somewhere".to_owned(), false);
        for (subject, p95) in [(Subject::Floor, 2.0), (Subject::Hub, 4.0)] {
            let figures = vec![Figure::new("acknowledge p95", Unit::Ms, p95)];
            let found = Found { sent: 10, acknowledged: 10, lost, ..Found::default() };
            report.add(subject, Measured { open: figures.clone(), full: figures, found, notes: Vec::new() });
        }
        report
    }

    #[test]
    fn a_loss_fails() {
        assert!(report(0).whole());
        assert!(report(0).table().contains("ok    drop rate zero: 0 of 10 lost"), "{}", report(0).table());
        assert!(!report(1).whole());
        assert!(report(1).table().contains("FAIL  drop rate zero: 1 of 10 lost"), "{}", report(1).table());
        let empty = Report::new(Plan::default(), String::new(), false);
        assert!(!empty.whole(), "a bench that acknowledged nothing is no success");
    }

    #[test]
    fn retention_is_a_ratio_to_the_hub_without_it_and_loses_nothing() {
        let mut report = report(0);
        report.plan.aged = Some(10);
        assert!(!report.whole(), "nothing was measured beside retention");
        let figures = |p99| vec![Figure::new("acknowledge p99", Unit::Ms, p99)];
        let found = Found { sent: 10, acknowledged: 10, ..Found::default() };
        for (subject, p99) in [(Subject::Hub, 4.0), (Subject::Dropping, 5.0)] {
            report.measured.remove(subject.name());
            report.add(subject, Measured { open: figures(p99), full: vec![], found, notes: Vec::new() });
        }
        assert!(report.whole());
        assert_eq!(report.json()["acknowledge_p99_dropping_to_hub"], 1.25);
        assert!(
            report.table().contains("acknowledge p99 beside retention ÷ without: 1.25"),
            "{}",
            report.table()
        );
        let lost = Found { lost: 1, ..found };
        report.add(Subject::Dropping, Measured { found: lost, ..Measured::default() });
        assert!(!report.whole());
    }

    #[test]
    fn ratios_are_to_the_floor_of_the_run() {
        assert!(report(0).table().contains("4.00 ms     2.00 ms     2.00"), "{}", report(0).table());
        let json = report(0).json();
        assert_eq!(json["ratios_to_floor"]["open"]["acknowledge_p95"], 2.0);
        assert_eq!(json["medians"]["hub"]["full"]["acknowledge_p95_ms"], 4.0);
        assert_eq!(json["outcomes"][0]["ok"], true);
    }
}

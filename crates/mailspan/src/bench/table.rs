//! The report as a table.

use std::fmt::Write;

use super::Subject;
use super::figures::{Figure, Unit, value};
use super::report::{Report, STORE, headline};

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text =
            format!("{}\nstore: {STORE}, hub and floor alike, in {}\n", headline(&self.plan), self.folder);
        let others = self.others();
        let mut head = format!("\n{:34}{:>12}{:>12}{:>9}", "", "hub", "floor", "÷ floor");
        if others.contains(&Subject::Receiver) {
            let _ = write!(head, "{:>12}{:>12}", "receiver", "÷ receiver");
        }
        if others.contains(&Subject::Dropping) {
            let _ = write!(head, "{:>12}{:>12}", "dropping", "÷ hub");
        }
        text += &head;
        text.push('\n');
        if let Some(rate) = self.plan.per_second {
            let title = format!(
                "open loop, {rate}/s for {} s, from the instant each should be sent",
                seconds(self.plan.open_ms)
            );
            self.block(&mut text, &title, |report, subject| report.open(subject));
        }
        if self.plan.full_ms > 0 {
            let title = format!("full speed for {} s", seconds(self.plan.full_ms));
            self.block(&mut text, &title, |report, subject| report.full(subject));
        }
        self.looked_for(&mut text);
        for outcome in self.outcomes() {
            let _ = writeln!(
                text,
                "{:4}  {}: {}",
                if outcome.ok { "ok" } else { "FAIL" },
                outcome.name,
                outcome.found
            );
        }
        if let Some(ratio) = self.retention() {
            let _ = writeln!(text, "acknowledge p99 beside retention ÷ without: {ratio:.2}");
        }
        for note in self.notes() {
            let _ = writeln!(text, "note: {note}");
        }
        text
    }

    fn block(&self, text: &mut String, title: &str, of: impl Fn(&Report, Subject) -> Vec<Figure>) {
        let _ = writeln!(text, "{title}");
        let others = self.others().into_iter().map(|subject| (subject, of(self, subject)));
        let others: Vec<(Subject, Vec<Figure>)> = others.collect();
        for figure in of(self, Subject::Hub) {
            let _ = write!(text, "  {:32}{:>12}", figure.name, shown(figure.unit, figure.value));
            for (place, (subject, other)) in others.iter().enumerate() {
                let width = if place == 0 { 9 } else { 12 };
                match value(other, &figure.name) {
                    Some(of) => {
                        let ratio = match subject {
                            Subject::Dropping => ratio(of, figure.value),
                            _ => ratio(figure.value, of),
                        };
                        let _ = write!(text, "{:>12}{ratio:>width$}", shown(figure.unit, of));
                    }
                    None => {
                        let _ = write!(text, "{:>12}{:>width$}", "–", "–");
                    }
                }
            }
            text.push('\n');
        }
        text.push('\n');
    }

    fn looked_for(&self, text: &mut String) {
        let where_to = if self.plan.delivers() { "at the receiver" } else { "in the journal" };
        let _ = writeln!(text, "every acknowledged event looked for {where_to}, all rounds");
        let (hub, floor) = (self.found(Subject::Hub), self.found(Subject::Floor));
        let mut hub = hub;
        hub.add(&self.found(Subject::Dropping));
        let mut line = |name: &str, hub: u64, floor: u64| {
            let _ = writeln!(text, "  {name:32}{hub:>12}{floor:>12}");
        };
        line("sent", hub.sent, floor.sent);
        line("acknowledged", hub.acknowledged, floor.acknowledged);
        line("answered otherwise or not", hub.refused, floor.refused);
        line("lost", hub.lost, floor.lost);
        line("duplicated", hub.duplicated, floor.duplicated);
        line("out of order per person", hub.out_of_order, floor.out_of_order);
        text.push('\n');
    }
}

/// A figure with its unit.
pub fn shown(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Ms if value >= 100.0 => format!("{value:.0} ms"),
        Unit::Ms => format!("{value:.2} ms"),
        Unit::PerSecond => format!("{value:.0}"),
        Unit::Micros => format!("{value:.0} µs"),
    }
}

fn ratio(hub: f64, floor: f64) -> String {
    if floor > 0.0 { format!("{:.2}", hub / floor) } else { "–".to_owned() }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

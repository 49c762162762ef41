//! What was measured, beside the floor and the aims.

use serde_json::{Map, Value, json};

use super::tally::Found;
use super::{ContactsPlan, Figure, IMPORT, LOAD, UPSERT, pages, value};
use crate::bench::report::{key, rounded};
use crate::bench::table::shown;

/// Aims: a share of the floor, upserts a second, a page in milliseconds, and a page among all to one among few.
const LOAD_MIN: f64 = 0.5;
const UPSERTS_MIN: f64 = 5_000.0;
const PAGE_MS_MAX: f64 = 2.0;
const RATIO_MAX: f64 = 1.2;

pub struct ContactsReport {
    pub plan: ContactsPlan,
    pub ours: Vec<Figure>,
    pub theirs: Vec<Figure>,
    pub found: Found,
    pub notes: Vec<String>,
}

/// One aim, what was found, and whether it is met.
struct Aim {
    name: String,
    found: f64,
    ok: bool,
}

impl ContactsReport {
    /// False where a contact is not as it was written.
    pub fn whole(&self) -> bool {
        let Found { written, refused, lost, doubled, different, .. } = self.found;
        written == self.plan.contacts && refused + lost + doubled + different == 0
    }

    fn headline(&self) -> String {
        let ContactsPlan { contacts, connections, changes, pages, rounds, .. } = &self.plan;
        format!(
            "bench contacts: {contacts} contacts, bulk in requests of 1000, {changes} changes at a time, upserts over \
             {connections} connections, {pages} pages of 500 each, medians of {rounds} rounds in turns"
        )
    }

    fn ratio(&self, name: &str) -> Option<f64> {
        let floor = value(&self.theirs, name).filter(|floor| *floor > 0.0)?;
        Some(value(&self.ours, name)? / floor)
    }

    /// A page among all to one among few.
    fn growth(&self, kind: &str) -> Option<f64> {
        let of = |among: &str| value(&self.ours, &format!("{kind} among {among} p50"));
        Some(of("all")? / of("few").filter(|few| *few > 0.0)?)
    }

    fn aims(&self) -> Vec<Aim> {
        let mut aims = vec![];
        let mut add = |name: String, found: Option<f64>, ok: fn(f64) -> bool| {
            aims.extend(found.map(|found| Aim { name, found, ok: ok(found) }));
        };
        for name in [LOAD, IMPORT] {
            add(format!("{name} ≥ 0.5 of the floor"), self.ratio(name), |found| found >= LOAD_MIN);
        }
        add(format!("{UPSERT} ≥ 5000"), value(&self.ours, UPSERT), |found| found >= UPSERTS_MIN);
        for kind in [pages::CURSOR, pages::SINCE] {
            let p50 = value(&self.ours, &format!("{kind} among all p50"));
            add(format!("{kind} p50 ≤ 2 ms"), p50, |found| found <= PAGE_MS_MAX);
            add(format!("{kind}, all ÷ few ≤ 1.2"), self.growth(kind), |found| found <= RATIO_MAX);
        }
        aims
    }

    /// For people.
    pub fn table(&self) -> String {
        let head = format!("  {:42}{:>12}{:>12}{:>9}", "", "hub", "floor", "÷ floor");
        let mut text = format!("{}\nstore: {}\n\n{head}\n", self.headline(), self.plan.on.name());
        for figure in &self.ours {
            let floor = value(&self.theirs, &figure.name);
            let beside = floor.map_or("–".to_owned(), |floor| shown(figure.unit, floor));
            let ratio = self.ratio(&figure.name).map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
            let own = shown(figure.unit, figure.value);
            text += &format!("  {:42}{own:>12}{beside:>12}{ratio:>9}\n", figure.name);
        }
        text += "\naims\n";
        for Aim { name, found, ok } in self.aims() {
            text += &format!("  {:48}{found:>12.2}  {}\n", name, if ok { "ok" } else { "short" });
        }
        let Found { written, refused, read_back, lost, doubled, different } = self.found;
        text += &format!(
            "\nevery contact read back: {written} written, {refused} refused, {read_back} read, {lost} lost, {doubled} \
             doubled, {different} different\n{}\n",
            if self.whole() {
                "ok    everything is there"
            } else {
                "FAIL  something is not as it was written"
            }
        );
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
        let aim = |aim: Aim| json!({ "name": aim.name, "found": rounded(aim.found), "ok": aim.ok });
        json!({
            "bench": "contacts", "settings": self.headline(), "store": self.plan.on.name(),
            "figures": of(&self.ours), "floors": of(&self.theirs), "ratios": ratios,
            "aims": self.aims().into_iter().map(aim).collect::<Vec<_>>(),
            "found": self.found, "whole": self.whole(), "notes": self.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Unit;
    use crate::bench::place::On;

    fn report(found: Found) -> ContactsReport {
        let (contacts, connections, changes, pages, rounds) = (10, 1, 1, 1, 1);
        let plan =
            ContactsPlan { contacts, connections, changes, pages, rounds, on: On::Sqlite, folder: None };
        let speed = |per_second| vec![Figure::new(LOAD, Unit::PerSecond, per_second)];
        let mut ours = speed(600.0);
        for (name, ms) in [("page by cursor among few p50", 1.0), ("page by cursor among all p50", 1.5)] {
            ours.push(Figure::new(name, Unit::Ms, ms));
        }
        ContactsReport { plan, ours, theirs: speed(1_000.0), found, notes: vec![] }
    }

    #[test]
    fn ratios_are_to_the_floor_and_a_loss_fails() {
        let good = Found { written: 10, read_back: 10, ..Found::default() };
        let report_of_good = report(good);
        assert!(report_of_good.whole());
        assert_eq!(report_of_good.json()["ratios"]["first_load_rows_per_second"], 0.6);
        let text = report_of_good.table();
        assert!(
            text.contains("0.60  ok") && text.contains("all ÷ few ≤ 1.2") && text.contains("1.50  short"),
            "{text}"
        );
        for bad in [
            Found { lost: 1, ..good },
            Found { doubled: 1, ..good },
            Found { different: 1, ..good },
            Found { refused: 1, ..good },
            Found { written: 9, ..good },
        ] {
            assert!(!report(bad).whole() && report(bad).table().contains("FAIL"), "{bad:?}");
        }
    }
}

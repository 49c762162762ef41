//! What must be true when nothing happens any more.

use std::collections::HashMap;

use mailspan_core::{Class, DeliveryId, State};
use mailspan_store::{DeliveryFilter, DeliveryRow};

use super::world::{Known, World, address};

type Checked = Result<(), String>;

impl World {
    pub(super) async fn check(&self) -> Checked {
        let audit = self.store.audit().await.map_err(|trouble| trouble.to_string())?;
        if !audit.adds_up || audit.accepted != self.accepted.len() as u64 {
            return Err(format!("the audit does not add up: {audit:?}"));
        }
        if audit.pending + audit.waiting > 0 {
            return Err(format!("forgotten: {} pending, {} waiting", audit.pending, audit.waiting));
        }
        if audit.dead > 0 {
            return Err(format!("{} dead letters where every failure passes", audit.dead));
        }
        let filter = DeliveryFilter { limit: 1_000, ..DeliveryFilter::default() };
        let rows = self.store.deliveries(filter).await.map_err(|trouble| trouble.to_string())?;
        let crm = self.of("crm", &rows);
        self.hook_has_what_is_hot(&self.of("hook", &rows))?;
        self.superseded_are_skipped(&crm)?;
        self.crm_has_each_once(&crm)
    }

    fn of<'a>(&self, name: &str, rows: &'a [DeliveryRow]) -> HashMap<u128, &'a DeliveryRow> {
        let of = rows.iter().filter(|row| row.destination.as_str() == name);
        of.map(|row| (row.event_id.0, row)).collect()
    }

    /// The route's condition is kept, and each person's events of a class come in order at their first time.
    fn hook_has_what_is_hot(&self, rows: &HashMap<u128, &DeliveryRow>) -> Checked {
        let mut first: HashMap<(usize, Class), usize> = HashMap::new();
        let mut told = vec![false; self.accepted.len()];
        for (_, body) in &self.hook.taken {
            let is_this = |known: &Known| body.contains(&known.event.id.to_string());
            let Some(at) = self.accepted.iter().position(is_this) else {
                return Err(format!("the hook got what nobody sent: {body}"));
            };
            let known = &self.accepted[at];
            if !std::mem::replace(&mut told[at], true) {
                let last = first.entry((known.who, known.event.event_type.class())).or_default();
                if *last > at {
                    return Err(format!("lane: event {at} came to the hook after {last}"));
                }
                *last = at;
            }
        }
        for (known, told) in self.accepted.iter().zip(told) {
            let wanted = known.hot && known.event.event_type.as_str().starts_with("email.");
            let is_delivered = rows.get(&known.event.id.0).map(|row| row.state) == Some(State::Delivered);
            if wanted != told || wanted != is_delivered {
                return Err(format!("condition: {} is wanted: {wanted}, told: {told}", known.event.id));
            }
        }
        Ok(())
    }

    /// An opt-in that happened before an opt-out that was known when it came is not sent.
    fn superseded_are_skipped(&self, rows: &HashMap<u128, &DeliveryRow>) -> Checked {
        let is = |known: &Known, word: &str| known.event.event_type.as_str() == word;
        for (at, known) in self.accepted.iter().enumerate().filter(|(_, k)| is(k, "contact.subscribed")) {
            let newer = |out: &&Known| {
                out.who == known.who && is(out, "contact.unsubscribed") && out.event.time > known.event.time
            };
            let Some(out) = self.accepted[..at].iter().find(newer) else { continue };
            let row =
                rows.get(&known.event.id.0).ok_or_else(|| format!("{} has no delivery", known.event.id))?;
            if row.reason.as_ref().is_none_or(|reason| reason.code != "superseded") {
                let (id, state) = (known.event.id, row.state.name());
                return Err(format!("opt-in {id} is {state}, and {} opted out later", out.event.id));
            }
        }
        Ok(())
    }

    /// A note for each open and click that was delivered or carried, and not two of one; absolute counts.
    fn crm_has_each_once(&self, rows: &HashMap<u128, &DeliveryRow>) -> Checked {
        let of = |who: usize, word: &str| {
            let mine = move |known: &&Known| known.who == who && known.event.event_type.as_str() == word;
            self.accepted.iter().filter(mine).count()
        };
        let people = self.accepted.iter().map(|known| known.who).max().map_or(0, |last| last + 1);
        let mut notes = 0;
        for who in 0..people {
            let (opens, clicks) = (of(who, "email.opened"), of(who, "email.clicked"));
            notes += opens + clicks;
            let contact = self.crm.contact(&address(who)).ok_or("a contact has gone")?;
            for (name, count) in [("mt_open_count", opens), ("mt_click_count", clicks)] {
                let shown = contact.properties.get(name).map_or("0", String::as_str);
                if shown != count.to_string() {
                    return Err(format!("{name} of {who} is {shown}, there were {count}"));
                }
            }
        }
        let kept = self.crm.notes();
        if kept.len() != notes || !self.crm.notes_that_hang_on_nobody().is_empty() {
            return Err(format!("{} notes for {notes} opens and clicks", kept.len()));
        }
        let ended =
            |row: &&&DeliveryRow| matches!(row.state, State::Delivered | State::Skipped | State::Coalesced);
        let open: Vec<DeliveryId> = rows.values().filter(|row| !ended(row)).map(|row| row.id).collect();
        if open.is_empty() { Ok(()) } else { Err(format!("not ended: {open:?}")) }
    }
}

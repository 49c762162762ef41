//! Updates that one request carries for others, checked from outside.

use std::collections::BTreeMap;

use mailspan_core::{Class, DestinationId, Fields, Millis, Operation, State};
use mailspan_engine::Limits;

use crate::receiver::Sent;
use crate::store::{Row, Store, lane};

type Checked = Result<(), String>;

#[derive(Default)]
pub struct Loads {
    /// Key of the request → its rows: the head of the lane first, the carrier last.
    known: BTreeMap<String, Vec<i64>>,
    /// What the receiver knows of a person by updates alone: field → the row that said it.
    fields: BTreeMap<(DestinationId, Option<usize>, String), i64>,
}

/// The key of the carrier, without the mark of what it carries.
pub fn own(key: &str) -> &str {
    match key.rsplit_once('-') {
        Some((own, mark)) if mark.len() == 17 && mark.starts_with('c') => own,
        _ => key,
    }
}

impl Loads {
    /// All that stands in its lane up to the carrier goes, says what it would have said one after another,
    /// and is an update.
    pub fn sending(
        &mut self,
        carrier: &Row,
        item: &Sent,
        limits: &Limits,
        store: &Store,
        now: Millis,
    ) -> Checked {
        if !limits.coalesces || carrier.class != Class::Profile {
            return Err(format!("carried: {} carries others, which nobody asked for", carrier.id));
        }
        let pending = store.lanes.get(&lane(carrier)).into_iter().flatten().map(|id| &store.rows[id]);
        let Some(head) = pending.clone().find(|row| row.due.is_some_and(|due| due <= now)) else {
            return Err(format!("carried: {} is sent and its lane has no head that is due", carrier.id));
        };
        // What was lowered into the lane since it was read has progress, and its turn later.
        let between = |row: &&Row| row.id >= head.id && row.id <= carrier.id && row.progress.is_empty();
        let rows: Vec<&Row> = pending.filter(|row| row.id == head.id || between(row)).collect();
        if rows.last().is_none_or(|last| last.id != carrier.id || last.id == head.id) {
            return Err(format!("carried: {} is sent and does not wait behind {}", carrier.id, head.id));
        }
        let mut together = Fields::new();
        for row in &rows {
            let fields = update(row).ok_or_else(|| format!("carried: {} is no update", row.id))?;
            together.extend(fields.clone());
        }
        let sent: Operation = serde_json::from_value(item.op.clone()).map_err(|error| error.to_string())?;
        if sent != (Operation::SetFields { fields: together, record: None }) {
            return Err(format!("carried: {} says {sent:?}, other than its rows", carrier.id));
        }
        let rows: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let known = self.known.entry(item.key.clone()).or_insert_with(|| rows.clone());
        if *known != rows {
            return Err(format!("carried: one key means {known:?} and {rows:?}"));
        }
        Ok(())
    }

    /// The row whose time a load has.
    pub fn head(&self, key: &str) -> Option<i64> {
        self.known.get(key)?.first().copied()
    }

    /// The rows of a load; nothing for what goes alone.
    pub fn rows(&self, key: &str) -> Option<Vec<i64>> {
        self.known.get(key).cloned()
    }

    /// The receiver acted on it.
    pub fn heard(&mut self, row: &Row, item: &Sent) {
        if update(row).is_none() {
            return;
        }
        for (name, value) in fields(&item.op) {
            self.fields.insert((row.destination, row.person, name), value);
        }
    }

    /// What was carried has a carrier that was done, or skipped; and no update that counts as done is missing
    /// at the receiver.
    pub fn ended(&self, store: &Store) -> Checked {
        for row in store.rows.values() {
            let carrier = row.carried_by.map(|id| &store.rows[&id]);
            let done = match (row.state, carrier) {
                (State::Coalesced, None) => return Err(format!("carried: nobody carried {}", row.id)),
                (State::Coalesced, Some(by)) => {
                    let ended = matches!(by.state, State::Delivered | State::Skipped);
                    if !ended || by.id <= row.id || lane(by) != lane(row) {
                        return Err(format!("carried: {} by {}, {}", row.id, by.id, by.state.name()));
                    }
                    by.state == State::Delivered
                }
                (state, _) => state == State::Delivered,
            };
            let Some(fields) = update(row).filter(|_| done && row.person.is_some()) else { continue };
            for name in fields.keys() {
                let known = self.fields.get(&(row.destination, row.person, name.clone())).copied();
                if known.is_none_or(|known| known < row.id) {
                    return Err(format!("carried: field {name} of {} is {known:?} at the receiver", row.id));
                }
            }
        }
        Ok(())
    }
}

fn fields(op: &serde_json::Value) -> Vec<(String, i64)> {
    let all = op["fields"].as_object();
    all.into_iter().flatten().map(|(name, value)| (name.clone(), value.as_i64().unwrap_or(0))).collect()
}

/// The fields of a row that is an update and nothing else.
fn update(row: &Row) -> Option<&Fields> {
    match row.operations.as_ref().ok()?.as_slice() {
        [Operation::SetFields { fields, record: None }] => Some(fields),
        _ => None,
    }
}

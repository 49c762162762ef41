//! Running sums by source and by destination: gathered in memory, written once a group.

use std::collections::HashMap;

use mailspan_core::State;
use rusqlite::params;

use super::base::{Base, Fault};
use super::held::Held;

/// What is counted; the numbers are stored. Below 10: deliveries of a destination by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Delivery(State),
    Accepted,
    Duplicate,
    Refused,
    Quarantined,
    DroppedEvent,
    /// Of a destination, with the state that the delivery ended in.
    DroppedDelivery,
}

impl Place {
    pub(crate) fn number(self) -> i64 {
        match self {
            Place::Delivery(state) => state as i64,
            Place::Accepted => 10,
            Place::Duplicate => 11,
            Place::Refused => 12,
            Place::Quarantined => 13,
            Place::DroppedEvent => 14,
            Place::DroppedDelivery => 15,
        }
    }
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    raised: HashMap<(i64, i64), i64>,
}

impl Counts {
    pub(crate) fn raise(&mut self, about: i64, place: Place, by: i64) {
        if by != 0 {
            *self.raised.entry((about, place.number())).or_default() += by;
        }
    }

    pub(crate) fn moved(&mut self, destination: i64, from: State, to: State) {
        if from != to {
            self.raise(destination, Place::Delivery(from), -1);
            self.raise(destination, Place::Delivery(to), 1);
        }
    }

    /// What was counted, to be written: about, place, by how much.
    pub(crate) fn take(&mut self) -> Vec<(i64, i64, i64)> {
        let raised = std::mem::take(&mut self.raised).into_iter();
        raised.filter(|(_, n)| *n != 0).map(|((about, place), n)| (about, place, n)).collect()
    }

    /// What was counted since the last commit.
    pub(crate) fn waiting(&self, about: i64, place: Place) -> i64 {
        self.raised.get(&(about, place.number())).copied().unwrap_or(0)
    }

    /// Part of each transaction, just before its commit.
    pub(crate) fn write(&mut self, base: &Held) -> Result<(), Fault> {
        if self.raised.is_empty() {
            return Ok(());
        }
        let mut statement = base.sql(
            "INSERT INTO counts (about, place, n) VALUES (?1, ?2, ?3)
             ON CONFLICT (about, place) DO UPDATE SET n = n + excluded.n",
        )?;
        for ((about, place), n) in self.raised.iter().filter(|(_, n)| **n != 0) {
            statement.execute(params![about, place, n])?;
        }
        self.raised.clear();
        Ok(())
    }
}

/// The written sum of one place over everything it is counted for.
pub(crate) fn total(base: &Base, place: Place) -> Result<i64, Fault> {
    let mut statement = base.sql("SELECT coalesce(sum(n), 0) FROM counts WHERE place = ?1")?;
    Ok(statement.query_row([place.number()], |row| row.get(0))?)
}

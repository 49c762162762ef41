//! Asking sources for what they did not tell: rounds that come again, each page kept with its cursor.

pub mod ask;
pub mod compare;
pub mod follow;
pub mod next;
pub mod reconcile;
pub mod resync;
pub mod turn;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The rounds that this process is at: none of them is begun a second time.
#[derive(Default)]
pub struct Rounds(Mutex<HashSet<i64>>);

/// While it lives, the round is ours.
pub struct Ours<'a> {
    rounds: &'a Rounds,
    about: i64,
}

impl Rounds {
    /// Nothing where this process is at it already.
    pub fn begin(&self, about: i64) -> Option<Ours<'_>> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(about);
        // Made only where it is ours: its end takes the mark away.
        is_new.then(|| Ours { rounds: self, about })
    }

    pub fn under_way(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Ours<'_> {
    fn drop(&mut self) {
        self.rounds.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.about);
    }
}

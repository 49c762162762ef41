//! Statements of one transaction. To look one up in the connection's cache costs as much as to run a small one, twice:
//! its text is hashed, compared and copied, and again when it is given back. Here it is found by the place of its
//! text, and stays for all writes of the group.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use rusqlite::{CachedStatement, Statement};

use super::base::Base;

/// A connection with the statements that were asked for since the transaction began. They go back to the
/// connection's cache with it.
pub(crate) struct Held<'b> {
    base: &'b Base,
    slots: RefCell<Vec<Slot<'b>>>,
}

struct Slot<'b> {
    text: &'static str,
    /// Nothing while it is lent.
    statement: Option<CachedStatement<'b>>,
}

/// A statement, given back when this is dropped.
pub(crate) struct Lent<'h, 'b> {
    held: &'h Held<'b>,
    place: usize,
    statement: Option<CachedStatement<'b>>,
}

impl<'b> Held<'b> {
    pub(crate) fn new(base: &'b Base) -> Held<'b> {
        Held { base, slots: RefCell::default() }
    }

    /// As [`Base::sql`], for a text that is part of the program. One that is lent already is prepared once more.
    pub(crate) fn sql(&self, text: &'static str) -> rusqlite::Result<Lent<'_, 'b>> {
        let mut slots = self.slots.borrow_mut();
        let known = slots.iter().position(|slot| std::ptr::eq(slot.text, text));
        let place = known.unwrap_or(slots.len());
        let kept = match slots.get_mut(place) {
            Some(slot) => slot.statement.take(),
            None => None,
        };
        let statement = match kept {
            Some(statement) => statement,
            None => self.base.sql(text)?,
        };
        if known.is_none() {
            slots.push(Slot { text, statement: None });
        }
        Ok(Lent { held: self, place, statement: Some(statement) })
    }
}

impl Deref for Held<'_> {
    type Target = Base;

    fn deref(&self) -> &Base {
        self.base
    }
}

impl<'b> Deref for Lent<'_, 'b> {
    type Target = Statement<'b>;

    fn deref(&self) -> &Statement<'b> {
        self.statement.as_deref().expect("it is given back only when this is dropped")
    }
}

impl<'b> DerefMut for Lent<'_, 'b> {
    fn deref_mut(&mut self) -> &mut Statement<'b> {
        self.statement.as_deref_mut().expect("it is given back only when this is dropped")
    }
}

impl Drop for Lent<'_, '_> {
    fn drop(&mut self) {
        let mut slots = self.held.slots.borrow_mut();
        if let Some(slot) = slots.get_mut(self.place) {
            // Lent twice: the second goes to the connection's cache.
            slot.statement = slot.statement.take().or(self.statement.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::Journal;

    const ONE: &str = "SELECT ?1 + 1";
    const OTHER: &str = "SELECT ?1 + 2";

    fn ask(held: &Held, text: &'static str, n: i64) -> i64 {
        held.sql(text).unwrap().query_row([n], |row| row.get(0)).unwrap()
    }

    #[test]
    fn each_text_has_a_statement_of_its_own_also_where_it_is_lent() {
        let journal = Journal::in_memory(1, 100).unwrap();
        let held = Held::new(&journal.base);
        for n in 0..3 {
            assert_eq!((ask(&held, ONE, n), ask(&held, OTHER, n)), (n + 1, n + 2));
        }
        assert_eq!(held.slots.borrow().len(), 2);
        let mut lent = held.sql(ONE).unwrap();
        assert_eq!(ask(&held, ONE, 5), 6);
        assert_eq!(lent.query_row([6], |row| row.get::<_, i64>(0)).unwrap(), 7);
        drop(lent);
        assert_eq!(ask(&held, ONE, 7), 8);
        assert_eq!(held.slots.borrow().len(), 2);
    }

    #[test]
    fn a_text_that_is_no_statement_leaves_nothing() {
        let journal = Journal::in_memory(1, 100).unwrap();
        let held = Held::new(&journal.base);
        assert!(held.sql("SELECT FROM").is_err());
        assert_eq!(held.slots.borrow().len(), 0);
        assert_eq!(ask(&held, ONE, 1), 2);
    }
}

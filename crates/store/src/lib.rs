//! The only crate that knows SQL: journal, deliveries, persons, consent, keys and leases.

mod rows;
mod write;

pub use rows::*;
pub use write::*;

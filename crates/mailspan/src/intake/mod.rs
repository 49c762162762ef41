//! Receiving: verify, parse, keep, answer.

pub mod door;
pub mod receive;
pub mod refusals;
pub mod system;

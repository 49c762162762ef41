//! VRL programs, conditions, and the built-in maps of CRMs and audiences. Pure: no I/O, no clock, no
//! randomness. The reference for those who write programs is `docs/MAPS.md`.

mod audience;
mod before;
mod condition;
mod contact;
mod crm;
mod error;
mod functions;
pub mod fuzzing;
mod growth;
mod guard;
pub mod mailingcore;
mod map;
mod meter;
mod parse;
mod program;
mod tokens;
mod value;

#[cfg(test)]
mod testing;

pub use audience::audience;
pub use crm::{CrmContext, crm};
pub use meter::{Memory, Meter};
pub use program::{PANICKED, Program};

/// What a program is for: decides its input and what it must return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Input: the event. Result: a boolean.
    Condition,
    /// Input: the event. Result: a list of operations (CRM kinds) or any JSON (kind `http`).
    Map,
    /// Input: `{ body, headers, query }`. Result: an event or an array of events.
    Parse,
}

/// Why a program does not compile, and where in its text (line and column from 1, in characters).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {text}")]
pub struct CompileError {
    pub line: usize,
    pub column: usize,
    pub text: String,
}

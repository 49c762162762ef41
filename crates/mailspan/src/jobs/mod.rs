//! Long work, done step by step beside live traffic.

pub mod replay;
pub mod retention;
pub mod run;

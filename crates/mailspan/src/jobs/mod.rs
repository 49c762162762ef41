//! Long work, done step by step beside live traffic.

pub mod retention;

//! Tests from outside. They read fixtures from files, and run on a thread with a small stack.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read fixtures and may fail loudly")]

mod audience;
mod crm;
mod programs;
mod soup;

//! The `mailspan` binary.

fn main() {}

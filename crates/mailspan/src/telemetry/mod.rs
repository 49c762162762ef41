//! What the program says of itself: logs and metrics.

pub mod log;
mod mask;
pub mod metrics;
pub mod quiet;

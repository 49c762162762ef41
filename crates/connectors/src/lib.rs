//! Connectors: one file or folder a vendor, all pure.

pub mod contract;
pub mod registry;

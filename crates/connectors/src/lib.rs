//! Connectors: one file or folder a vendor, all pure.

pub mod api;
pub mod contract;
pub mod fuzzing;
pub mod fuzzing_sinks;
pub mod hmac;
pub mod http;
pub mod hubspot;
mod left;
pub mod maileon;
pub mod mailingcore;
pub mod mailtarget;
mod names;
mod percent;
mod reading;
pub mod registry;
pub mod signature;
pub mod standard_webhooks;

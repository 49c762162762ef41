//! The hub's own API: one file a resource.

pub mod contacts;
pub mod correct;
pub mod deliveries;
pub mod destinations;
pub mod erasures;
pub mod events;
pub mod fields;
pub mod health;
pub mod imports;
pub mod jobs;
mod kept;
pub mod keys;
pub mod query;
pub mod records;
pub mod sources;
pub mod tenants;

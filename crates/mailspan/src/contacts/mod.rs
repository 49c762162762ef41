//! Contacts: what the API, the intake, imports and hosted pages write, and through which door.

pub mod confirm;
pub mod door;
pub mod endpoints;
pub mod fields;
pub mod import;
pub mod links;
pub mod names;
pub mod rules;
pub mod seal;
pub mod tenants;

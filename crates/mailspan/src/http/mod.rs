//! The HTTP surface.

pub mod auth;
pub mod body;
pub mod crowd;
pub mod doi;
pub mod events;
pub mod impatient;
pub mod intake;
pub mod limit;
pub mod maileon;
pub mod mailingcore;
pub mod own_tls;
pub mod pages;
pub mod path;
pub mod peer;
pub mod problem;
pub mod router;
pub mod server;
pub mod v1;
pub mod words;

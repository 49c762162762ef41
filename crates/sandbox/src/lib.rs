//! Fake vendors, shipped with the product: for `demo` and `sandbox`, for tests, and for users who
//! rehearse. They keep what they are told, behave as the vendors' published interfaces say, and
//! break on request ([`Faults`]), always in the same way for the same seed.
//!
//! Nothing here opens a socket, spawns or reads a clock: routers are served by the caller, webhooks
//! are posted by the caller's function, the time is the caller's [`Clock`].

mod faults;
mod gate;
pub mod hubspot;
pub mod maileon;
pub mod mailingcore;
pub mod mailtarget;
pub mod receiver;
mod wire;

use std::pin::Pin;
use std::sync::Arc;

use mailspan_core::Millis;

pub use faults::Faults;

/// The time as the caller tells it.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// Runs a future beside the caller: the product's only spawner is handed in.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

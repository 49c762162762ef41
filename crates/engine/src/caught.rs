//! Panics of connectors as values.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a connector's function; a panic is its text. Nothing of the engine is changed inside, so
/// nothing can be left half done.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without text".to_owned())
    })
}

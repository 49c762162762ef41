//! Logs go to stderr: text on a terminal, JSON where `MAILSPAN_LOG_FORMAT=json`; levels by `MAILSPAN_LOG`.

use tracing_subscriber::EnvFilter;

use super::mask::Masked;

/// Installs the subscriber; a second call does nothing.
pub fn install(default_level: &str) {
    let wanted = crate::runtime::env("MAILSPAN_LOG").unwrap_or_else(|| default_level.to_owned());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new(default_level));
    // A line that cannot be written is lost. Reported on stderr, as is usual, it would panic there: a full
    // disk below the log file would end whatever task had something to say.
    let builder = tracing_subscriber::fmt()
        .with_writer(|| Masked(std::io::stderr()))
        .with_env_filter(filter)
        .with_target(false)
        .log_internal_errors(false);
    let _ = match crate::runtime::env("MAILSPAN_LOG_FORMAT").as_deref() {
        Some("json") => builder.json().try_init(),
        _ => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
}

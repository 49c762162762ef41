//! Logs go to stderr: text on a terminal, JSON where `MAILSPAN_LOG_FORMAT=json`; levels by `MAILSPAN_LOG`.

use tracing_subscriber::EnvFilter;

/// Installs the subscriber; a second call does nothing.
pub fn install(default_level: &str) {
    let wanted = crate::runtime::env("MAILSPAN_LOG").unwrap_or_else(|| default_level.to_owned());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new(default_level));
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).with_target(false);
    let _ = match crate::runtime::env("MAILSPAN_LOG_FORMAT").as_deref() {
        Some("json") => builder.json().try_init(),
        _ => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
}

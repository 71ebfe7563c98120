//! What this program says of itself: log lines on standard error.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts to log; `filter` is in the syntax of `tracing` (`info`, `pyramid_writer=debug,warn`).
///
/// # Errors
///
/// The filter cannot be read.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

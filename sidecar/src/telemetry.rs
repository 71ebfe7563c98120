//! Logs: one line an event, as text or JSON, to standard error.

use tracing_subscriber::EnvFilter;

/// Flags of logging.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// What is logged, as in `info` or `pyramid_sidecar=debug,warn`.
    #[arg(long, env = "PYRAMID_LOG", default_value = "info")]
    log: String,

    /// One JSON object a line.
    #[arg(long, env = "PYRAMID_LOG_JSON")]
    log_json: bool,
}

/// Starts logging. A filter that cannot be read is replaced by `info`, and says so.
pub fn start(args: &Args) {
    let filter = EnvFilter::try_new(&args.log);
    let wrong = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if args.log_json {
        lines.json().init();
    } else {
        lines.init();
    }
    if let Some(wrong) = wrong {
        tracing::warn!("--log is not understood, logging info: {wrong}");
    }
}

//! Log lines on standard error: one for each event that is worth reading.
//!
//! As text for people, or as one JSON object per line with `timestamp`, `level`, `target`, `message`
//! and the event's own fields beside them. Spans are left out: what a line needs stands in it.

use std::backtrace::Backtrace;
use std::io;
use std::panic::PanicHookInfo;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, ParseError, filter_fn};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Flags of logging, the same in every program.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// What is logged: a level, or more finely `pyramid_writer=debug,warn`.
    #[arg(long, env = "PYRAMID_LOG", default_value = "info,openraft=warn", value_name = "FILTER")]
    pub log: String,

    /// How log lines look.
    #[arg(long, env = "PYRAMID_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Change the filter.
    #[error("--log {filter:?}: give a level such as info, or targets such as pyramid_writer=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The process logs already: start it once.
    #[error("this process logs already")]
    Twice,
}

/// Starts to log to standard error, and lets a panic end the process ([`abort_on_panic`]).
///
/// # Errors
///
/// [`Error`].
pub fn start(args: &Args) -> Result<(), Error> {
    let Args { log, log_format } = args;
    init(log, *log_format)?;
    abort_on_panic();
    Ok(())
}

/// Starts to log to standard error; `filter` is in the syntax of `tracing`.
///
/// # Errors
///
/// [`Error`].
pub fn init(filter: &str, format: LogFormat) -> Result<(), Error> {
    let lines = subscriber(filter, format, io::stderr)?;
    tracing::subscriber::set_global_default(lines).map_err(|_already| Error::Twice)
}

/// Libraries that log requests whole below `warn`, with signatures, tokens and signed URLs.
const TELL_REQUESTS: [&str; 9] = [
    "aws_config",
    "aws_runtime",
    "aws_sdk_s3",
    "aws_sigv4",
    "aws_smithy_http_client",
    "aws_smithy_runtime",
    "aws_smithy_runtime_api",
    "hyper",
    "hyper_util",
];

/// What [`init`] installs, with another place to write to. Tests read it there.
///
/// # Errors
///
/// [`Error::Filter`].
pub fn subscriber(
    filter: &str,
    format: LogFormat,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> Result<Box<dyn Subscriber + Send + Sync>, Error> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|source| Error::Filter { filter: filter.to_owned(), source })?;
    let lines = fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let filter = filter.and(filter_fn(is_told));
    Ok(Box::new(tracing_subscriber::registry().with(lines.with_filter(filter))))
}

/// Whether an event may be logged at all, whatever the filter says.
fn is_told(event: &Metadata<'_>) -> bool {
    let library = event.target().split("::").next().unwrap_or_default();
    *event.level() <= Level::WARN || !TELL_REQUESTS.contains(&library)
}

/// An error with all that it was made from, in one line.
#[must_use]
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// From now on a panic is logged, and ends no more than its task: for a program that catches panics
/// of requests and supervises all else.
pub fn tell_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if tracing::enabled!(Level::ERROR) {
            tell(panic);
        } else {
            print(panic);
        }
    }));
}

/// From now on a panic ends the process after it was logged: with a panic in one task the others
/// would limp on, and a restart is safe and fast.
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if tracing::enabled!(Level::ERROR) {
            tell(panic);
        } else {
            print(panic);
        }
        std::process::abort();
    }));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string);
    tracing::error!(location, backtrace = %Backtrace::capture(), "panicked: {message}");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn libraries_that_log_whole_requests_are_silent_below_warn() {
        for filter in ["trace", "warn,aws_sigv4=trace", "info,hyper::proto=trace"] {
            let lines = Lines::default();
            let writer = lines.clone();
            let subscriber = subscriber(filter, LogFormat::Text, move || writer.clone()).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                tracing::trace!(target: "aws_sigv4::http_request", "a signature");
                tracing::info!(target: "hyper::proto::h1", "a URL");
                tracing::warn!(target: "hyper", "a loss");
            });
            let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(!written.contains("a signature") && !written.contains("a URL"), "{written}");
            assert!(written.contains("a loss"), "{written}");
        }
    }

    /// What is written for one event at `info` and one at `debug`, both inside a span.
    fn written(filter: &str, format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(filter, format, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("outer", secret = "in the span").entered();
            tracing::info!(stream = 7, text = "a \"b\"\nc", "shipped");
            tracing::debug!("a step");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_its_fields_beside_time_level_and_target() {
        let text = written("info", LogFormat::Json);
        assert_eq!(text.lines().count(), 1);
        let mut line: serde_json::Value = serde_json::from_str(&text).unwrap();
        let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
        let expected = serde_json::json!({
            "level": "INFO",
            "target": module_path!(),
            "message": "shipped",
            "stream": 7,
            "text": "a \"b\"\nc",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_text_line_says_the_same() {
        let text = written("info", LogFormat::Text);
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in ["INFO", module_path!(), "shipped", "stream=7"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn the_filter_decides_what_is_written() {
        assert_eq!(written("debug", LogFormat::Json).lines().count(), 2);
        assert_eq!(written("warn", LogFormat::Json), "");
        let other = format!("warn,{}=debug", module_path!());
        assert_eq!(written(&other, LogFormat::Json).lines().count(), 2);
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = subscriber("pyramid=loud", LogFormat::Text, io::sink).err().unwrap();
        let expected = "--log \"pyramid=loud\": give a level such as info, or targets such as \
                        pyramid_writer=debug";
        assert_eq!(error.to_string(), expected);
    }
}

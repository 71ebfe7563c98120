//! Building blocks of metrics. Recording is one or two atomic operations: no lock, no allocation.
//!
//! A program makes its metrics once, registers them in a [`Registry`] with name, unit and help, and
//! keeps the cheap clones. What is only known by looking is looked at when somebody asks: a
//! [`Collector`] writes it through a [`Scrape`].
//!
//! The format of `/metrics` is `OpenMetrics` text: the unit is put behind a name, and `_total` behind
//! that of a counter.

mod certificate;
mod counters;
mod histogram;
mod label;
mod scrape;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::registry::{Registry, Unit};

pub use self::certificate::{Certificate, WatchCertificate, register_certificate};
pub use self::counters::{Counters, Gauges, Held};
pub use self::histogram::{Histogram, Histograms, LATENCY_BOUNDS_US};
pub use self::label::{Key, Label};
pub use self::scrape::{Collector, Scrape, register};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics, as text.
#[must_use]
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // A string takes everything; a metric that cannot be written is a mistake in the program, and
    // what was written before it is still worth reading.
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        tracing::error!("a metric cannot be written");
    }
    text
}

/// The names in a [`text`], in its order: what must be documented.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    let help = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
    help.filter_map(|line| line.split(' ').next())
}

#[cfg(test)]
mod tests;

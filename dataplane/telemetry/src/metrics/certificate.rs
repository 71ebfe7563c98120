//! The certificate of a program: the same metrics in each of them.

use std::fmt;
use std::sync::Arc;

use prometheus_client::registry::{Registry, Unit};

use super::scrape::{self, Collector, Scrape};

/// How a program's certificate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Its end. Unit: milliseconds since 1970 UTC.
    pub not_after_ms: u64,
    /// How often it was read anew.
    pub reloads: u64,
    /// How often that failed; the one before is then kept.
    pub reload_failures: u64,
}

/// Looks at the certificate that is used now; `None` without TLS.
pub type WatchCertificate = Arc<dyn Fn() -> Option<Certificate> + Send + Sync>;

/// Registers the metrics of a certificate.
pub fn register_certificate(registry: &mut Registry, watch: WatchCertificate) {
    scrape::register(registry, Watched(watch));
}

struct Watched(WatchCertificate);

impl Collector for Watched {
    fn collect(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        let certificate = (self.0)();
        let Certificate { not_after_ms, reloads, reload_failures } =
            certificate.unwrap_or_default();
        scrape.gauge_if(
            "certificate_not_after_timestamp",
            Some(Unit::Seconds),
            "When the certificate that is used ends, in seconds since 1970",
            certificate.map(|_| std::time::Duration::from_millis(not_after_ms).as_secs_f64()),
        )?;
        scrape.counter(
            "certificate_reloads",
            None,
            "Times that a changed certificate or trust bundle was taken up",
            reloads,
        )?;
        scrape.counter(
            "certificate_reload_failures",
            None,
            "Times that a changed certificate or trust bundle could not be used",
            reload_failures,
        )
    }
}

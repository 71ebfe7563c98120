//! What the operator counts. Names, units and meanings stand here.

mod labels;
pub(crate) mod objects;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pyramid_telemetry::metrics::{
    Certificate, Collector, Counter, Counters, Gauge, Histograms, Registry, Scrape, Unit, register,
    register_certificate,
};
use pyramid_tls::{Reason, Status, Tls};
use tokio::sync::watch;

use crate::audit::AuditMetrics;
use crate::context::Trust;
use crate::inject::InjectionMetrics;

use self::objects::Objects;

pub use self::labels::Issue;
pub(crate) use self::labels::{AdminCall, Controller, Outcome};

/// In front of all names.
const PREFIX: &str = "pyramid";
/// Behind it, for what only an operator has.
const OPERATOR: &str = "operator";

/// Recorded where things happen. Clones share what they count.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    reconciles: Counters<(Controller, Outcome)>,
    reconcile_latency: Histograms<Controller>,
    leader: Gauge,
    admin_calls: Histograms<(AdminCall, Outcome)>,
    /// What was set right in a Writer because it differed from the objects.
    pub(crate) drift_corrected: Counter,
    issues: Counters<Issue>,
    panics: Counter,
    bundle_writes: Counter,
    objects: Objects,
}

impl Metrics {
    /// One reconcile ended.
    pub(crate) fn reconciled(&self, controller: Controller, is_ok: bool, took: Duration) {
        self.reconciles.inc((controller, Outcome::of(is_ok)));
        self.reconcile_latency.observe(controller, took);
    }

    /// A Writer answered, or did not.
    pub(crate) fn admin_called(&self, call: AdminCall, is_ok: bool, took: Duration) {
        self.admin_calls.observe((call, Outcome::of(is_ok)), took);
    }

    /// Somebody asked for a certificate.
    pub(crate) fn issued(&self, issue: Issue) {
        self.issues.inc(issue);
    }

    /// Whether this replica leads.
    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
        if !leads {
            self.objects.hide();
        }
    }

    /// How the objects stand is shown from these, as long as this replica leads.
    pub(crate) fn show(&self, caches: objects::Caches) {
        self.objects.show(caches);
    }

    /// A request ended in a panic.
    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// How many requests for certificates ended so.
    #[must_use]
    pub fn issues(&self, issue: Issue) -> u64 {
        self.issues.get(issue)
    }

    /// How many requests ended in a panic.
    #[cfg(test)]
    pub(crate) fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// The trust bundle was written into the webhook's configuration.
    pub(crate) fn bundle_written(&self) {
        self.bundle_writes.inc();
    }

    /// All that the operator has, with what is looked at when somebody asks.
    /// Names in it begin with `pyramid`, and each is explained in `docs/operating.md`; a test
    /// compares the two.
    pub(crate) fn registry(
        &self,
        (injections, audit): (&InjectionMetrics, &AuditMetrics),
        tls: &Tls,
        trust: watch::Receiver<Arc<Trust>>,
    ) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        self.register_requests(&mut registry);
        register(&mut registry, self.objects.clone());
        injections.register(&mut registry);
        audit.register(&mut registry);
        let registry_of_operator = registry.sub_registry_with_prefix(OPERATOR);
        self.register_controllers(registry_of_operator);
        let watched = tls.clone();
        register_certificate(
            registry_of_operator,
            Arc::new(move || Some(certificate(&watched.status()))),
        );
        register(registry_of_operator, Watched { tls: tls.clone(), trust });
        registry
    }

    fn register_requests(&self, registry: &mut Registry) {
        registry.register(
            "issuer_requests",
            "Requests for certificates, by what became of them and why",
            self.issues.clone(),
        );
    }

    fn register_controllers(&self, registry: &mut Registry) {
        registry.register(
            "reconcile",
            "Reconciles that ended, by controller and result",
            self.reconciles.clone(),
        );
        registry.register_with_unit(
            "reconcile",
            "Time that a reconcile took",
            Unit::Seconds,
            self.reconcile_latency.clone(),
        );
        registry.register("leader", "1 in the replica that leads", self.leader.clone());
        registry.register_with_unit(
            "admin_call",
            "Time that calls of Writers took",
            Unit::Seconds,
            self.admin_calls.clone(),
        );
        registry.register(
            "drift_corrected",
            "Settings of Writers that differed from the objects and were set right",
            self.drift_corrected.clone(),
        );
        registry.register(
            "request_panics",
            "Requests to the webhook or the issuer that ended in a panic: a bug",
            self.panics.clone(),
        );
        registry.register(
            "webhook_bundle_writes",
            "Times that the trust bundle was written into the webhook's configuration",
            self.bundle_writes.clone(),
        );
    }
}

fn certificate(status: &Status) -> Certificate {
    let Status { not_after_ms, reloads, reload_failures, .. } = *status;
    Certificate { not_after_ms, reloads, reload_failures }
}

/// What only has to be looked at.
struct Watched {
    tls: Tls,
    trust: watch::Receiver<Arc<Trust>>,
}

impl Collector for Watched {
    fn collect(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        scrape.info("build", "What runs", &[("version", env!("CARGO_PKG_VERSION"))])?;
        let Status { handshakes, refused, .. } = self.tls.status();
        scrape.counter(
            "handshakes",
            None,
            "Connections to webhook and issuer whose TLS handshake was completed",
            handshakes,
        )?;
        let refused = refused.into_iter();
        scrape.counters(
            "handshakes_refused",
            None,
            "Connections that were refused in their TLS handshake, by reason",
            refused.map(|(reason, count): (Reason, u64)| ([("reason", reason.as_str())], count)),
        )?;
        let root_ends_ms = self.trust.borrow().authority.not_after_ms();
        scrape.gauge(
            "authority_not_after_timestamp",
            Some(Unit::Seconds),
            "When the root of the authority ends, in seconds since 1970",
            Duration::from_millis(root_ends_ms).as_secs_f64(),
        )
    }
}

#[cfg(test)]
mod tests;

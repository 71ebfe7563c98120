//! [`InjectionMetrics`]: what the webhook counts.

use std::time::Duration;

use pyramid_telemetry::metrics::{Counters, Histogram, Key, Label, Registry, Unit};

use super::Outcome;
use super::refusal::{Refusal, Why};

/// Clones share what they count.
#[derive(Clone, Debug, Default)]
pub(crate) struct InjectionMetrics {
    injections: Counters<Ended>,
    took: Histogram,
}

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// A pusher was added. The API server may ask once more about the same pod, which is then
    /// [`Ended::Present`]; so pods are counted once.
    Injected,
    Present,
    OptedOut,
    NotAsked,
    /// Not the creation of a pod: let through as it is.
    NotCreated,
    Refused(Why),
    /// What was sent is no review of a pod.
    BadRequest,
}

impl From<&Result<Outcome, Refusal>> for Ended {
    fn from(decided: &Result<Outcome, Refusal>) -> Self {
        match decided {
            Ok(Outcome::Injected(_)) => Self::Injected,
            Ok(Outcome::Present) => Self::Present,
            Ok(Outcome::OptedOut) => Self::OptedOut,
            Ok(Outcome::NotAsked) => Self::NotAsked,
            Err(refusal) => Self::Refused(refusal.why()),
        }
    }
}

impl Ended {
    const OTHERS: [Self; 6] = [
        Self::Injected,
        Self::Present,
        Self::OptedOut,
        Self::NotAsked,
        Self::NotCreated,
        Self::BadRequest,
    ];
}

impl Key for Ended {
    fn all() -> Vec<Self> {
        Self::OTHERS.into_iter().chain(Why::ALL.iter().map(|why| Self::Refused(*why))).collect()
    }

    fn index(self) -> Option<usize> {
        match self {
            Self::Injected => Some(0),
            Self::Present => Some(1),
            Self::OptedOut => Some(2),
            Self::NotAsked => Some(3),
            Self::NotCreated => Some(4),
            Self::BadRequest => Some(5),
            Self::Refused(why) => Some(Self::OTHERS.len() + Key::index(why)?),
        }
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        let (result, reason) = match self {
            Self::Injected => ("injected", ""),
            Self::Present => ("unchanged", "present"),
            Self::OptedOut => ("unchanged", "opted_out"),
            Self::NotAsked => ("unchanged", "not_asked"),
            Self::NotCreated => ("unchanged", "not_created"),
            Self::Refused(why) => ("refused", why.text()),
            Self::BadRequest => ("failed", "bad_request"),
        };
        vec![("result", result), ("reason", reason)]
    }
}

impl InjectionMetrics {
    /// Adds all to a registry with the prefix `pyramid`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "injections",
            "Pods that the webhook was asked about, by what became of them",
            self.injections.clone(),
        );
        registry.register_with_unit(
            "injection",
            "Time that the webhook took for one answer",
            Unit::Seconds,
            self.took.clone(),
        );
    }

    pub(super) fn ended(&self, ended: Ended, took: Duration) {
        self.injections.inc(ended);
        self.took.observe(took);
    }

    #[cfg(test)]
    pub(super) fn count(&self, ended: Ended) -> u64 {
        self.injections.get(ended)
    }
}

#[cfg(test)]
mod tests {
    use pyramid_telemetry::metrics::text;

    use super::*;

    #[test]
    fn each_end_has_its_own_place() {
        for (place, ended) in Ended::all().into_iter().enumerate() {
            assert_eq!(ended.index(), Some(place), "{ended:?}");
        }
    }

    #[test]
    fn an_injection_is_counted_and_timed() {
        let metrics = InjectionMetrics::default();
        let mut registry = Registry::with_prefix("pyramid");
        metrics.register(&mut registry);
        metrics.ended(Ended::Refused(Why::Port), Duration::from_millis(2));
        let text = text(&registry);
        for line in [
            r#"pyramid_injections_total{result="refused",reason="port"} 1"#,
            r#"pyramid_injections_total{result="injected",reason=""} 0"#,
            r#"pyramid_injection_seconds_bucket{le="0.0025"} 1"#,
            r#"pyramid_injection_seconds_bucket{le="0.001"} 0"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
    }
}

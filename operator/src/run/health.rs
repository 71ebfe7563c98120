//! Answers to probes.

use pyramid_telemetry::health::{Answer, Health, Monitor, Pulse, moves};
use tokio_util::sync::CancellationToken;

use crate::issuer::Access;
use crate::webhook_bundle::Filled;

/// What probes are answered from. It is made when webhook and issuer listen with a certificate.
pub(super) struct Vitals {
    access: Access,
    bundle: Filled,
    shutdown: CancellationToken,
    pulse: Pulse,
    monitor: Monitor,
}

impl Vitals {
    pub(super) fn new(access: Access, bundle: Filled, shutdown: CancellationToken) -> Self {
        let pulse = Pulse::default();
        let monitor = Monitor::new(pulse.beats());
        Self { access, bundle, shutdown, pulse, monitor }
    }

    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Health for Vitals {
    fn started(&self) -> Answer {
        Ok(())
    }

    fn alive(&self) -> Answer {
        moves("the runtime", self.monitor.still_for(self.pulse.beats()))
    }

    fn ready(&self) -> Answer {
        if self.shutdown.is_cancelled() {
            return Err("it stops".to_owned());
        }
        if !self.access.is_ready() {
            return Err("Streams and Subscriptions are not read yet; are their kinds installed, and may the operator list them?".to_owned());
        }
        if !self.bundle.is_so() {
            return Err("the API server is not told yet whom it has to believe; may the operator watch and patch MutatingWebhookConfiguration pyramid-sidecar-injector?".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replica_is_ready_from_its_caches_and_the_bundle_of_its_webhook_to_its_stop() {
        let shutdown = CancellationToken::new();
        let bundle = Filled::default();
        let empty = Vitals::new(Access::unread(), bundle.clone(), shutdown.clone());
        assert!(empty.ready().unwrap_err().starts_with("Streams and Subscriptions"));
        let access = Access::filled(Vec::new(), Vec::new());
        let filled = Vitals::new(access, bundle.clone(), shutdown.clone());
        assert!(filled.ready().unwrap_err().starts_with("the API server is not told"));
        bundle.set();
        assert_eq!(filled.ready(), Ok(()));
        shutdown.cancel();
        assert_eq!(filled.ready(), Err("it stops".to_owned()));
        assert_eq!((filled.started(), filled.alive()), (Ok(()), Ok(())));
    }
}

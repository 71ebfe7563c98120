//! Health and metrics of a replica, from the first moment to the last.

use std::fmt;
use std::sync::Arc;

use pyramid_protocol::net::{Accept, Accepted, Kept};
use pyramid_storage::ObjectStore;
use pyramid_telemetry::metrics::{
    Certificate, Collector, Gauges, Scrape, register, register_certificate,
};
use pyramid_telemetry::ops;
use pyramid_tls::{Reason, Status, Tls};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::disk::Disk;
use crate::health::Vitals;
use crate::member::Phase;
use crate::metrics::{self, Collected, Metrics, Port};
use crate::observed::{ObservedDisk, ObservedStore};

/// What is watched of a replica, and who may look at it.
pub(crate) struct Ops {
    /// Recorded where things happen.
    pub(crate) metrics: Arc<Metrics>,
    /// What probes are answered from.
    pub(crate) vitals: Arc<Vitals>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Ops {
    /// Watches, and serves what is seen if there is a port for it.
    pub(crate) fn start(
        phase: watch::Receiver<Phase>,
        accept: Option<Box<dyn Accept>>,
        tls: Option<Tls>,
        shutdown: &CancellationToken,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        let vitals = Vitals::new(phase.clone(), shutdown.clone());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        if let Some(accept) = accept {
            let collected = Collected { phase, vitals: Arc::clone(&vitals) };
            let mut registry = metrics::registry(&metrics, collected);
            register(&mut registry, Handshakes(tls.clone()));
            register_certificate(&mut registry, Arc::new(move || tls.as_ref().map(certificate)));
            let health = Arc::clone(&vitals);
            tasks.spawn(Arc::clone(&vitals).keep_looking());
            let stop = stop.clone();
            tasks.spawn(ops::serve(accept, health, registry, stop));
        }
        Self { metrics, vitals, tasks, stop }
    }

    /// The same disk, watched.
    pub(crate) fn observed_disk(&self, disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        let (reads, syncs) = (self.vitals.reads.clone(), self.metrics.wal_sync.clone());
        Arc::new(ObservedDisk { disk, reads, syncs })
    }

    /// The same store, watched.
    pub(crate) fn observed_store(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(ObservedStore { store, metrics: Arc::clone(&self.metrics) })
    }

    /// The same connections, counted while they are open.
    pub(crate) fn counted(&self, port: Port, accept: Box<dyn Accept>) -> Box<dyn Accept> {
        Box::new(CountedAccept { accept, port, open: self.metrics.connections.clone() })
    }

    /// Ends it, after everything that it watches.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while !self.tasks.is_empty() {
            // Whoever looks for ever is ended with the port.
            self.tasks.join_next().await;
            self.tasks.abort_all();
        }
    }
}

fn certificate(tls: &Tls) -> Certificate {
    let Status { not_after_ms, reloads, reload_failures, .. } = tls.status();
    Certificate { not_after_ms, reloads, reload_failures }
}

/// What became of the connections of both ports before they were any; all 0 without TLS.
struct Handshakes(Option<Tls>);

impl Collector for Handshakes {
    fn collect(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        let status = self.0.as_ref().map(Tls::status);
        let (done, refused) = status.map_or_else(
            || (0, Reason::ALL.map(|reason| (reason, 0)).to_vec()),
            |status| (status.handshakes, status.refused),
        );
        scrape.counter(
            "handshakes",
            None,
            "Connections whose TLS handshake was completed",
            done,
        )?;
        scrape.counters(
            "handshakes_refused",
            None,
            "Connections that were refused in their TLS handshake, by reason",
            refused.into_iter().map(|(reason, count)| ([("reason", reason.as_str())], count)),
        )
    }
}

struct CountedAccept {
    accept: Box<dyn Accept>,
    port: Port,
    open: Gauges<Port>,
}

#[tonic::async_trait]
impl Accept for CountedAccept {
    async fn accept(&self) -> std::io::Result<Accepted> {
        let accepted = self.accept.accept().await?;
        let peer = accepted.connect_info();
        let counted = Kept::new(Box::new(accepted), self.open.hold(self.port));
        Ok(Accepted::new(Box::new(counted), peer.into()))
    }
}

//! [`Subscribed`]: one subscription of this pusher, wherever its Writer is now.

use std::sync::Arc;

use pyramid_client::ByteBudget;
use pyramid_protocol::net::Connect;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::application::Application;
use crate::attachment::Attachment;
use crate::config::Timing;
use crate::drain::Drain;
use crate::in_flight::InFlight;
use crate::metrics::Metrics;
use crate::pusher::Error;
use crate::routes::{Delivery, Routes};
use crate::source::Reading;
use crate::status::Board;
use crate::stream_worker::Shared;
use crate::workers::Workers;

/// Keeps one subscription attached and pushes its streams.
pub(crate) struct Subscribed {
    /// As the Writer knows it.
    pub(crate) name: Arc<str>,
    pub(crate) routes: watch::Receiver<Arc<Routes>>,
    /// To the application.
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) pod: String,
    pub(crate) board: Board,
    pub(crate) metrics: Metrics,
    pub(crate) memory: ByteBudget,
    pub(crate) turns: Arc<Semaphore>,
    pub(crate) in_flight: InFlight,
    pub(crate) timing: Timing,
    pub(crate) drain: Drain,
}

impl Subscribed {
    /// Runs until pushes end: waits for a route, and begins anew when another one is told.
    ///
    /// # Errors
    ///
    /// [`Error::Application`], [`Error::Task`].
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let stop = self.drain.pushing().clone();
        while !stop.is_cancelled() {
            let delivery = self.routes.borrow_and_update().delivery(&self.name).cloned();
            if let Some(delivery) = delivery {
                self.follow(&delivery, &stop).await?;
            } else if !self.wait_for_a_change(&stop).await {
                break;
            }
        }
        self.drain.ended();
        Ok(())
    }

    /// Whether there was one.
    async fn wait_for_a_change(&mut self, stop: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            changed = self.routes.changed() => changed.is_ok(),
        }
    }

    /// Delivers until pushes end or there is another route.
    async fn follow(&mut self, delivery: &Delivery, stop: &CancellationToken) -> Result<(), Error> {
        let here = stop.child_token();
        let serving = self.serve(delivery, here.clone())?;
        let Self { name, routes, .. } = self;
        let is_another = |routes: &Arc<Routes>| routes.delivery(name) != Some(delivery);
        let moved = async {
            // Without anybody who tells, it stays.
            if routes.wait_for(is_another).await.is_ok() {
                tracing::info!(subscription = &**name, "the route has changed");
                here.cancel();
            }
        };
        tokio::pin!(serving, moved);
        tokio::select! {
            biased;
            served = &mut serving => served,
            () = &mut moved => serving.await,
        }
    }

    fn serve(
        &self,
        delivery: &Delivery,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<(), Error>> + Send + use<>, Error> {
        let Delivery { upstream, application } = delivery;
        let application = Application::new(Arc::clone(&self.connect), application)
            .map_err(|_invalid| Error::Application { address: application.clone() })?;
        let (assignment, assigned) = watch::channel(None);
        let attachment = Attachment {
            client: upstream.client.clone(),
            board: self.board.clone(),
            subscription: Arc::clone(&self.name),
            pod: self.pod.clone(),
            tls: upstream.tls.clone(),
            assignment,
            metrics: self.metrics.clone(),
        };
        let shared = Shared {
            reading: Reading {
                client: upstream.client.clone(),
                fetcher: upstream.fetcher.clone(),
                budget: self.memory.clone(),
                metrics: self.metrics.clone(),
            },
            board: self.board.clone(),
            turns: Arc::clone(&self.turns),
            in_flight: self.in_flight.clone(),
            timing: self.timing,
            drain: self.drain.clone(),
        };
        let (board, name) = (self.board.clone(), Arc::clone(&self.name));
        let workers = Workers::new(shared, Arc::clone(&self.name), application);
        Ok(async move {
            // The attachment outlives the pushes: until then nobody else shall get the leases.
            let leave = CancellationToken::new();
            let working = async {
                let worked = workers.run(assigned, stop).await;
                leave.cancel();
                worked
            };
            let ((), worked) = tokio::join!(attachment.run(leave.clone()), working);
            board.clear(&name);
            worked
        })
    }
}

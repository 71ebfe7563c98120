//! What the leader does, and how it stops.

use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use pyramid_crds::Subscription;
use pyramid_telemetry::logs::causes;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Error, Outcome};
use crate::audit::{self, AuditMetrics};
use crate::context::Context;
use crate::leader::{Candidate, Leadership};
use crate::{kinds, webhook_bundle, writer};

/// Controllers have this long to end what they do.
const CONTROLLERS_TIMEOUT: Duration = Duration::from_secs(5);

/// What the pod audit needs besides the context. Clones share it.
#[derive(Clone)]
pub(super) struct Audit {
    pub(super) subscriptions: Store<DeserializeGuard<Subscription>>,
    pub(super) metrics: AuditMetrics,
}

impl Audit {
    /// Runs until `shutdown`, once the cache is full.
    async fn run(self, context: Arc<Context>, shutdown: CancellationToken) {
        let Self { subscriptions, metrics } = self;
        // The cache is filled for as long as the process runs; if that ended, its task tells it.
        let filled = shutdown.run_until_cancelled(subscriptions.wait_until_ready()).await;
        if matches!(filled, Some(Ok(()))) {
            // Two watches and what they are told make it large.
            Box::pin(audit::run(context, Arc::new(subscriptions), metrics, shutdown)).await;
        }
    }
}

/// Waits for the lease, then runs the controllers. The lease is given back only after they have
/// stopped; if it is lost they stop at once, with the process.
pub(super) async fn lead(
    candidate: Candidate,
    context: Arc<Context>,
    audit: Audit,
    shutdown: CancellationToken,
) -> Outcome {
    let Some(mut leadership) = candidate.acquire(&shutdown).await else {
        return Ok("leader");
    };
    let (term, transitions) = (leadership.term(), leadership.transitions());
    context.writers.lead(term);
    context.metrics.leads(true);
    tracing::info!(transitions, %term, "this replica leads");
    let stop = CancellationToken::new();
    let mut controllers = controllers(&context, &stop);
    let auditing = audit.run(Arc::clone(&context), stop.clone());
    controllers.spawn(async move {
        auditing.await;
        "pod audit"
    });
    let ended = tokio::select! {
        biased;
        lost = leadership.keep() => Err(Error::Lost { text: causes(&lost) }),
        () = shutdown.cancelled() => Ok("leader"),
        ended = controllers.join_next() => Err(match ended {
            Some(Ok(task)) => Error::Ended { task },
            Some(Err(_panicked)) => Error::Panicked,
            None => Error::Ended { task: "controllers" },
        }),
    };
    context.metrics.leads(false);
    if ended.is_ok() {
        stop.cancel();
        drain(&mut controllers, &mut leadership).await?;
        leadership.release().await;
    }
    ended
}

fn controllers(context: &Arc<Context>, stop: &CancellationToken) -> JoinSet<&'static str> {
    /// Spawns each and names it.
    macro_rules! spawn {
        ($($module:ident => $name:literal),+ $(,)?) => {{
            let mut controllers = JoinSet::new();
            $(
                let running = $module::run(Arc::clone(context), stop.clone());
                controllers.spawn(async move {
                    running.await;
                    $name
                });
            )+
            controllers
        }};
    }
    spawn!(
        writer => "writers",
        kinds => "streams and subscriptions",
        webhook_bundle => "webhook bundle",
    )
}

/// Waits for the controllers while the lease is renewed on.
async fn drain(
    controllers: &mut JoinSet<&'static str>,
    leadership: &mut Leadership,
) -> Result<(), Error> {
    let ended = async { while controllers.join_next().await.is_some() {} };
    tokio::select! {
        biased;
        lost = leadership.keep() => return Err(Error::Lost { text: causes(&lost) }),
        // What does not end in time is stopped between two of its steps.
        _all_or_not = timeout(CONTROLLERS_TIMEOUT, ended) => {}
    }
    controllers.shutdown().await;
    Ok(())
}

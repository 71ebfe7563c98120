//! The pod audit: says which pods ask for a pusher and have none, and which name a Subscription that
//! does not exist.
//!
//! The webhook refuses or injects every pod that asks, so the first are pods from before the
//! installation, or from a time at which the webhook was not configured. The second are let in with
//! a warning that nobody sees if a controller makes the pod.
//!
//! Only metadata of pods is watched: the annotation that injection leaves tells enough. Pods without
//! annotations of ours are forgotten as they come.
//!
//! Absent on purpose: doing something about it. A pod that is deleted while injection is broken comes
//! back the same.

mod pods;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::events::EventType;
use kube::runtime::{WatchStreamExt as _, watcher};
use pyramid_crds::label::{DISABLED, INJECTION};
use pyramid_telemetry::metrics::{Gauge, Registry};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::inject::Subscriptions;
use crate::lean::pages;

use self::pods::{Finding, Namespaces, Pods};

/// How often pods are compared with Subscriptions.
const PERIOD: Duration = Duration::from_secs(10);
/// Findings told in one period; what is beyond waits for the next.
const FINDINGS_MAX: usize = 20;
/// Where the webhook is never asked, besides the operator's own namespace.
const EXCLUDED: [&str; 2] = ["kube-system", "kube-node-lease"];

/// What the audit counts. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditMetrics {
    missing: Gauge,
}

impl AuditMetrics {
    /// Adds all to a registry with the prefix `pyramid`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "pods_missing_sidecar",
            "Pods that ask for a pusher and have none; counted by the replica that leads",
            self.missing.clone(),
        );
    }
}

/// Runs until `shutdown`. `subscriptions` is a full cache.
pub(crate) async fn run(
    context: Arc<Context>,
    subscriptions: Arc<dyn Subscriptions>,
    metrics: AuditMetrics,
    shutdown: CancellationToken,
) {
    // Whoever leads next counts them.
    shutdown.run_until_cancelled(audit(&context, &*subscriptions, &metrics).boxed()).await;
    metrics.missing.set(0);
}

async fn audit(context: &Context, subscriptions: &dyn Subscriptions, metrics: &AuditMetrics) {
    // A pod that has ended needs no pusher any more.
    let running = pages().fields("status.phase!=Succeeded,status.phase!=Failed");
    let disabled = pages().labels(&format!("{INJECTION}={DISABLED}"));
    let api = Api::<PartialObjectMeta<Pod>>::all(context.client.clone());
    let mut pod_events = pin!(watcher(api, running).default_backoff());
    let api = Api::<PartialObjectMeta<Namespace>>::all(context.client.clone());
    let mut namespace_events = pin!(watcher(api, disabled).default_backoff());
    let excluded = EXCLUDED.into_iter().chain([context.namespace.as_str()]);
    let mut namespaces = Namespaces::excluding(excluded.map(str::to_owned));
    let mut pods = Pods::default();
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = period.tick() => {
                if pods.is_complete() && namespaces.is_complete() {
                    metrics.missing.set(pods.missing_sidecar(&namespaces));
                    let now = Instant::now();
                    for finding in pods.findings(&namespaces, subscriptions, now, FINDINGS_MAX) {
                        tell(context, &finding).await;
                    }
                }
            }
            Some(event) = pod_events.next() => match event {
                Ok(event) => pods.apply(event, Instant::now()),
                Err(error) => broken("pods", &error),
            },
            Some(event) = namespace_events.next() => match event {
                Ok(event) => namespaces.apply(event),
                Err(error) => broken("namespaces", &error),
            },
        }
    }
}

fn broken(what: &str, error: &watcher::Error) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(what, error, "a watch of the pod audit broke and is taken up again");
}

/// Tells of the pod and of what made it. One that is lost is still counted by the gauge.
async fn tell(context: &Context, finding: &Finding) {
    for object in finding.objects() {
        let (reason, related) = (finding.reason(), finding.related());
        context.tell_of(object, related, EventType::Warning, reason, finding.note()).await;
    }
}

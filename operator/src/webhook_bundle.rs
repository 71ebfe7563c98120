//! The trust bundle in the webhook's configuration.
//!
//! The chart's configuration has no `caBundle`, so that an upgrade takes none away. The operator
//! owns that field with a manager of its own, and writes it whenever it differs in bytes. Its value
//! is the whole bundle, never the leaf: a leaf works until its first renewal.
//!
//! Only the leader replaces a bundle: replicas that hear of a new root one after the other would
//! undo each other's. Where there is none, as after an installation, every replica writes it: the
//! lease that an earlier installation left behind has to run out before one leads, and until then
//! Pods that ask for a pusher would be refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::context::{CA_MANAGER, Context, said};
use crate::metrics::Controller;

/// Name of the configuration.
pub(crate) const WEBHOOK: &str = "pyramid-sidecar-injector";
/// A write that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(5);

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// Whatever differs; of the leader.
    Replace,
    /// What is not there; of every replica.
    Fill,
}

/// Whether the webhook's configuration had a bundle once, or there was none. It stays so: a replica
/// that is not ready gives out no certificates either. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filled(Arc<AtomicBool>);

impl Filled {
    pub(crate) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether the API server is told a root by which to believe this webhook.
pub(crate) fn has_root(webhook: &MutatingWebhook) -> bool {
    webhook.client_config.ca_bundle.as_ref().is_some_and(|ByteString(pem)| !pem.is_empty())
}

/// What has to be applied, or `None` if every webhook has what it should.
///
/// It names only the field that is owned, of all webhooks: what is left out is taken away. It has
/// the uid, so that it is never applied to a configuration that was made since; and an apply of so
/// little to a name that is gone is refused.
fn patch(
    configuration: &MutatingWebhookConfiguration,
    bundle_pem: &str,
    duty: Duty,
) -> Option<Value> {
    let bundle = ByteString(bundle_pem.as_bytes().to_vec());
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let stays = |webhook: &MutatingWebhook| match duty {
        Duty::Replace => webhook.client_config.ca_bundle.as_ref() == Some(&bundle),
        Duty::Fill => has_root(webhook),
    };
    if webhooks.iter().all(stays) {
        return None;
    }
    let webhooks: Vec<Value> = webhooks
        .iter()
        .map(|webhook| {
            let old = webhook.client_config.ca_bundle.as_ref();
            let bundle = old.filter(|_| stays(webhook)).unwrap_or(&bundle);
            json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})
        })
        .collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": WEBHOOK, "uid": configuration.metadata.uid},
        "webhooks": webhooks,
    }))
}

/// Replaces what differs, as the leader. Runs until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    keep(context, Duty::Replace, Filled::default(), shutdown).await;
}

/// Writes what is not there, and tells when nothing is missing. Runs until `shutdown`.
pub(crate) async fn fill(context: Arc<Context>, filled: Filled, shutdown: CancellationToken) {
    keep(context, Duty::Fill, filled, shutdown).await;
}

async fn keep(context: Arc<Context>, duty: Duty, filled: Filled, shutdown: CancellationToken) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(context.client.clone());
    let only_it = watcher::Config::default().fields(&format!("metadata.name={WEBHOOK}"));
    let events = watcher(api.clone(), only_it).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut trust = context.trust.clone();
    let mut seen: Option<MutatingWebhookConfiguration> = None;
    let mut is_late = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            event = events.try_next() => match event {
                Ok(Some(watcher::Event::Apply(it) | watcher::Event::InitApply(it))) => {
                    seen = Some(it);
                }
                // All over again: what is not told before `InitDone` is not there.
                Ok(Some(watcher::Event::Delete(_) | watcher::Event::Init)) => seen = None,
                Ok(Some(watcher::Event::InitDone)) => {
                    if seen.is_none() {
                        filled.set();
                    }
                    continue;
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "the watch of {WEBHOOK} begins again");
                    continue;
                }
            },
            changed = trust.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if is_late => {}
        }
        let bundle_pem = trust.borrow_and_update().bundle_pem.clone();
        let Some(apply) = seen.as_ref().and_then(|it| patch(it, &bundle_pem, duty)) else {
            if seen.is_some() {
                filled.set();
            }
            is_late = false;
            continue;
        };
        let began = Instant::now();
        let params = PatchParams::apply(CA_MANAGER).force();
        let applied = api.patch(WEBHOOK, &params, &Patch::Apply(apply)).await;
        context.metrics.reconciled(Controller::WebhookBundle, applied.is_ok(), began.elapsed());
        is_late = applied.is_err();
        match applied {
            Ok(written) => {
                seen = Some(written);
                filled.set();
                context.metrics.bundle_written();
                tracing::info!("the webhook's configuration has the current trust bundle");
            }
            Err(error) => {
                let said = said(&error);
                tracing::warn!("the webhook's configuration has an old trust bundle: {said}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<Value> = bundles
            .iter()
            .zip(["inject.pyramid.dev", "other.pyramid.dev"])
            .map(|(bundle, name)| {
                let bundle = bundle.map(|bundle| ByteString(bundle.as_bytes().to_vec()));
                json!({
                    "name": name,
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "clientConfig": {"caBundle": bundle},
                })
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": WEBHOOK, "uid": "uid-1"},
            "webhooks": webhooks,
        }))
        .unwrap()
    }

    #[test]
    fn a_bundle_that_differs_in_a_byte_is_written_again() {
        // "root" and a line end, as base64.
        let expected = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": WEBHOOK, "uid": "uid-1"},
            "webhooks": [
                {"name": "inject.pyramid.dev", "clientConfig": {"caBundle": "cm9vdAo="}},
            ],
        });
        for old in [None, Some(""), Some("root"), Some("other\n")] {
            let result = patch(&configuration(&[old]), "root\n", Duty::Replace);
            assert_eq!(result, Some(expected.clone()), "{old:?}");
        }
        let current = configuration(&[Some("root\n")]);
        assert_eq!(patch(&current, "root\n", Duty::Replace), None);
    }

    #[test]
    fn who_does_not_lead_writes_only_where_nothing_is_and_takes_nothing_away() {
        for full in [&[Some("root\n")][..], &[Some("other\n")], &[Some("other\n"), Some("root\n")]]
        {
            assert_eq!(patch(&configuration(full), "root\n", Duty::Fill), None, "{full:?}");
        }
        for empty in [None, Some("")] {
            let written =
                patch(&configuration(&[Some("other\n"), empty]), "root\n", Duty::Fill).unwrap();
            // "other" and "root" with a line end, as base64.
            let expected = json!([
                {"name": "inject.pyramid.dev", "clientConfig": {"caBundle": "b3RoZXIK"}},
                {"name": "other.pyramid.dev", "clientConfig": {"caBundle": "cm9vdAo="}},
            ]);
            assert_eq!(written["webhooks"], expected, "{empty:?}");
        }
    }

    #[test]
    fn all_webhooks_are_written_if_one_differs() {
        let one_old = configuration(&[Some("root\n"), None]);
        let written = patch(&one_old, "root\n", Duty::Replace).unwrap();
        assert_eq!(written["webhooks"].as_array().unwrap().len(), 2);
        assert_eq!(patch(&configuration(&[Some("root\n"); 2]), "root\n", Duty::Replace), None);
    }

    #[test]
    fn a_configuration_without_webhooks_is_left_alone() {
        for duty in [Duty::Replace, Duty::Fill] {
            assert_eq!(patch(&configuration(&[]), "root\n", duty), None);
            assert_eq!(patch(&MutatingWebhookConfiguration::default(), "root\n", duty), None);
        }
    }
}

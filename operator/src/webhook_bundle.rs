//! The trust bundle in the webhook's configuration.
//!
//! The chart's configuration has no `caBundle`, so that an upgrade takes none away. The operator
//! owns that field with a manager of its own, and writes it whenever it differs in bytes. Its value
//! is the whole bundle, never the leaf: a leaf works until its first renewal.

use std::sync::Arc;
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

/// What has to be applied, or `None` if every webhook has these bytes.
///
/// It names only the field that is owned. It has the uid, so that it is never applied to a
/// configuration that was made since; and an apply of so little to a name that is gone is refused.
fn patch(configuration: &MutatingWebhookConfiguration, bundle_pem: &str) -> Option<Value> {
    let bundle = ByteString(bundle_pem.as_bytes().to_vec());
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let is_current =
        |webhook: &MutatingWebhook| webhook.client_config.ca_bundle.as_ref() == Some(&bundle);
    if webhooks.iter().all(is_current) {
        return None;
    }
    let webhooks: Vec<Value> = webhooks
        .iter()
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": WEBHOOK, "uid": configuration.metadata.uid},
        "webhooks": webhooks,
    }))
}

/// Runs until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
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
                Ok(Some(watcher::Event::InitDone)) => continue,
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
        let Some(apply) = seen.as_ref().and_then(|it| patch(it, &bundle_pem)) else {
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
            let result = patch(&configuration(&[old]), "root\n");
            assert_eq!(result, Some(expected.clone()), "{old:?}");
        }
        assert_eq!(patch(&configuration(&[Some("root\n")]), "root\n"), None);
    }

    #[test]
    fn all_webhooks_are_written_if_one_differs() {
        let one_old = configuration(&[Some("root\n"), None]);
        let written = patch(&one_old, "root\n").unwrap();
        assert_eq!(written["webhooks"].as_array().unwrap().len(), 2);
        assert_eq!(patch(&configuration(&[Some("root\n"); 2]), "root\n"), None);
    }

    #[test]
    fn a_configuration_without_webhooks_is_left_alone() {
        assert_eq!(patch(&configuration(&[]), "root\n"), None);
        assert_eq!(patch(&MutatingWebhookConfiguration::default(), "root\n"), None);
    }
}

//! The ConfigMap `pyramid-bootstrap` of each namespace that uses Pyramid.
//!
//! It stays when nothing of its namespace is left: pods that still run would lose whom they believe.

mod render;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Config, applier};
use kube::{Api, ResourceExt};
use pyramid_crds::writer::{CA_KEY, LocalRef};
use pyramid_crds::{Stream, Subscription, Writer, label};
use pyramid_protocol::bootstrap::{BOOTSTRAP_KEY, CONFIG_MAP, TRUST_BUNDLE_KEY};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use render::{Issuer, Known, render};
pub(crate) use render::{namespaces_of, place};

use crate::context::MANAGER;
use crate::kinds::Kinds;
use crate::kinds::retries::{Failure, spread};
use crate::kinds::writers::WriterName;
use crate::metrics::Controller;
use crate::settings::Settings;
use crate::subscription::resolve::resolve;

/// ConfigMaps that are written at the same time.
const CONCURRENCY: u16 = 2;
/// What is known of an object store's authorities is read again after this long.
const AUTHORITIES_HOLD: Duration = Duration::from_secs(60);

/// Why the ConfigMap was not written. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("apply the ConfigMap {CONFIG_MAP}")]
    Apply(#[source] kube::Error),
    #[error("read the authorities of the object store of Writer {writer}")]
    Authorities { writer: WriterName, source: kube::Error },
}

impl Error {
    /// What the API server said.
    fn server(&self) -> &kube::Error {
        match self {
            Self::Apply(source) | Self::Authorities { source, .. } => source,
        }
    }
}

/// What the controller works with.
struct Work {
    kinds: Arc<Kinds>,
    authorities: Mutex<HashMap<WriterName, Read>>,
}

/// What a Writer's ConfigMap said.
#[derive(Clone)]
struct Read {
    at: Instant,
    config_map: String,
    pem: Option<String>,
}

/// Runs until `shutdown`.
pub(crate) async fn run(kinds: Arc<Kinds>, shutdown: CancellationToken) {
    if !kinds.caches_are_full(&shutdown).await {
        return;
    }
    let queue = Arc::clone(&kinds.queues.namespaces).stream();
    let store = kinds.caches.namespaces.clone();
    let config = Config::default().concurrency(CONCURRENCY);
    let stop = shutdown.cancelled_owned();
    let work = Arc::new(Work { kinds, authorities: Mutex::default() });
    let reconcile = |namespace, work| reconcile(namespace, work).boxed();
    applier(reconcile, error_policy, work, store, queue.take_until(stop.boxed()), config)
        .for_each(|_looked| std::future::ready(()))
        .await;
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn error_policy(
    namespace: Arc<PartialObjectMeta<Namespace>>,
    error: &Error,
    work: Arc<Work>,
) -> Action {
    let namespace = namespace.name_any();
    let wait = work.kinds.retries.failed(&key(&namespace), Failure::of_server(error.server()));
    tracing::warn!(namespace, ?wait, error = error as &dyn std::error::Error, "bootstrap");
    Action::requeue(wait)
}

fn key(namespace: &str) -> String {
    format!("Namespace {namespace}")
}

async fn reconcile(
    namespace: Arc<PartialObjectMeta<Namespace>>,
    work: Arc<Work>,
) -> Result<Action, Error> {
    let begun = Instant::now();
    let name = namespace.name_any();
    let is_terminating = namespace.metadata.deletion_timestamp.is_some();
    let written = if is_terminating { Ok(Action::await_change()) } else { work.write(&name).await };
    let metrics = &work.kinds.context.metrics;
    metrics.reconciled(Controller::Bootstrap, written.is_ok(), begun.elapsed());
    if written.is_ok() {
        work.kinds.retries.reset(&key(&name));
    }
    written
}

impl Work {
    async fn write(&self, namespace: &str) -> Result<Action, Error> {
        let kinds = &self.kinds;
        // Held, not copied: there may be thousands.
        let all_streams = kinds.caches.streams.state();
        let streams: Vec<&Stream> = all_streams
            .iter()
            .filter_map(|guarded| guarded.0.as_ref().ok())
            .filter(|stream| stream.spec.writer_ref.is_some())
            .filter(|stream| namespaces_of(stream).contains(namespace))
            .collect();
        let all_subscriptions = kinds.caches.subscriptions.state();
        let subscriptions: Vec<(&Subscription, WriterName)> = all_subscriptions
            .iter()
            .filter_map(|guarded| guarded.0.as_ref().ok())
            .filter(|found| found.namespace().as_deref() == Some(namespace))
            .filter_map(|found| Some((found, resolve(found, &**kinds).writer()?.clone())))
            .collect();
        let map_ref = ObjectRef::<ConfigMap>::new(CONFIG_MAP).within(namespace);
        let present = kinds.caches.bootstraps.get(&map_ref);
        if streams.is_empty() && subscriptions.is_empty() && present.is_none() {
            return Ok(Action::await_change());
        }
        let data = self.data(&streams, &subscriptions).await?;
        if present.as_ref().and_then(|map| map.data.as_ref()) != Some(&data) {
            self.apply(namespace, &data).await?;
        }
        let wait = kinds.context.settings.waits.resync();
        Ok(Action::requeue(spread(&key(namespace), 0, wait)))
    }

    /// The content of the ConfigMap; the same objects give the same bytes.
    async fn data(
        &self,
        streams: &[&Stream],
        subscriptions: &[(&Subscription, WriterName)],
    ) -> Result<BTreeMap<String, String>, Error> {
        let all = self.kinds.caches.writers.state();
        let readable = || all.iter().filter_map(|guarded| guarded.0.as_ref().ok());
        let mut used: Vec<WriterName> =
            subscriptions.iter().map(|(_, writer)| writer.clone()).collect();
        used.extend(streams.iter().filter_map(|stream| {
            let own = stream.namespace().unwrap_or_default();
            Some(WriterName::named(stream.spec.writer_ref.as_ref()?, &own))
        }));
        let mut writers = BTreeMap::new();
        for writer in readable().filter(|writer| used.contains(&WriterName::of(writer))) {
            let object_store_ca = self.authorities(writer).await?;
            writers.insert(WriterName::of(writer), Known { writer, object_store_ca });
        }
        let (trust_domain, bundle) = {
            let trust = self.kinds.context.trust.borrow();
            (trust.trust_domain.clone(), trust.bundle_pem.clone())
        };
        let issuer =
            Issuer { trust_domain: &trust_domain, namespace: &self.kinds.context.namespace };
        let bootstrap = render(streams, subscriptions, &writers, issuer);
        let data = [(TRUST_BUNDLE_KEY, bundle), (BOOTSTRAP_KEY, bootstrap.to_json())];
        Ok(data.map(|(key, text)| (key.to_owned(), text)).into())
    }

    async fn apply(&self, namespace: &str, data: &BTreeMap<String, String>) -> Result<(), Error> {
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": CONFIG_MAP,
                "labels": {
                    label::PART_OF: label::PYRAMID,
                    label::MANAGED_BY: label::OPERATOR,
                },
            },
            "data": data,
        });
        let api = Api::<ConfigMap>::namespaced(self.kinds.context.client.clone(), namespace);
        let params = PatchParams::apply(MANAGER).force();
        match api.patch(CONFIG_MAP, &params, &Patch::Apply(&map)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if is_namespace_gone(&status) => Ok(()),
            Err(source) => Err(Error::Apply(source)),
        }
    }

    /// The authorities of the object store. A ConfigMap that is not there is the Writer's trouble
    /// and no reason to tell a namespace nothing at all.
    async fn authorities(&self, writer: &Writer) -> Result<Option<String>, Error> {
        let name = WriterName::of(writer);
        let Some(reference) = readable_authorities(writer, &self.kinds.context.settings) else {
            return Ok(None);
        };
        let known = self.read().get(&name).cloned();
        let is_fresh =
            |one: &Read| one.at.elapsed() < AUTHORITIES_HOLD && one.config_map == reference.name;
        if let Some(known) = known.filter(is_fresh) {
            return Ok(known.pem);
        }
        let client = self.kinds.context.client.clone();
        let api = Api::<ConfigMap>::namespaced(client, &name.namespace);
        let map = api.get_opt(&reference.name).await;
        let map = map.map_err(|source| Error::Authorities { writer: name.clone(), source })?;
        let pem = map.and_then(|map| map.data).and_then(|mut data| data.remove(CA_KEY));
        let read =
            Read { at: Instant::now(), config_map: reference.name.clone(), pem: pem.clone() };
        self.read().insert(name, read);
        Ok(pem)
    }

    fn read(&self) -> std::sync::MutexGuard<'_, HashMap<WriterName, Read>> {
        self.authorities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ConfigMap with the authorities of a Writer's object store. Where no Writer may be, we may not
/// read it: a Stream that names such a Writer, and lists the accounts of another namespace, would
/// keep that one from being told anything.
fn readable_authorities<'a>(writer: &'a Writer, settings: &Settings) -> Option<&'a LocalRef> {
    let reference = writer.spec.object_storage.ca_config_map_ref.as_ref()?;
    settings.enables(writer.namespace().as_deref()?).then_some(reference)
}

/// Nothing can be created in a namespace that goes, and nothing needs to be.
fn is_namespace_gone(status: &kube::core::Status) -> bool {
    status.is_not_found() || (status.is_forbidden() && status.message.contains("being terminated"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read_only_where_writers_may_be() {
        let settings = Settings {
            writer_namespaces: vec!["pyramid-system".to_owned()],
            ..Settings::for_tests()
        };
        let name = |namespace: &str, storage: &str| {
            let writer: Writer = serde_saphyr::from_str(&format!(
                "metadata: {{name: w, namespace: {namespace}}}
spec: {{objectStorage: {{bucket: abc {storage}}}}}"
            ))
            .unwrap();
            readable_authorities(&writer, &settings).map(|one| one.name.clone())
        };
        let named = ", caConfigMapRef: {name: ca}";
        assert_eq!(name("pyramid-system", named), Some("ca".to_owned()));
        assert_eq!(name("pyramid-system", ""), None);
        assert_eq!(name("shop", named), None);
    }
}

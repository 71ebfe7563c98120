//! Streams, Subscriptions, Writers and the namespaces they lie in, each watched once; and which of
//! them are looked at again when something changes.
//!
//! The four controllers behind it share everything here: [`stream`], [`subscription`],
//! [`bootstrap`] and [`stats`]. None of them starts before all caches hold the whole cluster: an
//! object that is absent from a cache that is not full looks like one that was deleted.

pub(crate) mod bound;
pub(crate) mod configured;
pub(crate) mod queue;
pub(crate) mod retries;
pub(crate) mod status;
mod triggers;
mod watches;
pub(crate) mod writers;

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference};
use kube::ResourceExt;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::events::EventType;
use kube::runtime::reflector::{self, ObjectRef, Store};
use pyramid_crds::{Stream, Subscription, Writer};
use pyramid_protocol::bootstrap::{BOOTSTRAP_KEY, Bootstrap};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::metrics::objects;
use crate::{bootstrap, stats, stream, subscription};
use configured::{Configured, Name};
use queue::Queue;
use retries::Retries;
use writers::{Service, WriterName};

/// What every controller here works with.
pub(crate) struct Kinds {
    pub(crate) context: Arc<Context>,
    pub(crate) caches: Caches,
    pub(crate) queues: Queues,
    /// What Writers are known to hold.
    pub(crate) configured: Configured,
    /// How often in a row what has failed.
    pub(crate) retries: Retries,
    /// Objects that were deleted: Writers may still hold them.
    pub(crate) gone: Gone,
    bootstraps: Mutex<Parsed>,
}

/// Newest state of the cluster.
pub(crate) struct Caches {
    pub(crate) streams: Store<DeserializeGuard<Stream>>,
    pub(crate) subscriptions: Store<DeserializeGuard<Subscription>>,
    pub(crate) writers: Store<DeserializeGuard<Writer>>,
    pub(crate) namespaces: Store<PartialObjectMeta<Namespace>>,
    /// The ConfigMaps `pyramid-bootstrap`.
    pub(crate) bootstraps: Store<ConfigMap>,
}

/// What is looked at next.
#[derive(Default)]
pub(crate) struct Queues {
    pub(crate) streams: Arc<Queue<DeserializeGuard<Stream>>>,
    pub(crate) subscriptions: Arc<Queue<DeserializeGuard<Subscription>>>,
    /// Their `pyramid-bootstrap`.
    pub(crate) namespaces: Arc<Queue<PartialObjectMeta<Namespace>>>,
}

/// Names of deleted objects, each once, until [`stats`] has taken them.
#[derive(Default)]
pub(crate) struct Gone {
    names: Mutex<std::collections::BTreeSet<Name>>,
    added: Notify,
    again: Notify,
}

/// `bootstrap.json` of each namespace, read once per version of its ConfigMap.
type Parsed = std::collections::HashMap<String, (Option<String>, Arc<Bootstrap>)>;

impl Gone {
    pub(crate) fn add(&self, name: Name) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        self.added.notify_one();
    }

    /// What failed before is tried again at once.
    pub(crate) fn try_again(&self) {
        self.again.notify_one();
    }

    /// Waits for [`Gone::try_again`].
    pub(crate) async fn tried_again(&self) {
        self.again.notified().await;
    }

    /// Takes all, as soon as there is one.
    pub(crate) async fn take(&self) -> Vec<Name> {
        loop {
            let names = {
                let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *names)
            };
            if !names.is_empty() {
                return names.into_iter().collect();
            }
            self.added.notified().await;
        }
    }
}

/// Runs the four controllers until `shutdown`. Ends before only if one of its parts does.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let (streams, write_streams) = reflector::store();
    let (subscriptions, write_subscriptions) = reflector::store();
    let (writers, write_writers) = reflector::store();
    let (namespaces, write_namespaces) = reflector::store();
    let (bootstraps, write_bootstraps) = reflector::store();
    let kinds = Arc::new(Kinds {
        context,
        caches: Caches { streams, subscriptions, writers, namespaces, bootstraps },
        queues: Queues::default(),
        configured: Configured::default(),
        retries: Retries::default(),
        gone: Gone::default(),
        bootstraps: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    let stop = || shutdown.clone();
    tasks.spawn(watches::streams(Arc::clone(&kinds), write_streams, stop()));
    tasks.spawn(watches::subscriptions(Arc::clone(&kinds), write_subscriptions, stop()));
    tasks.spawn(watches::writers(Arc::clone(&kinds), write_writers, stop()));
    tasks.spawn(watches::namespaces(Arc::clone(&kinds), write_namespaces, stop()));
    tasks.spawn(watches::bootstraps(Arc::clone(&kinds), write_bootstraps, stop()));
    tasks.spawn(triggers::trust(Arc::clone(&kinds), stop()));
    // Once for all: of several that wait for one store, kube wakes only the last.
    let is_full = tokio::select! {
        biased;
        is_full = kinds.caches_are_full(&shutdown) => is_full,
        _ended = tasks.join_next() => false,
    };
    if !is_full {
        return;
    }
    let Caches { writers, streams, subscriptions, .. } = &kinds.caches;
    kinds.context.metrics.show(objects::Caches {
        writers: writers.clone(),
        streams: streams.clone(),
        subscriptions: subscriptions.clone(),
    });
    tasks.spawn(stream::run(Arc::clone(&kinds), stop()));
    tasks.spawn(subscription::run(Arc::clone(&kinds), stop()));
    tasks.spawn(bootstrap::run(Arc::clone(&kinds), stop()));
    tasks.spawn(stats::run(Arc::clone(&kinds), stop()));
    // One that ends, ends all: a part that is missing would not be noticed.
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller broke down");
        }
        if !shutdown.is_cancelled() {
            return;
        }
    }
}

impl Kinds {
    /// Waits until every cache holds the whole cluster; false if it is shut down before.
    pub(crate) async fn caches_are_full(&self, shutdown: &CancellationToken) -> bool {
        let Caches { streams, subscriptions, writers, namespaces, bootstraps } = &self.caches;
        let full = async {
            streams.wait_until_ready().await.is_ok()
                && subscriptions.wait_until_ready().await.is_ok()
                && writers.wait_until_ready().await.is_ok()
                && namespaces.wait_until_ready().await.is_ok()
                && bootstraps.wait_until_ready().await.is_ok()
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => false,
            full = full => full,
        }
    }

    pub(crate) fn stream(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<DeserializeGuard<Stream>>> {
        self.caches.streams.get(&ObjectRef::new(name).within(namespace))
    }

    pub(crate) fn subscription(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<DeserializeGuard<Subscription>>> {
        self.caches.subscriptions.get(&ObjectRef::new(name).within(namespace))
    }

    pub(crate) fn writer(&self, name: &WriterName) -> Option<Arc<DeserializeGuard<Writer>>> {
        self.caches.writers.get(&ObjectRef::new(&name.name).within(&name.namespace))
    }

    /// Whether the Writer takes appends. One that is not there is spoken of elsewhere.
    pub(crate) fn service(&self, writer: Option<&WriterName>) -> Service {
        let found = writer.and_then(|name| self.writer(name));
        let found = found.as_ref().and_then(|guarded| guarded.0.as_ref().ok());
        found.map_or(Service::Up, |writer| Service::of(writer, jiff::Timestamp::now()))
    }

    /// Whether nothing can be created in the namespace any more.
    pub(crate) fn is_terminating(&self, namespace: &str) -> bool {
        let found = self.caches.namespaces.get(&ObjectRef::new(namespace));
        found.is_some_and(|found| found.metadata.deletion_timestamp.is_some())
    }

    /// What the ConfigMap of a namespace says now.
    pub(crate) fn bootstrap_of(&self, namespace: &str) -> Option<Arc<Bootstrap>> {
        let key = ObjectRef::new(pyramid_protocol::bootstrap::CONFIG_MAP).within(namespace);
        let map = self.caches.bootstraps.get(&key);
        let mut parsed = self.bootstraps.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(map) = map else {
            parsed.remove(namespace);
            return None;
        };
        let version = map.resource_version();
        if let Some((_, known)) = parsed.get(namespace).filter(|(of, _)| *of == version) {
            return Some(Arc::clone(known));
        }
        let text = map.data.as_ref()?.get(BOOTSTRAP_KEY)?;
        // What cannot be read was not written by us, and is about to be written again.
        let bootstrap = Arc::new(Bootstrap::from_json(text).ok()?);
        parsed.insert(namespace.to_owned(), (version, Arc::clone(&bootstrap)));
        Some(bootstrap)
    }

    pub(crate) fn trust_domain(&self) -> String {
        self.context.trust.borrow().trust_domain.clone()
    }

    /// [`Context::tell`] about this object.
    pub(crate) async fn tell<K>(&self, object: &K, type_: EventType, reason: &str, note: &str)
    where
        K: kube::Resource<DynamicType = ()>,
    {
        self.tell_of(object, None, type_, reason, note).await;
    }

    /// The same, if it is about another object, too.
    pub(crate) async fn tell_of<K>(
        &self,
        object: &K,
        related: Option<ObjectReference>,
        type_: EventType,
        reason: &str,
        note: &str,
    ) where
        K: kube::Resource<DynamicType = ()>,
    {
        let object = object.object_ref(&());
        self.context.tell_of(&object, related, type_, reason, note.to_owned()).await;
    }
}

//! The watches that fill the caches and say what changed.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::store;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource};
use pyramid_crds::{Stream, Subscription, Writer};
use pyramid_protocol::bootstrap::CONFIG_MAP;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::Kinds;
use super::triggers::{StreamTriggers, SubscriptionTriggers, WriterTriggers};
use crate::lean::{make_lean, pages};

pub(super) async fn streams(
    kinds: Arc<Kinds>,
    store: store::Writer<DeserializeGuard<Stream>>,
    shutdown: CancellationToken,
) {
    let api = Api::all(kinds.context.client.clone());
    let mut triggers = StreamTriggers::new(kinds);
    run(api, pages(), store, shutdown, move |event| triggers.on(event)).await;
}

pub(super) async fn subscriptions(
    kinds: Arc<Kinds>,
    store: store::Writer<DeserializeGuard<Subscription>>,
    shutdown: CancellationToken,
) {
    let api = Api::all(kinds.context.client.clone());
    let mut triggers = SubscriptionTriggers::new(kinds);
    run(api, pages(), store, shutdown, move |event| triggers.on(event)).await;
}

pub(super) async fn writers(
    kinds: Arc<Kinds>,
    store: store::Writer<DeserializeGuard<Writer>>,
    shutdown: CancellationToken,
) {
    let api = Api::all(kinds.context.client.clone());
    let mut triggers = WriterTriggers::new(kinds);
    run(api, pages(), store, shutdown, move |event| triggers.on(event)).await;
}

pub(super) async fn namespaces(
    kinds: Arc<Kinds>,
    store: store::Writer<PartialObjectMeta<Namespace>>,
    shutdown: CancellationToken,
) {
    let api = Api::all(kinds.context.client.clone());
    run(api, pages(), store, shutdown, move |event| kinds.on_namespace(event)).await;
}

pub(super) async fn bootstraps(
    kinds: Arc<Kinds>,
    store: store::Writer<ConfigMap>,
    shutdown: CancellationToken,
) {
    let api = Api::all(kinds.context.client.clone());
    // The operator may list and watch them by this name only.
    let config = pages().fields(&format!("metadata.name={CONFIG_MAP}"));
    run(api, config, store, shutdown, move |event| kinds.on_bootstrap(event)).await;
}

/// Tells of each event after the cache holds it.
async fn run<K>(
    api: Api<K>,
    config: watcher::Config,
    store: store::Writer<K>,
    shutdown: CancellationToken,
    mut on: impl FnMut(&Event<K>),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut events = pin!(watch(api, config).default_backoff().modify(make_lean).reflect(store));
    loop {
        let event = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => on(&event),
            Some(Err(error)) => {
                let kind = K::kind(&()).into_owned();
                tracing::warn!(kind, error = &error as &dyn std::error::Error, "watch");
            }
            None => return,
        }
    }
}

//! What is looked at again when an object changes.
//!
//! Numbers in status change all the time and mean nothing to anybody here, so an object counts as
//! changed only if something else of it is different.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::ResourceExt;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use pyramid_crds::condition::{Truth, find, types};
use pyramid_crds::{Stream, Subscription, Writer};
use tokio_util::sync::CancellationToken;

use super::Kinds;
use super::configured::Name;
use super::writers::{Founded, WriterName, stopped};
use crate::bootstrap::namespaces_of;

type Guarded<K> = DeserializeGuard<K>;

/// What matters of an object, as a hash.
fn fingerprint(meta: &ObjectMeta, conditions: &[Condition], more: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&meta.uid, meta.generation, &meta.labels, &meta.annotations, &meta.finalizers)
        .hash(&mut hasher);
    meta.deletion_timestamp.is_some().hash(&mut hasher);
    for one in conditions {
        (&one.type_, &one.status, &one.reason, &one.message, one.observed_generation)
            .hash(&mut hasher);
    }
    more.hash(&mut hasher);
    hasher.finish()
}

/// A Stream's, and the namespaces whose bootstrap holds it.
fn described(guarded: &Guarded<Stream>) -> (u64, BTreeSet<String>) {
    match &guarded.0 {
        Ok(stream) => {
            let status = stream.status.as_ref();
            let conditions = status.map(|one| &*one.conditions).unwrap_or_default();
            let id = status.map(|one| &one.stream_id);
            (fingerprint(&stream.metadata, conditions, &id), namespaces_of(stream))
        }
        Err(bad) => (fingerprint(&bad.metadata, &[], &()), BTreeSet::new()),
    }
}

/// A Subscription's.
fn print(guarded: &Guarded<Subscription>) -> u64 {
    match &guarded.0 {
        Ok(found) => {
            let status = found.status.as_ref();
            let conditions = status.map(|one| &*one.conditions).unwrap_or_default();
            fingerprint(&found.metadata, conditions, &())
        }
        Err(bad) => fingerprint(&bad.metadata, &[], &()),
    }
}

pub(super) struct StreamTriggers {
    kinds: Arc<Kinds>,
    /// Fingerprint, and the namespaces whose bootstrap held it.
    seen: HashMap<ObjectRef<Guarded<Stream>>, (u64, BTreeSet<String>)>,
}

impl StreamTriggers {
    pub(super) fn new(kinds: Arc<Kinds>) -> Self {
        Self { kinds, seen: HashMap::new() }
    }

    pub(super) fn on(&mut self, event: &Event<Guarded<Stream>>) {
        match event {
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => {
                let before = std::mem::take(&mut self.seen);
                let streams = self.kinds.caches.streams.state();
                self.kinds.context.bound.replace(&streams);
                for one in streams {
                    self.seen.insert(ObjectRef::from_obj(&*one), described(&one));
                }
                // A watch that began anew tells of no deletions.
                for gone in before.keys().filter(|one| !self.seen.contains_key(one)) {
                    let namespace = gone.namespace.as_deref().unwrap_or_default();
                    self.kinds.gone.add(Name::stream(namespace, &gone.name));
                }
                self.kinds.everything();
            }
            Event::Apply(guarded) => {
                self.kinds.context.bound.set(guarded);
                let reference = ObjectRef::from_obj(guarded);
                let (print, namespaces) = described(guarded);
                let old = self.seen.insert(reference.clone(), (print, namespaces.clone()));
                if old.as_ref().is_some_and(|(seen, _)| *seen == print) {
                    return;
                }
                let before = old.map(|(_, namespaces)| namespaces).unwrap_or_default();
                self.kinds.look_at_namespaces(namespaces.union(&before));
                self.kinds.queues.streams.push(reference);
                self.kinds.look_at_subscriptions_of(guarded);
            }
            Event::Delete(guarded) => {
                let reference = ObjectRef::from_obj(guarded);
                self.kinds.context.bound.remove(&reference);
                if let Some((_, namespaces)) = self.seen.remove(&reference) {
                    self.kinds.look_at_namespaces(namespaces.iter());
                }
                let (namespace, name) = key(guarded);
                self.kinds.retries.reset(&format!("Stream {namespace}/{name}"));
                self.kinds.gone.add(Name::stream(&namespace, &name));
                self.kinds.look_at_subscriptions_of(guarded);
            }
        }
    }
}

pub(super) struct SubscriptionTriggers {
    kinds: Arc<Kinds>,
    seen: HashMap<ObjectRef<Guarded<Subscription>>, u64>,
}

impl SubscriptionTriggers {
    pub(super) fn new(kinds: Arc<Kinds>) -> Self {
        Self { kinds, seen: HashMap::new() }
    }

    pub(super) fn on(&mut self, event: &Event<Guarded<Subscription>>) {
        match event {
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => {
                let before = std::mem::take(&mut self.seen);
                for one in self.kinds.caches.subscriptions.state() {
                    self.seen.insert(ObjectRef::from_obj(&*one), print(&one));
                }
                for gone in before.keys().filter(|one| !self.seen.contains_key(one)) {
                    let namespace = gone.namespace.as_deref().unwrap_or_default();
                    self.kinds.gone.add(Name::subscription(namespace, &gone.name));
                }
                self.kinds.everything();
            }
            Event::Apply(guarded) => {
                let reference = ObjectRef::from_obj(guarded);
                let print = print(guarded);
                if self.seen.insert(reference.clone(), print) == Some(print) {
                    return;
                }
                self.kinds.look_at_namespaces(guarded.namespace().iter());
                self.kinds.queues.subscriptions.push(reference);
            }
            Event::Delete(guarded) => {
                self.seen.remove(&ObjectRef::from_obj(guarded));
                let (namespace, name) = key(guarded);
                self.kinds.retries.reset(&format!("Subscription {namespace}/{name}"));
                self.kinds.gone.add(Name::subscription(&namespace, &name));
                self.kinds.look_at_namespaces([&namespace]);
            }
        }
    }
}

/// What was last seen of a Writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SeenWriter {
    /// Its messages and counts change nothing for Streams: what is founded does, and why it stopped.
    print: u64,
    is_ready: bool,
}

/// What a change of a Writer means to its Streams and Subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriterNews {
    Nothing,
    /// They are looked at.
    Changed,
    /// They are looked at, and none waits any longer because of what has passed.
    Back,
}

impl SeenWriter {
    fn of(guarded: &Guarded<Writer>) -> Self {
        match &guarded.0 {
            Ok(writer) => {
                let status = writer.status.as_ref();
                let ready = status.and_then(|status| find(&status.conditions, types::READY));
                Self {
                    print: fingerprint(
                        &writer.metadata,
                        &[],
                        &(Founded::of(writer), stopped(writer)),
                    ),
                    is_ready: ready.is_some_and(|ready| ready.status == Truth::True.as_str()),
                }
            }
            Err(bad) => Self { print: fingerprint(&bad.metadata, &[], &()), is_ready: false },
        }
    }

    fn after(self, before: Option<Self>) -> WriterNews {
        let was_ready = before.is_some_and(|before| before.is_ready);
        if self.is_ready && !was_ready {
            return WriterNews::Back;
        }
        let is_same = before.is_some_and(|before| before.print == self.print);
        if is_same { WriterNews::Nothing } else { WriterNews::Changed }
    }
}

pub(super) struct WriterTriggers {
    kinds: Arc<Kinds>,
    seen: HashMap<ObjectRef<Guarded<Writer>>, SeenWriter>,
}

impl WriterTriggers {
    pub(super) fn new(kinds: Arc<Kinds>) -> Self {
        Self { kinds, seen: HashMap::new() }
    }

    pub(super) fn on(&mut self, event: &Event<Guarded<Writer>>) {
        let (writer, news) = match event {
            Event::Init | Event::InitApply(_) => return,
            Event::InitDone => {
                self.kinds.everything();
                return;
            }
            Event::Apply(guarded) => {
                let seen = SeenWriter::of(guarded);
                let before = self.seen.insert(ObjectRef::from_obj(guarded), seen);
                (guarded, seen.after(before))
            }
            Event::Delete(guarded) => {
                self.seen.remove(&ObjectRef::from_obj(guarded));
                (guarded, WriterNews::Changed)
            }
        };
        let (namespace, name) = key(writer);
        let writer = WriterName { namespace, name };
        match news {
            WriterNews::Nothing => {}
            WriterNews::Changed => self.kinds.look_at_users_of(&writer),
            WriterNews::Back => self.kinds.answers(&writer),
        }
    }
}

/// All namespaces get their ConfigMap anew when the authority changes.
pub(super) async fn trust(kinds: Arc<Kinds>, shutdown: CancellationToken) {
    let mut trust = kinds.context.trust.clone();
    loop {
        let changed = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = trust.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        kinds.everything();
    }
}

impl Kinds {
    pub(super) fn on_namespace(&self, event: &Event<PartialObjectMeta<Namespace>>) {
        match event {
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => self.everything(),
            Event::Apply(namespace) | Event::Delete(namespace) => {
                self.look_at_all_in(&namespace.name_any());
            }
        }
    }

    pub(super) fn on_bootstrap(&self, event: &Event<ConfigMap>) {
        match event {
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => self.everything(),
            Event::Apply(map) | Event::Delete(map) => {
                self.look_at_all_in(&map.namespace().unwrap_or_default());
            }
        }
    }

    fn everything(&self) {
        let Self { caches, queues, .. } = self;
        queues.streams.extend(caches.streams.state().iter().map(|one| ObjectRef::from_obj(&**one)));
        let subscriptions = caches.subscriptions.state();
        queues.subscriptions.extend(subscriptions.iter().map(|one| ObjectRef::from_obj(&**one)));
        let namespaces = caches.namespaces.state();
        queues.namespaces.extend(namespaces.iter().map(|one| ObjectRef::from_obj(&**one)));
    }

    fn look_at_namespaces<'a>(&self, namespaces: impl IntoIterator<Item = &'a String>) {
        self.queues.namespaces.extend(namespaces.into_iter().map(|name| ObjectRef::new(name)));
    }

    fn look_at_all_in(&self, namespace: &str) {
        self.look_at_namespaces([&namespace.to_owned()]);
        let streams =
            self.caches.streams.state_filter(|one| one.namespace().as_deref() == Some(namespace));
        self.queues.streams.extend(streams.iter().map(|one| ObjectRef::from_obj(&**one)));
        let subscriptions = self
            .caches
            .subscriptions
            .state_filter(|one| one.namespace().as_deref() == Some(namespace));
        let subscriptions = subscriptions.iter().map(|one| ObjectRef::from_obj(&**one));
        self.queues.subscriptions.extend(subscriptions);
    }

    /// Subscriptions that name the Stream, or may select it.
    fn look_at_subscriptions_of(&self, stream: &Guarded<Stream>) {
        let (namespace, name) = key(stream);
        let uses = |guarded: &Guarded<Subscription>| {
            let Ok(subscription) = &guarded.0 else { return false };
            let own = subscription.namespace().unwrap_or_default();
            let named = subscription.spec.streams.iter().flatten();
            let mut named = named.map(|one| (one.namespace_from(&own), one.name.as_str()));
            (subscription.spec.selector.is_some() && own == namespace)
                || named.any(|one| one == (namespace.as_str(), name.as_str()))
        };
        let found = self.caches.subscriptions.state_filter(uses);
        self.queues.subscriptions.extend(found.iter().map(|one| ObjectRef::from_obj(&**one)));
        self.look_at_namespaces(
            found.iter().filter_map(|one| one.namespace()).collect::<Vec<_>>().iter(),
        );
    }

    /// The Writer answers, after it did not: who waited for it waits no longer.
    pub(crate) fn answers(&self, writer: &WriterName) {
        self.configured.answers(writer);
        for stream in self.streams_of(writer) {
            let (namespace, name) = key(&*stream);
            self.retries.reset(&format!("Stream {namespace}/{name}"));
        }
        for subscription in self.caches.subscriptions.state() {
            let (namespace, name) = key(&*subscription);
            self.retries.reset(&format!("Subscription {namespace}/{name}"));
        }
        self.gone.try_again();
        self.look_at_users_of(writer);
    }

    /// Streams that are bound to the Writer, or to none.
    fn streams_of(&self, writer: &WriterName) -> Vec<Arc<Guarded<Stream>>> {
        let uses = |guarded: &Guarded<Stream>| {
            let Ok(stream) = &guarded.0 else { return false };
            let own = stream.namespace().unwrap_or_default();
            let bound = stream.spec.writer_ref.as_ref().map(|one| WriterName::named(one, &own));
            bound.is_none_or(|bound| bound == *writer)
        };
        self.caches.streams.state_filter(uses)
    }

    /// Its Streams, the namespaces that they are used from, and all Subscriptions: which Writer one
    /// has follows from its Streams.
    fn look_at_users_of(&self, writer: &WriterName) {
        let streams = self.streams_of(writer);
        self.queues.streams.extend(streams.iter().map(|one| ObjectRef::from_obj(&**one)));
        let namespaces: BTreeSet<String> =
            streams.iter().filter_map(|one| one.0.as_ref().ok()).flat_map(namespaces_of).collect();
        self.look_at_namespaces(namespaces.iter());
        let subscriptions = self.caches.subscriptions.state();
        self.queues
            .subscriptions
            .extend(subscriptions.iter().map(|one| ObjectRef::from_obj(&**one)));
    }
}

/// Namespace and name.
fn key<K: ResourceExt>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the watch tells of it.
    fn seen(ready: &str, members: &str, streams: i32) -> SeenWriter {
        let writer: Writer = serde_saphyr::from_str(&format!(
            "
metadata: {{name: w, namespace: shop, uid: u, generation: 1}}
spec: {{objectStorage: {{bucket: abc}}}}
status:
  clusterID: 00112233445566778899aabbccddeeff
  streams: {streams}
  members: {members}
  conditions:
  - {{type: Ready, status: '{ready}', reason: Ready, message: '',
     lastTransitionTime: '2030-01-01T00:00:00Z'}}"
        ))
        .unwrap();
        SeenWriter::of(&DeserializeGuard(Ok(writer)))
    }

    const MEMBER: &str = "[{name: w-writer-0, id: '1'}]";

    #[test]
    fn a_writer_that_becomes_ready_ends_all_waits_for_it() {
        let ready = seen("True", MEMBER, 1);
        for before in [Some(seen("False", MEMBER, 1)), Some(seen("Unknown", MEMBER, 1)), None] {
            assert_eq!(ready.after(before), WriterNews::Back, "{before:?}");
        }
        assert_eq!(ready.after(Some(ready)), WriterNews::Nothing);
    }

    #[test]
    fn a_writer_that_goes_away_has_its_streams_looked_at_and_one_that_counts_them_has_not() {
        let ready = seen("True", MEMBER, 1);
        let away = seen("False", MEMBER, 1);
        assert_eq!(away.after(Some(ready)), WriterNews::Changed);
        assert_eq!(seen("False", MEMBER, 2).after(Some(away)), WriterNews::Nothing);
        assert_eq!(seen("Unknown", MEMBER, 1).after(Some(ready)), WriterNews::Nothing);
        assert_eq!(seen("True", MEMBER, 2).after(Some(ready)), WriterNews::Nothing);
    }

    #[test]
    fn a_writer_that_is_founded_has_its_streams_looked_at_before_it_is_ready() {
        let founded = seen("False", MEMBER, 0);
        assert_eq!(founded.after(Some(seen("False", "[]", 0))), WriterNews::Changed);
        assert_eq!(founded.after(None), WriterNews::Changed);
    }
}

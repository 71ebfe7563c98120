//! [`Objects`]: how Writers, Streams and Subscriptions stand, as their status says.
//!
//! It is looked at when somebody asks, in the caches of the replica that leads: two replicas would
//! count every object twice, and the one that does not lead has no cache of all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};
use pyramid_crds::condition::{Truth, find, types};
use pyramid_crds::{Stream, Subscription, Writer};
use pyramid_telemetry::metrics::{Collector, Scrape};

/// Writers that are shown one by one. If there are more, only their numbers are.
const WRITERS_MAX: usize = 1_000;

/// What a condition can say.
const TRUTHS: [Truth; 3] = [Truth::True, Truth::False, Truth::Unknown];
/// Conditions that are there only while they hold.
const ABSENT_IF_FALSE: [&str; 2] = [types::STALLED, types::DELETING];

const WRITER_TYPES: &[&str] = &[
    types::READY,
    types::PROGRESSING,
    types::STORAGE_READY,
    types::OBJECT_STORAGE_READY,
    types::STALLED,
    types::DELETING,
];
const STREAM_TYPES: &[&str] =
    &[types::READY, types::ACCEPTED, types::PROGRAMMED, types::STALLED, types::DELETING];
const SUBSCRIPTION_TYPES: &[&str] =
    &[types::READY, types::RESOLVED_REFS, types::PROGRAMMED, types::DELIVERING, types::STALLED];

/// One that cannot be read is there all the same.
type Guarded<K> = DeserializeGuard<K>;

/// What is looked at. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Objects(Arc<Mutex<Option<Caches>>>);

/// Caches that hold the whole cluster.
pub(crate) struct Caches {
    pub(crate) writers: Store<Guarded<Writer>>,
    pub(crate) streams: Store<Guarded<Stream>>,
    pub(crate) subscriptions: Store<Guarded<Subscription>>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("are_shown", &self.caches().is_some()).finish()
    }
}

impl Objects {
    /// From now on these are shown.
    pub(crate) fn show(&self, caches: Caches) {
        *self.caches() = Some(caches);
    }

    /// From now on nothing is.
    pub(crate) fn hide(&self) {
        *self.caches() = None;
    }

    fn caches(&self) -> MutexGuard<'_, Option<Caches>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Objects {
    fn collect(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        let mut found = Found::default();
        if let Some(caches) = &*self.caches() {
            found.look_at(caches);
        }
        found.write(scrape)
    }
}

/// What is said of one object: all its types.
type Said = Vec<(&'static str, Truth)>;

/// A Writer.
struct One {
    namespace: String,
    name: String,
    said: Said,
    desired: i64,
    ready: i64,
}

#[derive(Default)]
struct Found {
    writers: Vec<One>,
    /// By kind, type and what it says.
    objects: BTreeMap<(&'static str, &'static str, &'static str), i64>,
}

impl Found {
    fn look_at(&mut self, caches: &Caches) {
        let of_writer = |writer: &Writer| writer.status.as_ref().map(|it| it.conditions.clone());
        let of_stream = |stream: &Stream| stream.status.as_ref().map(|it| it.conditions.clone());
        let of_subscription =
            |found: &Subscription| found.status.as_ref().map(|it| it.conditions.clone());
        let writers = self.count("Writer", WRITER_TYPES, &caches.writers, of_writer);
        self.count("Stream", STREAM_TYPES, &caches.streams, of_stream);
        let subscriptions = &caches.subscriptions;
        self.count("Subscription", SUBSCRIPTION_TYPES, subscriptions, of_subscription);
        if writers.len() <= WRITERS_MAX {
            self.writers = writers.into_iter().map(|(writer, said)| one(&writer, said)).collect();
        }
        self.writers.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    }

    fn count<K>(
        &mut self,
        kind: &'static str,
        types: &[&'static str],
        store: &Store<Guarded<K>>,
        conditions: impl Fn(&K) -> Option<Vec<Condition>>,
    ) -> Vec<(Arc<Guarded<K>>, Said)>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        for (r#type, truth) in types.iter().flat_map(|it| TRUTHS.map(|truth| (*it, truth))) {
            self.objects.insert((kind, r#type, truth.as_str()), 0);
        }
        let look = |object: Arc<Guarded<K>>| {
            let said = match &object.0 {
                Ok(object) => said(types, &conditions(object).unwrap_or_default()),
                Err(_) => unreadable(types),
            };
            (object, said)
        };
        let all: Vec<_> = store.state().into_iter().map(look).collect();
        for (r#type, truth) in all.iter().flat_map(|(_, said)| said) {
            *self.objects.entry((kind, r#type, truth.as_str())).or_default() += 1;
        }
        all
    }

    fn write(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        scrape.gauges(
            "objects",
            None,
            "Writers, Streams and Subscriptions, by each of their conditions",
            self.objects.iter().map(|((kind, r#type, status), count)| {
                ([("kind", *kind), ("type", *r#type), ("status", *status)], *count)
            }),
        )?;
        scrape.gauges(
            "condition",
            None,
            "1 for what a condition of a Writer says",
            self.writers.iter().flat_map(One::conditions),
        )?;
        scrape.gauges(
            "writer_replicas",
            None,
            "Replicas of a Writer: what its spec asks for, and how many are ready",
            self.writers.iter().flat_map(One::replicas),
        )
    }
}

impl One {
    /// Labels and value: 1 for what a condition says, 0 for what it does not say.
    fn conditions(&self) -> Vec<([(&'static str, &str); 5], i64)> {
        let labels = |r#type, truth: Truth| {
            [
                ("kind", "Writer"),
                ("namespace", self.namespace.as_str()),
                ("name", self.name.as_str()),
                ("type", r#type),
                ("status", truth.as_str()),
            ]
        };
        let of = |(r#type, is): &(&'static str, Truth)| {
            TRUTHS.map(|truth| (labels(*r#type, truth), i64::from(truth == *is)))
        };
        self.said.iter().flat_map(of).collect()
    }

    fn replicas(&self) -> [([(&'static str, &str); 3], i64); 2] {
        let of = |state| {
            [("namespace", self.namespace.as_str()), ("name", self.name.as_str()), ("state", state)]
        };
        [(of("desired"), self.desired), (of("ready"), self.ready)]
    }
}

fn said(types: &[&'static str], conditions: &[Condition]) -> Said {
    let truth = |r#type: &'static str| {
        let absent = if ABSENT_IF_FALSE.contains(&r#type) { Truth::False } else { Truth::Unknown };
        let found = find(conditions, r#type).map(|condition| condition.status.as_str());
        let of = |text: &str| TRUTHS.into_iter().find(|truth| truth.as_str() == text);
        (r#type, found.map_or(absent, |text| of(text).unwrap_or(Truth::Unknown)))
    };
    types.iter().map(|r#type| truth(r#type)).collect()
}

/// What the operator says of an object whose spec it cannot read.
fn unreadable(types: &[&'static str]) -> Said {
    let truth = |r#type| match r#type {
        types::STALLED => Truth::True,
        types::READY | types::DELETING => Truth::False,
        _ => Truth::Unknown,
    };
    types.iter().map(|r#type| (*r#type, truth(*r#type))).collect()
}

fn one(guarded: &Guarded<Writer>, said: Said) -> One {
    let writer = guarded.0.as_ref().ok();
    let ready = writer.and_then(|writer| writer.status.as_ref()?.ready_replicas);
    One {
        namespace: guarded.namespace().unwrap_or_default(),
        name: guarded.name_any(),
        said,
        desired: writer.map_or(0, |writer| writer.spec.replicas.into()),
        ready: ready.unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests;

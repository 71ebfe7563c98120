//! [`Pods`]: the pods that ask for a pusher, and what is the matter with them. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use pyramid_crds::Subscription;
use pyramid_crds::annotation::{APPEND, FALSE, INJECT, INJECTED_BY, SUBSCRIPTIONS};
use tokio::time::Instant;

use crate::inject::{Standing, Subscriptions};

/// Pod and Subscription are often created together, in either order.
const SUBSCRIPTION_WAIT: Duration = Duration::from_secs(30);
/// What a pod may name; the webhook lets no more in.
const SUBSCRIPTIONS_MAX: usize = 16;

/// What is the matter, and with what.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    matter: Matter,
    pod: ObjectReference,
    owner: Option<ObjectReference>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matter {
    SidecarMissing,
    /// The one with this name.
    SubscriptionMissing(String),
}

impl Finding {
    /// As events name it.
    pub(super) fn reason(&self) -> &'static str {
        match &self.matter {
            Matter::SidecarMissing => "SidecarMissing",
            Matter::SubscriptionMissing(_) => "SubscriptionMissing",
        }
    }

    /// What to do.
    pub(super) fn note(&self) -> String {
        let pod = self.pod.name.as_deref().unwrap_or_default();
        match &self.matter {
            Matter::SidecarMissing => format!(
                "pod {pod} asks for Pyramid and has no pusher, since it was created while the \
                 webhook was not there; delete the pod, or restart what made it"
            ),
            Matter::SubscriptionMissing(name) => {
                format!("pod {pod} names Subscription {name}, which does not exist; create it")
            }
        }
    }

    /// What the events of one Pod differ in: without it, the second Subscription that is missing
    /// would be counted as the first.
    pub(super) fn related(&self) -> Option<ObjectReference> {
        match &self.matter {
            Matter::SidecarMissing => None,
            Matter::SubscriptionMissing(name) => {
                let namespace = self.pod.namespace.as_deref().unwrap_or_default();
                Some(ObjectRef::<Subscription>::new(name).within(namespace).into())
            }
        }
    }

    /// Who is told.
    pub(super) fn objects(&self) -> impl Iterator<Item = &ObjectReference> {
        [&self.pod].into_iter().chain(&self.owner)
    }
}

/// Namespaces in which the webhook is not asked.
#[derive(Debug)]
pub(super) struct Namespaces {
    always: BTreeSet<String>,
    disabled: BTreeSet<String>,
    is_complete: bool,
}

impl Namespaces {
    /// These, and those that are labelled so.
    pub(super) fn excluding(always: impl Iterator<Item = String>) -> Self {
        Self { always: always.collect(), disabled: BTreeSet::new(), is_complete: false }
    }

    /// Whether all have been seen once.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Takes in what the watch of labelled namespaces says.
    pub(super) fn apply(&mut self, event: Event<PartialObjectMeta<Namespace>>) {
        match event {
            Event::Init => {
                self.disabled.clear();
                self.is_complete = false;
            }
            Event::InitApply(namespace) | Event::Apply(namespace) => {
                self.disabled.extend(namespace.metadata.name);
            }
            Event::InitDone => self.is_complete = true,
            Event::Delete(namespace) => {
                self.disabled.remove(&namespace.metadata.name.unwrap_or_default());
            }
        }
    }

    fn excludes(&self, namespace: &str) -> bool {
        self.always.contains(namespace) || self.disabled.contains(namespace)
    }
}

/// The pods that ask, by uid.
#[derive(Debug, Default)]
pub(super) struct Pods {
    noted: BTreeMap<String, Noted>,
    /// While a listing goes on: the pods that ask in it so far.
    listed: Option<BTreeSet<String>>,
    is_complete: bool,
}

#[derive(Debug)]
struct Noted {
    pod: ObjectReference,
    owner: Option<ObjectReference>,
    has_pusher: bool,
    subscriptions: Vec<String>,
    since: Instant,
    told_of_sidecar: bool,
    told_of: BTreeSet<String>,
}

impl Pods {
    /// Whether all have been seen once.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Takes in what the watch of pods says.
    pub(super) fn apply(&mut self, event: Event<PartialObjectMeta<Pod>>, now: Instant) {
        match event {
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::InitApply(pod) | Event::Apply(pod) => self.note(pod.metadata, now),
            Event::InitDone => {
                // What was deleted while the watch was broken is not in the listing.
                if let Some(listed) = self.listed.take() {
                    self.noted.retain(|uid, _| listed.contains(uid));
                }
                self.is_complete = true;
            }
            Event::Delete(pod) => {
                self.noted.remove(&pod.metadata.uid.unwrap_or_default());
            }
        }
    }

    /// Pods that ask for a pusher and have none.
    pub(super) fn missing_sidecar(&self, namespaces: &Namespaces) -> i64 {
        let missing = self.noted.values().filter(|noted| noted.misses_sidecar(namespaces));
        missing.count().try_into().unwrap_or(i64::MAX)
    }

    /// What has not been told yet, at most `count_max` of it; that is then told.
    pub(super) fn findings(
        &mut self,
        namespaces: &Namespaces,
        subscriptions: &dyn Subscriptions,
        now: Instant,
        count_max: usize,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for noted in self.noted.values_mut() {
            for matter in noted.matters(namespaces, subscriptions, now) {
                if findings.len() == count_max {
                    return findings;
                }
                match &matter {
                    Matter::SidecarMissing => noted.told_of_sidecar = true,
                    Matter::SubscriptionMissing(name) => {
                        noted.told_of.insert(name.clone());
                    }
                }
                let (pod, owner) = (noted.pod.clone(), noted.owner.clone());
                findings.push(Finding { matter, pod, owner });
            }
        }
        findings
    }

    fn note(&mut self, metadata: ObjectMeta, now: Instant) {
        let Some(uid) = metadata.uid.clone() else { return };
        let Some(mut noted) = Noted::read(metadata, now) else {
            self.noted.remove(&uid);
            return;
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.clone());
        }
        if let Some(before) = self.noted.remove(&uid) {
            noted.since = before.since;
            noted.told_of_sidecar = before.told_of_sidecar;
            noted.told_of = before.told_of;
        }
        self.noted.insert(uid, noted);
    }
}

impl Noted {
    /// `None`: it asks for nothing, or is on its way out.
    fn read(metadata: ObjectMeta, now: Instant) -> Option<Self> {
        let annotations = metadata.annotations.unwrap_or_default();
        let names = annotations.get(SUBSCRIPTIONS);
        let asks = names.is_some() || annotations.contains_key(APPEND);
        let opts_out = annotations.get(INJECT).is_some_and(|value| value.trim() == FALSE);
        if !asks || opts_out || metadata.deletion_timestamp.is_some() {
            return None;
        }
        let subscriptions = names
            .into_iter()
            .flat_map(|names| names.split(','))
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .take(SUBSCRIPTIONS_MAX)
            .map(str::to_owned)
            .collect();
        let owners = metadata.owner_references.unwrap_or_default();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true));
        let namespace = metadata.namespace;
        Some(Self {
            owner: owner.map(|owner| ObjectReference {
                api_version: Some(owner.api_version),
                kind: Some(owner.kind),
                name: Some(owner.name),
                namespace: namespace.clone(),
                uid: Some(owner.uid),
                ..ObjectReference::default()
            }),
            pod: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: metadata.name,
                namespace,
                uid: metadata.uid,
                ..ObjectReference::default()
            },
            has_pusher: annotations.contains_key(INJECTED_BY),
            subscriptions,
            since: now,
            told_of_sidecar: false,
            told_of: BTreeSet::new(),
        })
    }

    fn namespace(&self) -> &str {
        self.pod.namespace.as_deref().unwrap_or_default()
    }

    fn misses_sidecar(&self, namespaces: &Namespaces) -> bool {
        !self.has_pusher && !namespaces.excludes(self.namespace())
    }

    /// What is the matter and was not told.
    fn matters(
        &self,
        namespaces: &Namespaces,
        subscriptions: &dyn Subscriptions,
        now: Instant,
    ) -> Vec<Matter> {
        if self.misses_sidecar(namespaces) {
            // The one mistake hides the other.
            return if self.told_of_sidecar { Vec::new() } else { vec![Matter::SidecarMissing] };
        }
        let is_late = now.saturating_duration_since(self.since) >= SUBSCRIPTION_WAIT;
        if !self.has_pusher || !is_late {
            return Vec::new();
        }
        let namespace = self.namespace();
        let missing = |name: &&String| {
            // Whether the account is the right one cannot be seen in metadata, and the webhook has
            // looked at it.
            !self.told_of.contains(*name)
                && subscriptions.standing(namespace, name, "") == Standing::Missing
        };
        let missing = self.subscriptions.iter().filter(missing);
        missing.map(|name| Matter::SubscriptionMissing(name.clone())).collect()
    }
}

#[cfg(test)]
mod tests;

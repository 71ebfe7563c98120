//! What is said about a Writer: its status, whole, as a function of what was seen.

use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::runtime::events::EventType;
use pyramid_crds::condition::{Observation, Truth, find, reasons, types};
use pyramid_crds::writer::WriterStatus;

use super::children::{self, Parent};
use super::observe::{self, Input, Live};
use super::plan::{DataSeen, Observed, SizeSeen, Step, Stop, UNKNOWN_NODE, Wait};
use crate::settings::Settings;

/// Text of the cluster's own that is repeated at most. Unit: bytes.
const TROUBLE_BYTES_MAX: usize = 512;

/// All that the status is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) parent: Parent<'a>,
    pub(crate) settings: &'a Settings,
    pub(crate) live: &'a Live,
    pub(crate) seen: &'a Observed,
    /// With which the pass ended.
    pub(crate) step: &'a Step,
}

/// Whether, why, and what to do.
type Verdict = (Truth, &'static str, String);

impl Facts<'_> {
    /// The whole status. Conditions that did not change keep their time.
    pub(crate) fn status(&self, now: &Time) -> WriterStatus {
        let writer = self.parent.writer;
        let previous = writer.status.clone().unwrap_or_default();
        let generation = writer.metadata.generation.unwrap_or_default();
        let set = self.live.set.as_ref().and_then(|set| set.status.as_ref());
        let conditions = self.conditions(&Observation {
            previous: &previous.conditions,
            generation,
            now: now.clone(),
        });
        let streams = i32::try_from(self.live.streams).unwrap_or(i32::MAX);
        WriterStatus {
            observed_generation: Some(generation),
            replicas: Some(set.map_or(0, |set| set.replicas)),
            ready_replicas: Some(set.and_then(|set| set.ready_replicas).unwrap_or(0)),
            selector: Some(children::selector_text(self.parent.name)),
            leader: self.leads().then(|| self.parent.names().pod()),
            streams: Some(streams),
            cluster_id: previous.cluster_id,
            image: Some(self.image()),
            members: previous.members,
            conditions,
        }
    }

    fn image(&self) -> String {
        let running = self
            .live
            .pod
            .as_ref()
            .and_then(|pod| pod.spec.as_ref()?.containers.first()?.image.clone());
        running.unwrap_or_else(|| children::image(self.parent, self.settings).to_owned())
    }

    fn leads(&self) -> bool {
        matches!(self.seen.data, DataSeen::Member { leads: true, .. })
    }

    /// It is founded, and its replica takes appends.
    fn serves(&self) -> bool {
        let is_pod_ready = self.seen.pod.as_ref().is_some_and(|pod| pod.is_ready);
        self.seen.member.is_some() && self.leads() && is_pod_ready
    }

    fn conditions(&self, look: &Observation<'_>) -> Vec<Condition> {
        let verdicts = [
            (types::READY, Some(self.ready())),
            (types::PROGRESSING, Some(self.progressing())),
            (types::STORAGE_READY, Some(self.storage_ready())),
            (types::OBJECT_STORAGE_READY, Some(self.object_storage_ready())),
            (types::STALLED, self.stalled()),
            (types::DELETING, self.deleting()),
        ];
        verdicts
            .into_iter()
            .filter_map(|(r#type, verdict)| {
                let (truth, reason, message) = verdict?;
                Some(look.condition(r#type, truth, reason, message))
            })
            .collect()
    }

    fn ready(&self) -> Verdict {
        if let Step::Stop(stop) = self.step
            && !(stop.leaves_it_serving() && self.serves())
        {
            let (reason, message) = self.stop(stop);
            return (Truth::False, reason, message);
        }
        if self.step == &Step::Wait(Wait::EarlierWriter)
            || self.step == &Step::Wait(Wait::EarlierClaim)
        {
            let message = "waits until what an earlier Writer of this name has left is gone";
            return (Truth::False, reasons::PENDING, message.to_owned());
        }
        if self.step == &Step::Wait(Wait::Missing) {
            return (Truth::False, reasons::INPUT_MISSING, format!("make {}", self.missing()));
        }
        let Some(member) = &self.seen.member else {
            let message = format!("waits for the first replica{}", self.trouble());
            return (Truth::False, reasons::BOOTSTRAPPING, message);
        };
        if self.serves() {
            return (Truth::True, reasons::READY, "takes appends".to_owned());
        }
        if member.node_id == UNKNOWN_NODE {
            let message = format!(
                "goes on with the volume of an earlier Writer; waits for the replica{}",
                self.trouble()
            );
            return (Truth::False, reasons::ADOPTING_VOLUMES, message);
        }
        let is_pod_ready = self.seen.pod.as_ref().is_some_and(|pod| pod.is_ready);
        if let (true, Some(Err(error))) = (is_pod_ready, &self.live.answer) {
            let message = format!("the replica is ready, but the operator cannot ask it: {error}");
            return (Truth::Unknown, reasons::ADMIN_UNREACHABLE, message);
        }
        let message = format!("no replica leads{}", self.trouble());
        (Truth::False, reasons::NO_LEADER, message)
    }

    fn progressing(&self) -> Verdict {
        let yes = |reason, message: &str| (Truth::True, reason, message.to_owned());
        match self.step {
            Step::Stop(_) => {
                (Truth::False, reasons::STALLED, "stands still until somebody acts".to_owned())
            }
            Step::Stable | Step::Gone => (Truth::False, reasons::STABLE, String::new()),
            Step::Wait(Wait::Growth) | Step::GrowClaim { .. } => {
                yes(reasons::EXPANDING_VOLUMES, "the volume grows")
            }
            Step::Wait(Wait::Streams | Wait::Deletion)
            | Step::DeleteSet { .. }
            | Step::DeleteClaim { .. } => yes(reasons::DELETING, "the Writer is being deleted"),
            Step::Wait(_)
            | Step::AddFinalizer
            | Step::RemoveFinalizer
            | Step::NameCluster
            | Step::AdoptCluster { .. }
            | Step::CreateKek
            | Step::ApplyTls
            | Step::ApplyChildren
            | Step::Bootstrap { .. }
            | Step::RecordMember { .. }
            | Step::StampClaim { .. }
            | Step::EvictPod { .. } => match &self.seen.member {
                None => yes(reasons::BOOTSTRAPPING, "the first replica comes up"),
                Some(member) if member.node_id == UNKNOWN_NODE => {
                    yes(reasons::ADOPTING_VOLUMES, "the replica comes up on a kept volume")
                }
                Some(_) => yes(reasons::ROLLING_UPDATE, "the replica comes up"),
            },
        }
    }

    fn storage_ready(&self) -> Verdict {
        if let Step::Stop(stop @ (Stop::VolumeLost | Stop::ForeignVolume(_))) = self.step {
            let (reason, message) = self.stop(stop);
            return (Truth::False, reason, message);
        }
        let name = self.parent.names().claim();
        let Some(claim) = self.seen.claim.as_ref().filter(|claim| claim.is_bound) else {
            let message = format!("PersistentVolumeClaim {name} is not bound{}", self.trouble());
            return (Truth::False, reasons::VOLUMES_PENDING, message);
        };
        let size = &self.parent.writer.spec.storage.size;
        match claim.size {
            SizeSeen::Fixed => {
                let message = format!(
                    "PersistentVolumeClaim {name} is smaller than storage.size {size}, and its \
                     StorageClass does not let volumes grow; the Writer goes on with what it has"
                );
                (Truth::False, reasons::EXPANSION_UNSUPPORTED, message)
            }
            SizeSeen::Enough | SizeSeen::Growing | SizeSeen::Small => {
                (Truth::True, reasons::VOLUMES_BOUND, String::new())
            }
        }
    }

    fn object_storage_ready(&self) -> Verdict {
        let inputs = [Input::Credentials, Input::Authorities];
        let missing = self.live.missing.iter().find(|missing| inputs.contains(&missing.input));
        if let Some(missing) = missing {
            let reason = match missing.input {
                Input::Credentials => reasons::CREDENTIALS_MISSING,
                Input::Key | Input::Authorities => reasons::INPUT_MISSING,
            };
            return (Truth::False, reason, format!("make {}", missing.text));
        }
        match &self.live.answer {
            Some(Ok(info)) if !info.shipping_error.is_empty() => {
                let message = format!(
                    "chunks wait in the Writer and are shipped later: {}",
                    shortened(&info.shipping_error)
                );
                (Truth::False, reasons::UNREACHABLE, message)
            }
            Some(Ok(_)) if self.leads() => (Truth::True, reasons::REACHABLE, String::new()),
            Some(_) | None => (Truth::Unknown, reasons::PENDING, "no replica leads".to_owned()),
        }
    }

    fn stalled(&self) -> Option<Verdict> {
        let Step::Stop(stop) = self.step else {
            return None;
        };
        let (reason, message) = self.stop(stop);
        Some((Truth::True, reason, message))
    }

    fn deleting(&self) -> Option<Verdict> {
        let deletion = self.seen.deletion?;
        if deletion.streams > 0 {
            let message = format!(
                "{} Streams are bound to this Writer and would lose their records; delete them first",
                deletion.streams
            );
            return Some((Truth::False, reasons::STREAMS_BOUND, message));
        }
        Some((Truth::True, reasons::DELETING, "replicas and volumes go".to_owned()))
    }

    /// Reason, and what a person has to do.
    fn stop(&self, stop: &Stop) -> (&'static str, String) {
        let Parent { name, namespace, .. } = self.parent;
        let names = self.parent.names();
        match stop {
            Stop::NamespaceNotEnabled => (
                reasons::NAMESPACE_NOT_ENABLED,
                format!(
                    "the operator may not run Writers in namespace {namespace}; add it to the \
                     chart's writerNamespaces"
                ),
            ),
            Stop::ReplicasNotSupported => (
                reasons::REPLICAS_NOT_SUPPORTED,
                format!(
                    "this version runs Writers of one replica; nothing was changed for {} replicas, \
                     set spec.replicas to 1",
                    self.seen.replicas
                ),
            ),
            Stop::SizeUnreadable => (
                reasons::INVALID_SPEC,
                format!(
                    "storage.size {} is no size that the operator can reckon with; nothing was \
                     changed, write it in whole bytes with a suffix such as Gi",
                    self.parent.writer.spec.storage.size
                ),
            ),
            Stop::Refused(words) => (
                reasons::REFUSED_BY_SERVER,
                format!(
                    "the API server refuses a step towards the spec, which is tried again; mend the \
                     spec, or what forbids it: {}",
                    shortened(words)
                ),
            ),
            Stop::ForeignChild(foreign) => (
                reasons::FOREIGN_CHILD,
                format!(
                    "{} belongs to {} and is left alone; remove it, or give the Writer another name",
                    foreign.child, foreign.owner
                ),
            ),
            Stop::KekLost => (
                reasons::KEY_LOST,
                format!(
                    "Secret {namespace}/{} with the key of all data in the bucket is gone; restore \
                     it from your copy, and do not restart the Pod meanwhile: it still works with \
                     the key, and a new one cannot open what the old one has closed",
                    self.kek()
                ),
            ),
            Stop::VolumeLost => (
                reasons::VOLUME_LOST,
                format!(
                    "PersistentVolumeClaim {namespace}/{} is empty, but it held the log of this \
                     Writer; bring the volume back, or begin anew: delete the Writer {name}, \
                     then this claim, and make the Writer again; what was shipped stays in the bucket",
                    names.claim()
                ),
            ),
            Stop::ForeignVolume(words) => (
                reasons::FOREIGN_VOLUME,
                format!(
                    "PersistentVolumeClaim {namespace}/{} is not this Writer's: {words}; bring the \
                     right volume back, or give the Writer another name",
                    names.claim()
                ),
            ),
        }
    }

    /// The Secret with the key.
    fn kek(&self) -> String {
        let encryption = self.parent.writer.spec.encryption.as_ref();
        encryption.map_or_else(|| self.parent.names().kek(), |of| of.key_secret_ref.name.clone())
    }

    fn missing(&self) -> String {
        self.seen.missing.join(", and ")
    }

    /// What keeps the Pod from being ready, with a colon in front; empty if nothing is known.
    fn trouble(&self) -> String {
        if !self.seen.missing.is_empty() {
            return format!(": make {}", self.missing());
        }
        let trouble = self.live.pod.as_ref().and_then(trouble);
        trouble.map_or_else(String::new, |trouble| format!(": {}", shortened(&trouble)))
    }
}

/// Why a Pod is not ready, in the words of the cluster.
fn trouble(pod: &Pod) -> Option<String> {
    if observe::is_pod_ready(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        return condition.message.clone();
    }
    let container = status.container_statuses.iter().flatten().next()?;
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    // The last line of its log says more than that it is started again later.
    if let Some(ended) = ended.filter(|ended| ended.exit_code != 0) {
        let text = last_words(ended.message.as_deref().unwrap_or_default());
        return Some(format!("it ended with code {}: {text}", ended.exit_code));
    }
    let ContainerState { waiting, .. } = container.state.as_ref()?;
    let waiting = waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let message = waiting.message.as_deref().unwrap_or_default();
    let text = [reason, message].into_iter().filter(|text| !text.is_empty());
    Some(text.collect::<Vec<_>>().join(": "))
}

/// What the end of a log says: its last line. Of a line in JSON the message and the error.
fn last_words(log: &str) -> String {
    let last = log.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let line: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
    let fields = ["message", "error"].map(|name| line.get(name).and_then(|value| value.as_str()));
    let words: Vec<&str> = fields.into_iter().flatten().collect();
    if words.is_empty() { last.to_owned() } else { words.join(": ") }
}

/// The beginning of a long text.
fn shortened(text: &str) -> &str {
    let mut end = TROUBLE_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// A change of the status that a person should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) type_: EventType,
    pub(crate) reason: String,
    pub(crate) note: String,
}

/// What a new status tells that the one before did not: that the Writer has stalled, or that it
/// serves.
pub(crate) fn news(before: &WriterStatus, after: &WriterStatus) -> Vec<News> {
    let changed = |r#type: &str| {
        let condition = find(&after.conditions, r#type)?;
        let old = find(&before.conditions, r#type);
        let is_same =
            old.is_some_and(|old| old.status == condition.status && old.reason == condition.reason);
        (condition.status == Truth::True.as_str() && !is_same).then_some(condition)
    };
    let stalled = changed(types::STALLED).map(|condition| News {
        type_: EventType::Warning,
        reason: condition.reason.clone(),
        note: condition.message.clone(),
    });
    let ready = changed(types::READY).map(|condition| News {
        type_: EventType::Normal,
        reason: condition.reason.clone(),
        note: condition.message.clone(),
    });
    stalled.into_iter().chain(ready).collect()
}

#[cfg(test)]
mod tests;

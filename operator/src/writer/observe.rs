//! What is there now: objects of the API server and the answer of the replica, all read anew.
//!
//! Nothing that decides comes from a cache. A Writer has few objects and is looked at rarely, and a
//! step that destroys something must not be decided from the past. Only the number of Streams of a
//! Writer that stays is as the watch of Streams tells it: it is shown, and nothing follows from it.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Resource, ResourceExt};
use pyramid_crds::writer::{
    CA_KEY, CREDENTIALS_ACCESS_KEY_ID, CREDENTIALS_SECRET_ACCESS_KEY, WriterStatus,
};
use pyramid_crds::{Stream, Writer, annotation, finalizer, label};
use pyramid_protocol::pb::v1::{self as pb, DataState};
use serde::de::DeserializeOwned;

use super::Error;
use super::children::{self, Names, Parent, Volume};
use super::plan::{
    ClaimSeen, ClusterId, DataSeen, Deletion, ForeignChild, KekSeen, MemberSeen, Observed, PodSeen,
    SetSeen, SizeSeen, UNKNOWN_NODE,
};
use super::quantity;
use crate::admin;
use crate::context::Context;
use crate::kinds::writers::WriterName;
use crate::lean::PAGE_LEN;

/// What one pass of the controller has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pass {
    pub(crate) are_children_applied: bool,
    pub(crate) is_tls_applied: bool,
}

/// The objects of one Writer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    pub(crate) is_enabled: bool,
    pub(crate) is_namespace_terminating: bool,
    pub(crate) service_account: Option<ServiceAccount>,
    pub(crate) client_service: Option<Service>,
    pub(crate) peers_service: Option<Service>,
    pub(crate) tls: Option<Secret>,
    pub(crate) kek: Option<Secret>,
    /// What the spec names and is not there.
    pub(crate) missing: Vec<Missing>,
    pub(crate) set: Option<StatefulSet>,
    pub(crate) pod: Option<Pod>,
    pub(crate) claim: Option<PersistentVolumeClaim>,
    /// Whether the claim's class lets volumes grow; known only if one has to.
    pub(crate) class_grows: bool,
    pub(crate) streams: usize,
    pub(crate) answer: Option<Result<pb::GetInfoResponse, admin::Error>>,
}

/// Something that the spec names and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) input: Input,
    /// What to make.
    pub(crate) text: String,
}

/// What the spec names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Key,
    Credentials,
    Authorities,
}

/// Reads all that belongs to a Writer.
pub(crate) async fn read(context: &Context, parent: Parent<'_>) -> Result<Live, Error> {
    if !context.settings.enables(parent.namespace) {
        // We may not even look.
        return Ok(Live::default());
    }
    let reader = Reader { context, namespace: parent.namespace };
    let names = parent.names();
    let (main, peers, tls, kek) = (names.main(), names.peers(), names.tls(), names.kek());
    let (pod, claim) = (names.pod(), names.claim());
    let (service_account, client_service, peers_service, tls, kek) = tokio::try_join!(
        reader.get(&main),
        reader.get(&main),
        reader.get(&peers),
        reader.get(&tls),
        reader.get(&kek),
    )?;
    let (set, pod, claim, missing) = tokio::try_join!(
        reader.get(&main),
        reader.get(&pod),
        reader.get(&claim),
        reader.missing(parent.writer),
    )?;
    let mut live = Live {
        is_enabled: true,
        service_account,
        client_service,
        peers_service,
        tls,
        kek,
        missing,
        set,
        pod,
        claim,
        ..Live::default()
    };
    let is_deleting = parent.writer.metadata.deletion_timestamp.is_some();
    if is_deleting {
        live.is_namespace_terminating = reader.is_namespace_terminating().await?;
    }
    live.streams = if is_deleting {
        // The number decides about volumes.
        reader.streams(parent.name).await?
    } else {
        shown_streams(context, parent)
    };
    if live.claim_size(parent.writer).is_some_and(|size| size.is_too_small()) {
        live.class_grows = reader.class_grows(live.claim.as_ref()).await?;
    }
    if live.pod.as_ref().is_some_and(runs) {
        live.answer = Some(ask(context, parent).await);
    }
    Ok(live)
}

/// How many Streams the Writer has. Until they are counted, what was shown before stays.
fn shown_streams(context: &Context, parent: Parent<'_>) -> usize {
    let writer = WriterName { namespace: parent.namespace.into(), name: parent.name.into() };
    context.bound.count(&writer).unwrap_or_else(|| {
        let shown = parent.writer.status.as_ref().and_then(|status| status.streams);
        shown.and_then(|shown| usize::try_from(shown).ok()).unwrap_or_default()
    })
}

/// Whether it is worth asking: a name that is looked up too early is unknown for a while.
fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| {
        let states = status.container_statuses.iter().flatten();
        let mut states = states.filter_map(|container| container.state.as_ref());
        status.pod_ip.is_some() && states.any(|state| state.running.is_some())
    })
}

async fn ask(context: &Context, parent: Parent<'_>) -> Result<pb::GetInfoResponse, admin::Error> {
    context.writers.replica(parent.namespace, parent.name, 0)?.get_info().await
}

struct Reader<'a> {
    context: &'a Context,
    namespace: &'a str,
}

impl Reader<'_> {
    async fn get<K>(&self, name: &str) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.context.client.clone(), self.namespace);
        api.get_opt(name).await.map_err(Error::kube("read a child"))
    }

    async fn is_namespace_terminating(&self) -> Result<bool, Error> {
        let api = Api::<Namespace>::all(self.context.client.clone());
        let read = api.get_opt(self.namespace).await;
        let namespace = read.map_err(Error::kube("read the namespace"))?;
        Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
    }

    /// How many Streams of all namespaces name this Writer.
    async fn streams(&self, writer: &str) -> Result<usize, Error> {
        let api = Api::<DeserializeGuard<Stream>>::all(self.context.client.clone());
        let mut page =
            ListParams::default().fields(&format!("spec.writerRef.name={writer}")).limit(PAGE_LEN);
        let mut count = 0;
        loop {
            let list = api.list(&page).await.map_err(Error::kube("list Streams"))?;
            count += list.items.iter().filter(|stream| self.is_bound(stream)).count();
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(count),
            }
        }
    }

    /// The name of its Writer is right; is the namespace?
    fn is_bound(&self, stream: &DeserializeGuard<Stream>) -> bool {
        let Ok(stream) = &stream.0 else {
            // It names a Writer of this name, and it may be this one: keep its data.
            return true;
        };
        let named = stream.spec.writer_ref.as_ref().and_then(|writer| writer.namespace.clone());
        named.or_else(|| stream.namespace()).as_deref() == Some(self.namespace)
    }

    /// What the spec names and is not there.
    async fn missing(&self, writer: &Writer) -> Result<Vec<Missing>, Error> {
        let mut missing = Vec::new();
        let mut miss = |input, text| missing.push(Missing { input, text });
        let namespace = self.namespace;
        if let Some(encryption) = &writer.spec.encryption {
            let name = &encryption.key_secret_ref.name;
            let secret: Option<Secret> = self.get(name).await?;
            if !secret.is_some_and(|secret| has_kek(&secret)) {
                let text = format!(
                    "Secret {namespace}/{name} with the key \"{}\" of 32 bytes",
                    children::FIRST_KEK
                );
                miss(Input::Key, text);
            }
        }
        if let Some(reference) = &writer.spec.object_storage.credentials_secret_ref {
            let name = &reference.name;
            let secret: Option<Secret> = self.get(name).await?;
            let keys = [CREDENTIALS_ACCESS_KEY_ID, CREDENTIALS_SECRET_ACCESS_KEY];
            if !secret.is_some_and(|secret| has_keys(&secret, &keys)) {
                let text = format!(
                    "Secret {namespace}/{name} with the keys \"{CREDENTIALS_ACCESS_KEY_ID}\" and \
                     \"{CREDENTIALS_SECRET_ACCESS_KEY}\""
                );
                miss(Input::Credentials, text);
            }
        }
        if let Some(reference) = &writer.spec.object_storage.ca_config_map_ref {
            let name = &reference.name;
            let map: Option<ConfigMap> = self.get(name).await?;
            let has_key =
                map.and_then(|map| map.data).is_some_and(|data| data.contains_key(CA_KEY));
            if !has_key {
                let text = format!("ConfigMap {namespace}/{name} with the key \"{CA_KEY}\"");
                miss(Input::Authorities, text);
            }
        }
        Ok(missing)
    }

    async fn class_grows(&self, claim: Option<&PersistentVolumeClaim>) -> Result<bool, Error> {
        let class = claim.and_then(|claim| claim.spec.as_ref()?.storage_class_name.clone());
        let Some(class) = class.filter(|class| !class.is_empty()) else {
            return Ok(false);
        };
        let api = Api::<StorageClass>::all(self.context.client.clone());
        let class = api.get_opt(&class).await.map_err(Error::kube("read the StorageClass"))?;
        Ok(class.is_some_and(|class| class.allow_volume_expansion == Some(true)))
    }
}

/// Keys are numbers; which one is in use is the Writer's business.
fn has_kek(secret: &Secret) -> bool {
    secret.data.iter().flatten().any(|(name, _)| name.parse::<u32>().is_ok())
}

fn has_keys(secret: &Secret, keys: &[&str]) -> bool {
    let data = secret.data.as_ref();
    keys.iter().all(|key| data.is_some_and(|data| data.contains_key(*key)))
}

/// Sizes of a volume claim. Unit: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClaimSize {
    wanted: u64,
    requested: u64,
    /// As far as it is known.
    capacity: Option<u64>,
}

impl ClaimSize {
    fn is_too_small(self) -> bool {
        self.requested < self.wanted
    }
}

impl Live {
    fn claim_size(&self, writer: &Writer) -> Option<ClaimSize> {
        let claim = self.claim.as_ref()?;
        let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
        let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
        Some(ClaimSize {
            wanted: quantity::bytes(&writer.spec.storage.size)?,
            requested: quantity::bytes(&requests.get("storage")?.0)?,
            capacity: capacity.and_then(|of| quantity::bytes(&of.get("storage")?.0)),
        })
    }

    /// The volume that the `StatefulSet` is to have. `None`: the spec's size cannot be read, and a
    /// log of no size would end the Writer.
    pub(crate) fn volume<'a>(&'a self, writer: &'a Writer) -> Option<Volume<'a>> {
        let size = &writer.spec.storage.size;
        let template = self.set.as_ref().and_then(|set| {
            let template = set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?;
            let requests = template.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
            Some(&*requests.get("storage")?.0)
        });
        let claim_size = template.unwrap_or(size);
        let wanted = quantity::bytes(size).filter(|bytes| *bytes > 0)?;
        let there = self
            .claim_size(writer)
            .and_then(|size| size.capacity)
            // Some drivers say 0 of a volume that has no bound.
            .filter(|capacity| *capacity > 0)
            .or_else(|| quantity::bytes(claim_size))
            .unwrap_or(wanted);
        // A local volume is as large as its disk, which is not all ours.
        Some(Volume { claim_size, bytes: there.min(wanted) })
    }

    /// What decides about the next step.
    pub(crate) fn observed(&self, parent: Parent<'_>, pass: Pass) -> Result<Observed, Error> {
        let writer = parent.writer;
        let status = writer.status.as_ref();
        let is_annotated = |key: &str| {
            writer.annotations().get(key).is_some_and(|value| value == annotation::TRUE)
        };
        let deletion = writer.metadata.deletion_timestamp.is_some().then(|| Deletion {
            is_namespace_terminating: self.is_namespace_terminating,
            is_forced: is_annotated(annotation::FORCE_DELETE),
            streams: self.streams,
        });
        Ok(Observed {
            replicas: writer.spec.replicas,
            when_deleted: writer.spec.storage.when_deleted,
            deletion,
            is_size_readable: self.volume(writer).is_some(),
            has_finalizer: writer
                .finalizers()
                .iter()
                .any(|name| name == finalizer::PROTECT_VOLUMES),
            is_enabled: self.is_enabled,
            cluster_id: status.map(cluster_id).transpose()?.flatten(),
            member: status.and_then(|status| member(status, &parent.names())),
            foreign: self.foreign(parent),
            kek: match (&writer.spec.encryption, &self.kek) {
                (Some(_), _) if self.missing.iter().any(|missing| missing.input == Input::Key) => {
                    KekSeen::OfUserAbsent
                }
                (Some(_), _) => KekSeen::OfUser,
                (None, Some(_)) => KekSeen::Present,
                (None, None) => KekSeen::Absent,
            },
            missing: self.missing.iter().map(|missing| missing.text.clone()).collect(),
            are_children_applied: pass.are_children_applied,
            is_tls_applied: pass.is_tls_applied || pass.are_children_applied,
            set: self.set.as_ref().map(|set| set_seen(set, parent)),
            pod: self.pod.as_ref().map(|pod| pod_seen(pod, self.set.as_ref())),
            claim: self.claim.as_ref().map(|claim| self.claim_seen(claim, writer)),
            data: self.data(),
        })
    }

    fn foreign(&self, parent: Parent<'_>) -> Option<ForeignChild> {
        let children = [
            ("StatefulSet", self.set.as_ref().map(|child| &child.metadata)),
            ("Service", self.client_service.as_ref().map(|child| &child.metadata)),
            ("Service", self.peers_service.as_ref().map(|child| &child.metadata)),
            ("ServiceAccount", self.service_account.as_ref().map(|child| &child.metadata)),
            ("Secret", self.tls.as_ref().map(|child| &child.metadata)),
        ];
        children.into_iter().find_map(|(kind, metadata)| foreign_child(kind, metadata?, parent))
    }

    fn claim_seen(&self, claim: &PersistentVolumeClaim, writer: &Writer) -> ClaimSeen {
        let is_bound =
            claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let size = match self.claim_size(writer) {
            Some(size) if size.is_too_small() && self.class_grows => SizeSeen::Small,
            Some(size) if size.is_too_small() => SizeSeen::Fixed,
            Some(size) if size.capacity.is_some_and(|capacity| capacity < size.requested) => {
                SizeSeen::Growing
            }
            Some(_) | None => SizeSeen::Enough,
        };
        ClaimSeen {
            uid: claim.uid().unwrap_or_default(),
            stamp: claim.annotations().get(annotation::CLUSTER_ID).cloned(),
            is_bound,
            is_terminating: claim.metadata.deletion_timestamp.is_some(),
            size,
        }
    }

    fn data(&self) -> DataSeen {
        let Some(Ok(info)) = &self.answer else {
            return DataSeen::Unknown;
        };
        match info.data_state() {
            DataState::Unspecified => DataSeen::Unknown,
            DataState::Empty => DataSeen::Empty,
            DataState::ForeignData => DataSeen::Foreign,
            DataState::DamagedData => DataSeen::Damaged,
            DataState::Member => match <[u8; 16]>::try_from(&*info.cluster_id) {
                Ok(id) => DataSeen::Member {
                    cluster_id: ClusterId(id),
                    node_id: info.node_id,
                    leads: info.leader,
                },
                Err(_) => DataSeen::Unknown,
            },
        }
    }
}

fn cluster_id(status: &WriterStatus) -> Result<Option<ClusterId>, Error> {
    let parse = |text: &String| {
        text.parse().map_err(|source| Error::ClusterId { text: text.clone(), source })
    };
    status.cluster_id.as_ref().map(parse).transpose()
}

fn member(status: &WriterStatus, names: &Names) -> Option<MemberSeen> {
    let member = status.members.iter().find(|member| member.name == names.pod())?;
    Some(MemberSeen {
        node_id: member.id.parse().unwrap_or(UNKNOWN_NODE),
        volume_uid: member.volume_uid.clone(),
    })
}

/// `None`: it is ours, or was when its owner was orphaned.
fn foreign_child(kind: &str, metadata: &ObjectMeta, parent: Parent<'_>) -> Option<ForeignChild> {
    let child = format!("{kind} {}", metadata.name.as_deref().unwrap_or_default());
    let controller = controller(metadata);
    let Some(owner) = controller else {
        let labels = metadata.labels.as_ref();
        let is = |key: &str, value: &str| {
            labels.and_then(|labels| labels.get(key)).is_some_and(|found| found == value)
        };
        let is_ours = is(label::MANAGED_BY, label::OPERATOR) && is(label::INSTANCE, parent.name);
        let owner = "nobody".to_owned();
        return (!is_ours).then_some(ForeignChild { child, owner, is_of_earlier: false });
    };
    if Some(&owner.uid) == parent.writer.metadata.uid.as_ref() {
        return None;
    }
    let ours = parent.owner();
    Some(ForeignChild {
        child,
        owner: format!("{} {}", owner.kind, owner.name),
        is_of_earlier: owner.kind == ours.kind
            && owner.api_version == ours.api_version
            && owner.name == ours.name,
    })
}

fn controller(
    metadata: &ObjectMeta,
) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

fn set_seen(set: &StatefulSet, parent: Parent<'_>) -> SetSeen {
    let status = set.status.as_ref();
    let is_current = status
        .and_then(|status| status.observed_generation)
        .is_some_and(|observed| Some(observed) == set.metadata.generation);
    SetSeen {
        uid: set.uid().unwrap_or_default(),
        is_ours: foreign_child("StatefulSet", &set.metadata, parent).is_none(),
        is_terminating: set.metadata.deletion_timestamp.is_some(),
        // Right after an apply it is still that of the old template.
        update_revision: status
            .filter(|_| is_current)
            .and_then(|status| status.update_revision.clone())
            .filter(|revision| !revision.is_empty()),
    }
}

fn pod_seen(pod: &Pod, set: Option<&StatefulSet>) -> PodSeen {
    let owner = controller(&pod.metadata).map(|owner| &owner.uid);
    PodSeen {
        uid: pod.uid().unwrap_or_default(),
        is_of_set: owner.is_some() && owner == set.and_then(|set| set.metadata.uid.as_ref()),
        revision: pod.labels().get("controller-revision-hash").cloned(),
        is_ready: is_pod_ready(pod),
        is_terminating: pod.metadata.deletion_timestamp.is_some(),
    }
}

pub(crate) fn is_pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests;

//! Does one [`Step`]. Each call to the API server says which object it means, by uid or version, so
//! that a step that was decided a moment too early changes nothing.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::events::EventType;
use kube::{Api, Resource, ResourceExt};
use pyramid_crds::writer::{Member, WriterStatus};
use pyramid_crds::{Writer, annotation, finalizer};
use pyramid_protocol::{Entropy, SystemClock, SystemEntropy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Error;
use super::applied::Applied;
use super::children::{self, KEK_BYTES, Parent};
use super::observe::{Live, Pass};
use super::plan::{ClusterId, Step, UNKNOWN_NODE};
use crate::context::{Context, MANAGER};
use crate::kinds::status;
use crate::pki;

/// What acting needs.
pub(crate) struct Actor<'a> {
    pub(crate) context: &'a Context,
    pub(crate) parent: Parent<'a>,
    pub(crate) live: &'a Live,
    pub(crate) applied: &'a Applied,
}

impl Actor<'_> {
    /// Does a step that acts; `pass` is told what need not be done again.
    pub(crate) async fn act(&self, step: &Step, pass: &mut Pass) -> Result<(), Error> {
        match step {
            Step::Stop(_) | Step::Wait(_) | Step::Stable | Step::Gone => Ok(()),
            Step::AddFinalizer => self.set_finalizer(true).await,
            Step::RemoveFinalizer => self.set_finalizer(false).await,
            Step::NameCluster => self.name_cluster().await,
            Step::AdoptCluster { cluster_id, volume_uid } => {
                self.adopt_cluster(*cluster_id, volume_uid).await
            }
            Step::CreateKek => self.create_kek().await,
            Step::ApplyTls => {
                self.apply_tls().await?;
                pass.is_tls_applied = true;
                Ok(())
            }
            Step::ApplyChildren => {
                self.apply_children().await?;
                pass.are_children_applied = true;
                Ok(())
            }
            Step::Bootstrap { cluster_id } => self.bootstrap(*cluster_id).await,
            Step::RecordMember { node_id, volume_uid } => {
                self.record_member(*node_id, volume_uid).await
            }
            Step::StampClaim { uid, cluster_id } => self.stamp_claim(uid, *cluster_id).await,
            Step::GrowClaim { uid } => self.grow_claim(uid).await,
            Step::EvictPod { uid } => self.evict(uid).await,
            Step::DeleteSet { uid } => {
                self.delete::<StatefulSet>(&self.parent.names().main(), uid).await
            }
            Step::DeleteClaim { uid } => {
                self.delete::<PersistentVolumeClaim>(&self.parent.names().claim(), uid).await
            }
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.context.client.clone(), self.parent.namespace)
    }

    /// Applies a child, unless that would change nothing; `there` is the one that was read.
    async fn apply<K>(&self, object: &K, there: Option<&K>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        if self.applied.is_current(object, there) {
            return Ok(());
        }
        let params = PatchParams::apply(MANAGER).force();
        let api = self.api::<K>();
        let applied = api.patch(&object.name_any(), &params, &Patch::Apply(object)).await;
        let applied = applied.map_err(Error::kube("apply a child"))?;
        self.applied.note(object, &applied);
        Ok(())
    }

    async fn set_finalizer(&self, is_wanted: bool) -> Result<(), Error> {
        let writer = self.parent.writer;
        let mut finalizers: Vec<&str> = writer
            .finalizers()
            .iter()
            .map(String::as_str)
            .filter(|name| *name != finalizer::PROTECT_VOLUMES)
            .collect();
        if is_wanted {
            finalizers.push(finalizer::PROTECT_VOLUMES);
        }
        let patch = json!({
            "metadata": {
                "uid": writer.metadata.uid,
                "resourceVersion": writer.metadata.resource_version,
                "finalizers": finalizers,
            }
        });
        let api = self.api::<Writer>();
        let params = PatchParams::default();
        let patched = api.patch(self.parent.name, &params, &Patch::Merge(patch)).await;
        patched.map_err(Error::kube("change the finalizers of the Writer"))?;
        Ok(())
    }

    async fn name_cluster(&self) -> Result<(), Error> {
        let mut id = [0; 16];
        SystemEntropy.fill(&mut id);
        let cluster_id = Some(ClusterId(id).to_string());
        let status = WriterStatus { cluster_id, members: Vec::new(), ..self.status() };
        write_status(self.context, self.parent, &status).await
    }

    async fn adopt_cluster(&self, cluster_id: ClusterId, volume_uid: &str) -> Result<(), Error> {
        let status = WriterStatus {
            cluster_id: Some(cluster_id.to_string()),
            members: vec![self.member(UNKNOWN_NODE, volume_uid)],
            ..self.status()
        };
        write_status(self.context, self.parent, &status).await?;
        let note = "goes on with the volume that an earlier Writer of this name has left";
        self.tell(EventType::Normal, "AdoptingVolumes", note).await;
        Ok(())
    }

    async fn record_member(&self, node_id: u64, volume_uid: &str) -> Result<(), Error> {
        let before = self.status();
        let is_new = before.members.is_empty();
        let members = vec![self.member(node_id, volume_uid)];
        let status = WriterStatus { members, ..before };
        write_status(self.context, self.parent, &status).await?;
        if is_new {
            let note = "the first replica has founded the cluster";
            self.tell(EventType::Normal, "Bootstrapped", note).await;
        }
        Ok(())
    }

    fn status(&self) -> WriterStatus {
        self.parent.writer.status.clone().unwrap_or_default()
    }

    fn member(&self, node_id: u64, volume_uid: &str) -> Member {
        Member {
            name: self.parent.names().pod(),
            id: node_id.to_string(),
            volume_uid: Some(volume_uid.to_owned()),
        }
    }

    async fn create_kek(&self) -> Result<(), Error> {
        let mut kek = [0; KEK_BYTES];
        SystemEntropy.fill(&mut kek);
        // Created, not applied: one that is there stays as it is.
        let secret = children::kek_secret(self.parent, kek);
        let api = self.api::<Secret>();
        match api.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            created => created.map(drop).map_err(Error::kube("create the key's Secret")),
        }
    }

    async fn apply_tls(&self) -> Result<(), Error> {
        let trust = self.context.trust.borrow().clone();
        let key = pki::WriterKey { namespace: self.parent.namespace, name: self.parent.name };
        let existing = self.live.tls.as_ref();
        let settings = &self.context.settings;
        match pki::writer_secret(&trust, settings, key, existing, &SystemClock)? {
            Some(secret) => self.apply(&children::tls_secret(self.parent, secret), existing).await,
            None => Ok(()),
        }
    }

    /// In this order: a Pod whose Secret or account is missing is tried again only after a while.
    async fn apply_children(&self) -> Result<(), Error> {
        let Self { context, parent, live, .. } = *self;
        let uid = |uid: Option<&Option<String>>| uid.cloned().flatten();
        let account = uid(live.service_account.as_ref().map(|child| &child.metadata.uid));
        let wanted = children::service_account(parent, account.as_deref());
        self.apply(&wanted, live.service_account.as_ref()).await?;
        self.apply_tls().await?;
        let service = uid(live.client_service.as_ref().map(|child| &child.metadata.uid));
        let wanted = children::client_service(parent, service.as_deref());
        self.apply(&wanted, live.client_service.as_ref()).await?;
        let service = uid(live.peers_service.as_ref().map(|child| &child.metadata.uid));
        let wanted = children::peers_service(parent, service.as_deref());
        self.apply(&wanted, live.peers_service.as_ref()).await?;
        let set = uid(live.set.as_ref().map(|child| &child.metadata.uid));
        let Some(volume) = live.volume(parent.writer) else {
            // The plan stops before: whatever runs is left as it is.
            return Ok(());
        };
        let replicas = parent.writer.spec.replicas;
        let set =
            children::stateful_set(parent, &context.settings, volume, replicas, set.as_deref());
        self.apply(&set, live.set.as_ref()).await
    }

    async fn bootstrap(&self, cluster_id: ClusterId) -> Result<(), Error> {
        let Parent { namespace, name, .. } = self.parent;
        let replica = self.context.writers.replica(namespace, name, 0)?;
        replica.bootstrap(cluster_id.0).await?;
        Ok(())
    }

    async fn patch_claim(&self, uid: &str, mut patch: serde_json::Value) -> Result<(), Error> {
        let version = self.live.claim.as_ref().and_then(|claim| claim.resource_version());
        if let Some(metadata) = patch.get_mut("metadata").and_then(|value| value.as_object_mut()) {
            metadata.insert("uid".to_owned(), json!(uid));
            metadata.insert("resourceVersion".to_owned(), json!(version));
        }
        let api = self.api::<PersistentVolumeClaim>();
        let claim = self.parent.names().claim();
        let patched = api.patch(&claim, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map_err(Error::kube("change the volume claim"))?;
        Ok(())
    }

    async fn stamp_claim(&self, uid: &str, cluster_id: ClusterId) -> Result<(), Error> {
        let stamp = json!({ annotation::CLUSTER_ID: cluster_id.to_string() });
        self.patch_claim(uid, json!({"metadata": {"annotations": stamp}})).await
    }

    async fn grow_claim(&self, uid: &str) -> Result<(), Error> {
        let size = &self.parent.writer.spec.storage.size;
        let patch = json!({
            "metadata": {},
            "spec": {"resources": {"requests": {"storage": size}}},
        });
        self.patch_claim(uid, patch).await?;
        self.tell(EventType::Normal, "VolumeExpanding", "the volume grows").await;
        Ok(())
    }

    async fn evict(&self, uid: &str) -> Result<(), Error> {
        let api = self.api::<Pod>();
        let name = self.parent.names().pod();
        // An eviction of another Pod of this name fails, but would spend a disruption budget.
        let pod = api.get_opt(&name).await.map_err(Error::kube("read the Pod"))?;
        if pod.is_none_or(|pod| pod.uid().as_deref() != Some(uid)) {
            return Ok(());
        }
        let params = EvictParams { delete_options: Some(only(uid)), ..EvictParams::default() };
        match api.evict(&name, &params).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            evicted => {
                evicted.map_err(Error::kube("evict the Pod"))?;
                let note = "replaced by one of the newest template";
                self.tell(EventType::Normal, "PodEvicted", note).await;
                Ok(())
            }
        }
    }

    async fn delete<K>(&self, name: &str, uid: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        match self.api::<K>().delete(name, &only(uid)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            deleted => deleted.map(drop).map_err(Error::kube("delete a child")),
        }
    }

    async fn tell(&self, type_: EventType, reason: &str, note: &str) {
        let object = self.parent.writer.object_ref(&());
        self.context.tell(&object, type_, reason, note.to_owned()).await;
    }
}

/// Deletes the object with this uid and no other of its name.
fn only(uid: &str) -> DeleteParams {
    let uid = Some(uid.to_owned());
    DeleteParams::background().preconditions(Preconditions { uid, ..Preconditions::default() })
}

/// Replaces the whole status, if the Writer is still the one that was read.
pub(crate) async fn write_status(
    context: &Context,
    parent: Parent<'_>,
    status: &WriterStatus,
) -> Result<(), Error> {
    let metadata = &parent.writer.metadata;
    let patch = json!({
        "apiVersion": Writer::api_version(&()),
        "kind": Writer::kind(&()),
        "metadata": {
            "name": parent.name,
            "namespace": parent.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "status": status,
    });
    let api = Api::<Writer>::namespaced(context.client.clone(), parent.namespace);
    let params = PatchParams::apply(MANAGER).force();
    let written = api.patch_status(parent.name, &params, &Patch::Apply(patch)).await;
    written.map_err(Error::kube("write the status of the Writer"))?;
    Ok(())
}

/// Writes nothing but conditions into a Writer that cannot be read, if they differ.
pub(crate) async fn refuse(
    context: &Context,
    namespace: &str,
    name: &str,
    metadata: &ObjectMeta,
    conditions: &[Condition],
) -> Result<(), Error> {
    let there = status::read::<Writer>(&context.client, namespace, name).await;
    let (there, said) = there.map_err(Error::kube("read the status of the Writer"))?;
    if there.get("observedGeneration") == Some(&json!(metadata.generation)) && said == conditions {
        return Ok(());
    }
    let patch = json!({
        "metadata": {"uid": metadata.uid, "resourceVersion": metadata.resource_version},
        "status": {"observedGeneration": metadata.generation, "conditions": conditions},
    });
    let api = Api::<PartialObjectMeta<Writer>>::namespaced(context.client.clone(), namespace);
    let params = PatchParams::default();
    let written = api.patch_status(name, &params, &Patch::Merge(patch)).await;
    written.map_err(Error::kube("write the status of the Writer"))?;
    Ok(())
}

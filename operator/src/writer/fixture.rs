//! Objects for tests.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use pyramid_crds::Writer;
use serde_json::{Value, json};

use super::children::Parent;
use crate::settings::Settings;

pub(crate) const CLUSTER: &str = "00112233445566778899aabbccddeeff";

/// The Writer shop/billing.
pub(crate) fn writer() -> Writer {
    from(json!({
        "apiVersion": "pyramid.dev/v1alpha1",
        "kind": "Writer",
        "metadata": {
            "name": "billing", "namespace": "shop", "uid": "w1", "generation": 3,
            "resourceVersion": "10",
        },
        "spec": {
            "replicas": 1,
            "storage": {"size": "10Gi"},
            "objectStorage": {"bucket": "acme-events"},
        },
        "status": {
            "clusterID": CLUSTER,
            "members": [{"name": "billing-writer-0", "id": "1", "volumeUid": "c1"}],
        },
    }))
}

pub(crate) fn parent(writer: &Writer) -> Parent<'_> {
    Parent { writer, name: "billing", namespace: "shop" }
}

pub(crate) fn settings() -> Settings {
    from(json!({
        "writerImage": "localhost/pyramid-writer:0.1.0",
        "writerNamespaces": ["shop"],
        "pusher": {"image": "localhost/pyramid-pusher:0.1.0"},
    }))
}

/// The StatefulSet, seen by its controller.
pub(crate) fn set() -> StatefulSet {
    from(json!({
        "metadata": {
            "name": "billing-writer", "uid": "s1", "generation": 2,
            "ownerReferences": [owner("w1")],
        },
        "spec": {
            "selector": {}, "template": {}, "serviceName": "billing-writer-peers",
            "volumeClaimTemplates": [
                {"spec": {"resources": {"requests": {"storage": "10Gi"}}}},
            ],
        },
        "status": {
            "observedGeneration": 2, "replicas": 1, "readyReplicas": 1, "updateRevision": "r2",
        },
    }))
}

pub(crate) fn owner(uid: &str) -> Value {
    json!({
        "apiVersion": "pyramid.dev/v1alpha1", "kind": "Writer", "name": "billing", "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The Pod, of the newest revision and ready.
pub(crate) fn pod() -> Pod {
    from(json!({
        "metadata": {
            "name": "billing-writer-0", "uid": "p1",
            "labels": {"controller-revision-hash": "r2"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "billing-writer",
                "uid": "s1", "controller": true,
            }],
        },
        "spec": {"containers": [{"name": "writer", "image": "running:1"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))
}

/// The claim, bound and marked.
pub(crate) fn claim() -> PersistentVolumeClaim {
    from(json!({
        "metadata": {
            "name": "data-billing-writer-0", "uid": "c1",
            "annotations": {"pyramid.dev/cluster-id": CLUSTER},
        },
        "spec": {
            "storageClassName": "fast", "resources": {"requests": {"storage": "10Gi"}},
        },
        "status": {"phase": "Bound", "capacity": {"storage": "10Gi"}},
    }))
}

pub(crate) fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the fixture has the form of its kind")
}

//! The children of a Writer, as they are applied: pure functions of the Writer and the settings.
//!
//! | child | name |
//! | --- | --- |
//! | StatefulSet, client Service, ServiceAccount | `<writer>-writer` |
//! | headless Service | `<writer>-writer-peers` |
//! | Secret with key and certificate | `<writer>-writer-tls` |
//! | Secret with the key-encryption key, without an owner | `<writer>-writer-kek` |
//! | volume claim, made by the StatefulSet | `data-<writer>-writer-0` |
//!
//! None has a time or its own history in it, so that applying one again changes nothing.

mod stateful_set;

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use pyramid_crds::{Writer, label};

pub(crate) use stateful_set::{Volume, image, stateful_set};

/// Producers, pushers and the command.
pub(crate) const CLIENT_PORT: i32 = 7400;
/// The operator.
pub(crate) const ADMIN_PORT: i32 = 7402;
/// Health and metrics.
pub(crate) const OPS_PORT: i32 = 7403;

/// Bytes of a key-encryption key.
pub(crate) const KEK_BYTES: usize = 32;
/// Name of the first key in its Secret.
pub(crate) const FIRST_KEK: &str = "1";

/// Names of what belongs to one Writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    writer: String,
}

impl Names {
    pub(crate) fn of(writer: &str) -> Self {
        Self { writer: writer.to_owned() }
    }

    /// StatefulSet, client Service, ServiceAccount.
    pub(crate) fn main(&self) -> String {
        format!("{}-writer", self.writer)
    }

    /// The headless Service.
    pub(crate) fn peers(&self) -> String {
        format!("{}-writer-peers", self.writer)
    }

    /// The Secret with key and certificate.
    pub(crate) fn tls(&self) -> String {
        format!("{}-writer-tls", self.writer)
    }

    /// The Secret with the key-encryption key that the operator makes.
    pub(crate) fn kek(&self) -> String {
        format!("{}-writer-kek", self.writer)
    }

    /// The only Pod so far.
    pub(crate) fn pod(&self) -> String {
        format!("{}-writer-0", self.writer)
    }

    /// The volume claim of that Pod.
    pub(crate) fn claim(&self) -> String {
        format!("data-{}-writer-0", self.writer)
    }
}

/// What selects the Pods of a Writer, and nothing else. It can never be changed.
pub(crate) fn selector(writer: &str) -> BTreeMap<String, String> {
    let labels = [(label::NAME, label::WRITER), (label::INSTANCE, writer)];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// The selector as text, for the scale subresource.
pub(crate) fn selector_text(writer: &str) -> String {
    let labels = selector(writer);
    let terms: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    terms.join(",")
}

/// On each child itself; not on Pods.
pub(crate) fn labels(writer: &str) -> BTreeMap<String, String> {
    let more = [
        (label::COMPONENT, "writer"),
        (label::PART_OF, label::PYRAMID),
        (label::MANAGED_BY, label::OPERATOR),
        (label::APP_VERSION, env!("CARGO_PKG_VERSION")),
        (label::WRITER_NAME, writer),
    ];
    let mut labels = selector(writer);
    labels.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

/// Whose children are built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parent<'a> {
    pub(crate) writer: &'a Writer,
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
}

impl Parent<'_> {
    pub(crate) fn names(&self) -> Names {
        Names::of(self.name)
    }

    fn metadata(&self, name: String, existing_uid: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.to_owned()),
            // An apply creates what is absent. With a uid it changes only the object that was seen.
            uid: existing_uid.map(str::to_owned),
            labels: Some(labels(self.name)),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    /// The Writer, as its children name it.
    pub(crate) fn owner(&self) -> OwnerReference {
        use kube::Resource as _;
        OwnerReference {
            api_version: Writer::api_version(&()).into_owned(),
            kind: Writer::kind(&()).into_owned(),
            name: self.name.to_owned(),
            uid: self.writer.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// The account under which the Pods run. It has no rights in the cluster; a cloud may give it some
/// at the object store, by annotations that are left alone.
pub(crate) fn service_account(parent: Parent<'_>, existing_uid: Option<&str>) -> ServiceAccount {
    ServiceAccount {
        metadata: parent.metadata(parent.names().main(), existing_uid),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Where producers come in: replicas that are ready.
pub(crate) fn client_service(parent: Parent<'_>, existing_uid: Option<&str>) -> Service {
    Service {
        metadata: parent.metadata(parent.names().main(), existing_uid),
        spec: Some(ServiceSpec {
            selector: Some(selector(parent.name)),
            ports: Some(vec![port("client", CLIENT_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The names of the replicas, also of those that are not ready: the operator must reach them.
pub(crate) fn peers_service(parent: Parent<'_>, existing_uid: Option<&str>) -> Service {
    Service {
        metadata: parent.metadata(parent.names().peers(), existing_uid),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(parent.name)),
            ports: Some(vec![port("client", CLIENT_PORT), port("admin", ADMIN_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, port: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

/// The Secret with a new key-encryption key. It has no owner: without it all that is in the bucket
/// is lost, so it must outlive the Writer.
pub(crate) fn kek_secret(parent: Parent<'_>, kek: [u8; KEK_BYTES]) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(parent.names().kek()),
            namespace: Some(parent.namespace.to_owned()),
            labels: Some(labels(parent.name)),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some([(FIRST_KEK.to_owned(), ByteString(kek.to_vec()))].into()),
        ..Secret::default()
    }
}

/// The Secret of the certificate, which says itself what it holds, with our labels and owner.
pub(crate) fn tls_secret(parent: Parent<'_>, secret: Secret) -> Secret {
    let uid = secret.metadata.uid.clone();
    Secret { metadata: parent.metadata(parent.names().tls(), uid.as_deref()), ..secret }
}

#[cfg(test)]
mod tests;

//! [`Writer`]: a replicated log and its bucket.
#![expect(
    unreachable_pub,
    reason = "KubeSchema repeats a type inside a function, as visible as it is"
)]
#![allow(clippy::doc_markdown, reason = "`kubectl explain` prints comments as they are")]
#![expect(
    clippy::duplicated_attributes,
    reason = "each column of a table has a name, a type and a path"
)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Longest name of a Writer. The longest label that is derived from it then stays below 64
/// characters.
pub const NAME_LEN_MAX: usize = 40;
/// Names of Writers. They begin names of Services, so they start with a letter and have no dots.
pub const NAME_PATTERN: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";
/// Name of the Writer that the operator makes for Streams that name none.
pub const DEFAULT_NAME: &str = "default";

/// Key of the credentials Secret: the access key's id.
pub const CREDENTIALS_ACCESS_KEY_ID: &str = "accessKeyId";
/// Key of the credentials Secret: the access key's secret.
pub const CREDENTIALS_SECRET_ACCESS_KEY: &str = "secretAccessKey";
/// Key of the credentials Secret that may be missing: the token of a temporary access key.
pub const CREDENTIALS_SESSION_TOKEN: &str = "sessionToken";
/// Key of the ConfigMap with the store's authorities.
pub const CA_KEY: &str = "ca.crt";

/// The rule that a request is not above its limit.
macro_rules! within_limit {
    ($resource:literal) => {
        concat!(
            "!has(self.requests) || !has(self.limits) || !('",
            $resource,
            "' in self.requests) || !('",
            $resource,
            "' in self.limits) || quantity(string(self.requests['",
            $resource,
            "'])).compareTo(quantity(string(self.limits['",
            $resource,
            "']))) <= 0"
        )
    };
}

/// An endpoint of an object store is no metadata service of a cloud, which answers everybody who
/// asks from inside of a machine, and no other way to spell such an address: resolvers take 0xa9fea9fe
/// for one, too. Link-local addresses are refused by range. What a name leads to only a connection
/// shows. One expression, because the server has to bound what a rule costs.
const NO_METADATA: &str = concat!(
    "!self.matches('(?i)^[a-z]+://(",
    // Well-known addresses and names.
    r"169[.]254[.][0-9.]*|0[.]0[.]0[.]0|100[.]100[.]100[.]200|168[.]63[.]129[.]16|192[.]0[.]0[.]192",
    r"|metadata[.]?|metadata[.]google[.]internal[.]?|instance-data[.]?",
    // Numbers that are no four decimal ones.
    r"|[0-9]+([.][0-9]+){0,2}[.]?|([0-9]+[.]){4}|([0-9]+[.])*0[0-9]+([.][0-9]+)*",
    r"|([^/:]*[.])?0x[0-9a-f]*[.]?",
    // IPv6, where a zone or an address of IPv4 in it has no use either.
    r"|\\[(fe[89ab][0-9a-f]:.*|fd00:ec2::254|fd20:ce::254|::|.*[.%].*|(0*:)*:?ffff:.*)\\]",
    ")(:[0-9]*)?/?$')"
);

/// The largest volumes of the great clouds have this size. A slip of the hand above it could not be
/// taken back, because volumes never shrink.
const SIZE_AT_MOST: &str = "!isQuantity(self) || quantity(self).compareTo(quantity('64Ti')) <= 0";

/// A container with a request above its limit is refused by the server, but only as a part of the
/// StatefulSet. Quantities may be written as numbers.
const MEMORY_WITHIN_LIMIT: &str = within_limit!("memory");
/// As [`MEMORY_WITHIN_LIMIT`].
const CPU_WITHIN_LIMIT: &str = within_limit!("cpu");

/// What a Writer is to be.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pyramid.dev",
    version = "v1alpha1",
    kind = "Writer",
    namespaced,
    status = "WriterStatus",
    derive = "PartialEq",
    shortname = "pwr",
    category = "pyramid",
    doc = "A Writer keeps Streams: it makes records durable on its volumes and ships them to a bucket, \
           compressed and encrypted. One Writer serves many Streams. You rarely need to make one: a \
           Stream that names no Writer goes to the default Writer, which the operator makes.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".spec.replicas",
        description = "Replicas that are asked for"
    ),
    printcolumn(
        name = "Up",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "Replicas that are ready"
    ),
    printcolumn(
        name = "Leader",
        type_ = "string",
        json_path = ".status.leader",
        description = "The Pod that takes appends"
    ),
    printcolumn(
        name = "Streams",
        type_ = "integer",
        json_path = ".status.streams",
        description = "Streams that are bound to it"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(oldSelf.storage.storageClassName) == has(self.storage.storageClassName)")
        .message("storage.storageClassName cannot be added or removed")
        .field_path(".storage.storageClassName"),
    validation = Rule::new("has(oldSelf.encryption) == has(self.encryption) && (!has(self.encryption) || self.encryption.keySecretRef.name == oldSelf.encryption.keySecretRef.name)")
        .message("encryption is fixed when the Writer is created; rotate keys inside the Secret")
        .field_path(".encryption")
)]
pub struct WriterSpec {
    /// How many replicas hold the log: 1, 3 or 5. An append is acknowledged when it is flushed to
    /// disk on a majority of them; with 1, on that one.
    #[serde(default = "one_replica")]
    #[x_kube(validation = Rule::new("self in [1, 3, 5]").message("replicas must be 1, 3 or 5"))]
    pub replicas: i32,
    /// Image of the Writer. Absent: the one that belongs to the operator's version, which is the
    /// right choice unless you test a build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$')")
        .message("image must be a reference such as registry.example.com/pyramid-writer:0.1.0"))]
    pub image: Option<String>,
    /// The volume of each replica. It holds the records that are not in the bucket yet.
    #[serde(default)]
    pub storage: Storage,
    /// The bucket to which finished parts of the log are shipped.
    pub object_storage: ObjectStorage,
    /// The key under which all data in the bucket is encrypted. Absent: the operator makes one and
    /// keeps it in the Secret "NAME-writer-kek". Back it up: without it the bucket is noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Whose Streams may be bound to this Writer.
    #[serde(default)]
    pub allowed_streams: AllowedStreams,
    /// On which nodes the replicas may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
    /// Resources of each replica. Absent: requests of 250m and 512Mi, and a memory limit of 1Gi.
    /// The Writer sizes its caches by its memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

fn one_replica() -> i32 {
    1
}

/// The volume of each replica.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of each volume, from 1Gi to 64Ti. It may grow later, if the StorageClass can, but not
    /// shrink.
    #[serde(default = "default_size")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('1Gi')) >= 0")
            .message("storage.size must be a quantity of at least 1Gi"),
        validation = Rule::new(SIZE_AT_MOST).message("storage.size must be at most 64Ti"),
        validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0")
            .message("storage.size may only grow")
    )]
    pub size: String,
    /// StorageClass of the volumes, fixed when the Writer is created. Absent: the cluster's default
    /// class. Volumes hold records as plain text; take a class that encrypts if that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("storage.storageClassName is immutable"))]
    pub storage_class_name: Option<String>,
    /// What happens to the volumes when the Writer is deleted. Retain keeps them: a new Writer of
    /// the same name goes on with them. Delete removes them, once no Stream is bound any more.
    #[serde(default)]
    pub when_deleted: Fate,
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: default_size(), storage_class_name: None, when_deleted: Fate::default() }
    }
}

fn default_size() -> String {
    "10Gi".to_owned()
}

/// What happens to data when the object that stands for it is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is kept.
    #[default]
    Retain,
    /// It is deleted too.
    Delete,
}

/// A bucket and the way to it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.bucket == oldSelf.bucket")
        .message("objectStorage.bucket is immutable").field_path(".bucket"),
    validation = Rule::new("has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)")
        .message("objectStorage.prefix cannot be added, changed or removed").field_path(".prefix"),
    validation = Rule::new("has(self.endpoint) == has(oldSelf.endpoint)")
        .message("objectStorage.endpoint cannot be added or removed").field_path(".endpoint")
)]
pub struct ObjectStorage {
    /// Name of the bucket, fixed when the Writer is created. It must be there already.
    #[schemars(length(min = 3, max = 63), regex(pattern = "^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    #[x_kube(validation = Rule::new("!self.contains('..') && !isIP(self)")
        .message("objectStorage.bucket must be a name without two dots together, and no address"))]
    pub bucket: String,
    /// Beginning of the names of all objects, fixed when the Writer is created. Absent:
    /// "NAMESPACE/NAME". The objects of a new Writer never mix with those of an earlier one
    /// of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
    )]
    pub prefix: Option<String>,
    /// Region of the bucket, such as "eu-north-1". Absent: the one of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9-]+$')")
        .message("objectStorage.region must be of lower case letters, digits and '-', such as eu-north-1"))]
    pub region: Option<String>,
    /// Address of a store that is not AWS, an http or https URL of host and port alone. It may be
    /// changed later, but not added or removed. Absent: AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("isURL(self) && url(self).getScheme() in ['https', 'http']")
            .message("objectStorage.endpoint must be an http or https URL"),
        validation = Rule::new("!isURL(self) || self.matches('^[a-zA-Z]+://[^/?#@]+/?$')")
            .message("objectStorage.endpoint must be scheme, host and port alone, such as https://s3.example.com:9000; credentials go into a Secret"),
        validation = Rule::new(NO_METADATA)
            .message("objectStorage.endpoint must not be where a machine gets its own credentials from, such as 169.254.169.254; give the address of an object store")
    )]
    pub endpoint: Option<String>,
    /// Secret in the Writer's namespace with the keys "accessKeyId", "secretAccessKey" and, if they
    /// are temporary, "sessionToken". Absent: the identity of the Writer's service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<LocalRef>,
    /// ConfigMap in the Writer's namespace whose key "ca.crt" holds the authorities of the store's
    /// certificate. Absent: the well-known ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<LocalRef>,
}

/// An object of the same namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LocalRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub name: String,
}

/// Where the key-encryption key is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// Secret in the Writer's namespace. Each of its keys is the number of a key ("1", "2", ...)
    /// and its value that key, 32 bytes. The highest number encrypts; the others still decrypt.
    pub key_secret_ref: LocalRef,
}

/// Whose Streams may be bound.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AllowedStreams {
    /// Same: Streams of the Writer's own namespace. All: Streams of every namespace.
    #[serde(default)]
    pub from: AllowedFrom,
}

/// From which namespaces Streams may come.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowedFrom {
    /// The Writer's own.
    #[default]
    Same,
    /// Every one.
    All,
}

/// On which nodes the replicas may run.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints of nodes that are no obstacle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Option<Vec<Toleration>>,
}

/// Resources of a container.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new(MEMORY_WITHIN_LIMIT)
        .message("resources.requests.memory must not be above resources.limits.memory"),
    validation = Rule::new(CPU_WITHIN_LIMIT)
        .message("resources.requests.cpu must not be above resources.limits.cpu")
)]
pub struct Resources {
    /// What a node must have free for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantities")]
    pub requests: Option<BTreeMap<String, Quantity>>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantities")]
    pub limits: Option<BTreeMap<String, Quantity>>,
}

impl From<Resources> for ResourceRequirements {
    fn from(resources: Resources) -> Self {
        Self { requests: resources.requests, limits: resources.limits, claims: None }
    }
}

/// Quantities by the name of the resource. A bad one is refused here, not by the StatefulSet.
fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]+))?$",
            "x-kubernetes-int-or-string": true
        }
    })
}

/// What a Writer is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WriterStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Replicas that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Label selector of the Pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The Pod that takes appends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Streams that are bound to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<i32>,
    /// Identity of its data, 32 hexadecimal digits. Chosen before the first replica starts, never
    /// changed.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Image of the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The members of the replicated log. The Writer is founded once there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub members: Vec<Member>,
    /// What is the matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// One member of the replicated log.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its Pod.
    pub name: String,
    /// Its id in the log, a decimal number that is never given out twice.
    pub id: String,
    /// uid of the volume claim that holds its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_uid: Option<String>,
}

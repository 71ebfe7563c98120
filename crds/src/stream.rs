//! [`Stream`]: one ordered log of records.
#![expect(
    unreachable_pub,
    reason = "KubeSchema repeats a type inside a function, as visible as it is"
)]
#![allow(clippy::doc_markdown, reason = "`kubectl explain` prints comments as they are")]
#![expect(
    clippy::duplicated_attributes,
    reason = "each column of a table has a name, a type and a path"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::writer::Fate;

/// Longest name of a Stream.
pub const NAME_LEN_MAX: usize = 63;
/// [`Account::service_account`] that means every one of the namespace.
pub const ANY_ACCOUNT: &str = "*";

/// What a Stream is to be.
#[derive(
    CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq,
)]
#[kube(
    group = "pyramid.dev",
    version = "v1alpha1",
    kind = "Stream",
    namespaced,
    status = "StreamStatus",
    derive = "PartialEq",
    shortname = "pstr",
    category = "pyramid",
    doc = "A Stream is an ordered log of records with the offsets 0, 1, 2, ... without gaps. A Stream \
           with a name and nothing else works: it is bound to the default Writer, and every service \
           account of its namespace may append and read. On the wire its name is \
           \"NAMESPACE/NAME\".",
    selectable = ".spec.writerRef.name",
    printcolumn(
        name = "Writer",
        type_ = "string",
        json_path = ".spec.writerRef.name",
        description = "The Writer that keeps it"
    ),
    printcolumn(
        name = "Next",
        type_ = "integer",
        json_path = ".status.nextOffset",
        description = "Offset that the next record will get"
    ),
    printcolumn(
        name = "Bytes",
        type_ = "integer",
        json_path = ".status.sizeBytes",
        description = "Size of all records that are kept"
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
    validation = Rule::new("!has(oldSelf.writerRef) || (has(self.writerRef) && self.writerRef == oldSelf.writerRef)")
        .message("writerRef cannot be changed once set")
        .field_path(".writerRef")
)]
pub struct StreamSpec {
    /// The Writer that keeps the Stream. Absent: the operator fills in the default Writer. Once it
    /// is set it stays; leave it out of your manifests, and use "kubectl apply", not "replace".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_ref: Option<WriterRef>,
    /// Who may append. Absent: every service account of the Stream's namespace. An empty list:
    /// nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["namespace", "serviceAccount"]
        )
    )]
    pub appenders: Option<Vec<Account>>,
    /// Who may read. Absent: every service account of the Stream's namespace. An empty list: nobody
    /// but the Subscriptions of the Stream's namespace. A Subscription of another namespace needs
    /// an entry here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["namespace", "serviceAccount"]
        )
    )]
    pub subscribers: Option<Vec<Account>>,
    /// Who may trim old records and seal chunks by hand. Absent: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["namespace", "serviceAccount"]
        )
    )]
    pub managers: Option<Vec<Account>>,
    /// What happens to the records when the Stream is deleted. Retain keeps them, closed to
    /// appends: a new Stream of the same name goes on with them. Delete erases them from the Writer
    /// and the bucket before the Stream goes.
    #[serde(default)]
    pub deletion_policy: Fate,
}

/// A Writer.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WriterRef {
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Its namespace. Absent: the Stream's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
}

/// A service account.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Its namespace. Empty: the Stream's.
    #[serde(default)]
    #[schemars(length(max = 63), regex(pattern = "^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$"))]
    pub namespace: String,
    /// Its name, or "*" for every service account of the namespace.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^([*]|[a-z0-9]([a-z0-9.-]*[a-z0-9])?)$")
    )]
    pub service_account: String,
}

impl Account {
    /// Its namespace, for an entry of an object in the namespace `own`.
    #[must_use]
    pub fn namespace_from<'a>(&'a self, own: &'a str) -> &'a str {
        if self.namespace.is_empty() { own } else { &self.namespace }
    }
}

/// What a Stream is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StreamStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number that the Writer gave it, in decimal. Another Stream of this name would get another.
    #[serde(default, rename = "streamID", skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<String>,
    /// Offset of the oldest record that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_offset: Option<i64>,
    /// Offset that the next record will get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<i64>,
    /// Size of all records that are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// What is the matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

//! [`Subscription`]: the Streams of one application, and how they reach it.
#![expect(
    unreachable_pub,
    reason = "KubeSchema repeats a type inside a function, as visible as it is"
)]
#![allow(clippy::doc_markdown, reason = "`kubectl explain` prints comments as they are")]
#![expect(
    clippy::duplicated_attributes,
    reason = "each column of a table has a name, a type and a path"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest name of a Subscription.
pub const NAME_LEN_MAX: usize = 63;
/// Most entries of [`SubscriptionStatus::streams`].
pub const WORST_STREAMS_MAX: usize = 10;

/// What a Subscription is to be.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "pyramid.dev",
    version = "v1alpha1",
    kind = "Subscription",
    namespaced,
    status = "SubscriptionStatus",
    derive = "PartialEq",
    shortname = "psub",
    category = "pyramid",
    doc = "A Subscription gives one application the records of one or many Streams. Name it in the \
           annotation pyramid.dev/subscriptions of the application's Pods: a pusher is then added to \
           them and calls the application with the records, in order.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.delivery.mode",
        description = "Whether each Pod gets every record or one does"
    ),
    printcolumn(
        name = "Streams",
        type_ = "integer",
        json_path = ".status.streamCount",
        description = "Streams that it has now"
    ),
    printcolumn(
        name = "Lag",
        type_ = "integer",
        json_path = ".status.lagRecords",
        description = "Records that the application has not accepted yet"
    ),
    printcolumn(
        name = "Pushers",
        type_ = "integer",
        json_path = ".status.connectedPushers",
        description = "Pods whose pusher is connected"
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
    printcolumn(
        name = "Delivering",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Delivering')].reason",
        description = "Whether records reach the application, or why not",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.streams) || has(self.selector)")
        .message("set streams, selector or both")
)]
pub struct SubscriptionSpec {
    /// Streams by name, 1 to 64. All Streams of a Subscription lie in one Writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name", "namespace"]
        )
    )]
    pub streams: Option<Vec<StreamRef>>,
    /// Streams of the Subscription's namespace by their labels. Streams that come later join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Where to start in a Stream of which the application has no offset yet.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("startFrom is immutable"))]
    pub start_from: StartFrom,
    /// Paused: pushers stay connected and push nothing.
    #[serde(default)]
    pub state: State,
    /// How records reach the Pods.
    #[serde(default)]
    pub delivery: Delivery,
    /// Where the application listens.
    #[serde(default)]
    pub target: Target,
    /// Service accounts of this namespace whose Pods may use the Subscription. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub service_accounts: Option<Vec<String>>,
}

/// A Stream.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StreamRef {
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub name: String,
    /// Its namespace. Empty: the Subscription's. Another one needs an entry in the Stream's
    /// subscribers.
    #[serde(default)]
    #[schemars(length(max = 63), regex(pattern = "^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$"))]
    pub namespace: String,
}

impl StreamRef {
    /// Its namespace, for an entry of a Subscription in the namespace `own`.
    #[must_use]
    pub fn namespace_from<'a>(&'a self, own: &'a str) -> &'a str {
        if self.namespace.is_empty() { own } else { &self.namespace }
    }
}

/// Where to start.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartFrom {
    /// Earliest: at the oldest record that is kept. Latest: behind the newest one of the moment in
    /// which a pusher first asks the application.
    #[serde(default)]
    pub position: StartPosition,
}

/// A place in a Stream that needs no number.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartPosition {
    /// The oldest record that is kept.
    #[default]
    Earliest,
    /// Behind the newest record.
    Latest,
}

/// Whether records are pushed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// They are.
    #[default]
    Active,
    /// They are not.
    Paused,
}

/// How records reach the Pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Broadcast: each Pod gets every record; right if each has a database of its own, and safe if
    /// they share one. Exclusive: one Pod at a time gets the records of a Stream, the others stand
    /// by. Fixed when the Subscription is created.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("delivery.mode is immutable"))]
    pub mode: DeliveryMode,
    /// How long the application may take for one push before it counts as failed and is repeated.
    #[serde(default = "default_ack_timeout")]
    #[schemars(range(min = 1, max = 3600))]
    pub ack_timeout_seconds: i32,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { mode: DeliveryMode::default(), ack_timeout_seconds: default_ack_timeout() }
    }
}

fn default_ack_timeout() -> i32 {
    30
}

/// Which Pods get a record.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeliveryMode {
    /// Every one.
    #[default]
    Broadcast,
    /// One of them.
    Exclusive,
}

/// Where the application listens.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its port on the loopback address of the Pod. The annotation pyramid.dev/app-port of a Pod
    /// comes before it.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    #[x_kube(
        validation = Rule::new("self != 7410 && self != 7411")
            .message("7410 and 7411 are ports of the pusher; give the application another one")
    )]
    pub port: i32,
}

impl Default for Target {
    fn default() -> Self {
        Self { port: default_port() }
    }
}

fn default_port() -> i32 {
    50051
}

/// What a Subscription is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Streams that it has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_count: Option<i32>,
    /// Pods whose pusher is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_pushers: Option<i32>,
    /// Records that the application has not accepted yet, over all Streams; of several Pods the one
    /// that is furthest behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_records: Option<i64>,
    /// The ten Streams that are furthest behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 10),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name", "namespace"]
        )
    )]
    pub streams: Vec<StreamLag>,
    /// What is the matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// How far the application is in one Stream.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StreamLag {
    /// Name of the Stream.
    pub name: String,
    /// Namespace of the Stream.
    pub namespace: String,
    /// Offset of the record that the application will accept next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_offset: Option<i64>,
    /// Records that the application has not accepted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_records: Option<i64>,
    /// Pod that reported it; with Exclusive delivery the one that gets the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_pod: Option<String>,
    /// Why pushing stopped, such as Rejected. Absent: it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
}

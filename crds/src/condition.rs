//! Conditions: what the status of an object says about it.
//!
//! Each kind sets all its conditions on the first visit, `Unknown` where nothing is known. The
//! server itself puts [`types::READY`] with [`reasons::PENDING`] into a new object, so that an
//! object that no operator has seen does not count as ready.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Types of conditions.
pub mod types {
    /// All kinds: it does what it is for. Copies the first reason that stands in the way.
    pub const READY: &str = "Ready";
    /// All kinds: a person has to do something. Absent otherwise.
    pub const STALLED: &str = "Stalled";
    /// Writer: it is on its way to what its spec asks for.
    pub const PROGRESSING: &str = "Progressing";
    /// Writer: every replica has its volume.
    pub const STORAGE_READY: &str = "StorageReady";
    /// Writer: chunks reach the bucket.
    pub const OBJECT_STORAGE_READY: &str = "ObjectStorageReady";
    /// Stream: it has a Writer that takes it.
    pub const ACCEPTED: &str = "Accepted";
    /// Stream, Subscription: the Writer knows it as it is declared.
    pub const PROGRAMMED: &str = "Programmed";
    /// Stream with `deletionPolicy: Delete`, Writer with `whenDeleted: Delete`: how far deleting is.
    pub const DELETING: &str = "Deleting";
    /// Subscription: its Streams are there, and it may read them.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// Subscription: records reach the application.
    pub const DELIVERING: &str = "Delivering";
}

/// Reasons of conditions.
pub mod reasons {
    /// No operator has looked yet, or the Writer has not answered yet.
    pub const PENDING: &str = "Pending";
    /// The spec holds what its rules could not refuse.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The Writer does not answer the operator.
    pub const ADMIN_UNREACHABLE: &str = "AdminUnreachable";
    /// The Writer answered with a refusal, which the message repeats.
    pub const REJECTED_BY_WRITER: &str = "RejectedByWriter";

    /// `Ready`.
    pub const READY: &str = "Ready";
    /// `Ready` of a Writer: its cluster is being founded.
    pub const BOOTSTRAPPING: &str = "Bootstrapping";
    /// `Ready` of a Writer: no replica leads.
    pub const NO_LEADER: &str = "NoLeader";
    /// `Ready` of a Writer: it lies in a namespace that the chart's `writerNamespaces` lacks.
    pub const NAMESPACE_NOT_ENABLED: &str = "NamespaceNotEnabled";
    /// `Ready` of a Writer: its volumes of an earlier Writer of this name are taken over.
    pub const ADOPTING_VOLUMES: &str = "AdoptingVolumes";
    /// `Ready` of a Writer: it asks for more than one replica.
    pub const REPLICAS_NOT_SUPPORTED: &str = "ReplicasNotSupported";
    /// `Ready` of a Writer: what it would be made of has the right name and is somebody else's.
    pub const FOREIGN_CHILD: &str = "ForeignChild";
    /// `Stalled` of a Writer: the API server refuses what it is to be made of.
    pub const REFUSED_BY_SERVER: &str = "RefusedByServer";
    /// `Ready` of a Writer: the Secret with its key is gone.
    pub const KEY_LOST: &str = "KeyLost";
    /// `Ready` and `ObjectStorageReady`: something that the spec names is not there.
    pub const INPUT_MISSING: &str = "InputMissing";

    /// `Progressing`: nothing is left to do.
    pub const STABLE: &str = "Stable";
    /// `Progressing`: Pods are replaced by newer ones.
    pub const ROLLING_UPDATE: &str = "RollingUpdate";
    /// `Progressing`: volumes grow.
    pub const EXPANDING_VOLUMES: &str = "ExpandingVolumes";
    /// `Progressing`: a person has to act first.
    pub const STALLED: &str = "Stalled";

    /// `StorageReady`.
    pub const VOLUMES_BOUND: &str = "VolumesBound";
    /// `StorageReady`: a claim waits for its volume.
    pub const VOLUMES_PENDING: &str = "VolumesPending";
    /// `StorageReady`: the `StorageClass` does not let volumes grow.
    pub const EXPANSION_UNSUPPORTED: &str = "ExpansionUnsupported";
    /// `StorageReady`: a replica that held data came up empty.
    pub const VOLUME_LOST: &str = "VolumeLost";
    /// `StorageReady`: a replica holds the data of another cluster, or data that it cannot read.
    pub const FOREIGN_VOLUME: &str = "ForeignVolume";

    /// `ObjectStorageReady`.
    pub const REACHABLE: &str = "Reachable";
    /// `ObjectStorageReady`: the Secret with the credentials, or a key in it, is not there.
    pub const CREDENTIALS_MISSING: &str = "CredentialsMissing";
    /// `ObjectStorageReady`: the store does not answer, or refuses.
    pub const UNREACHABLE: &str = "Unreachable";

    /// `Accepted`.
    pub const ACCEPTED: &str = "Accepted";
    /// `Accepted`: the Stream names no Writer, and there is no default one.
    pub const NO_DEFAULT_WRITER: &str = "NoDefaultWriter";
    /// `Accepted`: a default Writer would be made, but no bucket is set in the chart's values.
    pub const NO_OBJECT_STORAGE: &str = "NoObjectStorage";
    /// `Accepted`: the Writer that the Stream names is not there.
    pub const WRITER_NOT_FOUND: &str = "WriterNotFound";
    /// `Accepted`: `allowedStreams` of the Writer leaves out the Stream's namespace.
    pub const NOT_ALLOWED_BY_WRITER: &str = "NotAllowedByWriter";

    /// `Programmed`.
    pub const PROGRAMMED: &str = "Programmed";
    /// `Programmed`: records of an earlier Stream of this name were found and are kept.
    pub const REATTACHED: &str = "Reattached";
    /// `Programmed` of a Stream: its Writer does not serve yet. `Ready` of a Stream or Subscription:
    /// its Writer has stopped.
    pub const WRITER_NOT_READY: &str = "WriterNotReady";
    /// `Programmed` of a Subscription: one of its Streams is not programmed yet.
    pub const STREAM_NOT_READY: &str = "StreamNotReady";

    /// `Progressing` and `Deleting` of a Writer: its replicas and volumes go.
    pub const DELETING: &str = "Deleting";
    /// `Deleting`: objects are left in the bucket.
    pub const PURGE_PENDING: &str = "PurgePending";
    /// `Deleting`: the Writer does not answer, so nothing can be purged.
    pub const WRITER_UNREACHABLE: &str = "WriterUnreachable";
    /// `Deleting` of a Writer: Streams are bound to it.
    pub const STREAMS_BOUND: &str = "StreamsBound";

    /// `ResolvedRefs`.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// `ResolvedRefs`: a Stream that is named is not there.
    pub const STREAM_NOT_FOUND: &str = "StreamNotFound";
    /// `ResolvedRefs`: a Stream of another namespace does not list this one's service accounts.
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    /// `ResolvedRefs`: the Streams lie in more than one Writer.
    pub const SEVERAL_WRITERS: &str = "SeveralWriters";

    /// `Delivering`.
    pub const DELIVERING: &str = "Delivering";
    /// `Delivering`: pushers are connected, and there is nothing new.
    pub const IDLE: &str = "Idle";
    /// `Delivering`: `state` is `Paused`.
    pub const PAUSED: &str = "Paused";
    /// `Delivering`: no pusher is connected.
    pub const NO_CONSUMERS: &str = "NoConsumers";
    /// `Delivering`: the application does not take pushes.
    pub const CONSUMER_UNREACHABLE: &str = "ConsumerUnreachable";
    /// `Delivering`: the application stands in a Stream that was replaced by another.
    pub const STREAM_REPLACED: &str = "StreamReplaced";
    /// `Delivering`: the application has applied records that the recovered Stream does not hold.
    pub const EPOCH_CHANGED: &str = "EpochChanged";
    /// `Delivering`: the record that comes next was trimmed.
    pub const TRIMMED: &str = "Trimmed";
    /// `Delivering`: the application is further than the Stream.
    pub const AHEAD_OF_STREAM: &str = "AheadOfStream";
    /// `Delivering`: the application rejected a record.
    pub const REJECTED: &str = "Rejected";
    /// `Delivering` and `Ready`: a stream was halted, and goes on when a person has decided how.
    pub const HALTS: [&str; 5] =
        [STREAM_REPLACED, EPOCH_CHANGED, TRIMMED, AHEAD_OF_STREAM, REJECTED];
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

impl Truth {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// What all conditions of one look at one object have in common.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// The conditions that the object has now.
    pub previous: &'a [Condition],
    /// `metadata.generation` of the object that was looked at.
    pub generation: i64,
    /// When it was looked at.
    pub now: Time,
}

impl Observation<'_> {
    /// A condition as it is now. Its `lastTransitionTime` stays that of the previous one as long as
    /// the status does; a new reason or message moves nothing.
    #[must_use]
    pub fn condition(
        &self,
        r#type: &str,
        status: Truth,
        reason: &str,
        message: impl Into<String>,
    ) -> Condition {
        let unchanged = find(self.previous, r#type).filter(|old| old.status == status.as_str());
        let since = unchanged.map_or(&self.now, |old| &old.last_transition_time);
        Condition {
            type_: r#type.to_owned(),
            status: status.as_str().to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            observed_generation: Some(self.generation),
            last_transition_time: since.clone(),
        }
    }
}

/// The condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], r#type: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == r#type)
}

/// Whether the condition of a type is `True`, for whatever generation.
#[must_use]
pub fn is_true(conditions: &[Condition], r#type: &str) -> bool {
    find(conditions, r#type).is_some_and(|condition| condition.status == Truth::True.as_str())
}

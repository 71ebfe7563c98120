//! What became of an entry: the answers to its appends or its command, and what changed.
//!
//! A refusal is an outcome like any other: every replica reaches the same one, and it changed
//! nothing. The services turn outcomes into answers.

use pyramid_protocol::{Offset, StreamId, StreamName};

use crate::entry::LogId;

/// All that `State::apply` has to say about one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Which entry.
    pub at: LogId,
    /// The entry was voided: its term is not its log term, or an entry before it was dropped.
    /// It had no effect; its appends and its command are refused, and may be sent again.
    pub voided: bool,
    /// One per append, in order. Empty unless the entry is a BATCH.
    pub outcomes: Vec<Outcome>,
    /// Set if and only if the entry is a CONTROL.
    pub control: Option<ControlOutcome>,
    /// The batches that this entry wrote, in order: what the live index holds.
    pub written: Vec<Written>,
    /// The streams that grew, by id, each once: what wakes those who follow them.
    pub grown: Vec<Grown>,
    /// What else changed; at most one, because an entry has at most one command.
    pub change: Option<Change>,
}

/// What became of one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written by this entry.
    Appended(Appended),
    /// Written by an entry before this one. `None`: too long ago for its place to be remembered.
    Duplicate(Option<Appended>),
    /// Not written.
    Refused(Refused),
}

/// Where an append lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub first: Offset,
    /// Offset after its last record.
    pub next: Offset,
    /// The epoch of both, which is the present one.
    pub epoch: u32,
    /// Log time of the append. Unit: milliseconds since 1970 UTC.
    pub time_ms: u64,
}

/// Why an append was not written. In the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The whole entry was voided. The append may be sent again: `DROPPED`.
    Voided,
    /// The stream was deleted after the door had found it: `STREAM_RECREATED` if its name is in
    /// use again, else `NOT_FOUND`.
    NoStream,
    /// The stream was closed or opened since the session's first append: `STALE_REVISION`.
    StaleRevision {
        /// The revision now.
        revision: u32,
    },
    /// `CLOSED`.
    Closed,
    /// `UNKNOWN_PRODUCER`. Also an epoch that was never given out.
    UnknownProducer,
    /// `FENCED`.
    Fenced {
        /// The epoch now.
        epoch: u32,
    },
    /// `OUT_OF_ORDER`.
    OutOfOrder {
        /// The sequence that is expected next.
        expected: u64,
    },
    /// The expectation was read in an epoch that this Writer has not reached. Retry: `UNAVAILABLE`.
    EpochAhead {
        /// The epoch now.
        epoch: u32,
    },
    /// The expectation is of an older epoch and lies above what that epoch is good for:
    /// `EPOCH_CHANGED`.
    EpochChanged {
        /// Up to here it would be good.
        safe: Offset,
    },
    /// `WRONG_OFFSET`.
    WrongOffset {
        /// Where the stream ends.
        next: Offset,
    },
    /// Offsets or sequences would pass their largest value: `INVALID`.
    UsedUp,
}

/// A batch that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The stream.
    pub stream_id: StreamId,
    /// Place of the append in its entry.
    pub op: u32,
    /// Offset of its first record.
    pub base: Offset,
    /// At least 1.
    pub record_count: u32,
    /// Length of its record bytes.
    pub len_bytes: u32,
    /// Log time of the append, for the batch and for age. Unit: milliseconds since 1970 UTC.
    pub time_ms: u64,
}

/// A stream that grew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grown {
    /// The stream.
    pub stream_id: StreamId,
    /// Where it ends now.
    pub next: Offset,
}

/// What a command changed, for those who follow it. Commands that were refused, or found all as
/// they want it, change nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A stream is there.
    StreamCreated {
        /// Its id.
        stream_id: StreamId,
        /// Its name.
        name: StreamName,
    },
    /// A stream is gone, with its key, its open seals and its live batches.
    StreamDeleted {
        /// Its id.
        stream_id: StreamId,
        /// Its name, free again.
        name: StreamName,
    },
    /// Settings, rights, first offset or whether it is closed.
    StreamChanged {
        /// The stream.
        stream_id: StreamId,
    },
    /// The stream's key object is stored: its seals may be shipped.
    KeyStored {
        /// The stream.
        stream_id: StreamId,
    },
    /// A range is cut.
    Sealed {
        /// The stream.
        stream_id: StreamId,
        /// Log index of the Seal.
        intent: u64,
        /// All below is sealed.
        next: Offset,
    },
    /// A chunk is in the object store; its batches are live no more.
    Shipped {
        /// The stream.
        stream_id: StreamId,
        /// All below is shipped.
        next: Offset,
    },
    /// All objects of a deleted stream have left the object store.
    ObjectsDeleted {
        /// The stream.
        stream_id: StreamId,
    },
    /// A subscription was put or removed.
    Subscription {
        /// Its name.
        name: String,
    },
    /// Identity or feature level of the cluster.
    Cluster,
}

/// What became of a command. "Done" always includes: it was so before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlOutcome {
    /// `Bootstrap`: the cluster has this id.
    Founded,
    /// `CreateStream`.
    Created,
    /// `PutStream`.
    StreamPut,
    /// `DeleteStream`.
    Deleted,
    /// `SetClosed`.
    ClosedSet {
        /// The revision now.
        revision: u32,
    },
    /// `Trim`.
    Trimmed {
        /// The first offset now; above the one asked for if it was there before.
        first: Offset,
    },
    /// `Seal`.
    Sealed {
        /// Log index of this entry.
        intent: u64,
    },
    /// `ChunkCommitted`.
    Committed,
    /// `SealAbandoned`: the intents of a deleted stream are closed.
    Abandoned,
    /// `StreamKeyStored`.
    KeyStored {
        /// The key object that counts: that of the first such command.
        r: u64,
    },
    /// `StreamObjectsDeleted`.
    ObjectsDeleted,
    /// `InitProducer`.
    ProducerReady(ProducerReady),
    /// `PutSubscription`.
    SubscriptionPut,
    /// `DeleteSubscription`.
    SubscriptionDeleted,
    /// `SetFeatureLevel`.
    FeatureLevelSet,
    /// `SetTime`.
    TimeSet {
        /// Log time now. Unit: milliseconds since 1970 UTC.
        time_ms: u64,
    },
    /// Nothing was done.
    Refused(ControlRefused),
}

/// What a producer goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerReady {
    /// Its id.
    pub id: u64,
    /// Its epoch; all older ones are fenced.
    pub epoch: u32,
    /// The sequence that its next append must have.
    pub next_sequence: u64,
    /// The name was held before.
    pub known: bool,
}

/// Why a command did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRefused {
    /// The whole entry was voided. Send the command again.
    Voided,
    /// The command can never be right; its sender has a bug or let a user's mistake through.
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
    /// Only `Bootstrap` comes before `Bootstrap`.
    NotFounded,
    /// `Bootstrap`: the cluster has another id.
    Foreign,
    /// No stream has this id (any more), or no subscription this name.
    NotFound,
    /// `CreateStream`: the name is in use; by this stream.
    NameTaken {
        /// The stream with this name.
        stream_id: StreamId,
    },
    /// `CreateStream`, `InitProducer`: the id that was drawn was used before. Draw another one.
    IdUsed,
    /// `PutStream`, `PutSubscription`: a newer generation of the same object was put before.
    OlderGeneration {
        /// The generation that is there.
        generation: u64,
    },
    /// `PutStream`: another object or generation than the expected one was put last. Read it again.
    DeclaredSince,
    /// `Trim`, `Seal`: the offset lies above the stream's end.
    BeyondNext {
        /// Where the stream ends.
        next: Offset,
    },
    /// `Seal`: the range does not begin where the last one ends.
    NotContiguous {
        /// Where the next seal begins.
        sealed: Offset,
    },
    /// `ChunkCommitted`: the stream's key object is not stored yet. Store it first.
    KeyNotStored,
    /// `ChunkCommitted`: the intent was committed before, or never made. Drop the chunk.
    IntentClosed,
    /// `ChunkCommitted`: the chunk is not the range of its seal. Build it anew.
    OtherRange,
    /// `ChunkCommitted`: the chunk before is not committed yet. Wait for it.
    AboveShipped {
        /// All below is shipped.
        shipped: Offset,
    },
    /// `ChunkCommitted`: the chunk does not continue the digest. Build it anew.
    OtherDigest,
    /// `SealAbandoned`, `StreamObjectsDeleted`: the stream is alive, so the range must be shipped and
    /// its objects must stay.
    StreamAlive,
    /// `InitProducer`: the caller has used this name before, and it is not held (any more).
    UnknownProducer,
    /// `InitProducer`: no producer of the stream has been idle long enough to make room.
    TooManyProducers,
    /// `SetFeatureLevel`: the level is higher already.
    LowerLevel {
        /// The level now.
        level: u32,
    },
    /// A counter would pass its largest value.
    UsedUp,
}

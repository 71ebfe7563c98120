//! [`Stream`]: all that State holds of one stream.

use std::sync::Arc;

use pyramid_protocol::pb::stored::v1::{ChunkRef, ObjectRef, OpenSeal, SafeOffset, WrappedKey};
use pyramid_protocol::pb::v1::{StreamRights, StreamSettings};
use pyramid_protocol::{Offset, StreamId, StreamName};

use super::chunks::Chunks;
use super::producers::Producers;

/// Length of a stream's running digest. Unit: bytes.
pub const DIGEST_LEN: usize = 32;

/// The digest before the first batch.
pub const FIRST_DIGEST: [u8; DIGEST_LEN] = [0; DIGEST_LEN];

/// The revision of a new stream.
pub const FIRST_REVISION: u32 = 1;

/// One stream.
///
/// `first <= next` and `shipped <= sealed() <= next`. `first` may lie above `shipped`: a trimmed
/// range of a living stream is shipped like any other.
///
/// Only `State::apply` changes a stream; whoever holds an `Arc` of one keeps what it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Never used again.
    pub id: StreamId,
    /// Unique among living streams.
    pub name: StreamName,
    /// The object that declared it last.
    pub object: ObjectRef,
    /// Whether appends are refused.
    pub closed: bool,
    /// Rises when the stream is closed and when it is opened.
    pub revision: u32,
    /// Oldest kept record.
    pub first: Offset,
    /// The offset that the next record gets.
    pub next: Offset,
    /// All below is in committed chunks; all from here on is live.
    pub shipped: Offset,
    /// Log time of the newest append; 0: none. Unit: milliseconds since 1970 UTC.
    pub last_time_ms: u64,
    /// How it is cut.
    pub settings: StreamSettings,
    /// Who may do what.
    pub rights: Arc<StreamRights>,
    /// The stream key under a KEK.
    pub wrapped_key: WrappedKey,
    /// `r` of the stored key object; `None`: it must be stored before the first chunk.
    pub key_object_r: Option<u64>,
    /// Committed chunks.
    pub chunks: Chunks,
    /// Cut and not committed yet: from `shipped` on, by base offset, without gaps.
    pub open_seals: Vec<OpenSeal>,
    /// Who appends exactly once.
    pub producers: Arc<Producers>,
    /// Digest after the newest chunk.
    pub last_digest: [u8; DIGEST_LEN],
    /// Where the stream was cut by recoveries, by epoch.
    pub safe_offsets: Vec<SafeOffset>,
}

impl Stream {
    /// All below is cut into chunks, shipped or not; the next seal begins here.
    #[must_use]
    pub fn sealed(&self) -> Offset {
        self.open_seals.last().map_or(self.shipped, |seal| Offset::new(seal.next_offset))
    }

    /// Up to which offset a position that was read in `epoch` is good: the smallest safe offset
    /// recorded since. `None`: no record was lost since, every position is good.
    #[must_use]
    pub fn safe_since(&self, epoch: u32) -> Option<Offset> {
        let since = self.safe_offsets.iter().filter(|safe| safe.epoch > epoch);
        since.map(|safe| safe.offset).min().map(Offset::new)
    }

    /// The open seal with this intent.
    #[must_use]
    pub fn open_seal(&self, intent: u64) -> Option<&OpenSeal> {
        self.open_seals.iter().find(|seal| seal.intent == intent)
    }

    /// Takes a chunk that was checked to be the first open seal's.
    pub(super) fn commit(&mut self, chunk: ChunkRef, digest_after: [u8; DIGEST_LEN]) {
        self.open_seals.remove(0);
        self.shipped = Offset::new(chunk.next_offset);
        self.chunks.push(chunk);
        self.last_digest = digest_after;
    }
}

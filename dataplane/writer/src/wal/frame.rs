//! Frames: what lies in a block.
//!
//! ```text
//! 0  1 type    1  1 flags, zero    2  2 zero
//! 4  4 len     payload bytes
//! 8  8 term    of an entry, else zero
//! 16 8 index   of an entry, else all ones
//! 24 4 crc32c  over these 32 bytes with this field zero, then the payload
//! 28 4 zero
//! 32 payload, then zeros up to the next multiple of 8
//! ```
//!
//! ```text
//! type              payload
//! 1 ENTRY           the entry
//! 2 VOTE            term 8, node id 8, committed 1, zero 7
//! 3 COMMITTED       term 8, index 8
//! 4 TRUNCATE_AFTER  term 8, index 8
//! 5 PURGED          term 8, index 8, complete_at 8
//! 6 SEGMENT_HEAD    WAL id 16, cluster id 16, node id 8, disk id 16, last vote 24, committed 16,
//!                   purged 24, opened_at 8, open_count 4, zero 4
//! 7 IDLE            none
//! ```
//!
//! All ones in an index mean none, and in the node id of a vote, and in
//! `opened_at`. A segment head is the first frame of each segment. It also is
//! the first frame that is written after an open, so that `opened_at` is
//! durable before anything new.

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::{
    data_dir::Identity,
    wal::{LogEntry, LogId, Purged, Vote},
};

/// Unit: bytes.
pub const HEADER_LEN: usize = 32;

/// All frames begin at a multiple of it. Unit: bytes.
pub const ALIGN: usize = 8;

/// None, in an index and in the node id of a vote.
const NONE: u64 = u64::MAX;

/// Where the checksum lies in the header.
const CRC_AT: std::ops::Range<usize> = 24..28;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE_AFTER: u8 = 4;
const PURGED: u8 = 5;
const SEGMENT_HEAD: u8 = 6;
const IDLE: u8 = 7;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A Raft entry.
    Entry(LogEntry),
    /// The vote from here on.
    Vote(Vote),
    /// Entries up to here are committed.
    Committed(LogId),
    /// Entries behind this one are gone; `None`: all are.
    TruncateAfter(Option<LogId>),
    /// Entries up to this one are gone.
    Purged(Purged),
    /// Whose log this is, and what earlier segments said.
    SegmentHead(SegmentHead),
    /// Nothing: says that the block before it was flushed.
    Idle,
}

/// What stands at the head of each segment, so that the ones before it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// Whose log this is.
    pub identity: Identity,
    /// The last vote before this frame.
    pub vote: Option<Vote>,
    /// The last commit mark before this frame.
    pub committed: Option<LogId>,
    /// What was purged before this frame.
    pub purged: Option<Purged>,
    /// See [`crate::wal::Opened::opened_at`].
    pub opened_at: Option<u64>,
    /// How often the log was opened.
    pub open_count: u32,
}

/// What is wrong with bytes that should be a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The bytes end before the frame does.
    Incomplete,
    /// The checksum does not match.
    Damaged,
    /// The checksum matches, and this program does not know what it says. A
    /// newer one wrote it.
    Unknown {
        /// The type of the frame.
        kind: u8,
    },
}

impl Frame {
    /// Bytes that the frame takes in a block.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let payload_len = match self {
            Self::Entry(entry) => entry.payload.len(),
            Self::Vote(_) | Self::Purged(_) => 24,
            Self::Committed(_) | Self::TruncateAfter(_) => 16,
            Self::SegmentHead(_) => SegmentHead::LEN,
            Self::Idle => 0,
        };
        HEADER_LEN + payload_len.next_multiple_of(ALIGN)
    }

    /// Appends the frame to `out`, which must end at a multiple of [`ALIGN`].
    ///
    /// # Panics
    ///
    /// If a payload has 4 GiB or more.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut small = Vec::new();
        let (kind, id, payload) = match self {
            Self::Entry(entry) => (ENTRY, Some(entry.id), entry.payload.as_ref()),
            Self::Vote(vote) => {
                put_vote(&mut small, Some(*vote));
                (VOTE, None, small.as_slice())
            }
            Self::Committed(id) => {
                put_log_id(&mut small, Some(*id));
                (COMMITTED, None, small.as_slice())
            }
            Self::TruncateAfter(id) => {
                put_log_id(&mut small, *id);
                (TRUNCATE_AFTER, None, small.as_slice())
            }
            Self::Purged(purged) => {
                put_purged(&mut small, Some(*purged));
                (PURGED, None, small.as_slice())
            }
            Self::SegmentHead(head) => {
                head.encode(&mut small);
                (SEGMENT_HEAD, None, small.as_slice())
            }
            Self::Idle => (IDLE, None, small.as_slice()),
        };
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.put_u8(kind);
        header.put_bytes(0, 3);
        header.put_u32_le(u32::try_from(payload.len()).expect("a payload has less than 4 GiB"));
        put_log_id(&mut header, id);
        header.put_u64_le(0);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), payload);
        if let Some(field) = header.get_mut(CRC_AT) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        out.extend_from_slice(&header);
        out.extend_from_slice(payload);
        out.resize(out.len().next_multiple_of(ALIGN), 0);
    }

    /// Takes the frame at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// See [`Bad`]; `bytes` are then of no further use.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, Bad> {
        let header = bytes.get(..HEADER_LEN).ok_or(Bad::Incomplete)?;
        let mut fields = header;
        let kind = fields.try_get_u8().map_err(|_| Bad::Incomplete)?;
        let rest = fields.try_get_uint_le(3).map_err(|_| Bad::Incomplete)?;
        let len = fields.try_get_u32_le().map_err(|_| Bad::Incomplete)?;
        let id = get_log_id(&mut fields).ok_or(Bad::Incomplete)?;
        let crc = fields.try_get_u32_le().map_err(|_| Bad::Incomplete)?;
        let len = usize::try_from(len).map_err(|_| Bad::Incomplete)?;
        let padded = len.checked_next_multiple_of(ALIGN).ok_or(Bad::Incomplete)?;
        if bytes.len() - HEADER_LEN < padded {
            return Err(Bad::Incomplete);
        }
        let mut blank = header.to_vec();
        if let Some(field) = blank.get_mut(CRC_AT) {
            field.fill(0);
        }
        let mut payload = bytes.split_to(HEADER_LEN + padded);
        payload.advance(HEADER_LEN);
        payload.truncate(len);
        if crc32c::crc32c_append(crc32c::crc32c(&blank), &payload) != crc {
            return Err(Bad::Damaged);
        }
        // A flag that is set would mean something that this program ignores.
        let unknown = Bad::Unknown { kind };
        if rest != 0 {
            return Err(unknown);
        }
        Self::from_parts(kind, id, payload).ok_or(unknown)
    }

    fn from_parts(kind: u8, id: Option<LogId>, mut payload: Bytes) -> Option<Self> {
        let frame = match kind {
            ENTRY => return Some(Self::Entry(LogEntry { id: id?, payload })),
            VOTE => Self::Vote(get_vote(&mut payload)??),
            COMMITTED => Self::Committed(get_log_id(&mut payload)??),
            TRUNCATE_AFTER => Self::TruncateAfter(get_log_id(&mut payload)?),
            PURGED => Self::Purged(get_purged(&mut payload)??),
            SEGMENT_HEAD => Self::SegmentHead(SegmentHead::decode(&mut payload)?),
            IDLE => Self::Idle,
            _ => return None,
        };
        payload.is_empty().then_some(frame)
    }
}

impl SegmentHead {
    /// Unit: bytes.
    pub const LEN: usize = 136;

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.identity.wal_id);
        out.put_slice(&self.identity.cluster_id);
        out.put_u64_le(self.identity.node_id);
        out.put_slice(&self.identity.disk_id);
        put_vote(out, self.vote);
        put_log_id(out, self.committed);
        put_purged(out, self.purged);
        out.put_u64_le(self.opened_at.unwrap_or(NONE));
        out.put_u32_le(self.open_count);
        out.put_u32_le(0);
    }

    fn decode(payload: &mut Bytes) -> Option<Self> {
        let mut id = || -> Option<[u8; 16]> {
            let mut id = [0; 16];
            payload.try_copy_to_slice(&mut id).ok()?;
            Some(id)
        };
        let (wal_id, cluster_id) = (id()?, id()?);
        let node_id = payload.try_get_u64_le().ok()?;
        let mut disk_id = [0; 16];
        payload.try_copy_to_slice(&mut disk_id).ok()?;
        let head = Self {
            identity: Identity { cluster_id, node_id, disk_id, wal_id },
            vote: get_vote(payload)?,
            committed: get_log_id(payload)?,
            purged: get_purged(payload)?,
            opened_at: Some(payload.try_get_u64_le().ok()?).filter(|index| *index != NONE),
            open_count: payload.try_get_u32_le().ok()?,
        };
        (payload.try_get_u32_le().ok()? == 0).then_some(head)
    }
}

fn put_log_id(out: &mut Vec<u8>, id: Option<LogId>) {
    out.put_u64_le(id.map_or(0, |id| id.term));
    out.put_u64_le(id.map_or(NONE, |id| id.index));
}

/// The outer `None`: the bytes end. The inner one: there is no id.
fn get_log_id(bytes: &mut impl bytes::Buf) -> Option<Option<LogId>> {
    let (term, index) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
    Some((index != NONE).then_some(LogId { term, index }))
}

fn put_vote(out: &mut Vec<u8>, vote: Option<Vote>) {
    out.put_u64_le(vote.map_or(0, |vote| vote.term));
    out.put_u64_le(vote.map_or(NONE, |vote| vote.node_id));
    out.put_u64_le(u64::from(vote.is_some_and(|vote| vote.committed)));
}

fn get_vote(bytes: &mut Bytes) -> Option<Option<Vote>> {
    let (term, node_id) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
    let committed = match bytes.try_get_u64_le().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some((node_id != NONE).then_some(Vote { term, node_id, committed }))
}

fn put_purged(out: &mut Vec<u8>, purged: Option<Purged>) {
    put_log_id(out, purged.map(|purged| purged.upto));
    out.put_u64_le(purged.map_or(0, |purged| purged.complete_at));
}

fn get_purged(bytes: &mut Bytes) -> Option<Option<Purged>> {
    let upto = get_log_id(bytes)?;
    let complete_at = bytes.try_get_u64_le().ok()?;
    Some(upto.map(|upto| Purged { upto, complete_at }))
}

#[cfg(test)]
pub(crate) mod tests;

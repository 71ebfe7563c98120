//! Entries: the payload of one Raft log entry, as bytes (formats.md 3).
//!
//! All integers are little endian.
//!
//! ```text
//! every payload      0 2 kind    2 2 version (1)    4 4 zero
//! 1 BATCH            8 8 term   16 8 number   24 8 time_ms   32 4 op_count   36 4 data_len
//!                   40 op_count ops of 64 bytes, then data: the record bytes of each op, in order
//! 2 CONTROL          8 8 term   16 8 number   24 8 time_ms   32 protobuf stored.v1.Command
//! 3 BLANK            nothing
//! 4 MEMBERSHIP       8 protobuf stored.v1.Membership
//!
//! op   0 8 stream_id        8 4 stream_revision  12 4 expected_epoch
//!     16 8 expected_offset (all ones: none)
//!     24 8 producer_id (0: none)  32 4 producer_epoch  36 4 zero  40 8 first_sequence
//!     48 4 record_count    52 4 records_crc32c   56 4 data_pos (from the start of data)  60 4 data_len
//! ```
//!
//! Every payload has one form only: ops lie in `data` one after the other without a gap, fields
//! that say nothing are zero, and a protobuf part is what prost writes for it. A payload in any
//! other form is not ours or is newer than this program, and the replica stops.
//! The frame around a payload has the checksum; here is none.

mod builder;
mod peek;

pub use builder::{BatchBuilder, Full};
pub use peek::{Kind, stamp_of};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use pyramid_protocol::limits::ID_MAX;
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::{Offset, StreamId};

pub use crate::wal::LogId;

/// The version that this program writes, and the only one it reads.
pub const VERSION: u16 = 1;

/// The newest feature level that this program can apply.
pub const FEATURE_LEVEL_MAX: u32 = 1;

/// Most bytes of an entry with more than one append. A single larger append has an entry alone.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Most appends in one entry.
pub const OPS_MAX: usize = 4096;

const HEADER_LEN: usize = 8;
const BATCH_HEADER_LEN: usize = 40;
const OP_LEN: usize = 64;

const KIND_BATCH: u16 = 1;
const KIND_CONTROL: u16 = 2;
const KIND_BLANK: u16 = 3;
const KIND_MEMBERSHIP: u16 = 4;

/// Stands for "no expectation" in an op. No stream ever ends there.
const NO_OFFSET: u64 = u64::MAX;

/// What the appender gives each of its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The term that the appender believed to be in.
    pub term: u64,
    /// Counts the appender's entries within its term, from 1.
    pub number: u64,
    /// Log time. Unit: milliseconds since 1970 UTC.
    pub time_ms: u64,
}

/// What one entry of the log says.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Appends, in order.
    Batch {
        /// Who numbered it, and when.
        stamp: Stamp,
        /// At least one.
        ops: Vec<Op>,
        /// The record bytes of all ops: a slice of the payload.
        data: Bytes,
    },
    /// One change of anything else.
    Control {
        /// Who numbered it, and when.
        stamp: Stamp,
        /// Never unset.
        command: stored::command::Command,
    },
    /// A new leader's first entry.
    Blank,
    /// Who votes.
    Membership(stored::Membership),
}

/// One append. Its record bytes lie in the entry's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// The stream, as resolved by the door.
    pub stream_id: StreamId,
    /// The revision that the session saw at its first append to the stream.
    pub stream_revision: u32,
    /// Write only if the stream ends here.
    pub expectation: Option<Expectation>,
    /// Write only once.
    pub producer: Option<Producer>,
    /// At least 1.
    pub record_count: u32,
    /// CRC-32C over the record bytes.
    pub records_crc32c: u32,
    /// Where the record bytes begin. Unit: bytes from the start of the entry's data.
    pub data_pos: u32,
    /// Their length. Unit: bytes.
    pub data_len: u32,
}

/// An end of stream that an append relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    epoch: u32,
    offset: Offset,
}

impl Expectation {
    /// The end `offset`, as read in `epoch`. `None` at `u64::MAX`, where no stream ever ends and
    /// which stands for "none" in an op: the door refuses it.
    #[must_use]
    pub fn new(epoch: u32, offset: Offset) -> Option<Self> {
        (offset.get() != NO_OFFSET).then_some(Self { epoch, offset })
    }

    /// The epoch in which the offset was read.
    #[must_use]
    pub fn epoch(self) -> u32 {
        self.epoch
    }

    /// The expected next offset.
    #[must_use]
    pub fn offset(self) -> Offset {
        self.offset
    }
}

/// The producer's side of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    id: u64,
    epoch: u32,
    first_sequence: u64,
}

impl Producer {
    /// `None` if the id is outside of 1 to 2^53 - 1: the door refuses it.
    #[must_use]
    pub fn new(id: u64, epoch: u32, first_sequence: u64) -> Option<Self> {
        (1..=ID_MAX).contains(&id).then_some(Self { id, epoch, first_sequence })
    }

    /// As given by `InitProducer`.
    #[must_use]
    pub fn id(self) -> u64 {
        self.id
    }

    /// Raised by each `InitProducer`.
    #[must_use]
    pub fn epoch(self) -> u32 {
        self.epoch
    }

    /// Number of the append's first record. Unit: records of this producer.
    #[must_use]
    pub fn first_sequence(self) -> u64 {
        self.first_sequence
    }
}

/// Why a payload is not an entry that this program can apply. The replica must stop: to skip an
/// entry would make it differ from the others.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A newer program wrote it.
    #[error("entry has {what} {found}, this program knows up to {known}; install a newer version")]
    Unknown {
        /// Which number is unknown.
        what: &'static str,
        /// The number.
        found: u32,
        /// The largest one known here.
        known: u32,
    },
    /// A newer program wrote it: the command has a member or a field that is not known here.
    #[error("entry has a part of {what} that this program does not know; install a newer version")]
    UnknownPart {
        /// The protobuf message.
        what: &'static str,
    },
    /// The bytes are not an entry. The frame's checksum held, so a program wrote them wrongly.
    #[error("entry is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

/// One append as it lies in an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredAppend {
    /// Its row.
    pub op: Op,
    /// Its record bytes: a slice of the payload.
    pub records: Bytes,
}

impl Op {
    /// The op's record bytes, out of its entry's data.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if they do not lie within `data`.
    pub fn records(&self, data: &Bytes) -> Result<Bytes, Error> {
        slice(data, self.data_pos, self.data_len)
    }

    fn decode(mut row: &[u8]) -> Result<Self, Error> {
        let row = &mut row;
        let stream_id = StreamId::new(u64_le(row)?).ok_or(malformed("stream id out of range"))?;
        let stream_revision = u32_le(row)?;
        let expected_epoch = u32_le(row)?;
        let expected_offset = u64_le(row)?;
        let expectation = match (expected_offset, expected_epoch) {
            (NO_OFFSET, 0) => None,
            (NO_OFFSET, _) => return Err(malformed("epoch of an expectation that is not there")),
            (offset, epoch) => Some(Expectation { epoch, offset: Offset::new(offset) }),
        };
        let id = u64_le(row)?;
        let epoch = u32_le(row)?;
        if u32_le(row)? != 0 {
            return Err(malformed("bytes kept for later are not zero"));
        }
        let first_sequence = u64_le(row)?;
        let producer = match (id, epoch, first_sequence) {
            (0, 0, 0) => None,
            (0, _, _) => return Err(malformed("sequence of a producer that is not there")),
            _ => Some(
                Producer::new(id, epoch, first_sequence)
                    .ok_or(malformed("producer id out of range"))?,
            ),
        };
        let op = Self {
            stream_id,
            stream_revision,
            expectation,
            producer,
            record_count: u32_le(row)?,
            records_crc32c: u32_le(row)?,
            data_pos: u32_le(row)?,
            data_len: u32_le(row)?,
        };
        if op.record_count == 0 {
            return Err(malformed("append without a record"));
        }
        Ok(op)
    }

    fn encode(&self, bytes: &mut impl BufMut) {
        bytes.put_u64_le(self.stream_id.get());
        bytes.put_u32_le(self.stream_revision);
        let Expectation { epoch, offset } =
            self.expectation.unwrap_or(Expectation { epoch: 0, offset: Offset::new(NO_OFFSET) });
        bytes.put_u32_le(epoch);
        bytes.put_u64_le(offset.get());
        let Producer { id, epoch, first_sequence } =
            self.producer.unwrap_or(Producer { id: 0, epoch: 0, first_sequence: 0 });
        bytes.put_u64_le(id);
        bytes.put_u32_le(epoch);
        bytes.put_u32_le(0);
        bytes.put_u64_le(first_sequence);
        bytes.put_u32_le(self.record_count);
        bytes.put_u32_le(self.records_crc32c);
        bytes.put_u32_le(self.data_pos);
        bytes.put_u32_le(self.data_len);
    }
}

impl Entry {
    /// Reads a payload. Record bytes are not copied.
    ///
    /// # Errors
    ///
    /// See [`Error`]: in each case the replica stops.
    pub fn decode(payload: &Bytes) -> Result<Self, Error> {
        let mut rest = payload.clone();
        match kind(&mut rest)? {
            KIND_BATCH => {
                let batch = BatchHeader::decode(&mut rest)?;
                let rows = rest.split_to(batch.ops_len);
                let mut ops = Vec::with_capacity(batch.ops_len / OP_LEN);
                let mut data_pos = 0_u32;
                for row in rows.chunks_exact(OP_LEN) {
                    let op = Op::decode(row)?;
                    if op.data_pos != data_pos {
                        return Err(malformed("gap between the records of two appends"));
                    }
                    data_pos = data_pos.checked_add(op.data_len).ok_or(malformed("data length"))?;
                    ops.push(op);
                }
                if to_usize(data_pos)? != rest.len() {
                    return Err(malformed("appends do not fill the data"));
                }
                Ok(Self::Batch { stamp: batch.stamp, ops, data: rest })
            }
            KIND_CONTROL => {
                let stamp = stamp(&mut rest)?;
                let command: stored::Command = canonical("stored.v1.Command", &rest)?;
                let command =
                    command.command.ok_or(Error::UnknownPart { what: "stored.v1.Command" })?;
                if let stored::command::Command::SetFeatureLevel(set) = &command
                    && set.level > FEATURE_LEVEL_MAX
                {
                    return Err(Error::Unknown {
                        what: "feature level",
                        found: set.level,
                        known: FEATURE_LEVEL_MAX,
                    });
                }
                Ok(Self::Control { stamp, command })
            }
            KIND_BLANK if rest.is_empty() => Ok(Self::Blank),
            KIND_BLANK => Err(malformed("blank entry with content")),
            KIND_MEMBERSHIP => Ok(Self::Membership(canonical("stored.v1.Membership", &rest)?)),
            found => Err(Error::Unknown {
                what: "kind",
                found: found.into(),
                known: KIND_MEMBERSHIP.into(),
            }),
        }
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        match self {
            Self::Batch { stamp, ops, data } => {
                bytes.reserve_exact(BATCH_HEADER_LEN + ops.len() * OP_LEN + data.len());
                encode_batch(&mut bytes, *stamp, ops, data.len());
                bytes.put_slice(data);
            }
            Self::Control { stamp, command } => {
                put_kind(&mut bytes, KIND_CONTROL);
                put_stamp(&mut bytes, *stamp);
                let command = stored::Command { command: Some(command.clone()) };
                bytes.put_slice(&command.encode_to_vec());
            }
            Self::Blank => put_kind(&mut bytes, KIND_BLANK),
            Self::Membership(membership) => {
                put_kind(&mut bytes, KIND_MEMBERSHIP);
                bytes.put_slice(&membership.encode_to_vec());
            }
        }
        bytes.into()
    }
}

/// Finds one append in the payload of a BATCH entry, without reading the others. Nothing is copied.
///
/// # Errors
///
/// [`Error::Malformed`] if the payload is no BATCH entry or has no such op.
pub fn stored_append(payload: &Bytes, op: u32) -> Result<StoredAppend, Error> {
    let mut rest = payload.clone();
    if kind(&mut rest)? != KIND_BATCH {
        return Err(malformed("not a batch of appends"));
    }
    let batch = BatchHeader::decode(&mut rest)?;
    let rows = rest.split_to(batch.ops_len);
    let row = rows.chunks_exact(OP_LEN).nth(to_usize(op)?).ok_or(malformed("no such append"))?;
    let op = Op::decode(row)?;
    Ok(StoredAppend { op, records: op.records(&rest)? })
}

struct BatchHeader {
    stamp: Stamp,
    ops_len: usize,
}

impl BatchHeader {
    /// Reads what lies before the ops, and checks that ops and data are there as announced.
    fn decode(rest: &mut Bytes) -> Result<Self, Error> {
        let stamp = stamp(rest)?;
        let op_count = to_usize(u32_le(rest)?)?;
        let data_len = to_usize(u32_le(rest)?)?;
        if op_count == 0 || op_count > OPS_MAX {
            return Err(malformed("number of appends"));
        }
        let ops_len = op_count * OP_LEN;
        if ops_len.checked_add(data_len) != Some(rest.len()) {
            return Err(malformed("length"));
        }
        Ok(Self { stamp, ops_len })
    }
}

fn encode_batch(bytes: &mut Vec<u8>, stamp: Stamp, ops: &[Op], data_len: usize) {
    put_kind(bytes, KIND_BATCH);
    put_stamp(bytes, stamp);
    bytes.put_u32_le(u32::try_from(ops.len()).expect("an entry has at most OPS_MAX appends"));
    bytes.put_u32_le(u32::try_from(data_len).expect("an entry has less than 4 GiB"));
    for op in ops {
        op.encode(bytes);
    }
}

fn put_kind(bytes: &mut Vec<u8>, kind: u16) {
    bytes.put_u16_le(kind);
    bytes.put_u16_le(VERSION);
    bytes.put_u32_le(0);
}

fn put_stamp(bytes: &mut Vec<u8>, stamp: Stamp) {
    bytes.put_u64_le(stamp.term);
    bytes.put_u64_le(stamp.number);
    bytes.put_u64_le(stamp.time_ms);
}

fn kind(rest: &mut Bytes) -> Result<u16, Error> {
    if rest.len() < HEADER_LEN {
        return Err(malformed("shorter than its header"));
    }
    let kind = rest.get_u16_le();
    let version = rest.get_u16_le();
    if version != VERSION {
        let (found, known) = (version.into(), VERSION.into());
        return Err(Error::Unknown { what: "version", found, known });
    }
    if rest.get_u32_le() != 0 {
        return Err(malformed("bytes kept for later are not zero"));
    }
    Ok(kind)
}

fn stamp(rest: &mut Bytes) -> Result<Stamp, Error> {
    Ok(Stamp { term: u64_le(rest)?, number: u64_le(rest)?, time_ms: u64_le(rest)? })
}

/// Reads a message and takes it only if writing it again gives the same bytes: prost skips what
/// it does not know, and an entry must never be applied in part.
fn canonical<M: Message + Default>(what: &'static str, bytes: &Bytes) -> Result<M, Error> {
    let message = M::decode(bytes.clone()).map_err(|_| malformed("not a protobuf message"))?;
    if message.encode_to_vec() == *bytes { Ok(message) } else { Err(Error::UnknownPart { what }) }
}

fn slice(data: &Bytes, pos: u32, len: u32) -> Result<Bytes, Error> {
    let (pos, len) = (to_usize(pos)?, to_usize(len)?);
    match pos.checked_add(len) {
        Some(end) if end <= data.len() => Ok(data.slice(pos..end)),
        Some(_) | None => Err(malformed("records outside of the entry")),
    }
}

fn u32_le(rest: &mut impl Buf) -> Result<u32, Error> {
    rest.try_get_u32_le().map_err(|_| malformed("cut"))
}

fn u64_le(rest: &mut impl Buf) -> Result<u64, Error> {
    rest.try_get_u64_le().map_err(|_| malformed("cut"))
}

fn to_usize(number: u32) -> Result<usize, Error> {
    usize::try_from(number).map_err(|_| malformed("too large for this machine"))
}

const fn malformed(what: &'static str) -> Error {
    Error::Malformed { what }
}

#[cfg(test)]
mod tests;

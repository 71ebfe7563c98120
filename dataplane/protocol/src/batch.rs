//! [`Batch`]: one append with its place, time and checksum.
//!
//! ```text
//! ┌──────────────────────────── 28 bytes ────────────────────────────┬──────────────────┐
//! │ 09 base_offset │ 11 append_time_ms │ 1d record_count │ 25 crc32c │ 2a len Record …  │
//! │    8 LE        │    8 LE           │    4 LE         │    4 LE   │                  │
//! └──────────────────────────────────────────────────────────────────┴──────────────────┘
//! ```
//!
//! This is the protobuf encoding of `RecordBatch`, with the four fixed fields always written and
//! in the order of their numbers.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::offset::Offset;
use crate::pb::v1 as pb;
use crate::records::{self, Records};

/// Length of the fixed fields. Unit: bytes.
pub const FIXED_LEN: usize = 28;

const BASE_OFFSET_TAG: u8 = 1 << 3 | 1;
const APPEND_TIME_TAG: u8 = 2 << 3 | 1;
const RECORD_COUNT_TAG: u8 = 3 << 3 | 5;
const RECORDS_CRC_TAG: u8 = 4 << 3 | 5;

/// Exactly one append; never cut, except at its front by [`Batch::skip_to`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Log time of the append. Unit: milliseconds since 1970 UTC.
    pub append_time_ms: u64,
    /// How many records. At least 1.
    pub record_count: u32,
    /// CRC-32C over `records`.
    pub records_crc32c: u32,
    /// The encoded records, tags included.
    pub records: Bytes,
}

/// Why bytes are not a good batch. They are damaged, or not ours; nothing of them may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The fixed fields are not there, or say that there are no records.
    #[error("not an encoded batch")]
    Malformed,
    /// The records do not match their checksum.
    #[error("the records of the batch at offset {base_offset} do not match their checksum")]
    Damaged {
        /// Where the batch says that it is.
        base_offset: u64,
    },
    /// An offset was asked for that the batch does not hold.
    #[error("offset {offset} is not within the batch at offset {base_offset}")]
    NotWithin {
        /// What was asked for.
        offset: u64,
        /// Where the batch begins.
        base_offset: u64,
    },
}

impl Batch {
    /// The batch that `records` become at this place.
    #[must_use]
    pub fn new(base_offset: Offset, append_time_ms: u64, records: &Records) -> Self {
        Self {
            base_offset,
            append_time_ms,
            record_count: records.count(),
            records_crc32c: records.crc32c(),
            records: records.bytes().clone(),
        }
    }

    /// Reads the fixed fields. The records are neither checked nor copied.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`].
    pub fn decode(mut bytes: Bytes) -> Result<Self, Error> {
        let batch = (|| {
            let base_offset = tagged_u64(&mut bytes, BASE_OFFSET_TAG)?;
            let append_time_ms = tagged_u64(&mut bytes, APPEND_TIME_TAG)?;
            let record_count = tagged_u32(&mut bytes, RECORD_COUNT_TAG)?;
            let records_crc32c = tagged_u32(&mut bytes, RECORDS_CRC_TAG)?;
            base_offset.checked_add(u64::from(record_count))?;
            (record_count > 0).then_some(Self {
                base_offset: Offset::new(base_offset),
                append_time_ms,
                record_count,
                records_crc32c,
                records: bytes,
            })
        })();
        batch.ok_or(Error::Malformed)
    }

    /// Compares the records with their checksum.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`].
    pub fn verify(&self) -> Result<(), Error> {
        if crc32c::crc32c(&self.records) == self.records_crc32c {
            Ok(())
        } else {
            Err(Error::Damaged { base_offset: self.base_offset.get() })
        }
    }

    /// The encoded form. Copies the records.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        self.encode_to(&mut bytes);
        bytes.freeze()
    }

    /// Puts the encoded form behind what `bytes` holds.
    pub fn encode_to(&self, bytes: &mut impl BufMut) {
        bytes.put_slice(&self.encode_fixed());
        bytes.put_slice(&self.records);
    }

    /// The fixed fields alone.
    #[must_use]
    pub fn encode_fixed(&self) -> [u8; FIXED_LEN] {
        let mut fixed = [0; FIXED_LEN];
        let mut rest: &mut [u8] = &mut fixed;
        rest.put_u8(BASE_OFFSET_TAG);
        rest.put_u64_le(self.base_offset.get());
        rest.put_u8(APPEND_TIME_TAG);
        rest.put_u64_le(self.append_time_ms);
        rest.put_u8(RECORD_COUNT_TAG);
        rest.put_u32_le(self.record_count);
        rest.put_u8(RECORDS_CRC_TAG);
        rest.put_u32_le(self.records_crc32c);
        fixed
    }

    /// Length of the encoded form. Unit: bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        FIXED_LEN + self.records.len()
    }

    /// The offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset::new(self.base_offset.get().saturating_add(u64::from(self.record_count)))
    }

    /// Cuts off the records before `offset`: the one place where a batch is shortened.
    ///
    /// The checksum is checked first, a new one is made, the time stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotWithin`] unless `base_offset <= offset < next_offset`; [`Error::Damaged`].
    pub fn skip_to(&self, offset: Offset) -> Result<Self, Error> {
        let not_within =
            Error::NotWithin { offset: offset.get(), base_offset: self.base_offset.get() };
        if offset < self.base_offset || offset >= self.next_offset() {
            return Err(not_within);
        }
        self.verify()?;
        let skipped = offset.get() - self.base_offset.get();
        let mut rest = records::Iter::new(self.records.clone());
        for _ in 0..skipped {
            rest.skip_one().ok_or(Error::Malformed)?;
        }
        let records = rest.into_rest();
        let skipped = u32::try_from(skipped).map_err(|_| not_within)?;
        Ok(Self {
            base_offset: offset,
            append_time_ms: self.append_time_ms,
            record_count: self.record_count - skipped,
            records_crc32c: crc32c::crc32c(&records),
            records,
        })
    }

    /// The records with their offsets. For applications and commands; our own path never decodes.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Offset, pb::Record), prost::DecodeError>> {
        let offsets = (self.base_offset.get()..).map(Offset::new);
        records::Iter::new(self.records.clone())
            .zip(offsets)
            .map(|(record, offset)| Ok((offset, record?)))
    }
}

fn tagged_u64(bytes: &mut Bytes, tag: u8) -> Option<u64> {
    (bytes.try_get_u8().ok()? == tag).then(|| bytes.try_get_u64_le().ok())?
}

fn tagged_u32(bytes: &mut Bytes, tag: u8) -> Option<u32> {
    (bytes.try_get_u8().ok()? == tag).then(|| bytes.try_get_u32_le().ok())?
}

#[cfg(test)]
#[path = "batch/tests.rs"]
mod tests;

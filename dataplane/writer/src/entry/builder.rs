//! [`BatchBuilder`]: packs appends into one entry.

use bytes::{BufMut, Bytes};
use pyramid_protocol::{Records, StreamId};

use super::{
    BATCH_HEADER_LEN, ENTRY_BYTES_MAX, Expectation, OP_LEN, OPS_MAX, Op, Producer, Stamp,
    encode_batch,
};

/// Collects appends until an entry is full: [`ENTRY_BYTES_MAX`], [`OPS_MAX`], or one larger append.
///
/// The record bytes are copied once, by [`BatchBuilder::finish`], into the buffer that the
/// write-ahead log writes and that readers are served from.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    ops: Vec<Op>,
    records: Vec<Bytes>,
    data_len: usize,
}

/// The append does not fit any more: finish this entry, then push it into the next one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entry is full; finish it and put the append into the next one")]
pub struct Full;

impl BatchBuilder {
    /// Adds an append and gives its place in the entry.
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was added. Never on an empty builder.
    pub fn push(
        &mut self,
        stream_id: StreamId,
        stream_revision: u32,
        expectation: Option<Expectation>,
        producer: Option<Producer>,
        records: &Records,
    ) -> Result<u32, Full> {
        let bytes = records.bytes();
        let full = self.encoded_len() + OP_LEN + bytes.len() > ENTRY_BYTES_MAX
            || self.ops.len() == OPS_MAX;
        if full && !self.ops.is_empty() {
            return Err(Full);
        }
        let place = u32::try_from(self.ops.len()).map_err(|_| Full)?;
        self.ops.push(Op {
            stream_id,
            stream_revision,
            expectation,
            producer,
            record_count: records.count(),
            records_crc32c: records.crc32c(),
            data_pos: u32::try_from(self.data_len).map_err(|_| Full)?,
            data_len: u32::try_from(bytes.len()).map_err(|_| Full)?,
        });
        self.data_len += bytes.len();
        self.records.push(bytes.clone());
        Ok(place)
    }

    /// Appends so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is no append yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Length of the payload that [`Self::finish`] would give now. Unit: bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        BATCH_HEADER_LEN + self.ops.len() * OP_LEN + self.data_len
    }

    /// The payload of the entry; the builder is empty again. `None` if there is no append.
    pub fn finish(&mut self, stamp: Stamp) -> Option<Bytes> {
        if self.ops.is_empty() {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.encoded_len());
        encode_batch(&mut bytes, stamp, &self.ops, self.data_len);
        for records in &self.records {
            bytes.put_slice(records);
        }
        *self = Self::default();
        Some(bytes.into())
    }
}

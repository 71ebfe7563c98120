//! [`Block`]: a run of batches of one stream, packed.

use pyramid_protocol::Offset;

use super::{Border, LiveBatch};

/// Batches per block: how many rows a lookup reads at most, and how many share a skip point.
pub(super) const BLOCK_LEN: u32 = 128;

/// At most [`BLOCK_LEN`] batches: the first as it is, the others as rows. See the module above.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    first: Border,
    rows: Vec<u8>,
    count: u32,
}

impl Block {
    pub(super) fn new(first: Border) -> Self {
        Self { first, rows: Vec::new(), count: 1 }
    }

    pub(super) fn first(&self) -> &LiveBatch {
        &self.first.batch
    }

    pub(super) fn first_border(&self) -> &Border {
        &self.first
    }

    pub(super) fn is_full(&self) -> bool {
        self.count == BLOCK_LEN
    }

    /// Adds `batch` behind `last`, which is the newest one here.
    pub(super) fn push(&mut self, last: &LiveBatch, batch: &LiveBatch) {
        let index_step = batch.index - last.index;
        put(&mut self.rows, index_step);
        if index_step == 0 {
            put(&mut self.rows, u64::from(batch.op - last.op - 1));
        } else {
            put(&mut self.rows, batch.time_ms - last.time_ms);
            put(&mut self.rows, batch.op.into());
        }
        put(&mut self.rows, batch.record_count.into());
        put(&mut self.rows, batch.len_bytes.into());
        self.count += 1;
        if self.is_full() {
            self.rows.shrink_to_fit();
        }
    }

    /// All batches, in order.
    pub(super) fn borders(&self) -> Borders<'_> {
        Borders { next: Some(self.first), rows: &self.rows }
    }

    /// What lies behind the block itself.
    pub(super) fn memory_bytes(&self) -> usize {
        self.rows.capacity()
    }
}

/// The batches of a block.
pub(super) struct Borders<'a> {
    next: Option<Border>,
    rows: &'a [u8],
}

impl Iterator for Borders<'_> {
    type Item = Border;

    fn next(&mut self) -> Option<Border> {
        let border = self.next?;
        self.next = self.row(&border);
        Some(border)
    }
}

impl Borders<'_> {
    /// Reads the batch behind `before`.
    fn row(&mut self, before: &Border) -> Option<Border> {
        let rows = &mut self.rows;
        let last = &before.batch;
        let index_step = take(rows)?;
        let (time_step, op) = if index_step == 0 {
            (0, u64::from(last.op) + 1 + take(rows)?)
        } else {
            (take(rows)?, take(rows)?)
        };
        let batch = LiveBatch {
            base: Offset::new(last.next().get()),
            record_count: take(rows)?.try_into().ok()?,
            index: last.index + index_step,
            op: op.try_into().ok()?,
            time_ms: last.time_ms + time_step,
            len_bytes: take(rows)?.try_into().ok()?,
        };
        Some(Border { batch, bytes_before: before.bytes_before + u64::from(last.len_bytes) })
    }
}

/// Writes a number as LEB128: seven bits a byte, the lowest first.
fn put(rows: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            rows.push(low & 0x7f);
            return;
        }
        rows.push(low | 0x80);
    }
}

/// Reads a number; `None` at the end of the rows.
fn take(rows: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    let mut shift = 0;
    loop {
        let (byte, rest) = rows.split_first()?;
        *rows = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

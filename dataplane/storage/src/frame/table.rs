//! The table of frames, and the HMAC over header and table.

use std::ops::Range;

use hmac::Mac;

use super::{Bad, ROW_LEN, Row, TAG_LEN, hmac};
use crate::keys::FrameKeys;

/// What stands in front of the MAC'd bytes of a head.
const HEAD_CONTEXT: &[u8] = b"PYRH1";

/// The rows of an object, and where their frames lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    rows: Vec<Row>,
    /// Where each frame begins, and behind the last one the end. Unit: bytes of the object.
    positions: Vec<u64>,
}

/// Limits that the rows of a table keep.
pub(crate) struct Bounds {
    /// Longest frame. Unit: plain bytes.
    pub(crate) frame_len_max: usize,
    /// All frames. Unit: plain bytes.
    pub(crate) plain_len: u64,
    /// The object. Unit: bytes.
    pub(crate) total_len: u64,
}

/// Length of header, table and HMAC. Unit: bytes.
pub(crate) fn head_len(header_len: usize, frame_count: u32) -> Option<usize> {
    usize::try_from(frame_count)
        .ok()?
        .checked_mul(ROW_LEN)?
        .checked_add(header_len)?
        .checked_add(TAG_LEN)
}

impl Table {
    /// Reads the table between header and HMAC of `head`, which is exactly as long as the caller's
    /// (bounded) frame count says.
    pub(crate) fn decode(head: &[u8], header_len: usize, bounds: &Bounds) -> Result<Self, Bad> {
        let table_end = head.len().checked_sub(TAG_LEN).ok_or(Bad)?;
        let table = head.get(header_len..table_end).ok_or(Bad)?;
        let rows = table
            .chunks(ROW_LEN)
            .map(|row| Row::decode(row, bounds.frame_len_max))
            .collect::<Result<Vec<_>, _>>()?;
        let table = Self::new(head.len(), rows).ok_or(Bad)?;
        let plain_len: u64 = table.rows.iter().map(|row| u64::from(row.plain_len)).sum();
        if plain_len == bounds.plain_len && table.end() == bounds.total_len {
            Ok(table)
        } else {
            Err(Bad)
        }
    }

    fn new(head_len: usize, rows: Vec<Row>) -> Option<Self> {
        let mut end = u64::try_from(head_len).ok()?;
        let mut positions = Vec::with_capacity(rows.len().checked_add(1)?);
        positions.push(end);
        for row in &rows {
            end = end.checked_add(row.cipher_len())?;
            positions.push(end);
        }
        Some(Self { rows, positions })
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(crate) fn row(&self, frame: usize) -> Option<&Row> {
        self.rows.get(frame)
    }

    /// Where the ciphertext of a frame lies in the object.
    pub(crate) fn range(&self, frame: usize) -> Option<Range<u64>> {
        let start = *self.positions.get(frame)?;
        let end = *self.positions.get(frame.checked_add(1)?)?;
        Some(start..end)
    }

    /// Length of the object. Unit: bytes.
    pub(crate) fn end(&self) -> u64 {
        self.positions.last().copied().unwrap_or(0)
    }
}

/// Header, table and HMAC as they stand at the front of an object.
pub(crate) fn seal_head(header: &[u8], rows: &[Row], keys: &FrameKeys) -> Vec<u8> {
    let mut head = Vec::with_capacity(header.len() + rows.len() * ROW_LEN + TAG_LEN);
    head.extend_from_slice(header);
    for row in rows {
        row.encode_to(&mut head);
    }
    let tag = head_mac(&head, keys).finalize().into_bytes();
    head.extend_from_slice(&tag);
    head
}

/// Compares the HMAC at the end of `head`, in constant time.
pub(crate) fn verify_head(head: &[u8], keys: &FrameKeys) -> Result<(), Bad> {
    let described_len = head.len().checked_sub(TAG_LEN).ok_or(Bad)?;
    let (described, tag) = head.split_at_checked(described_len).ok_or(Bad)?;
    head_mac(described, keys).verify_slice(tag).map_err(|_| Bad)
}

fn head_mac(described: &[u8], keys: &FrameKeys) -> hmac::Hmac<sha2::Sha256> {
    let mut mac = hmac(keys.mac());
    mac.update(HEAD_CONTEXT);
    mac.update(described);
    mac
}

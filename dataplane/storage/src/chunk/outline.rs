//! What can be seen of a chunk without any key. For people: nothing of it is authenticated.

use std::ops::Range;

use pyramid_protocol::Offset;

use super::{Damaged, HEADER_LEN, Header};
use crate::frame::{self, Bad, Table};

/// The layout that a chunk claims to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// What the chunk says of itself.
    pub header: Header,
    /// Length of header, table and HMAC. Unit: bytes.
    pub head_len: usize,
    /// The frames, in order.
    pub frames: Vec<Frame>,
}

/// One row of the frame table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// First offset in the frame.
    pub first_offset: Offset,
    /// Log time of its first batch. Unit: milliseconds since 1970 UTC.
    pub first_time_ms: u64,
    /// Whole batches in the frame.
    pub batch_count: u32,
    /// Length of its content. Unit: bytes.
    pub plain_len: u32,
    /// Where its ciphertext lies in the chunk. Unit: bytes.
    pub range: Range<u64>,
}

/// Reads the layout at the front of `bytes`, unauthenticated.
///
/// # Errors
///
/// It is no chunk.
pub fn outline(object: &str, bytes: &[u8]) -> Result<Outline, Damaged> {
    let read = || {
        let header = Header::decode(bytes)?;
        let head_len = frame::head_len(HEADER_LEN, header.frame_count).ok_or(Bad)?;
        let table = header.table(bytes.get(..head_len).ok_or(Bad)?)?;
        Ok(Outline { header, head_len, frames: frames(&table).collect() })
    };
    read().map_err(Damaged::because(object))
}

pub(super) fn frames(table: &Table) -> impl Iterator<Item = Frame> {
    table.rows().iter().enumerate().filter_map(|(frame, row)| {
        Some(Frame {
            first_offset: Offset::new(row.first_offset),
            first_time_ms: row.first_time_ms,
            batch_count: row.batch_count,
            plain_len: row.plain_len,
            range: table.range(frame)?,
        })
    })
}

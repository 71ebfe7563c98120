//! Frames that no honest program makes, under the right keys: what a stolen key could write.

use super::{IV_LEN, Place, Row, TAG_LEN, seal_packed};

/// A frame as its row shall describe it.
#[derive(Clone, Debug)]
pub(crate) struct Forged {
    pub(crate) first_offset: u64,
    pub(crate) first_time_ms: u64,
    pub(crate) batch_count: u32,
    pub(crate) plain_len: u32,
    /// `None`: the length of `packed`.
    pub(crate) packed_len: Option<u32>,
    pub(crate) compressed: bool,
    pub(crate) packed: Vec<u8>,
}

/// Encrypts and tags a forged frame behind what `object` holds.
pub(crate) fn seal(forged: &Forged, place: &Place<'_>, object: &mut Vec<u8>) -> Row {
    let row = Row {
        first_offset: forged.first_offset,
        first_time_ms: forged.first_time_ms,
        batch_count: forged.batch_count,
        plain_len: forged.plain_len,
        packed_len: forged.packed_len.unwrap_or(u32::try_from(forged.packed.len()).unwrap()),
        compressed: forged.compressed,
        iv: [7; IV_LEN],
        tag: [0; TAG_LEN],
    };
    seal_packed(row, &forged.packed, place, object)
}

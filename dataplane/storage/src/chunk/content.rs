//! Plain content of a frame: `batches` fields of a `ChunkContent`, one behind the other.

use bytes::{Buf, Bytes};
use pyramid_protocol::{Batch, batch::FIXED_LEN, limits::APPEND_BYTES_MAX};

use crate::frame::{self, Bad};

/// Tag of `ChunkContent.batches`: field 1, length-delimited.
const BATCHES_TAG: u8 = 1 << 3 | 2;

/// Longest length in front of a batch. Unit: bytes.
const LEN_BYTES_MAX: usize = 5;

/// Longest batch. Unit: bytes.
pub(super) const BATCH_LEN_MAX: usize = APPEND_BYTES_MAX + FIXED_LEN;

/// Longest frame: one batch that is larger than the target. Unit: bytes.
pub(super) const FRAME_LEN_MAX: usize = BATCH_LEN_MAX + 1 + LEN_BYTES_MAX;

const _: () = assert!(frame::TARGET_LEN <= FRAME_LEN_MAX, "a frame of small batches fits too");

/// Length of a batch with tag and length. Unit: bytes.
pub(super) fn field_len(batch: &Batch) -> usize {
    let len = batch.encoded_len();
    1 + prost::length_delimiter_len(len) + len
}

/// Puts a batch behind others.
pub(super) fn encode_to(batch: &Batch, content: &mut Vec<u8>) {
    content.push(BATCHES_TAG);
    prost::encode_length_delimiter(batch.encoded_len(), content)
        .expect("a Vec takes all that is written");
    batch.encode_to(content);
}

/// The batches of a frame. Their checksums are compared; their places are not.
pub(super) fn decode(mut content: Bytes) -> Result<Vec<Batch>, Bad> {
    let mut batches = Vec::new();
    while content.has_remaining() {
        if content.get_u8() != BATCHES_TAG {
            return Err(Bad);
        }
        let len = prost::decode_length_delimiter(&mut content).map_err(|_| Bad)?;
        if len > content.remaining() {
            return Err(Bad);
        }
        let batch = Batch::decode(content.split_to(len)).map_err(|_| Bad)?;
        batch.verify().map_err(|_| Bad)?;
        batches.push(batch);
    }
    Ok(batches)
}

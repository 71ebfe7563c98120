//! Chunks: a run of one stream's batches, packed, encrypted, authenticated.
//!
//! ```text
//! header (224) │ frame table (80 a frame) │ HMAC (32) │ ciphertext of the frames
//! ```
//!
//! The header is drawn in [`Header`], rows, frames and the HMAC in `frame.rs`. A frame is about
//! 256 KiB of whole batches (a larger batch has one for itself); all frames, decrypted, unpacked
//! and one behind the other, are what `protoc --decode pyramid.v1.ChunkContent` reads.
//!
//! [`seal`] makes a chunk, [`SealedChunk::verify`] opens it again before it is uploaded,
//! [`location()`] tells a reader where it lies, [`ChunkReader`] reads it from there. Everything that
//! can be wrong with bytes from the object store is [`Damaged`], without a reason: whoever changes
//! objects and watches the answers learns nothing.
//!
//! Absent on purpose: any digest or checksum of plaintext without a key. Batches carry a CRC-32C,
//! but inside of the encryption.

mod content;
mod digest;
mod encode;
mod header;
mod location;
mod opened;
mod outline;
mod reader;

use crate::frame;

pub use self::{
    digest::{DIGEST_LEN, DIGEST_START, DigestChain},
    encode::{Identity, SealError, SealedChunk, seal},
    header::{HEADER_LEN, Header},
    location::{LocateError, location},
    opened::Chunk,
    outline::{Frame, Outline, outline},
    reader::{ChunkReader, FRAMES_AHEAD_MAX, ReadError, Start},
};

/// Most plain bytes of one chunk. The default size is 8 MiB.
pub const PLAIN_BYTES_MAX: u64 = 256 << 20;

/// Most frames of one chunk. Two neighbours always hold more than one target together, so a chunk
/// of [`PLAIN_BYTES_MAX`] has at most 2,048 and some.
pub const FRAMES_MAX: u32 = 4096;

/// What frame keys are derived for.
const KIND: &str = "chunk";

/// An object is not what the Writer stored. Nothing of it may be used.
///
/// Cut, changed, swapped, replayed and sealed under another key all look the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object} is damaged: it is not what was stored, and nothing of it is used")]
pub struct Damaged {
    /// The object's key, or its URL without what signs it.
    pub object: String,
}

impl Damaged {
    fn new(object: &str) -> Self {
        Self { object: object.to_owned() }
    }

    fn because(object: &str) -> impl Fn(frame::Bad) -> Self + '_ {
        |frame::Bad| Self::new(object)
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

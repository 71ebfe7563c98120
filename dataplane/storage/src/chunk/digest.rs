//! The digest chain: what a stream held, batch by batch, under a key of its own.
//!
//! `digest' = HMAC-SHA256(digest key, digest ‖ base_offset ‖ append_time_ms ‖ record_count ‖ record
//! bytes)`, integers little endian. Each chunk holds the digest before and after it, so chunks of
//! one history follow one another and of another history do not. Without the stream key nobody can
//! tell whether a guessed record is in it.

use hmac::Mac;
use pyramid_protocol::Batch;

use crate::{
    frame,
    keys::{DigestKey, StreamKey},
};

/// Unit: bytes.
pub const DIGEST_LEN: usize = 32;

/// The digest of an empty stream.
pub const DIGEST_START: [u8; DIGEST_LEN] = [0; DIGEST_LEN];

/// The chain at one place of a stream.
#[derive(Clone, Debug)]
pub struct DigestChain {
    key: DigestKey,
    digest: [u8; DIGEST_LEN],
}

impl DigestChain {
    /// Goes on behind `digest`.
    #[must_use]
    pub fn new(stream_key: &StreamKey, digest: [u8; DIGEST_LEN]) -> Self {
        Self { key: stream_key.digest_key(), digest }
    }

    /// Adds the next batch.
    pub fn push(&mut self, batch: &Batch) {
        let mut mac = frame::hmac(self.key.as_bytes());
        mac.update(&self.digest);
        mac.update(&batch.base_offset.get().to_le_bytes());
        mac.update(&batch.append_time_ms.to_le_bytes());
        mac.update(&batch.record_count.to_le_bytes());
        mac.update(&batch.records);
        self.digest = mac.finalize().into_bytes().into();
    }

    /// The digest of all batches so far.
    #[must_use]
    pub fn digest(&self) -> [u8; DIGEST_LEN] {
        self.digest
    }
}

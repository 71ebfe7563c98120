//! Batches → chunk.

use bytes::Bytes;
use pyramid_protocol::{Batch, Entropy, Offset, StreamId, pb::stored::v1 as stored};
use sha2::{Digest, Sha256};

use super::{
    Chunk, DIGEST_LEN, Damaged, DigestChain, FRAMES_MAX, HEADER_LEN, Header, KIND, PLAIN_BYTES_MAX,
    content,
};
use crate::{
    frame::{self, Compressor, Place},
    keys::{ChunkKey, FrameKeys, StreamKey},
    object_names::ObjectNames,
    object_store::ObjectKey,
};

/// What a chunk is, beside its batches.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Whose chunk, and where it will lie.
    pub names: &'a ObjectNames,
    /// The history in which it is sealed.
    pub epoch: u32,
    /// Which stream.
    pub stream_id: StreamId,
    /// Log index of the Seal.
    pub intent: u64,
    /// 0, until chunks are merged.
    pub generation: u32,
    /// Wraps the chunk key and keys the digests.
    pub stream_key: &'a StreamKey,
    /// The stream's last digest; [`super::DIGEST_START`] for its first chunk.
    pub digest_before: [u8; DIGEST_LEN],
}

/// Why batches do not make a chunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no batch: the range was empty.
    #[error("there is no batch to seal")]
    Empty,
    /// The batches do not follow one another: they are not a range of one stream.
    #[error("the batch at offset {found} follows offset {expected}")]
    NotContiguous {
        /// Where the batch before ended.
        expected: Offset,
        /// Where this one begins.
        found: Offset,
    },
    /// Log time goes back: the batches are not those that were applied.
    #[error("the batch at offset {base_offset} is older than the one before it")]
    TimeWentBack {
        /// The younger of the two.
        base_offset: Offset,
    },
    /// A batch does not match its checksum, or is longer than an append can be: what it was read
    /// from is damaged.
    #[error("the batch at offset {base_offset} is damaged")]
    DamagedBatch {
        /// The batch.
        base_offset: Offset,
    },
    /// The range must be cut smaller.
    #[error("the range has more than {PLAIN_BYTES_MAX} bytes")]
    TooLarge,
}

/// A chunk in memory, with all that the log must know of it.
#[derive(Clone, Debug)]
pub struct SealedChunk {
    bytes: Bytes,
    key: ObjectKey,
    chunk_ref: stored::ChunkRef,
    digest_before: [u8; DIGEST_LEN],
    digest_after: [u8; DIGEST_LEN],
}

/// Seals a run of whole batches under a new random key, for an upload under a name that was never
/// used. It takes about 4 ms a megabyte, so callers do it on a thread that may block.
///
/// # Errors
///
/// The batches are not a range of one stream, or too many.
pub fn seal(
    identity: &Identity<'_>,
    batches: impl IntoIterator<Item = Batch>,
    entropy: &dyn Entropy,
) -> Result<SealedChunk, SealError> {
    let chunk_key = ChunkKey::random(entropy);
    let frames = FrameSealer {
        keys: chunk_key.frame_keys(KIND),
        compressor: Compressor::new(),
        entropy,
        context: Vec::new(),
        plain: frame::Plain::default(),
        rows: Vec::new(),
        ciphertext: Vec::new(),
    };
    let mut run = Run { identity, frames, digest: digest_of(identity), summary: None };
    for batch in batches {
        run.push(&batch)?;
    }
    run.finish(&chunk_key, entropy.u64())
}

fn digest_of(identity: &Identity<'_>) -> DigestChain {
    DigestChain::new(identity.stream_key, identity.digest_before)
}

/// What is known of the batches so far.
struct Summary {
    base_offset: Offset,
    next_offset: Offset,
    first_time_ms: u64,
    last_time_ms: u64,
    batch_count: u32,
    plain_bytes: u64,
}

/// Batches on their way into a chunk.
struct Run<'a> {
    identity: &'a Identity<'a>,
    frames: FrameSealer<'a>,
    digest: DigestChain,
    summary: Option<Summary>,
}

impl Run<'_> {
    fn push(&mut self, batch: &Batch) -> Result<(), SealError> {
        let base_offset = batch.base_offset;
        let end_is_possible = base_offset.advance(u64::from(batch.record_count));
        if batch.verify().is_err()
            || batch.encoded_len() > content::BATCH_LEN_MAX
            || batch.record_count == 0
            || end_is_possible.is_none()
        {
            return Err(SealError::DamagedBatch { base_offset });
        }
        let header = |summary: &Summary| self.identity.header(summary);
        let summary = match &mut self.summary {
            None => {
                let summary = self.summary.insert(Summary {
                    base_offset,
                    next_offset: base_offset,
                    first_time_ms: batch.append_time_ms,
                    last_time_ms: batch.append_time_ms,
                    batch_count: 0,
                    plain_bytes: 0,
                });
                self.frames.context = header(summary).frame_context();
                summary
            }
            Some(summary) => summary,
        };
        if base_offset != summary.next_offset {
            return Err(SealError::NotContiguous {
                expected: summary.next_offset,
                found: base_offset,
            });
        }
        if batch.append_time_ms < summary.last_time_ms {
            return Err(SealError::TimeWentBack { base_offset });
        }
        let field_len = content::field_len(batch);
        summary.next_offset = batch.next_offset();
        summary.last_time_ms = batch.append_time_ms;
        summary.batch_count = summary.batch_count.checked_add(1).ok_or(SealError::TooLarge)?;
        summary.plain_bytes += u64::try_from(field_len).map_err(|_| SealError::TooLarge)?;
        if summary.plain_bytes > PLAIN_BYTES_MAX {
            return Err(SealError::TooLarge);
        }
        self.digest.push(batch);
        self.frames.push(batch, field_len)
    }

    fn finish(mut self, chunk_key: &ChunkKey, r: u64) -> Result<SealedChunk, SealError> {
        let summary = self.summary.as_ref().ok_or(SealError::Empty)?;
        self.frames.close()?;
        let FrameSealer { keys, rows, ciphertext, .. } = self.frames;
        let frame_count = u32::try_from(rows.len()).map_err(|_| SealError::TooLarge)?;
        let head_len = frame::head_len(HEADER_LEN, frame_count).ok_or(SealError::TooLarge)?;
        let total_len = head_len + ciphertext.len();
        let header = Header {
            frame_count,
            total_len: u64::try_from(total_len).map_err(|_| SealError::TooLarge)?,
            wrapped_key: self.identity.stream_key.wrap(chunk_key),
            digest_after: self.digest.digest(),
            ..self.identity.header(summary)
        };
        let mut bytes = frame::seal_head(&header.encode(), &rows, &keys);
        let chunk_ref = stored::ChunkRef {
            base_offset: header.base_offset.get(),
            next_offset: header.next_offset.get(),
            first_time_ms: header.first_time_ms,
            last_time_ms: header.last_time_ms,
            intent: header.intent,
            r,
            total_len: header.total_len,
            head_len: u32::try_from(head_len).map_err(|_| SealError::TooLarge)?,
            head_sha256: Sha256::digest(&bytes).to_vec().into(),
            wrapped_key: header.wrapped_key.to_vec().into(),
            generation: header.generation,
            plain_bytes: header.plain_bytes,
            epoch: header.epoch,
        };
        bytes.extend_from_slice(&ciphertext);
        Ok(SealedChunk {
            bytes: bytes.into(),
            key: self.identity.names.chunk_of(header.stream_id, &chunk_ref),
            chunk_ref,
            digest_before: header.digest_before,
            digest_after: header.digest_after,
        })
    }
}

impl Identity<'_> {
    /// The header as far as `summary` tells; what is known only at the end is zero.
    fn header(&self, summary: &Summary) -> Header {
        Header {
            cluster_id: self.names.cluster_id(),
            epoch: self.epoch,
            stream_id: self.stream_id,
            base_offset: summary.base_offset,
            next_offset: summary.next_offset,
            batch_count: summary.batch_count,
            frame_count: 0,
            intent: self.intent,
            generation: self.generation,
            first_time_ms: summary.first_time_ms,
            last_time_ms: summary.last_time_ms,
            plain_bytes: summary.plain_bytes,
            total_len: 0,
            wrapped_key: [0; crate::keys::WRAPPED_KEY_LEN],
            digest_before: self.digest_before,
            digest_after: [0; DIGEST_LEN],
        }
    }
}

/// Collects batches into frames and seals each when it is full.
struct FrameSealer<'a> {
    keys: FrameKeys,
    compressor: Compressor,
    entropy: &'a dyn Entropy,
    context: Vec<u8>,
    plain: frame::Plain,
    rows: Vec<frame::Row>,
    ciphertext: Vec<u8>,
}

impl FrameSealer<'_> {
    fn push(&mut self, batch: &Batch, field_len: usize) -> Result<(), SealError> {
        if !self.plain.bytes.is_empty() && self.plain.bytes.len() + field_len > frame::TARGET_LEN {
            self.close()?;
        }
        if self.plain.bytes.is_empty() {
            self.plain.first_offset = batch.base_offset.get();
            self.plain.first_time_ms = batch.append_time_ms;
            self.plain.batch_count = 0;
        }
        self.plain.batch_count += 1;
        content::encode_to(batch, &mut self.plain.bytes);
        Ok(())
    }

    fn close(&mut self) -> Result<(), SealError> {
        let number = u32::try_from(self.rows.len()).map_err(|_| SealError::TooLarge)?;
        if number >= FRAMES_MAX {
            return Err(SealError::TooLarge);
        }
        let place = Place { number, context: &self.context, keys: &self.keys };
        let (compressor, ciphertext) = (&mut self.compressor, &mut self.ciphertext);
        let row = frame::seal(&self.plain, &place, compressor, self.entropy, ciphertext);
        self.rows.push(row);
        self.plain.bytes.clear();
        Ok(())
    }
}

impl SealedChunk {
    /// What is uploaded.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Under which key.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// What State keeps.
    #[must_use]
    pub fn chunk_ref(&self) -> &stored::ChunkRef {
        &self.chunk_ref
    }

    /// The stream's digest before this chunk.
    #[must_use]
    pub fn digest_before(&self) -> [u8; DIGEST_LEN] {
        self.digest_before
    }

    /// The stream's digest after this chunk.
    #[must_use]
    pub fn digest_after(&self) -> [u8; DIGEST_LEN] {
        self.digest_after
    }

    /// Header, table and HMAC: what is read back after the upload. Unit: bytes.
    #[must_use]
    pub fn head_len(&self) -> u64 {
        u64::from(self.chunk_ref.head_len)
    }

    /// Decrypts the chunk as a reader will, and compares it with the batches that it was made of.
    /// Done before every upload: a wrong bit in memory must not become the only copy.
    ///
    /// # Errors
    ///
    /// The chunk does not open, or holds something else. Seal the range again.
    pub fn verify(
        &self,
        identity: &Identity<'_>,
        batches: impl IntoIterator<Item = Batch>,
    ) -> Result<(), Damaged> {
        let Identity { names, stream_id, stream_key, .. } = identity;
        let chunk = Chunk::open_ref(names, *stream_id, &self.chunk_ref, stream_key, &self.bytes)?;
        let mut batches = batches.into_iter();
        let mut digest = digest_of(identity);
        for opened in chunk.open_all(&self.bytes)? {
            if batches.next().as_ref() != Some(&opened) {
                return Err(Damaged::new(self.key.as_str()));
            }
            digest.push(&opened);
        }
        let header = chunk.header();
        let is_same = batches.next().is_none()
            && digest.digest() == self.digest_after
            && header.digest_after == self.digest_after
            && header.digest_before == self.digest_before;
        if is_same { Ok(()) } else { Err(Damaged::new(self.key.as_str())) }
    }

    /// Compares what the store holds now with what was put: its length and the whole head.
    ///
    /// # Errors
    ///
    /// The store holds something else.
    pub fn verify_read_back(&self, head: &[u8], total_len: u64) -> Result<(), Damaged> {
        let head_len = usize::try_from(self.chunk_ref.head_len).unwrap_or(usize::MAX);
        if total_len == self.chunk_ref.total_len && self.bytes.get(..head_len) == Some(head) {
            Ok(())
        } else {
            Err(Damaged::new(self.key.as_str()))
        }
    }
}

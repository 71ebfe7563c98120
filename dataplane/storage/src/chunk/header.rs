//! The fixed part at the front of a chunk.

use bytes::{Buf, BufMut};
use pyramid_protocol::{Offset, StreamId};

use super::{DIGEST_LEN, FRAMES_MAX, PLAIN_BYTES_MAX, content};
use crate::{
    cluster_id::ClusterId,
    frame::{Bad, Bounds, Table},
    keys::WRAPPED_KEY_LEN,
};

/// Unit: bytes.
pub const HEADER_LEN: usize = 224;

const MAGIC: &[u8; 8] = b"PYRCHNK1";
const VERSION: u16 = 1;
const STREAM_KEY_ID: u32 = 1;
const CODEC_ZSTD: u8 = 1;
const CIPHER_AES_256_CBC_HMAC_SHA256: u8 = 1;

/// The header of a chunk.
///
/// ```text
///   0  8 "PYRCHNK1"    8  2 version     10 2 header_len   12 4 flags (0)
///  16 16 cluster id   32  4 epoch       36 4 stream key id (1)
///  40  8 stream id    48  8 base_offset 56 8 next_offset
///  64  4 batch_count  68  4 frame_count 72 8 intent
///  80  4 generation   84  1 codec (1 zstd)   85 1 cipher (1 AES-256-CBC + HMAC-SHA256)   86 2 zero
///  88  8 first_time_ms   96 8 last_time_ms   104 8 plain_bytes   112 8 total_len
/// 120 40 wrapped chunk key
/// 160 32 digest before  192 32 digest after
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose chunk.
    pub cluster_id: ClusterId,
    /// In which history it was sealed.
    pub epoch: u32,
    /// Which stream.
    pub stream_id: StreamId,
    /// First offset.
    pub base_offset: Offset,
    /// Offset after the last record. Above `base_offset`.
    pub next_offset: Offset,
    /// At least 1.
    pub batch_count: u32,
    /// 1 to [`FRAMES_MAX`].
    pub frame_count: u32,
    /// Log index of the Seal.
    pub intent: u64,
    /// 0; merged chunks will have higher ones.
    pub generation: u32,
    /// Log time of the first batch. Unit: milliseconds since 1970 UTC.
    pub first_time_ms: u64,
    /// Log time of the last batch. Not below `first_time_ms`.
    pub last_time_ms: u64,
    /// Length of the content, decrypted and unpacked. Unit: bytes.
    pub plain_bytes: u64,
    /// Length of the chunk. Unit: bytes.
    pub total_len: u64,
    /// The chunk key under the stream key.
    pub wrapped_key: [u8; WRAPPED_KEY_LEN],
    /// Digest chain before the first batch. Keyed.
    pub digest_before: [u8; DIGEST_LEN],
    /// Digest chain after the last batch. Keyed.
    pub digest_after: [u8; DIGEST_LEN],
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.put_slice(MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_u16_le(u16::try_from(HEADER_LEN).expect("224 fits 16 bits"));
        bytes.put_u32_le(0);
        bytes.put_slice(self.cluster_id.as_bytes());
        bytes.put_u32_le(self.epoch);
        bytes.put_u32_le(STREAM_KEY_ID);
        bytes.put_u64_le(self.stream_id.get());
        bytes.put_u64_le(self.base_offset.get());
        bytes.put_u64_le(self.next_offset.get());
        bytes.put_u32_le(self.batch_count);
        bytes.put_u32_le(self.frame_count);
        bytes.put_u64_le(self.intent);
        bytes.put_u32_le(self.generation);
        bytes.put_u8(CODEC_ZSTD);
        bytes.put_u8(CIPHER_AES_256_CBC_HMAC_SHA256);
        bytes.put_u16_le(0);
        bytes.put_u64_le(self.first_time_ms);
        bytes.put_u64_le(self.last_time_ms);
        bytes.put_u64_le(self.plain_bytes);
        bytes.put_u64_le(self.total_len);
        bytes.put_slice(&self.wrapped_key);
        bytes.put_slice(&self.digest_before);
        bytes.put_slice(&self.digest_after);
        bytes
    }

    /// Reads the first 224 of `bytes`. What it says is possible, but not yet authenticated.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let mut rest = bytes.get(..HEADER_LEN).ok_or(Bad)?;
        let known = take::<8>(&mut rest)? == *MAGIC
            && rest.get_u16_le() == VERSION
            && usize::from(rest.get_u16_le()) == HEADER_LEN
            && rest.get_u32_le() == 0;
        if !known {
            return Err(Bad);
        }
        let cluster_id = ClusterId::new(take(&mut rest)?);
        let epoch = rest.get_u32_le();
        let stream_key_id = rest.get_u32_le();
        let stream_id = StreamId::new(rest.get_u64_le()).ok_or(Bad)?;
        let base_offset = Offset::new(rest.get_u64_le());
        let next_offset = Offset::new(rest.get_u64_le());
        let batch_count = rest.get_u32_le();
        let frame_count = rest.get_u32_le();
        let intent = rest.get_u64_le();
        let generation = rest.get_u32_le();
        let codec = rest.get_u8();
        let cipher = rest.get_u8();
        let zero = rest.get_u16_le();
        let header = Self {
            cluster_id,
            epoch,
            stream_id,
            base_offset,
            next_offset,
            batch_count,
            frame_count,
            intent,
            generation,
            first_time_ms: rest.get_u64_le(),
            last_time_ms: rest.get_u64_le(),
            plain_bytes: rest.get_u64_le(),
            total_len: rest.get_u64_le(),
            wrapped_key: take(&mut rest)?,
            digest_before: take(&mut rest)?,
            digest_after: take(&mut rest)?,
        };
        let known = stream_key_id == STREAM_KEY_ID
            && codec == CODEC_ZSTD
            && cipher == CIPHER_AES_256_CBC_HMAC_SHA256
            && zero == 0;
        if known && header.is_possible() { Ok(header) } else { Err(Bad) }
    }

    /// Whether `bytes` begin like a chunk of a version, codec or cipher that this build does not
    /// know. Not authenticated: for people only.
    pub(crate) fn is_of_another_version(bytes: &[u8]) -> bool {
        let field = |at: usize, value: &[u8]| {
            bytes
                .get(at..)
                .is_some_and(|rest| rest.len() >= value.len() && !rest.starts_with(value))
        };
        bytes.starts_with(MAGIC)
            && (field(8, &VERSION.to_le_bytes())
                || field(84, &[CODEC_ZSTD])
                || field(85, &[CIPHER_AES_256_CBC_HMAC_SHA256]))
    }

    fn is_possible(&self) -> bool {
        self.base_offset < self.next_offset
            && (1..=FRAMES_MAX).contains(&self.frame_count)
            && self.frame_count <= self.batch_count
            && u64::from(self.batch_count) <= self.next_offset.get() - self.base_offset.get()
            && self.first_time_ms <= self.last_time_ms
            && self.plain_bytes <= PLAIN_BYTES_MAX
    }

    /// The table behind this header in `head`.
    pub(super) fn table(&self, head: &[u8]) -> Result<Table, Bad> {
        let bounds = Bounds {
            frame_len_max: content::FRAME_LEN_MAX,
            plain_len: self.plain_bytes,
            total_len: self.total_len,
        };
        Table::decode(head, HEADER_LEN, &bounds)
    }

    /// What tags of frames are bound to: this chunk's place.
    pub(super) fn frame_context(&self) -> Vec<u8> {
        let mut context = Vec::with_capacity(36);
        context.put_slice(self.cluster_id.as_bytes());
        context.put_u64_le(self.stream_id.get());
        context.put_u64_le(self.base_offset.get());
        context.put_u32_le(self.generation);
        context
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Bad> {
    let (taken, behind) = rest.split_first_chunk::<N>().ok_or(Bad)?;
    *rest = behind;
    Ok(*taken)
}

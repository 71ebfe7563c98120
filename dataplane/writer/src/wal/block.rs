//! Blocks: what is written and synced at once.
//!
//! A block begins at a multiple of 4 KiB: a header, frames, zeros up to the
//! next multiple.
//!
//! ```text
//! 0  4 magic "PWB1"        4  4 header_crc   crc32c of 8..64, seeded with crc32c of the WAL id
//! 8  8 lsn                 16 8 durable_lsn  all below is flushed
//! 24 4 body_len            28 4 frame_count
//! 32 4 prev_header_crc     36 4 open_count   +1 at every open of this log
//! 40 8 first_index         48 8 term
//! 56 4 flags  bit0 first block of a segment, bit1 idle
//! 60 4 frames_crc          crc32c over the 32-byte headers of all frames
//! ```
//!
//! `body_len` counts the frames, without the zeros. `first_index` is that of
//! the first entry in the block, all ones if there is none. `term` is that of
//! the last vote, for whoever looks at a hex dump. `prev_header_crc` of the
//! first block of a log is zero.
//!
//! With one block in flight `durable_lsn` is the block's own `lsn`.

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::wal::frame::{self, Frame};

/// Blocks begin at multiples of it. Unit: bytes.
pub const ALIGN: usize = 4096;

/// [`ALIGN`] for arithmetic with LSNs.
pub const ALIGN_LSN: u64 = 4096;

/// Unit: bytes.
pub const HEADER_LEN: usize = 64;

const MAGIC: &[u8; 4] = b"PWB1";

/// The block is the first of its segment.
pub const FLAG_FIRST: u32 = 1;

/// The block says nothing but that the one before is flushed.
pub const FLAG_IDLE: u32 = 2;

/// The head of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the block lies.
    pub lsn: u64,
    /// All below is flushed.
    pub durable_lsn: u64,
    /// Unit: bytes.
    pub body_len: u32,
    /// Frames in the body.
    pub frame_count: u32,
    /// The `header_crc` of the block before.
    pub prev_header_crc: u32,
    /// How often the log had been opened.
    pub open_count: u32,
    /// The index of the first entry.
    pub first_index: Option<u64>,
    /// The term of the last vote.
    pub term: u64,
    /// [`FLAG_FIRST`], [`FLAG_IDLE`].
    pub flags: u32,
    /// Over the headers of all frames.
    pub frames_crc: u32,
}

/// A header and its checksum, which the next block repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The fields.
    pub header: Header,
    /// Theirs.
    pub header_crc: u32,
}

/// The seed of all header checksums of a log: blocks of another one never count.
#[must_use]
pub fn seed(wal_id: &[u8; 16]) -> u32 {
    crc32c::crc32c(wal_id)
}

impl Header {
    /// Whether the block begins a segment.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.flags & FLAG_FIRST != 0
    }

    /// Whether the block is an idle one.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flags & FLAG_IDLE != 0
    }

    /// Whether a newer program wrote something that this one does not know.
    #[must_use]
    pub fn has_unknown_flags(&self) -> bool {
        self.flags & !(FLAG_FIRST | FLAG_IDLE) != 0
    }

    /// Bytes that the block takes, with the zeros.
    #[must_use]
    pub fn block_len(&self) -> u64 {
        block_len(u64::from(self.body_len))
    }

    /// The header as bytes, and its checksum.
    fn encode(&self, seed: u32) -> (Vec<u8>, u32) {
        let mut fields = Vec::with_capacity(HEADER_LEN);
        fields.put_u64_le(self.lsn);
        fields.put_u64_le(self.durable_lsn);
        fields.put_u32_le(self.body_len);
        fields.put_u32_le(self.frame_count);
        fields.put_u32_le(self.prev_header_crc);
        fields.put_u32_le(self.open_count);
        fields.put_u64_le(self.first_index.unwrap_or(u64::MAX));
        fields.put_u64_le(self.term);
        fields.put_u32_le(self.flags);
        fields.put_u32_le(self.frames_crc);
        let header_crc = crc32c::crc32c_append(seed, &fields);
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(header_crc);
        bytes.put_slice(&fields);
        (bytes, header_crc)
    }

    /// Reads the header at the start of `bytes`, which were found at `lsn`.
    ///
    /// `None` if there is no valid header that belongs there.
    #[must_use]
    pub fn decode(bytes: &[u8], seed: u32, lsn: u64) -> Option<Checked> {
        let mut fields = bytes.get(..HEADER_LEN)?.strip_prefix(MAGIC.as_slice())?;
        let header_crc = fields.try_get_u32_le().ok()?;
        if crc32c::crc32c_append(seed, fields) != header_crc {
            return None;
        }
        let header = Self {
            lsn: fields.try_get_u64_le().ok()?,
            durable_lsn: fields.try_get_u64_le().ok()?,
            body_len: fields.try_get_u32_le().ok()?,
            frame_count: fields.try_get_u32_le().ok()?,
            prev_header_crc: fields.try_get_u32_le().ok()?,
            open_count: fields.try_get_u32_le().ok()?,
            first_index: Some(fields.try_get_u64_le().ok()?).filter(|index| *index != u64::MAX),
            term: fields.try_get_u64_le().ok()?,
            flags: fields.try_get_u32_le().ok()?,
            frames_crc: fields.try_get_u32_le().ok()?,
        };
        (header.lsn == lsn).then_some(Checked { header, header_crc })
    }
}

/// Bytes that a block with such a body takes.
#[must_use]
pub fn block_len(body_len: u64) -> u64 {
    // The header is far below the alignment, so this cannot overflow for any
    // body that a u32 counts.
    (body_len + 64).next_multiple_of(ALIGN_LSN)
}

/// What the builder of a block cannot see from its frames.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Where it will lie; all below must be flushed.
    pub lsn: u64,
    /// The chain.
    pub prev_header_crc: u32,
    /// How often the log has been opened.
    pub open_count: u32,
    /// The term of the last vote.
    pub term: u64,
    /// Whether it begins a segment.
    pub is_first: bool,
    /// Whether it says only that the block before is flushed.
    pub is_idle: bool,
}

/// Writes a whole block into `out`, in the place of what was there.
///
/// # Panics
///
/// If the frames have 4 GiB or more.
pub fn encode<'a>(
    place: Place,
    seed: u32,
    frames: impl Iterator<Item = &'a Frame>,
    out: &mut Vec<u8>,
) -> Checked {
    out.clear();
    out.resize(HEADER_LEN, 0);
    let (mut frame_count, mut frames_crc, mut first_index) = (0, 0, None);
    for frame in frames {
        let at = out.len();
        frame.encode(out);
        let header = out.get(at..at + frame::HEADER_LEN).unwrap_or_default();
        frames_crc = crc32c::crc32c_append(frames_crc, header);
        frame_count += 1;
        if let (Frame::Entry(entry), None) = (frame, first_index) {
            first_index = Some(entry.id.index);
        }
    }
    let header = Header {
        lsn: place.lsn,
        durable_lsn: place.lsn,
        body_len: u32::try_from(out.len() - HEADER_LEN).expect("a block has less than 4 GiB"),
        frame_count,
        prev_header_crc: place.prev_header_crc,
        open_count: place.open_count,
        first_index,
        term: place.term,
        flags: if place.is_first { FLAG_FIRST } else { 0 }
            | if place.is_idle { FLAG_IDLE } else { 0 },
        frames_crc,
    };
    let (bytes, header_crc) = header.encode(seed);
    if let Some(head) = out.get_mut(..HEADER_LEN) {
        head.copy_from_slice(&bytes);
    }
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    Checked { header, header_crc }
}

/// Reads all frames of a block.
///
/// # Errors
///
/// If any frame is bad, or they are not those that the header was made for.
pub fn decode_body(header: &Header, mut body: Bytes) -> Result<Vec<Frame>, frame::Bad> {
    let mut frames = Vec::new();
    let mut frames_crc = 0;
    for _ in 0..header.frame_count {
        let head = body.get(..frame::HEADER_LEN).ok_or(frame::Bad::Incomplete)?;
        frames_crc = crc32c::crc32c_append(frames_crc, head);
        frames.push(Frame::decode(&mut body)?);
    }
    if frames_crc != header.frames_crc || !body.is_empty() {
        return Err(frame::Bad::Damaged);
    }
    Ok(frames)
}

#[cfg(test)]
mod tests;

//! Chunk → batches, frame by frame. No I/O: callers bring the bytes.

use std::ops::Range;

use pyramid_protocol::{
    Batch, Offset, StreamId,
    pb::{stored::v1 as stored, v1 as pb},
};
use sha2::{Digest, Sha256};

use super::{Damaged, Frame, HEADER_LEN, Header, KIND, content};
use crate::{
    cluster_id::ClusterId,
    frame::{self, Bad, Decompressor, Place, Row, Table},
    keys::{FrameKeys, StreamKey},
    object_names::ObjectNames,
};

/// A chunk whose head is authenticated. Its frames are opened one at a time, in any order.
#[derive(Clone, Debug)]
pub struct Chunk {
    object: String,
    header: Header,
    table: Table,
    keys: FrameKeys,
    context: Vec<u8>,
}

/// What a reader was told beforehand. The head must say the same.
struct Expected<'a> {
    cluster_id: ClusterId,
    stream_id: u64,
    base_offset: u64,
    next_offset: u64,
    generation: u32,
    total_len: u64,
    head_len: u32,
    head_sha256: &'a [u8],
}

impl Chunk {
    /// Opens the head of the chunk that a Writer told a reader of. `head` is the first `head_len`
    /// bytes, or more.
    ///
    /// # Errors
    ///
    /// The head is not the one that the log names.
    pub fn open_location(location: &pb::ChunkLocation, head: &[u8]) -> Result<Self, Damaged> {
        let object = object_of(&location.url);
        Self::checked_location(object, location, head).map_err(Damaged::because(object))
    }

    fn checked_location(
        object: &str,
        location: &pb::ChunkLocation,
        head: &[u8],
    ) -> Result<Self, Bad> {
        let expected = Expected {
            cluster_id: ClusterId::from_slice(&location.cluster_id).ok_or(Bad)?,
            stream_id: location.stream_id,
            base_offset: location.base_offset,
            next_offset: location.next_offset,
            generation: location.generation,
            total_len: location.total_len,
            head_len: location.head_len,
            head_sha256: &location.head_sha256,
        };
        let head = expected.hashed(head)?;
        let header = expected.named(Header::decode(head)?)?;
        let keys =
            FrameKeys::from_slices(&location.encryption_key, &location.mac_key).ok_or(Bad)?;
        Self::authenticated(object, header, head, keys)
    }

    /// Opens the head of a chunk that State refers to. `head` is the first `head_len` bytes, or
    /// more.
    ///
    /// # Errors
    ///
    /// The head is not the one that State names.
    pub fn open_ref(
        names: &ObjectNames,
        stream_id: StreamId,
        chunk: &stored::ChunkRef,
        stream_key: &StreamKey,
        head: &[u8],
    ) -> Result<Self, Damaged> {
        let object = names.chunk_of(stream_id, chunk);
        let open = || {
            let expected = Expected {
                cluster_id: names.cluster_id(),
                stream_id: stream_id.get(),
                base_offset: chunk.base_offset,
                next_offset: chunk.next_offset,
                generation: chunk.generation,
                total_len: chunk.total_len,
                head_len: chunk.head_len,
                head_sha256: &chunk.head_sha256,
            };
            let head = expected.hashed(head)?;
            let header = expected.named(Header::decode(head)?)?;
            let is_named = header.epoch == chunk.epoch
                && header.intent == chunk.intent
                && header.first_time_ms == chunk.first_time_ms
                && header.last_time_ms == chunk.last_time_ms
                && header.plain_bytes == chunk.plain_bytes
                && chunk.wrapped_key == header.wrapped_key.as_slice();
            if !is_named {
                return Err(Bad);
            }
            let keys = stream_key.unwrap(&chunk.wrapped_key).ok_or(Bad)?.frame_keys(KIND);
            Self::authenticated(object.as_str(), header, head, keys)
        };
        open().map_err(Damaged::because(object.as_str()))
    }

    /// Opens the head of any chunk of a stream by what its own header says: for `chunk inspect` and
    /// recovery, which must compare the header with what they look for. `bytes` begin with the
    /// head.
    ///
    /// # Errors
    ///
    /// It is no chunk, or was not sealed under this stream key.
    pub fn open(object: &str, stream_key: &StreamKey, bytes: &[u8]) -> Result<Self, Damaged> {
        let open = || {
            let header = Header::decode(bytes)?;
            let head_len = frame::head_len(HEADER_LEN, header.frame_count).ok_or(Bad)?;
            let head = bytes.get(..head_len).ok_or(Bad)?;
            let keys = stream_key.unwrap(&header.wrapped_key).ok_or(Bad)?.frame_keys(KIND);
            Self::authenticated(object, header, head, keys)
        };
        open().map_err(Damaged::because(object))
    }

    fn authenticated(
        object: &str,
        header: Header,
        head: &[u8],
        keys: FrameKeys,
    ) -> Result<Self, Bad> {
        if Some(head.len()) != frame::head_len(HEADER_LEN, header.frame_count) {
            return Err(Bad);
        }
        frame::verify_head(head, &keys)?;
        let table = header.table(head)?;
        if !rows_agree(&header, table.rows()) {
            return Err(Bad);
        }
        let context = header.frame_context();
        Ok(Self { object: object.to_owned(), header, table, keys, context })
    }

    /// The object's key, or its URL without what signs it.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.object
    }

    /// What the chunk says of itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many frames there are. At least 1.
    #[must_use]
    pub fn frame_count(&self) -> usize {
        self.table.rows().len()
    }

    /// The frames, in order.
    pub fn frames(&self) -> impl Iterator<Item = Frame> {
        super::outline::frames(&self.table)
    }

    /// Where the ciphertext of a frame lies in the chunk, or `None` behind the last one.
    #[must_use]
    pub fn frame_range(&self, frame: usize) -> Option<Range<u64>> {
        self.table.range(frame)
    }

    /// The frame that holds `offset`, or `None` if the chunk does not.
    #[must_use]
    pub fn frame_of_offset(&self, offset: Offset) -> Option<usize> {
        if offset < self.header.base_offset || offset >= self.header.next_offset {
            return None;
        }
        let behind = self.table.rows().partition_point(|row| row.first_offset <= offset.get());
        behind.checked_sub(1)
    }

    /// The frame that holds the first batch of this time or later, or `None` if all are older.
    /// The batch may be the first of the frame behind.
    #[must_use]
    pub fn frame_of_time(&self, time_ms: u64) -> Option<usize> {
        if time_ms > self.header.last_time_ms {
            return None;
        }
        let behind = self.table.rows().partition_point(|row| row.first_time_ms < time_ms);
        Some(behind.saturating_sub(1))
    }

    /// Checks, decrypts and unpacks one frame: whole batches that follow one another, each with its
    /// checksum compared. `ciphertext` is exactly [`Chunk::frame_range`] of the object.
    ///
    /// # Errors
    ///
    /// The frame is not the one that the head names.
    pub fn open_frame(&self, frame: usize, ciphertext: &[u8]) -> Result<Vec<Batch>, Damaged> {
        self.checked_frame(frame, ciphertext, &mut Decompressor::default())
            .map_err(Damaged::because(&self.object))
    }

    /// All batches. `bytes` are exactly the whole chunk.
    ///
    /// # Errors
    ///
    /// A frame is not the one that the head names, or the chunk is longer or shorter than its head
    /// says.
    pub fn open_all(&self, bytes: &[u8]) -> Result<Vec<Batch>, Damaged> {
        let open = || {
            if u64::try_from(bytes.len()) != Ok(self.header.total_len) {
                return Err(Bad);
            }
            let mut decompressor = Decompressor::default();
            let mut batches = Vec::new();
            for frame in 0..self.frame_count() {
                let range = self.table.range(frame).ok_or(Bad)?;
                let start = usize::try_from(range.start).map_err(|_| Bad)?;
                let end = usize::try_from(range.end).map_err(|_| Bad)?;
                let ciphertext = bytes.get(start..end).ok_or(Bad)?;
                batches.extend(self.checked_frame(frame, ciphertext, &mut decompressor)?);
            }
            Ok(batches)
        };
        open().map_err(Damaged::because(&self.object))
    }

    fn checked_frame(
        &self,
        frame: usize,
        ciphertext: &[u8],
        decompressor: &mut Decompressor,
    ) -> Result<Vec<Batch>, Bad> {
        let row = self.table.row(frame).ok_or(Bad)?;
        let number = u32::try_from(frame).map_err(|_| Bad)?;
        let place = Place { number, context: &self.context, keys: &self.keys };
        let plain = frame::open(row, &place, ciphertext, decompressor)?;
        let batches = content::decode(plain.into())?;
        if self.batches_agree(frame, row, &batches) { Ok(batches) } else { Err(Bad) }
    }

    /// Whether the batches of a frame are those that its row and the next one tell of.
    fn batches_agree(&self, frame: usize, row: &Row, batches: &[Batch]) -> bool {
        let next_row = frame.checked_add(1).and_then(|next| self.table.row(next));
        let (next_offset, last_time_is_possible) = match next_row {
            Some(next) => (
                next.first_offset,
                batches.last().is_some_and(|last| last.append_time_ms <= next.first_time_ms),
            ),
            None => (
                self.header.next_offset.get(),
                batches.last().is_some_and(|last| last.append_time_ms == self.header.last_time_ms),
            ),
        };
        let mut expected = Offset::new(row.first_offset);
        let contiguous = batches.iter().all(|batch| {
            let follows = batch.base_offset == expected;
            expected = batch.next_offset();
            follows
        });
        contiguous
            && expected.get() == next_offset
            && last_time_is_possible
            && u32::try_from(batches.len()) == Ok(row.batch_count)
            && batches.first().is_some_and(|first| first.append_time_ms == row.first_time_ms)
            && batches.is_sorted_by_key(|batch| batch.append_time_ms)
    }
}

impl Expected<'_> {
    /// The head within `bytes`, compared with its SHA-256.
    fn hashed<'b>(&self, bytes: &'b [u8]) -> Result<&'b [u8], Bad> {
        let head = bytes.get(..usize::try_from(self.head_len).map_err(|_| Bad)?).ok_or(Bad)?;
        if Sha256::digest(head).as_slice() == self.head_sha256 { Ok(head) } else { Err(Bad) }
    }

    fn named(&self, header: Header) -> Result<Header, Bad> {
        let is_named = header.cluster_id == self.cluster_id
            && header.stream_id.get() == self.stream_id
            && header.base_offset.get() == self.base_offset
            && header.next_offset.get() == self.next_offset
            && header.generation == self.generation
            && header.total_len == self.total_len;
        if is_named { Ok(header) } else { Err(Bad) }
    }
}

/// Whether header and table tell the same story. Both are authentic by now; a chunk that
/// contradicts itself was sealed by a bug, and a reader must not follow it.
fn rows_agree(header: &Header, rows: &[Row]) -> bool {
    let batch_count: u64 = rows.iter().map(|row| u64::from(row.batch_count)).sum();
    let starts = rows.first().is_some_and(|first| {
        first.first_offset == header.base_offset.get()
            && first.first_time_ms == header.first_time_ms
    });
    let ends = rows.last().is_some_and(|last| {
        last.first_offset < header.next_offset.get() && last.first_time_ms <= header.last_time_ms
    });
    starts
        && ends
        && batch_count == u64::from(header.batch_count)
        && rows.iter().all(|row| row.batch_count > 0)
        && rows.is_sorted_by(|a, b| a.first_offset < b.first_offset)
        && rows.is_sorted_by_key(|row| row.first_time_ms)
}

/// A URL without query and fragment: the query of a presigned one is a secret.
pub(super) fn object_of(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

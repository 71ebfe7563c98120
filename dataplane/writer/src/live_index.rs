//! [`LiveIndex`]: where in the log each batch lies that is not in a committed chunk yet.
//!
//! A place is a log index and the number of the append in its entry, not a place in a file: apply
//! may run before the entry has one. It follows from [`Applied`] alone, in the same step as State,
//! so replicas that began at the same place hold the same. It grows at the end by written batches
//! and shrinks at the front by committed chunks and deleted streams; what was applied is never taken
//! back, so nothing else touches it.
//!
//! It is also the one part that knows where batches begin and end, and so where a stream may be
//! sealed: see [`LiveIndex::seal_range`] and the module of State.
//!
//! ```text
//! stream = blocks of BLOCK_LEN batches; the first batch of each is written out (the skip point),
//! each of the others is a row of LEB128 numbers, about 6 bytes:
//!
//!   log index - that of the batch before
//!   if that is 0:  op - op of the batch before - 1
//!   else:          time_ms - that of the batch before, op
//!   record_count, len_bytes
//! ```

mod block;

use std::collections::{BTreeMap, VecDeque};

use pyramid_protocol::{Offset, StreamId};

use crate::state::{Applied, Change, Written};
use block::Block;

/// Blocks of batches that one Seal covers at most: about a million batches. In a chunk, and while
/// it is built, a batch takes more than its record bytes.
const SEAL_BLOCKS_MAX: usize = 8192;

/// One live batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveBatch {
    /// Offset of its first record.
    pub base: Offset,
    /// At least 1.
    pub record_count: u32,
    /// Log index of its entry.
    pub index: u64,
    /// Place of the append in its entry.
    pub op: u32,
    /// Log time of the append: the time of the batch. Unit: milliseconds since 1970 UTC.
    pub time_ms: u64,
    /// Length of its record bytes.
    pub len_bytes: u32,
}

impl LiveBatch {
    /// Offset after its last record.
    #[must_use]
    pub fn next(&self) -> Offset {
        Offset::new(self.base.get().saturating_add(self.record_count.into()))
    }
}

/// What a stream has that no Seal covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsealed {
    /// Where it begins.
    pub base: Offset,
    /// Where it ends: the end of the stream.
    pub next: Offset,
    /// Record bytes in it.
    pub len_bytes: u64,
    /// Log time of its first batch. Unit: milliseconds since 1970 UTC.
    pub oldest_ms: u64,
}

/// A range that covers whole batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealRange {
    /// Where it begins: where the last Seal ends.
    pub base: Offset,
    /// Where it ends.
    pub next: Offset,
    /// Record bytes in it.
    pub len_bytes: u64,
}

/// The live batches of all streams. See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveIndex {
    /// Only streams that have a live batch.
    streams: BTreeMap<StreamId, Stream>,
    len_bytes: u64,
    memory_bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Stream {
    blocks: VecDeque<Block>,
    /// The newest batch: what the next row is told from.
    last: LiveBatch,
    /// Record bytes up to the end, counted from where this index of the stream began.
    end_bytes: u64,
    /// The first live batch. The first block may hold some before it.
    live: Border,
    /// The first batch that no Seal covers; `None`: all are covered.
    unsealed: Option<Border>,
}

/// The beginning of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Border {
    batch: LiveBatch,
    /// Record bytes before it, counted from where this index of the stream began.
    bytes_before: u64,
}

impl LiveIndex {
    /// Follows one entry.
    pub fn apply(&mut self, applied: &Applied) {
        for written in &applied.written {
            self.push(applied.at.index, *written);
        }
        match &applied.change {
            Some(Change::Sealed { stream_id, next, .. }) => {
                if let Some(stream) = self.streams.get_mut(stream_id) {
                    stream.seal(*next);
                }
            }
            Some(Change::Shipped { stream_id, next }) => self.ship(*stream_id, *next),
            Some(Change::StreamDeleted { stream_id, .. }) => self.remove(*stream_id),
            Some(
                Change::StreamCreated { .. }
                | Change::StreamChanged { .. }
                | Change::KeyStored { .. }
                | Change::ObjectsDeleted { .. }
                | Change::Subscription { .. }
                | Change::Cluster,
            )
            | None => {}
        }
    }

    /// The live batch that holds the record at `offset`. `None`: it is not live, or not there.
    #[must_use]
    pub fn batch_at(&self, stream_id: StreamId, offset: Offset) -> Option<LiveBatch> {
        self.batches(stream_id, offset).next().filter(|batch| batch.base <= offset)
    }

    /// The live batches from the one that holds `offset` on, in order. If `offset` lies below the
    /// live range, from its beginning.
    pub fn batches(
        &self,
        stream_id: StreamId,
        offset: Offset,
    ) -> impl Iterator<Item = LiveBatch> + '_ {
        self.streams
            .get(&stream_id)
            .into_iter()
            .flat_map(move |stream| stream.borders(offset).map(|border| border.batch))
    }

    /// The first live batch that was appended at or after `time_ms`. `None`: there is none.
    #[must_use]
    pub fn batch_since(&self, stream_id: StreamId, time_ms: u64) -> Option<LiveBatch> {
        let stream = self.streams.get(&stream_id)?;
        let later = stream.blocks.partition_point(|block| block.first().time_ms < time_ms);
        let from = stream.blocks.get(later.saturating_sub(1))?.first().base;
        stream.borders(from).map(|border| border.batch).find(|batch| batch.time_ms >= time_ms)
    }

    /// Where the live range of a stream begins. `None`: nothing of it is live.
    #[must_use]
    pub fn live_from(&self, stream_id: StreamId) -> Option<Offset> {
        self.streams.get(&stream_id).map(|stream| stream.live.batch.base)
    }

    /// Whether a batch begins or the stream ends at `offset`. `None`: it is not in the live range.
    #[must_use]
    pub fn is_border(&self, stream_id: StreamId, offset: Offset) -> Option<bool> {
        let stream = self.streams.get(&stream_id)?;
        if offset == stream.last.next() {
            return Some(true);
        }
        self.batch_at(stream_id, offset).map(|batch| batch.base == offset)
    }

    /// What a stream has that no Seal covers. `None`: nothing.
    #[must_use]
    pub fn unsealed(&self, stream_id: StreamId) -> Option<Unsealed> {
        self.streams.get(&stream_id)?.unsealed()
    }

    /// All streams that have something that no Seal covers, by id.
    pub fn all_unsealed(&self) -> impl Iterator<Item = (StreamId, Unsealed)> + '_ {
        self.streams.iter().filter_map(|(id, stream)| Some((*id, stream.unsealed()?)))
    }

    /// The next range to seal: at least one batch, then whole batches up to `bytes_max` record
    /// bytes and [`SEAL_BLOCKS_MAX`] blocks. `None`: all is sealed.
    #[must_use]
    pub fn seal_range(&self, stream_id: StreamId, bytes_max: u64) -> Option<SealRange> {
        self.streams.get(&stream_id)?.seal_range(bytes_max)
    }

    /// Record bytes of a stream that are not in a committed chunk.
    #[must_use]
    pub fn live_bytes(&self, stream_id: StreamId) -> u64 {
        self.streams.get(&stream_id).map_or(0, Stream::live_bytes)
    }

    /// Record bytes of all streams that are not in a committed chunk.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The oldest log index that a live batch lies at; the log is needed from here on. Walks over
    /// all streams that have a live batch.
    #[must_use]
    pub fn oldest_index(&self) -> Option<u64> {
        self.streams.values().map(|stream| stream.live.batch.index).min()
    }

    /// Memory that the index takes. Unit: bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    fn push(&mut self, index: u64, written: Written) {
        let batch = LiveBatch {
            base: written.base,
            record_count: written.record_count,
            index,
            op: written.op,
            time_ms: written.time_ms,
            len_bytes: written.len_bytes,
        };
        self.len_bytes += u64::from(batch.len_bytes);
        if let Some(stream) = self.streams.get_mut(&written.stream_id) {
            let before = stream.memory_bytes();
            stream.push(batch);
            self.memory_bytes = self.memory_bytes - before + stream.memory_bytes();
        } else {
            let stream = Stream::new(batch);
            self.memory_bytes += stream.memory_bytes();
            self.streams.insert(written.stream_id, stream);
        }
    }

    fn ship(&mut self, stream_id: StreamId, next: Offset) {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        let (bytes, memory) = (stream.live_bytes(), stream.memory_bytes());
        if stream.ship(next) {
            self.len_bytes = self.len_bytes - bytes + stream.live_bytes();
            self.memory_bytes = self.memory_bytes - memory + stream.memory_bytes();
        } else {
            self.remove(stream_id);
        }
    }

    fn remove(&mut self, stream_id: StreamId) {
        if let Some(stream) = self.streams.remove(&stream_id) {
            self.len_bytes -= stream.live_bytes();
            self.memory_bytes -= stream.memory_bytes();
        }
    }
}

impl Stream {
    fn new(batch: LiveBatch) -> Self {
        let border = Border { batch, bytes_before: 0 };
        Self {
            blocks: VecDeque::from([Block::new(border)]),
            last: batch,
            end_bytes: batch.len_bytes.into(),
            live: border,
            unsealed: Some(border),
        }
    }

    fn push(&mut self, batch: LiveBatch) {
        let border = Border { batch, bytes_before: self.end_bytes };
        match self.blocks.back_mut() {
            Some(block) if !block.is_full() => block.push(&self.last, &batch),
            Some(_) | None => self.blocks.push_back(Block::new(border)),
        }
        self.end_bytes += u64::from(batch.len_bytes);
        self.last = batch;
        self.unsealed.get_or_insert(border);
    }

    /// Live batches from the one that holds `offset` on.
    fn borders(&self, offset: Offset) -> impl Iterator<Item = Border> + '_ {
        let offset = offset.max(self.live.batch.base);
        let later = self.blocks.partition_point(|block| block.first().base <= offset);
        self.blocks
            .range(later.saturating_sub(1)..)
            .flat_map(Block::borders)
            .skip_while(move |border| border.batch.next() <= offset)
    }

    /// The first batch at or after `next`. A Seal and so a chunk ends at a border; the batch that
    /// a wrong one would cut stays whole.
    fn border_at(&self, next: Offset) -> Option<Border> {
        let border = self.borders(next).next();
        debug_assert!(
            border.is_none_or(|border| border.batch.base >= next),
            "{next} cuts the batch {border:?}"
        );
        border
    }

    fn seal(&mut self, next: Offset) {
        self.unsealed = self.border_at(next);
    }

    /// Forgets what lies below `next`. `false`: nothing is live any more.
    fn ship(&mut self, next: Offset) -> bool {
        let Some(live) = self.border_at(next) else { return false };
        self.live = live;
        // The first block goes when the second one holds the first live batch.
        while self.blocks.get(1).is_some_and(|block| block.first().base <= live.batch.base) {
            self.blocks.pop_front();
        }
        true
    }

    fn unsealed(&self) -> Option<Unsealed> {
        let Border { batch, bytes_before } = self.unsealed?;
        Some(Unsealed {
            base: batch.base,
            next: self.last.next(),
            len_bytes: self.end_bytes - bytes_before,
            oldest_ms: batch.time_ms,
        })
    }

    /// The range ends at the last border that `bytes_max` reaches; skip points find its block.
    fn seal_range(&self, bytes_max: u64) -> Option<SealRange> {
        let Border { batch: first, bytes_before } = self.unsealed?;
        let base = first.base;
        let limit = bytes_before.saturating_add(bytes_max);
        let blocks_before = self.blocks.partition_point(|block| block.first().base <= base);
        let blocks_end = blocks_before.saturating_sub(1) + SEAL_BLOCKS_MAX;
        if self.end_bytes <= limit && self.blocks.len() <= blocks_end {
            let (next, len_bytes) = (self.last.next(), self.end_bytes - bytes_before);
            return Some(SealRange { base, next, len_bytes });
        }
        let reached =
            self.blocks.partition_point(|block| block.first_border().bytes_before <= limit);
        let reached = reached.min(blocks_end);
        let last = self
            .blocks
            .range(reached.saturating_sub(1)..reached)
            .flat_map(Block::borders)
            .take_while(|border| border.bytes_before <= limit)
            .filter(|border| border.batch.base > base)
            .last();
        Some(last.map_or(
            SealRange { base, next: first.next(), len_bytes: first.len_bytes.into() },
            |border| SealRange {
                base,
                next: border.batch.base,
                len_bytes: border.bytes_before - bytes_before,
            },
        ))
    }

    fn live_bytes(&self) -> u64 {
        self.end_bytes - self.live.bytes_before
    }

    fn memory_bytes(&self) -> usize {
        let rows: usize = match (self.blocks.front(), self.blocks.back()) {
            // Full blocks are as long as their rows; an average stands for those in the middle.
            (Some(front), Some(back)) if self.blocks.len() > 1 => {
                front.memory_bytes() * (self.blocks.len() - 1) + back.memory_bytes()
            }
            (Some(front), _) => front.memory_bytes(),
            (None, _) => 0,
        };
        size_of::<(StreamId, Self)>() + self.blocks.capacity() * size_of::<Block>() + rows
    }
}

#[cfg(test)]
mod tests;

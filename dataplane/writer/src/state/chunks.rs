//! [`Chunks`]: a stream's chunks, cheap to hand out.

use std::sync::Arc;

use pyramid_protocol::Offset;
use pyramid_protocol::pb::stored::v1::ChunkRef;

/// Chunks per block: what a push copies at most when somebody else holds the list.
const BLOCK_LEN: usize = 256;

/// Committed chunks of one stream, by base offset and without gaps.
///
/// A clone is two pointers wide and stays as it is, so a reader or an uploader can walk it while
/// the stream goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    // All but the last block are full.
    blocks: Arc<Vec<Arc<Vec<ChunkRef>>>>,
    total_len: u64,
}

impl Chunks {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks
            .split_last()
            .map_or(0, |(last, full)| full.len().saturating_mul(BLOCK_LEN) + last.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Length of all their objects. Unit: bytes.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.total_len
    }

    /// All of them, by base offset.
    pub fn iter(&self) -> impl Iterator<Item = &ChunkRef> {
        self.blocks.iter().flat_map(|block| block.iter())
    }

    /// Those that hold records at or after `offset`, by base offset; the first one may begin
    /// before it.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = &ChunkRef> {
        let ends_before = |chunk: &ChunkRef| chunk.next_offset <= offset.get();
        let skipped = self.blocks.partition_point(|block| block.last().is_some_and(ends_before));
        self.blocks
            .iter()
            .skip(skipped)
            .flat_map(|block| block.iter())
            .skip_while(move |chunk| chunk.next_offset <= offset.get())
    }

    /// The newest one.
    #[must_use]
    pub fn last(&self) -> Option<&ChunkRef> {
        self.blocks.last().and_then(|block| block.last())
    }

    /// Adds one behind the newest one.
    pub(super) fn push(&mut self, chunk: ChunkRef) {
        self.total_len = self.total_len.saturating_add(chunk.total_len);
        let blocks = Arc::make_mut(&mut self.blocks);
        match blocks.last_mut() {
            Some(last) if last.len() < BLOCK_LEN => Arc::make_mut(last).push(chunk),
            Some(_) | None => blocks.push(Arc::new(vec![chunk])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(base: u64) -> ChunkRef {
        ChunkRef { base_offset: base, next_offset: base + 10, total_len: 7, ..ChunkRef::default() }
    }

    fn chunks(count: u64) -> Chunks {
        let mut chunks = Chunks::default();
        for number in 0..count {
            chunks.push(chunk(number * 10));
        }
        chunks
    }

    #[test]
    fn reads_begin_in_the_chunk_that_holds_the_offset() {
        for count in [0, 1, 255, 256, 257, 600] {
            let chunks = chunks(count);
            assert_eq!(chunks.len() as u64, count);
            assert_eq!(chunks.is_empty(), count == 0);
            assert_eq!(chunks.total_len(), count * 7);
            assert_eq!(chunks.last(), count.checked_sub(1).map(|last| chunk(last * 10)).as_ref());
            for offset in [0, 1, 9, 10, 2559, 2560, 2561, 5999, 6000] {
                let found: Vec<_> = chunks.from(Offset::new(offset)).cloned().collect();
                let expected: Vec<_> =
                    chunks.iter().filter(|chunk| chunk.next_offset > offset).cloned().collect();
                assert_eq!(found, expected, "{count} chunks from {offset}");
            }
        }
    }

    #[test]
    fn a_clone_stays_as_it_is() {
        let mut chunks = chunks(3);
        let before = chunks.clone();
        chunks.push(chunk(30));
        assert_eq!(before.len(), 3);
        assert_eq!(chunks.len(), 4);
    }
}

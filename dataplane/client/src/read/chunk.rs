//! The batches of one chunk from an offset on, held in the reader's budget.
//!
//! The chunk is fetched, checked and opened several frames ahead of whoever takes its batches; those
//! few frames are not yet counted in the budget, which lets only a few chunks be open at once.

use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::{Batch, Offset, batch};
use pyramid_storage::chunk::{ReadError, Start};
use pyramid_storage::{ChunkReader, Fetcher, object_store};

use crate::budget::{OpenChunk, Share};
use crate::read::{Batches, Origin};

/// Why a chunk cannot be read on. The Writer is asked again for its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error(transparent)]
    Batch(#[from] batch::Error),
}

impl Error {
    /// This reader may not open what the location names, and never will.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Read(ReadError::Store(object_store::Error::Refused { .. })))
    }
}

pub(crate) struct ChunkBatches {
    chunk: ChunkReader,
    from: Offset,
    // After the chunk, which is closed first.
    _open: OpenChunk,
}

impl ChunkBatches {
    pub(crate) fn open(
        fetcher: &Fetcher,
        location: pb::ChunkLocation,
        from: Offset,
        open: OpenChunk,
    ) -> Self {
        let chunk = ChunkReader::located(fetcher, location, Start::Offset(from));
        Self { chunk, from, _open: open }
    }

    /// The next batches, or `None` behind the last ones. The first batch begins at `from`.
    pub(crate) async fn next(&mut self, share: &Share) -> Result<Option<Batches>, Error> {
        let Some(mut batches) = self.chunk.next().await? else { return Ok(None) };
        if let Some(first) = batches.first_mut()
            && first.base_offset < self.from
        {
            *first = first.skip_to(self.from)?;
        }
        let held = share.hold(batches.iter().map(Batch::encoded_len).sum()).await;
        Ok(Some(Batches { batches, held, origin: Origin::Chunk }))
    }
}

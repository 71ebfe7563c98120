//! [`Chunks`]: the Writer's side of the object store.

use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::pb::stored::v1::ChunkRef;
use pyramid_protocol::pb::v1 as pb;
use pyramid_storage::chunk::{ChunkReader, LocateError, Start, location};
use pyramid_storage::keys::UnwrapError;
use pyramid_storage::{Keks, ObjectNames, ObjectStore, StreamKey};

use crate::state::Stream;

/// Store, names and keys of one cluster.
#[derive(Clone)]
pub struct Chunks {
    /// Where objects lie.
    pub store: Arc<dyn ObjectStore>,
    /// How they are named.
    pub names: ObjectNames,
    /// What unwraps stream keys.
    pub keks: Arc<Keks>,
    /// How long a URL given to a reader works.
    pub url_life: Duration,
}

/// Why a reader gets no location.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The KEK that wraps the stream's key is not in the file.
    #[error("open the stream's key")]
    Key(#[source] UnwrapError),
    /// The store gives none.
    #[error("locate a chunk")]
    Locate(#[source] LocateError),
}

impl Chunks {
    /// The stream's key in clear.
    ///
    /// # Errors
    ///
    /// No KEK opens it: the KEK file is not the one of this cluster.
    pub fn stream_key(&self, stream: &Stream) -> Result<StreamKey, UnwrapError> {
        self.keks.unwrap(&stream.wrapped_key)
    }

    /// Where a reader finds a chunk by itself, with the keys of this chunk alone.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn locate(
        &self,
        stream: &Stream,
        chunk: &ChunkRef,
    ) -> Result<pb::ChunkLocation, Error> {
        let key = self.stream_key(stream).map_err(Error::Key)?;
        location(&*self.store, &self.names, stream.id, chunk, &key, self.url_life)
            .await
            .map_err(Error::Locate)
    }

    /// Reads a chunk for a reader that cannot do so itself.
    ///
    /// # Errors
    ///
    /// [`Error::Key`].
    pub fn read(
        &self,
        stream: &Stream,
        chunk: ChunkRef,
        start: Start,
    ) -> Result<ChunkReader, Error> {
        let key = self.stream_key(stream).map_err(Error::Key)?;
        let store = Arc::clone(&self.store);
        Ok(ChunkReader::stored(store, &self.names, stream.id, chunk, &key, start))
    }
}

//! What a reader is told of a chunk, so that it needs neither the Writer nor any standing key.

use std::time::Duration;

use pyramid_protocol::{
    StreamId,
    pb::{stored::v1 as stored, v1 as pb},
};

use super::{Damaged, KIND};
use crate::{
    keys::StreamKey,
    object_names::ObjectNames,
    object_store::{self, ObjectStore},
};

/// Why there is no location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// The object store gives no URL now.
    #[error("locate a chunk")]
    Store(#[source] object_store::Error),
    /// The stream key did not wrap this chunk's key: State and key do not belong together.
    #[error("locate a chunk")]
    WrongStreamKey(#[source] Damaged),
}

/// Where a chunk lies, and the keys of this chunk alone. The chunk is not read.
///
/// # Errors
///
/// The store gives no URL, or the keys do not belong together.
pub async fn location(
    store: &dyn ObjectStore,
    names: &ObjectNames,
    stream_id: StreamId,
    chunk: &stored::ChunkRef,
    stream_key: &StreamKey,
    life: Duration,
) -> Result<pb::ChunkLocation, LocateError> {
    let key = names.chunk_of(stream_id, chunk);
    let chunk_key = stream_key
        .unwrap(&chunk.wrapped_key)
        .ok_or_else(|| LocateError::WrongStreamKey(Damaged::new(key.as_str())))?;
    let keys = chunk_key.frame_keys(KIND);
    let url = store.locate(&key, 0..chunk.total_len, life).await.map_err(LocateError::Store)?;
    Ok(pb::ChunkLocation {
        url,
        total_len: chunk.total_len,
        head_len: chunk.head_len,
        head_sha256: chunk.head_sha256.clone(),
        encryption_key: keys.encryption().to_vec().into(),
        mac_key: keys.mac().to_vec().into(),
        base_offset: chunk.base_offset,
        next_offset: chunk.next_offset,
        cluster_id: names.cluster_id().as_bytes().to_vec().into(),
        stream_id: stream_id.get(),
        generation: chunk.generation,
    })
}

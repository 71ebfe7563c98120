//! `cluster.json`: which history a bucket holds, and which Writer may change it.
//!
//! ```json
//! {"cluster_id": "<32 hex digits>", "epoch": 1, "incarnation": "<32 hex digits>", "format": 1}
//! ```
//!
//! The only object that is ever replaced, always on a condition, and the only one in clear: it
//! holds no secret. A Writer that reads an incarnation which is not its own stops.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    cluster_id::ClusterId,
    hex,
    object_names::ObjectNames,
    object_store::{self, Condition, ObjectStore, Version},
};

/// The format that this build writes and reads.
const FORMAT: u32 = 1;

/// Longest file. Unit: bytes.
pub(crate) const BYTES_MAX: u64 = 4096;

/// What the bucket says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFile {
    /// Whose objects these are.
    pub cluster_id: ClusterId,
    /// Of the history that is written now.
    pub epoch: u32,
    /// Random, drawn anew at bootstrap, recovery and every accepted loss.
    pub incarnation: [u8; 16],
}

/// Why there is no cluster file to go on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The object store did not do it. Its error says what to do.
    #[error("access the cluster file")]
    Store(#[source] object_store::Error),
    /// It is there and is not one that this build may touch: stop.
    #[error(
        "{key} is not a cluster file of this cluster and format {FORMAT}; another program or a newer version wrote it"
    )]
    Foreign {
        /// The object's key.
        key: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    cluster_id: String,
    epoch: u32,
    incarnation: String,
    format: u32,
}

/// Writes the file of a new cluster.
///
/// # Errors
///
/// [`object_store::Error::ConditionFailed`] if there is one already: read it, it may be the own one
/// of an attempt whose answer was lost.
pub async fn create(
    store: &dyn ObjectStore,
    names: &ObjectNames,
    file: &ClusterFile,
) -> Result<Version, Error> {
    put(store, names, file, Condition::Absent).await
}

/// Replaces the file if it is still the one that was read.
///
/// # Errors
///
/// [`object_store::Error::ConditionFailed`] if somebody else replaced it.
pub async fn replace(
    store: &dyn ObjectStore,
    names: &ObjectNames,
    file: &ClusterFile,
    read: &Version,
) -> Result<Version, Error> {
    put(store, names, file, Condition::Unchanged(read.clone())).await
}

async fn put(
    store: &dyn ObjectStore,
    names: &ObjectNames,
    file: &ClusterFile,
    condition: Condition,
) -> Result<Version, Error> {
    let bytes = Bytes::from(file.encode());
    store.put(&names.cluster_file(), bytes, condition).await.map_err(Error::Store)
}

/// Reads the file.
///
/// # Errors
///
/// [`object_store::Error::NotFound`] if there is none, [`Error::Foreign`] if it is not ours.
pub async fn read(
    store: &dyn ObjectStore,
    names: &ObjectNames,
) -> Result<(ClusterFile, Version), Error> {
    let key = names.cluster_file();
    let object = store.get(&key, 0..BYTES_MAX).await.map_err(Error::Store)?;
    let file =
        ClusterFile::decode(&object.bytes).filter(|file| file.cluster_id == names.cluster_id());
    file.zip(object.version).ok_or_else(|| Error::Foreign { key: key.to_string() })
}

impl ClusterFile {
    fn encode(&self) -> Vec<u8> {
        let Self { cluster_id, epoch, incarnation } = self;
        let json = Json {
            cluster_id: cluster_id.to_string(),
            epoch: *epoch,
            incarnation: hex::encode(incarnation),
            format: FORMAT,
        };
        serde_json::to_vec(&json).expect("two numbers and two texts are JSON")
    }

    /// Whether it is a cluster file of another format than this build's.
    pub(crate) fn is_of_another_format(bytes: &[u8]) -> bool {
        let json: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
        let format = json.as_ref().and_then(|json| json.get("format")?.as_u64());
        format.is_some_and(|format| format != u64::from(FORMAT))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let Json { cluster_id, epoch, incarnation, format } = serde_json::from_slice(bytes).ok()?;
        if format != FORMAT {
            return None;
        }
        let (cluster_id, incarnation) = (cluster_id.parse().ok()?, hex::decode(&incarnation)?);
        Some(Self { cluster_id, epoch, incarnation })
    }
}

#[cfg(test)]
mod tests;

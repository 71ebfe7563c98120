//! Sealed chunks, keys and the object store.
//!
//! The way of a range of records into the object store: the Writer hands its batches to
//! [`chunk::seal`], which packs, encrypts and authenticates them under a new key; the
//! [`SealedChunk`] is opened again and compared, then put into an
//! [`ObjectStore`] under a name of [`ObjectNames`]. The way back: [`chunk::location`] tells a
//! reader a URL, the keys of this one chunk and the SHA-256 of its head; [`ChunkReader`] opens the
//! URL through a [`Fetcher`], checks the head, then each frame before it decrypts it, and hands out
//! batches. Stream keys come from [`keys`] and are kept, sealed, in [`key_object`]s; which history
//! a bucket holds says [`cluster_file`].
//!
//! Absent on purpose: any decision (what to seal, when to delete, whom to answer), any retry (the
//! caller has the one layer that retries), and any way to store something in clear, except
//! `cluster.json`, which holds no secret.

#[cfg(test)]
mod canned_server;
pub mod chunk;
pub mod cluster_file;
mod cluster_id;
mod fetcher;
mod file_url;
mod frame;
mod hex;
pub mod key_object;
pub mod keys;
pub mod object_names;
pub mod object_store;
mod range;
mod sealed_object;
mod transport;
mod trust;
pub mod verify;

pub use chunk::{Chunk, ChunkReader, Damaged, SealedChunk};
pub use cluster_id::{ClusterId, ParseClusterIdError};
pub use fetcher::{Body, Fetcher, HttpSettings};
pub use keys::{Keks, StreamKey};
pub use object_names::ObjectNames;
pub use object_store::{DirectoryStore, MemoryStore, ObjectKey, ObjectStore, S3Store};
pub use trust::TrustError;

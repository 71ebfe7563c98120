//! Checking everything that a cluster has stored, with the KEKs alone and without its Writer.
//!
//! [`verify`] lists all objects of one cluster, opens the key objects, reads every chunk from its
//! first byte to its last and follows each stream from chunk to chunk: header and name agree, HMAC
//! and tags are right, frames decrypt and unpack, batches match their checksums and counts, offsets
//! have no gap, times do not go back, and the digest chain runs through. [`clusters()`] finds the
//! cluster ids below a prefix.
//!
//! What the bucket alone cannot tell: whether the last chunks of a stream are missing, whether
//! the first ones were trimmed or lost, and whether a whole stream with its key object is gone. A
//! [`WriterView`] tells: each chunk that the Writer refers to must be there, with the SHA-256 of its
//! head.
//!
//! Memory has bounds: [`Options::parallel`] chunks at once, of each one piece of 4 MiB and one
//! frame; of each stream some hundred bytes, and of each chunk of the streams in work about 300.
//!
//! Absent on purpose: any repair. An object that does not verify is named; what to do is for people.

mod chain;
mod chunks;
mod clusters;
mod keys;
mod reading;
mod record;
mod report;
mod run;
mod snapshots;

use std::{collections::BTreeMap, sync::Arc};

use pyramid_protocol::{Offset, StreamId};

pub use self::{
    clusters::{CLUSTERS_MAX, Cluster, clusters},
    report::{Finding, Kind, LISTED_MAX, Note, NoteKind, Report, Span, StreamLabel, StreamTotal},
};
use crate::{
    keys::Keks,
    object_names::ObjectNames,
    object_store::{self, ObjectStore},
};

/// Chunks that are read at once, unless said otherwise.
pub const PARALLEL_DEFAULT: usize = 4;

/// Objects that may be unreadable before the whole run gives up: then it is the store.
pub const UNREADABLE_MAX: u64 = 20;

/// What is checked, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Objects that are read at once, at least 1.
    pub parallel: usize,
    /// Only the streams of these names. Empty: all, and whatever else lies there.
    pub streams: Vec<String>,
    /// What the Writer refers to, taken before the verification.
    pub writer: Option<WriterView>,
}

impl Default for Options {
    fn default() -> Self {
        Self { parallel: PARALLEL_DEFAULT, streams: Vec::new(), writer: None }
    }
}

/// What a Writer says of its streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterView {
    /// By id. Streams that are not here are checked by themselves.
    pub streams: BTreeMap<StreamId, Expected>,
}

/// What a Writer says of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub name: String,
    /// Oldest kept record.
    pub first_offset: Offset,
    /// All below is in the object store.
    pub shipped_offset: Offset,
    /// The chunks that hold the offsets between, in order.
    pub heads: Vec<Head>,
}

/// A chunk that a Writer refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// First offset.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub next_offset: Offset,
    /// SHA-256 of header, table and HMAC.
    pub head_sha256: [u8; 32],
}

impl Expected {
    /// Where the first chunk begins, which may be below the first offset.
    fn begin(&self) -> Offset {
        self.heads.first().map_or(self.first_offset, |head| head.base_offset.min(self.first_offset))
    }

    fn end(&self) -> Offset {
        self.heads
            .last()
            .map_or(self.shipped_offset, |head| head.next_offset.max(self.shipped_offset))
    }

    fn refers_to(&self, base: Offset, next: Offset, head_sha256: &[u8; 32]) -> bool {
        let place = self.heads.partition_point(|head| head.base_offset < base);
        self.heads.get(place).is_some_and(|head| {
            head.base_offset == base && head.next_offset == next && head.head_sha256 == *head_sha256
        })
    }
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Objects that were looked at.
    pub objects: u64,
    /// Their length. Unit: bytes.
    pub bytes: u64,
}

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store did not list its objects. Its error says what to do; nothing is known about the
    /// objects.
    #[error("list the objects")]
    Store(#[source] object_store::Error),
    /// Too many objects were not delivered: look at the store, then verify again.
    #[error(
        "the object store did not deliver {UNREADABLE_MAX} objects and more, the last one because: \
         {reason}; nothing is known about the objects behind"
    )]
    GaveUp {
        /// What the store said last.
        reason: String,
    },
    /// No key object that opens is that of a stream of this name: look at the name, or verify all
    /// streams.
    #[error("no key object of this cluster that opens is that of a stream {name:?}")]
    NoStream {
        /// The name that was asked for.
        name: String,
    },
    /// Nothing is there at all: the prefix or the cluster id is another one.
    #[error("there is no object of the cluster below {prefix}; look at prefix and cluster id")]
    NothingThere {
        /// What the keys of its objects begin with.
        prefix: String,
    },
}

/// Checks all objects of one cluster. `progress` is called after each object.
///
/// # Errors
///
/// The store does not answer, or holds nothing of the cluster. Everything that is wrong with single
/// objects is in the report.
pub async fn verify(
    store: Arc<dyn ObjectStore>,
    names: &ObjectNames,
    keks: &Keks,
    options: &Options,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Report, Error> {
    run::run(store, names, keks, options, progress).await
}

#[cfg(test)]
mod tests;

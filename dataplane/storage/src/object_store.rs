//! The object store: five calls that S3, a directory and memory can all keep.
//!
//! A key is written once and read many times; only `cluster.json` is ever replaced, and only on a
//! condition. Nothing here knows what the bytes mean.

mod directory;
mod key;
mod memory;
mod memory_faults;
mod s3;
mod settings;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

pub use self::{
    directory::DirectoryStore,
    key::{InvalidKey, KEY_BYTES_MAX, ObjectKey},
    memory::MemoryStore,
    memory_faults::{Call, Fault, FaultRates},
    s3::{CALL_TIMEOUT_MAX, S3Store},
    settings::{
        Endpoint, OpenError, ProbeError, S3Options, S3Settings, SettingsError, StoreSettings, probe,
    },
};

/// Most keys in one answer of [`ObjectStore::list`].
pub const LISTING_LEN_MAX: usize = 1000;

/// What must hold for a [`ObjectStore::put`] to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: an object under this key is replaced.
    None,
    /// No object has this key. Of several such puts at once exactly one is done.
    Absent,
    /// The object has this version. Of several such puts at once exactly one is done, provided that
    /// their contents differ from each other and from the old one: many stores derive the version
    /// from the content, so putting the same bytes again does not change it.
    Unchanged(Version),
}

/// Which content an object has: an opaque token (S3: the `ETag`).
#[derive(Clone, PartialEq, Eq)]
pub struct Version(Arc<str>);

impl Version {
    /// The version that a store knows by this token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(token.into())
    }

    /// The store's token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What [`ObjectStore::get`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The part of the object within the range that was asked for.
    pub bytes: Bytes,
    /// Length of the whole object. Unit: bytes.
    pub total_len: u64,
    /// For a later [`Condition::Unchanged`]. Always set when the whole object was read; a directory
    /// cannot tell the version of a part.
    pub version: Option<Version>,
}

/// One object in a [`Listing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: ObjectKey,
    /// Length of the object. Unit: bytes.
    pub len: u64,
}

/// One page of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the order of the keys' bytes; at most [`LISTING_LEN_MAX`].
    pub objects: Vec<Listed>,
    /// Whether there are more: ask again after the last key.
    pub more: bool,
}

/// Why the object store did not do what was asked. Each variant is another thing to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store answered, with certainty: no object has this key.
    #[error("no object has the key {key}")]
    NotFound {
        /// The key, or the URL.
        key: String,
    },
    /// Nothing was written, because the condition does not hold. After an own put whose answer was
    /// lost, it may be the own object that is there: read it.
    #[error("{key} was not written, another object is there")]
    ConditionFailed {
        /// The key.
        key: String,
    },
    /// Try again, with backoff. A put or delete may have been done, or may still be.
    #[error("{action} {key}: {reason}; this is retried")]
    Unavailable {
        /// What was tried, as a verb.
        action: &'static str,
        /// The key, prefix or URL.
        key: String,
        /// What the store or the network said.
        reason: String,
        /// How long the store asks to be left alone; trying earlier makes its trouble worse.
        wait: Option<Duration>,
    },
    /// The URL was good once and is not any more. Ask the Writer for a new one.
    #[error("the location of {key} is not good any more ({reason}); ask the Writer for a new one")]
    Expired {
        /// The URL without its query.
        key: String,
        /// What the store said.
        reason: String,
    },
    /// Trying again fails again until somebody changes credentials, rights or settings.
    #[error("{action} {key} is refused: {reason}")]
    Refused {
        /// What was tried, as a verb.
        action: &'static str,
        /// The key, prefix or URL.
        key: String,
        /// What must be changed.
        reason: String,
    },
}

impl Error {
    /// How long the store asks to be left alone.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { wait, .. } => *wait,
            Self::NotFound { .. }
            | Self::ConditionFailed { .. }
            | Self::Expired { .. }
            | Self::Refused { .. } => None,
        }
    }
}

/// Where sealed chunks, key objects and snapshots are kept.
///
/// All calls may be dropped at any time; a put or delete that was dropped may have been done, or
/// may still be.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync + 'static {
    /// Writes a whole object. When it returns, the object outlives a power cut, and every later
    /// `get` and `list` sees it. No reader ever sees a part of it.
    ///
    /// # Errors
    ///
    /// All but [`Error::NotFound`] and [`Error::Expired`].
    async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Version, Error>;

    /// Reads the part of an object that lies in `range` (unit: bytes from its front). The part is
    /// shorter, or empty, where the object ends before the range does. The range is also the bound
    /// on memory, so there is no way to ask for "all".
    ///
    /// # Errors
    ///
    /// All but [`Error::ConditionFailed`] and [`Error::Expired`].
    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Object, Error>;

    /// One page of the objects whose keys begin with `prefix` and come after `after`, in the order
    /// of the keys' bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] and [`Error::Refused`].
    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Listing, Error>;

    /// Removes an object. An object that is not there is removed already.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] and [`Error::Refused`].
    async fn delete(&self, key: &ObjectKey) -> Result<(), Error>;

    /// A URL under which [`crate::Fetcher`] reads `range` of the object for at least `life`
    /// (a directory and memory keep it for ever). Whether the object is there is not checked.
    ///
    /// The URL may hold a signature, so it is not for logs. Its fragment names the range.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] and [`Error::Refused`].
    async fn locate(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        life: Duration,
    ) -> Result<String, Error>;
}

/// The part of `bytes` within `range`, as [`ObjectStore::get`] answers it.
fn part(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
    let (start, end) = (at(range.start), at(range.end));
    bytes.slice(start..end.max(start))
}

/// The fragment of a URL that names a range.
pub(crate) fn range_fragment(range: &Range<u64>) -> String {
    format!("#range={}..{}", range.start, range.end)
}

#[cfg(test)]
mod tests;

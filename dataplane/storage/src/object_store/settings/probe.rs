//! A first word to a store, so that a wrong setting shows at once and not at the first upload.

use crate::object_store::{Error, ObjectKey, ObjectStore};

/// What a probe asks for; nothing ever has this name.
const ABSENT: &str = "probe-of-a-key-that-is-never-written";

/// Why a store is not ready for use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The store did not do it. [`Error::Unavailable`] may pass by itself; anything else needs
    /// somebody.
    #[error("the object store cannot be used")]
    Store(#[source] Error),
    /// The prefix and a name together are no key.
    #[error("--object-prefix {prefix}: {source}")]
    Prefix {
        /// What was given.
        prefix: String,
        /// Why not.
        source: crate::object_store::InvalidKey,
    },
}

/// Asks the store what it can answer without having anything: a list below `prefix` and an object
/// that is not there. Bucket, endpoint, credentials, clock and the rights to list and to read are
/// then known to be good; the right to write shows at the first put.
///
/// # Errors
///
/// What is wrong, in words for whoever can change it.
pub async fn probe(store: &dyn ObjectStore, prefix: &str) -> Result<(), ProbeError> {
    let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let key: ObjectKey = format!("{below}{ABSENT}")
        .parse()
        .map_err(|source| ProbeError::Prefix { prefix: prefix.to_owned(), source })?;
    store.list(&below, None).await.map_err(ProbeError::Store)?;
    match store.get(&key, 0..1).await {
        Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(ProbeError::Store(error)),
    }
}

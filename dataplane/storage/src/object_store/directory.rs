//! A local directory as object store: for `pyramid dev`, tests, and whoever mounts one.
//!
//! ```text
//! <root>/<key>              one file for each object; slashes of the key are directories
//! <root>/.pyramid/new/      files that are being written
//! <root>/.pyramid/users     locked (shared) while a store is open
//! <root>/.pyramid/compare   locked while a put compares versions
//! ```
//!
//! A put writes a new file in `.pyramid/new`, syncs it, moves it to its name (a hard link where the
//! object must be absent: the file system then picks the one winner) and syncs the directories.
//! So a crash at any point leaves the object whole or absent, and at most a file in `new`, which
//! the next `open` removes if nobody else uses the directory.

mod blocking;
mod listing;

use std::{ops::Range, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use self::blocking::Root;
use crate::{
    file_url,
    object_store::{Condition, Error, Listing, Object, ObjectKey, ObjectStore, Version},
};

/// Objects as files below one directory.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    root: Arc<Root>,
}

impl DirectoryStore {
    /// Opens the store below `root`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the directory cannot be made or used.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let root = root.into();
        let key = root.display().to_string();
        blocking("open", &key, move || Root::open(&root))
            .await
            .map(|root| Self { root: Arc::new(root) })
    }

    /// The directory, absolute and without symbolic links: what a [`crate::Fetcher`] of this
    /// store's URLs is given.
    #[must_use]
    pub fn root(&self) -> &std::path::Path {
        self.root.path()
    }
}

/// Runs file calls where they hold up no other task.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    key: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    // A task is lost only when the runtime ends, and then nobody waits for the answer.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|lost| {
        Err(Error::Unavailable {
            action,
            key: key.to_owned(),
            reason: lost.to_string(),
            wait: None,
        })
    })
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Version, Error> {
        let (root, owned) = (Arc::clone(&self.root), key.clone());
        blocking("put", key.as_str(), move || root.put(&owned, &bytes, &condition)).await
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Object, Error> {
        let (root, owned) = (Arc::clone(&self.root), key.clone());
        blocking("get", key.as_str(), move || root.get(&owned, &range)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Listing, Error> {
        let (root, owned, after) = (Arc::clone(&self.root), prefix.to_owned(), after.cloned());
        blocking("list", prefix, move || root.list(&owned, after.as_ref())).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Error> {
        let (root, owned) = (Arc::clone(&self.root), key.clone());
        blocking("delete", key.as_str(), move || root.delete(&owned)).await
    }

    async fn locate(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        _life: Duration,
    ) -> Result<String, Error> {
        Ok(file_url::write(&self.root.file(key), &range))
    }
}

#[cfg(test)]
mod tests;

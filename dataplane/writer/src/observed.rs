//! Disk and object store as they are, and what is counted of them on the way.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pyramid_storage::object_store::{Condition, Error, Listing, Object, Version};
use pyramid_storage::{ObjectKey, ObjectStore};
use pyramid_telemetry::health::Pulse;
use pyramid_telemetry::metrics::Histogram;
use tokio::time::Instant;

use crate::disk::{Disk, File, Lock, Volume};
use crate::metrics::{Metrics, StoreCall, StoreResult};

/// A disk whose reads show that a start goes on, and whose syncs of the log are timed.
#[derive(Debug)]
pub(crate) struct ObservedDisk {
    pub(crate) disk: Arc<dyn Disk>,
    /// Beats at each read.
    pub(crate) reads: Pulse,
    pub(crate) syncs: Histogram,
}

#[derive(Debug)]
struct ObservedFile {
    file: Arc<dyn File>,
    reads: Pulse,
    /// `None`: not timed.
    syncs: Option<Histogram>,
}

impl ObservedDisk {
    fn observe(&self, file: Arc<dyn File>, timed: bool) -> Arc<dyn File> {
        let syncs = timed.then(|| self.syncs.clone());
        Arc::new(ObservedFile { file, reads: self.reads.clone(), syncs })
    }
}

impl Disk for ObservedDisk {
    /// What is created is filled ahead of its use: its sync takes long and nobody waits for it.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.observe(self.disk.create(path)?, false))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.observe(self.disk.open(path)?, true))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn volume(&self) -> io::Result<Volume> {
        self.disk.volume()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.disk.lock()
    }
}

impl File for ObservedFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(bytes, at)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, at);
        self.reads.beat();
        read
    }

    fn sync(&self) -> io::Result<()> {
        let began = Instant::now();
        let synced = self.file.sync();
        if let Some(syncs) = &self.syncs {
            syncs.observe(began.elapsed());
        }
        synced
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

/// An object store whose calls are counted by their result, and timed.
#[derive(Debug)]
pub(crate) struct ObservedStore {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) metrics: Arc<Metrics>,
}

impl ObservedStore {
    fn called<T>(&self, call: StoreCall, result: &Result<T, Error>, took: Duration) {
        let result = match result {
            Ok(_) => StoreResult::Ok,
            Err(Error::NotFound { .. }) => StoreResult::NotFound,
            Err(Error::ConditionFailed { .. }) => StoreResult::ConditionFailed,
            // Only a reader of URLs meets one that has expired; asking anew helps.
            Err(Error::Unavailable { .. } | Error::Expired { .. }) => StoreResult::Unavailable,
            Err(Error::Refused { .. }) => StoreResult::Refused,
        };
        self.metrics.store_called(call, result, took);
    }
}

#[tonic::async_trait]
impl ObjectStore for ObservedStore {
    async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Version, Error> {
        let (began, len) = (Instant::now(), bytes.len());
        let put = self.store.put(key, bytes, condition).await;
        self.called(StoreCall::Put, &put, began.elapsed());
        if put.is_ok() {
            self.metrics.store_sent.inc_by(u64::try_from(len).unwrap_or(u64::MAX));
        }
        put
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Object, Error> {
        let began = Instant::now();
        let got = self.store.get(key, range).await;
        self.called(StoreCall::Get, &got, began.elapsed());
        if let Ok(object) = &got {
            let len = u64::try_from(object.bytes.len()).unwrap_or(u64::MAX);
            self.metrics.store_received.inc_by(len);
        }
        got
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Listing, Error> {
        let began = Instant::now();
        let listed = self.store.list(prefix, after).await;
        self.called(StoreCall::List, &listed, began.elapsed());
        listed
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Error> {
        let began = Instant::now();
        let deleted = self.store.delete(key).await;
        self.called(StoreCall::Delete, &deleted, began.elapsed());
        deleted
    }

    async fn locate(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        life: Duration,
    ) -> Result<String, Error> {
        let began = Instant::now();
        let located = self.store.locate(key, range, life).await;
        self.called(StoreCall::Locate, &located, began.elapsed());
        located
    }
}

#[cfg(test)]
mod tests;

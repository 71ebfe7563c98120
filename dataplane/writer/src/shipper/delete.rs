//! Takes the objects of deleted streams out of the object store (formats.md 9).
//!
//! The deletion of a stream marks them: State has none of its chunks any more, so nobody is told
//! where one lies. Then at least twice the life of a URL passes, so that whoever was told before has
//! read it, and every attempt to upload has ended. Then they are deleted, and the log is told.
//!
//! What is deleted is what lies below the stream's own prefixes, not what State knew of: an attempt to
//! upload that was given up may have left an object that no entry names. A stream id is never used
//! again, so nothing else is ever there.
//!
//! An object may be deleted only when no published snapshot refers to it, or a recovery from that
//! snapshot would miss it. This version publishes none and recovers from none: nothing that is kept
//! could bring the stream back, so there is nothing to wait for. Whoever publishes the first snapshot
//! has to let [`is_due`] wait for the snapshots, too: [`Deleting::index`] is there for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::{Entropy, StreamId};
use pyramid_storage::{ObjectKey, cluster_file, object_store};
use pyramid_telemetry::logs;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::{ShipperHandle, TELL_AGAIN_AFTER};
use crate::appender::{AppenderHandle, Failure};
use crate::chunks::Chunks;
use crate::state::{ControlOutcome, ControlRefused, Deleting};
use crate::view::View;

/// The first wait after a failure, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// A call of the store that takes longer is given up, and made again later.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Streams whose objects are deleted at once, and calls for each of them.
const STREAMS_AT_ONCE: usize = 4;
const CALLS_AT_ONCE: usize = 8;

/// How often all of a stream's objects are looked for. One that is there after it was deleted so many
/// times is a matter for a later attempt.
const LOOKS_MAX: usize = 3;

/// Whether a stream's objects may be deleted now.
pub(super) fn is_due(deleting: &Deleting, now_ms: u64, wait: Duration) -> bool {
    // Without an upload there was never a URL that somebody could still use, nor an object that comes
    // late.
    let wait = if deleting.had_uploads { wait } else { Duration::ZERO };
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    now_ms.saturating_sub(deleting.deleted_ms) >= wait_ms
}

/// How many objects may be left of streams that are being deleted: what the operator is told.
#[derive(Clone, Default)]
pub(super) struct Left(Arc<Mutex<BTreeMap<StreamId, u64>>>);

impl Left {
    /// At least 1: only the log says that all are gone, or that there was never one.
    pub(super) fn of(&self, stream_id: StreamId, deleting: &Deleting) -> u64 {
        if !deleting.had_uploads {
            return 0;
        }
        self.counts().get(&stream_id).copied().unwrap_or(deleting.object_count).max(1)
    }

    fn one_less(&self, stream_id: StreamId, deleting: &Deleting) {
        let left = self.of(stream_id, deleting).saturating_sub(1);
        self.counts().insert(stream_id, left);
    }

    fn forget(&self, stream_id: StreamId) {
        self.counts().remove(&stream_id);
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<StreamId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an attempt failed. All are tried again, after a wait.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("delete an object")]
    Store(#[source] object_store::Error),
    #[error("read cluster.json")]
    ClusterFile(#[source] cluster_file::Error),
    #[error(
        "the object store has no cluster.json although the stream had objects: it is not the one \
         that holds them; mount or restore that one"
    )]
    OtherStore,
    #[error("the object store did not answer for {CALL_TIMEOUT:?}")]
    Timeout,
    #[error("objects are there again after they were deleted {LOOKS_MAX} times")]
    ThereAgain,
    #[error("tell the log")]
    Log(#[source] Failure),
    #[error("the log refused what was deleted: {0:?}")]
    Refused(ControlRefused),
}

impl Error {
    /// How long the object store asks to be left alone.
    fn wait(&self) -> Duration {
        match self {
            Self::Store(error) | Self::ClusterFile(cluster_file::Error::Store(error)) => {
                error.wait().unwrap_or_default()
            }
            Self::ClusterFile(cluster_file::Error::Foreign { .. })
            | Self::OtherStore
            | Self::Timeout
            | Self::ThereAgain
            | Self::Log(_)
            | Self::Refused(_) => Duration::ZERO,
        }
    }
}

pub(super) struct Deleter {
    view: Arc<View>,
    appender: AppenderHandle,
    chunks: Chunks,
    entropy: Arc<dyn Entropy>,
    left: Left,
    slots: Semaphore,
    /// When a failure was logged last.
    logged: Mutex<Option<Instant>>,
}

impl Deleter {
    pub(super) fn new(handle: &ShipperHandle, chunks: Chunks, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            view: Arc::clone(&handle.view),
            appender: handle.appender.clone(),
            chunks,
            entropy,
            left: handle.left.clone(),
            slots: Semaphore::new(STREAMS_AT_ONCE),
            logged: Mutex::default(),
        }
    }

    /// Deletes all objects of a deleted stream. Returns early when this replica stops leading.
    pub(super) async fn delete(&self, stream_id: StreamId) {
        let mut backoff = BACKOFF_MIN;
        while self.leads() {
            match self.attempt(stream_id).await {
                Ok(()) => return,
                Err(error) => {
                    let per_mille = u32::try_from(self.entropy.u64() % 501).unwrap_or(500);
                    // Jitter shortens a wait, and never the one that the store asks for.
                    let wait = (backoff * (500 + per_mille) / 1000).max(error.wait());
                    self.tell(stream_id, &error);
                    sleep(wait).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
        self.left.forget(stream_id);
    }

    fn leads(&self) -> bool {
        self.appender.log_time_ms().is_some()
    }

    /// With the object store away, every deleted stream fails again and again.
    fn tell(&self, stream_id: StreamId, error: &Error) {
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = logged.is_none_or(|at| now.duration_since(at) >= TELL_AGAIN_AFTER);
        if is_news {
            *logged = Some(now);
            tracing::warn!(
                stream = %stream_id,
                error = logs::causes(error),
                "objects of a deleted stream are not deleted yet; tried again, and told once a minute"
            );
        }
    }

    async fn attempt(&self, stream_id: StreamId) -> Result<(), Error> {
        // Closed never: the semaphore lives as long as the deleter.
        let Ok(_slot) = self.slots.acquire().await else { return Ok(()) };
        let deleting = self.view.read(|state, _| state.deleting(stream_id).copied());
        let Some(deleting) = deleting else { return Ok(()) };
        self.check_store(&deleting).await?;
        let names = &self.chunks.names;
        let prefixes = [names.chunks_prefix(stream_id), names.key_objects_prefix(stream_id)];
        let mut looks = 0;
        loop {
            let mut deleted = 0;
            for prefix in &prefixes {
                deleted += self.delete_below(prefix, stream_id, &deleting).await?;
            }
            // All were seen to be gone: of those that were deleted, none is listed any more.
            if deleted == 0 {
                break;
            }
            if looks == LOOKS_MAX {
                return Err(Error::ThereAgain);
            }
            looks += 1;
        }
        if !self.leads() {
            return Ok(());
        }
        let command = Command::StreamObjectsDeleted(stored::StreamObjectsDeleted {
            stream_id: stream_id.get(),
        });
        let (_, applied) = self.appender.command(command).await.map_err(Error::Log)?;
        if let Some(ControlOutcome::Refused(refused)) = &applied.control {
            return Err(Error::Refused(refused.clone()));
        }
        self.left.forget(stream_id);
        tracing::info!(stream = %stream_id, "all objects of a deleted stream are deleted");
        Ok(())
    }

    /// A store that is not the one with the stream's chunks must not be taken for one that has lost
    /// them.
    async fn check_store(&self, deleting: &Deleting) -> Result<(), Error> {
        let read = cluster_file::read(&*self.chunks.store, &self.chunks.names);
        match within_timeout(read).await? {
            Ok(_) => Ok(()),
            Err(cluster_file::Error::Store(object_store::Error::NotFound { .. })) => {
                if deleting.object_count == 0 { Ok(()) } else { Err(Error::OtherStore) }
            }
            Err(error) => Err(Error::ClusterFile(error)),
        }
    }

    /// Deletes all that a listing shows, and returns how many that were.
    async fn delete_below(
        &self,
        prefix: &str,
        stream_id: StreamId,
        deleting: &Deleting,
    ) -> Result<usize, Error> {
        let store = &*self.chunks.store;
        let (mut after, mut deleted) = (None, 0);
        loop {
            let list = store.list(prefix, after.as_ref());
            let page = within_timeout(list).await?.map_err(Error::Store)?;
            let keys: Vec<ObjectKey> = page.objects.into_iter().map(|object| object.key).collect();
            after = keys.last().cloned();
            deleted += keys.len();
            let deletions = keys.into_iter().map(|key| self.delete_one(key, stream_id, *deleting));
            let deletions = stream::iter(deletions).buffer_unordered(CALLS_AT_ONCE);
            deletions.try_collect::<()>().await?;
            if !page.more || after.is_none() || !self.leads() {
                return Ok(deleted);
            }
        }
    }

    async fn delete_one(
        &self,
        key: ObjectKey,
        stream_id: StreamId,
        deleting: Deleting,
    ) -> Result<(), Error> {
        within_timeout(self.chunks.store.delete(&key)).await?.map_err(Error::Store)?;
        self.left.one_less(stream_id, &deleting);
        Ok(())
    }
}

async fn within_timeout<T>(call: impl Future<Output = T>) -> Result<T, Error> {
    timeout(CALL_TIMEOUT, call).await.map_err(|_| Error::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_wait_for_readers_if_there_can_be_any() {
        let wait = Duration::from_secs(6);
        let of =
            |had_uploads| Deleting { index: 5, deleted_ms: 1_000, object_count: 0, had_uploads };
        assert!(!is_due(&of(true), 6_999, wait));
        assert!(is_due(&of(true), 7_000, wait));
        assert!(is_due(&of(false), 1_000, wait));
    }

    #[test]
    fn at_least_one_object_is_left_until_the_log_says_otherwise() {
        let (left, id) = (Left::default(), StreamId::new(7).unwrap());
        let (object_count, had_uploads) = (2, true);
        let deleting = Deleting { index: 5, deleted_ms: 1_000, object_count, had_uploads };
        assert_eq!(left.of(id, &deleting), 2);
        left.one_less(id, &deleting);
        assert_eq!(left.of(id, &deleting), 1);
        left.one_less(id, &deleting);
        assert_eq!(left.of(id, &deleting), 1);
        left.forget(id);
        assert_eq!(left.of(id, &deleting), 2);
        let deleting = Deleting { object_count: 0, ..deleting };
        assert_eq!(left.of(id, &deleting), 1, "of an upload that was given up");
        assert_eq!(left.of(id, &Deleting { had_uploads: false, ..deleting }), 0);
    }
}

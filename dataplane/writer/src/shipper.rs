//! The shipper: cuts streams into chunks and carries them to the object store.
//!
//! When a stream is deleted, it also takes the stream's objects out of the object store.
//!
//! Only while this replica leads. Sealing is a command like any other; its log index, the intent,
//! names the range for ever. Open intents are uploaded in offset order per stream, several streams
//! at once, and retried for ever: nothing that the object store does can lose a record, it only
//! keeps the log longer.

mod delete;
mod plan;
mod upload;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::{Entropy, Offset, StreamId};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::delete::{Deleter, Left};
pub(crate) use self::plan::CHUNK_BYTES_MAX;
use self::upload::Uploader;
use crate::appender::{AppenderHandle, Failure};
use crate::chunks::Chunks;
use crate::metrics::{Metrics, UploadFailure};
use crate::state::{ControlOutcome, ControlRefused};
use crate::view::View;
use crate::wal::{self, Wal};

/// How often the shipper looks for something to seal. A seal by size is at most this late.
const TICK: Duration = Duration::from_millis(100);

/// Chunks that are built and uploaded at once, if memory allows.
pub const UPLOADS_MAX: usize = 4;

/// Memory that building a chunk takes, in sizes of the chunk: batches, ciphertext, and what is
/// opened again to be compared.
pub const CHUNK_MEMORY: u64 = 4;

/// When streams are cut that say nothing themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Seal at this many bytes of records.
    pub chunk_bytes: u64,
    /// Seal when the oldest unsealed record is this old.
    pub chunk_age: Duration,
    /// Chunks that are built and uploaded at once: what the memory limit leaves for them.
    pub uploads_max: usize,
    /// How long objects of a deleted stream stay.
    pub delete_wait: Duration,
}

/// Seals streams, on command or when it is due.
#[derive(Clone)]
pub struct ShipperHandle {
    view: Arc<View>,
    appender: AppenderHandle,
    node_id: u64,
    defaults: Defaults,
    sealed: Arc<Notify>,
    trouble: Trouble,
    left: Left,
}

/// How often the same kind of failure is logged, all streams together.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What is in the way of shipping.
#[derive(Clone, Default)]
struct Trouble(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    /// Why the newest attempt failed; empty if it did not.
    text: String,
    /// Why the object store did not answer when it was asked last; empty if it did.
    away: String,
    logged: Option<(UploadFailure, Instant)>,
}

impl Trouble {
    fn is_over(&self) {
        let mut told = self.told();
        told.text.clear();
        told.away.clear();
    }

    fn is(&self, text: String) {
        self.told().text = text;
    }

    /// What the object store was seen to be; whether it was not so the last time.
    fn is_away(&self, away: Option<String>) -> bool {
        let away = away.unwrap_or_default();
        let mut told = self.told();
        let is_news = told.away.is_empty() != away.is_empty();
        told.away = away;
        is_news
    }

    /// A failed attempt says more than a question.
    fn text(&self) -> String {
        let told = self.told();
        if told.text.is_empty() { told.away.clone() } else { told.text.clone() }
    }

    /// Whether a failure of this kind is to be logged: it is new, or was not logged for a while. With
    /// the object store away, every stream fails every few seconds.
    fn is_news(&self, failure: UploadFailure, now: Instant) -> bool {
        let mut told = self.told();
        let is_news = told.logged.is_none_or(|(last, at)| {
            last != failure || now.saturating_duration_since(at) >= TELL_AGAIN_AFTER
        });
        if is_news {
            told.logged = Some((failure, now));
        }
        is_news
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShipperHandle {
    /// For one replica.
    #[must_use]
    pub fn new(
        view: Arc<View>,
        appender: AppenderHandle,
        node_id: u64,
        defaults: Defaults,
    ) -> Self {
        Self {
            view,
            appender,
            node_id,
            defaults,
            sealed: Arc::default(),
            trouble: Trouble::default(),
            left: Left::default(),
        }
    }

    /// How many objects of a stream that was deleted may be left in the object store.
    #[must_use]
    pub fn objects_left(&self, stream_id: StreamId) -> u64 {
        let deleting = self.view.read(|state, _| state.deleting(stream_id).copied());
        deleting.map_or(0, |deleting| self.left.of(stream_id, &deleting))
    }

    /// Why the newest attempt to ship a chunk failed, or why the object store does not answer; empty
    /// if neither.
    #[must_use]
    pub fn trouble(&self) -> String {
        self.trouble.text()
    }

    /// Cuts all below `upto` into chunks, and wakes the shipper. Returns the end of what is sealed.
    ///
    /// # Errors
    ///
    /// [`Failure`]: a part may be sealed.
    pub async fn seal(&self, stream_id: StreamId, upto: Offset) -> Result<Offset, Failure> {
        loop {
            let (sealed, range) = self.view.read(|state, live| {
                let stream = state.stream(stream_id);
                let bytes_max = stream.map_or(1, |s| plan::chunk_bytes(&s.settings, self.defaults));
                (stream.map(|s| s.sealed()), live.seal_range(stream_id, bytes_max))
            });
            // A deleted stream has nothing left to seal.
            let Some(sealed) = sealed else { return Ok(upto) };
            let Some(range) = range.filter(|_| sealed < upto) else { return Ok(sealed) };
            let command = Command::Seal(stored::Seal {
                stream_id: stream_id.get(),
                base_offset: range.base.get(),
                next_offset: range.next.get(),
                uploader: self.node_id,
            });
            let (_, applied) = self.appender.command(command).await?;
            match &applied.control {
                // Somebody else has just sealed here, or deleted the stream: look again.
                Some(
                    ControlOutcome::Sealed { .. }
                    | ControlOutcome::Refused(
                        ControlRefused::NotContiguous { .. } | ControlRefused::NotFound,
                    ),
                ) => self.sealed.notify_one(),
                other => {
                    tracing::error!(stream = %stream_id, outcome = ?other, "a seal was refused");
                    return Err(Failure::Dropped);
                }
            }
        }
    }
}

/// The task.
pub struct Shipper {
    handle: ShipperHandle,
    wal: Wal,
    uploader: Arc<Uploader>,
    uploads: JoinSet<StreamId>,
    uploading: HashSet<StreamId>,
    deleter: Arc<Deleter>,
    deletions: JoinSet<StreamId>,
    deleting: HashSet<StreamId>,
    /// Whether it was told that the log fills up, and that it refuses.
    told: (bool, bool),
}

impl Shipper {
    /// A shipper that has not started.
    #[must_use]
    pub fn new(
        handle: ShipperHandle,
        wal: Wal,
        chunks: Chunks,
        entropy: Arc<dyn Entropy>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let deleter = Deleter::new(&handle, chunks.clone(), Arc::clone(&entropy));
        let uploader = Uploader {
            view: Arc::clone(&handle.view),
            wal: wal.clone(),
            appender: handle.appender.clone(),
            chunks,
            entropy,
            metrics,
            slots: Semaphore::new(handle.defaults.uploads_max),
            trouble: handle.trouble.clone(),
            founded: tokio::sync::OnceCell::new(),
        };
        Self {
            handle,
            wal,
            uploader: Arc::new(uploader),
            uploads: JoinSet::new(),
            uploading: HashSet::new(),
            deleter: Arc::new(deleter),
            deletions: JoinSet::new(),
            deleting: HashSet::new(),
            told: (false, false),
        }
    }

    /// Seals and uploads until `shutdown`. Uploads on their way are dropped then: their intents
    /// stay open and are taken up again.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Dropped at the end, and the questions with it.
        let mut asking = JoinSet::new();
        asking.spawn(Arc::clone(&self.uploader).watch_store());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(uploaded) = self.uploads.join_next() => match uploaded {
                    Ok(stream_id) => {
                        self.uploading.remove(&stream_id);
                    }
                    // The hook has ended the process; only a test gets here.
                    Err(error) => {
                        tracing::error!(%error, "an upload panicked");
                        return;
                    }
                },
                Some(deleted) = self.deletions.join_next() => match deleted {
                    Ok(stream_id) => {
                        self.deleting.remove(&stream_id);
                    }
                    Err(error) => {
                        tracing::error!(%error, "a deletion panicked");
                        return;
                    }
                },
                () = self.handle.sealed.notified() => {}
                _ = tick.tick() => {
                    self.tell_usage();
                    if let Some(now_ms) = self.handle.appender.log_time_ms()
                        && self.seal_due(now_ms).await
                    {
                        // There may be more; what is sealed is uploaded meanwhile.
                        tick.reset_immediately();
                    }
                }
            }
            if let Some(now_ms) = self.handle.appender.log_time_ms() {
                self.upload_open();
                self.delete_due(now_ms);
            }
        }
    }

    /// Tells once when the log fills up, and when it is full.
    fn tell_usage(&mut self) {
        let usage = self.wal.usage();
        let told = (usage.is_under_pressure(), usage.refuses_appends());
        if told == std::mem::replace(&mut self.told, told) {
            return;
        }
        let wal::Usage { used_bytes, max_bytes, is_short_of_room } = usage;
        match told {
            (_, true) => tracing::error!(
                used_bytes,
                max_bytes,
                is_short_of_room,
                "the write-ahead log has no room left: appends are refused"
            ),
            (true, false) => tracing::warn!(
                used_bytes,
                max_bytes,
                "the write-ahead log fills up: appends are slowed down, chunks sealed sooner"
            ),
            (false, false) => tracing::info!(used_bytes, max_bytes, "the write-ahead log has room"),
        }
    }

    /// Whether something was sealed, so that there may be more.
    async fn seal_due(&self, now_ms: u64) -> bool {
        let pressure = self.wal.usage().is_under_pressure();
        let due: BTreeMap<StreamId, Offset> = self.handle.view.read(|state, live| {
            live.all_unsealed()
                .filter_map(|(id, unsealed)| {
                    let settings = &state.stream(id)?.settings;
                    let rule = plan::Rule::new(settings, self.handle.defaults, pressure);
                    match rule.due(&unsealed, now_ms)? {
                        plan::Due::All => Some((id, unsealed.next)),
                        plan::Due::OneChunk => {
                            Some((id, live.seal_range(id, rule.chunk_bytes)?.next))
                        }
                    }
                })
                .collect()
        });
        for (stream_id, upto) in &due {
            if let Err(error) = self.handle.seal(*stream_id, *upto).await {
                tracing::debug!(stream = %stream_id, %error, "not sealed now");
                return false;
            }
        }
        !due.is_empty()
    }

    fn upload_open(&mut self) {
        let open: Vec<StreamId> = self.handle.view.read(|state, _| {
            let open = state.streams().filter(|stream| !stream.open_seals.is_empty());
            open.map(|stream| stream.id).filter(|id| !self.uploading.contains(id)).collect()
        });
        for stream_id in open {
            self.uploading.insert(stream_id);
            let uploader = Arc::clone(&self.uploader);
            self.uploads.spawn(async move {
                uploader.ship(stream_id).await;
                stream_id
            });
        }
    }
}

impl Shipper {
    fn delete_due(&mut self, now_ms: u64) {
        let wait = self.handle.defaults.delete_wait;
        let due: Vec<StreamId> = self.handle.view.read(|state, _| {
            let due = state.all_deleting().filter(|(_, one)| delete::is_due(one, now_ms, wait));
            due.map(|(id, _)| id).collect()
        });
        for stream_id in due {
            // An upload that began before the deletion puts its object; then it is deleted, too.
            if self.uploading.contains(&stream_id) || !self.deleting.insert(stream_id) {
                continue;
            }
            let deleter = Arc::clone(&self.deleter);
            self.deletions.spawn(async move {
                deleter.delete(stream_id).await;
                stream_id
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_goes_and_comes_is_news_once_each_and_a_failed_attempt_is_told_first() {
        let trouble = Trouble::default();
        let away = |text: &str| trouble.is_away(Some(text.to_owned()));
        assert!(!trouble.is_away(None));
        assert!(away("refused"));
        assert!(!away("timed out"));
        assert_eq!(trouble.text(), "timed out");
        trouble.is("denied".to_owned());
        assert_eq!(trouble.text(), "denied");
        assert!(trouble.is_away(None));
        assert_eq!(trouble.text(), "denied", "a store that answers may still refuse chunks");
        assert!(away("refused"));
        trouble.is_over();
        assert_eq!(trouble.text(), "");
    }

    #[test]
    fn a_failure_of_one_kind_is_told_once_a_minute() {
        let trouble = Trouble::default();
        let begin = Instant::now();
        let told = |failure, after| trouble.is_news(failure, begin + after);
        let second = Duration::from_secs(1);
        assert!(told(UploadFailure::Store, Duration::ZERO));
        assert!(!told(UploadFailure::Store, TELL_AGAIN_AFTER - second));
        assert!(told(UploadFailure::Store, TELL_AGAIN_AFTER));
        assert!(told(UploadFailure::Timeout, TELL_AGAIN_AFTER));
        assert!(told(UploadFailure::Store, TELL_AGAIN_AFTER + second));
    }
}

//! One stream's open seals → chunks in the object store, in offset order.
//!
//! Build in memory, decrypt and compare, put under a name that was never used, read the head back,
//! then `ChunkCommitted`. A process that ends between any two of these leaves at most an object
//! that nothing refers to; the intent is still open, and the next attempt has a new name.

use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::pb::stored::v1::{self as stored, OpenSeal};
use pyramid_protocol::{Batch, Entropy, Offset, StreamId};
use pyramid_storage::StreamKey;
use pyramid_storage::chunk::{self, Identity, SealedChunk};
use pyramid_storage::cluster_file::{self, ClusterFile};
use pyramid_storage::key_object::KeyObject;
use pyramid_storage::object_store::{self, Condition, probe};
use pyramid_telemetry::logs;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::appender::{AppenderHandle, Failure};
use crate::chunks::Chunks;
use crate::live;
use crate::metrics::{Metrics, UploadFailure};
use crate::shipper::Trouble;
use crate::state::{ControlOutcome, ControlRefused, Stream};
use crate::view::View;
use crate::wal::Wal;

/// The first wait after a failure, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// An attempt that takes longer is given up and begun anew: a call of the store that never ends would
/// hold its slot for ever.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(300);

/// How often the object store is asked whether it is there. Each question is two cheap calls.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Bytes of batches that are read from the log at once.
const READ_BYTES_MAX: usize = 4 << 20;

pub(super) struct Uploader {
    pub(super) view: Arc<View>,
    pub(super) wal: Wal,
    pub(super) appender: AppenderHandle,
    pub(super) chunks: Chunks,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) metrics: Arc<Metrics>,
    /// Bounds the memory that uploads take together.
    pub(super) slots: Semaphore,
    pub(super) trouble: Trouble,
    /// `cluster.json` was seen to be ours.
    pub(super) founded: OnceCell<()>,
}

/// Why an attempt failed. All are tried again, after a wait.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("read the records to seal")]
    Read(#[source] live::Error),
    #[error("open the stream's key; is this the KEK file of this cluster?")]
    Key(#[source] pyramid_storage::keys::UnwrapError),
    #[error("seal a chunk")]
    Seal(#[source] chunk::SealError),
    #[error("verify a chunk")]
    Damaged(#[source] pyramid_storage::Damaged),
    #[error("store an object")]
    Store(#[source] object_store::Error),
    #[error("write cluster.json")]
    ClusterFile(#[source] cluster_file::Error),
    #[error(
        "the object store has no cluster.json although chunks were shipped: it is not the one that \
         holds them; mount or restore that one"
    )]
    OtherStore,
    #[error("the object store did not answer for {ATTEMPT_TIMEOUT:?}")]
    Timeout,
    #[error("tell the log")]
    Log(#[source] Failure),
    #[error("the log refused what was stored: {0:?}")]
    Refused(ControlRefused),
}

impl Error {
    fn label(&self) -> UploadFailure {
        match self {
            Self::Read(_) => UploadFailure::Read,
            Self::Key(_) => UploadFailure::Key,
            Self::Seal(_) | Self::Damaged(_) => UploadFailure::Chunk,
            Self::Store(_) | Self::ClusterFile(_) => UploadFailure::Store,
            Self::OtherStore => UploadFailure::OtherStore,
            Self::Timeout => UploadFailure::Timeout,
            Self::Log(_) | Self::Refused(_) => UploadFailure::Log,
        }
    }

    /// How long the object store asks to be left alone.
    fn wait(&self) -> Option<Duration> {
        match self {
            Self::Store(error) | Self::ClusterFile(cluster_file::Error::Store(error)) => {
                error.wait()
            }
            Self::Read(_)
            | Self::Key(_)
            | Self::Seal(_)
            | Self::Damaged(_)
            | Self::ClusterFile(cluster_file::Error::Foreign { .. })
            | Self::OtherStore
            | Self::Timeout
            | Self::Log(_)
            | Self::Refused(_) => None,
        }
    }
}

/// One line for people; nothing else says why chunks stay in the log.
fn tell(stream_id: StreamId, error: &Error, wait: Duration) {
    let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let (stream, causes) = (stream_id.get(), logs::causes(error));
    if matches!(error, Error::Store(object_store::Error::Refused { .. }) | Error::OtherStore) {
        tracing::error!(
            stream,
            error = causes,
            retry_ms,
            "a chunk was not shipped, until somebody mends this; tried again meanwhile"
        );
    } else {
        tracing::warn!(
            stream,
            error = causes,
            retry_ms,
            "a chunk was not shipped; tried again, and told once a minute"
        );
    }
}

enum Attempt {
    /// Look for the next seal.
    Done,
    /// The stream is deleted, or all is shipped.
    Nothing,
}

impl Uploader {
    /// Asks the object store at the start and again and again, so that wrong settings and a store
    /// that is away are told before a chunk has to wait. Nothing waits for the answer: appends need
    /// no object store.
    pub(super) async fn watch_store(self: Arc<Self>) {
        let below = self.chunks.names.root_prefix();
        loop {
            let away = probe(&*self.chunks.store, below.trim_end_matches('/')).await.err();
            let away = away.map(|error| logs::causes(&error));
            let is_news = self.trouble.is_away(away.clone());
            match away {
                Some(error) if is_news => tracing::error!(
                    error,
                    "the object store cannot be used now; chunks wait in the write-ahead log"
                ),
                None if is_news => tracing::info!("the object store answers again"),
                Some(_) | None => {}
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// Ships all open seals of a stream. Returns early when this replica stops leading.
    pub(super) async fn ship(&self, stream_id: StreamId) {
        let mut backoff = BACKOFF_MIN;
        while self.appender.log_time_ms().is_some() {
            match self.ship_first(stream_id).await {
                Ok(Attempt::Done) => {
                    self.trouble.is_over();
                    backoff = BACKOFF_MIN;
                }
                Ok(Attempt::Nothing) => return,
                Err(error) => {
                    self.trouble.is(logs::causes(&error));
                    self.metrics.upload_failures.inc(error.label());
                    // Jitter shortens a wait, and never the one that the store asks for.
                    let wait = self.jitter(backoff).max(error.wait().unwrap_or_default());
                    if self.trouble.is_news(error.label(), Instant::now()) {
                        tell(stream_id, &error, wait);
                    }
                    sleep(wait).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// From half of `wait` to all of it, so that failing uploads do not come back all at once.
    fn jitter(&self, wait: Duration) -> Duration {
        let per_mille = u32::try_from(self.entropy.u64() % 501).unwrap_or(500);
        wait * (500 + per_mille) / 1000
    }

    async fn ship_first(&self, stream_id: StreamId) -> Result<Attempt, Error> {
        // Closed never: the semaphore lives as long as the uploader.
        let Ok(_slot) = self.slots.acquire().await else { return Ok(Attempt::Nothing) };
        timeout(ATTEMPT_TIMEOUT, self.attempt(stream_id)).await.unwrap_or(Err(Error::Timeout))
    }

    async fn attempt(&self, stream_id: StreamId) -> Result<Attempt, Error> {
        // Looked at only now: the stream may be deleted by the time there is a slot.
        let found = self.view.read(|state, _| {
            let stream = state.stream(stream_id)?;
            Some((Arc::clone(stream), stream.open_seals.first().copied()?, state.epoch()))
        });
        let Some((stream, seal, epoch)) = found else { return Ok(Attempt::Nothing) };
        self.metrics.uploads.inc();
        let began = Instant::now();

        self.founded.get_or_try_init(|| self.found()).await?;
        let key = self.chunks.stream_key(&stream).map_err(Error::Key)?;
        if stream.key_object_r.is_none() {
            self.store_key(&stream, &key).await?;
        }
        let Some(batches) = self.batches(stream_id, seal).await? else {
            return Ok(Attempt::Done);
        };
        let sealed = self.build(&stream, seal, epoch, key, batches).await?;
        self.put(&sealed).await?;
        let attempt = self.commit(stream_id, seal, &sealed).await?;
        self.metrics.upload_latency.observe(began.elapsed());
        Ok(attempt)
    }

    /// The first object below this cluster's prefix; another one's is never overwritten.
    async fn found(&self) -> Result<(), Error> {
        let (store, names) = (&*self.chunks.store, &self.chunks.names);
        // A key object is stored after cluster.json: a store without it is not the one that holds
        // the chunks so far, and must not be taken for it.
        let has_shipped =
            self.view.read(|state, _| state.streams().any(|stream| stream.key_object_r.is_some()));
        if has_shipped {
            return match cluster_file::read(store, names).await {
                Ok(_) => Ok(()),
                Err(cluster_file::Error::Store(object_store::Error::NotFound { .. })) => {
                    Err(Error::OtherStore)
                }
                Err(error) => Err(Error::ClusterFile(error)),
            };
        }
        let mut incarnation = [0; 16];
        self.entropy.fill(&mut incarnation);
        let epoch = self.view.read(|state, _| state.epoch());
        let file = ClusterFile { cluster_id: names.cluster_id(), epoch, incarnation };
        match cluster_file::create(store, names, &file).await {
            Ok(_) => Ok(()),
            // It was there, or is our own of an attempt whose answer was lost.
            Err(cluster_file::Error::Store(object_store::Error::ConditionFailed { .. })) => {
                cluster_file::read(store, names).await.map(|_| ()).map_err(Error::ClusterFile)
            }
            Err(error) => Err(Error::ClusterFile(error)),
        }
    }

    async fn store_key(&self, stream: &Stream, key: &StreamKey) -> Result<(), Error> {
        let Chunks { store, names, keks, url_life: _ } = &self.chunks;
        let object = KeyObject {
            stream_id: stream.id,
            name: stream.name.to_string(),
            key: key.clone(),
            settings: Some(stream.settings),
        };
        let bytes = object.seal(names.cluster_id(), keks, &*self.entropy);
        let r = self.entropy.u64();
        let put = store.put(&names.key_object(stream.id, r), bytes, Condition::Absent).await;
        put.map_err(Error::Store)?;
        let command =
            Command::StreamKeyStored(stored::StreamKeyStored { stream_id: stream.id.get(), r });
        match self.command(command).await {
            // Deleted meanwhile: the next look finds nothing.
            Ok(()) | Err(Error::Refused(ControlRefused::NotFound)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `None` if the range is not live any more: somebody else has shipped or deleted it.
    async fn batches(
        &self,
        stream_id: StreamId,
        seal: OpenSeal,
    ) -> Result<Option<Vec<Batch>>, Error> {
        let (mut from, end) = (Offset::new(seal.base_offset), Offset::new(seal.next_offset));
        let mut batches = Vec::new();
        while from < end {
            let read = live::read(&self.view, &self.wal, stream_id, from, end, READ_BYTES_MAX);
            match read.await {
                Ok(read) => {
                    let Some(last) = read.last() else { return Ok(None) };
                    from = last.next_offset();
                    batches.extend(read);
                }
                Err(live::Error::Moved) => return Ok(None),
                Err(error) => return Err(Error::Read(error)),
            }
        }
        Ok(Some(batches))
    }

    /// Seals, then opens again and compares, on a thread that may block.
    async fn build(
        &self,
        stream: &Stream,
        seal: OpenSeal,
        epoch: u32,
        stream_key: StreamKey,
        batches: Vec<Batch>,
    ) -> Result<SealedChunk, Error> {
        let (names, entropy) = (self.chunks.names.clone(), Arc::clone(&self.entropy));
        let (stream_id, digest_before) = (stream.id, stream.last_digest);
        let built = tokio::task::spawn_blocking(move || {
            let identity = Identity {
                names: &names,
                epoch,
                stream_id,
                intent: seal.intent,
                generation: 0,
                stream_key: &stream_key,
                digest_before,
            };
            let sealed =
                chunk::seal(&identity, batches.iter().cloned(), &*entropy).map_err(Error::Seal)?;
            sealed.verify(&identity, batches).map_err(Error::Damaged)?;
            Ok(sealed)
        });
        // A blocking task is lost only by a panic, which ends the process.
        built.await.expect("sealing does not panic")
    }

    async fn put(&self, sealed: &SealedChunk) -> Result<(), Error> {
        let store = &self.chunks.store;
        store
            .put(sealed.key(), sealed.bytes().clone(), Condition::Absent)
            .await
            .map_err(Error::Store)?;
        let head = store.get(sealed.key(), 0..sealed.head_len()).await.map_err(Error::Store)?;
        sealed.verify_read_back(&head.bytes, head.total_len).map_err(Error::Damaged)
    }

    async fn commit(
        &self,
        stream_id: StreamId,
        seal: OpenSeal,
        sealed: &SealedChunk,
    ) -> Result<Attempt, Error> {
        let chunk = sealed.chunk_ref().clone();
        let total_len = chunk.total_len;
        let command = Command::ChunkCommitted(stored::ChunkCommitted {
            stream_id: stream_id.get(),
            intent: seal.intent,
            chunk: Some(chunk),
            digest_before: sealed.digest_before().to_vec().into(),
            digest_after: sealed.digest_after().to_vec().into(),
        });
        match self.command(command).await {
            Ok(()) => {
                self.metrics.shipped(sealed.chunk_ref().plain_bytes, total_len);
                tracing::debug!(
                    stream = %stream_id,
                    base = seal.base_offset,
                    next = seal.next_offset,
                    total_len,
                    "shipped a chunk"
                );
                Ok(Attempt::Done)
            }
            // Another leader was faster, or the stream is deleted: the object is an orphan.
            Err(Error::Refused(ControlRefused::IntentClosed | ControlRefused::NotFound)) => {
                Ok(Attempt::Done)
            }
            Err(error) => Err(error),
        }
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        let (_, applied) = self.appender.command(command).await.map_err(Error::Log)?;
        if let Some(ControlOutcome::Refused(refused)) = &applied.control {
            return Err(Error::Refused(refused.clone()));
        }
        Ok(())
    }
}

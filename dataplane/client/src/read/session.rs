//! The loop of a read: one call of `Read` after the other, until it has an end.

use std::time::Duration;

use futures::FutureExt;
use pyramid_protocol::pb::v1::read_response::Item as PbItem;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Batch, Offset};
use pyramid_storage::chunk::ReadError;
use pyramid_storage::object_store;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use crate::backoff::Backoff;
use crate::budget::{OpenChunk, Share};
use crate::connection::{Client, RETRY, Writer, wait};
use crate::read::chunk::{self, ChunkBatches};
use crate::read::progress::{Admitted, Broken, Progress};
use crate::read::{Batches, Error, Item, Options, Origin};

/// How long a replica may take to say where the read begins. The wait for `min_next_offset` comes
/// on top, so a read with one is not timed.
const START_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Session {
    client: Client,
    progress: Progress,
    /// What this reader holds.
    share: Share,
    items: mpsc::Sender<Result<Item, Error>>,
    backoff: Backoff,
    /// Since when nothing has worked.
    failing_since: Option<Instant>,
    /// Chunks that could not be opened since something worked.
    chunk_failures: u32,
}

/// As often a chunk is tried before the Writer reads it instead, for a reader that falls back.
const CHUNK_FAILURES_MAX: u32 = 3;

/// The messages of one call, and what was taken from them before its turn.
struct Ahead {
    messages: Streaming<pb::ReadResponse>,
    /// The next chunk, on its way already.
    chunk: Option<(pb::ChunkLocation, ChunkBatches)>,
    /// The next message, if it is anything else.
    passed: Option<Result<Option<PbItem>, tonic::Status>>,
}

/// Why one call of `Read` has ended.
enum End {
    /// The whole read has ended, or nobody wants it any more.
    Finished,
    /// Ask again for what comes next: the offset is elsewhere now, or the place that was told is not
    /// good any more.
    Moved(String),
    /// Ask again; the Writer reads chunks from now on.
    FellBack,
    /// Ask again, after a wait.
    Lost(Refusal),
    /// Asking again would not help.
    Refused(Refusal),
}

/// Lets `?` end a call.
type Step<T> = Result<T, End>;

impl Session {
    pub(crate) fn new(
        client: Client,
        options: Options,
        items: mpsc::Sender<Result<Item, Error>>,
    ) -> Self {
        let share = options.budget.share();
        let progress = Progress::new(options);
        Self {
            client,
            progress,
            share,
            items,
            backoff: RETRY,
            failing_since: None,
            chunk_failures: 0,
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let before = self.progress.reached();
            let writer = self.client.writer();
            let Err(end) = self.call(&writer).await;
            let refusal = match end {
                End::Finished => return,
                End::FellBack => continue,
                End::Moved(_) if self.progress.reached() != before => continue,
                // A Writer that sends a reader in a circle is asked slowly.
                End::Moved(how) => Refusal::unknown(Reason::Unavailable, how),
                End::Lost(refusal) => refusal,
                End::Refused(refusal) => {
                    // A reader that is gone does not want to know.
                    drop(self.items.send(Err(Error::Refused(Box::new(refusal)))).await);
                    return;
                }
            };
            writer.failed(&refusal);
            let since = *self.failing_since.get_or_insert_with(Instant::now);
            let limit = self.progress.options().give_up_after;
            if limit.is_some_and(|limit| since.elapsed() >= limit) {
                let last = refusal.message;
                drop(self.items.send(Err(Error::NoAnswer { last })).await);
                return;
            }
            if self.deliver(Item::Interrupted(refusal.message.clone())).await.is_err() {
                return;
            }
            sleep(wait(&refusal, &mut self.backoff, self.client.entropy())).await;
        }
    }

    /// One call of `Read`. Comes back only with its end.
    async fn call(&mut self, writer: &Writer) -> Step<std::convert::Infallible> {
        let request = self.progress.request();
        let timed = request.min_next_offset.is_none();
        let mut calls = writer.calls();
        let opening = async {
            let mut messages = calls.read(request).await?.into_inner();
            let first = next(&mut messages).await?;
            Ok::<_, tonic::Status>((first, messages))
        };
        let opened = if timed {
            timeout(START_TIMEOUT, opening).await.map_err(|_elapsed| lost("no answer in time"))?
        } else {
            opening.await
        };
        let (first, messages) = opened.map_err(|status| of_refusal(from_status(&status)))?;
        let mut messages = Ahead { messages, chunk: None, passed: None };
        self.item(first, &mut messages).await?;
        loop {
            if let Some((location, chunk)) = messages.chunk.take() {
                self.chunk(location, chunk, &mut messages).await?;
                continue;
            }
            let item = match messages.passed.take() {
                Some(item) => item,
                None => next(&mut messages.messages).await,
            };
            let item = item.map_err(|status| of_refusal(from_status(&status)))?;
            self.item(item, &mut messages).await?;
        }
    }

    async fn item(&mut self, item: Option<PbItem>, messages: &mut Ahead) -> Step<()> {
        match item {
            Some(PbItem::Start(start)) => {
                let (first_offset, next_offset) = (start.first_offset, start.next_offset);
                let position = self.progress.started(start).map_err(broken)?;
                self.deliver(Item::Started {
                    position,
                    first_offset: Offset::new(first_offset),
                    next_offset: Offset::new(next_offset),
                })
                .await
            }
            Some(PbItem::Batches(pb::ReadBatches { batches })) => {
                if batches.is_empty() {
                    return Err(broken(Broken::Empty));
                }
                let bytes = batches.iter().map(bytes::Bytes::len).sum();
                let batches = batches
                    .into_iter()
                    .map(Batch::decode)
                    .collect::<Result<_, _>>()
                    .map_err(|error| broken(error.into()))?;
                let held = self.share.hold(bytes).await;
                self.batches(Batches { batches, held, origin: Origin::Writer }).await
            }
            Some(PbItem::Chunk(location)) => {
                let open = self.progress.options().budget.open_chunk().await;
                let chunk = self.open(&location, open)?;
                self.chunk(location, chunk, messages).await
            }
            Some(PbItem::CaughtUp(pb::CaughtUp { next_offset })) => {
                let next_offset = Offset::new(next_offset);
                self.progress.expect(next_offset).map_err(broken)?;
                self.worked();
                self.deliver(Item::CaughtUp(next_offset)).await?;
                if self.progress.options().follow { Ok(()) } else { Err(End::Finished) }
            }
            Some(PbItem::Moved(pb::Moved { offset })) => {
                self.progress.expect(Offset::new(offset)).map_err(broken)?;
                Err(End::Moved("the offset has moved twice".to_owned()))
            }
            Some(PbItem::Refused(refusal)) => Err(of_refusal(refusal)),
            // A read with limits ends so when they are used up.
            None if self.progress.has_limits() && self.progress.has_delivered() => {
                Err(End::Finished)
            }
            None => Err(lost("the Writer ended the read")),
        }
    }

    /// Takes and delivers batches that must be the next ones.
    async fn batches(&mut self, batches: Batches) -> Step<()> {
        let Batches { batches, held, origin } = batches;
        let mut admitted = Vec::with_capacity(batches.len());
        let mut over = false;
        for batch in batches {
            match self.progress.admit(batch) {
                Ok(Admitted::Batch(batch)) => admitted.push(batch),
                Ok(Admitted::OverLimit) => {
                    over = true;
                    break;
                }
                // What came before it is good.
                Err(error) => {
                    if !admitted.is_empty() {
                        let batches = Batches { batches: admitted, held, origin };
                        self.deliver(Item::Batches(batches)).await?;
                    }
                    return Err(broken(error));
                }
            }
        }
        if !admitted.is_empty() {
            self.worked();
            self.deliver(Item::Batches(Batches { batches: admitted, held, origin })).await?;
        }
        if over || self.progress.is_done() { Err(End::Finished) } else { Ok(()) }
    }

    /// Begins to read a chunk from where the read is, or from its front.
    fn open(&self, location: &pb::ChunkLocation, open: OpenChunk) -> Step<ChunkBatches> {
        let reached = self.progress.reached().ok_or(broken(Broken::NotStarted))?;
        let Some(fetcher) = &self.progress.options().fetcher else {
            return Err(lost("the Writer sent the place of a chunk that was not asked for"));
        };
        Ok(ChunkBatches::open(fetcher, location.clone(), reached.offset, open))
    }

    /// Reads one chunk to its end, and begins meanwhile with the one behind it.
    async fn chunk(
        &mut self,
        location: pb::ChunkLocation,
        mut chunk: ChunkBatches,
        messages: &mut Ahead,
    ) -> Step<()> {
        let end = Offset::new(location.next_offset);
        loop {
            self.look_ahead(end, messages)?;
            match chunk.next(&self.share).await {
                Ok(Some(batches)) => self.batches(batches).await?,
                Ok(None) => return self.progress.expect(end).map_err(broken),
                Err(error) => return Err(self.chunk_failed(&error)),
            }
        }
    }

    /// A chunk cannot be read on: asks for it again, or leaves it to the Writer.
    fn chunk_failed(&mut self, error: &chunk::Error) -> End {
        self.chunk_failures += 1;
        let is_over = error.is_refused() || self.chunk_failures >= CHUNK_FAILURES_MAX;
        if is_over && self.progress.options().falls_back {
            self.progress.leave_chunks_to_the_writer();
            return End::FellBack;
        }
        of_chunk(error)
    }

    /// Opens the chunk behind the one that ends at `end`, if the Writer has told its place already
    /// and one more may be open: the object store takes a while until the first bytes come.
    fn look_ahead(&self, end: Offset, ahead: &mut Ahead) -> Step<()> {
        if ahead.chunk.is_some() || ahead.passed.is_some() {
            return Ok(());
        }
        let Some(open) = self.progress.options().budget.open_chunk_ahead() else { return Ok(()) };
        let Some(item) = next(&mut ahead.messages).now_or_never() else { return Ok(()) };
        match item {
            Ok(Some(PbItem::Chunk(location))) if location.base_offset == end.get() => {
                let chunk = self.open(&location, open)?;
                ahead.chunk = Some((location, chunk));
            }
            other => ahead.passed = Some(other),
        }
        Ok(())
    }

    /// Something came: the connection is good.
    fn worked(&mut self) {
        self.backoff.reset();
        self.failing_since = None;
        self.chunk_failures = 0;
    }

    async fn deliver(&self, item: Item) -> Step<()> {
        self.items.send(Ok(item)).await.map_err(|_gone| End::Finished)
    }
}

async fn next(messages: &mut Streaming<pb::ReadResponse>) -> Result<Option<PbItem>, tonic::Status> {
    match messages.message().await? {
        Some(pb::ReadResponse { item: Some(item) }) => Ok(Some(item)),
        Some(pb::ReadResponse { item: None }) => {
            Err(tonic::Status::unknown("the Writer sent an empty item"))
        }
        None => Ok(None),
    }
}

fn from_status(status: &tonic::Status) -> Refusal {
    Refusal::from_status(status)
}

fn of_refusal(refusal: Refusal) -> End {
    if refusal.retry { End::Lost(refusal) } else { End::Refused(refusal) }
}

fn lost(message: &str) -> End {
    End::Lost(Refusal::unknown(Reason::Unavailable, message))
}

/// What broke the rules is not used; another connection may do better.
#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
fn broken(error: Broken) -> End {
    End::Lost(Refusal::unknown(Reason::Unavailable, error.to_string()))
}

/// A location that is too old is asked for again, at once if the read has come on since it was told.
/// So is one whose bytes were damaged on their way. What is damaged in the store stays damaged, and
/// is told at each try.
fn of_chunk(error: &chunk::Error) -> End {
    let chunk::Error::Read(ReadError::Store(store)) = error else {
        return End::Lost(Refusal::unknown(Reason::Damaged, error.to_string()));
    };
    if let object_store::Error::Expired { reason, .. } = store {
        return End::Moved(format!(
            "a location was refused as soon as it was told: {reason}; look at the Writer's right \
             s3:GetObject, at keys that were replaced, and at the clocks of Writer and object store"
        ));
    }
    let wait = store.wait().unwrap_or_default().as_millis();
    End::Lost(Refusal {
        retry_after_ms: u32::try_from(wait).unwrap_or(u32::MAX),
        ..Refusal::unknown(Reason::Damaged, store.to_string())
    })
}

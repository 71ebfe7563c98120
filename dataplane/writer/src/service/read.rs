//! `Writer.Read`: chunks first, then live batches, then what is appended.
//!
//! One position walks through the stream; what comes next is decided anew at each step from the
//! applied state. So nothing is lost or sent twice when a range moves from the log to the object
//! store in the middle of a read.

use std::sync::Arc;

use futures::{Stream, stream};
use pyramid_protocol::limits::LOCATIONS_PER_READ_MAX;
use pyramid_protocol::pb::stored::v1::ChunkRef;
use pyramid_protocol::pb::v1::read_request::Start;
use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal, read_response::Item};
use pyramid_protocol::{Batch, Offset, Position, StreamId, StreamName};
use pyramid_storage::chunk::{ChunkReader, ReadError, Start as ChunkStart};
use pyramid_storage::object_store;
use pyramid_telemetry::logs;
use tokio::sync::watch;
use tonic::Status;

use super::answer;
use super::streams::{leaders_word, parse_name, present, resolve, wait_for};
use crate::live;
use crate::member::Member;
use crate::metrics::{Call, SentFrom};
use crate::rights::{Caller, Right};
use crate::state::{State, Stream as StreamState};
use crate::view::Subscription;

/// Bytes of batches in one item; a larger batch goes alone.
const ITEM_BYTES_MAX: usize = 1 << 20;

/// The same for the first items; later ones grow with what was taken before. A connection takes
/// some items also for a reader that takes nothing: so thousands of such readers hold little.
const FIRST_ITEM_BYTES_MAX: usize = 16 << 10;

/// The items of one read, to its end.
pub(super) fn items(
    member: Arc<Member>,
    caller: Caller,
    request: pb::ReadRequest,
) -> impl Stream<Item = Result<pb::ReadResponse, Status>> {
    let (shutdown, metrics) = (member.shutdown.clone(), Arc::clone(&member.metrics));
    let walk = Walk::Begins(member, caller, request);
    stream::unfold((walk, shutdown, metrics), |(walk, shutdown, metrics)| async move {
        // Without a word, a reader could take the end of the process for the end of the stream.
        let (item, walk) = tokio::select! {
            biased;
            next = walk.next() => next?,
            () = shutdown.cancelled() => (Item::Refused(answer::stops()), Walk::Ended),
        };
        if let Item::Refused(refusal) = &item {
            metrics.refused(Call::Read, refusal);
        }
        Some((Ok(pb::ReadResponse { item: Some(item) }), (walk, shutdown, metrics)))
    })
}

enum Walk {
    Begins(Arc<Member>, Caller, pb::ReadRequest),
    Goes(Box<Reader>),
    Ended,
}

impl Walk {
    async fn next(self) -> Option<(Item, Self)> {
        match self {
            Self::Begins(member, caller, request) => match begin(member, caller, request).await {
                Ok((start, reader)) => Some((Item::Start(start), Self::Goes(Box::new(reader)))),
                Err(refusal) => Some((Item::Refused(refusal), Self::Ended)),
            },
            Self::Goes(mut reader) => match reader.next().await {
                Ok(Some(item @ Item::Moved(_))) => Some((item, Self::Ended)),
                Ok(Some(item)) => Some((item, Self::Goes(reader))),
                Ok(None) => None,
                Err(refusal) => Some((Item::Refused(refusal), Self::Ended)),
            },
            Self::Ended => None,
        }
    }
}

struct Reader {
    member: Arc<Member>,
    caller: Caller,
    /// Moves when the right to read may have been taken.
    configuration: watch::Receiver<u64>,
    name: StreamName,
    stream_id: StreamId,
    /// All before it is sent.
    position: Offset,
    follow: bool,
    want_locations: bool,
    left: Left,
    /// Bytes of all batches so far.
    sent_bytes: u64,
    locations_sent: usize,
    caught_up: bool,
    subscription: Subscription,
    /// A chunk that the Writer reads for the caller.
    chunk: Option<ChunkReader>,
    /// Where a chunk did not verify at the first try.
    damaged_at: Option<Offset>,
}

/// What may still be sent. The first batch is always sent.
struct Left {
    records: Option<u64>,
    bytes: Option<u64>,
    untouched: bool,
}

/// What comes next.
enum Step {
    Chunk(Arc<StreamState>, ChunkRef),
    Live { end: Offset },
    CaughtUp { next: Offset },
}

async fn begin(
    member: Arc<Member>,
    caller: Caller,
    request: pb::ReadRequest,
) -> Result<(pb::ReadStart, Reader), Refusal> {
    let name = parse_name(&request.stream)?;
    leaders_word(&member).await?;
    let configuration = member.view.configuration();
    let stream = resolve(&member, &caller, Right::Read, &name, request.stream_id)?;
    wait_for(&member, stream.id, request.min_next_offset).await?;
    let subscription = member.view.subscribe([stream.id].into());
    let (stream, epoch) = member.view.read(|state, _| {
        let stream = present(state, &caller, name.as_str(), stream.id)?;
        caller.check(Right::Read, stream, state)?;
        Ok::<_, Refusal>((Arc::clone(stream), state.epoch()))
    })?;
    let position = start(&member, &caller, &stream, epoch, &request).await?;
    let start = pb::ReadStart {
        position: Some(Position { stream_id: stream.id, epoch, offset: position }.into()),
        first_offset: stream.first.get(),
        next_offset: stream.next.get(),
    };
    let limit = |limit: u64| (limit > 0).then_some(limit);
    let left = Left {
        records: limit(request.max_records),
        bytes: limit(request.max_bytes),
        untouched: true,
    };
    let reader = Reader {
        stream_id: stream.id,
        name,
        position,
        follow: request.follow,
        want_locations: request.want_locations,
        left,
        sent_bytes: 0,
        locations_sent: 0,
        caught_up: false,
        subscription,
        chunk: None,
        damaged_at: None,
        configuration,
        caller,
        member,
    };
    Ok((start, reader))
}

async fn start(
    member: &Member,
    caller: &Caller,
    stream: &StreamState,
    epoch: u32,
    request: &pb::ReadRequest,
) -> Result<Offset, Refusal> {
    match request.start {
        Some(Start::Offset(offset)) => {
            let offset = Offset::new(offset);
            check_epoch(stream, epoch, request.epoch, offset)?;
            check_range(stream, offset)?;
            Ok(offset)
        }
        Some(Start::LastRecords(count)) => {
            let from = stream.next.get().saturating_sub(count).max(stream.first.get());
            Ok(Offset::new(from))
        }
        Some(Start::TimeMs(time_ms)) => since(member, caller, stream, time_ms).await,
        None => Ok(stream.first),
    }
}

/// A position of an older epoch is good up to the smallest safe offset recorded since.
fn check_epoch(
    stream: &StreamState,
    epoch: u32,
    of_position: Option<u32>,
    offset: Offset,
) -> Result<(), Refusal> {
    let Some(of_position) = of_position else { return Ok(()) };
    if of_position > epoch {
        return Err(Refusal::new(
            Reason::Unavailable,
            format!("this replica is at epoch {epoch} and has not seen {of_position} yet; retry"),
        ));
    }
    match stream.safe_since(of_position) {
        Some(safe) if offset > safe => Err(Refusal::new(
            Reason::EpochChanged,
            format!(
                "the Writer was recovered; offsets of epoch {of_position} are good up to {safe}"
            ),
        )
        .with_detail(Detail::SafeOffset(safe.get()))),
        Some(_) | None => Ok(()),
    }
}

fn check_range(stream: &StreamState, offset: Offset) -> Result<(), Refusal> {
    if offset < stream.first {
        return Err(trimmed(stream, offset));
    }
    if offset > stream.next {
        return Err(Refusal::new(
            Reason::BeyondNext,
            format!("the stream ends at {}, below offset {offset}", stream.next),
        )
        .with_detail(Detail::NextOffset(stream.next.get())));
    }
    Ok(())
}

fn trimmed(stream: &StreamState, offset: Offset) -> Refusal {
    Refusal::new(
        Reason::Trimmed,
        format!("offset {offset} is trimmed; the first kept record is {}", stream.first),
    )
    .with_detail(Detail::FirstOffset(stream.first.get()))
}

/// The first batch appended at or after a log time; the end if there is none.
async fn since(
    member: &Member,
    caller: &Caller,
    stream: &StreamState,
    time_ms: u64,
) -> Result<Offset, Refusal> {
    // Both places in one look: in between, a range could go from the one to the other unseen.
    let found = member.view.read(|state, live| {
        let stream = present(state, caller, stream.name.as_str(), stream.id)?;
        let in_chunk = stream.chunks.from(stream.first).find(|c| c.last_time_ms >= time_ms);
        let in_chunk = in_chunk.cloned();
        Ok::<_, Refusal>((Arc::clone(stream), in_chunk, live.batch_since(stream.id, time_ms)))
    });
    let (stream, in_chunk, in_log) = found?;
    let base = match in_chunk {
        Some(chunk) => {
            let start = ChunkStart::Time(time_ms);
            let mut reader = open(member, &stream, chunk, start)?;
            let batches = reader.next().await.map_err(|error| chunk_refusal(&error))?;
            batches.and_then(|batches| batches.first().map(|batch| batch.base_offset))
        }
        None => in_log.map(|batch| batch.base),
    };
    Ok(base.unwrap_or(stream.next).max(stream.first))
}

fn open(
    member: &Member,
    stream: &StreamState,
    chunk: ChunkRef,
    start: ChunkStart,
) -> Result<ChunkReader, Refusal> {
    member.chunks.read(stream, chunk, start).map_err(|error| {
        tracing::error!(
            stream = %stream.id,
            error = logs::causes(&error),
            "a chunk cannot be opened"
        );
        Refusal::new(Reason::Unavailable, "the stream's key cannot be opened; see the Writer's log")
    })
}

fn chunk_refusal(error: &ReadError) -> Refusal {
    match error {
        ReadError::Damaged(damaged) => {
            tracing::error!(%damaged, "a stored chunk does not verify");
            Refusal::new(
                Reason::Damaged,
                format!("{damaged}; nothing of it is returned, restore the object"),
            )
        }
        // State refers to it, so it was there.
        ReadError::Store(object_store::Error::NotFound { key }) => {
            tracing::error!(key, "a stored chunk is missing");
            Refusal::new(
                Reason::Damaged,
                format!("{key} is missing from the object store; restore the object"),
            )
        }
        ReadError::Store(store) => {
            tracing::warn!(error = logs::causes(store), "a chunk cannot be read now");
            Refusal::new(Reason::Unavailable, "the object store does not deliver; retry")
        }
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Item>, Refusal> {
        loop {
            self.check_right()?;
            if self.left.is_used_up() {
                return Ok(None);
            }
            if let Some(batches) = self.read_chunk_on().await? {
                if let Some(item) = self.send(SentFrom::Chunk, batches)? {
                    return Ok(Some(item));
                }
                continue;
            }
            match self.member.view.read(|state, _| self.step(state))? {
                Step::Chunk(stream, chunk) if self.want_locations => {
                    let located = self.locate(&stream, &chunk).await?;
                    // The object store took its time; keys are not for who lost the right meanwhile.
                    self.check_right()?;
                    return Ok(Some(located));
                }
                Step::Chunk(stream, chunk) => {
                    let start = ChunkStart::Offset(self.position);
                    self.chunk = Some(open(&self.member, &stream, chunk, start)?);
                }
                Step::Live { end } => {
                    let batches = self.read_live(end).await?;
                    if let Some(item) = self.send(SentFrom::Live, batches)? {
                        return Ok(Some(item));
                    }
                }
                Step::CaughtUp { next } if !self.caught_up => {
                    self.caught_up = true;
                    return Ok(Some(Item::CaughtUp(pb::CaughtUp { next_offset: next.get() })));
                }
                Step::CaughtUp { .. } if self.follow => {
                    tokio::select! {
                        _ = self.subscription.changed() => {}
                        // The view lives as long as its reader.
                        _ = self.configuration.changed() => self.configuration.mark_changed(),
                    }
                }
                Step::CaughtUp { .. } => return Ok(None),
            }
        }
    }

    /// Looks again whether the caller may read, if anything was configured since the last look.
    fn check_right(&mut self) -> Result<(), Refusal> {
        if !self.configuration.has_changed().unwrap_or(false) {
            return Ok(());
        }
        self.configuration.mark_unchanged();
        self.member.view.read(|state, _| {
            let stream = present(state, &self.caller, self.name.as_str(), self.stream_id)?;
            self.caller.check(Right::Read, stream, state)
        })
    }

    fn step(&self, state: &State) -> Result<Step, Refusal> {
        let stream = present(state, &self.caller, self.name.as_str(), self.stream_id)?;
        if self.position < stream.first {
            return Err(trimmed(stream, self.position));
        }
        if self.position < stream.shipped {
            let chunk = stream.chunks.from(self.position).next();
            let chunk = chunk.expect("all below the shipped offset lies in chunks, without gaps");
            return Ok(Step::Chunk(Arc::clone(stream), chunk.clone()));
        }
        if self.position < stream.next {
            return Ok(Step::Live { end: stream.next });
        }
        Ok(Step::CaughtUp { next: stream.next })
    }

    async fn locate(&mut self, stream: &StreamState, chunk: &ChunkRef) -> Result<Item, Refusal> {
        if self.locations_sent == LOCATIONS_PER_READ_MAX {
            return Ok(Item::Moved(pb::Moved { offset: self.position.get() }));
        }
        let location = self.member.chunks.locate(stream, chunk).await.map_err(|error| {
            tracing::error!(
                stream = %stream.id,
                error = logs::causes(&error),
                "a chunk cannot be located"
            );
            Refusal::new(Reason::Unavailable, "the chunk cannot be located now; retry")
        })?;
        self.locations_sent += 1;
        self.member.metrics.locations.inc();
        let records = chunk.next_offset - self.position.get();
        self.left.take(records, chunk.plain_bytes);
        self.position = Offset::new(chunk.next_offset);
        Ok(Item::Chunk(location))
    }

    /// The next batches of the chunk that is being read; `None` when there is none, or no more.
    async fn read_chunk_on(&mut self) -> Result<Option<Vec<Batch>>, Refusal> {
        let Some(chunk) = &mut self.chunk else { return Ok(None) };
        let batches = match chunk.next().await {
            Ok(batches) => batches,
            // The bytes may have been changed on their way. What is damaged in the store is so again.
            Err(ReadError::Damaged(damaged)) if self.damaged_at != Some(self.position) => {
                tracing::warn!(%damaged, "a chunk did not verify and is read once more");
                self.damaged_at = Some(self.position);
                None
            }
            Err(error) => return Err(chunk_refusal(&error)),
        };
        if batches.is_none() {
            self.chunk = None;
        }
        Ok(batches)
    }

    async fn read_live(&self, end: Offset) -> Result<Vec<Batch>, Refusal> {
        let Member { view, wal, .. } = &*self.member;
        let bytes_max = usize::try_from(self.sent_bytes / 2).unwrap_or(ITEM_BYTES_MAX);
        let bytes_max = bytes_max.clamp(FIRST_ITEM_BYTES_MAX, ITEM_BYTES_MAX);
        let read = live::read(view, wal, self.stream_id, self.position, end, bytes_max);
        match read.await {
            Ok(batches) => Ok(batches),
            // Shipped in between: the next step finds the chunk.
            Err(live::Error::Moved) => Ok(Vec::new()),
            Err(error) => {
                tracing::error!(
                    stream = %self.stream_id,
                    error = logs::causes(&error),
                    "live records cannot be read"
                );
                Err(Refusal::new(
                    Reason::Unavailable,
                    "the log cannot be read; see its Writer's log",
                ))
            }
        }
    }

    /// Shortens the first batch to the position, keeps the limits, moves the position.
    fn send(&mut self, from: SentFrom, batches: Vec<Batch>) -> Result<Option<Item>, Refusal> {
        let mut encoded = Vec::with_capacity(batches.len());
        for batch in batches {
            if batch.next_offset() <= self.position {
                continue;
            }
            let batch = if batch.base_offset < self.position {
                batch.skip_to(self.position).map_err(|error| self.damaged(&error))?
            } else {
                batch.verify().map_err(|error| self.damaged(&error))?;
                batch
            };
            assert_eq!(batch.base_offset, self.position, "items of one read are contiguous");
            let bytes = u64::try_from(batch.encoded_len()).unwrap_or(u64::MAX);
            if !self.left.allows(u64::from(batch.record_count), bytes) {
                self.left.use_up();
                break;
            }
            self.left.take(u64::from(batch.record_count), bytes);
            self.sent_bytes = self.sent_bytes.saturating_add(bytes);
            self.position = batch.next_offset();
            encoded.push(batch.encode());
        }
        self.member.metrics.sent(from, encoded.iter().map(bytes::Bytes::len).sum());
        let batches = pb::ReadBatches { batches: encoded };
        Ok((!batches.batches.is_empty()).then_some(Item::Batches(batches)))
    }

    fn damaged(&self, error: &pyramid_protocol::batch::Error) -> Refusal {
        tracing::error!(stream = %self.stream_id, %error, "records do not match their checksum");
        Refusal::new(Reason::Damaged, error.to_string())
    }
}

impl Left {
    fn allows(&self, records: u64, bytes: u64) -> bool {
        self.untouched
            || (self.records.is_none_or(|left| records <= left)
                && self.bytes.is_none_or(|left| bytes <= left))
    }

    fn take(&mut self, records: u64, bytes: u64) {
        self.untouched = false;
        self.records = self.records.map(|left| left.saturating_sub(records));
        self.bytes = self.bytes.map(|left| left.saturating_sub(bytes));
    }

    fn use_up(&mut self) {
        self.records = Some(0);
    }

    fn is_used_up(&self) -> bool {
        !self.untouched && (self.records == Some(0) || self.bytes == Some(0))
    }
}

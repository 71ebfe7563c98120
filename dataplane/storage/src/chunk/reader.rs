//! Reading a chunk as a stream: head first, then frames ahead of whoever takes them.
//!
//! One request reads the chunk from the front (two, if the reader begins far behind the front).
//! Frames are checked and decrypted on blocking threads, a few at once, and handed out in order.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use pyramid_protocol::{
    Batch, Offset, StreamId,
    pb::{stored::v1 as stored, v1 as pb},
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use super::{Chunk, Damaged, FRAMES_MAX, HEADER_LEN};
use crate::{
    fetcher::{Body, Fetcher},
    frame,
    keys::StreamKey,
    object_names::ObjectNames,
    object_store::{self, ObjectStore},
};

/// Frames that are read and opened before anybody takes them. When they are full, the reader waits,
/// and through it the object store.
pub const FRAMES_AHEAD_MAX: usize = 4;

/// Bytes that are read and thrown away rather than asking a second time. Unit: bytes.
const SKIP_LEN_MAX: u64 = 1 << 20;

/// Where in a chunk to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the batch that holds this offset; [`Batch::skip_to`] shortens it. An offset below the
    /// chunk means its front.
    Offset(Offset),
    /// With the first batch of this log time or later. Unit: milliseconds since 1970 UTC.
    Time(u64),
}

/// Why a chunk cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes are not those that were stored. Reading them again may help only if they were
    /// changed on the way.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The object store did not deliver. Its error says what to do.
    #[error("read a chunk")]
    Store(#[source] object_store::Error),
}

type Opened = Result<Vec<Batch>, ReadError>;

/// Reads the batches of one chunk in order. Dropping it ends all that it has begun.
#[derive(Debug)]
pub struct ChunkReader {
    frames: mpsc::Receiver<Result<JoinHandle<Opened>, ReadError>>,
    /// Taken from the queue and not yet done: kept here, so that `next` may be dropped.
    current: Option<JoinHandle<Opened>>,
    start: Start,
    object: String,
    /// The one task that reads; ends with the reader.
    _task: JoinSet<()>,
}

/// From where the bytes come.
enum Source {
    Located {
        fetcher: Fetcher,
        location: pb::ChunkLocation,
    },
    Stored {
        store: Arc<dyn ObjectStore>,
        names: ObjectNames,
        stream_id: StreamId,
        chunk: stored::ChunkRef,
        stream_key: StreamKey,
    },
}

impl ChunkReader {
    /// Reads the chunk that a Writer told of. Needs a tokio runtime.
    #[must_use]
    pub fn located(fetcher: &Fetcher, location: pb::ChunkLocation, start: Start) -> Self {
        let object = super::opened::object_of(&location.url).to_owned();
        Self::spawn(Source::Located { fetcher: fetcher.clone(), location }, object, start)
    }

    /// Reads a chunk that State refers to: for a Writer that serves readers without access to the
    /// object store. Needs a tokio runtime.
    #[must_use]
    pub fn stored(
        store: Arc<dyn ObjectStore>,
        names: &ObjectNames,
        stream_id: StreamId,
        chunk: stored::ChunkRef,
        stream_key: &StreamKey,
        start: Start,
    ) -> Self {
        let object = names.chunk_of(stream_id, &chunk).to_string();
        let (names, stream_key) = (names.clone(), stream_key.clone());
        Self::spawn(Source::Stored { store, names, stream_id, chunk, stream_key }, object, start)
    }

    fn spawn(source: Source, object: String, start: Start) -> Self {
        // The task itself holds one more frame while the queue is full, and `current` another.
        let (sender, frames) = mpsc::channel(FRAMES_AHEAD_MAX - 2);
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(error) = read(&source, start, &sender).await {
                // Nobody waits for an error of a reader that was dropped.
                let _gone = sender.send(Err(error)).await;
            }
        });
        Self { frames, current: None, start, object, _task: task }
    }

    /// The batches of the next frame, or `None` behind the last one. After an error: `None`.
    ///
    /// May be dropped and called again; nothing is lost.
    ///
    /// # Errors
    ///
    /// The chunk is damaged, or the object store did not deliver it.
    pub async fn next(&mut self) -> Result<Option<Vec<Batch>>, ReadError> {
        loop {
            let current = match &mut self.current {
                Some(current) => current,
                None => match self.frames.recv().await {
                    Some(frame) => self.current.insert(frame.inspect_err(|_| self.frames.close())?),
                    None => return Ok(None),
                },
            };
            // A blocking task is lost only by a panic, and the decoder has none to offer.
            let opened = current.await.unwrap_or_else(|_| Err(Damaged::new(&self.object).into()));
            self.current = None;
            let mut batches = opened.inspect_err(|_| {
                self.frames.close();
                while self.frames.try_recv().is_ok() {}
            })?;
            match self.start {
                Start::Offset(offset) => batches.retain(|batch| batch.next_offset() > offset),
                Start::Time(time_ms) => batches.retain(|batch| batch.append_time_ms >= time_ms),
            }
            if !batches.is_empty() {
                return Ok(Some(batches));
            }
        }
    }
}

/// Reads head and frames and queues the work of opening them.
async fn read(
    source: &Source,
    start: Start,
    frames: &mpsc::Sender<Result<JoinHandle<Opened>, ReadError>>,
) -> Result<(), ReadError> {
    let head_len = source.head_len()?;
    let mut body = Buffered::new(source.body(0..source.total_len()).await?);
    let head = body.take(head_len).await?.ok_or_else(|| source.damaged())?;
    let chunk = Arc::new(source.open(&head)?);

    let first = match start {
        Start::Offset(offset) if offset <= chunk.header().base_offset => Some(0),
        Start::Offset(offset) => chunk.frame_of_offset(offset),
        Start::Time(time_ms) => chunk.frame_of_time(time_ms),
    };
    let Some(first) = first else { return Ok(()) };
    let position = chunk.frame_range(first).ok_or_else(|| source.damaged())?.start;
    let behind_head = position - head_len;
    if behind_head > SKIP_LEN_MAX {
        body = Buffered::new(source.body(position..source.total_len()).await?);
    } else {
        body.take(behind_head).await?.ok_or_else(|| source.damaged())?;
    }

    for frame in first..chunk.frame_count() {
        let range = chunk.frame_range(frame).ok_or_else(|| source.damaged())?;
        let Some(ciphertext) = body.take(range.end - range.start).await? else {
            return Err(source.damaged());
        };
        // A slot first, then the work, so that the number of frames in memory has its bound.
        let Ok(slot) = frames.reserve().await else { return Ok(()) };
        let chunk = Arc::clone(&chunk);
        slot.send(Ok(tokio::task::spawn_blocking(move || {
            Ok(chunk.open_frame(frame, &ciphertext)?)
        })));
    }
    Ok(())
}

impl Source {
    /// Length of the head, if a chunk can have one of this length. Unit: bytes.
    fn head_len(&self) -> Result<u64, ReadError> {
        let head_len = match self {
            Self::Located { location, .. } => location.head_len,
            Self::Stored { chunk, .. } => chunk.head_len,
        };
        let len_max = frame::head_len(HEADER_LEN, FRAMES_MAX);
        let is_possible = usize::try_from(head_len).is_ok_and(|len| Some(len) <= len_max);
        if is_possible { Ok(u64::from(head_len)) } else { Err(self.damaged()) }
    }

    fn total_len(&self) -> u64 {
        match self {
            Self::Located { location, .. } => location.total_len,
            Self::Stored { chunk, .. } => chunk.total_len,
        }
    }

    async fn body(&self, range: Range<u64>) -> Result<Body, ReadError> {
        match self {
            Self::Located { fetcher, location } => {
                fetcher.open(&location.url, range).await.map_err(ReadError::Store)
            }
            Self::Stored { store, names, stream_id, chunk, .. } => {
                Ok(Body::stored(Arc::clone(store), names.chunk_of(*stream_id, chunk), range))
            }
        }
    }

    fn open(&self, head: &[u8]) -> Result<Chunk, Damaged> {
        match self {
            Self::Located { location, .. } => Chunk::open_location(location, head),
            Self::Stored { names, stream_id, chunk, stream_key, .. } => {
                Chunk::open_ref(names, *stream_id, chunk, stream_key, head)
            }
        }
    }

    fn damaged(&self) -> ReadError {
        ReadError::Damaged(match self {
            Self::Located { location, .. } => Damaged::new(super::opened::object_of(&location.url)),
            Self::Stored { names, stream_id, chunk, .. } => {
                Damaged::new(names.chunk_of(*stream_id, chunk).as_str())
            }
        })
    }
}

/// A body cut into the lengths that are asked for.
struct Buffered {
    body: Body,
    pieces: VecDeque<Bytes>,
    len: u64,
}

impl Buffered {
    fn new(body: Body) -> Self {
        Self { body, pieces: VecDeque::new(), len: 0 }
    }

    /// The next `len` bytes, or `None` if the body ends before.
    async fn take(&mut self, len: u64) -> Result<Option<Bytes>, ReadError> {
        while self.len < len {
            let Some(piece) = self.body.next().await.map_err(ReadError::Store)? else {
                return Ok(None);
            };
            self.len += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            self.pieces.push_back(piece);
        }
        let Ok(wanted) = usize::try_from(len) else { return Ok(None) };
        self.len -= len;
        if let Some(first) = self.pieces.front_mut()
            && first.len() >= wanted
        {
            return Ok(Some(first.split_to(wanted)));
        }
        let mut taken = BytesMut::with_capacity(wanted);
        while taken.len() < wanted {
            let Some(piece) = self.pieces.front_mut() else { return Ok(None) };
            let part = piece.split_to(piece.len().min(wanted - taken.len()));
            taken.extend_from_slice(&part);
            if !piece.has_remaining() {
                self.pieces.pop_front();
            }
        }
        Ok(Some(taken.freeze()))
    }
}

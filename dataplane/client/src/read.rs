//! [`Reader`]: one stream in order, from chunks in the object store and live from the Writer.
//!
//! The Writer tells where shipped chunks lie; the reader fetches, checks and opens them itself and
//! goes on with what the Writer sends live. Each item must begin where the one before ended, so the
//! way from a chunk to live records has no gap and no record twice, and so has a reconnect, which
//! asks for the offset that was reached, in the stream and epoch in which it was reached.

mod chunk;
mod progress;
mod session;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use pyramid_protocol::pb::v1::Refusal;
use pyramid_protocol::{Batch, Offset, Position, StreamId, StreamName};
use pyramid_storage::Fetcher;
use tokio::sync::mpsc;

use crate::budget::{ByteBudget, Held};
use crate::connection::Client;
use crate::read::session::Session;

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this offset.
    Offset(Offset),
    /// At the first batch appended at or after this log time. Unit: milliseconds since 1970 UTC.
    TimeMs(u64),
    /// This many records before the end, or at the first one.
    LastRecords(u64),
}

/// What is read, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which stream.
    pub stream: StreamName,
    /// Ends with `STREAM_RECREATED` if the name belongs to another stream.
    pub stream_id: Option<StreamId>,
    /// The epoch of the start; ends with `EPOCH_CHANGED` above its safe offset.
    pub epoch: Option<u32>,
    /// Where to begin.
    pub start: Start,
    /// Stay, and read what is appended.
    pub follow: bool,
    /// At least one batch, then whole batches up to these. 0: no limit.
    pub max_records: u64,
    /// Unit: bytes of encoded batches.
    pub max_bytes: u64,
    /// Wait until the Writer's replica has applied that far.
    pub min_next_offset: Option<Offset>,
    /// Opens chunk locations; without one the Writer reads chunks for this reader.
    pub fetcher: Option<Fetcher>,
    /// Let the Writer read chunks after all, once they cannot be opened here.
    pub falls_back: bool,
    /// Shared with other readers; each batch holds its bytes until it is dropped.
    pub budget: ByteBudget,
    /// End with [`Error::NoAnswer`] after this long without a connection. `None`: never.
    pub give_up_after: Option<Duration>,
}

/// Bytes that a reader of its own holds at most.
const OWN_BUDGET_BYTES: u32 = 16 << 20;

impl Options {
    /// All that is there of `stream` from `start` on, read by the Writer.
    #[must_use]
    pub fn new(stream: StreamName, start: Start) -> Self {
        Self {
            stream,
            stream_id: None,
            epoch: None,
            start,
            follow: false,
            max_records: 0,
            max_bytes: 0,
            min_next_offset: None,
            fetcher: None,
            falls_back: false,
            budget: ByteBudget::new(OWN_BUDGET_BYTES),
            give_up_after: None,
        }
    }

    /// From a position on; only in its own history.
    #[must_use]
    pub fn from_position(stream: StreamName, position: Position) -> Self {
        Self {
            stream_id: Some(position.stream_id),
            epoch: Some(position.epoch),
            ..Self::new(stream, Start::Offset(position.offset))
        }
    }
}

/// One step of a read.
#[derive(Debug)]
pub enum Item {
    /// The first item, and again after each reconnect: where the read goes on.
    Started {
        /// In the epoch that the stream has now.
        position: Position,
        /// Oldest kept record.
        first_offset: Offset,
        /// How far the stream reaches.
        next_offset: Offset,
    },
    /// The next batches, without a gap; at least one. The first batch of a read alone may be
    /// shortened at its front.
    Batches(Batches),
    /// All is read up to here.
    CaughtUp(Offset),
    /// The connection is lost; the read goes on by itself. For people.
    Interrupted(String),
}

/// Verified batches that count in the reader's budget.
#[derive(Debug)]
pub struct Batches {
    /// Contiguous.
    pub batches: Vec<Batch>,
    /// Their bytes; dropped with them.
    pub held: Held,
    /// Who has sent them.
    pub origin: Origin,
}

/// Where batches came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The Writer.
    Writer,
    /// A chunk in the object store.
    Chunk,
}

/// Why a read has ended before its end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The Writer says that the read cannot go on: trimmed, ahead of the stream, another stream,
    /// another history, or no right. Nobody but the caller can decide what to do.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// Nobody could be reached for too long. Try again.
    #[error("no answer from the Writer: {last}")]
    NoAnswer {
        /// What was met last.
        last: String,
    },
}

/// Reads one stream. Reads ahead only while it is polled.
pub struct Reader {
    items: mpsc::Receiver<Result<Item, Error>>,
    /// Fills `items`; `None` once it has ended.
    session: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("ended", &self.session.is_none()).finish_non_exhaustive()
    }
}

impl Reader {
    /// A read that begins when it is polled.
    #[must_use]
    pub fn new(client: Client, options: Options) -> Self {
        let (sender, items) = mpsc::channel(1);
        Self { items, session: Some(Box::pin(Session::new(client, options, sender).run())) }
    }
}

/// Safe to drop a `next()` at any time: nothing is lost.
impl Stream for Reader {
    type Item = Result<Item, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(Some(item)) = self.items.poll_recv(cx) {
            return Poll::Ready(Some(item));
        }
        if let Some(session) = &mut self.session
            && session.as_mut().poll(cx).is_ready()
        {
            self.session = None;
        }
        // The session owns the sender: without it this ends the stream.
        self.items.poll_recv(cx)
    }
}

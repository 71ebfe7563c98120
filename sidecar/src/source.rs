//! What is pushed next: a bounded read-ahead of one stream, from chunks while behind, live when
//! close.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use pyramid_client::budget::Held;
use pyramid_client::read::{self, Batches, Item};
use pyramid_client::{ByteBudget, Client, Reader};
use pyramid_protocol::limits::PUSH_BYTES_MAX;
use pyramid_protocol::{Batch, Offset, Position, StreamName, batch};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// Tag and length in front of a batch in a push. Unit: bytes.
const FIELD_LEN_MAX: usize = 6;

/// One stream reads ahead until it holds this much, a push on its way and two that follow, while
/// at least half of the pusher's budget is free; else one push only, so that a stream that stands
/// still does not starve the others.
const READ_AHEAD_BYTES: usize = 3 * PUSH_BYTES_MAX;

/// Reads one stream from a position on.
pub(crate) struct Source {
    reader: Reader,
    budget: ByteBudget,
    /// Where the first buffered batch begins, in the epoch that the stream has now.
    position: Position,
    buffered: VecDeque<Piece>,
    buffered_bytes: usize,
    stream_next: Offset,
    /// What the Writer told last of the end of the stream.
    news: Option<News>,
    /// The Writer has said that there was no more, and sent nothing but live records since.
    is_live: bool,
    metrics: Metrics,
    /// Why nothing more comes.
    end: Option<read::Error>,
    /// The Writer cannot be reached now.
    interrupted: Option<String>,
}

/// Where a stream ended, and when that was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) end: Offset,
    pub(crate) at: Instant,
}

struct Piece {
    /// As it is pushed. The records of `batch` lie in it.
    encoded: Bytes,
    batch: Batch,
    // Its bytes in the pusher's budget.
    _held: Held,
}

/// Some whole batches, ready to be pushed.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) batches: Vec<Bytes>,
    pub(crate) records: u64,
    pub(crate) next: Position,
}

/// What all streams of a pusher share to read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) client: Client,
    pub(crate) fetcher: Option<pyramid_storage::Fetcher>,
    pub(crate) budget: ByteBudget,
    pub(crate) metrics: Metrics,
}

impl Source {
    /// Reads from `position` on, once it is polled.
    pub(crate) fn open(reading: &Reading, stream: &StreamName, position: Position) -> Self {
        let options = read::Options {
            follow: true,
            fetcher: reading.fetcher.clone(),
            budget: reading.budget.clone(),
            ..read::Options::from_position(stream.clone(), position)
        };
        Self {
            reader: Reader::new(reading.client.clone(), options),
            budget: reading.budget.clone(),
            position,
            buffered: VecDeque::new(),
            buffered_bytes: 0,
            stream_next: position.offset,
            news: None,
            is_live: false,
            metrics: reading.metrics.clone(),
            end: None,
            interrupted: None,
        }
    }

    /// Reads one item further.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop.
    pub(crate) async fn fill(&mut self) {
        match self.reader.next().await {
            Some(Ok(Item::Started { position, first_offset: _, next_offset })) => {
                self.interrupted = None;
                // All that is buffered was read at or below a position that this epoch confirms.
                self.position.epoch = position.epoch;
                self.is_live = false;
                self.heard_end(next_offset);
            }
            Some(Ok(Item::Batches(batches))) => {
                if let Err(error) = self.take(batches) {
                    self.end = Some(read::Error::NoAnswer { last: error.to_string() });
                }
            }
            Some(Ok(Item::CaughtUp(next))) => self.caught_up(next),
            Some(Ok(Item::Interrupted(message))) => {
                self.metrics.read_failures.inc();
                self.is_live = false;
                self.interrupted = Some(message);
            }
            Some(Err(error)) => {
                self.metrics.read_failures.inc();
                self.end = Some(error);
            }
            None => {
                let last = "the read has ended".to_owned();
                self.end.get_or_insert(read::Error::NoAnswer { last });
            }
        }
    }

    /// The Writer tells where the stream ends now.
    fn heard_end(&mut self, end: Offset) {
        self.stream_next = self.stream_next.max(end);
        self.news = Some(News { end, at: Instant::now() });
    }

    fn caught_up(&mut self, end: Offset) {
        self.is_live = true;
        self.heard_end(end);
    }

    /// Where the stream ends, and when that was so; `None` until the Writer has said it. While all
    /// that came is pushed and accepted, and the Writer sends what comes, that is here and now.
    pub(crate) fn end_of_stream(&self) -> Option<News> {
        if self.is_live && self.buffered.is_empty() && self.interrupted.is_none() {
            return Some(News { end: self.position.offset, at: Instant::now() });
        }
        self.news
    }

    fn take(&mut self, batches: Batches) -> Result<(), batch::Error> {
        let Batches { batches, mut held, origin } = batches;
        let bytes = batches.iter().map(Batch::encoded_len).sum();
        self.metrics.read(origin, bytes);
        for batch in batches {
            // Copied once here, so that a push and its repetitions need no copy, and so that a
            // small batch does not keep a whole frame in memory.
            let encoded = batch.encode();
            let batch = Batch::decode(encoded.clone())?;
            self.buffered_bytes += encoded.len();
            self.stream_next = self.stream_next.max(batch.next_offset());
            let held = held.split(encoded.len());
            self.buffered.push_back(Piece { encoded, batch, _held: held });
        }
        Ok(())
    }

    /// Takes what has already come, up to a full push.
    pub(crate) fn fill_at_once(&mut self) {
        while self.wants_more() && !self.is_full() {
            if self.fill().now_or_never().is_none() {
                return;
            }
        }
    }

    /// More is read only while there is room, and only if more can come.
    pub(crate) fn wants_more(&self) -> bool {
        let max = if self.budget.is_half_free() { READ_AHEAD_BYTES } else { PUSH_BYTES_MAX };
        self.buffered_bytes < max && self.end.is_none()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buffered.is_empty()
    }

    /// A push would be full.
    fn is_full(&self) -> bool {
        self.buffered_bytes >= PUSH_BYTES_MAX
    }

    pub(crate) fn end(&self) -> Option<&read::Error> {
        self.end.as_ref()
    }

    pub(crate) fn interrupted(&self) -> Option<&str> {
        self.interrupted.as_deref()
    }

    /// Where the next push begins, in the epoch that the stream has now.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn stream_next(&self) -> Offset {
        self.stream_next
    }

    /// Whole batches from the front, up to `bytes_max`, at least one.
    pub(crate) fn load(&self, bytes_max: usize) -> Load {
        let mut load = Load { batches: Vec::new(), records: 0, next: self.position };
        let mut bytes = 0;
        for Piece { encoded, batch, .. } in &self.buffered {
            bytes += encoded.len() + FIELD_LEN_MAX;
            if bytes > bytes_max && !load.batches.is_empty() {
                break;
            }
            load.batches.push(encoded.clone());
            load.records += u64::from(batch.record_count);
            load.next.offset = batch.next_offset();
        }
        load
    }

    /// Goes on at `stored`, if it is within what is buffered; else the stream must be read anew.
    pub(crate) fn advance(&mut self, stored: Position) -> Result<bool, batch::Error> {
        let end =
            self.buffered.back().map_or(self.position.offset, |last| last.batch.next_offset());
        let same_history =
            (stored.stream_id, stored.epoch) == (self.position.stream_id, self.position.epoch);
        if !same_history || stored.offset < self.position.offset || stored.offset > end {
            return Ok(false);
        }
        while let Some(front) = self.buffered.front_mut() {
            if front.batch.base_offset >= stored.offset {
                break;
            }
            let len = front.encoded.len();
            if front.batch.next_offset() <= stored.offset {
                self.buffered.pop_front();
                self.buffered_bytes -= len;
            } else {
                front.encoded = front.batch.skip_to(stored.offset)?.encode();
                front.batch = Batch::decode(front.encoded.clone())?;
                self.buffered_bytes -= len - front.encoded.len();
            }
        }
        self.position.offset = stored.offset;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;

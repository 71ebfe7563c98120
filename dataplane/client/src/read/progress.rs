//! What a read has reached, and what may come next. Pure.

use pyramid_protocol::pb::v1::{self as pb, ReadRequest, read_request};
use pyramid_protocol::{Batch, Offset, Position};

use crate::read::{Options, Start};

/// The Writer, or a chunk, broke the rules of a read. Nothing of the item is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the read goes on at offset {got}, not at {expected}")]
    NotContiguous { expected: Offset, got: Offset },
    #[error("the read began in stream {expected} and goes on in {got}")]
    OtherStream { expected: u64, got: u64 },
    #[error("the read brought an item before it said where it begins")]
    NotStarted,
    #[error("the read brought what is not a batch: {0}")]
    Batch(#[from] pyramid_protocol::batch::Error),
    #[error("the read says where it is with {0}")]
    Position(#[from] pyramid_protocol::offset::NotAStreamId),
    #[error("the read brought an empty item")]
    Empty,
}

/// How far a read has come.
#[derive(Debug)]
pub(crate) struct Progress {
    options: Options,
    /// Where the next batch begins; unset until the Writer has said where the read begins.
    reached: Option<Position>,
    /// What is left of `max_records` and `max_bytes`; `None`: no limit.
    records_left: Option<u64>,
    bytes_left: Option<u64>,
    delivered: bool,
}

/// What to do with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// Deliver it.
    Batch(Batch),
    /// It is over the limits of the read, which has ended.
    OverLimit,
}

impl Progress {
    pub(crate) fn new(options: Options) -> Self {
        let limit = |max: u64| (max > 0).then_some(max);
        Self {
            reached: None,
            records_left: limit(options.max_records),
            bytes_left: limit(options.max_bytes),
            delivered: false,
            options,
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Where the next batch begins.
    pub(crate) fn reached(&self) -> Option<Position> {
        self.reached
    }

    /// The read ends by itself after some batches.
    pub(crate) fn has_limits(&self) -> bool {
        self.records_left.is_some() || self.bytes_left.is_some()
    }

    pub(crate) fn has_delivered(&self) -> bool {
        self.delivered
    }

    /// The limits are used up.
    pub(crate) fn is_done(&self) -> bool {
        self.records_left == Some(0) || self.bytes_left == Some(0)
    }

    /// Asks for what comes next.
    pub(crate) fn request(&self) -> ReadRequest {
        let options = &self.options;
        let start = match (self.reached, options.start) {
            (Some(reached), _) => read_request::Start::Offset(reached.offset.get()),
            (None, Start::Offset(offset)) => read_request::Start::Offset(offset.get()),
            (None, Start::TimeMs(time_ms)) => read_request::Start::TimeMs(time_ms),
            (None, Start::LastRecords(records)) => read_request::Start::LastRecords(records),
        };
        let stream_id = self.reached.map(|reached| reached.stream_id).or(options.stream_id);
        ReadRequest {
            stream: options.stream.to_string(),
            stream_id: stream_id.map(pyramid_protocol::StreamId::get),
            epoch: self.reached.map(|reached| reached.epoch).or(options.epoch),
            start: Some(start),
            follow: options.follow,
            want_locations: options.fetcher.is_some(),
            max_records: self.records_left.unwrap_or(0),
            max_bytes: self.bytes_left.unwrap_or(0),
            min_next_offset: options.min_next_offset.map(Offset::get),
        }
    }

    /// Takes the Writer's word for where the read goes on.
    pub(crate) fn started(&mut self, start: pb::ReadStart) -> Result<Position, Broken> {
        let position = Position::try_from(start.position.ok_or(Broken::NotStarted)?)?;
        let stream_id = self.reached.map(|reached| reached.stream_id).or(self.options.stream_id);
        if let Some(expected) = stream_id
            && expected != position.stream_id
        {
            let (expected, got) = (expected.get(), position.stream_id.get());
            return Err(Broken::OtherStream { expected, got });
        }
        let offset = match (self.reached, self.options.start) {
            (Some(reached), _) => Some(reached.offset),
            (None, Start::Offset(offset)) => Some(offset),
            (None, Start::TimeMs(_) | Start::LastRecords(_)) => None,
        };
        if let Some(expected) = offset
            && expected != position.offset
        {
            return Err(Broken::NotContiguous { expected, got: position.offset });
        }
        self.reached = Some(position);
        Ok(position)
    }

    /// Has the Writer read chunks from now on.
    pub(crate) fn leave_chunks_to_the_writer(&mut self) {
        self.options.fetcher = None;
    }

    /// Checks that `offset` is where the read is.
    pub(crate) fn expect(&self, offset: Offset) -> Result<(), Broken> {
        let reached = self.reached.ok_or(Broken::NotStarted)?;
        if reached.offset == offset {
            Ok(())
        } else {
            Err(Broken::NotContiguous { expected: reached.offset, got: offset })
        }
    }

    /// Takes the next batch, whose checksum is verified here.
    pub(crate) fn admit(&mut self, batch: Batch) -> Result<Admitted, Broken> {
        self.expect(batch.base_offset)?;
        batch.verify()?;
        let records = u64::from(batch.record_count);
        let bytes = u64::try_from(batch.encoded_len()).unwrap_or(u64::MAX);
        let over = |left: Option<u64>, taken: u64| left.is_some_and(|left| left < taken);
        if self.is_done()
            || self.delivered && (over(self.records_left, records) || over(self.bytes_left, bytes))
        {
            self.records_left = Some(0);
            return Ok(Admitted::OverLimit);
        }
        self.delivered = true;
        self.records_left = self.records_left.map(|left| left.saturating_sub(records));
        self.bytes_left = self.bytes_left.map(|left| left.saturating_sub(bytes));
        if let Some(reached) = &mut self.reached {
            reached.offset = batch.next_offset();
        }
        Ok(Admitted::Batch(batch))
    }
}

#[cfg(test)]
mod tests;

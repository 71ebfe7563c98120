//! [`Offset`], [`StreamId`] and [`Position`]: places in a history. The unit is defined here.

use std::fmt;

use crate::limits::ID_MAX;
use crate::pb::v1 as pb;

/// A position between two records of one stream.
///
/// Unit: records, counted from the start of the stream. `Offset(0)` is before the first record;
/// the offset after `n` records is `Offset(n)`. An offset names a gap and not a record, so an empty
/// stream has one valid offset and "from `a` to `b`" always holds `b - a` records.
///
/// Offsets of different streams must not be compared; nothing checks that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// Before the first record.
    pub const START: Self = Self(0);

    /// The offset after `records` records.
    #[must_use]
    pub const fn new(records: u64) -> Self {
        Self(records)
    }

    /// Records before this offset.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset `records` further on, or `None` past `u64::MAX`.
    #[must_use]
    pub fn advance(self, records: u64) -> Option<Self> {
        self.0.checked_add(records).map(Self)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names one incarnation of a stream: random, 1 to 2^53 - 1, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// The id, or `None` outside of 1 to 2^53 - 1.
    #[must_use]
    pub fn new(id: u64) -> Option<Self> {
        (1..=ID_MAX).contains(&id).then_some(Self(id))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A place in one history of one stream: what an application stores.
///
/// Positions are compared as a whole. An offset alone says nothing when the stream was created anew
/// or its Writer recovered with loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which stream.
    pub stream_id: StreamId,
    /// Which history of it.
    pub epoch: u32,
    /// Where in it.
    pub offset: Offset,
}

/// A message does not hold a stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{stream_id} is no stream id; ids are 1 to 2^53 - 1")]
pub struct NotAStreamId {
    /// What stood there.
    pub stream_id: u64,
}

impl TryFrom<pb::Position> for Position {
    type Error = NotAStreamId;

    fn try_from(message: pb::Position) -> Result<Self, NotAStreamId> {
        let pb::Position { stream_id, epoch, offset } = message;
        let stream_id = StreamId::new(stream_id).ok_or(NotAStreamId { stream_id })?;
        Ok(Self { stream_id, epoch, offset: Offset::new(offset) })
    }
}

impl From<Position> for pb::Position {
    fn from(position: Position) -> Self {
        let Position { stream_id, epoch, offset } = position;
        Self { stream_id: stream_id.get(), epoch, offset: offset.get() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (stream {}, epoch {})", self.offset, self.stream_id, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_ids_fit_53_bits_and_are_not_zero() {
        assert_eq!(StreamId::new(0), None);
        assert_eq!(StreamId::new(1).map(StreamId::get), Some(1));
        assert_eq!(StreamId::new((1 << 53) - 1).map(StreamId::get), Some((1 << 53) - 1));
        assert_eq!(StreamId::new(1 << 53), None);
    }

    #[test]
    fn offsets_do_not_wrap() {
        assert_eq!(Offset::new(u64::MAX - 1).advance(1), Some(Offset::new(u64::MAX)));
        assert_eq!(Offset::new(u64::MAX).advance(1), None);
    }

    #[test]
    fn positions_survive_the_wire() {
        let position =
            Position { stream_id: StreamId::new(7).unwrap(), epoch: 2, offset: Offset::new(9) };
        assert_eq!(Position::try_from(pb::Position::from(position)), Ok(position));
        assert_eq!(Position::try_from(pb::Position::default()), Err(NotAStreamId { stream_id: 0 }));
    }
}

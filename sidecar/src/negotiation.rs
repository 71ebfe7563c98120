//! Agreeing with the application on where to go on. Pure.
//!
//! The application owns its position: it stores it in the same transaction as the effects of the
//! records. The pusher guesses, and is corrected. What an answer means is decided here; so is when
//! a stream is halted until a person has looked at it.

use std::fmt;
use std::time::Duration;

use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::{self as pb, PushState, Reason, Refusal, StartFrom};
use pyramid_protocol::{Offset, Position, StreamId};

/// Most bytes of an application's reason that are kept.
const REASON_BYTES_MAX: usize = 1000;

/// What was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// What the application reported last; `None` in a first push.
    pub base: Option<Position>,
    /// What it stores if it accepts all.
    pub next: Position,
    /// How many records went with it. 0: "where are you?"
    pub records: u64,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The application has stored this; go on from there.
    Accepted(Position),
    /// It has stored nothing of the records, and says so. Push them again after a wait.
    AcceptedNothing,
    /// It is at another place than the pusher believed; go on from there.
    Resume(Position),
    /// It has lost its position: begin with a first push.
    BeginAgain,
    /// Ask again after this time, or after the pusher's own wait.
    Wait(Option<Duration>),
    /// Halt the stream.
    Halt(Halt),
}

/// An answer that the protocol does not allow. The application has a mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// No member of the answer is set.
    #[error(
        "the application gave an empty answer; set one of accepted, wrong_offset, not_ready, rejected"
    )]
    Empty,
    /// `Accepted` without a position, or with one that is none.
    #[error("the application accepted without a position; set `next` to what it has stored")]
    AcceptedWhat,
    /// `Accepted` outside of what was pushed.
    #[error(
        "the application accepted {accepted}, which is not between `base` and `next` = {next}; answer what it has stored"
    )]
    AcceptedOutside {
        /// What it answered.
        accepted: Position,
        /// The end of the push.
        next: Position,
    },
    /// `WrongOffset` with a position that is none.
    #[error(
        "the application's stored position is none: {stream_id} is no stream id; store all three numbers of `next`"
    )]
    StoredWhat {
        /// What it answered.
        stream_id: u64,
    },
    /// `WrongOffset` that names the very base of the push.
    #[error(
        "the application called `base` = {base} wrong and names the same position; compare stream_id, epoch and offset with what is stored"
    )]
    WrongIsRight {
        /// The base of the push.
        base: Position,
    },
    /// `WrongOffset` without a position, in answer to a push without a base.
    #[error(
        "the application has no position and did not store `next` = {next}; a push without `base` asks it to"
    )]
    FirstNotStored {
        /// What it should have stored.
        next: Position,
    },
    /// `Rejected` of a record that was not pushed.
    #[error(
        "the application rejected offset {offset}, which was not pushed; name the record that cannot be processed"
    )]
    RejectedOutside {
        /// What it answered.
        offset: Offset,
    },
}

/// Why a stream stands still until somebody decides. Left when the application's stored position
/// changes; never skipped over, never reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The name belongs to another stream now. Only a leader's word counts for this.
    StreamReplaced {
        /// What the application has stored.
        stored: Position,
        /// The stream that has the name.
        now: StreamId,
    },
    /// The Writer was recovered with loss, and the application is above what was kept.
    EpochChanged {
        /// What the application has stored.
        stored: Position,
        /// Up to here the older history is good, if known.
        safe: Option<Offset>,
    },
    /// The next record of the application is deleted.
    Trimmed {
        /// What the application has stored.
        stored: Position,
        /// Oldest kept record, if known.
        first: Option<Offset>,
    },
    /// The application has stored an offset that the stream has not reached. Only a leader's word
    /// counts for this.
    AheadOfStream {
        /// What the application has stored.
        stored: Position,
        /// How far the stream reaches.
        next: Offset,
    },
    /// The application cannot process a record.
    Rejected {
        /// Which one.
        offset: Offset,
        /// Why, in its own words.
        reason: String,
    },
}

impl Halt {
    /// As reports show it.
    #[must_use]
    pub fn state(&self) -> PushState {
        match self {
            Self::StreamReplaced { .. } => PushState::HaltedStreamReplaced,
            Self::EpochChanged { .. } => PushState::HaltedEpochChanged,
            Self::Trimmed { .. } => PushState::HaltedTrimmed,
            Self::AheadOfStream { .. } => PushState::HaltedAheadOfStream,
            Self::Rejected { .. } => PushState::HaltedRejected,
        }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StreamReplaced { stored, now } => write!(
                f,
                "the application is at {stored}, but the stream of this name is now {now}: \
                 decide what to do with the old records, then store a position of the new stream or none"
            ),
            Self::EpochChanged { stored, safe } => {
                write!(f, "the application is at {stored}, and the Writer has lost records ")?;
                match safe {
                    Some(safe) => write!(f, "above {safe}: undo what came after it, then store ")?,
                    None => f.write_str("below that: undo their effects, then store ")?,
                }
                f.write_str("a position up to there")
            }
            Self::Trimmed { stored, first } => {
                write!(f, "the application is at {stored}, and records behind it are deleted: ")?;
                match first {
                    Some(first) => write!(f, "restore what is missing, then store offset {first}"),
                    None => f.write_str("restore what is missing, then store the first offset"),
                }
            }
            Self::AheadOfStream { stored, next } => write!(
                f,
                "the application is at {stored}, but the stream ends at {next}: \
                 find out why, then store a position up to there"
            ),
            Self::Rejected { offset, reason } => write!(
                f,
                "the application rejected the record at offset {offset}: {reason}; \
                 mend it and start it again, or store the position after the record to leave it out"
            ),
        }
    }
}

/// Decides what an answer to a push means.
///
/// # Errors
///
/// [`Nonsense`]: the application's mistake, named.
pub fn next_step(pushed: &Pushed, answer: Option<Answer>) -> Result<Step, Nonsense> {
    match answer.ok_or(Nonsense::Empty)? {
        Answer::Accepted(pb::Accepted { next }) => accepted(pushed, next),
        Answer::WrongOffset(pb::WrongOffset { stored }) => wrong_offset(pushed, stored),
        Answer::NotReady(pb::NotReady { retry_after_ms: 0 }) => Ok(Step::Wait(None)),
        Answer::NotReady(pb::NotReady { retry_after_ms }) => {
            Ok(Step::Wait(Some(Duration::from_millis(retry_after_ms.into()))))
        }
        Answer::Rejected(pb::Rejected { offset, mut reason }) => {
            // It is reported and logged again and again.
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            let offset = Offset::new(offset);
            let end = pushed.next.offset.get();
            let pushed_range = end.saturating_sub(pushed.records)..end;
            if pushed_range.contains(&offset.get()) {
                Ok(Step::Halt(Halt::Rejected { offset, reason }))
            } else {
                Err(Nonsense::RejectedOutside { offset })
            }
        }
    }
}

fn accepted(pushed: &Pushed, accepted: Option<pb::Position>) -> Result<Step, Nonsense> {
    let accepted = accepted.ok_or(Nonsense::AcceptedWhat)?;
    let accepted = Position::try_from(accepted).map_err(|_no_id| Nonsense::AcceptedWhat)?;
    if pushed.base == Some(accepted) && pushed.records > 0 {
        return Ok(Step::AcceptedNothing);
    }
    // A new epoch enters with `next`, so all above the base is in the epoch of `next`.
    let Pushed { base, next, .. } = *pushed;
    let in_range = match base {
        Some(base) => {
            base.offset <= accepted.offset
                && accepted.offset <= next.offset
                && (accepted.stream_id, accepted.epoch) == (next.stream_id, next.epoch)
        }
        None => accepted == next,
    };
    if in_range || base == Some(accepted) {
        Ok(Step::Accepted(accepted))
    } else {
        Err(Nonsense::AcceptedOutside { accepted, next })
    }
}

fn wrong_offset(pushed: &Pushed, stored: Option<pb::Position>) -> Result<Step, Nonsense> {
    match (stored, pushed.base) {
        (None, Some(_)) => Ok(Step::BeginAgain),
        (None, None) => Err(Nonsense::FirstNotStored { next: pushed.next }),
        (Some(stored), base) => {
            let stored = Position::try_from(stored)
                .map_err(|no_id| Nonsense::StoredWhat { stream_id: no_id.stream_id })?;
            match base {
                Some(base) if base == stored => Err(Nonsense::WrongIsRight { base }),
                Some(_) | None => Ok(Step::Resume(stored)),
            }
        }
    }
}

/// Where an application begins that says it has no position.
#[must_use]
pub fn first_position(start_from: StartFrom, stream: Stream) -> Position {
    let offset = match start_from {
        StartFrom::Unspecified | StartFrom::Earliest => stream.first_offset,
        StartFrom::Latest => stream.next_offset,
    };
    Position { stream_id: stream.stream_id, epoch: stream.epoch, offset }
}

/// A stream, as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Which one has the name.
    pub stream_id: StreamId,
    /// Its history.
    pub epoch: u32,
    /// Oldest kept record.
    pub first_offset: Offset,
    /// The offset of the next record.
    pub next_offset: Offset,
}

impl TryFrom<&pb::StreamInfo> for Stream {
    type Error = pyramid_protocol::offset::NotAStreamId;

    fn try_from(info: &pb::StreamInfo) -> Result<Self, Self::Error> {
        let pb::StreamInfo { stream_id, epoch, first_offset, next_offset, .. } = *info;
        let position = Position::try_from(pb::Position { stream_id, epoch, offset: next_offset })?;
        Ok(Self {
            stream_id: position.stream_id,
            epoch,
            first_offset: Offset::new(first_offset),
            next_offset: position.offset,
        })
    }
}

/// What a refused read at the application's position means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Halt the stream.
    Halt(Halt),
    /// Any replica may have said it: ask the leader, and decide with [`leaders_word`].
    AskLeader,
    /// Read again after a wait.
    Retry,
}

/// Decides what a read that was refused at `stored` means.
#[must_use]
pub fn refused_read(stored: Position, refusal: &Refusal) -> Verdict {
    match refusal.reason() {
        Reason::Trimmed => {
            let first = match refusal.detail {
                Some(Detail::FirstOffset(first)) => Some(Offset::new(first)),
                _ => None,
            };
            Verdict::Halt(Halt::Trimmed { stored, first })
        }
        Reason::EpochChanged => {
            let safe = match refusal.detail {
                Some(Detail::SafeOffset(safe)) => Some(Offset::new(safe)),
                _ => None,
            };
            Verdict::Halt(Halt::EpochChanged { stored, safe })
        }
        Reason::BeyondNext | Reason::StreamRecreated => Verdict::AskLeader,
        Reason::Unspecified
        | Reason::Invalid
        | Reason::NotFound
        | Reason::Closed
        | Reason::WrongOffset
        | Reason::StaleRevision
        | Reason::Fenced
        | Reason::OutOfOrder
        | Reason::UnknownProducer
        | Reason::TooManyProducers
        | Reason::SessionBroken
        | Reason::ResourceExhausted
        | Reason::WalFull
        | Reason::NotLeader
        | Reason::Unavailable
        | Reason::AlreadyExists
        | Reason::Dropped
        | Reason::Foreign
        | Reason::Damaged
        | Reason::Internal
        | Reason::Unimplemented
        | Reason::Denied => Verdict::Retry,
    }
}

/// Decides, with what the leader says, whether a stored position halts the stream.
#[must_use]
pub fn leaders_word(stored: Position, stream: Stream) -> Option<Halt> {
    if stored.stream_id != stream.stream_id {
        return Some(Halt::StreamReplaced { stored, now: stream.stream_id });
    }
    if stored.epoch > stream.epoch {
        // The leader has not heard of that epoch yet.
        return None;
    }
    if stored.offset > stream.next_offset {
        return Some(if stored.epoch < stream.epoch {
            Halt::EpochChanged { stored, safe: None }
        } else {
            Halt::AheadOfStream { stored, next: stream.next_offset }
        });
    }
    None
}

#[cfg(test)]
mod tests;

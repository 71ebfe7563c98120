//! Outcomes of the state machine → answers on the wire. The only place that words them.

use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal, append_response};

use crate::admission::{self, Exhausted};
use crate::appender::{Failure, QueueFull};
use crate::attachments::Full;
use crate::state::{Appended, ControlRefused, Outcome, Refused};
use crate::wal::Usage;

/// What a producer is told.
pub(super) fn append_response(answer: Result<pb::Appended, Refusal>) -> pb::AppendResponse {
    let answer = match answer {
        Ok(appended) => append_response::Answer::Appended(appended),
        Err(refusal) => append_response::Answer::Refused(refusal),
    };
    pb::AppendResponse { answer: Some(answer) }
}

/// `epoch` is the present one, for duplicates whose place is forgotten.
pub(super) fn appended(outcome: Outcome, epoch: u32) -> Result<pb::Appended, Refusal> {
    match outcome {
        Outcome::Appended(appended) => Ok(placed(appended, false)),
        Outcome::Duplicate(Some(appended)) => Ok(placed(appended, true)),
        Outcome::Duplicate(None) => Ok(pb::Appended {
            first_offset: None,
            next_offset: None,
            epoch,
            append_time_ms: 0,
            duplicate: true,
        }),
        Outcome::Refused(refused) => Err(refusal(refused)),
    }
}

fn placed(appended: Appended, duplicate: bool) -> pb::Appended {
    pb::Appended {
        first_offset: Some(appended.first.get()),
        next_offset: Some(appended.next.get()),
        epoch: appended.epoch,
        append_time_ms: appended.time_ms,
        duplicate,
    }
}

pub(super) fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::Voided => failure(Failure::Dropped),
        Refused::NoStream => {
            Refusal::new(Reason::NotFound, "the stream was deleted while the append was on its way")
        }
        Refused::StaleRevision { .. } => Refusal::new(
            Reason::StaleRevision,
            "the stream was closed or opened since this session began; begin a new session",
        ),
        Refused::Closed => Refusal::new(Reason::Closed, "the stream is closed for appends"),
        Refused::UnknownProducer => Refusal::new(
            Reason::UnknownProducer,
            "no such producer is held; read the stream's end, then call InitProducer",
        ),
        Refused::Fenced { epoch } => Refusal::new(
            Reason::Fenced,
            format!("a newer instance of this producer took over with epoch {epoch}; stop"),
        ),
        Refused::OutOfOrder { expected } => Refusal::new(
            Reason::OutOfOrder,
            format!("the next sequence of this producer is {expected}; send from there"),
        )
        .with_detail(Detail::ExpectedSequence(expected)),
        Refused::EpochAhead { epoch } => Refusal::new(
            Reason::Unavailable,
            format!("this replica is at epoch {epoch} and has not seen the expected one yet; retry"),
        ),
        Refused::EpochChanged { safe } => Refusal::new(
            Reason::EpochChanged,
            format!(
                "the Writer was recovered; offsets of the older epoch are good up to {safe}; read the stream's end"
            ),
        )
        .with_detail(Detail::SafeOffset(safe.get())),
        Refused::WrongOffset { next } => Refusal::new(
            Reason::WrongOffset,
            format!("the stream ends at {next}, not at the expected offset; read and decide again"),
        )
        .with_detail(Detail::NextOffset(next.get())),
        Refused::UsedUp => Refusal::new(Reason::Invalid, "the stream's offsets are used up"),
    }
}

pub(crate) fn failure(failure: Failure) -> Refusal {
    let message = failure.to_string();
    match failure {
        Failure::SessionBroken => Refusal::new(Reason::SessionBroken, message),
        Failure::Dropped => Refusal::new(Reason::Dropped, message),
        Failure::NotLeader => Refusal::new(Reason::NotLeader, message)
            .with_detail(Detail::LeaderAddress(String::new())),
        Failure::Unknown => Refusal::unknown(Reason::Unavailable, message),
    }
}

pub(super) fn exhausted(exhausted: Exhausted) -> Refusal {
    Refusal::new(Reason::ResourceExhausted, exhausted.to_string())
        .with_retry_after_ms(admission::RETRY_AFTER_MS)
}

pub(super) fn queue_full(full: QueueFull) -> Refusal {
    Refusal::new(Reason::ResourceExhausted, full.to_string())
        .with_retry_after_ms(admission::RETRY_AFTER_MS)
}

/// How long a pusher waits before it asks again whether another one has gone. Unit: milliseconds.
const ATTACH_RETRY_AFTER_MS: u32 = 5_000;

pub(super) fn attachments_full(full: Full) -> Refusal {
    Refusal::new(Reason::ResourceExhausted, full.to_string())
        .with_retry_after_ms(ATTACH_RETRY_AFTER_MS)
}

/// How long a producer waits before it asks again whether there is room. Unit: milliseconds.
const WAL_RETRY_AFTER_MS: u32 = 1_000;

pub(crate) fn wal_full(usage: Usage) -> Refusal {
    let Usage { used_bytes, max_bytes, is_short_of_room } = usage;
    let message = if is_short_of_room {
        "the disk of the write-ahead log has no room for another segment; appends and new objects are refused until there is: free space on the volume of --data-dir".to_owned()
    } else {
        format!(
            "the write-ahead log uses {used_bytes} of {max_bytes} bytes and this version takes none back; appends and new objects are refused: raise --wal-bytes-max and start again"
        )
    };
    Refusal::new(Reason::WalFull, message).with_retry_after_ms(WAL_RETRY_AFTER_MS)
}

pub(super) fn stops() -> Refusal {
    Refusal::new(Reason::Unavailable, "the Writer stops; ask again")
}

pub(crate) fn recreated(name: &str, id: u64) -> Refusal {
    Refusal::new(
        Reason::StreamRecreated,
        format!("stream {name:?} was created anew and has id {id} now"),
    )
    .with_detail(Detail::NewStreamId(id))
}

pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Invalid, message)
}

/// Why a command did nothing.
pub(crate) fn control_refusal(refused: &ControlRefused) -> Refusal {
    match refused {
        ControlRefused::Voided => failure(Failure::Dropped),
        ControlRefused::Invalid { what } => invalid(*what),
        ControlRefused::NotFounded => {
            Refusal::new(Reason::Unavailable, "the cluster is not founded yet; retry")
        }
        ControlRefused::Foreign => {
            Refusal::new(Reason::Foreign, "this replica belongs to another cluster")
        }
        ControlRefused::NotFound => {
            Refusal::new(Reason::NotFound, "no stream or subscription of this name or id")
        }
        ControlRefused::NameTaken { stream_id } => Refusal::new(
            Reason::AlreadyExists,
            format!("a stream of this name exists, with id {stream_id}"),
        ),
        // Ids have 53 random bits: to draw one again is a bug of the generator.
        ControlRefused::IdUsed => Refusal::new(Reason::Dropped, "the drawn id is in use; retry"),
        ControlRefused::OlderGeneration { generation } => Refusal::new(
            Reason::AlreadyExists,
            format!("generation {generation} of this object was put before; put a newer one"),
        ),
        ControlRefused::DeclaredSince => Refusal::new(
            Reason::AlreadyExists,
            "somebody else has declared the stream since it was read; read it again",
        ),
        ControlRefused::BeyondNext { next } => Refusal::new(
            Reason::BeyondNext,
            format!("the stream ends at {next}; give an offset up to there"),
        )
        .with_detail(Detail::NextOffset(next.get())),
        ControlRefused::UnknownProducer => Refusal::new(
            Reason::UnknownProducer,
            "this producer's state has expired or was lost; read the stream's end to learn what was written, then call InitProducer without resume_sequence",
        ),
        ControlRefused::TooManyProducers => Refusal::new(
            Reason::TooManyProducers,
            "the stream has as many producers as it may have, and none is idle for a day",
        ),
        ControlRefused::LowerLevel { level } => Refusal::new(
            Reason::Invalid,
            format!("the feature level is {level} already and never goes down"),
        ),
        ControlRefused::UsedUp => invalid("a counter of the stream is used up"),
        // Only the shipper sends commands that can be refused so, and it looks at them itself.
        ControlRefused::NotContiguous { .. }
        | ControlRefused::KeyNotStored
        | ControlRefused::IntentClosed
        | ControlRefused::OtherRange
        | ControlRefused::AboveShipped { .. }
        | ControlRefused::OtherDigest
        | ControlRefused::StreamAlive => {
            Refusal::new(Reason::Internal, format!("the command was refused: {refused:?}"))
        }
    }
}

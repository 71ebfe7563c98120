//! The unary calls of `Writer`: what streams there are, producers, trim, seal.

use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::limits::{NAME_BYTES_MAX, PRODUCER_BATCHES_MAX};
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Offset, StreamId, StreamName};
use tokio::time::timeout;

use super::answer;
use crate::live_index::LiveIndex;
use crate::member::Member;
use crate::state::{ControlOutcome, State, Stream};

/// Most streams in one answer of `ListStreams`.
const LIST_LEN_MAX: usize = 1_000;

/// How long a call waits for a replica to apply as far as the caller has seen.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a drawn id may be in use before the generator is to blame.
const DRAWS_MAX: usize = 8;

pub(crate) fn stream_info(state: &State, live: &LiveIndex, stream: &Stream) -> pb::StreamInfo {
    pb::StreamInfo {
        name: stream.name.to_string(),
        stream_id: stream.id.get(),
        epoch: state.epoch(),
        first_offset: stream.first.get(),
        next_offset: stream.next.get(),
        shipped_offset: stream.shipped.get(),
        closed: stream.closed,
        last_time_ms: stream.last_time_ms,
        chunk_count: u64::try_from(stream.chunks.len()).unwrap_or(u64::MAX),
        chunk_bytes: stream.chunks.total_len(),
        live_bytes: live.live_bytes(stream.id),
        settings: Some(stream.settings),
    }
}

pub(super) fn parse_name(name: &str) -> Result<StreamName, Refusal> {
    name.parse().map_err(|error| answer::invalid(format!("stream: {error}")))
}

/// The stream of this name; with an id, only if it has that id.
pub(super) fn resolve(
    member: &Member,
    name: &StreamName,
    stream_id: Option<u64>,
) -> Result<Arc<Stream>, Refusal> {
    let stream = member.view.read(|state, _| state.stream_by_name(name).cloned());
    let stream = stream.ok_or_else(|| answer::no_stream(name.as_str()))?;
    match stream_id {
        Some(id) if id != stream.id.get() => Err(answer::recreated(name.as_str(), stream.id.get())),
        Some(_) | None => Ok(stream),
    }
}

/// Only a leader that has just proved it may say what is not there, or how far a stream reaches.
pub(super) async fn leaders_word(member: &Member) -> Result<(), Refusal> {
    member
        .consensus
        .read_barrier()
        .await
        .map_err(|_| answer::failure(crate::appender::Failure::NotLeader))
}

/// Waits until the stream reaches `min_next`, if it is given.
pub(super) async fn wait_for(
    member: &Member,
    stream_id: StreamId,
    min_next: Option<u64>,
) -> Result<(), Refusal> {
    let Some(min_next) = min_next else { return Ok(()) };
    let subscription = member.view.subscribe([stream_id].into());
    let reached = async {
        loop {
            let next = member.view.read(|state, _| state.stream(stream_id).map(|s| s.next.get()));
            if next.is_none_or(|next| next >= min_next) {
                return;
            }
            subscription.changed().await;
        }
    };
    timeout(CATCH_UP_TIMEOUT, reached).await.map_err(|_| {
        Refusal::new(
            Reason::Unavailable,
            format!("the stream has not reached offset {min_next} here; retry"),
        )
    })
}

pub(super) async fn get(
    member: &Member,
    request: pb::GetStreamRequest,
) -> Result<pb::StreamInfo, Refusal> {
    let name = parse_name(&request.stream)?;
    leaders_word(member).await?;
    let stream = resolve(member, &name, None)?;
    wait_for(member, stream.id, request.min_next_offset).await?;
    let info = member.view.read(|state, live| {
        let stream = state.stream_by_name(&name)?;
        Some(stream_info(state, live, stream))
    });
    info.ok_or_else(|| answer::no_stream(name.as_str()))
}

pub(super) async fn list(
    member: &Member,
    request: &pb::ListStreamsRequest,
) -> Result<pb::ListStreamsResponse, Refusal> {
    leaders_word(member).await?;
    let limit = match usize::try_from(request.limit) {
        Ok(0) | Err(_) => LIST_LEN_MAX,
        Ok(limit) => limit.min(LIST_LEN_MAX),
    };
    let after = match request.after.as_str() {
        "" => None,
        name => Some(parse_name(name)?),
    };
    Ok(member.view.read(|state, live| {
        let mut names = state.streams_by_name(&request.prefix, after.as_ref());
        let streams: Vec<_> =
            names.by_ref().take(limit).map(|stream| stream_info(state, live, stream)).collect();
        pb::ListStreamsResponse { streams, more: names.next().is_some() }
    }))
}

pub(super) async fn init_producer(
    member: &Member,
    identity: &str,
    request: pb::InitProducerRequest,
) -> Result<pb::InitProducerResponse, Refusal> {
    let name = parse_name(&request.stream)?;
    leaders_word(member).await?;
    let stream = resolve(member, &name, None)?;
    if request.name.is_empty() || request.name.len() > NAME_BYTES_MAX {
        return Err(answer::invalid(format!("a producer's name has 1 to {NAME_BYTES_MAX} bytes")));
    }
    for _ in 0..DRAWS_MAX {
        let command = Command::InitProducer(stored::InitProducer {
            stream_id: stream.id.get(),
            identity: identity.to_owned(),
            name: request.name.clone(),
            resume_sequence: request.resume_sequence,
            new_id: member.entropy.id53(),
        });
        match member.command(command).await {
            Ok(ControlOutcome::ProducerReady(ready)) => {
                return Ok(pb::InitProducerResponse {
                    id: ready.id,
                    epoch: ready.epoch,
                    next_sequence: ready.next_sequence,
                    known: ready.known,
                    in_flight_max: u32::try_from(PRODUCER_BATCHES_MAX).unwrap_or(u32::MAX),
                });
            }
            Ok(other) => return Err(unexpected(&other)),
            Err(refusal) if refusal.reason() == Reason::Dropped => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Err(Refusal::new(Reason::Unavailable, "the entry was dropped before it was written; retry"))
}

pub(super) async fn trim(
    member: &Member,
    request: pb::TrimRequest,
) -> Result<pb::TrimResponse, Refusal> {
    let name = parse_name(&request.stream)?;
    leaders_word(member).await?;
    let stream = resolve(member, &name, request.stream_id)?;
    let command = Command::Trim(stored::Trim {
        stream_id: stream.id.get(),
        first_offset: request.first_offset,
    });
    let outcome = member.command(command).await?;
    let ControlOutcome::Trimmed { first } = outcome else { return Err(unexpected(&outcome)) };
    Ok(pb::TrimResponse { first_offset: first.get() })
}

/// Cuts what is there now. Several chunks, if it is more than one may hold.
pub(super) async fn seal(
    member: &Member,
    request: pb::SealRequest,
) -> Result<pb::SealResponse, Refusal> {
    let name = parse_name(&request.stream)?;
    leaders_word(member).await?;
    let stream = resolve(member, &name, request.stream_id)?;
    let sealed = member.shipper.seal(stream.id, stream.next).await.map_err(answer::failure)?;
    Ok(pb::SealResponse { sealed_offset: Offset::get(sealed) })
}

pub(crate) fn unexpected(outcome: &ControlOutcome) -> Refusal {
    Refusal::new(Reason::Internal, format!("the command was answered with {outcome:?}"))
}

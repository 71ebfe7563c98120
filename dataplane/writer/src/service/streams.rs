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
use crate::rights::{Caller, Right};
use crate::state::{ControlOutcome, State, Stream};

/// Most streams in one answer of `ListStreams`.
const LIST_LEN_MAX: usize = 1_000;

/// Most streams that `ListStreams` looks at before it lets entries be applied.
const LOOKS_MAX: usize = 1_000;

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

/// The stream of this name, if the caller may do this with it; with an id, only if it has that id.
pub(super) fn resolve(
    member: &Member,
    caller: &Caller,
    right: Right,
    name: &StreamName,
    stream_id: Option<u64>,
) -> Result<Arc<Stream>, Refusal> {
    let stream = member.view.read(|state, _| {
        let stream = state.stream_by_name(name).ok_or_else(|| caller.no_stream(name.as_str()))?;
        caller.check(right, stream, state)?;
        Ok(Arc::clone(stream))
    })?;
    match stream_id {
        Some(id) if id != stream.id.get() => Err(answer::recreated(name.as_str(), stream.id.get())),
        Some(_) | None => Ok(stream),
    }
}

/// The stream that a call began with, unless it was deleted since.
pub(super) fn present<'a>(
    state: &'a State,
    caller: &Caller,
    name: &str,
    id: StreamId,
) -> Result<&'a Arc<Stream>, Refusal> {
    state.stream(id).ok_or_else(|| deleted(state, caller, name))
}

/// The stream that a call began with was deleted; its name may mean another one by now.
pub(super) fn deleted(state: &State, caller: &Caller, name: &str) -> Refusal {
    let other = name.parse().ok().and_then(|name| state.stream_by_name(&name));
    match other.filter(|other| caller.sees(other, state)) {
        Some(other) => answer::recreated(name, other.id.get()),
        None => caller.no_stream(name),
    }
}

/// Only a leader that has just proved it may say what is not there, or how far a stream reaches.
pub(crate) async fn leaders_word(member: &Member) -> Result<(), Refusal> {
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
    caller: &Caller,
    request: pb::GetStreamRequest,
) -> Result<pb::StreamInfo, Refusal> {
    let name = parse_name(&request.stream)?;
    leaders_word(member).await?;
    // Whoever may do anything with a stream may know how far it reaches.
    let look = |state: &State, live: &LiveIndex| {
        let stream = state.stream_by_name(&name).filter(|stream| caller.sees(stream, state));
        let stream = stream.ok_or_else(|| caller.no_stream(name.as_str()))?;
        Ok::<_, Refusal>((stream.id, stream_info(state, live, stream)))
    };
    let (id, info) = member.view.read(look)?;
    if request.min_next_offset.is_none() {
        return Ok(info);
    }
    wait_for(member, id, request.min_next_offset).await?;
    member.view.read(look).map(|(_, info)| info)
}

pub(super) async fn list(
    member: &Member,
    caller: &Caller,
    request: &pb::ListStreamsRequest,
) -> Result<pb::ListStreamsResponse, Refusal> {
    leaders_word(member).await?;
    let limit = match usize::try_from(request.limit) {
        Ok(0) | Err(_) => LIST_LEN_MAX,
        Ok(limit) => limit.min(LIST_LEN_MAX),
    };
    let mut after = match request.after.as_str() {
        "" => None,
        name => Some(parse_name(name)?),
    };
    let mut streams = Vec::new();
    loop {
        // Looked up in parts: few of very many may be the caller's.
        let (last, more) = member.view.read(|state, live| {
            let (mut looks, mut last) = (0, None);
            for stream in state.streams_by_name(&request.prefix, after.as_ref()).take(LOOKS_MAX) {
                if caller.sees(stream, state) {
                    if streams.len() == limit {
                        return (None, true);
                    }
                    streams.push(stream_info(state, live, stream));
                }
                looks += 1;
                last = (looks == LOOKS_MAX).then(|| stream.name.clone());
            }
            (last, false)
        });
        match last {
            Some(last) => after = Some(last),
            None => return Ok(pb::ListStreamsResponse { streams, more }),
        }
        tokio::task::yield_now().await;
    }
}

pub(super) async fn init_producer(
    member: &Member,
    caller: &Caller,
    request: pb::InitProducerRequest,
) -> Result<pb::InitProducerResponse, Refusal> {
    let name = parse_name(&request.stream)?;
    leaders_word(member).await?;
    let stream = resolve(member, caller, Right::Append, &name, None)?;
    if request.name.is_empty() || request.name.len() > NAME_BYTES_MAX {
        return Err(answer::invalid(format!("a producer's name has 1 to {NAME_BYTES_MAX} bytes")));
    }
    for _ in 0..DRAWS_MAX {
        let command = Command::InitProducer(stored::InitProducer {
            stream_id: stream.id.get(),
            identity: caller.identity().to_owned(),
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
    caller: &Caller,
    request: pb::TrimRequest,
) -> Result<pb::TrimResponse, Refusal> {
    let name = parse_name(&request.stream)?;
    leaders_word(member).await?;
    let stream = resolve(member, caller, Right::Manage, &name, request.stream_id)?;
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
    caller: &Caller,
    request: pb::SealRequest,
) -> Result<pb::SealResponse, Refusal> {
    let name = parse_name(&request.stream)?;
    leaders_word(member).await?;
    let stream = resolve(member, caller, Right::Manage, &name, request.stream_id)?;
    let sealed = member.shipper.seal(stream.id, stream.next).await.map_err(answer::failure)?;
    Ok(pb::SealResponse { sealed_offset: Offset::get(sealed) })
}

pub(crate) fn unexpected(outcome: &ControlOutcome) -> Refusal {
    Refusal::new(Reason::Internal, format!("the command was answered with {outcome:?}"))
}

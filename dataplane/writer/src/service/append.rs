//! `Writer.Append`: one session.
//!
//! A session is one stream that reads requests and yields answers, in the order of the requests; no
//! task of its own and no queue besides the answers it waits for. While [`SESSION_BYTES_MAX`] or
//! [`SESSION_APPENDS_MAX`] are in flight, no request is read: HTTP/2 tells the producer to wait.
//!
//! However a session ends, at the producer's wish, with the process, or because a request cannot be
//! read, what was taken before is answered first.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use pyramid_protocol::limits::{APPEND_BYTES_MAX, STREAM_NAME_BYTES_MAX};
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Offset, Records, StreamId, StreamName};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::answer;
use super::streams::{deleted, present};
use crate::appender::{Answer, Append, Failure, SessionStream};
use crate::entry::{Expectation, Producer};
use crate::member::Member;
use crate::metrics::Call;
use crate::rights::{Caller, Right};
use crate::state::{Outcome, Refused, State, Stream as StoredStream};

/// Bytes of one session that may wait for their answers. A single larger append is taken alone.
const SESSION_BYTES_MAX: usize = 16 << 20;

/// Appends of one session that may wait for their answers.
const SESSION_APPENDS_MAX: usize = 4096;

/// Streams that one session may append to.
const SESSION_STREAMS_MAX: usize = 10_000;

/// Streams that one session may be refused for before it ends: their names are remembered, and
/// whoever has no right to any can make up names.
const SESSION_REFUSED_STREAMS_MAX: usize = 256;

struct Session {
    member: Arc<Member>,
    caller: Caller,
    /// Moves when a right to append may have been taken.
    configuration: watch::Receiver<u64>,
    /// What it counted last.
    configured: u64,
    requests: Streaming<pb::AppendRequest>,
    /// No more requests are read.
    requests_end: bool,
    /// Told when all answers are given.
    failed: Option<Status>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Must wait for answers to appends before it.
    held: Option<pb::AppendRequest>,
    streams: HashMap<String, StreamState>,
    /// Streams of which the door has refused an append.
    broken: HashSet<String>,
}

/// What a session remembers of a stream that it has appended to.
struct StreamState {
    stream_id: StreamId,
    revision: u32,
    /// What the configuration counted when the right to append was looked at.
    checked: u64,
    shared: SessionStream,
    /// Appends without an answer.
    unanswered: usize,
    /// Of the append before.
    expects: bool,
    /// Of the append before: id and epoch.
    producer: Option<(u64, u32)>,
}

/// An answer that is there, or will be.
enum Waiting {
    Ready(pb::AppendResponse),
    Queued { stream: String, bytes: usize, arrived: Instant, answer: oneshot::Receiver<Answer> },
}

/// The answers of a session, in the order of its requests.
pub(super) fn answers(
    member: Arc<Member>,
    caller: Caller,
    requests: Streaming<pb::AppendRequest>,
) -> impl Stream<Item = Result<pb::AppendResponse, Status>> {
    let mut configuration = member.view.configuration();
    let configured = *configuration.borrow_and_update();
    let session = Session {
        member,
        caller,
        configuration,
        configured,
        requests,
        requests_end: false,
        failed: None,
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        held: None,
        streams: HashMap::new(),
        broken: HashSet::new(),
    };
    stream::unfold(session, |mut session| async move {
        let answer = session.next_answer().await?;
        Some((answer, session))
    })
}

impl Session {
    /// `None` at the end: no more requests, and all are answered.
    async fn next_answer(&mut self) -> Option<Result<pb::AppendResponse, Status>> {
        loop {
            if let Some(request) = self.held.take() {
                self.admit(request);
            }
            let reads = !self.requests_end
                && self.broken.len() < SESSION_REFUSED_STREAMS_MAX
                && self.held.is_none()
                && self.waiting.len() < SESSION_APPENDS_MAX
                && self.waiting_bytes < SESSION_BYTES_MAX;
            if self.waiting.is_empty() && !reads {
                return self.failed.take().map(Err);
            }
            let shutdown = self.member.shutdown.clone();
            tokio::select! {
                biased;
                response = first_answer(&mut self.waiting) => {
                    return Some(Ok(self.answered(response)));
                }
                // The appender answers what is on its way, and refuses the rest.
                () = shutdown.cancelled(), if reads => self.requests_end = true,
                request = self.requests.message(), if reads => match request {
                    Ok(Some(request)) => self.held = Some(request),
                    Ok(None) => self.requests_end = true,
                    Err(status) => self.end_at(status),
                }
            }
        }
    }

    /// Ends the session at a request that cannot be read: it is too large, or the connection is
    /// gone.
    fn end_at(&mut self, status: Status) {
        self.requests_end = true;
        if status.code() == Code::OutOfRange {
            let refusal = answer::invalid(format!(
                "an append has at most {APPEND_BYTES_MAX} bytes of records; send less at once, in a new session ({})",
                status.message()
            ));
            self.member.metrics.refused(Call::Append, &refusal);
            self.waiting.push_back(Waiting::Ready(answer::append_response(Err(refusal))));
        } else {
            self.failed = Some(status);
        }
    }

    /// Removes the first of the waiting, which is answered.
    fn answered(&mut self, response: FirstAnswer) -> pb::AppendResponse {
        let first = self.waiting.pop_front();
        match (first, response) {
            (Some(Waiting::Queued { stream, bytes, arrived, .. }), FirstAnswer::Queued(answer)) => {
                self.waiting_bytes -= bytes;
                if let Some(state) = self.streams.get_mut(&stream) {
                    state.unanswered -= 1;
                }
                let epoch = self.member.view.read(|state, _| state.epoch());
                let answer = match answer {
                    Ok(Outcome::Refused(Refused::NoStream)) => {
                        Err(gone(&self.member, &self.caller, &stream))
                    }
                    Ok(outcome) => answer::appended(outcome, epoch),
                    Err(failure) => Err(answer::failure(failure)),
                };
                self.member.metrics.answered(&answer, bytes, arrived.elapsed());
                answer::append_response(answer)
            }
            (Some(Waiting::Ready(response)), _) => response,
            (Some(Waiting::Queued { .. }) | None, _) => {
                unreachable!("the first of the waiting was answered as what it is")
            }
        }
    }

    /// Queues the request, answers it, or holds it until answers before it have come.
    fn admit(&mut self, request: pb::AppendRequest) {
        if self.must_wait(&request) {
            self.held = Some(request);
            return;
        }
        let stream = request.stream.clone();
        let (bytes, arrived) = (request.records.len(), Instant::now());
        match self.enqueue(request) {
            Ok(answer) => {
                self.waiting_bytes += bytes;
                self.waiting.push_back(Waiting::Queued { stream, bytes, arrived, answer });
            }
            Err(refusal) => {
                self.member.metrics.refused(Call::Append, &refusal);
                // A longer name is refused whenever it comes, and is not worth the memory.
                if stream.len() <= STREAM_NAME_BYTES_MAX {
                    self.broken.insert(stream);
                }
                self.waiting.push_back(Waiting::Ready(answer::append_response(Err(refusal))));
            }
        }
    }

    /// An append with an expectation holds back those behind it; a change of producer waits for
    /// all before it. All else is pipelined.
    fn must_wait(&self, request: &pb::AppendRequest) -> bool {
        self.streams.get(&request.stream).is_some_and(|state| {
            state.unanswered > 0 && (state.expects || state.producer != producer_of(request))
        })
    }

    fn enqueue(
        &mut self,
        request: pb::AppendRequest,
    ) -> Result<oneshot::Receiver<Answer>, Refusal> {
        let pb::AppendRequest {
            stream,
            stream_id,
            records,
            expected_next_offset,
            epoch,
            producer,
            records_crc32c,
        } = request;
        if self.broken.contains(&stream) {
            return Err(answer::failure(Failure::SessionBroken));
        }
        if self.configuration.has_changed().unwrap_or(false) {
            self.configured = *self.configuration.borrow_and_update();
        }
        let (member, caller, configured) = (&*self.member, &self.caller, self.configured);
        if !self.streams.contains_key(&stream) && self.streams.len() >= SESSION_STREAMS_MAX {
            return Err(answer::invalid(format!(
                "a session appends to at most {SESSION_STREAMS_MAX} streams; begin another"
            )));
        }
        let state = match self.streams.entry(stream.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(first) => {
                first.insert(StreamState::resolve(member, caller, configured, &stream)?)
            }
        };
        if state.checked != configured {
            member.view.read(|view, _| check_right(view, caller, &stream, state.stream_id))?;
            state.checked = configured;
        }
        if state.shared.is_broken() {
            return Err(answer::failure(Failure::SessionBroken));
        }
        if stream_id.is_some_and(|id| id != state.stream_id.get()) {
            return Err(answer::recreated(&stream, state.stream_id.get()));
        }
        let records = checked(records, records_crc32c)?;
        let expectation =
            expected_next_offset.map(|offset| expectation(epoch, offset)).transpose()?;
        let stamped = producer.map(stamped).transpose()?;
        member.view.read(|view, _| {
            let stored = present(view, caller, &stream, state.stream_id)?;
            check_open(stored, caller, producer.map(|producer| producer.id))
        })?;
        let usage = member.usage();
        if usage.refuses_appends() {
            return Err(answer::wal_full(usage));
        }
        let permit = member
            .admission
            .admit(state.stream_id, records.bytes().len(), usage.admitted_permille())
            .map_err(answer::exhausted)?;

        let (answer, answered) = oneshot::channel();
        let append = Append {
            stream_id: state.stream_id,
            stream_revision: state.revision,
            expectation,
            producer: stamped,
            records,
            session: state.shared.clone(),
            permit,
            answer,
        };
        member.appender.append(append).map_err(answer::queue_full)?;
        state.unanswered += 1;
        state.expects = expectation.is_some();
        state.producer = producer.map(|producer| (producer.id, producer.epoch));
        Ok(answered)
    }
}

impl StreamState {
    /// Resolves the name once for the session: id and revision are stamped on all its appends.
    fn resolve(
        member: &Member,
        caller: &Caller,
        configured: u64,
        name: &str,
    ) -> Result<Self, Refusal> {
        let stream: StreamName =
            name.parse().map_err(|error| answer::invalid(format!("stream: {error}")))?;
        if member.appender.log_time_ms().is_none() {
            return Err(answer::failure(Failure::NotLeader));
        }
        let (stream_id, revision) = member.view.read(|state, _| {
            let stream = state.stream_by_name(&stream).ok_or_else(|| caller.no_stream(name))?;
            caller.check(Right::Append, stream, state)?;
            Ok((stream.id, stream.revision))
        })?;
        Ok(Self {
            stream_id,
            revision,
            checked: configured,
            shared: SessionStream::default(),
            unanswered: 0,
            expects: false,
            producer: None,
        })
    }
}

/// The records, walked once. Behind this nothing is checked again.
fn checked(records: Bytes, records_crc32c: Option<u32>) -> Result<Records, Refusal> {
    let records = Records::check(records).map_err(|error| answer::invalid(error.to_string()))?;
    if records_crc32c.is_some_and(|crc32c| crc32c != records.crc32c()) {
        return Err(answer::invalid(
            "the records do not match records_crc32c; they were damaged on their way, send them again",
        ));
    }
    Ok(records)
}

fn expectation(epoch: u32, offset: u64) -> Result<Expectation, Refusal> {
    Expectation::new(epoch, Offset::new(offset))
        .ok_or_else(|| answer::invalid("expected_next_offset is out of range"))
}

fn stamped(producer: pb::Producer) -> Result<Producer, Refusal> {
    let pb::Producer { id, epoch, sequence } = producer;
    Producer::new(id, epoch, sequence)
        .ok_or_else(|| answer::invalid("a producer's id is 1 to 2^53 - 1"))
}

fn producer_of(request: &pb::AppendRequest) -> Option<(u64, u32)> {
    request.producer.map(|producer| (producer.id, producer.epoch))
}

/// A closed stream takes no appends. Those with a producer pass all the same: only apply knows
/// whether one of them is a retry of what was written before. A producer is used by its owner only.
fn check_open(
    stream: &StoredStream,
    caller: &Caller,
    producer_id: Option<u64>,
) -> Result<(), Refusal> {
    let Some(producer_id) = producer_id else {
        let closed = || Refusal::new(Reason::Closed, "the stream is closed for appends");
        return if stream.closed { Err(closed()) } else { Ok(()) };
    };
    match stream.producers.by_id(producer_id) {
        Some(producer) if !caller.owns(&producer.identity) => {
            Err(answer::refusal(Refused::UnknownProducer))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_right(state: &State, caller: &Caller, name: &str, id: StreamId) -> Result<(), Refusal> {
    caller.check(Right::Append, present(state, caller, name, id)?, state)
}

fn gone(member: &Member, caller: &Caller, name: &str) -> Refusal {
    member.view.read(|state, _| deleted(state, caller, name))
}

enum FirstAnswer {
    Ready,
    Queued(Answer),
}

/// Waits for the answer to the oldest request. Pending for ever when there is none.
///
/// # Cancel safety
///
/// An answer that came is kept until the next call.
async fn first_answer(waiting: &mut VecDeque<Waiting>) -> FirstAnswer {
    match waiting.front_mut() {
        None => std::future::pending().await,
        Some(Waiting::Ready(_)) => FirstAnswer::Ready,
        // The appender drops an answer's channel only when the process ends.
        Some(Waiting::Queued { answer, .. }) => {
            FirstAnswer::Queued(answer.await.unwrap_or(Err(Failure::Unknown)))
        }
    }
}

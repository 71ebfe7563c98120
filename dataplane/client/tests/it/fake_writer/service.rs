//! The calls of the fake Writer.

use std::collections::HashSet;
use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use pyramid_protocol::limits::{LOCATIONS_PER_READ_MAX, PRODUCER_BATCHES_MAX};
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::read_request::Start;
use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::writer_server::Writer;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Offset, Records};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::{FakeProducer, FakeStream, Shared, State, TIME_MS, refusal};

pub(crate) struct Service(pub(crate) Shared);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Live batches in one message, so that tests see several messages.
const BATCHES_PER_MESSAGE: usize = 3;

fn not_leader(state: &State) -> Result<(), Refusal> {
    match &state.leader {
        None => Ok(()),
        Some(address) => {
            Err(refusal(Reason::NotLeader).with_detail(Detail::LeaderAddress(address.clone())))
        }
    }
}

fn info(name: &str, stream: &FakeStream) -> pb::StreamInfo {
    pb::StreamInfo {
        name: name.to_owned(),
        stream_id: stream.id,
        epoch: stream.epoch,
        first_offset: stream.first,
        next_offset: stream.next(),
        shipped_offset: stream.shipped(),
        ..pb::StreamInfo::default()
    }
}

#[tonic::async_trait]
impl Writer for Service {
    type AppendStream = Answers<pb::AppendResponse>;
    type ReadStream = Answers<pb::ReadResponse>;
    type WatchStream = Answers<pb::WatchResponse>;
    type AttachStream = Answers<pb::AttachResponse>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.0.lock().sessions += 1;
        let session = Session { shared: self.0.clone(), broken: HashSet::new() };
        let answers = stream::unfold(
            (request.into_inner(), session),
            |(mut requests, mut session)| async move {
                let request = requests.message().await.ok()??;
                let answer = session.append(request)?;
                Some((Ok(pb::AppendResponse { answer: Some(answer) }), (requests, session)))
            },
        );
        Ok(Response::new(Box::pin(answers)))
    }

    async fn read(
        &self,
        request: Request<pb::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        self.0.lock().reads += 1;
        let read = Read {
            changed: self.0.changed.subscribe(),
            shared: self.0.clone(),
            request: request.into_inner(),
            cursor: None,
            locations: 0,
            live: false,
            told: None,
            records: 0,
            ended: false,
        };
        let items = stream::unfold(read, |mut read| async move {
            let item = read.next().await?;
            Some((Ok(pb::ReadResponse { item: Some(item) }), read))
        });
        Ok(Response::new(Box::pin(items)))
    }

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        not_leader(&self.0.lock())?;
        let names = request.into_inner().streams;
        let shared = self.0.clone();
        let messages = tokio_stream::wrappers::WatchStream::new(self.0.changed.subscribe());
        let messages = messages.map(move |_| {
            let state = shared.lock();
            let streams = names
                .iter()
                .map(|name| pb::WatchedStream {
                    stream: name.clone(),
                    next: state.streams.get(name).map(|stream| pb::Position {
                        stream_id: stream.id,
                        epoch: stream.epoch,
                        offset: stream.next(),
                    }),
                })
                .collect();
            Ok(pb::WatchResponse { streams })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        not_leader(&self.0.lock())?;
        let mut requests = request.into_inner();
        let Some(pb::AttachRequest { message: Some(pb::attach_request::Message::Hello(hello)) }) =
            requests.message().await?
        else {
            return Err(Status::invalid_argument("hello comes first"));
        };
        let mut changed = self.0.changed.subscribe();
        changed.mark_changed();
        self.0.change(|state| {
            state.attached += 1;
            state.hellos.insert(hello.subscription.clone(), hello.clone());
        });
        let attached = Attached {
            shared: self.0.clone(),
            subscription: hello.subscription,
            requests,
            changed,
            told: None,
        };
        let messages = stream::unfold(attached, |mut attached| async move {
            let message = attached.next().await?;
            Some((Ok(pb::AttachResponse { message: Some(message) }), attached))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn get_stream(
        &self,
        request: Request<pb::GetStreamRequest>,
    ) -> Result<Response<pb::StreamInfo>, Status> {
        let state = self.0.lock();
        not_leader(&state)?;
        let name = request.into_inner().stream;
        let stream = state.streams.get(&name).ok_or(refusal(Reason::NotFound))?;
        Ok(Response::new(info(&name, stream)))
    }

    async fn list_streams(
        &self,
        _request: Request<pb::ListStreamsRequest>,
    ) -> Result<Response<pb::ListStreamsResponse>, Status> {
        let state = self.0.lock();
        not_leader(&state)?;
        let streams = state.streams.iter().map(|(name, stream)| info(name, stream)).collect();
        Ok(Response::new(pb::ListStreamsResponse { streams, more: false }))
    }

    async fn init_producer(
        &self,
        request: Request<pb::InitProducerRequest>,
    ) -> Result<Response<pb::InitProducerResponse>, Status> {
        let pb::InitProducerRequest { stream, name, resume_sequence } = request.into_inner();
        self.0.change(|state| {
            not_leader(state)?;
            let stream = state.streams.get_mut(&stream).ok_or(refusal(Reason::NotFound))?;
            let held = stream.producers.iter().find(|(_, held)| held.name == name);
            let known = held.map(|(id, _)| *id);
            if known.is_none() && resume_sequence.is_some() {
                return Err(refusal(Reason::UnknownProducer).into());
            }
            let id = known.unwrap_or(100 + u64::try_from(stream.producers.len()).unwrap());
            let producer = stream.producers.entry(id).or_default();
            producer.name = name;
            producer.epoch += 1;
            Ok(Response::new(pb::InitProducerResponse {
                id,
                epoch: producer.epoch,
                next_sequence: producer.next_sequence,
                known: known.is_some(),
                in_flight_max: u32::try_from(PRODUCER_BATCHES_MAX).unwrap(),
            }))
        })
    }

    async fn trim(
        &self,
        request: Request<pb::TrimRequest>,
    ) -> Result<Response<pb::TrimResponse>, Status> {
        let pb::TrimRequest { stream, first_offset, .. } = request.into_inner();
        self.0.change(|state| {
            let stream = state.streams.get_mut(&stream).ok_or(refusal(Reason::NotFound))?;
            stream.first = stream.first.max(first_offset);
            Ok(Response::new(pb::TrimResponse { first_offset: stream.first }))
        })
    }

    async fn seal(
        &self,
        _request: Request<pb::SealRequest>,
    ) -> Result<Response<pb::SealResponse>, Status> {
        Err(refusal(Reason::Unimplemented).into())
    }
}

struct Session {
    shared: Shared,
    broken: HashSet<String>,
}

impl Session {
    /// `None`: the connection breaks before the answer leaves.
    fn append(&mut self, request: pb::AppendRequest) -> Option<Answer> {
        let stream = request.stream.clone();
        let answer = if self.broken.contains(&stream) {
            Err(refusal(Reason::SessionBroken))
        } else {
            self.shared.change(|state| write(state, request))
        };
        if answer.is_err() {
            self.broken.insert(stream);
        }
        let lost = self.shared.change(|state| match &mut state.lose_answer_in {
            Some(0 | 1) => state.lose_answer_in.take(),
            Some(more) => {
                *more -= 1;
                None
            }
            None => None,
        });
        if lost.is_some() {
            self.shared.network.break_connections();
            return None;
        }
        Some(match answer {
            Ok(appended) => Answer::Appended(appended),
            Err(refusal) => Answer::Refused(refusal),
        })
    }
}

fn write(state: &mut State, request: pb::AppendRequest) -> Result<pb::Appended, Refusal> {
    not_leader(state)?;
    if let Some(refusal) = state.refuse_appends.pop_front() {
        return Err(refusal);
    }
    let records = Records::check(request.records).map_err(|_| refusal(Reason::Invalid))?;
    let stream = state.streams.get_mut(&request.stream).ok_or(refusal(Reason::NotFound))?;
    let appended = |first: u64, duplicate| pb::Appended {
        first_offset: Some(first),
        next_offset: Some(first + u64::from(records.count())),
        epoch: 1,
        append_time_ms: TIME_MS,
        duplicate,
    };
    if let Some(pb::Producer { id, epoch, sequence }) = request.producer {
        let held = stream.producers.get(&id).ok_or(refusal(Reason::UnknownProducer))?;
        let same = held
            .batches
            .iter()
            .find(|(first, count, _)| (*first, *count) == (sequence, records.count()));
        if let Some((_, _, first)) = same {
            return Ok(appended(*first, true));
        }
        if epoch < held.epoch {
            return Err(refusal(Reason::Fenced));
        }
        if sequence != held.next_sequence {
            let expected = Detail::ExpectedSequence(held.next_sequence);
            return Err(refusal(Reason::OutOfOrder).with_detail(expected));
        }
    }
    if request.expected_next_offset.is_some_and(|expected| expected != stream.next()) {
        return Err(refusal(Reason::WrongOffset).with_detail(Detail::NextOffset(stream.next())));
    }
    let first = stream.append(&records);
    if let Some(pb::Producer { id, sequence, .. }) = request.producer {
        let held: &mut FakeProducer = stream.producers.entry(id).or_default();
        held.next_sequence = sequence + u64::from(records.count());
        held.batches.push_back((sequence, records.count(), first));
        if held.batches.len() > PRODUCER_BATCHES_MAX {
            held.batches.pop_front();
        }
    }
    Ok(appended(first, false))
}

struct Read {
    shared: Shared,
    changed: watch::Receiver<u64>,
    request: pb::ReadRequest,
    cursor: Option<(u64, u64)>,
    locations: usize,
    live: bool,
    /// The end that was told with `CaughtUp`.
    told: Option<u64>,
    records: u64,
    ended: bool,
}

enum Next {
    Item(Item),
    End(Item),
    Wait,
    Ended,
}

impl Read {
    async fn next(&mut self) -> Option<Item> {
        if self.ended {
            return None;
        }
        loop {
            self.changed.mark_unchanged();
            match self.look().unwrap_or_else(|refusal| Next::End(Item::Refused(refusal))) {
                Next::Item(item) => return Some(item),
                Next::End(item) => {
                    self.ended = true;
                    return Some(item);
                }
                Next::Ended => return None,
                Next::Wait => self.changed.changed().await.ok()?,
            }
        }
    }

    fn look(&mut self) -> Result<Next, Refusal> {
        let mut state = self.shared.lock();
        not_leader(&state)?;
        if let Some(refusal) = state.refuse_reads.pop_front() {
            return Err(refusal);
        }
        let mut locations = state.locations;
        let stream = state.streams.get(&self.request.stream).ok_or(refusal(Reason::NotFound))?;
        let Some((id, cursor)) = self.cursor else {
            let cursor = begin(&self.request, stream)?;
            self.cursor = Some((stream.id, cursor));
            let position =
                pb::Position { stream_id: stream.id, epoch: stream.epoch, offset: cursor };
            return Ok(Next::Item(Item::Start(pb::ReadStart {
                position: Some(position),
                first_offset: stream.first,
                next_offset: stream.next(),
            })));
        };
        if stream.id != id {
            return Err(
                refusal(Reason::StreamRecreated).with_detail(Detail::NewStreamId(stream.id))
            );
        }
        if cursor < stream.first {
            return Err(refusal(Reason::Trimmed).with_detail(Detail::FirstOffset(stream.first)));
        }
        if self.request.max_records > 0 && self.records >= self.request.max_records {
            return Ok(Next::Ended);
        }
        if self.request.want_locations && cursor < stream.shipped() {
            if self.live || self.locations == LOCATIONS_PER_READ_MAX {
                return Ok(Next::End(Item::Moved(pb::Moved { offset: cursor })));
            }
            let chunk = stream.chunks.iter().find(|chunk| cursor < chunk.next_offset).unwrap();
            let chunk = chunk.clone();
            self.locations += 1;
            locations += 1;
            state.locations = locations;
            self.records += chunk.next_offset - cursor;
            self.cursor = Some((id, chunk.next_offset));
            return Ok(Next::Item(Item::Chunk(chunk)));
        }
        if cursor < stream.next() {
            let batches = stream
                .batches
                .iter()
                .filter(|batch| cursor < batch.next_offset().get())
                .take(BATCHES_PER_MESSAGE)
                .map(|batch| batch.skip_to(batch.base_offset.max(Offset::new(cursor))).unwrap())
                .collect::<Vec<_>>();
            let next = batches.last().unwrap().next_offset().get();
            self.live = true;
            self.records += next - cursor;
            self.cursor = Some((id, next));
            let batches = batches.iter().map(pyramid_protocol::Batch::encode).collect();
            return Ok(Next::Item(Item::Batches(pb::ReadBatches { batches })));
        }
        if self.told != Some(cursor) {
            self.told = Some(cursor);
            let item = Item::CaughtUp(pb::CaughtUp { next_offset: cursor });
            return Ok(if self.request.follow { Next::Item(item) } else { Next::End(item) });
        }
        Ok(Next::Wait)
    }
}

fn begin(request: &pb::ReadRequest, stream: &FakeStream) -> Result<u64, Refusal> {
    if request.stream_id.is_some_and(|id| id != stream.id) {
        return Err(refusal(Reason::StreamRecreated).with_detail(Detail::NewStreamId(stream.id)));
    }
    let cursor = match request.start {
        Some(Start::Offset(offset)) => offset,
        Some(Start::LastRecords(records)) => {
            stream.next().saturating_sub(records).max(stream.first)
        }
        Some(Start::TimeMs(time_ms)) if time_ms <= TIME_MS => stream.first,
        Some(Start::TimeMs(_)) => stream.next(),
        None => return Err(refusal(Reason::Invalid)),
    };
    if let Some(epoch) = request.epoch {
        let newer = stream.safe.iter().filter(|(recorded, _)| *recorded > epoch);
        if let Some(safe) = newer.map(|(_, safe)| *safe).min().filter(|safe| *safe < cursor) {
            return Err(refusal(Reason::EpochChanged).with_detail(Detail::SafeOffset(safe)));
        }
    }
    if cursor < stream.first {
        return Err(refusal(Reason::Trimmed).with_detail(Detail::FirstOffset(stream.first)));
    }
    if cursor > stream.next() {
        return Err(refusal(Reason::BeyondNext).with_detail(Detail::NextOffset(stream.next())));
    }
    Ok(cursor)
}

struct Attached {
    shared: Shared,
    subscription: String,
    requests: Streaming<pb::AttachRequest>,
    changed: watch::Receiver<u64>,
    told: Option<pb::Assignment>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.shared.change(|state| state.attached -= 1);
    }
}

impl Attached {
    async fn next(&mut self) -> Option<pb::attach_response::Message> {
        loop {
            tokio::select! {
                request = self.requests.message() => {
                    let Ok(Some(pb::AttachRequest {
                        message: Some(pb::attach_request::Message::Report(report)),
                    })) = request else { return None };
                    self.shared.change(|state| {
                        state.words += 1;
                        for report in report.streams {
                            let place = (self.subscription.clone(), report.stream.clone());
                            state.reports.insert(place, report);
                        }
                    });
                }
                changed = self.changed.changed() => {
                    changed.ok()?;
                    let assignment = {
                        let state = self.shared.lock();
                        state.assignments.get(&self.subscription).cloned()
                    };
                    let Some(assignment) = assignment else {
                        self.shared.change(|state| state.refused_attachments += 1);
                        let refusal = refusal(Reason::NotFound);
                        return Some(pb::attach_response::Message::Refused(refusal));
                    };
                    if self.told.as_ref() != Some(&assignment) {
                        self.told = Some(assignment.clone());
                        return Some(pb::attach_response::Message::Assignment(assignment));
                    }
                }
            }
        }
    }
}

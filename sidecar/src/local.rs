//! `Local`: the application's way to its streams, through its own pusher.
//!
//! Served on a loopback address only: the pod is the boundary, and there is no token.

mod sessions;
mod writer;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use pyramid_client::append;
use pyramid_client::read::{self, Item};
use pyramid_client::{ByteBudget, Reader};
use pyramid_protocol::limits::MESSAGE_BYTES_MAX;
use pyramid_protocol::net::{self, Accept};
use pyramid_protocol::pb::v1::local_server::{Local, LocalServer};
use pyramid_protocol::pb::v1::read_request::Start;
use pyramid_protocol::pb::v1::read_response::Item as PbItem;
use pyramid_protocol::pb::v1::writer_server::WriterServer;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Batch, Offset, Position, StreamId, StreamName};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::sessions::Sessions;
use crate::drain::Drain;
use crate::pusher::Error;
use crate::routes::{Routes, Upstream};
use crate::status::{Board, Status as StreamStatus};

/// Longest wait of `WaitApplied`.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// At a stop, calls that are on their way have this long.
const LAST_CALLS_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection to the Writer that does not come back ends a read after this long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Answers the application.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    routes: watch::Receiver<Arc<Routes>>,
    /// What reads hold together.
    memory: ByteBudget,
    board: Board,
    drain: Drain,
}

impl Service {
    pub(crate) fn new(
        routes: watch::Receiver<Arc<Routes>>,
        memory: ByteBudget,
        board: Board,
        drain: Drain,
    ) -> Self {
        Self { routes, memory, board, drain }
    }

    /// The Writer of a stream, and the stream's whole name.
    fn route(&self, stream: &str) -> Result<(String, Arc<Upstream>), Refusal> {
        let routes = self.routes.borrow();
        let name = routes.whole_name(stream);
        let upstream = Arc::clone(routes.upstream(&name)?);
        Ok((name, upstream))
    }
}

/// Serves until it is stopped.
pub(crate) async fn serve(
    service: Service,
    address: SocketAddr,
    accept: impl Accept,
    stop: CancellationToken,
) -> Result<(), Error> {
    let as_writer = WriterServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let service = LocalServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let serving = net::server()
        .add_service(service)
        .add_service(as_writer)
        .serve_with_incoming_shutdown(net::incoming(accept), stop.clone().cancelled_owned());
    let last_calls = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_CALLS_TIMEOUT).await;
    };
    tokio::select! {
        served = serving => served.map_err(|source| Error::Serve { address, source }),
        // A read that follows would never end by itself.
        () = last_calls => Ok(()),
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Local for Service {
    type AppendStream = Answers<pb::AppendResponse>;
    type ReadStream = Answers<pb::ReadResponse>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (sessions, requests) = (Sessions::new(self.clone()), request.into_inner());
        // One after the other into the sessions, and out in the same order.
        let pending = stream::unfold((sessions, requests), |(mut sessions, mut requests)| async {
            let pending = match requests.message().await {
                Ok(Some(request)) => sessions.append(request).await,
                Ok(None) => return None,
                Err(status) => Err(status),
            };
            Some((pending, (sessions, requests)))
        });
        let answers = pending
            .map(|pending| async { Ok(pending?.answer().await) })
            .buffered(append::Options::default().in_flight_max);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn init_producer(
        &self,
        request: Request<pb::InitProducerRequest>,
    ) -> Result<Response<pb::InitProducerResponse>, Status> {
        let mut request = request.into_inner();
        let (name, upstream) = self.route(&request.stream)?;
        request.stream = name;
        let answer = upstream.client.init_producer(request).await;
        answer.map(Response::new).map_err(|error| error.into_refusal().into())
    }

    async fn get_stream(
        &self,
        request: Request<pb::GetStreamRequest>,
    ) -> Result<Response<pb::StreamInfo>, Status> {
        let mut request = request.into_inner();
        let (name, upstream) = self.route(&request.stream)?;
        request.stream = name;
        let answer = upstream.client.get_stream(request).await;
        answer.map(Response::new).map_err(|error| error.into_refusal().into())
    }

    async fn read(
        &self,
        request: Request<pb::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let mut request = request.into_inner();
        let (name, upstream) = self.route(&request.stream)?;
        request.stream = name;
        let options = self.read_options(request, &upstream)?;
        let reader = Reader::new(upstream.client.clone(), options);
        Ok(Response::new(Box::pin(reader.filter_map(|item| async { read_response(item) }))))
    }

    async fn wait_applied(
        &self,
        request: Request<pb::WaitAppliedRequest>,
    ) -> Result<Response<pb::WaitAppliedResponse>, Status> {
        let pb::WaitAppliedRequest { stream, position, timeout_ms } = request.into_inner();
        let position = position.ok_or_else(|| invalid("position is missing"))?;
        let position = Position::try_from(position).map_err(|error| invalid(&error.to_string()))?;
        let wait = Duration::from_millis(timeout_ms.into());
        if wait > WAIT_MAX {
            return Err(invalid("timeout_ms is at most 60000"));
        }
        let stream = self.routes.borrow().whole_name(&stream);
        let accepted = self.applied(&stream, position, Instant::now() + wait).await?;
        Ok(Response::new(pb::WaitAppliedResponse { accepted: Some(accepted.into()) }))
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let connected = self.board.is_attached();
        Ok(Response::new(pb::StatusResponse { connected, streams: self.board.all() }))
    }

    async fn drain(
        &self,
        _request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        self.drain.drain().await;
        Ok(Response::new(pb::DrainResponse {}))
    }
}

impl Service {
    fn read_options(
        &self,
        request: pb::ReadRequest,
        upstream: &Upstream,
    ) -> Result<read::Options, Status> {
        let pb::ReadRequest {
            stream,
            stream_id,
            epoch,
            start,
            follow,
            // The application has neither a fetcher nor a right to the object store.
            want_locations: _,
            max_records,
            max_bytes,
            min_next_offset,
        } = request;
        let stream: StreamName = stream
            .parse()
            .map_err(|error: pyramid_protocol::stream_name::Error| invalid(&error.to_string()))?;
        let start = match start {
            Some(Start::Offset(offset)) => read::Start::Offset(Offset::new(offset)),
            Some(Start::TimeMs(time_ms)) => read::Start::TimeMs(time_ms),
            Some(Start::LastRecords(records)) => read::Start::LastRecords(records),
            // From the first record that is kept, as the Writer does.
            None => read::Start::LastRecords(u64::MAX),
        };
        let stream_id = match stream_id.map(StreamId::new) {
            Some(None) => return Err(invalid("stream_id is 1 to 2^53 - 1")),
            Some(id) => id,
            None => None,
        };
        Ok(read::Options {
            stream_id,
            epoch,
            follow,
            max_records,
            max_bytes,
            min_next_offset: min_next_offset.map(Offset::new),
            fetcher: upstream.fetcher.clone(),
            budget: self.memory.clone(),
            give_up_after: Some(GIVE_UP_AFTER),
            ..read::Options::new(stream, start)
        })
    }

    /// Waits until every subscription of this pusher that has the stream is at `position` or behind
    /// it.
    async fn applied(
        &self,
        stream: &str,
        position: Position,
        deadline: Instant,
    ) -> Result<Position, Status> {
        let mut changes = self.board.changes();
        loop {
            changes.mark_unchanged();
            let statuses = self.board.of_stream(stream);
            if statuses.is_empty() && self.board.is_complete() {
                let message = format!("this pusher has no subscription to {stream}");
                return Err(Refusal::new(Reason::NotFound, message).into());
            }
            let applied: Option<Vec<Position>> =
                statuses.iter().map(|status| at_least(status, position)).collect();
            let least = applied.into_iter().flatten().min_by_key(|applied| applied.offset);
            if let Some(least) = least {
                return Ok(least);
            }
            if !in_time(&mut changes, deadline).await {
                let what = statuses.iter().map(describe).collect::<Vec<_>>().join("; ");
                return Err(Status::deadline_exceeded(format!("not at {position} yet: {what}")));
            }
        }
    }
}

fn at_least(status: &StreamStatus, position: Position) -> Option<Position> {
    status.accepted.filter(|accepted| {
        accepted.stream_id == position.stream_id
            && accepted.epoch >= position.epoch
            && accepted.offset >= position.offset
    })
}

async fn in_time(changes: &mut watch::Receiver<u64>, deadline: Instant) -> bool {
    matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(())))
}

fn describe(status: &StreamStatus) -> String {
    let at = match status.accepted {
        Some(accepted) => accepted.to_string(),
        None => "no position known yet".to_owned(),
    };
    format!("{at}, {} {}", status.state.as_str_name(), status.message)
}

/// What the application sees of an item; nothing of a reconnect.
fn read_response(item: Result<Item, read::Error>) -> Option<Result<pb::ReadResponse, Status>> {
    let item = match item {
        Ok(Item::Started { position, first_offset, next_offset }) => PbItem::Start(pb::ReadStart {
            position: Some(position.into()),
            first_offset: first_offset.get(),
            next_offset: next_offset.get(),
        }),
        Ok(Item::Batches(batches)) => PbItem::Batches(pb::ReadBatches {
            batches: batches.batches.iter().map(Batch::encode).collect(),
        }),
        Ok(Item::CaughtUp(next)) => PbItem::CaughtUp(pb::CaughtUp { next_offset: next.get() }),
        Ok(Item::Interrupted(_)) => return None,
        Err(read::Error::Refused(refusal)) => PbItem::Refused(*refusal),
        Err(read::Error::NoAnswer { last }) => {
            PbItem::Refused(Refusal::new(Reason::Unavailable, last))
        }
    };
    Some(Ok(pb::ReadResponse { item: Some(item) }))
}

fn invalid(message: &str) -> Status {
    Refusal::new(Reason::Invalid, message).into()
}

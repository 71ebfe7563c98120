//! The `Writer` service, as producers, pushers and the command see it.
//!
//! A method here turns messages into words, makes one call, and turns the answer back. Decisions
//! are made elsewhere. Calls that last end with the process by themselves, each with its own last
//! word.

mod answer;
mod append;
mod attach;
mod read;
mod streams;
mod watch;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use pyramid_protocol::pb::v1::writer_server::Writer;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_telemetry::metrics::Held;
use tokio::sync::watch as tokio_watch;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::answer::{control_refusal, failure as command_failure, recreated, wal_full};
pub(crate) use self::streams::{leaders_word, stream_info, unexpected};
use crate::member::{Member, Phase};
use crate::metrics::Call;
use crate::rights::Caller;

/// Answers of a call that has many.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service. Before the replica is a member of a cluster it refuses every call, retryably.
pub struct WriterService {
    phase: tokio_watch::Receiver<Phase>,
}

impl WriterService {
    /// Serves the member once there is one.
    #[must_use]
    pub fn new(phase: tokio_watch::Receiver<Phase>) -> Self {
        Self { phase }
    }

    fn member(&self) -> Result<Arc<Member>, Refusal> {
        match &*self.phase.borrow() {
            Phase::Serving(member) => Ok(Arc::clone(member)),
            Phase::Starting(_) => Err(starting()),
            Phase::Empty => Err(Refusal::new(
                Reason::Unavailable,
                "this replica holds no data yet; it waits to be founded (Admin.Bootstrap)",
            )),
        }
    }
}

/// The replica reads its log, or stands for election.
pub(crate) fn starting() -> Refusal {
    Refusal::new(Reason::Unavailable, "this replica starts; retry")
}

/// A call counts as open as long as its answers are there.
fn open_while<T>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    open: Held,
) -> Answers<T> {
    Box::pin(answers.inspect(move |_| {
        let _still_open = &open;
    }))
}

#[tonic::async_trait]
impl Writer for WriterService {
    type AppendStream = Answers<pb::AppendResponse>;
    type ReadStream = Answers<pb::ReadResponse>;
    type WatchStream = Answers<pb::WatchResponse>;
    type AttachStream = Answers<pb::AttachResponse>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (member, caller) = (self.member()?, Caller::of(&request)?);
        let open = member.metrics.open_calls.hold(Call::Append);
        Ok(Response::new(open_while(append::answers(member, caller, request.into_inner()), open)))
    }

    async fn read(
        &self,
        request: Request<pb::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let (member, caller) = (self.member()?, Caller::of(&request)?);
        let open = member.metrics.open_calls.hold(Call::Read);
        Ok(Response::new(open_while(read::items(member, caller, request.into_inner()), open)))
    }

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (member, caller) = (self.member()?, Caller::of(&request)?);
        let shutdown = member.shutdown.clone().cancelled_owned();
        let open = member.metrics.open_calls.hold(Call::Watch);
        let answers = watch::answers(member, caller, request.get_ref())?;
        Ok(Response::new(open_while(answers.take_until(shutdown), open)))
    }

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (member, caller) = (self.member()?, Caller::of(&request)?);
        let open = member.metrics.open_calls.hold(Call::Attach);
        Ok(Response::new(open_while(attach::answers(member, caller, request.into_inner()), open)))
    }

    async fn get_stream(
        &self,
        request: Request<pb::GetStreamRequest>,
    ) -> Result<Response<pb::StreamInfo>, Status> {
        let caller = Caller::of(&request)?;
        let info = streams::get(&*self.member()?, &caller, request.into_inner()).await?;
        Ok(Response::new(info))
    }

    async fn list_streams(
        &self,
        request: Request<pb::ListStreamsRequest>,
    ) -> Result<Response<pb::ListStreamsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let streams = streams::list(&*self.member()?, &caller, request.get_ref()).await?;
        Ok(Response::new(streams))
    }

    async fn init_producer(
        &self,
        request: Request<pb::InitProducerRequest>,
    ) -> Result<Response<pb::InitProducerResponse>, Status> {
        let caller = Caller::of(&request)?;
        let producer =
            streams::init_producer(&*self.member()?, &caller, request.into_inner()).await?;
        Ok(Response::new(producer))
    }

    async fn trim(
        &self,
        request: Request<pb::TrimRequest>,
    ) -> Result<Response<pb::TrimResponse>, Status> {
        let caller = Caller::of(&request)?;
        let trimmed = streams::trim(&*self.member()?, &caller, request.into_inner()).await?;
        Ok(Response::new(trimmed))
    }

    async fn seal(
        &self,
        request: Request<pb::SealRequest>,
    ) -> Result<Response<pb::SealResponse>, Status> {
        let caller = Caller::of(&request)?;
        let sealed = streams::seal(&*self.member()?, &caller, request.into_inner()).await?;
        Ok(Response::new(sealed))
    }
}

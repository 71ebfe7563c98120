//! The same calls under the name of `pyramid.v1.Writer`: what knows how to speak to a Writer, such as
//! the `pyramid` command, can be pointed at the pusher of its pod.

use pyramid_protocol::pb::v1::local_server::Local;
use pyramid_protocol::pb::v1::writer_server::Writer;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use tonic::{Request, Response, Status, Streaming};

use crate::local::{Answers, Service};

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
        Local::append(self, request).await
    }

    async fn read(
        &self,
        request: Request<pb::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        Local::read(self, request).await
    }

    async fn get_stream(
        &self,
        request: Request<pb::GetStreamRequest>,
    ) -> Result<Response<pb::StreamInfo>, Status> {
        Local::get_stream(self, request).await
    }

    async fn init_producer(
        &self,
        request: Request<pb::InitProducerRequest>,
    ) -> Result<Response<pb::InitProducerResponse>, Status> {
        Local::init_producer(self, request).await
    }

    async fn watch(
        &self,
        _request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(not_here())
    }

    async fn attach(
        &self,
        _request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(not_here())
    }

    async fn list_streams(
        &self,
        _request: Request<pb::ListStreamsRequest>,
    ) -> Result<Response<pb::ListStreamsResponse>, Status> {
        Err(not_here())
    }

    async fn trim(
        &self,
        _request: Request<pb::TrimRequest>,
    ) -> Result<Response<pb::TrimResponse>, Status> {
        Err(not_here())
    }

    async fn seal(
        &self,
        _request: Request<pb::SealRequest>,
    ) -> Result<Response<pb::SealResponse>, Status> {
        Err(not_here())
    }
}

fn not_here() -> Status {
    let message = "a pusher passes on appends and reads only (in the command: append, read, \
                   tail, info); this call needs the Writer's own address, with --writer and --tls";
    Refusal::new(Reason::Unimplemented, message).into()
}

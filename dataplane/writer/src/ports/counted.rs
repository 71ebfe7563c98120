//! [`Counted`]: a gRPC service whose refused calls are counted, whoever refuses them.
//!
//! Refusals inside of a call that has begun are answers there, and are counted where they are made.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use pyramid_protocol::pb::v1::Refusal;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::metrics::{Call, Metrics};

#[derive(Clone)]
pub(super) struct Counted<S> {
    pub(super) service: S,
    pub(super) metrics: Arc<Metrics>,
}

impl<S: NamedService> NamedService for Counted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = BoxFuture<Response<R>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let metrics = Arc::clone(&self.metrics);
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // A call that was refused before it began says so in its head.
            let status = Status::from_header_map(answer.headers());
            if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
                metrics.refused(Call::Other, &Refusal::from_status(&status));
            }
            Ok(answer)
        })
    }
}

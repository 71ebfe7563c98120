//! The gRPC shell around [`consumer::push`].

use std::sync::{Arc, Mutex, PoisonError};

use pyramid_protocol::net::{self, Accept};
use pyramid_protocol::pb::v1::consumer_server::{Consumer, ConsumerServer};
use pyramid_protocol::pb::v1::{PushRequest, PushResponse};
use rusqlite::Connection;
use tonic::{Request, Response, Status};

use crate::consumer;

struct Service {
    /// Of several pushes at a time one goes on; the pusher of one stream sends one at a time.
    database: Arc<Mutex<Connection>>,
}

#[tonic::async_trait]
impl Consumer for Service {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        let database = Arc::clone(&self.database);
        let push = move || {
            // A panic left no open transaction behind: dropping one rolls it back.
            let mut database = database.lock().unwrap_or_else(PoisonError::into_inner);
            consumer::push(&mut database, request.into_inner())
        };
        let answer = tokio::task::spawn_blocking(push)
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            // The pusher tries again; nothing was stored.
            .map_err(|error| Status::internal(format!("{error:#}")))?;
        Ok(Response::new(PushResponse { answer: Some(answer) }))
    }
}

/// Serves pushes until `shutdown`.
///
/// # Errors
/// The listener failed.
pub(crate) async fn serve(
    database: Connection,
    accept: impl Accept,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let service = Service { database: Arc::new(Mutex::new(database)) };
    net::server()
        .add_service(ConsumerServer::new(service))
        .serve_with_incoming_shutdown(net::incoming(accept), shutdown)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;

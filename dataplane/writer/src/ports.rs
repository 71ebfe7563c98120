//! The ports of a replica and what is served there.

mod counted;

use std::sync::Arc;

use pyramid_protocol::limits::MESSAGE_BYTES_MAX;
use pyramid_protocol::net::{self, Accept};
use pyramid_protocol::pb::v1::admin_server::AdminServer;
use pyramid_protocol::pb::v1::writer_server::WriterServer;
use pyramid_tls::Tls;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::service::interceptor::InterceptedService;

use self::counted::Counted;
use crate::admin::{AdminService, Found};
use crate::member::Phase;
use crate::metrics::Port;
use crate::ops::Ops;
use crate::rights;
use crate::service::WriterService;

/// A port cannot be served any more. The process must end.
#[derive(Debug, thiserror::Error)]
#[error("serve {port}")]
pub struct Error {
    port: &'static str,
    source: tonic::transport::Error,
}

/// Serves both ports in every phase, until `shutdown`; then waits for the calls that are there.
pub(crate) fn serve(
    phase: watch::Receiver<Phase>,
    found: mpsc::Sender<Found>,
    ops: &Ops,
    writer: Box<dyn Accept>,
    admin: Box<dyn Accept>,
    tls: Option<Tls>,
    shutdown: &CancellationToken,
) -> JoinSet<Result<(), Error>> {
    let writer_service = WriterServer::new(WriterService::new(phase.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin_service = AdminServer::new(AdminService::new(phase, found, tls))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let fence = rights::Fence::default();
    let of_leader = move |request: Request<()>| {
        let request = rights::operator_only(request)?;
        fence.check(request.metadata())?;
        Ok(request)
    };
    let admin_service = InterceptedService::new(admin_service, of_leader);
    let metrics = Arc::clone(&ops.metrics);
    let (writer, admin) = (ops.counted(Port::Writer, writer), ops.counted(Port::Admin, admin));
    let writer_service = Counted { service: writer_service, metrics: Arc::clone(&metrics) };
    let admin_service = Counted { service: admin_service, metrics };
    let mut servers = JoinSet::new();
    let serve = net::server().add_service(writer_service);
    let stop = shutdown.clone().cancelled_owned();
    servers.spawn(async move {
        let served = serve.serve_with_incoming_shutdown(net::incoming(writer), stop).await;
        served.map_err(|source| Error { port: "the Writer service", source })
    });
    let serve = net::server().add_service(admin_service);
    let stop = shutdown.clone().cancelled_owned();
    servers.spawn(async move {
        let served = serve.serve_with_incoming_shutdown(net::incoming(admin), stop).await;
        served.map_err(|source| Error { port: "the Admin service", source })
    });
    servers
}

//! The application: its `Consumer` service on localhost, with deadlines.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use pyramid_protocol::limits::MESSAGE_BYTES_MAX;
use pyramid_protocol::net::{Connect, Kept};
use pyramid_protocol::pb::v1::consumer_client::ConsumerClient;
use pyramid_protocol::pb::v1::{self as pb};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Code;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// Localhost answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no answer to a push. All are tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody listens, or the connection broke. Start the application.
    #[error("the application at {address} cannot be reached: {message}")]
    Absent {
        /// Where it should be.
        address: String,
        /// What the network said.
        message: String,
    },
    /// It may still do what it was asked; its own check finds out.
    #[error("the application at {address} did not answer within {deadline:?}")]
    Slow {
        /// Where it is.
        address: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It answered with a gRPC status in place of an answer.
    #[error("the application at {address} answered {code:?}: {message}")]
    Failed {
        /// Where it is.
        address: String,
        /// Its code.
        code: Code,
        /// Its text.
        message: String,
    },
}

/// One application. Clones share its connection.
#[derive(Clone, Debug)]
pub struct Application {
    calls: ConsumerClient<Channel>,
    address: Arc<str>,
    losses: watch::Receiver<u64>,
}

impl Application {
    /// The application at `address` (`host:port`); connected at the first push.
    ///
    /// # Errors
    ///
    /// The address is not `host:port`.
    pub fn new(connect: Arc<dyn Connect>, address: &str) -> Result<Self, tonic::transport::Error> {
        let (counter, losses) = watch::channel(0);
        let counter = Arc::new(counter);
        // No pings: servers of some languages end a connection that pings them while it is idle,
        // and the loss of a process on this machine shows at once.
        let endpoint =
            Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT_TIMEOUT);
        let address: Arc<str> = address.into();
        let to = Arc::clone(&address);
        let connector = tower::service_fn(move |_: Uri| {
            let (connect, to, losses) =
                (Arc::clone(&connect), Arc::clone(&to), Arc::clone(&counter));
            async move {
                let io = connect.connect(&to).await?;
                Ok::<_, io::Error>(TokioIo::new(Kept::new(io, Loss(losses))))
            }
        });
        let calls = ConsumerClient::new(endpoint.connect_with_connector_lazy(connector))
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { calls, address, losses })
    }

    /// How many connections were lost so far. After each the application may be another process
    /// with another database, so it is asked where it is.
    #[must_use]
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.losses.clone()
    }

    /// Pushes once.
    ///
    /// # Errors
    ///
    /// As [`Error`] says. The application may have accepted all the same.
    pub async fn push(
        &self,
        request: pb::PushRequest,
        deadline: Duration,
    ) -> Result<pb::PushResponse, Error> {
        let mut calls = self.calls.clone();
        match timeout(deadline, calls.push(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if is_absent(&status) => {
                Err(Error::Absent { address: self.address.to_string(), message: chain(&status) })
            }
            Ok(Err(status)) => Err(Error::Failed {
                address: self.address.to_string(),
                code: status.code(),
                message: status.message().to_owned(),
            }),
            Err(_elapsed) => Err(Error::Slow { address: self.address.to_string(), deadline }),
        }
    }
}

/// A status that our own side made up because the connection failed.
fn is_absent(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// The innermost cause says the most.
fn chain(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Counts its own end, which is that of the connection it is kept with.
struct Loss(Arc<watch::Sender<u64>>);

impl Drop for Loss {
    fn drop(&mut self) {
        self.0.send_modify(|losses| *losses += 1);
    }
}

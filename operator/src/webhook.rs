//! The webhook server: HTTPS, and nothing that a request does ends it.
//!
//! The API server has no certificate of ours, so connections are [`Protocols::Http`] of anybody; the
//! router decides what it answers to whom. A request that panics is answered with 500, a request that
//! does not end is cut off, and a connection that is old is told to end.
//!
//! [`Protocols::Http`]: pyramid_tls::Protocols::Http

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures::{FutureExt as _, StreamExt as _};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pyramid_protocol::net::{self, Accept, Accepted, Age};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::metrics::Metrics;

/// The head of a request must have come by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From a request's head to its answer. Longer than the API server waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Answers that are on their way at a stop have this long.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that one connection may have at once.
const REQUESTS_PER_CONNECTION_MAX: u32 = 250;

/// Serves until `shutdown`; then requests under way are answered.
pub(crate) async fn serve(
    accept: impl Accept,
    router: Router,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let age = Age::default();
    let mut incoming = std::pin::pin!(net::incoming_of_age(accept, age));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // How a connection ended is of no interest to anybody here.
            Some(_ended) = connections.join_next() => {}
            Some(accepted) = incoming.next() => match accepted {
                Ok(connection) => {
                    let service = Service { router: router.clone(), metrics: metrics.clone() };
                    connections.spawn(connection_of(connection, service, age.max, shutdown.clone()));
                }
                Err(error) => tracing::debug!(%error, "a connection to the webhook was not taken"),
            },
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_ANSWERS_TIMEOUT, drained).await.is_err() {
        connections.shutdown().await;
    }
}

#[derive(Clone)]
struct Service {
    router: Router,
    metrics: Metrics,
}

async fn connection_of(
    connection: Accepted,
    service: Service,
    max_age: Duration,
    shutdown: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(REQUESTS_PER_CONNECTION_MAX);
    let service = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request.map(Body::new)).await) }
    });
    let serving = builder.serve_connection(TokioIo::new(connection), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        biased;
        _ended = &mut serving => return,
        () = shutdown.cancelled() => {}
        () = sleep(max_age) => {}
    }
    serving.as_mut().graceful_shutdown();
    if let Err(error) = serving.await {
        tracing::debug!(error, "a connection to the webhook broke");
    }
}

impl Service {
    async fn answer(self, request: Request<Body>) -> Response {
        let answer = AssertUnwindSafe(self.router.oneshot(request)).catch_unwind();
        match timeout(REQUEST_TIMEOUT, answer).await {
            Ok(Ok(Ok(response))) => response,
            Ok(Ok(Err(never))) => match never {},
            // The hook has logged it.
            Ok(Err(_panic)) => {
                self.metrics.panicked();
                let text = "a bug in the operator; its log has the details\n";
                (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
            }
            Err(_elapsed) => (StatusCode::SERVICE_UNAVAILABLE, "too slow\n").into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::routing::get;
    use pyramid_protocol::net::TcpAccept;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    struct Running {
        address: SocketAddr,
        metrics: Metrics,
        shutdown: CancellationToken,
        tasks: JoinSet<()>,
    }

    async fn start() -> Running {
        let router = Router::new()
            .route("/ok", get(|| async { "fine" }))
            .route("/panic", get(|| async { if true { panic!("a bug") } else { "never" } }));
        let tcp = TcpAccept::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = tcp.local_address().unwrap();
        let (metrics, shutdown) = (Metrics::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(tcp, router, metrics.clone(), shutdown.clone()));
        Running { address, metrics, shutdown, tasks }
    }

    /// The answer to one request on a connection of its own.
    async fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
        let mut tcp = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        timeout(DEADLINE, tcp.read_to_string(&mut answer)).await??;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_panic_ends_its_request_and_nothing_else() {
        let mut running = start().await;
        for _ in 0..2 {
            let answer = ask(running.address, "/panic").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            let answer = ask(running.address, "/ok").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
        }
        assert_eq!(running.metrics.panics(), 2);
        running.shutdown.cancel();
        timeout(DEADLINE, running.tasks.join_next()).await.unwrap().unwrap().unwrap();
        assert!(ask(running.address, "/ok").await.is_err(), "it goes on after the stop");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_cut_off() {
        let service = Service {
            router: Router::new()
                .route("/hang", get(|| async { std::future::pending::<&'static str>().await }))
                .route("/ok", get(|| async { "fine" })),
            metrics: Metrics::default(),
        };
        for (path, status) in [("/ok", StatusCode::OK), ("/hang", StatusCode::SERVICE_UNAVAILABLE)]
        {
            let request = Request::get(path).body(Body::empty()).unwrap();
            assert_eq!(service.clone().answer(request).await.status(), status, "{path}");
        }
        assert_eq!(service.metrics.panics(), 0);
    }
}

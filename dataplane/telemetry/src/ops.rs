//! Health and metrics over plain HTTP: what kubelet and Prometheus ask for.
//!
//! Anybody who reaches the port may ask, so nothing here can be made to hold much or to work for
//! long: a connection carries one request without a body, has [`CONNECTION_TIMEOUT`] to end, and is
//! one of at most [`CONNECTIONS_MAX`]. One more takes the place of the oldest, so that a crowd that
//! only holds connections does not keep a probe away. Metrics are collected at most once in
//! [`METRICS_AGE_MAX`], whoever asks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pyramid_protocol::net::{Accept, Accepted};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::health::{Answer, Health};
use crate::metrics::{self, Registry};

/// Connections at once; one more ends the oldest.
pub const CONNECTIONS_MAX: usize = 256;
/// The head of a request must have come by then.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first byte to the last one of an answer, also to a reader that is slow.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// A request's head at most. Unit: bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// How old metrics may be that are given out again.
pub const METRICS_AGE_MAX: Duration = Duration::from_millis(100);

/// Headers of a request at most.
const HEADERS_MAX: usize = 64;
/// Answers that are on their way at a stop have this long.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);
/// A listener that cannot take a connection is left alone for this long.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

const PATHS: &str = "/healthz  whether the process works\n\
                     /readyz   whether it should get requests\n\
                     /startupz whether its start goes on or is over\n\
                     /metrics  OpenMetrics text\n";

struct Ops {
    health: Arc<dyn Health>,
    registry: Registry,
    collected: Mutex<Option<(Instant, Bytes)>>,
}

/// Serves until `shutdown`.
pub async fn serve(
    accept: impl Accept,
    health: Arc<dyn Health>,
    registry: Registry,
    shutdown: CancellationToken,
) {
    let ops = Arc::new(Ops { health, registry, collected: Mutex::default() });
    let mut connections = JoinSet::new();
    let mut open = Open::default();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // Whether it ended well is of no interest to anybody here.
            Some(_ended) = connections.join_next() => {}
            accepted = accept.accept() => match accepted {
                Ok(connection) => {
                    let serving = connections.spawn(answer_one(Arc::clone(&ops), connection));
                    open.add(serving);
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to health and metrics was not taken");
                    sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_ANSWERS_TIMEOUT, drained).await.is_err() {
        connections.shutdown().await;
    }
}

/// Connections, oldest first.
#[derive(Default)]
struct Open(VecDeque<AbortHandle>);

impl Open {
    fn add(&mut self, connection: AbortHandle) {
        if self.0.len() >= CONNECTIONS_MAX {
            self.0.retain(|connection| !connection.is_finished());
        }
        if self.0.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(connection);
    }
}

async fn answer_one(ops: Arc<Ops>, connection: Accepted) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = ops.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(connection), service);
    match timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        // Whoever sent what is no request, or went away, knows it.
        Ok(Err(error)) => tracing::trace!(%error, "a connection to health and metrics broke"),
        Err(_elapsed) => tracing::debug!("a connection to health and metrics was too slow"),
    }
}

impl Ops {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if *method != Method::GET && *method != Method::HEAD {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/healthz" => verdict(self.health.alive()),
            "/readyz" => verdict(self.health.ready()),
            "/startupz" => verdict(self.health.started()),
            "/metrics" => {
                let mut answer = Response::new(Full::new(self.metrics()));
                let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            _ => text(StatusCode::NOT_FOUND, PATHS),
        }
    }

    /// Under one lock, so that many that ask at once share the work.
    fn metrics(&self) -> Bytes {
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        match &*collected {
            Some((at, text)) if at.elapsed() < METRICS_AGE_MAX => text.clone(),
            Some(_) | None => {
                let text = Bytes::from(metrics::text(&self.registry));
                *collected = Some((Instant::now(), text.clone()));
                text
            }
        }
    }
}

fn verdict(answer: Answer) -> Response<Full<Bytes>> {
    match answer {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("no: {why}\n")),
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

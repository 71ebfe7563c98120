//! One request after the other: to the server and back, or what the plan says instead.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::plan::{Fate, Plan};
use super::{Call, Fault, HOLD, Side};

/// What a slow body waits between its pieces, and how many it has.
const PIECE_WAIT: Duration = Duration::from_millis(50);
const PIECES: usize = 10;

/// An error resets the connection, be it of the whole answer or of its body.
type Answer = Result<Response<BoxBody<Bytes, io::Error>>, io::Error>;

#[derive(Clone)]
pub(super) struct Forward {
    server: SocketAddr,
    plan: Arc<Plan>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A request, read completely.
struct Asked {
    call: Call,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Forward {
    pub(super) fn new(server: SocketAddr, plan: Arc<Plan>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { server, plan, client }
    }

    pub(super) async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((connection, _)) = accepted else { return };
                    connections.spawn(self.clone().connection(connection));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self, connection: TcpStream) {
        // Closed before all is read or written, it is reset.
        if connection.set_nodelay(true).and_then(|()| connection.set_zero_linger()).is_err() {
            return;
        }
        let service = service_fn(move |request| {
            let forward = self.clone();
            async move { forward.answer(request).await }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(connection), service)
            .await;
        // How a connection ends is the client's or the plan's affair.
        drop(served);
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let asked = read(request).await?;
        let conditional =
            ["if-none-match", "if-match"].iter().any(|name| asked.headers.contains_key(*name));
        match self.plan.fate(asked.call, conditional) {
            Fate::Good => {
                let call = asked.call;
                let (head, body) = self.ask(asked).await?.into_parts();
                let plan = Arc::clone(&self.plan);
                let body = body.map_err(io::Error::other).map_frame(move |frame| {
                    plan.to_client(call, frame.data_ref().map_or(0, Bytes::len));
                    frame
                });
                Ok(Response::from_parts(head, body.boxed()))
            }
            Fate::Fault(fault) => self.fail(fault, asked).await,
            Fate::Held(side) => {
                if side == Side::After {
                    self.ask(asked).await?.into_body().collect().await.map_err(io::Error::other)?;
                }
                self.plan.tell_held();
                std::future::pending().await
            }
        }
    }

    async fn fail(&self, fault: Fault, asked: Asked) -> Answer {
        let call = asked.call;
        let answer = match fault {
            Fault::InternalError => Ok(refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            Fault::SlowDown => Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
            Fault::SlowDownRetryAfter => {
                let mut answer = refuse(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
                answer.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static("1"));
                Ok(answer)
            }
            Fault::TooManyRequests => {
                Ok(refuse(StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException"))
            }
            Fault::Expired => Ok(refuse(StatusCode::FORBIDDEN, "AccessDenied")),
            Fault::Conflict => Ok(refuse(StatusCode::CONFLICT, "ConditionalRequestConflict")),
            Fault::Reset => Err(reset()),
            Fault::HoldBefore => {
                self.plan.met(fault);
                sleep(HOLD).await;
                return Err(reset());
            }
            Fault::HoldAfter => {
                self.whole(asked).await?;
                self.plan.met(fault);
                sleep(HOLD).await;
                return Err(reset());
            }
            Fault::FailedAfterSuccess => {
                let (head, body) = self.whole(asked).await?;
                // A put that failed by itself is answered as it was.
                if !head.status.is_success() {
                    return Ok(Response::from_parts(head, full(body)));
                }
                Ok(refuse(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"))
            }
            Fault::FlipPut => {
                let body = self.flip(&asked.body);
                let (head, body) = self.whole(Asked { body, ..asked }).await?;
                Ok(Response::from_parts(head, full(body)))
            }
            Fault::CutBody | Fault::FlipAnswer | Fault::SlowBody => {
                let (head, body) = self.whole(asked).await?;
                // An answer without a body has nothing that could be changed.
                if !head.status.is_success() || body.is_empty() {
                    return Ok(Response::from_parts(head, full(body)));
                }
                Ok(Response::from_parts(head, self.changed(fault, &body)))
            }
        };
        self.plan.met(fault);
        if let Ok(answer) = &answer {
            let len = hyper::body::Body::size_hint(answer.body()).exact().unwrap_or(0);
            self.plan.to_client(call, usize::try_from(len).unwrap_or(usize::MAX));
        }
        answer
    }

    fn changed(&self, fault: Fault, body: &Bytes) -> BoxBody<Bytes, io::Error> {
        if fault == Fault::FlipAnswer {
            full(self.flip(body))
        } else if fault == Fault::SlowBody {
            slow(body)
        } else {
            cut(body)
        }
    }

    async fn whole(&self, asked: Asked) -> Result<(http::response::Parts, Bytes), io::Error> {
        let (head, body) = self.ask(asked).await?.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        Ok((head, body))
    }

    async fn ask(&self, asked: Asked) -> Result<Response<Incoming>, io::Error> {
        let Asked { call, method, path, headers, body } = asked;
        self.plan.to_server(call, body.len());
        let uri: Uri = format!("http://{}{path}", self.server).parse().map_err(io::Error::other)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        self.client.request(request).await.map_err(io::Error::other)
    }

    fn flip(&self, body: &Bytes) -> Bytes {
        let mut flipped = body.to_vec();
        if let Some(byte) = flipped.get_mut(self.plan.below(body.len())) {
            *byte ^= 1;
        }
        flipped.into()
    }
}

async fn read(request: Request<Incoming>) -> Result<Asked, io::Error> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or("");
    let call = if head.method == Method::PUT {
        Call::Put
    } else if head.method == Method::DELETE {
        Call::Delete
    } else if head.method != Method::GET {
        Call::Other
    } else if query.contains("X-Amz-Signature=") {
        Call::Presigned
    } else if query.contains("list-type=") {
        Call::List
    } else {
        Call::Get
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Asked { call, method: head.method, path, headers: head.headers, body })
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

fn full(body: Bytes) -> BoxBody<Bytes, io::Error> {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed()
}

/// What S3 says when it does not do what is asked.
fn refuse(status: StatusCode, code: &str) -> Response<BoxBody<Bytes, io::Error>> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>The proxy of the suite says so.</Message></Error>"
    );
    let mut answer = Response::new(full(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/xml"));
    answer
}

/// Half of it. The head keeps its `Content-Length`.
fn cut(body: &Bytes) -> BoxBody<Bytes, io::Error> {
    let half = body.slice(..body.len() / 2);
    let frames = futures::stream::iter([Ok(Frame::data(half)), Err(reset())]);
    BodyExt::boxed(StreamBody::new(frames))
}

fn slow(body: &Bytes) -> BoxBody<Bytes, io::Error> {
    let len = body.len().div_ceil(PIECES).max(1);
    let frames = futures::stream::unfold(body.clone(), move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        sleep(PIECE_WAIT).await;
        let piece = rest.split_to(len.min(rest.len()));
        Some((Ok(Frame::data(piece)), rest))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

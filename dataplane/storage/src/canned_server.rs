//! A server for tests: keeps what it was asked and answers what a test says, over HTTP or TLS.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// What follows the last piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Cut,
    Stall,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Canned {
    status: u16,
    headers: Vec<(String, String)>,
    pieces: VecDeque<Bytes>,
    end: End,
}

impl Canned {
    pub(crate) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let headers = vec![("content-length".to_owned(), body.len().to_string())];
        Self { status, headers, pieces: [body].into(), end: End::Complete }
    }

    /// An error of S3.
    pub(crate) fn s3_error(status: u16, code: &str, more: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>text \
             of {code}</Message>{more}</Error>"
        );
        Self::new(status, body).with("content-type", "application/xml")
    }

    /// Bytes from `start` on of an object of `total` bytes.
    pub(crate) fn part(body: impl Into<Bytes>, start: u64, total: u64) -> Self {
        let body = body.into();
        let end = start + u64::try_from(body.len()).unwrap();
        let range = format!("bytes {start}-{}/{total}", end - 1);
        Self::new(206, body).with("content-range", &range)
    }

    /// Sets a header.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a header away.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    /// The connection breaks after `len` bytes of the body.
    pub(crate) fn cut_after(self, len: usize) -> Self {
        self.short(len, End::Cut)
    }

    /// Nothing comes after `len` bytes of the body.
    pub(crate) fn stalled_after(self, len: usize) -> Self {
        self.short(len, End::Stall)
    }

    fn short(mut self, len: usize, end: End) -> Self {
        for piece in &mut self.pieces {
            piece.truncate(len);
        }
        Self { end, ..self }
    }

    /// The body again and again, `times` in all; the announced length stays.
    pub(crate) fn repeated(mut self, times: usize) -> Self {
        let piece = self.pieces[0].clone();
        self.pieces = (0..times).map(|_| piece.clone()).collect();
        self
    }
}

struct CannedBody {
    pieces: VecDeque<Bytes>,
    end: End,
}

impl Body for CannedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match (self.pieces.pop_front(), self.end) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, End::Complete) => Poll::Ready(None),
            (None, End::Cut) => Poll::Ready(Some(Err(io::Error::other("cut")))),
            (None, End::Stall) => Poll::Pending,
        }
    }
}

/// A running server; ends when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    scheme: &'static str,
    asked: Arc<Mutex<Vec<Asked>>>,
    _task: JoinSet<()>,
}

impl Server {
    /// Over plain HTTP.
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Canned + Send + Sync + 'static) -> Self {
        Self::serve("http", None, answer).await
    }

    /// Over TLS, with a certificate for `127.0.0.1` and `localhost`.
    pub(crate) async fn start_tls(
        certificate: &Certificate,
        answer: impl Fn(&Asked) -> Canned + Send + Sync + 'static,
    ) -> Self {
        Self::serve("https", Some(certificate.acceptor()), answer).await
    }

    async fn serve(
        scheme: &'static str,
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked) -> Canned + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&asked));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let (tls, answer, log) = (tls.clone(), Arc::clone(&answer), Arc::clone(&log));
                connections.spawn(async move { connection(socket, tls, answer, log).await });
            }
        });
        Self { address, scheme, asked, _task: task }
    }

    /// Scheme, host and port.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The one request so far.
    pub(crate) fn one(&self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }
}

async fn connection<A>(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    answer: Arc<A>,
    log: Arc<Mutex<Vec<Asked>>>,
) where
    A: Fn(&Asked) -> Canned + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let target = head.uri.path_and_query().unwrap().to_string();
            let asked = Asked { method: head.method, target, headers: head.headers, body };
            log.lock().unwrap().push(asked.clone());
            let Canned { status, headers, pieces, end } = answer(&asked);
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok::<_, hyper::Error>(response.body(CannedBody { pieces, end }).unwrap())
        }
    });
    let http = hyper::server::conn::http1::Builder::new();
    // What a client does to the connection shows at the client.
    let _ended = match tls {
        None => http.serve_connection(TokioIo::new(socket), service).await.is_ok(),
        Some(tls) => match tls.accept(socket).await {
            Ok(socket) => http.serve_connection(TokioIo::new(socket), service).await.is_ok(),
            Err(_) => false,
        },
    };
}

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// For `127.0.0.1` and `localhost`.
    pub(crate) fn issue(&self) -> Certificate {
        self.issue_until("127.0.0.1", 4000)
    }

    /// For another name, or one that has ended.
    pub(crate) fn issue_until(&self, address: &str, year: i32) -> Certificate {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(address.parse().unwrap()));
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Certificate { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

/// What a server shows.
pub(crate) struct Certificate {
    chain: String,
    key: String,
}

impl Certificate {
    fn acceptor(&self) -> TlsAcceptor {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config).into()
    }
}

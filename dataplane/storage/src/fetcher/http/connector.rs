//! Connections to object stores: pooled, through TLS, never to an address that is not allowed.

use std::{
    error::Error as StdError,
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
    time::{Duration, SystemTime},
    vec,
};

use bytes::Bytes;
use http::Uri;
use http_body_util::Empty;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::Instant;
use tower::Service;

use super::address;
use crate::trust::{self, TrustError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that wait for the next request, for each server.
const IDLE_MAX: usize = 16;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How much is read from a connection at once. Unit: bytes.
const READ_LEN_MAX: usize = 256 << 10;

/// How often the file with authorities is looked at.
const CA_CHECK_INTERVAL: Duration = Duration::from_secs(1);

type HttpClient = Client<Guard, Empty<Bytes>>;

/// The pool, made anew when the file with certificate authorities changes.
pub(super) struct Connections {
    ca_file: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    client: HttpClient,
    seen: Option<Stamp>,
    looked_at: Instant,
}

/// Changes when a file is replaced or written.
type Stamp = (SystemTime, u64);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

impl Connections {
    pub(super) fn new(ca_file: Option<PathBuf>) -> Result<Self, TrustError> {
        let seen = ca_file.as_ref().and_then(stamp);
        let client = client_of(ca_file.as_ref())?;
        Ok(Self { ca_file, state: Mutex::new(State { client, seen, looked_at: Instant::now() }) })
    }

    /// Those that believe the authorities of a PEM text, for ever.
    pub(super) fn believing(ca_pem: &str) -> Result<Self, TrustError> {
        let client = client(Some(ca_pem.as_bytes()))?;
        let state = State { client, seen: None, looked_at: Instant::now() };
        Ok(Self { ca_file: None, state: Mutex::new(state) })
    }

    /// The client for the next request. A changed file counts for requests from now on; one that
    /// cannot be read leaves things as they are. It is a short local file, so it is read at once.
    pub(super) fn client(&self) -> HttpClient {
        let mut state = self.state.lock().expect("no code panics while it holds this lock");
        let Some(file) = &self.ca_file else { return state.client.clone() };
        if state.looked_at.elapsed() < CA_CHECK_INTERVAL {
            return state.client.clone();
        }
        state.looked_at = Instant::now();
        let now = stamp(file);
        if now.is_some() && now != state.seen {
            match client_of(Some(file)) {
                Ok(client) => {
                    tracing::info!(file = %file.display(), "read the authorities of the object store again");
                    state.client = client;
                    state.seen = now;
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn StdError,
                        "the authorities of the object store changed and cannot be used; those \
                         before stay in use"
                    );
                }
            }
        }
        state.client.clone()
    }
}

fn stamp(file: &PathBuf) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn client_of(ca_file: Option<&PathBuf>) -> Result<HttpClient, TrustError> {
    let pem = ca_file.map(|file| trust::read(file)).transpose()?;
    client(pem.as_deref())
}

fn client(ca_pem: Option<&[u8]>) -> Result<HttpClient, TrustError> {
    let tls = match trust::client_config(ca_pem) {
        Ok(tls) => tls,
        // A reader of plain http: needs none; anybody else is told at the handshake.
        Err(TrustError::NoNativeRoots) => trust::trusting_nobody(),
        Err(error @ TrustError::File { .. }) => return Err(error),
    };
    let mut tcp = HttpConnector::new_with_resolver(GuardedResolver(GaiResolver::new()));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let inner = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_MAX)
        .http1_max_buf_size(READ_LEN_MAX)
        .build(Guard(inner)))
}

/// An address is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it leads to {0}, where machines keep secrets of their own and no object store can be")]
pub(super) struct Refusing(IpAddr);

impl Refusing {
    /// Finds it among what an error was made from.
    pub(super) fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut current = Some(error);
        while let Some(error) = current {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(*found);
            }
            let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            current = match inside {
                Some(inside) => Some(inside),
                None => error.source(),
            };
        }
        None
    }
}

type Connecting<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Looks at addresses that stand in a URL: no resolver is asked for them.
#[derive(Clone)]
pub(super) struct Guard(HttpsConnector<HttpConnector<GuardedResolver>>);

impl Service<Uri> for Guard {
    type Response = <HttpsConnector<HttpConnector<GuardedResolver>> as Service<Uri>>::Response;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Connecting<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Uri>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.host().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if let Ok(address) = literal
            && !address::is_allowed(address)
        {
            return Box::pin(async move { Err(Refusing(address).into()) });
        }
        self.0.call(uri)
    }
}

/// Resolves names to addresses that are all allowed.
#[derive(Clone)]
pub(super) struct GuardedResolver(GaiResolver);

impl Service<Name> for GuardedResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Connecting<Self::Response, io::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolving = self.0.call(name);
        Box::pin(async move {
            let addresses: Vec<_> = resolving.await?.collect();
            match addresses.iter().find(|address| !address::is_allowed(address.ip())) {
                // One bad address spoils the name: whoever set it up wanted it to be met.
                Some(address) => Err(io::Error::other(Refusing(address.ip()))),
                None => Ok(addresses.into_iter()),
            }
        })
    }
}

//! Connections, behind two traits: simulations run over in-memory pipes, production over TLS.
//!
//! A program is given a [`Connect`] and an [`Accept`] and never names a socket itself.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};

use crate::SpiffeId;

/// A stream window. Large enough that one stream fills a fast local connection.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// A connection window: several streams at full speed, so that one slow reader does not stop others.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// A connection that answers no ping for this long is given up: a lost peer is noticed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Calls that one connection may have at once.
const CALLS_PER_CONNECTION_MAX: u32 = 1024;
/// Names and values of one call's headers. Ours have some hundred bytes; a call with more is
/// refused, and a connection that goes on and on with them is closed. Unit: bytes.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// Calls of one connection that were taken back before they were begun. A connection that has more
/// only makes work: it is closed.
const RESETS_PENDING_MAX: usize = 32;
/// Calls of one connection that break the rules. One more closes it.
const BROKEN_CALLS_MAX: usize = 256;
/// Connections that one port has at once; more wait until one ends.
const CONNECTIONS_MAX: usize = 4096;
/// A listener that cannot take a connection, because the process has no more files, is left alone
/// for this long.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long a connection lives, so that no proof of identity is believed for ever and load spreads
/// over servers that were added.
///
/// At `max` the client is told to open another (`GOAWAY`): calls under way go on, new ones take the
/// new connection. At `max + grace` what is still under way, a stream that never ends by itself, is
/// cut off; clients begin such a stream again where it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// When the client is told.
    pub max: Duration,
    /// How much longer calls have to end by themselves.
    pub grace: Duration,
}

impl Default for Age {
    fn default() -> Self {
        Self { max: Duration::from_secs(3600), grace: Duration::from_secs(300) }
    }
}

/// Bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// An opened connection.
pub type BoxIo = Box<dyn Io>;

/// Opens connections.
#[tonic::async_trait]
pub trait Connect: Send + Sync + 'static {
    /// Opens one to `address`, a `host:port`.
    ///
    /// # Errors
    ///
    /// As the network says; the caller tries again.
    async fn connect(&self, address: &str) -> io::Result<BoxIo>;
}

/// Takes connections.
#[tonic::async_trait]
pub trait Accept: Send + Sync + 'static {
    /// Waits for the next one.
    ///
    /// # Errors
    ///
    /// As the network says; the caller goes on.
    async fn accept(&self) -> io::Result<Accepted>;
}

#[tonic::async_trait]
impl Accept for Box<dyn Accept> {
    async fn accept(&self) -> io::Result<Accepted> {
        (**self).accept().await
    }
}

/// A connection, and something that lives exactly as long as it does.
pub struct Kept<T> {
    io: BoxIo,
    kept: T,
    /// When it is cut off, if ever.
    end: Option<Pin<Box<Sleep>>>,
}

impl<T> Kept<T> {
    /// Keeps `kept` until the connection has ended.
    #[must_use]
    pub fn new(io: BoxIo, kept: T) -> Self {
        Self { io, kept, end: None }
    }
}

/// A connection taken, and who is at its other end.
pub type Accepted = Kept<Taken>;

/// What is kept with a connection that was taken.
#[derive(Debug)]
pub struct Taken {
    peer: Peer,
    /// Its place among [`CONNECTIONS_MAX`].
    _place: Option<OwnedSemaphorePermit>,
}

impl From<Peer> for Taken {
    fn from(peer: Peer) -> Self {
        Self { peer, _place: None }
    }
}

impl<T: fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("kept", &self.kept).finish_non_exhaustive()
    }
}

/// Who is at the other end of a connection. A request carries it as an extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from, for logs.
    pub address: String,
    /// The identity that was proved; `None` on connections without TLS.
    pub identity: Option<SpiffeId>,
}

impl Accepted {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.kept.peer
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.kept.peer.clone()
    }
}

impl<T: Unpin> AsyncRead for Kept<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Reading nothing is the end: what is above says good-bye and closes.
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: Unpin> AsyncWrite for Kept<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Plain TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnect;

#[tonic::async_trait]
impl Connect for TcpConnect {
    async fn connect(&self, address: &str) -> io::Result<BoxIo> {
        let stream = TcpStream::connect(address).await?;
        // Small answers must not wait for the next packet.
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// A plain TCP listener.
#[derive(Debug)]
pub struct TcpAccept {
    listener: TcpListener,
}

impl TcpAccept {
    /// Listens; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// The address is in use or not of this machine.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[tonic::async_trait]
impl Accept for TcpAccept {
    async fn accept(&self) -> io::Result<Accepted> {
        let (stream, address) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        let peer = Peer { address: address.to_string(), identity: None };
        Ok(Accepted::new(Box::new(stream), peer.into()))
    }
}

/// Whether `address` (`host:port`) surely leads to this machine. A name other than `localhost` is
/// not believed, whatever it resolves to now.
#[must_use]
pub fn is_loopback(address: &str) -> bool {
    let Some((host, _port)) = address.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// A channel to `address` (`host:port`) that connects at its first call and again after each loss.
///
/// # Errors
///
/// The address is not `host:port`.
pub fn channel(
    connect: Arc<dyn Connect>,
    address: &str,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_timeout(CONNECT_TIMEOUT);
    let address: Arc<str> = address.into();
    let connector = tower::service_fn(move |_: Uri| {
        let (connect, address) = (Arc::clone(&connect), Arc::clone(&address));
        async move { connect.connect(&address).await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// A server with the settings that all our ports share.
#[must_use]
pub fn server() -> Server {
    server_of_age(Age::default())
}

/// [`server`], with connections that live as long as `age` says; [`incoming_of_age`] has the other
/// half.
#[must_use]
pub fn server_of_age(age: Age) -> Server {
    Server::builder()
        // With a grace here it would cut connections off without telling the client before.
        .max_connection_age(age.max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        .http2_max_local_error_reset_streams(Some(BROKEN_CALLS_MAX))
}

/// The connections of `accept`, for `serve_with_incoming`. Ends never; errors are for one
/// connection each.
pub fn incoming(accept: impl Accept) -> impl Stream<Item = io::Result<Accepted>> {
    incoming_of_age(accept, Age::default())
}

/// [`incoming`], with connections that are cut off as `age` says.
pub fn incoming_of_age(accept: impl Accept, age: Age) -> impl Stream<Item = io::Result<Accepted>> {
    let accept = Arc::new(accept);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let next = Box::pin(next(Arc::clone(&accept), Arc::clone(&places), age));
    AcceptStream { next, accept, places, age }
}

async fn next(accept: Arc<impl Accept>, places: Arc<Semaphore>, age: Age) -> io::Result<Accepted> {
    let place = places.acquire_owned().await.expect("the places are never closed");
    match accept.accept().await {
        Ok(Kept { io, kept: Taken { peer, .. }, .. }) => {
            let end = Some(Box::pin(sleep(age.max + age.grace)));
            Ok(Kept { io, kept: Taken { peer, _place: Some(place) }, end })
        }
        Err(error) => {
            sleep(ACCEPT_BACKOFF).await;
            Err(error)
        }
    }
}

struct AcceptStream<A> {
    accept: Arc<A>,
    places: Arc<Semaphore>,
    age: Age,
    next: Pin<Box<dyn Future<Output = io::Result<Accepted>> + Send>>,
}

impl<A: Accept> Stream for AcceptStream<A> {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = std::task::ready!(self.next.as_mut().poll(cx));
        self.next = Box::pin(next(Arc::clone(&self.accept), Arc::clone(&self.places), self.age));
        Poll::Ready(Some(accepted))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_stream::StreamExt;

    use super::*;

    /// Always has another connection.
    struct Crowd;

    #[tonic::async_trait]
    impl Accept for Crowd {
        async fn accept(&self) -> io::Result<Accepted> {
            let (here, _there) = tokio::io::duplex(1);
            Ok(Accepted::new(Box::new(here), Peer::default().into()))
        }
    }

    #[test]
    fn only_what_cannot_leave_this_machine_is_loopback() {
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:7400"] {
            assert!(is_loopback(address), "{address}");
        }
        for address in ["10.0.0.1:1", "[::2]:1", "localhost", "localhost.a:1", "127.0.0.1.a:1", ""]
        {
            assert!(!is_loopback(address), "{address}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_takes_4096_connections_and_the_next_when_one_ends() {
        let mut incoming = std::pin::pin!(incoming(Crowd));
        let mut taken = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            taken.push(incoming.next().await.unwrap().unwrap());
        }
        let wait = Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, incoming.next()).await.is_err(), "one too many");
        taken.pop();
        assert!(tokio::time::timeout(wait, incoming.next()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_reads_its_end_when_its_age_and_the_grace_are_over() {
        let age = Age { max: Duration::from_secs(60), grace: Duration::from_secs(5) };
        let (pipe, mut there) = tokio::io::duplex(64);
        let pipes = Once(std::sync::Mutex::new(Some(pipe)));
        let mut incoming = std::pin::pin!(incoming_of_age(pipes, age));
        let mut here = incoming.next().await.unwrap().unwrap();
        let start = tokio::time::Instant::now();
        there.write_all(b"a").await.unwrap();
        let mut bytes = [0; 2];
        assert_eq!(here.read(&mut bytes).await.unwrap(), 1);
        // Bytes that come later are not read any more.
        let late = tokio::time::timeout(Duration::from_secs(64), here.read(&mut bytes)).await;
        assert!(late.is_err(), "{late:?}");
        assert_eq!(here.read(&mut bytes).await.unwrap(), 0);
        assert_eq!(start.elapsed(), Duration::from_secs(65));
        there.write_all(b"b").await.unwrap();
        assert_eq!(here.read(&mut bytes).await.unwrap(), 0);
        // What is left to say is said.
        here.write_all(b"bye").await.unwrap();
        drop(here);
        let mut heard = Vec::new();
        there.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"bye");
    }

    /// Has one connection, and then waits.
    struct Once(std::sync::Mutex<Option<tokio::io::DuplexStream>>);

    #[tonic::async_trait]
    impl Accept for Once {
        async fn accept(&self) -> io::Result<Accepted> {
            let pipe = self.0.lock().expect("no test panics with it").take();
            match pipe {
                Some(pipe) => Ok(Accepted::new(Box::new(pipe), Peer::default().into())),
                None => std::future::pending().await,
            }
        }
    }
}

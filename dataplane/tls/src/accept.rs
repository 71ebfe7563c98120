//! [`TlsAccept`]: the server's side.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::SpiffeId;
use pyramid_protocol::net::{Accept, Accepted, Peer};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::leaf;
use crate::refusals::Reason;
use crate::tls::{self, Tls};

/// What a server speaks with clients that show no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/2 only.
    Grpc,
    /// HTTP/2, or HTTP/1.1 with a client that asks for it or for nothing.
    Http,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clients {
    /// Who proves an identity of our trust domain.
    Proven,
    /// Anybody. A certificate is not asked for, and [`Peer::identity`] stays empty.
    Anybody(Protocols),
}

/// Handshakes under way at once; one more ends the oldest.
pub const HANDSHAKES_MAX: usize = 256;
/// A client that does not finish its handshake in this time is dropped.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes connections that another [`Accept`] takes, after a handshake that proves who the client
/// is: its [`Peer::identity`] is set, always; never if it was made by [`Tls::accept_anybody`].
///
/// Handshakes run side by side, so a silent client holds up nobody, and neither does a crowd of them:
/// one handshake more than [`HANDSHAKES_MAX`] takes the place of the oldest. A handshake that fails
/// is no error of [`Accept::accept`]: it is counted and the next connection is taken.
pub struct TlsAccept<A> {
    tls: Tls,
    clients: Clients,
    inner: Arc<A>,
    state: Mutex<State>,
}

struct State {
    handshakes: JoinSet<Option<Accepted>>,
    open: Open,
    /// Waits for the next connection. Kept between calls, so that none is lost when a call of
    /// `accept` is given up.
    next: Option<Next>,
}

type Next = Pin<Box<dyn Future<Output = io::Result<Accepted>> + Send>>;

impl<A: fmt::Debug> fmt::Debug for TlsAccept<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAccept").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<A> TlsAccept<A> {
    pub(crate) fn new(tls: Tls, clients: Clients, inner: A) -> Self {
        let state = State { handshakes: JoinSet::new(), open: Open::default(), next: None };
        Self { tls, clients, inner: Arc::new(inner), state: Mutex::new(state) }
    }

    /// What takes the connections below.
    pub fn inner(&self) -> &A {
        &self.inner
    }
}

#[async_trait::async_trait]
impl<A: Accept> Accept for TlsAccept<A> {
    /// # Cancel safety
    ///
    /// Safe: handshakes and the wait for the next connection outlive the call.
    async fn accept(&self) -> io::Result<Accepted> {
        let mut state = self.state.lock().await;
        let State { handshakes, open, next } = &mut *state;
        loop {
            // One that was told to end needs a moment for it; there is never more than one.
            let has_room = handshakes.len() <= HANDSHAKES_MAX;
            let waiting = next.get_or_insert_with(|| {
                let inner = Arc::clone(&self.inner);
                Box::pin(async move { inner.accept().await })
            });
            tokio::select! {
                biased;
                Some(done) = handshakes.join_next() => match done {
                    Ok(Some(accepted)) => return Ok(accepted),
                    Ok(None) => {}
                    Err(stopped) => match stopped.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(_ended_by_us) => self.tls.count_refusal(Reason::Crowded),
                    },
                },
                accepted = waiting, if has_room => {
                    *next = None;
                    let handshake = handshake(self.tls.clone(), self.clients, accepted?);
                    open.add(handshakes.spawn(handshake));
                }
            }
        }
    }
}

/// Handshakes, oldest first.
#[derive(Default)]
struct Open(VecDeque<AbortHandle>);

impl Open {
    fn add(&mut self, handshake: AbortHandle) {
        if self.0.len() >= HANDSHAKES_MAX {
            self.0.retain(|handshake| !handshake.is_finished());
        }
        if self.0.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(handshake);
    }
}

async fn handshake(tls: Tls, clients: Clients, connection: Accepted) -> Option<Accepted> {
    let peer = connection.peer().address.clone();
    let acceptor = TlsAcceptor::from(tls.server_config(clients));
    let refused = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(connection)).await {
        Ok(Ok(stream)) => match identity(&stream, clients) {
            Ok(identity) => {
                tls.count_handshake();
                let peer = Peer { address: peer, identity };
                return Some(Accepted::new(Box::new(stream), peer.into()));
            }
            Err(reason) => (reason, None),
        },
        Ok(Err(error)) => (Reason::of(&error), Some(error)),
        Err(_elapsed) => (Reason::Timeout, None),
    };
    let (reason, error) = refused;
    tls.count_refusal(reason);
    let cause = error.map(|error| tls::chain_text(&error)).unwrap_or_default();
    // A line for each would let anybody fill the log; the counter is there for alerts.
    tracing::debug!(peer, reason = reason.as_str(), "connection refused: {cause}");
    None
}

/// Who the client is, if it has to prove that. The verifier has accepted its certificate already.
fn identity<IO>(stream: &TlsStream<IO>, clients: Clients) -> Result<Option<SpiffeId>, Reason> {
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(tls::ALPN);
    match clients {
        Clients::Anybody(Protocols::Http) => return Ok(None),
        Clients::Proven | Clients::Anybody(Protocols::Grpc) if !is_http2 => {
            return Err(Reason::Protocol);
        }
        Clients::Anybody(Protocols::Grpc) => return Ok(None),
        Clients::Proven => {}
    }
    let leaf = session.peer_certificates().and_then(<[_]>::first).ok_or(Reason::NoCertificate)?;
    leaf::read(leaf).map(|leaf| Some(leaf.identity)).map_err(|_unreadable| Reason::Identity)
}

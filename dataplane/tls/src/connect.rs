//! [`TlsConnect`]: the client's side.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::net::{BoxIo, Connect};
use pyramid_protocol::{Clock, SpiffeId};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::bundle;
use crate::leaf::Moment;
use crate::tls::{self, Tls};
use crate::verifier::Refused;

/// A server that does not finish the handshake in this time is given up. Shorter than the time that
/// a channel gives to all of connecting, or that would end it with a text that says less.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);

/// Enough to see that the server has begun to speak HTTP/2. Longer reads go past this buffer.
const FIRST_BYTES: usize = 64;
/// Names of the server that an error tells.
const NAMES_TOLD_MAX: usize = 8;

/// Opens connections over TLS on those of another [`Connect`]. The server must be a Writer of our
/// trust domain, and its certificate must be for the host of the address.
///
/// In TLS 1.3 a server refuses a client's certificate after the client thinks that all is well. So
/// [`Connect::connect`] waits until the server has said something (in HTTP/2 it does so unasked),
/// and then says why it was refused.
#[derive(Clone)]
pub struct TlsConnect {
    proof: Proof,
    inner: Arc<dyn Connect>,
    expected: Option<SpiffeId>,
}

/// What a client shows, and whom it believes.
#[derive(Clone)]
enum Proof {
    /// The certificate of a directory, and its bundle.
    Directory(Tls),
    /// Nothing; see [`connect_without_identity`].
    Nothing { config: Arc<ClientConfig>, bundle: Arc<Path> },
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(tls) => tls.fmt(f),
            Self::Nothing { bundle, .. } => write!(f, "only {}", bundle.display()),
        }
    }
}

impl fmt::Debug for TlsConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnect")
            .field("proof", &self.proof)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// Opens connections over TLS on those of `inner` for a client that has no certificate yet. The
/// server must be exactly `server`, vouched for by `bundle_pem`, and its certificate must be for the
/// host of the address. `bundle_path` is where the bundle came from, for texts of errors.
///
/// # Errors
///
/// It is no bundle.
pub fn connect_without_identity(
    bundle_pem: &str,
    bundle_path: &Path,
    server: SpiffeId,
    clock: &Arc<dyn Clock>,
    inner: Arc<dyn Connect>,
) -> Result<TlsConnect, bundle::Error> {
    let mut roots = RootCertStore::empty();
    for root in bundle::parse(bundle_pem.as_bytes())? {
        roots.add(root).map_err(|_damaged| bundle::Error::NotPem)?;
    }
    let config = tls::anonymous_config(Arc::new(roots), server, clock);
    let proof = Proof::Nothing { config: Arc::new(config), bundle: bundle_path.into() };
    Ok(TlsConnect { proof, inner, expected: None })
}

/// Why there is no connection. It is inside of the [`io::Error`] of [`Connect::connect`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Give `host:port`.
    #[error("{address:?} is not host:port")]
    Address {
        /// What was given.
        address: String,
    },
    /// Another program listens there, or the same without TLS.
    #[error(
        "the server does not speak TLS; is it the right port, and was the server started with a TLS directory?"
    )]
    NotTls,
    /// An old or foreign server.
    #[error("the server speaks TLS but not version 1.3 with HTTP/2; is it the right port?")]
    Incompatible,
    /// Its authority is not ours.
    #[error(
        "the server's certificate is of another authority than {}; take the ca.crt of that server's cluster",
        .bundle.display()
    )]
    Untrusted {
        /// What we believe.
        bundle: PathBuf,
    },
    /// The address is another server's, or the certificate lacks this name.
    #[error(
        "the server's certificate is not for {expected} but for {}; use one of these names",
        .presented.join(", ")
    )]
    Name {
        /// The host of the address.
        expected: String,
        /// What the certificate is for, the first few.
        presented: Vec<String>,
    },
    /// By our clock.
    #[error(
        "the server's certificate expired at {not_after}, now it is {now}; renew it, or is this machine's clock wrong?"
    )]
    Expired {
        /// Its end.
        not_after: Moment,
        /// Our clock.
        now: Moment,
    },
    /// By our clock.
    #[error(
        "the server's certificate is not valid before {not_before}, now it is {now}; is this machine's clock wrong?"
    )]
    NotYetValid {
        /// Its begin.
        not_before: Moment,
        /// Our clock.
        now: Moment,
    },
    /// A client's certificate.
    #[error(
        "the server's certificate is not for servers; was the server started with the TLS directory of a client?"
    )]
    Purpose,
    /// Not the one that was wanted.
    #[error("the server is not believed: {source}")]
    Refused {
        /// Why.
        source: Refused,
    },
    /// The server does not know our authority.
    #[error(
        "the server refused the certificate of {identity}: it is of an authority that the server does not believe; get tls.crt from the authority of that cluster"
    )]
    OursUntrusted {
        /// We.
        identity: SpiffeId,
    },
    /// By the server's clock.
    #[error(
        "the server refused the certificate of {identity}: not valid now by the server's clock, by ours until {not_after}; renew it, or is one of the clocks wrong?"
    )]
    OursExpired {
        /// We.
        identity: SpiffeId,
        /// Our end.
        not_after: Moment,
    },
    /// The certificate is not for clients, has no or a foreign identity.
    #[error(
        "the server refused the certificate of {identity}: not a client of the server's trust domain; use the TLS directory of that cluster"
    )]
    OursRefused {
        /// We.
        identity: SpiffeId,
    },
    /// The server wants one and did not see ours.
    #[error("the server asks for a client certificate and did not get ours")]
    OursMissing,
    /// No more is known.
    #[error(
        "the server closed the connection during the handshake; does it speak TLS, and does it believe our certificate?"
    )]
    Closed,
    /// It is overloaded, or something else that waits for us to speak.
    #[error("the server did not finish the handshake within {0:?}; does it speak TLS?")]
    Timeout(Duration),
    /// Anything else.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Address { .. } => io::ErrorKind::InvalidInput,
            Error::NotTls
            | Error::Incompatible
            | Error::Untrusted { .. }
            | Error::Name { .. }
            | Error::Expired { .. }
            | Error::NotYetValid { .. }
            | Error::Purpose
            | Error::Refused { .. }
            | Error::Tls(_) => io::ErrorKind::InvalidData,
            Error::OursUntrusted { .. }
            | Error::OursExpired { .. }
            | Error::OursRefused { .. }
            | Error::OursMissing => io::ErrorKind::PermissionDenied,
            Error::Closed => io::ErrorKind::ConnectionAborted,
            Error::Timeout(_) => io::ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

impl TlsConnect {
    pub(crate) fn new(tls: Tls, inner: Arc<dyn Connect>) -> Self {
        Self { proof: Proof::Directory(tls), inner, expected: None }
    }

    /// Takes only a server of exactly this identity.
    #[must_use]
    pub fn expecting(self, identity: SpiffeId) -> Self {
        Self { expected: Some(identity), ..self }
    }

    async fn handshake(&self, name: ServerName<'static>, io: BoxIo) -> Result<BoxIo, Error> {
        let config = match &self.proof {
            Proof::Directory(tls) => tls.client_config(self.expected.clone()),
            Proof::Nothing { config, .. } => Arc::clone(config),
        };
        let connector = TlsConnector::from(config);
        let stream = connector.connect(name, io).await.map_err(|error| self.explain(&error))?;
        if stream.get_ref().1.alpn_protocol() != Some(tls::ALPN) {
            return Err(Error::Incompatible);
        }
        if matches!(self.proof, Proof::Nothing { .. }) {
            // There is no certificate of ours that could still be refused.
            return Ok(Box::new(stream));
        }
        let mut stream = BufReader::with_capacity(FIRST_BYTES, stream);
        let is_closed = stream.fill_buf().await.map_err(|error| self.explain(&error))?.is_empty();
        if is_closed { Err(Error::Closed) } else { Ok(Box::new(stream)) }
    }

    /// What an error means to whoever wants the connection.
    fn explain(&self, error: &io::Error) -> Error {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(error) = inner else {
            return Error::Closed;
        };
        if let rustls::Error::InvalidCertificate(error) = error {
            return self.explain_certificate(error);
        }
        if let rustls::Error::AlertReceived(alert) = error {
            return self.explain_alert(*alert);
        }
        if matches!(error, rustls::Error::InvalidMessage(_)) {
            return Error::NotTls;
        }
        if matches!(error, rustls::Error::PeerIncompatible(_)) {
            return Error::Incompatible;
        }
        Error::Tls(error.clone())
    }

    fn explain_certificate(&self, error: &CertificateError) -> Error {
        if let Some(refused) = Refused::in_rustls(error) {
            return Error::Refused { source: refused.clone() };
        }
        if let CertificateError::ExpiredContext { time, not_after } = error {
            return Error::Expired { not_after: moment(*not_after), now: moment(*time) };
        }
        if let CertificateError::NotValidYetContext { time, not_before } = error {
            return Error::NotYetValid { not_before: moment(*not_before), now: moment(*time) };
        }
        if let CertificateError::NotValidForNameContext { expected, presented } = error {
            let expected = expected.to_str().into_owned();
            let presented = presented.iter().take(NAMES_TOLD_MAX).cloned().collect();
            return Error::Name { expected, presented };
        }
        if matches!(error, CertificateError::InvalidPurposeContext { .. }) {
            return Error::Purpose;
        }
        if matches!(error, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
            return Error::Untrusted {
                bundle: match &self.proof {
                    Proof::Directory(tls) => tls.directory().join(crate::directory::BUNDLE_FILE),
                    Proof::Nothing { bundle, .. } => bundle.to_path_buf(),
                },
            };
        }
        Error::Tls(rustls::Error::InvalidCertificate(error.clone()))
    }

    fn explain_alert(&self, alert: AlertDescription) -> Error {
        use AlertDescription as A;
        // Who shows no certificate hears nothing about one.
        if let Proof::Directory(tls) = &self.proof
            && let Some(error) = explain_refusal(tls, alert)
        {
            return error;
        }
        if matches!(alert, A::CertificateRequired) {
            return Error::OursMissing;
        }
        if matches!(alert, A::ProtocolVersion | A::NoApplicationProtocol | A::HandshakeFailure) {
            return Error::Incompatible;
        }
        Error::Tls(rustls::Error::AlertReceived(alert))
    }
}

/// What an alert says about our certificate, if it is about that.
fn explain_refusal(tls: &Tls, alert: AlertDescription) -> Option<Error> {
    use AlertDescription as A;
    let identity = tls.identity().clone();
    if matches!(alert, A::UnknownCA | A::DecryptError) {
        return Some(Error::OursUntrusted { identity });
    }
    if matches!(alert, A::CertificateExpired) {
        let not_after = Moment { ms: tls.status().not_after_ms };
        return Some(Error::OursExpired { identity, not_after });
    }
    let is_refusal = matches!(
        alert,
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied
    );
    is_refusal.then_some(Error::OursRefused { identity })
}

#[async_trait::async_trait]
impl Connect for TlsConnect {
    async fn connect(&self, address: &str) -> io::Result<BoxIo> {
        let name =
            server_name(address).ok_or_else(|| Error::Address { address: address.to_owned() })?;
        let io = self.inner.connect(address).await?;
        match timeout(CONNECT_TIMEOUT, Box::pin(self.handshake(name, io))).await {
            Ok(done) => Ok(done?),
            Err(_elapsed) => Err(Error::Timeout(CONNECT_TIMEOUT).into()),
        }
    }
}

/// The host of `host:port`, a DNS name or an address of IP; one of IPv6 is in brackets.
fn server_name(address: &str) -> Option<ServerName<'static>> {
    let (host, _port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).ok()
}

fn moment(time: UnixTime) -> Moment {
    Moment { ms: time.as_secs().saturating_mul(1000) }
}

//! Who is believed: chain, purpose and time as rustls checks them, then the identity, all inside
//! the handshake, so that a refused peer gets an alert and not just a closed connection.

use std::fmt;
use std::sync::Arc;

use pyramid_protocol::{Clock, SpiffeId};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::leaf;

/// Why a peer with a believed certificate is refused all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its certificate does not name it.
    #[error(transparent)]
    Leaf(#[from] leaf::Error),
    /// Its certificate does not say that it is for this.
    #[error("the certificate of {identity} is not for {purpose}")]
    Purpose {
        /// Whose.
        identity: SpiffeId,
        /// `servers` or `clients`.
        purpose: &'static str,
    },
    /// Another trust domain whose root got into the bundle.
    #[error("{identity} is not of the trust domain {trust_domain}")]
    TrustDomain {
        /// The peer.
        identity: SpiffeId,
        /// Ours.
        trust_domain: String,
    },
    /// A client of ours that pretends to be a server.
    #[error("{identity} is not a Writer")]
    NotWriter {
        /// The peer.
        identity: SpiffeId,
    },
    /// Another server than the one that was wanted.
    #[error("it is {identity} and not {expected}")]
    Unexpected {
        /// The peer.
        identity: SpiffeId,
        /// Who was wanted.
        expected: SpiffeId,
    },
}

impl Refused {
    /// In the form in which rustls carries it.
    fn into_rustls(self) -> rustls::Error {
        CertificateError::Other(OtherError(Arc::new(self))).into()
    }

    /// What [`Refused::into_rustls`] put in.
    pub(crate) fn in_rustls(error: &CertificateError) -> Option<&Self> {
        if let CertificateError::Other(OtherError(inner)) = error {
            inner.downcast_ref()
        } else {
            None
        }
    }
}

pub(crate) fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// The checks of chain, purpose and time.
///
/// # Panics
///
/// Never: there is at least one root and there are no revocation lists.
pub(crate) fn of(
    roots: Arc<RootCertStore>,
) -> (Arc<dyn ClientCertVerifier>, Arc<dyn ServerCertVerifier>) {
    let provider = Arc::new(provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .expect("a bundle has a root");
    let servers = WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .expect("a bundle has a root");
    (clients, servers)
}

pub(crate) fn unix_time(clock: &dyn Clock) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(clock.wall_ms()))
}

pub(crate) fn is_expired(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Expired | CertificateError::ExpiredContext { .. })
}

pub(crate) fn is_not_yet_valid(error: &CertificateError) -> bool {
    matches!(error, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })
}

/// rustls asks our clock.
pub(crate) struct Time(pub(crate) Arc<dyn Clock>);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(&*self.0))
    }
}

/// The clients of our servers: anybody of our trust domain.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) chain: Arc<dyn ClientCertVerifier>,
    pub(crate) trust_domain: String,
}

/// Reads who it is, of our trust domain or nobody.
fn identity(
    end_entity: &CertificateDer<'_>,
    trust_domain: &str,
    purpose: &'static str,
    is_for: impl Fn(&leaf::Leaf) -> bool,
) -> Result<SpiffeId, Refused> {
    let leaf = leaf::read(end_entity)?;
    let is_for = is_for(&leaf);
    let identity = leaf.identity;
    if !is_for {
        return Err(Refused::Purpose { identity, purpose });
    }
    if identity.trust_domain() != trust_domain {
        return Err(Refused::TrustDomain { identity, trust_domain: trust_domain.to_owned() });
    }
    Ok(identity)
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        leaf::check_size(end_entity, intermediates)
            .map_err(|error| Refused::Leaf(error).into_rustls())?;
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        // A certificate without any purpose passes the check above.
        identity(end_entity, &self.trust_domain, "clients", |leaf| leaf.is_for_clients)
            .map_err(Refused::into_rustls)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The servers that we call: Writers of our trust domain, or one of them.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) chain: Arc<dyn ServerCertVerifier>,
    pub(crate) trust_domain: String,
    /// `None`: any Writer.
    pub(crate) expected: Option<SpiffeId>,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        leaf::check_size(end_entity, intermediates)
            .map_err(|error| Refused::Leaf(error).into_rustls())?;
        let verified = self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let identity =
            identity(end_entity, &self.trust_domain, "servers", |leaf| leaf.is_for_servers)
                .map_err(Refused::into_rustls)?;
        let refused = match &self.expected {
            Some(expected) if *expected == identity => return Ok(verified),
            Some(expected) => Refused::Unexpected { identity, expected: expected.clone() },
            None if identity.is_writer() => return Ok(verified),
            None => Refused::NotWriter { identity },
        };
        Err(refused.into_rustls())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

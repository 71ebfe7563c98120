//! Why handshakes did not lead to a connection, counted.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::{CertificateError, InvalidMessage};

use crate::verifier::{self, Refused};

/// Why a server did not take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Something else than TLS, most likely a program that was not given its TLS directory.
    NotTls,
    /// TLS, but nothing in common: an older version than 1.3, other algorithms.
    Incompatible,
    /// Not HTTP/2.
    Protocol,
    /// No client certificate.
    NoCertificate,
    /// Of an authority that is not in the bundle, or not properly signed.
    Untrusted,
    /// The client's certificate has ended, by our clock.
    Expired,
    /// The client's certificate has not begun, by our clock.
    NotYetValid,
    /// A certificate that is not for clients.
    Purpose,
    /// Not exactly one identity, or a certificate out of all proportion.
    Identity,
    /// Another trust domain.
    TrustDomain,
    /// The client gave up: it refused our certificate, or went away.
    ByPeer,
    /// The client took too long.
    Timeout,
    /// It was the oldest unfinished one when there were too many.
    Crowded,
}

impl Reason {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 13] = [
        Self::NotTls,
        Self::Incompatible,
        Self::Protocol,
        Self::NoCertificate,
        Self::Untrusted,
        Self::Expired,
        Self::NotYetValid,
        Self::Purpose,
        Self::Identity,
        Self::TrustDomain,
        Self::ByPeer,
        Self::Timeout,
        Self::Crowded,
    ];

    /// As a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::Protocol => "protocol",
            Self::NoCertificate => "no_certificate",
            Self::Untrusted => "untrusted",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Purpose => "purpose",
            Self::Identity => "identity",
            Self::TrustDomain => "trust_domain",
            Self::ByPeer => "by_peer",
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
        }
    }

    /// What a failed handshake says.
    pub(crate) fn of(error: &io::Error) -> Self {
        error.get_ref().and_then(|inner| inner.downcast_ref()).map_or(Self::ByPeer, Self::of_rustls)
    }

    fn of_rustls(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        if let E::InvalidCertificate(error) = error {
            return Self::of_certificate(error);
        }
        if matches!(error, E::NoCertificatesPresented) {
            return Self::NoCertificate;
        }
        if matches!(error, E::NoApplicationProtocol) {
            return Self::Protocol;
        }
        if matches!(error, E::AlertReceived(_)) {
            return Self::ByPeer;
        }
        let is_too_large = matches!(
            error,
            E::InvalidMessage(
                InvalidMessage::HandshakePayloadTooLarge
                    | InvalidMessage::CertificatePayloadTooLarge
            )
        );
        if is_too_large {
            return Self::Identity;
        }
        let is_other_protocol = matches!(
            error,
            E::InvalidMessage(_)
                | E::InappropriateMessage { .. }
                | E::InappropriateHandshakeMessage { .. }
                | E::PeerSentOversizedRecord
        );
        if is_other_protocol { Self::NotTls } else { Self::Incompatible }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        if verifier::is_expired(error) {
            return Self::Expired;
        }
        if verifier::is_not_yet_valid(error) {
            return Self::NotYetValid;
        }
        let is_purpose = matches!(
            error,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }
        );
        if is_purpose {
            return Self::Purpose;
        }
        match Refused::in_rustls(error) {
            None => Self::Untrusted,
            Some(Refused::Purpose { .. }) => Self::Purpose,
            Some(Refused::TrustDomain { .. }) => Self::TrustDomain,
            Some(Refused::Leaf(_) | Refused::NotWriter { .. } | Refused::Unexpected { .. }) => {
                Self::Identity
            }
        }
    }
}

/// A counter for each [`Reason`].
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    counts: [AtomicU64; Reason::ALL.len()],
}

impl Refusals {
    pub(crate) fn count(&self, reason: Reason) {
        let all = Reason::ALL.iter().zip(&self.counts);
        for (_, count) in all.filter(|(counted, _)| **counted == reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn counts(&self) -> Vec<(Reason, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(counts).collect()
    }
}

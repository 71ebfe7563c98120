//! What a certificate says about its holder: exactly one SPIFFE identity, and what it is for.

use std::fmt;

use pyramid_protocol::{ParseSpiffeIdError, SpiffeId};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::bundle;

/// Longest leaf. Ours have about 700 bytes. Unit: bytes of DER.
pub const LEAF_BYTES_MAX: usize = 16 << 10;
/// Names that a leaf may have: its identity and where its server can be reached.
pub const NAMES_MAX: usize = 64;
/// Certificates between a leaf and its root.
pub const INTERMEDIATES_MAX: usize = 4;

/// Why a certificate does not say who its holder is. Whoever issued it has to issue another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody needs one as large.
    #[error("the certificate has {bytes} bytes; {LEAF_BYTES_MAX} are enough")]
    Size {
        /// What it has.
        bytes: usize,
    },
    /// A long chain only costs time.
    #[error(
        "the certificate comes with {intermediates} intermediates; at most {INTERMEDIATES_MAX}"
    )]
    Chain {
        /// What came with it.
        intermediates: usize,
    },
    /// It cannot be read.
    #[error("the certificate is damaged")]
    Damaged,
    /// More than any server has.
    #[error("the certificate has {names} names; {NAMES_MAX} are enough")]
    Names {
        /// What it has.
        names: usize,
    },
    /// A certificate of something else.
    #[error("the certificate has no identity: it needs one URI spiffe://... among its names")]
    NoUri,
    /// It could be read as either.
    #[error("the certificate has {uris} URIs among its names; it must have exactly one")]
    SeveralUris {
        /// What it has.
        uris: usize,
    },
    /// The one URI is something else.
    #[error("the URI in the certificate is no identity")]
    NotSpiffe(#[source] ParseSpiffeIdError),
}

/// The parts of a leaf that we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) identity: SpiffeId,
    /// Lower-case hexadecimal.
    pub(crate) serial: String,
    pub(crate) validity: Validity,
    /// Where its server is reached, in the order of the certificate.
    pub(crate) dns_names: Vec<String>,
    pub(crate) is_for_servers: bool,
    pub(crate) is_for_clients: bool,
}

/// When a certificate holds. Unit: milliseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before_ms: u64,
    pub(crate) not_after_ms: u64,
}

/// Refuses what costs more to check than it can be worth, before anything is checked.
///
/// # Errors
///
/// [`Error::Size`], [`Error::Chain`].
pub(crate) fn check_size(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), Error> {
    if leaf.len() > LEAF_BYTES_MAX {
        return Err(Error::Size { bytes: leaf.len() });
    }
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(Error::Chain { intermediates: intermediates.len() });
    }
    Ok(())
}

/// Reads a leaf. Says nothing about who vouches for it.
///
/// # Errors
///
/// As [`Error`] says.
pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Leaf, Error> {
    check_size(certificate, &[])?;
    let (_rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|_damaged| Error::Damaged)?;
    let names = parsed.subject_alternative_name().map_err(|_damaged| Error::Damaged)?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    if names.len() > NAMES_MAX {
        return Err(Error::Names { names: names.len() });
    }
    let mut uris = Vec::new();
    let mut dns_names = Vec::new();
    for name in names {
        if let GeneralName::URI(uri) = name {
            uris.push(*uri);
        } else if let GeneralName::DNSName(name) = name {
            dns_names.push((*name).to_owned());
        } else if matches!(name, GeneralName::Invalid(..)) {
            // It may be meant as a second URI.
            return Err(Error::Damaged);
        }
    }
    let identity = match *uris {
        [] => return Err(Error::NoUri),
        [uri] => uri.parse().map_err(Error::NotSpiffe)?,
        [..] => return Err(Error::SeveralUris { uris: uris.len() }),
    };
    let purposes = parsed.extended_key_usage().map_err(|_damaged| Error::Damaged)?;
    let validity = parsed.validity();
    Ok(Leaf {
        identity,
        serial: bundle::hex(parsed.raw_serial()),
        validity: Validity {
            not_before_ms: milliseconds(validity.not_before.timestamp()),
            not_after_ms: milliseconds(validity.not_after.timestamp()),
        },
        dns_names,
        is_for_servers: purposes.as_ref().is_some_and(|purposes| purposes.value.server_auth),
        is_for_clients: purposes.as_ref().is_some_and(|purposes| purposes.value.client_auth),
    })
}

/// Times before 1970 are as good as 1970.
pub(crate) fn milliseconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

/// A time, as texts for people show it: `2026-01-31T23:59:59Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Unit: milliseconds since 1970 UTC.
    pub ms: u64,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.ms / 1000).unwrap_or(i64::MAX);
        let Ok(time) = time::OffsetDateTime::from_unix_timestamp(seconds) else {
            return f.write_str("the far future");
        };
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        let month = u8::from(month);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_to_the_second() {
        let shown = |ms: u64| Moment { ms }.to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(1_785_542_400_000 - 1), "2026-07-31T23:59:59Z");
        assert_eq!(shown(1_785_542_400_000), "2026-08-01T00:00:00Z");
        assert_eq!(shown(u64::MAX), "the far future");
    }
}

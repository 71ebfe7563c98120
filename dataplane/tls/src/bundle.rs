//! Trust bundles: the roots that are believed, one or several during a rotation.
//!
//! A bundle is PEM text. Its digest says which roots it holds and nothing else: neither their order
//! nor comments between them change it, so an operator can compare what replicas report.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Roots that one bundle may hold.
pub const ROOTS_MAX: usize = 16;

/// Characters of base64 in a line of PEM, as RFC 7468 wants it.
const PEM_LINE_CHARS: usize = 64;

/// Why a text is no trust bundle. Get the `ca.crt` of the cluster again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is damaged.
    #[error("is not PEM; it has to hold certificates between BEGIN and END lines")]
    NotPem,
    /// There is no certificate in it.
    #[error("holds no certificate")]
    Empty,
    /// More than anybody needs.
    #[error("holds more than {ROOTS_MAX} certificates; take old ones out")]
    TooMany,
    /// A certificate that must not vouch for others, most likely a leaf.
    #[error("holds a certificate that is not of an authority; put the root there, not a leaf")]
    NotAuthority,
}

/// The roots in `pem`, in their order, without repetitions, at least one.
///
/// # Errors
///
/// As [`Error`] says.
pub(crate) fn parse(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut roots: Vec<CertificateDer<'static>> = Vec::new();
    for root in CertificateDer::pem_slice_iter(pem) {
        let root = root.map_err(|_damaged| Error::NotPem)?;
        if roots.contains(&root) {
            continue;
        }
        if roots.len() == ROOTS_MAX {
            return Err(Error::TooMany);
        }
        if !is_authority(&root)? {
            return Err(Error::NotAuthority);
        }
        roots.push(root);
    }
    if roots.is_empty() { Err(Error::Empty) } else { Ok(roots) }
}

fn is_authority(certificate: &CertificateDer<'_>) -> Result<bool, Error> {
    let (_rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|_damaged| Error::NotPem)?;
    Ok(parsed.is_ca())
}

/// One bundle with the roots of all, each once.
///
/// # Errors
///
/// One of them is no bundle, or there are too many roots.
pub fn join(bundles: &[&str]) -> Result<String, Error> {
    Ok(parse(bundles.join("\n").as_bytes())?.iter().map(|root| certificate_pem(root)).collect())
}

/// The SHA-256 of each root, in their order.
///
/// # Errors
///
/// It is no bundle.
pub fn fingerprints(bundle_pem: &str) -> Result<Vec<[u8; 32]>, Error> {
    Ok(fingerprints_of(&parse(bundle_pem.as_bytes())?))
}

/// What tells one bundle from another: the SHA-256 of the sorted fingerprints.
///
/// # Errors
///
/// It is no bundle.
pub fn digest(bundle_pem: &str) -> Result<[u8; 32], Error> {
    Ok(digest_of(&parse(bundle_pem.as_bytes())?))
}

fn fingerprints_of(roots: &[CertificateDer<'_>]) -> Vec<[u8; 32]> {
    roots.iter().map(|root| Sha256::digest(root).into()).collect()
}

pub(crate) fn digest_of(roots: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut fingerprints = fingerprints_of(roots);
    fingerprints.sort_unstable();
    Sha256::digest(fingerprints.concat()).into()
}

/// Lower-case hexadecimal, as logs and metrics show digests.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

/// One certificate as PEM.
pub(crate) fn certificate_pem(certificate: &[u8]) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (at, character) in STANDARD.encode(certificate).chars().enumerate() {
        if at > 0 && at % PEM_LINE_CHARS == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pyramid_protocol::SystemClock;

    use super::*;
    use crate::Authority;

    fn root() -> String {
        let life = Duration::from_secs(86_400);
        Authority::generate("test.local", life, &SystemClock).unwrap().bundle_pem().to_owned()
    }

    #[test]
    fn joining_keeps_each_root_once() {
        let (a, b) = (root(), root());
        let both = join(&[&a, &b]).unwrap();
        assert_eq!(join(&[&both, &a, &b, &b]), Ok(both.clone()));
        let fingerprint = |pem: &str| fingerprints(pem).unwrap();
        assert_eq!(fingerprints(&both), Ok([fingerprint(&a), fingerprint(&b)].concat()));
        assert_eq!(join(&[]), Err(Error::Empty));
    }

    #[test]
    fn a_digest_tells_roots_and_nothing_else() {
        let (a, b) = (root(), root());
        let (ab, ba) = (format!("{a}{b}"), format!("# roots\n\n{b}\n# old\n{a}"));
        assert_eq!(digest(&ab), digest(&ba));
        assert_ne!(digest(&ab), digest(&a));
        assert_ne!(digest(&a), digest(&b));
    }

    #[test]
    fn a_bundle_has_at_most_16_roots() {
        let roots: Vec<String> = (0..=ROOTS_MAX).map(|_| root()).collect();
        assert_eq!(parse(roots[..ROOTS_MAX].concat().as_bytes()).unwrap().len(), ROOTS_MAX);
        assert_eq!(parse(roots.concat().as_bytes()), Err(Error::TooMany));
    }

    #[test]
    fn what_is_written_as_pem_is_read() {
        for len in [0, 1, 47, 48, 49, 700] {
            let content = vec![0xa5; len];
            let pem = certificate_pem(&content);
            assert!(pem.lines().all(|line| line.len() <= PEM_LINE_CHARS), "{len}");
            let read = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            assert_eq!(&*read, content);
        }
    }
}

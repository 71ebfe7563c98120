//! [`CertificateRequest`]: a new key, and what an authority needs to make a certificate for it.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::authority::Issued;

/// The library could not make a key or sign with it. Nothing that a caller gives leads here.
#[derive(Debug, thiserror::Error)]
#[error("make a key and a request for its certificate")]
pub struct Error(#[source] rcgen::Error);

/// A new ECDSA P-256 key and its certificate request. Not printable: it holds the key.
///
/// The request names nobody: the authority says who its sender is.
pub struct CertificateRequest {
    key_pem: String,
    csr_pem: String,
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest").field("csr_pem", &self.csr_pem).finish_non_exhaustive()
    }
}

impl CertificateRequest {
    /// Makes both.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn generate() -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(Error)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_pem: csr.pem().map_err(Error)? })
    }

    /// PKCS#10 PEM, for the authority.
    #[must_use]
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// The key with the certificate that the authority made for it.
    #[must_use]
    pub fn into_issued(self, chain_pem: String, not_after_ms: u64) -> Issued {
        Issued { key_pem: self.key_pem, chain_pem, not_after_ms }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pyramid_protocol::{SpiffeId, SystemClock};

    use super::*;
    use crate::authority::{Request, Usage};
    use crate::{Authority, Tls, write_checked_directory};

    #[test]
    fn an_authority_makes_a_certificate_for_a_request() {
        let clock = SystemClock;
        let life = Duration::from_secs(86_400);
        let authority = Authority::generate("test.local", life, &clock).unwrap();
        let identity = SpiffeId::service_account("test.local", "shop", "projector").unwrap();
        let wanted = Request {
            identity: identity.clone(),
            usage: Usage::Client,
            dns_names: vec![],
            ip_addresses: vec![],
            life: life / 2,
        };
        let (request, other) =
            (CertificateRequest::generate().unwrap(), CertificateRequest::generate().unwrap());
        let issued = authority.issue_csr(request.csr_pem(), &wanted, &clock).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |request: CertificateRequest| {
            let issued = request.into_issued(issued.chain_pem.clone(), issued.not_after_ms);
            write_checked_directory(folder.path(), &issued, authority.bundle_pem(), &clock)
        };
        assert!(matches!(write(other), Err(crate::Error::KeyMismatch { .. })));
        assert_eq!(write(request).unwrap(), identity);
        let tls = Tls::open(folder.path(), std::sync::Arc::new(clock)).unwrap();
        assert_eq!(*tls.identity(), identity);
    }
}

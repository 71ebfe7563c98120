//! Whose certificates of object stores are believed.

use std::{path::Path, sync::Arc};

use hyper_rustls::ConfigBuilderExt;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, pem::PemObject},
};

/// Longest file with certificate authorities. Unit: bytes. Debian's bundle has 220 kB.
const CA_FILE_LEN_MAX: u64 = 4 << 20;

/// Why there is nobody to believe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The file of the settings cannot be used.
    #[error("{path}: {reason}; give a PEM file with the certificate authority of the object store")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine has none of its own.
    #[error(
        "this machine has no bundle of certificate authorities; install ca-certificates or name a \
         file with the authority of the object store"
    )]
    NoNativeRoots,
}

/// The text of a file of certificate authorities that was seen to be right.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    let failed = |reason: String| TrustError::File { path: path.display().to_string(), reason };
    let len = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if len > CA_FILE_LEN_MAX {
        return Err(failed(format!("it has {len} bytes, at most {CA_FILE_LEN_MAX} are read")));
    }
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    roots(&pem).map_err(failed)?;
    Ok(pem)
}

/// The authorities of a PEM text; at least one.
fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate in it is bad: {error}"))?;
    }
    if roots.is_empty() {
        return Err("no certificate is in it".to_owned());
    }
    Ok(roots)
}

/// A client that believes the authorities of a PEM text that [`read`] has seen, else those of the
/// machine.
pub(crate) fn client_config(pem: Option<&[u8]>) -> Result<ClientConfig, TrustError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for the default versions of TLS");
    let builder = match pem {
        Some(pem) => {
            let roots = roots(pem).map_err(|reason| TrustError::File {
                path: "the file with certificate authorities".to_owned(),
                reason,
            })?;
            builder.with_root_certificates(roots)
        }
        None => builder.with_native_roots().map_err(|_| TrustError::NoNativeRoots)?,
    };
    Ok(builder.with_no_client_auth())
}

/// A client that believes nobody.
pub(crate) fn trusting_nobody() -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for the default versions of TLS")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// Handed in everywhere, so that nothing depends on a default that some program has set.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

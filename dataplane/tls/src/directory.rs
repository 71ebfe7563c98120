//! The directory that proves who a program is: `tls.key`, `tls.crt`, `ca.crt`.
//!
//! | file | holds |
//! | --- | --- |
//! | `tls.key` | the private key, PKCS#8 PEM |
//! | `tls.crt` | the leaf, then its intermediates, PEM |
//! | `ca.crt` | the trust bundle: one root, or several during a rotation, PEM |
//!
//! It is the form of a Kubernetes Secret of type `kubernetes.io/tls`. All three are read, bounded,
//! and believed only together: key and leaf match, the leaf is valid now and leads to a root of the
//! bundle, and it has one identity. So a reader who comes in the middle of a change sees an error
//! and not a mixture.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyramid_protocol::{Clock, SpiffeId};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use sha2::{Digest as _, Sha256};

use crate::bundle;
use crate::leaf::{self, INTERMEDIATES_MAX, Leaf, Moment};
use crate::verifier;

pub(crate) mod files;
mod write;

pub use write::{replace_bundle, write_checked_directory, write_directory};

pub(crate) const KEY_FILE: &str = "tls.key";
pub(crate) const CHAIN_FILE: &str = "tls.crt";
pub(crate) const BUNDLE_FILE: &str = "ca.crt";
/// The link that leads to the version in force, where there are versions.
const VERSION_LINK: &str = "..data";
/// How often files that change while they are read are read.
const READS_MAX: usize = 10;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Name the right directory, or have its files made.
    #[error("{} is missing; a TLS directory holds tls.key, tls.crt and ca.crt", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Look at owner, mode and disk.
    #[error("{} cannot be read; may this user read it?", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says, or that the file is too long.
        #[source]
        source: io::Error,
    },
    /// Look at owner, mode and room of the disk.
    #[error("{} cannot be written; may this user write it, and is there room?", .directory.display())]
    Unwritable {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The key file is damaged or of another form.
    #[error("{} is no private key in PEM (PKCS#8); get it anew together with tls.crt", .path.display())]
    NotKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate file is damaged or empty.
    #[error("{} is no certificate in PEM; get it anew together with tls.key", .path.display())]
    NotCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The bundle is unusable.
    #[error("{} {source}", .path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: bundle::Error,
    },
    /// The two are not a pair: one is old, or a change is under way.
    #[error("{}: tls.key does not belong to tls.crt; get both anew", .directory.display())]
    KeyMismatch {
        /// The directory.
        directory: PathBuf,
    },
    /// Others with this bundle would not believe the certificate either.
    #[error(
        "{}: tls.crt does not lead to a root in ca.crt; get both from the same authority",
        .directory.display()
    )]
    Untrusted {
        /// The directory.
        directory: PathBuf,
        /// What the check says.
        #[source]
        source: rustls::Error,
    },
    /// The certificate names nobody.
    #[error("{}: tls.crt cannot be used", .directory.display())]
    Identity {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: leaf::Error,
    },
    /// Renew the certificate.
    #[error("{}: tls.crt expired at {not_after}; renew it", .directory.display())]
    Expired {
        /// The directory.
        directory: PathBuf,
        /// When.
        not_after: Moment,
    },
    /// The certificate is of the future.
    #[error(
        "{}: tls.crt is not valid before {not_before}; wait, or is this machine's clock wrong?",
        .directory.display()
    )]
    NotYetValid {
        /// The directory.
        directory: PathBuf,
        /// When it begins.
        not_before: Moment,
    },
    /// Name the directory of the Writer: no client would believe this one.
    #[error(
        "{}: tls.crt of {identity} is not that of a Writer that serves; give the Writer's own \
         directory",
        .directory.display()
    )]
    NotWriter {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        identity: SpiffeId,
    },
    /// Only a new process may be somebody else.
    #[error(
        "{}: tls.crt is of {found} and this process is {expected}; restart it to change that",
        .directory.display()
    )]
    IdentityChanged {
        /// The directory.
        directory: PathBuf,
        /// In the new certificate.
        found: SpiffeId,
        /// In the one in use.
        expected: SpiffeId,
    },
}

/// The three files as they were read. The key is in it, so it is not printable.
pub(crate) struct Content {
    pub(super) key: Vec<u8>,
    pub(super) chain: Vec<u8>,
    pub(super) bundle: Vec<u8>,
}

impl Content {
    /// Content that is in memory already.
    pub(crate) fn new(key: &[u8], chain: &[u8], bundle: &[u8]) -> Self {
        Self { key: key.to_vec(), chain: chain.to_vec(), bundle: bundle.to_vec() }
    }

    /// Reads the files, all of one version if they are changed as the kubelet and
    /// [`write_directory`] do it. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Unreadable`].
    pub(crate) fn read(directory: &Path) -> Result<Self, Error> {
        // All three names lead through this link. If it is the same before and after, nothing has
        // changed between the first file and the last.
        let version = || fs::read_link(directory.join(VERSION_LINK)).ok();
        let mut reads = 0;
        loop {
            let before = version();
            let content = Self::read_once(directory);
            reads += 1;
            if reads == READS_MAX || version() == before {
                return content;
            }
        }
    }

    fn read_once(directory: &Path) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = directory.join(name);
            files::read_bounded(&path).map_err(|source| {
                if source.kind() == io::ErrorKind::NotFound {
                    Error::Missing { path }
                } else {
                    Error::Unreadable { path, source }
                }
            })
        };
        Ok(Self { key: read(KEY_FILE)?, chain: read(CHAIN_FILE)?, bundle: read(BUNDLE_FILE)? })
    }

    /// Tells one content from another without keeping the key.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for file in [&self.key, &self.chain, &self.bundle] {
            hash.update(Sha256::digest(file));
        }
        hash.finalize().into()
    }
}

/// What a directory says, checked.
pub(crate) struct Material {
    pub(crate) leaf: Leaf,
    pub(crate) pair: Arc<CertifiedKey>,
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
    pub(crate) servers: Arc<dyn ServerCertVerifier>,
    pub(crate) bundle_sha256: [u8; 32],
}

/// What a directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Only to call others.
    Client,
    /// To be called as a Writer, too.
    Writer,
}

impl Material {
    /// Checks that all belongs together and holds now.
    ///
    /// # Errors
    ///
    /// Those of [`Error`] that are not about reading.
    pub(crate) fn check(
        content: &Content,
        purpose: Purpose,
        directory: &Path,
        clock: &dyn Clock,
    ) -> Result<Self, Error> {
        let path = |name: &str| directory.join(name);
        let directory = directory.to_owned();
        let chain = chain(&content.chain)
            .ok_or_else(|| Error::NotCertificate { path: path(CHAIN_FILE) })?;
        let (end_entity, intermediates) =
            chain.split_first().ok_or_else(|| Error::NotCertificate { path: path(CHAIN_FILE) })?;
        let key = PrivateKeyDer::from_pem_slice(&content.key)
            .map_err(|_damaged: pem::Error| Error::NotKey { path: path(KEY_FILE) })?;
        let roots = bundle::parse(&content.bundle)
            .map_err(|source| Error::Bundle { path: path(BUNDLE_FILE), source })?;
        let identity = |source| Error::Identity { directory: directory.clone(), source };
        leaf::check_size(end_entity, intermediates).map_err(identity)?;
        let leaf = leaf::read(end_entity).map_err(identity)?;
        let pair = pair(&chain, key).map_err(|error| {
            if matches!(error, rustls::Error::InconsistentKeys(_)) {
                Error::KeyMismatch { directory: directory.clone() }
            } else {
                Error::NotKey { path: path(KEY_FILE) }
            }
        })?;
        let bundle_sha256 = bundle::digest_of(&roots);
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root).map_err(|_damaged| Error::Bundle {
                path: path(BUNDLE_FILE),
                source: bundle::Error::NotPem,
            })?;
        }
        let (clients, servers) = verifier::of(Arc::new(store));
        let now = verifier::unix_time(clock);
        clients.verify_client_cert(end_entity, intermediates, now).map_err(|source| {
            let is = |wanted: fn(&CertificateError) -> bool| {
                matches!(&source, rustls::Error::InvalidCertificate(error) if wanted(error))
            };
            let directory = directory.clone();
            if is(verifier::is_expired) {
                Error::Expired { directory, not_after: Moment { ms: leaf.validity.not_after_ms } }
            } else if is(verifier::is_not_yet_valid) {
                let not_before = Moment { ms: leaf.validity.not_before_ms };
                Error::NotYetValid { directory, not_before }
            } else {
                Error::Untrusted { directory, source }
            }
        })?;
        if purpose == Purpose::Writer && !(leaf.is_for_servers && leaf.identity.is_writer()) {
            return Err(Error::NotWriter { directory, identity: leaf.identity });
        }
        Ok(Self { leaf, pair: Arc::new(pair), clients, servers, bundle_sha256 })
    }
}

fn chain(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    // One more than allowed is enough to see that there are too many.
    CertificateDer::pem_slice_iter(pem).take(INTERMEDIATES_MAX + 2).collect::<Result<_, _>>().ok()
}

fn pair(
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let pair = CertifiedKey::from_der(chain.to_vec(), key, &verifier::provider())?;
    pair.keys_match()?;
    Ok(pair)
}

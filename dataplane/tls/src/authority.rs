//! The authority of one trust domain: it makes the certificates of Writers and of their callers.
//!
//! ECDSA P-256 throughout. The root signs leaves directly (path length 0); its only name is the
//! trust domain, `spiffe://<trust domain>`. A leaf has exactly one URI, the identity, and the names
//! at which its server is reached; it never outlives its root, and begins [`BACKDATED`] in the past
//! because clocks differ. What a certificate request asks for is ignored, except its key.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pyramid_protocol::{Clock, Entropy, SpiffeId, SystemEntropy};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::directory::files::{self, Mode};
use crate::leaf::{self, Moment, NAMES_MAX, Validity};

mod pem;

pub use pem::{Damaged, Recognized};

/// How far in the past a certificate begins.
pub const BACKDATED: Duration = Duration::from_secs(300);
/// How long before its root a leaf ends at the latest.
pub const BEFORE_ROOT: Duration = Duration::from_secs(3600);
/// Longest certificate request. Unit: bytes of PEM.
pub const CSR_BYTES_MAX: usize = 16 << 10;

const KEY_FILE: &str = "ca.key";
const CERTIFICATE_FILE: &str = "ca.crt";
/// Serial numbers are random, so that nobody can tell the next one. Unit: bytes.
const SERIAL_BYTES: usize = 16;
/// An uncompressed point of P-256. Unit: bytes.
const P256_POINT_BYTES: usize = 65;
const SCHEME: &str = "spiffe://";

/// Why the authority did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no authority in this directory: generate one, unless there ever was one.
    #[error("there is no authority in {}", .directory.display())]
    Missing {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// An authority lies there already. Load it, or choose another directory.
    #[error("an authority lies in {} already; it is never replaced", .directory.display())]
    Exists {
        /// Where.
        directory: PathBuf,
    },
    /// Files cannot be read or written. Nobody may take that for [`Error::Missing`] and make a new
    /// authority: that would cut off every holder of a certificate.
    #[error("{}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The files do not belong together. Restore them from a copy.
    #[error("the authority in {} is damaged: {fact}; restore it from a copy", .directory.display())]
    Damaged {
        /// Where.
        directory: PathBuf,
        /// What is wrong.
        fact: &'static str,
    },
    /// Not a trust domain. Choose another.
    #[error(
        "{trust_domain:?} is no trust domain; use lower-case letters, digits, '.', '-' and '_'"
    )]
    TrustDomain {
        /// What was given.
        trust_domain: String,
    },
    /// The identity is of another trust domain. Ask its authority.
    #[error("{identity} is not of the trust domain {trust_domain}")]
    Foreign {
        /// What was asked for.
        identity: SpiffeId,
        /// Ours.
        trust_domain: String,
    },
    /// The root has ended, or ends too soon for any leaf. Make a new one and rotate.
    #[error("the authority ends at {not_after}; it cannot issue any more, rotate to a new one")]
    Ended {
        /// When the root ends.
        not_after: Moment,
    },
    /// More names than others accept.
    #[error(
        "{names} names are too many for one certificate; at most {NAMES_MAX} with the identity"
    )]
    Names {
        /// What was asked for, with the identity.
        names: usize,
    },
    /// Not a name of a host.
    #[error("{name:?} is no DNS name")]
    DnsName {
        /// What was given.
        name: String,
    },
    /// The request for a certificate cannot be used. Its sender makes another.
    #[error("the certificate request {fact}")]
    Request {
        /// What is wrong with it.
        fact: &'static str,
    },
    /// The library refused; nothing that a caller can give should lead here.
    #[error("make a certificate")]
    Make(#[source] rcgen::Error),
}

/// What a leaf is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A Writer: serves, and calls other replicas of its Writer.
    ServerAndClient,
    /// Everybody else: only calls.
    Client,
}

/// What to put into a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who the holder is.
    pub identity: SpiffeId,
    /// What it may be used for.
    pub usage: Usage,
    /// Where its server is reached; a first label `*` stands for any. Empty for clients.
    pub dns_names: Vec<String>,
    /// As `dns_names`.
    pub ip_addresses: Vec<IpAddr>,
    /// How long it shall hold; less if the root ends sooner.
    pub life: Duration,
}

/// A leaf and its key. Not printable: it holds the key.
pub struct Issued {
    /// PKCS#8 PEM.
    pub key_pem: String,
    /// The leaf, PEM. The root is in the bundle.
    pub chain_pem: String,
    /// When it ends. Unit: milliseconds since 1970 UTC.
    pub not_after_ms: u64,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("not_after_ms", &self.not_after_ms).finish_non_exhaustive()
    }
}

/// A leaf for a key that never left its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedChain {
    /// The leaf, PEM.
    pub chain_pem: String,
    /// When it ends. Unit: milliseconds since 1970 UTC.
    pub not_after_ms: u64,
}

/// The authority: root certificate and its key.
pub struct Authority {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    validity: Validity,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new root, in memory only.
    ///
    /// # Errors
    ///
    /// [`Error::TrustDomain`], [`Error::Make`].
    ///
    /// # Panics
    ///
    /// Never: it reads what it has just written.
    pub fn generate(trust_domain: &str, life: Duration, clock: &dyn Clock) -> Result<Self, Error> {
        if SpiffeId::operator(trust_domain).is_err() {
            return Err(Error::TrustDomain { trust_domain: trust_domain.to_owned() });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Make)?;
        let now_ms = clock.wall_ms();
        let serial = serial();
        let mut name = DistinguishedName::new();
        // Names of roots differ, so that a chain leads to one of them only.
        let short = crate::bundle::hex(serial.get(..4).unwrap_or_default());
        name.push(DnType::CommonName, format!("pyramid-ca {short}"));
        let uri = format!("{SCHEME}{trust_domain}");
        let mut params = CertificateParams::default();
        params.not_before = moment(now_ms.saturating_sub(millis(BACKDATED)))?;
        params.not_after = moment(now_ms.saturating_add(millis(life)))?;
        params.serial_number = Some(SerialNumber::from(serial));
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(Error::Make)?)];
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.self_signed(&key).map_err(Error::Make)?;
        Ok(Self::new(&certificate.pem(), key).expect("a root that was just made can be read"))
    }

    fn new(certificate_pem: &str, key: KeyPair) -> Result<Self, &'static str> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_damaged| "its certificate is not PEM")?;
        let (_rest, root) = X509Certificate::from_der(&der)
            .map_err(|_damaged| "its certificate is no certificate")?;
        if !root.is_ca() {
            return Err("its certificate is not of an authority");
        }
        if root.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("its key is not that of its certificate");
        }
        let trust_domain = trust_domain_of(&root).ok_or("its certificate names no trust domain")?;
        let validity = Validity {
            not_before_ms: leaf::milliseconds(root.validity().not_before.timestamp()),
            not_after_ms: leaf::milliseconds(root.validity().not_after.timestamp()),
        };
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|_unusual| "its certificate has unusual parts")?;
        Ok(Self { trust_domain, issuer, certificate_pem: certificate_pem.to_owned(), validity })
    }

    /// Reads what [`Authority::save`] wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] only if the directory or both files are certainly not there;
    /// [`Error::File`], [`Error::Damaged`].
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let read = |name: &str| -> Result<Option<String>, Error> {
            let path = directory.join(name);
            match files::read_text(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::File { path, source }),
            }
        };
        let damaged = |fact| Error::Damaged { directory: directory.to_owned(), fact };
        let (key, certificate) = match (read(KEY_FILE)?, read(CERTIFICATE_FILE)?) {
            (Some(key), Some(certificate)) => (key, certificate),
            (None, None) => return Err(Error::Missing { directory: directory.to_owned() }),
            (None, Some(_)) => return Err(damaged("its key is missing")),
            (Some(_), None) => return Err(damaged("its certificate is missing")),
        };
        let key =
            KeyPair::from_pem(&key).map_err(|_damaged| damaged("its key is not PKCS#8 PEM"))?;
        Self::new(&certificate, key).map_err(damaged)
    }

    /// Writes key (mode 0600) and certificate, both or none. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`]: an authority is never overwritten. [`Error::File`].
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        let in_directory = |source| Error::File { path: directory.to_owned(), source };
        let mut temporary = directory.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        // Left by a crash before the rename.
        match fs::remove_dir_all(&temporary) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(in_directory(source)),
        }
        files::create_directory(&temporary).map_err(in_directory)?;
        let key = self.issuer.key().serialize_pem();
        for (name, text, mode) in [
            (KEY_FILE, key.as_str(), Mode::Private),
            (CERTIFICATE_FILE, self.certificate_pem.as_str(), Mode::Public),
        ] {
            let path = temporary.join(name);
            files::write_new(&path, text.as_bytes(), mode)
                .map_err(|source| Error::File { path, source })?;
        }
        files::sync_directory(&temporary).map_err(in_directory)?;
        // Fails if the directory is there and not empty.
        fs::rename(&temporary, directory).map_err(|source| {
            let is_there = [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::AlreadyExists];
            if is_there.contains(&source.kind()) {
                Error::Exists { directory: directory.to_owned() }
            } else {
                in_directory(source)
            }
        })?;
        directory.parent().map_or(Ok(()), files::sync_directory).map_err(in_directory)
    }

    /// Whose certificates it makes.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The root, as a trust bundle of one.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// When the root ends. Unit: milliseconds since 1970 UTC.
    #[must_use]
    pub fn not_after_ms(&self) -> u64 {
        self.validity.not_after_ms
    }

    /// Makes a new key and a leaf for it.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`], [`Error::Ended`], [`Error::Names`], [`Error::DnsName`],
    /// [`Error::Make`].
    pub fn issue(&self, request: &Request, clock: &dyn Clock) -> Result<Issued, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Make)?;
        let IssuedChain { chain_pem, not_after_ms } = self.sign(&key, request, clock)?;
        Ok(Issued { key_pem: key.serialize_pem(), chain_pem, not_after_ms })
    }

    /// Makes a leaf for the key of a certificate request, if its sender has proved to hold that
    /// key. Everything else in it is ignored: the leaf has what `request` says.
    ///
    /// # Errors
    ///
    /// [`Error::Request`], and as [`Authority::issue`].
    pub fn issue_csr(
        &self,
        csr_pem: &str,
        request: &Request,
        clock: &dyn Clock,
    ) -> Result<IssuedChain, Error> {
        if csr_pem.len() > CSR_BYTES_MAX {
            return Err(Error::Request { fact: "is too long" });
        }
        let csr = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| {
            let fact = if matches!(error, rcgen::Error::InvalidCertificationRequestSignature) {
                "is not signed by the key that it names"
            } else {
                "cannot be read; send PEM with a P-256 key and no special extensions"
            };
            Error::Request { fact }
        })?;
        // The signature algorithm does not say the curve, the length of the point does.
        let is_p256 = csr.public_key.algorithm() == &PKCS_ECDSA_P256_SHA256
            && csr.public_key.der_bytes().len() == P256_POINT_BYTES;
        if !is_p256 {
            return Err(Error::Request { fact: "has a key that is not ECDSA P-256" });
        }
        self.sign(&csr.public_key, request, clock)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        request: &Request,
        clock: &dyn Clock,
    ) -> Result<IssuedChain, Error> {
        let Request { identity, usage, dns_names, ip_addresses, life } = request;
        if identity.trust_domain() != self.trust_domain {
            let (identity, trust_domain) = (identity.clone(), self.trust_domain.clone());
            return Err(Error::Foreign { identity, trust_domain });
        }
        let names = 1 + dns_names.len() + ip_addresses.len();
        if names > NAMES_MAX {
            return Err(Error::Names { names });
        }
        let now_ms = clock.wall_ms();
        let last_ms = self.validity.not_after_ms.saturating_sub(millis(BEFORE_ROOT));
        if now_ms >= last_ms {
            return Err(Error::Ended { not_after: Moment { ms: self.validity.not_after_ms } });
        }
        let not_after_ms = now_ms.saturating_add(millis(*life)).min(last_ms);
        let not_before_ms =
            now_ms.saturating_sub(millis(BACKDATED)).max(self.validity.not_before_ms);
        let mut params = CertificateParams::default();
        params.not_before = moment(not_before_ms)?;
        params.not_after = moment(not_after_ms)?;
        params.serial_number = Some(SerialNumber::from(serial()));
        params.subject_alt_names = alternative_names(identity, dns_names, ip_addresses)?;
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Usage::ServerAndClient => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(Error::Make)?;
        // Certificates know whole seconds only.
        let not_after_ms = not_after_ms / 1000 * 1000;
        Ok(IssuedChain { chain_pem: certificate.pem(), not_after_ms })
    }
}

fn alternative_names(
    identity: &SpiffeId,
    dns_names: &[String],
    ip_addresses: &[IpAddr],
) -> Result<Vec<SanType>, Error> {
    let mut names = vec![SanType::URI(identity.as_str().try_into().map_err(Error::Make)?)];
    for name in dns_names {
        let dns = || Error::DnsName { name: name.clone() };
        let host = name.strip_prefix("*.").unwrap_or(name);
        let is_dns = rustls::pki_types::DnsName::try_from(host).is_ok();
        if !is_dns {
            return Err(dns());
        }
        names.push(SanType::DnsName(name.as_str().try_into().map_err(|_invalid| dns())?));
    }
    names.extend(ip_addresses.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

fn trust_domain_of(root: &X509Certificate<'_>) -> Option<String> {
    let names = &root.subject_alternative_name().ok()??.value.general_names;
    let domain = names.iter().find_map(|name| {
        if let GeneralName::URI(uri) = name { uri.strip_prefix(SCHEME) } else { None }
    })?;
    SpiffeId::operator(domain).ok().map(|_valid| domain.to_owned())
}

/// Positive and without a leading zero, as DER wants it.
fn serial() -> Vec<u8> {
    let mut serial = [0; SERIAL_BYTES];
    SystemEntropy.fill(&mut serial);
    serial[0] = serial[0] & 0x3f | 0x40;
    serial.to_vec()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn moment(ms: u64) -> Result<OffsetDateTime, Error> {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_range| Error::Make(rcgen::Error::Time))
}

#[cfg(test)]
mod tests;

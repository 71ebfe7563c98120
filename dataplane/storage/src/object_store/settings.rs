//! Where a Writer keeps its objects: what the settings say, checked once, and the store that they
//! open.
//!
//! The texts name the flags of the Writer, because whoever reads them has to change one.

mod probe;

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc};

use http::Uri;
use pyramid_protocol::net;

pub use self::probe::{ProbeError, probe};
use super::{DirectoryStore, Error, ObjectStore, S3Store};
use crate::fetcher::http::address::is_allowed;
use crate::trust::TrustError;

/// Lengths of a bucket's name. Unit: bytes.
const BUCKET_LEN_MIN: usize = 3;
const BUCKET_LEN_MAX: usize = 63;

/// Longest name of a region. Unit: bytes.
const REGION_LEN_MAX: usize = 64;

/// Stands for a port where only the host matters.
const PORT_OF_ANY: u16 = 0;

/// The settings of S3 as they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// `--s3-endpoint`: the server, if it is not AWS.
    pub endpoint: Option<String>,
    /// `--s3-region`.
    pub region: Option<String>,
    /// `--s3-ca`: a PEM file with the authority that signed the endpoint's certificate. Absent: the
    /// authorities of this machine. Read when the store is opened.
    pub ca_file: Option<PathBuf>,
    /// `--s3-credentials`: a directory with the files `accessKeyId`, `secretAccessKey` and, if
    /// there is one, `sessionToken`, which are read again when they change. Absent: what the
    /// environment, a profile, a web identity or the machine's own metadata service gives.
    pub credentials_dir: Option<PathBuf>,
}

/// Where objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// In a directory of this machine.
    Directory(PathBuf),
    /// In a bucket.
    S3(S3Settings),
}

/// A bucket and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    bucket: String,
    endpoint: Option<Endpoint>,
    region: Option<String>,
    ca_file: Option<PathBuf>,
    credentials_dir: Option<PathBuf>,
}

/// An S3 server: scheme, host and port, nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    is_https: bool,
    /// Whether it is surely on this machine.
    is_loopback: bool,
}

/// A setting of the object store that must be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Neither a directory nor a bucket.
    #[error(
        "--object-store {given}: give file:DIR with a directory for the objects, or s3://BUCKET"
    )]
    Url {
        /// What was given.
        given: String,
    },
    /// S3 does not take this name, so such a bucket cannot exist.
    #[error("--object-store s3://{bucket}: {reason}")]
    Bucket {
        /// What was given.
        bucket: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Not the address of a server.
    #[error(
        "--s3-endpoint {given}: give https://HOST:PORT or http://HOST:PORT, without user, path or \
         query"
    )]
    Endpoint {
        /// What was given.
        given: String,
    },
    /// It would be asked for chunks with the right to a bucket, and it is no store.
    #[error(
        "--s3-endpoint {given}: a machine gets its own credentials from there; give the address of \
         an object store"
    )]
    Metadata {
        /// What was given.
        given: String,
    },
    /// No region has such a name.
    #[error("--s3-region {given}: a region is of lower case letters, digits and '-', as us-east-1")]
    Region {
        /// What was given.
        given: String,
    },
    /// The authority would never be used, and whoever gave it believes that there is TLS.
    #[error(
        "--s3-ca is given, but --s3-endpoint {endpoint} has no TLS: give an https:// endpoint, or \
         leave --s3-ca out"
    )]
    CaWithoutTls {
        /// The endpoint.
        endpoint: String,
    },
    /// A directory has no use for it.
    #[error("{flag} is for s3://BUCKET only, and --object-store is a directory: leave it out")]
    OnlyForS3 {
        /// Which one.
        flag: &'static str,
    },
}

/// Why a store cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or used.
    #[error("open the object store's directory")]
    Directory(#[source] Error),
    /// `--s3-ca`, or the authorities of this machine.
    #[error("--s3-ca: {0}")]
    Trust(#[source] TrustError),
    /// AWS is asked, and nothing says where.
    #[error("no region is known for {bucket}: give --s3-region, or set AWS_REGION")]
    NoRegion {
        /// The bucket.
        bucket: String,
    },
}

impl StoreSettings {
    /// Checks what `--object-store` and the flags of S3 say together.
    ///
    /// # Errors
    ///
    /// The flag that must be changed.
    pub fn parse(url: &str, options: S3Options) -> Result<Self, SettingsError> {
        if let Some(directory) = url.strip_prefix("file:")
            && !directory.is_empty()
        {
            let S3Options { endpoint, region, ca_file, credentials_dir } = options;
            let given = [
                ("--s3-endpoint", endpoint.is_some()),
                ("--s3-region", region.is_some()),
                ("--s3-ca", ca_file.is_some()),
                ("--s3-credentials", credentials_dir.is_some()),
            ];
            return match given.into_iter().find(|(_, is_given)| *is_given) {
                Some((flag, _)) => Err(SettingsError::OnlyForS3 { flag }),
                None => Ok(Self::Directory(directory.into())),
            };
        }
        match url.strip_prefix("s3://") {
            Some(bucket) => S3Settings::new(bucket, options).map(Self::S3),
            None => Err(SettingsError::Url { given: without_secrets(url) }),
        }
    }

    /// What to tell whoever starts a program on a store that is reached in clear through a network.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let Self::S3(S3Settings { endpoint: Some(endpoint), .. }) = self else { return None };
        let is_clear = !endpoint.is_https && !endpoint.is_loopback;
        is_clear.then(|| {
            format!(
                "--s3-endpoint {endpoint} has no TLS: the URLs of chunks, which open them, and the \
                 signatures of credentials go through the network in clear; use https://"
            )
        })
    }

    /// Opens the store. A bucket is not asked yet: [`probe()`] does that.
    ///
    /// # Errors
    ///
    /// What must be changed before a start can succeed.
    pub async fn open(&self) -> Result<Arc<dyn ObjectStore>, OpenError> {
        match self {
            Self::Directory(directory) => {
                let store = DirectoryStore::open(directory).await.map_err(OpenError::Directory)?;
                Ok(Arc::new(store))
            }
            Self::S3(settings) => Ok(Arc::new(S3Store::open(settings).await?)),
        }
    }
}

/// As it was given, with what it was given with.
impl fmt::Display for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "file:{}", directory.display()),
            Self::S3(settings) => {
                write!(f, "s3://{}", settings.bucket)?;
                settings.endpoint.as_ref().map_or(Ok(()), |endpoint| write!(f, " at {endpoint}"))
            }
        }
    }
}

impl S3Settings {
    /// A bucket.
    ///
    /// # Errors
    ///
    /// The flag that must be changed.
    pub fn new(bucket: &str, options: S3Options) -> Result<Self, SettingsError> {
        let S3Options { endpoint, region, ca_file, credentials_dir } = options;
        if let Some(reason) = bucket_fault(bucket) {
            return Err(SettingsError::Bucket { bucket: without_secrets(bucket), reason });
        }
        let endpoint = endpoint.as_deref().map(Endpoint::parse).transpose()?;
        if let Some(endpoint) = &endpoint
            && ca_file.is_some()
            && !endpoint.is_https
        {
            return Err(SettingsError::CaWithoutTls { endpoint: endpoint.url.clone() });
        }
        if let Some(region) = &region
            && !is_region(region)
        {
            return Err(SettingsError::Region { given: region.clone() });
        }
        Ok(Self { bucket: bucket.to_owned(), endpoint, region, ca_file, credentials_dir })
    }

    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }

    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    pub(super) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    pub(super) fn ca_file(&self) -> Option<&PathBuf> {
        self.ca_file.as_ref()
    }

    pub(super) fn credentials_dir(&self) -> Option<&PathBuf> {
        self.credentials_dir.as_ref()
    }
}

impl Endpoint {
    /// Reads `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let bad = || SettingsError::Endpoint { given: without_secrets(text) };
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        let names_a_path = uri.path() != "/" || uri.query().is_some() || text.contains('#');
        let has_port = authority.as_str().len() > authority.host().len();
        let port_is_bad = has_port && authority.port_u16().is_none_or(|port| port == 0);
        if authority.as_str().contains('@')
            || authority.host().is_empty()
            || names_a_path
            || port_is_bad
        {
            return Err(bad());
        }
        if !may_be_a_store(authority.host()) {
            return Err(SettingsError::Metadata { given: text.to_owned() });
        }
        let scheme = if is_https { "https" } else { "http" };
        let is_loopback = net::is_loopback(&format!("{}:{PORT_OF_ANY}", authority.host()));
        Ok(Self { url: format!("{scheme}://{authority}"), is_https, is_loopback })
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Whether it is reached through TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.is_https
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Whether a host is not surely something else. Where a name leads to, only a connection shows.
fn may_be_a_store(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return is_allowed(address);
    }
    // Resolvers take numbers of other forms for addresses, too: 2852039166, 0xa9.254.169.254.
    let name = bare.trim_end_matches('.');
    let last = name.rsplit('.').next().unwrap_or(name);
    let begins_as_number = last.starts_with("0x") || last.starts_with("0X");
    !begins_as_number && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// The rule of S3 that a bucket's name breaks.
fn bucket_fault(bucket: &str) -> Option<&'static str> {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = bucket.as_bytes();
    if bucket.contains('/') {
        Some("give the bucket's name alone; a place inside of it goes to --object-prefix")
    } else if !(BUCKET_LEN_MIN..=BUCKET_LEN_MAX).contains(&bytes.len()) {
        Some("a bucket's name has 3 to 63 characters")
    } else if !bytes
        .iter()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(byte))
    {
        Some("a bucket's name is of lower case letters, digits, '.' and '-'")
    } else if !is_end(bytes.first()) || !is_end(bytes.last()) || bucket.contains("..") {
        Some("a bucket's name begins and ends with a letter or digit and has no two dots together")
    } else if bucket.parse::<IpAddr>().is_ok() {
        Some("a bucket's name is no address")
    } else if bucket.ends_with("--x-s3") {
        Some("directory buckets keep no order of keys; take a general purpose bucket")
    } else {
        None
    }
}

fn is_region(text: &str) -> bool {
    (1..=REGION_LEN_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// What was given, unless it looks as if it holds a password.
fn without_secrets(text: &str) -> String {
    if text.contains(['@', '?', '=']) { "(not shown)".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests;

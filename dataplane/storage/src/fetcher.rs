//! Reading what a URL names, as a reader without any rights of its own.
//!
//! URLs come from a Writer, and a pusher does not trust it with the machine: `file:` is opened only
//! below a directory that the pusher's own settings name, `https:` only where no machine keeps its
//! own secrets (see `http`), `mem:` only through a store that a test hands in, and everything else
//! is refused.

mod file;
pub(crate) mod http;

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

pub use self::http::HttpSettings;
use self::{file::FileBody, http::HttpBody};
use crate::{
    object_store::{Error, ObjectKey, ObjectStore},
    trust::TrustError,
};

/// Longest piece of a body. Unit: bytes.
const PIECE_LEN_MAX: u64 = 256 << 10;

/// Longest piece of an object that is read through a store: each is a call of its own, and a distant
/// store takes its time for each. Unit: bytes.
const STORED_PIECE_LEN_MAX: u64 = 2 << 20;

const ACTION: &str = "fetch";

/// Opens URLs of objects. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Fetcher {
    directory: Option<Arc<Path>>,
    memory: Option<Arc<dyn ObjectStore>>,
    http: Option<Arc<http::Client>>,
}

impl Fetcher {
    /// A fetcher that refuses every URL.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets it open `file:` URLs of files below `directory`.
    #[must_use]
    pub fn with_directory(self, directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into().into()), ..self }
    }

    /// Lets it open `mem:` URLs of `store`, which is usually a [`crate::MemoryStore`].
    #[must_use]
    pub fn with_memory(self, store: Arc<dyn ObjectStore>) -> Self {
        Self { memory: Some(store), ..self }
    }

    /// Lets it open `https:` URLs, and `http:` ones if the settings say so.
    ///
    /// # Errors
    ///
    /// The file with certificate authorities cannot be used.
    pub fn with_http(self, settings: HttpSettings) -> Result<Self, TrustError> {
        Ok(Self { http: Some(Arc::new(http::Client::new(settings)?)), ..self })
    }

    /// The same with the text of a file of certificate authorities in place of its path.
    ///
    /// # Errors
    ///
    /// The text cannot be used.
    pub fn with_http_believing(
        self,
        ca_pem: &str,
        allows_plain_http: bool,
    ) -> Result<Self, TrustError> {
        let client = http::Client::believing(ca_pem, allows_plain_http)?;
        Ok(Self { http: Some(Arc::new(client)), ..self })
    }

    /// Opens the part `range` of what `url` names. Unit: bytes from the front of the URL's own
    /// range. The body may end before the range does.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for a URL that is not for this fetcher, [`Error::Expired`] for one whose
    /// time is over; else what the store says. No error shows the query of a URL.
    pub async fn open(&self, url: &str, range: Range<u64>) -> Result<Body, Error> {
        let name = url.split(['?', '#']).next().unwrap_or(url);
        let Some(range) = within_url(url, range) else {
            return Err(refused(name, "its range is malformed"));
        };
        if let Some(key) = name.strip_prefix("mem:") {
            let Some(store) = &self.memory else {
                return Err(refused(name, "this reader has no store in memory"));
            };
            let key = key.parse().map_err(|_| refused(name, "it names no object"))?;
            Ok(Body::stored(Arc::clone(store), key, range))
        } else if name.starts_with("file:") {
            let Some(directory) = &self.directory else {
                return Err(refused(
                    name,
                    "this reader has no directory; name one in its settings",
                ));
            };
            Ok(Body(Kind::File(file::open(directory, name, range).await?)))
        } else if name.starts_with("https:") || name.starts_with("http:") {
            let Some(http) = &self.http else {
                return Err(refused(name, "this reader reads nothing from the network"));
            };
            Ok(Body(Kind::Http(Box::new(http.open(url, name, range).await?))))
        } else {
            Err(refused(name, "only https:, http:, file: and mem: URLs are read"))
        }
    }
}

fn refused(name: &str, reason: &str) -> Error {
    Error::Refused { action: ACTION, key: name.to_owned(), reason: reason.to_owned() }
}

/// `range` of what the URL's fragment names.
fn within_url(url: &str, range: Range<u64>) -> Option<Range<u64>> {
    let Some((_, fragment)) = url.split_once('#') else { return Some(range) };
    let (start, end) = fragment.strip_prefix("range=")?.split_once("..")?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    let at = |position: u64| Some(start.checked_add(position)?.min(end));
    Some(at(range.start)?..at(range.end)?)
}

/// The bytes of one answer, piece by piece, as fast as they are taken.
pub struct Body(Kind);

enum Kind {
    File(FileBody),
    Http(Box<HttpBody>),
    Stored { store: Arc<dyn ObjectStore>, key: ObjectKey, range: Range<u64> },
}

impl Body {
    /// A range of an object of a store that the caller may use directly.
    #[must_use]
    pub fn stored(store: Arc<dyn ObjectStore>, key: ObjectKey, range: Range<u64>) -> Self {
        Self(Kind::Stored { store, key, range })
    }

    /// The next bytes, or `None` at the end of the range or of the object. Not safe to drop while
    /// it waits: bytes may be lost, so the body must then be dropped too.
    ///
    /// # Errors
    ///
    /// What the store says. The body is of no use after it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match &mut self.0 {
            Kind::File(body) => body.next().await,
            Kind::Http(body) => body.next().await,
            Kind::Stored { store, key, range } => {
                if range.start >= range.end {
                    return Ok(None);
                }
                let end = range.start.saturating_add(STORED_PIECE_LEN_MAX).min(range.end);
                let object = store.get(key, range.start..end).await?;
                range.start = range.start.saturating_add(length(&object.bytes));
                Ok((!object.bytes.is_empty()).then_some(object.bytes))
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::File(body) => write!(f, "{} bytes of {}", body.left(), body.name()),
            Kind::Http(body) => write!(f, "{} bytes of {}", body.left(), body.name()),
            Kind::Stored { key, range, .. } => write!(f, "bytes {range:?} of {key}"),
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

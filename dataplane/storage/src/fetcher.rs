//! Reading what a URL names, as a reader without any rights of its own.
//!
//! URLs come from a Writer, and a pusher does not trust it with the machine: `file:` is opened only
//! below a directory that the pusher's own settings name, `mem:` only through a store that a test
//! hands in, and everything else is refused.

use std::{
    fmt,
    io::{self, ErrorKind, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

use crate::{
    file_url,
    object_store::{Error, ObjectKey, ObjectStore},
};

/// Longest piece of a body. Unit: bytes.
const PIECE_LEN_MAX: u64 = 256 << 10;

const ACTION: &str = "fetch";

/// Opens URLs of objects. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Fetcher {
    directory: Option<Arc<Path>>,
    memory: Option<Arc<dyn ObjectStore>>,
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

    /// Opens the part `range` of what `url` names. Unit: bytes from the front of the URL's own
    /// range. The body may end before the range does.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for a URL that is not for this fetcher; else what the store says. No
    /// error shows the query of a URL.
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
            open_file(directory, name, range).await
        } else {
            Err(refused(name, "only file: and mem: URLs are read"))
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

async fn open_file(directory: &Path, name: &str, range: Range<u64>) -> Result<Body, Error> {
    let outside = || refused(name, "it is not below the directory in this reader's settings");
    let path = file_url::path(name).ok_or_else(outside)?;
    let failed = |source: &io::Error| {
        if source.kind() == ErrorKind::NotFound {
            Error::NotFound { key: name.to_owned() }
        } else if source.kind() == ErrorKind::PermissionDenied {
            refused(name, "this process may not read it")
        } else {
            unavailable(name, source)
        }
    };
    // The directory itself may be a symbolic link, and one below it may lead out of it, so both
    // are compared as what they really are.
    let directory = tokio::fs::canonicalize(directory).await.map_err(|source| {
        refused(name, &format!("the directory in this reader's settings: {source}"))
    })?;
    let real = match tokio::fs::canonicalize(&path).await {
        Ok(real) => real,
        // What lies outside is refused, whether it exists or not.
        Err(_) if !path.starts_with(&directory) => return Err(outside()),
        Err(source) => return Err(failed(&source)),
    };
    if !real.starts_with(&directory) {
        return Err(outside());
    }
    // A FIFO would block for ever, and a device is no object.
    let is_file = tokio::fs::metadata(&real).await.map_err(|source| failed(&source))?.is_file();
    if !is_file {
        return Err(refused(name, "it is not a file"));
    }
    let mut file = File::open(&real).await.map_err(|source| failed(&source))?;
    file.seek(SeekFrom::Start(range.start)).await.map_err(|source| failed(&source))?;
    let left = range.end.saturating_sub(range.start);
    Ok(Body(Kind::File { file, left, name: name.to_owned() }))
}

fn unavailable(name: &str, source: &io::Error) -> Error {
    Error::Unavailable {
        action: ACTION,
        key: name.to_owned(),
        reason: source.to_string(),
        wait: None,
    }
}

/// The bytes of one answer, piece by piece, as fast as they are taken.
pub struct Body(Kind);

enum Kind {
    File { file: File, left: u64, name: String },
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
            Kind::File { file, left, name } => {
                let len = (*left).min(PIECE_LEN_MAX);
                let mut piece = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0));
                (&mut *file)
                    .take(len)
                    .read_buf(&mut piece)
                    .await
                    .map_err(|source| unavailable(name, &source))?;
                *left -= length(&piece);
                Ok((!piece.is_empty()).then(|| piece.freeze()))
            }
            Kind::Stored { store, key, range } => {
                if range.start >= range.end {
                    return Ok(None);
                }
                let end = range.start.saturating_add(PIECE_LEN_MAX).min(range.end);
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
            Kind::File { name, left, .. } => write!(f, "{left} bytes of {name}"),
            Kind::Stored { key, range, .. } => write!(f, "bytes {range:?} of {key}"),
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! `file:` URLs: only of regular files that really lie below one directory.

use std::{
    io::{self, ErrorKind, SeekFrom},
    ops::Range,
    path::Path,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

use super::{ACTION, PIECE_LEN_MAX, length, refused};
use crate::{file_url, object_store::Error};

/// A part of an opened file.
pub(super) struct FileBody {
    file: File,
    left: u64,
    name: String,
}

/// Opens a file below `directory`.
pub(super) async fn open(
    directory: &Path,
    name: &str,
    range: Range<u64>,
) -> Result<FileBody, Error> {
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
    Ok(FileBody { file, left, name: name.to_owned() })
}

impl FileBody {
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let len = self.left.min(PIECE_LEN_MAX);
        let mut piece = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0));
        (&mut self.file)
            .take(len)
            .read_buf(&mut piece)
            .await
            .map_err(|source| unavailable(&self.name, &source))?;
        self.left -= length(&piece);
        Ok((!piece.is_empty()).then(|| piece.freeze()))
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

fn unavailable(name: &str, source: &io::Error) -> Error {
    Error::Unavailable {
        action: ACTION,
        key: name.to_owned(),
        reason: source.to_string(),
        wait: None,
    }
}

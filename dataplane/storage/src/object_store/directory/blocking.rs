//! The file calls of the directory store. They block.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{
    hex,
    object_store::{Condition, Error, Object, ObjectKey, Version},
};

/// Keys never begin a part with a dot, so nothing here can be taken for an object.
const OWN_FOLDER: &str = ".pyramid";

/// The directory of a store.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// Numbers the files that this process writes.
    next_file: AtomicU64,
    /// Held, shared, while the store is open: nobody else removes what is being written.
    _users: File,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::Refused {
            action: "open",
            key: path.display().to_string(),
            reason: source.to_string(),
        };
        fs::create_dir_all(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let own = path.join(OWN_FOLDER);
        let new = own.join("new");
        fs::create_dir_all(&new).map_err(failed)?;
        let lock_file =
            |name| OpenOptions::new().create(true).truncate(false).write(true).open(own.join(name));
        let users = lock_file("users").map_err(failed)?;
        if users.try_lock().is_ok() {
            for leftover in fs::read_dir(&new).map_err(failed)? {
                fs::remove_file(leftover.map_err(failed)?.path()).map_err(failed)?;
            }
            users.unlock().map_err(failed)?;
        }
        users.lock_shared().map_err(failed)?;
        for folder in [Some(new.as_path()), Some(&own), Some(&path), path.parent()] {
            folder.map_or(Ok(()), sync_folder).map_err(failed)?;
        }
        Ok(Self { path, next_file: AtomicU64::new(0), _users: users })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where an object lies.
    pub(super) fn file(&self, key: &ObjectKey) -> PathBuf {
        self.path.join(key.as_str())
    }

    pub(super) fn put(
        &self,
        key: &ObjectKey,
        bytes: &[u8],
        condition: &Condition,
    ) -> Result<Version, Error> {
        self.check_mounted("put", key.as_str())?;
        let failed = |source| self.failed("put", key, &source);
        let (written, mut file) = self.new_file().map_err(failed)?;
        let moved = file
            .write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(failed)
            .and_then(|()| self.move_to_its_name(&written, key, condition));
        if moved.is_err() {
            // The next open removes what stays here.
            let _stays = fs::remove_file(&written);
        }
        moved.map(|()| version(bytes))
    }

    fn move_to_its_name(
        &self,
        written: &Path,
        key: &ObjectKey,
        condition: &Condition,
    ) -> Result<(), Error> {
        let failed = |source| self.failed("put", key, &source);
        let path = self.file(key);
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).map_err(failed)?;
        match condition {
            Condition::None => fs::rename(written, &path).map_err(failed)?,
            Condition::Absent => {
                // Unlike a rename, a link never replaces.
                fs::hard_link(written, &path).map_err(|source| {
                    if source.kind() == ErrorKind::AlreadyExists {
                        Error::ConditionFailed { key: key.to_string() }
                    } else {
                        failed(source)
                    }
                })?;
                fs::remove_file(written).map_err(failed)?;
            }
            Condition::Unchanged(expected) => {
                let lock = File::create(self.path.join(OWN_FOLDER).join("compare"));
                let lock = lock.map_err(failed)?;
                lock.lock().map_err(failed)?;
                let found = match fs::read(&path) {
                    Ok(bytes) => Some(version(&bytes)),
                    Err(source) if source.kind() == ErrorKind::NotFound => None,
                    Err(source) => return Err(failed(source)),
                };
                if found.as_ref() != Some(expected) {
                    return Err(Error::ConditionFailed { key: key.to_string() });
                }
                fs::rename(written, &path).map_err(failed)?;
            }
        }
        // All the way up, for another put may have made a folder and not have synced it yet.
        for folder in folder.ancestors().take_while(|folder| folder.starts_with(&self.path)) {
            sync_folder(folder).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &ObjectKey, range: &Range<u64>) -> Result<Object, Error> {
        let mut file = match File::open(self.file(key)) {
            Ok(file) => file,
            Err(source) if is_absent(&source) => {
                self.check_mounted("get", key.as_str())?;
                return Err(Error::NotFound { key: key.to_string() });
            }
            Err(source) => return Err(self.failed("get", key, &source)),
        };
        let failed = |source| self.failed("get", key, &source);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::NotFound { key: key.to_string() });
        }
        let (start, end) = (range.start.min(metadata.len()), range.end.min(metadata.len()));
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        Read::by_ref(&mut file)
            .take(end.saturating_sub(start))
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let is_whole = start == 0 && end == metadata.len();
        Ok(Object {
            version: is_whole.then(|| version(&bytes)),
            bytes: Bytes::from(bytes),
            total_len: metadata.len(),
        })
    }

    pub(super) fn delete(&self, key: &ObjectKey) -> Result<(), Error> {
        let path = self.file(key);
        match fs::remove_file(&path) {
            Ok(()) => {
                let folder = path.parent().unwrap_or(&self.path);
                sync_folder(folder).map_err(|source| self.failed("delete", key, &source))
            }
            Err(source) if is_absent(&source) => self.check_mounted("delete", key.as_str()),
            Err(source) => Err(self.failed("delete", key, &source)),
        }
    }

    /// A directory that is not mounted looks empty: its objects are not gone, they are not here.
    pub(super) fn check_mounted(&self, action: &'static str, key: &str) -> Result<(), Error> {
        if self.path.join(OWN_FOLDER).is_dir() {
            return Ok(());
        }
        Err(Error::Refused {
            action,
            key: key.to_owned(),
            reason: format!(
                "the directory {} is no object store any more; mount it, or start again to make \
                 a new one",
                self.path.display()
            ),
        })
    }

    pub(super) fn failed(
        &self,
        action: &'static str,
        key: &ObjectKey,
        source: &io::Error,
    ) -> Error {
        failed(action, key.as_str(), source)
    }

    /// A new file in the folder of files that are being written.
    fn new_file(&self) -> io::Result<(PathBuf, File)> {
        loop {
            let number = self.next_file.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{number}", process::id());
            let path = self.path.join(OWN_FOLDER).join("new").join(name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((path, file)),
                // Another store of this process, or of one with this number before.
                Err(source) if source.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(source),
            }
        }
    }
}

/// What to do about an error of the operating system.
pub(super) fn failed(action: &'static str, key: &str, source: &io::Error) -> Error {
    let (key, reason) = (key.to_owned(), source.to_string());
    let lasts = matches!(
        source.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
    );
    if lasts {
        Error::Refused { action, key, reason }
    } else {
        Error::Unavailable { action, key, reason, wait: None }
    }
}

/// No file has this name, or a part of its path is a file.
fn is_absent(source: &io::Error) -> bool {
    matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The content's hash: times and inodes repeat when a file is replaced twice within a moment. It is
/// told, and stored nowhere.
fn version(bytes: &[u8]) -> Version {
    Version::new(&hex::encode(&Sha256::digest(bytes)))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

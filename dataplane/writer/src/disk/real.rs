//! The file system: buffered writes, `fdatasync`, `flock`.

use std::{fs, io, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc};

use crate::disk::{Disk, File, Lock, Volume};

/// The file whose lock stands for the whole directory.
const LOCK_FILE: &str = "lock";

/// A directory of the file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Opens the directory; creates it when it is missing.
    ///
    /// # Errors
    ///
    /// What the file system said.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        if !root.is_dir() {
            fs::create_dir_all(&root)?;
            // An empty parent is the current directory.
            if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self { root })
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl Disk for RealDisk {
    fn volume(&self) -> io::Result<Volume> {
        let volume = nix::sys::statvfs::statvfs(&self.root)?;
        let bytes = |blocks: u64| blocks.saturating_mul(volume.fragment_size());
        Ok(Volume {
            total_bytes: bytes(volume.blocks()),
            free_bytes: bytes(volume.blocks_available()),
        })
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(dir))? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        match fs::create_dir(self.path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        fs::File::open(self.path(dir))?.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(LOCK_FILE))?;
        file.try_lock()?;
        Ok(Box::new(RealLock { _file: file }))
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        // Goes on after a short write and after an interruption.
        self.0.write_all_at(bytes, at)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let position = at + u64::try_from(filled).map_err(io::Error::other)?;
            match self.0.read_at(rest, position) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[derive(Debug)]
struct RealLock {
    _file: fs::File,
}

impl Lock for RealLock {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn disk(root: &Path) -> RealDisk {
        RealDisk::open(root).unwrap()
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (disk(root.path()), disk(root.path()));
        let lock = first.lock().unwrap();
        assert_eq!(second.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        second.lock().unwrap();
    }

    #[test]
    fn a_read_past_the_end_is_short() {
        let root = tempfile::tempdir().unwrap();
        let disk = disk(&root.path().join("new"));
        let file = disk.create("a").unwrap();
        file.write_at(b"abc", 2).unwrap();
        file.sync().unwrap();
        let mut buffer = [9; 8];
        assert_eq!(file.read_at(&mut buffer, 1).unwrap(), 4);
        assert_eq!(buffer, *b"\0abc\x09\x09\x09\x09");
        assert_eq!(file.read_at(&mut buffer, 5).unwrap(), 0);
        assert_eq!(file.len().unwrap(), 5);
    }

    #[test]
    fn a_volume_has_a_size() {
        let root = tempfile::tempdir().unwrap();
        let Volume { total_bytes, free_bytes } = disk(root.path()).volume().unwrap();
        assert!(
            total_bytes > 1 << 20 && free_bytes <= total_bytes,
            "{free_bytes} of {total_bytes}"
        );
    }

    #[test]
    fn names_follow_create_rename_and_remove() {
        let root = tempfile::tempdir().unwrap();
        let disk = disk(root.path());
        disk.create_dir("wal").unwrap();
        disk.create_dir("wal").unwrap();
        disk.create("wal/b").unwrap();
        disk.create("wal/a").unwrap();
        assert_eq!(disk.list("wal").unwrap(), ["a", "b"]);
        disk.rename("wal/b", "wal/c").unwrap();
        disk.remove("wal/a").unwrap();
        disk.sync_dir("wal").unwrap();
        assert_eq!(disk.list("wal").unwrap(), ["c"]);
        assert_eq!(disk.open("wal/b").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

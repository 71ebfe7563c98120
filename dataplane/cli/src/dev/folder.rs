//! The data directory of `pyramid dev`.
//!
//! ```text
//! dev.lock           locked while a `pyramid dev` runs
//! dev.json           what it tells other commands, while it runs
//! kek                the key file; made at the first start
//! trust-domain tls/  who everybody is: see `certificates`
//! rights-due         its streams are older than rights: see `declare`
//! object-store       where chunks are kept: see `store`
//! objects/           the object store, unless it is another one
//! lock identity wal/ the Writer's own
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use pyramid_protocol::SystemEntropy;
use pyramid_storage::Keks;
use tokio::time::{Instant, sleep};

use super::running::Running;

/// Id of the key that is made at the first start.
const KEK_ID: &str = "dev-1";

const LOCK: &str = "dev.lock";
/// The Writer's own; where it is, there may be streams.
pub(super) const IDENTITY: &str = "identity";
pub(super) const RIGHTS_DUE: &str = "rights-due";
/// How long the lock may take: the operating system lets go of that of a killed process a little
/// after the kill, and a command that looks at it holds it for a moment.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is tried.
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// What a directory of ours has one of, however early the first start crashed.
const OURS: [&str; 3] = [LOCK, IDENTITY, "kek"];
/// What the file system itself puts into an empty directory.
const MOUNTED: &str = "lost+found";
/// How many entries of a foreign directory an error names.
const NAMED_MAX: usize = 3;

/// A data directory that this process alone uses.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) kek_file: PathBuf,
    pub(super) objects: PathBuf,
    /// There while the streams of a directory from before there were rights have none.
    pub(super) rights_due: PathBuf,
    /// Unlocked by the operating system when this process ends, however it ends.
    _lock: File,
}

impl Folder {
    /// Locks the directory, and makes what is missing in it.
    ///
    /// # Errors
    ///
    /// Another process uses it, it holds something else, the disk refuses, or the key of existing
    /// data is gone.
    pub(super) async fn open(path: &Path) -> anyhow::Result<Self> {
        let at = || format!("--data-dir {}", path.display());
        if path.is_file() {
            bail!("{} is a file; give a directory", at());
        }
        // The log holds records in clear text: nobody else may look.
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(at)?;
        let path = path.canonicalize().with_context(at)?;
        refuse_foreign(&path)?;
        let lock = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .with_context(|| format!("open {}", lock.display()))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(LOCK_LOOK).await;
                }
                Err(TryLockError::WouldBlock) => bail!(in_use(&path)),
                Err(TryLockError::Error(error)) => return Err(error).with_context(at),
            }
        }
        // That of a killed process: nobody shall believe it while this one starts.
        Running::remove(&path);
        let kek_file = path.join("kek");
        make_key(&path, &kek_file)?;
        let objects = path.join("objects");
        refuse_lost_log(&path, &objects)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&objects).with_context(at)?;
        let rights_due = path.join(RIGHTS_DUE);
        Ok(Self { path, kek_file, objects, rights_due, _lock: lock })
    }
}

/// Whether a `pyramid dev` runs on the directory.
pub(crate) fn is_used(path: &Path) -> anyhow::Result<bool> {
    let path = path.join(LOCK);
    let at = || format!("open {}", path.display());
    let lock = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened.with_context(at)?,
    };
    // Shared, so that commands do not take each other for a `pyramid dev`.
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).with_context(at),
    }
}

/// Whether a `pyramid dev` ever ran on the directory.
pub(crate) fn is_ours(path: &Path) -> bool {
    path.join(LOCK).exists()
}

/// Nothing is put between the files of somebody else.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    if OURS.iter().any(|name| path.join(name).exists()) {
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != MOUNTED {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    names.sort();
    let more = if names.len() > NAMED_MAX { ", …" } else { "" };
    names.truncate(NAMED_MAX);
    bail!(
        "--data-dir {} is not empty and not a directory of Pyramid, it has {}{more}; give an empty \
         or a new directory",
        path.display(),
        names.join(", ")
    )
}

fn in_use(path: &Path) -> String {
    let by = match Running::read(path) {
        Ok(Some(running)) => format!("process {} at {}", running.pid, running.writer),
        // It starts or stops just now.
        Ok(None) | Err(_) => "another process".to_owned(),
    };
    format!(
        "the data directory {} is in use by {by}; stop that one, or give --data-dir with another \
         directory",
        path.display()
    )
}

/// Chunks without the log that they came from: a new cluster beside them would look like data loss.
fn refuse_lost_log(path: &Path, objects: &Path) -> anyhow::Result<()> {
    let Ok(mut entries) = fs::read_dir(objects) else { return Ok(()) };
    let holds_cluster = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.path().join("cluster.json").exists())
    };
    if path.join("identity").exists() || !entries.any(holds_cluster) {
        return Ok(());
    }
    bail!(
        "the log of {} is gone, and {} holds what was shipped from it; put the log back, or begin \
         with another --data-dir",
        path.display(),
        objects.display()
    )
}

/// Makes the key file of a new directory. A key that is missing beside existing data is an error:
/// a new one would not open what is there.
fn make_key(path: &Path, kek_file: &Path) -> anyhow::Result<()> {
    if kek_file.exists() {
        return Ok(());
    }
    if path.join(IDENTITY).exists() {
        bail!(
            "the key file {} is missing, and nothing opens the stored chunks without it; put it \
             back, or begin with another --data-dir",
            kek_file.display()
        );
    }
    let key = Keks::generate(KEK_ID, &SystemEntropy);
    write(kek_file, key.as_bytes()).with_context(|| format!("write {}", kek_file.display()))
}

/// Writes a file that only its owner may read: whole or not at all, whenever this process ends.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    // One of an earlier process could have other rights.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b");
        let folder = Folder::open(&path).await.unwrap();
        let key = fs::read(&folder.kek_file).unwrap();
        assert_eq!(fs::metadata(&folder.kek_file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(Keks::load(&folder.kek_file).unwrap().ids().collect::<Vec<_>>(), [KEK_ID]);
        drop(folder);
        let folder = Folder::open(&path).await.unwrap();
        assert_eq!(fs::read(&folder.kek_file).unwrap(), key);
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_is_used_by_one_process_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path()).await.unwrap();
        let error = Folder::open(temporary.path()).await.unwrap_err().to_string();
        assert!(error.contains("is in use by another process"), "{error}");
        drop(folder);
        Folder::open(temporary.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_key_is_not_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        let kek_file = Folder::open(temporary.path()).await.unwrap().kek_file;
        fs::remove_file(&kek_file).unwrap();
        // Without data there is nothing that the old key would open.
        drop(Folder::open(temporary.path()).await.unwrap());
        fs::write(temporary.path().join("identity"), "").unwrap();
        drop(Folder::open(temporary.path()).await.unwrap());
        fs::remove_file(&kek_file).unwrap();
        let error = Folder::open(temporary.path()).await.unwrap_err().to_string();
        assert!(error.contains("is missing"), "{error}");
        assert!(!kek_file.exists());
    }

    #[tokio::test]
    async fn a_lost_log_is_not_replaced_beside_its_chunks() {
        let temporary = tempfile::tempdir().unwrap();
        let objects = Folder::open(temporary.path()).await.unwrap().objects;
        fs::create_dir(objects.join("a")).unwrap();
        drop(Folder::open(temporary.path()).await.unwrap());
        fs::write(objects.join("a/cluster.json"), "").unwrap();
        let error = Folder::open(temporary.path()).await.unwrap_err().to_string();
        assert!(error.contains("holds what was shipped from it"), "{error}");
        fs::write(temporary.path().join("identity"), "").unwrap();
        drop(Folder::open(temporary.path()).await.unwrap());
    }

    #[test]
    fn a_file_that_was_not_finished_is_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("kek");
        fs::write(temporary.path().join("kek.new"), "half").unwrap();
        write(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(!temporary.path().join("kek.new").exists());
    }
}

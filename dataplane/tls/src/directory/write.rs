//! Writing a TLS directory, the way the kubelet does it.
//!
//! ```text
//! tls.key -> ..data/tls.key          the names that readers use never change
//! tls.crt -> ..data/tls.crt
//! ca.crt  -> ..data/ca.crt
//! ..data  -> ..<random>              one rename changes all three
//! ..<random>/tls.key, tls.crt, ca.crt
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use pyramid_protocol::{Entropy as _, SystemEntropy};

use super::files::{self, Mode};
use super::{BUNDLE_FILE, CHAIN_FILE, KEY_FILE, VERSION_LINK};
use crate::authority::Issued;

const NEXT: &str = "..data_next";
/// Begins the names of all that readers do not look at.
const HIDDEN: &str = "..";

/// Writes key (mode 0600), chain and bundle into `directory`, which is made if it is not there. A
/// reader, and whoever starts after a crash, sees all of the old or all of the new. One writer at a
/// time. Blocks.
///
/// # Errors
///
/// As the file system says; the old content is still in place.
pub fn write_directory(directory: &Path, issued: &Issued, bundle_pem: &str) -> io::Result<()> {
    files::create_directory(directory)?;
    let version = format!("{HIDDEN}{:016x}", SystemEntropy.u64());
    let target = directory.join(&version);
    files::create_directory(&target)?;
    files::write_new(&target.join(KEY_FILE), issued.key_pem.as_bytes(), Mode::Private)?;
    files::write_new(&target.join(CHAIN_FILE), issued.chain_pem.as_bytes(), Mode::Public)?;
    files::write_new(&target.join(BUNDLE_FILE), bundle_pem.as_bytes(), Mode::Public)?;
    files::sync_directory(&target)?;
    replace_link(directory, NEXT, Path::new(&version), VERSION_LINK)?;
    for name in [KEY_FILE, CHAIN_FILE, BUNDLE_FILE] {
        let link = PathBuf::from(VERSION_LINK).join(name);
        let is_there = fs::read_link(directory.join(name)).is_ok_and(|target| target == link);
        if !is_there {
            replace_link(directory, NEXT, &link, name)?;
        }
    }
    files::sync_directory(directory)?;
    remove_old(directory, &version)
}

/// Makes `name` a link to `target`, by way of `temporary`.
fn replace_link(directory: &Path, temporary: &str, target: &Path, name: &str) -> io::Result<()> {
    let temporary = directory.join(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    symlink(target, &temporary)?;
    fs::rename(&temporary, directory.join(name))
}

/// Removes versions that nobody reads any more, also those that a crash left.
fn remove_old(directory: &Path, version: &str) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_old = name.to_str().is_some_and(|name| name.starts_with(HIDDEN) && name != version);
        if is_old && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

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

use pyramid_protocol::{Clock, Entropy as _, SpiffeId, SystemEntropy};

use super::files::{self, Mode};
use super::{BUNDLE_FILE, CHAIN_FILE, Content, Error, KEY_FILE, Material, Purpose, VERSION_LINK};
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
    write(directory, &content(issued, bundle_pem))
}

/// The same for what somebody else has issued: it is written only if a client can use it. Returns
/// whose it is.
///
/// # Errors
///
/// As [`Error`] says; the old content is still in place.
pub fn write_checked_directory(
    directory: &Path,
    issued: &Issued,
    bundle_pem: &str,
    clock: &dyn Clock,
) -> Result<SpiffeId, Error> {
    write_checked(directory, &content(issued, bundle_pem), clock)
}

/// Puts another bundle into `directory` and leaves key and certificate as they are, if they can be
/// used with it. One writer at a time. Blocks.
///
/// # Errors
///
/// As [`Error`] says, [`Error::Untrusted`] if the bundle does not vouch for the certificate; the old
/// content is still in place.
pub fn replace_bundle(directory: &Path, bundle_pem: &str, clock: &dyn Clock) -> Result<(), Error> {
    let bundle = bundle_pem.as_bytes().to_vec();
    let content = Content { bundle, ..Content::read(directory)? };
    write_checked(directory, &content, clock).map(drop)
}

fn content(issued: &Issued, bundle_pem: &str) -> Content {
    Content {
        key: issued.key_pem.as_bytes().to_vec(),
        chain: issued.chain_pem.as_bytes().to_vec(),
        bundle: bundle_pem.as_bytes().to_vec(),
    }
}

fn write_checked(
    directory: &Path,
    content: &Content,
    clock: &dyn Clock,
) -> Result<SpiffeId, Error> {
    let checked = Material::check(content, Purpose::Client, directory, clock)?;
    write(directory, content)
        .map_err(|source| Error::Unwritable { directory: directory.to_owned(), source })?;
    Ok(checked.leaf.identity)
}

fn write(directory: &Path, content: &Content) -> io::Result<()> {
    files::create_directory(directory)?;
    let version = format!("{HIDDEN}{:016x}", SystemEntropy.u64());
    let target = directory.join(&version);
    files::create_directory(&target)?;
    files::write_new(&target.join(KEY_FILE), &content.key, Mode::Private)?;
    files::write_new(&target.join(CHAIN_FILE), &content.chain, Mode::Public)?;
    files::write_new(&target.join(BUNDLE_FILE), &content.bundle, Mode::Public)?;
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

//! Listing a directory tree in the order of keys.

use std::{fs, path::Path};

use super::blocking::{Root, failed};
use crate::object_store::{Error, LISTING_LEN_MAX, Listed, Listing, ObjectKey};

/// Keys that are wanted.
struct Wanted<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
}

impl Wanted<'_> {
    fn holds(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after)
    }

    /// Whether a key that begins with `folder` (which ends with a slash) can be wanted.
    fn may_hold(&self, folder: &str) -> bool {
        let by_prefix = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        by_prefix && self.after.is_none_or(|after| folder > after || after.starts_with(folder))
    }
}

impl Root {
    pub(super) fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Listing, Error> {
        self.check_mounted("list", prefix)?;
        let wanted = Wanted { prefix, after: after.map(ObjectKey::as_str) };
        let mut listing = Listing::default();
        collect(self.path(), "", &wanted, &mut listing)
            .map_err(|source| failed("list", prefix, &source))?;
        Ok(listing)
    }
}

/// Adds the wanted keys below one folder, whose own key is empty or ends with a slash.
fn collect(
    path: &Path,
    folder: &str,
    wanted: &Wanted<'_>,
    listing: &mut Listing,
) -> std::io::Result<()> {
    let mut entries = Vec::new();
    let found = match fs::read_dir(path) {
        Ok(found) => found,
        // Removed since its parent was read.
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(source),
    };
    for entry in found {
        let entry = entry?;
        // What has no key is not ours.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_folder = entry.file_type()?.is_dir();
        // With its slash, a folder stands where its keys do: "a-b" comes before "a/b".
        entries.push(if is_folder { name + "/" } else { name });
    }
    entries.sort_unstable();
    for name in entries {
        let key = format!("{folder}{name}");
        if key.ends_with('/') {
            if !name.starts_with('.') && wanted.may_hold(&key) {
                collect(&path.join(&name), &key, wanted, listing)?;
            }
        } else if wanted.holds(&key)
            && let Ok(parsed) = key.parse()
        {
            if listing.objects.len() == LISTING_LEN_MAX {
                listing.more = true;
            } else if let Some(len) = file_len(&path.join(&name))? {
                listing.objects.push(Listed { key: parsed, len });
            }
        }
        if listing.more {
            return Ok(());
        }
    }
    Ok(())
}

/// Length of a file, or `None` if it was removed since its folder was read.
fn file_len(path: &Path) -> std::io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(source),
    }
}

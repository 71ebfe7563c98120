//! Control groups of pods, which stay when their processes are gone.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::wait_until;

const ROOT: &str = "/sys/fs/cgroup";

/// The kernel needs a moment to see that a group is empty.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(10);

/// Removes a group and all below it, in the one hierarchy of version 2 or in all of version 1.
///
/// # Errors
/// It has processes.
pub(super) async fn remove(group: &str) -> anyhow::Result<()> {
    let mut places = vec![PathBuf::from(ROOT)];
    for entry in std::fs::read_dir(ROOT)? {
        let entry = entry?;
        // Version 1 has links for hierarchies of two names.
        if entry.file_type()?.is_dir() {
            places.push(entry.path());
        }
    }
    for place in places {
        let folder = place.join(group);
        wait_until("a control group is empty", EMPTY_TIMEOUT, async || Ok(removed(&folder)?))
            .await?;
    }
    Ok(())
}

/// Removes what can be removed; whether all is gone.
fn removed(folder: &Path) -> std::io::Result<bool> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut all = true;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all &= removed(&entry.path())?;
        }
    }
    // The files of a group go with it.
    Ok(match std::fs::remove_dir(folder) {
        Ok(()) => all,
        Err(error) if error.kind() == ErrorKind::NotFound => all,
        Err(_busy) => false,
    })
}

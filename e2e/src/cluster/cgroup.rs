//! Control groups of containers, which stay when their processes are gone.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::unit::Process;
use crate::process::wait_until;

const ROOT: &str = "/sys/fs/cgroup";

/// The group in which containerd makes those of Kubernetes' containers, whichever node it is.
const PARENT: &str = "k8s.io";

/// The kernel needs a moment to see that a group is empty.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the groups of these containers may be: in the one hierarchy of version 2, or in each of
/// version 1.
///
/// # Errors
/// The kernel has no control groups.
pub(super) fn folders(containers: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    let in_hierarchy =
        |root: &Path| containers.iter().map(|id| root.join(PARENT).join(id)).collect::<Vec<_>>();
    Ok(hierarchies()?.iter().flat_map(|root| in_hierarchy(root)).collect())
}

fn hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    let mut roots = vec![PathBuf::from(ROOT)];
    for entry in std::fs::read_dir(ROOT)? {
        let entry = entry?;
        // Version 1 has links for hierarchies of two names.
        if entry.file_type()?.is_dir() {
            roots.push(entry.path());
        }
    }
    Ok(roots)
}

/// The processes of a group and of all below it.
///
/// # Errors
/// The kernel does not tell.
pub(super) fn processes(folder: &Path) -> anyhow::Result<Vec<Process>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    // A group that is removed meanwhile has none.
    let ids = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let ids = ids.lines().filter_map(|id| id.parse().ok());
    let mut found: Vec<Process> = ids.filter_map(Process::now).collect();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(processes(&entry.path())?);
        }
    }
    Ok(found)
}

/// Removes the groups of these containers, which have ended.
///
/// # Errors
/// One has processes.
pub(super) async fn remove(containers: &[String]) -> anyhow::Result<()> {
    for folder in folders(containers)? {
        wait_until("a control group is empty", EMPTY_TIMEOUT, async || Ok(removed(&folder)?))
            .await?;
    }
    for root in hierarchies()? {
        // Other containers of the machine may be in it.
        drop(std::fs::remove_dir(root.join(PARENT)));
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

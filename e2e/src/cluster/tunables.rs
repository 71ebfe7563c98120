//! Limits of the kernel that a kubelet sets, and which stay after it.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cluster::layout::Layout;

/// What `kubelet` sets at its start.
const SET_BY_KUBELET: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

fn saved(layout: &Layout, name: &str) -> PathBuf {
    layout.path("tunables").join(name.replace('/', "."))
}

fn place(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Writes them down.
///
/// # Errors
/// The state directory cannot be written.
pub(super) fn save(layout: &Layout) -> anyhow::Result<()> {
    std::fs::create_dir_all(layout.path("tunables"))?;
    for name in SET_BY_KUBELET {
        std::fs::write(saved(layout, name), std::fs::read_to_string(place(name))?)?;
    }
    Ok(())
}

/// Sets them to what they were.
///
/// # Errors
/// The kernel's answer.
pub(super) fn restore(layout: &Layout) -> anyhow::Result<()> {
    for name in SET_BY_KUBELET {
        // A cluster that came not so far has changed none.
        let Ok(value) = std::fs::read_to_string(saved(layout, name)) else { continue };
        if std::fs::read_to_string(place(name))? != value {
            std::fs::write(place(name), value).with_context(|| format!("set {name}"))?;
        }
    }
    Ok(())
}

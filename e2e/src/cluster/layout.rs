//! Names, addresses and places of a cluster. All follow from its state directory, so that whoever
//! knows the directory finds everything that belongs to it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

/// Nodes of a cluster, from 1 on.
pub const NODES: u8 = 3;

/// Is there once everything has served. A start that was cut short is not gone on with.
const SERVED: &str = "served";

/// Longest path of a state directory: sockets lie in it, and the kernel takes 107. Unit: bytes.
const STATE_LEN_MAX: usize = 64;

/// Marks a directory as the state of a cluster: only such a directory is ever removed.
const MARK: &str = "pyramid-cluster";

/// Folders that each node replaces by its own: a state directory in them would be hidden.
pub(super) const REPLACED: [&str; 3] = ["/run", "/var/lib", "/var/log"];

/// The port of the API server.
pub(super) const API_PORT: u16 = 6443;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    state: PathBuf,
    /// Second byte of all addresses.
    net: u8,
    /// Begin of the names that the machine shares: namespaces and links.
    prefix: String,
}

impl Layout {
    /// The layout of this directory, which is made if it is not there.
    pub(super) fn of(state: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(state).with_context(|| format!("make {}", state.display()))?;
        let state = state.canonicalize()?;
        ensure!(
            !REPLACED.iter().any(|folder| state.starts_with(folder)),
            "{} cannot hold a cluster: nodes see folders of their own in the place of {}",
            state.display(),
            REPLACED.join(", ")
        );
        ensure!(
            state.as_os_str().len() <= STATE_LEN_MAX,
            "{} is longer than {STATE_LEN_MAX} bytes; name a directory with a shorter path",
            state.display()
        );
        let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
        let [first, second, ..] = digest.as_slice() else { unreachable_digest()? };
        // Away from the begin of the range, which home and office networks use.
        let net = 64 + first % 128;
        Ok(Self { state, net, prefix: format!("pyr{first:02x}{second:02x}") })
    }

    /// Whether a cluster was started here and not taken down.
    pub(super) fn is_marked(&self) -> bool {
        self.path(MARK).is_file()
    }

    /// Takes the directory for a cluster.
    pub(super) fn mark(&self) -> anyhow::Result<()> {
        let is_empty = std::fs::read_dir(&self.state)?.next().is_none();
        ensure!(
            is_empty || self.is_marked(),
            "{} is not empty and not of a cluster; name another directory",
            self.state.display()
        );
        Ok(std::fs::write(self.path(MARK), &self.prefix)?)
    }

    /// Whether everything has served since the cluster was started.
    pub(super) fn has_served(&self) -> bool {
        self.path(SERVED).is_file()
    }

    /// Notes that everything serves.
    pub(super) fn note_served(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(self.path(SERVED), "")?)
    }

    /// Removes the directory with all in it.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        ensure!(self.is_marked(), "{} is not of a cluster", self.state.display());
        // The mark goes last: what is left after an error can be removed again.
        for entry in std::fs::read_dir(&self.state)? {
            let entry = entry?;
            if entry.file_name() == MARK {
                continue;
            }
            let removed = if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())
            } else {
                std::fs::remove_file(entry.path())
            };
            removed.with_context(|| format!("remove {}", entry.path().display()))?;
        }
        std::fs::remove_file(self.path(MARK))?;
        Ok(std::fs::remove_dir(&self.state)?)
    }

    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// Where the programs write what they say.
    pub(super) fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    /// Certificates and keys.
    pub(super) fn pki(&self, file: &str) -> PathBuf {
        self.path("pki").join(file)
    }

    /// How this user of the API server gets to it.
    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.path(&format!("{user}.kubeconfig"))
    }

    /// The folder of a node.
    pub(super) fn node(&self, number: u8) -> PathBuf {
        self.path(&node_name(number))
    }

    /// The network namespace of the control plane.
    pub(super) fn plane_namespace(&self) -> String {
        format!("{}-plane", self.prefix)
    }

    /// The network namespace of a node.
    pub(super) fn node_namespace(&self, number: u8) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// The link from the machine to the control plane.
    pub(super) fn host_link(&self) -> String {
        format!("{}-host", self.prefix)
    }

    fn address(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.net, third, fourth)
    }

    /// Everything.
    pub(super) fn net(&self) -> String {
        format!("{}/16", self.address(0, 0))
    }

    /// The control plane, for nodes and pods.
    pub(super) fn plane(&self) -> Ipv4Addr {
        self.address(0, 1)
    }

    /// A node.
    pub(super) fn node_address(&self, number: u8) -> Ipv4Addr {
        self.address(0, 10 + number)
    }

    /// The pods of a node.
    pub(super) fn pods(&self, number: u8) -> String {
        format!("{}/24", self.address(number, 0))
    }

    /// The addresses of Services.
    pub(super) fn services(&self) -> String {
        format!("{}/20", self.address(192, 0))
    }

    /// The Service `kubernetes`, which takes the first address.
    pub(super) fn kubernetes_service(&self) -> Ipv4Addr {
        self.address(192, 1)
    }

    /// The machine's end of the link to the control plane.
    pub(super) fn host(&self) -> Ipv4Addr {
        self.address(255, 1)
    }

    /// The control plane, for the machine.
    pub(super) fn plane_for_host(&self) -> Ipv4Addr {
        self.address(255, 2)
    }
}

fn unreachable_digest<T>() -> anyhow::Result<T> {
    anyhow::bail!("a digest has more than two bytes")
}

/// The name of a node.
#[must_use]
pub fn node_name(number: u8) -> String {
    format!("node-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_layout_and_another_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let layout = Layout::of(&one).unwrap();
        assert_eq!(layout, Layout::of(&folder.path().join("./one")).unwrap());
        assert_ne!(layout.host_link(), Layout::of(&two).unwrap().host_link());
        // The kernel takes 15 characters.
        assert!(layout.host_link().len() <= 15, "{}", layout.host_link());
    }

    #[test]
    fn only_a_marked_directory_is_removed_and_only_an_empty_one_is_marked() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::of(&folder.path().join("state")).unwrap();
        std::fs::write(layout.path("file"), "").unwrap();
        assert!(layout.mark().is_err());
        assert!(layout.remove().is_err());
        assert!(layout.path("file").is_file());
        std::fs::remove_file(layout.path("file")).unwrap();
        layout.mark().unwrap();
        std::fs::write(layout.path("file"), "").unwrap();
        layout.mark().unwrap();
        layout.remove().unwrap();
        assert!(!layout.state().exists());
    }

    #[test]
    fn a_directory_that_nodes_would_not_see_is_refused() {
        let error = Layout::of(Path::new("/var/lib")).unwrap_err().to_string();
        assert!(error.starts_with("/var/lib cannot hold a cluster"), "{error}");
    }
}

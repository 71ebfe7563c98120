//! The programs that a cluster is made of.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Built from Go modules and linked from `.tools`.
const BUILT: [&str; 9] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
    "coredns",
    "helm",
];

/// From the distribution, with the Debian package of each.
const INSTALLED: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("sysctl", "procps"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
];

/// Where plugins for the network of pods are installed, by Debian and by others.
const PLUGIN_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

#[derive(Clone, Debug)]
pub(super) struct Tools {
    checkout: PathBuf,
    plugins: PathBuf,
}

impl Tools {
    /// Finds all of them.
    ///
    /// # Errors
    /// Some are not there; the error says how to get them. Or this is not the superuser.
    pub(super) fn find() -> anyhow::Result<Self> {
        // A process's folder belongs to its effective user.
        let user = std::fs::metadata("/proc/self")?.uid();
        ensure!(user == 0, "a cluster makes networks and mounts: run it as root");
        let checkout = checkout()?;
        let plugins = PLUGIN_FOLDERS.iter().map(PathBuf::from);
        let plugins = plugins.into_iter().find(|folder| folder.join("bridge").is_file());
        let mut packages: Vec<&str> = INSTALLED
            .iter()
            .filter(|(program, _)| !is_installed(program))
            .map(|(_, package)| *package)
            .collect();
        if plugins.is_none() {
            packages.push("containernetworking-plugins");
        }
        packages.dedup();
        ensure!(
            packages.is_empty(),
            "programs are missing; on Debian: apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
        let tools =
            Self { checkout: checkout.to_owned(), plugins: plugins.context("checked above")? };
        ensure_built(&tools.folder(), &BUILT, "`make cluster-tools`")?;
        Ok(tools)
    }

    /// A program that is built here.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The folder of programs that are built here.
    pub(super) fn folder(&self) -> PathBuf {
        self.checkout.join(".tools")
    }

    /// The folder of plugins for the network of pods.
    pub(super) fn plugins(&self) -> &Path {
        &self.plugins
    }

    /// Archives of all images.
    ///
    /// # Errors
    /// They are not built.
    pub(super) fn images(&self) -> anyhow::Result<Vec<PathBuf>> {
        let folder = self.checkout.join("target/images");
        let mut archives = Vec::new();
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tar") {
                archives.push(path);
            }
        }
        archives.sort_unstable();
        let pause = folder.join("pause.tar");
        ensure!(archives.contains(&pause), "{} is not there: `make images`", pause.display());
        Ok(archives)
    }
}

/// How etcd and the API server are built alone.
const ONLY_THEM: &str = "`make api-tools`, or with all of a cluster by `make cluster-tools`";

/// The programs of an API server without nodes: etcd and itself.
///
/// # Errors
/// They are not there; the error says how to get them.
pub(super) fn api_server_programs() -> anyhow::Result<[PathBuf; 2]> {
    let folder = checkout()?.join(".tools");
    let names = ["etcd", "kube-apiserver"];
    ensure_built(&folder, &names, ONLY_THEM)?;
    Ok(names.map(|name| folder.join(name)))
}

fn checkout() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("e2e has a parent")
}

fn ensure_built(folder: &Path, names: &[&str], how: &str) -> anyhow::Result<()> {
    let is_missing = |name: &&str| !folder.join(name).is_file();
    let missing: Vec<&str> = names.iter().copied().filter(is_missing).collect();
    let are = if missing.len() == 1 { "is" } else { "are" };
    ensure!(missing.is_empty(), "{} {are} not there; build with {how}", missing.join(", "));
    Ok(())
}

fn is_installed(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_are_not_built_are_told_with_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let told = |how| {
            let built = ensure_built(folder.path(), &["etcd", "kube-apiserver"], how);
            built.map_err(|error| error.to_string())
        };
        let both = "etcd, kube-apiserver are not there; build with `make cluster-tools`";
        assert_eq!(told("`make cluster-tools`"), Err(both.to_owned()));
        std::fs::write(folder.path().join("etcd"), "").unwrap();
        let one = "kube-apiserver is not there; build with `make api-tools`, or with all of a \
                   cluster by `make cluster-tools`";
        assert_eq!(told(ONLY_THEM), Err(one.to_owned()));
        std::fs::write(folder.path().join("kube-apiserver"), "").unwrap();
        assert_eq!(told(ONLY_THEM), Ok(()));
    }
}

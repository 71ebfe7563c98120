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
        let checkout =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("e2e has a parent")?;
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
        let missing: Vec<&str> =
            BUILT.into_iter().filter(|name| !tools.program(name).is_file()).collect();
        ensure!(
            missing.is_empty(),
            "{} {} not there; build with `make cluster-tools`",
            missing.join(", "),
            if missing.len() == 1 { "is" } else { "are" }
        );
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

fn is_installed(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).is_file())
}

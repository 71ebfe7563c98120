//! `dev.json`: what a running `pyramid dev` tells the other commands.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::folder;

/// A running `pyramid dev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    /// 32 hexadecimal digits.
    pub(crate) cluster_id: String,
    /// Where the `Writer` service answers.
    pub(crate) writer: SocketAddr,
    /// Where the `Admin` service answers.
    pub(crate) admin: SocketAddr,
    /// Where the pusher's `Local` service answers.
    pub(crate) local: SocketAddr,
    /// Where health and metrics of the Writer are.
    pub(crate) ops: Option<SocketAddr>,
    /// Where those of the pusher are.
    pub(crate) pusher_ops: Option<SocketAddr>,
    /// The directory of certificates: `user` for streams, `operator` for the `Admin` service.
    pub(crate) tls: PathBuf,
    /// Where the objects lie, for people.
    pub(crate) object_store: String,
    /// The same if it is a directory.
    pub(crate) objects: Option<PathBuf>,
    /// Authorities that vouch for an object store besides those of this machine.
    pub(crate) object_store_ca: Option<PathBuf>,
    /// Whether the object store is reached without TLS.
    pub(crate) object_store_http: bool,
    /// The key file that opens them.
    pub(crate) kek_file: PathBuf,
}

impl Running {
    pub(crate) fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("dev.json")
    }

    /// What the directory's `pyramid dev` wrote; it may have been killed since. `None` if none
    /// runs.
    pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(data_dir);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("read {}", path.display()))?,
        };
        let running = serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is not what `pyramid dev` writes; remove it", path.display())
        })?;
        Ok(Some(running))
    }

    pub(super) fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(data_dir);
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        folder::write(&path, &json).with_context(|| format!("write {}", path.display()))
    }

    /// Forgets it. A file that stays only makes a better error for whoever believes it.
    pub(super) fn remove(data_dir: &Path) {
        drop(fs::remove_file(Self::path(data_dir)));
    }
}

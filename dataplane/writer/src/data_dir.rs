//! The directory of one replica: who may use it, and whose it is.
//!
//! ```text
//! lock       held while a process uses the directory
//! identity   whose directory this is; written once
//! wal/       the log
//!
//! identity:
//! 0  8  magic "PYRAMID1"      8  4 version 1      12 4 zero
//! 16 16 cluster id            32 8 node id        40 16 disk id
//! 56 16 WAL id                72 4 crc32c of 0..72
//! ```
//!
//! All integers are little endian. The disk id and the WAL id are random, drawn
//! when the directory is founded. A directory without identity is empty: it
//! waits to be told who it is, and never guesses from what else it holds.
//!
//! The identity is the last thing that is written when a directory is founded.
//! So a directory with an identity has a log, and one whose log is missing was
//! damaged; and after a crash in the middle the directory is empty and is
//! founded again.

use std::io;

use bytes::{Buf as _, BufMut as _};
use pyramid_protocol::Entropy;

use crate::{
    disk::{self, Disk},
    wal,
};

const MAGIC: &[u8; 8] = b"PYRAMID1";
const VERSION: u32 = 1;
const FILE: &str = "identity";
const UNFINISHED: &str = "identity.tmp";

/// Unit: bytes.
const IDENTITY_LEN: usize = 76;

/// Bytes that the checksum covers.
const CHECKED_LEN: usize = 72;

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, drawn when it was bootstrapped.
    pub cluster_id: [u8; 16],
    /// The member of the cluster. `u64::MAX` is no node.
    pub node_id: u64,
    /// This volume.
    pub disk_id: [u8; 16],
    /// The log on it; seeds its checksums.
    pub wal_id: [u8; 16],
}

/// What a directory turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nobody's yet.
    Empty,
    /// This replica's.
    Member(Identity),
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses it. Stop that one first.
    #[error("the data directory is in use by another process")]
    Locked,

    /// The disk refused. Mend the volume and start again.
    #[error("{action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: &'static str,
        /// What the operating system said.
        source: io::Error,
    },

    /// The identity cannot be read, or is missing although there is a log. The
    /// replica must not take part in anything; its files are left as they are.
    #[error("the identity of the data directory is {what}; replace this replica")]
    Quarantined {
        /// What is wrong with it.
        what: &'static str,
    },

    /// A newer program wrote it. Start that one.
    #[error("the identity has version {version}, this program knows {VERSION}; start a newer one")]
    Unsupported {
        /// What was found.
        version: u32,
    },

    /// The directory already belongs to somebody else.
    #[error("the data directory already belongs to node {node_id}, maybe of another cluster")]
    Foreign {
        /// Whose it is.
        node_id: u64,
    },
}

/// A directory that this process has locked.
#[derive(Debug)]
pub struct DataDir {
    disk: std::sync::Arc<dyn Disk>,
    contents: Contents,
    _lock: Box<dyn disk::Lock>,
}

impl DataDir {
    /// Locks the directory and reads whose it is.
    ///
    /// # Errors
    ///
    /// All but [`Error::Foreign`]. Nothing was written.
    pub fn open(disk: std::sync::Arc<dyn Disk>) -> Result<Self, Error> {
        let lock = disk.lock().map_err(|source| {
            if source.kind() == io::ErrorKind::WouldBlock {
                return Error::Locked;
            }
            Error::Io { action: "lock", path: "the data directory", source }
        })?;
        let contents = match read(disk.as_ref())? {
            Some(bytes) => {
                let identity = Identity::decode(&bytes)?;
                // Its name may be in memory only, from a process that was
                // killed before it could sync.
                disk.sync_dir("").map_err(failed("sync", "the data directory"))?;
                Contents::Member(identity)
            }
            None if holds_a_used_log(disk.as_ref())? => {
                return Err(Error::Quarantined { what: "missing" });
            }
            None => Contents::Empty,
        };
        Ok(Self { disk, contents, _lock: lock })
    }

    /// What the directory is.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// The disk below it.
    #[must_use]
    pub fn disk(&self) -> &std::sync::Arc<dyn Disk> {
        &self.disk
    }

    /// Makes an empty directory a member's: an empty log, then the identity.
    /// For the member that it already is, it answers with the identity.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`] if it already is somebody else's, and nothing was
    /// written; [`Error::Io`], and the call may be repeated by a new process.
    pub fn found(
        &mut self,
        cluster_id: [u8; 16],
        node_id: u64,
        entropy: &dyn Entropy,
        config: &wal::Config,
    ) -> Result<Identity, Error> {
        if let Contents::Member(identity) = self.contents {
            if (identity.cluster_id, identity.node_id) == (cluster_id, node_id) {
                return Ok(identity);
            }
            return Err(Error::Foreign { node_id: identity.node_id });
        }
        let (mut disk_id, mut wal_id) = ([0; 16], [0; 16]);
        entropy.fill(&mut disk_id);
        entropy.fill(&mut wal_id);
        let identity = Identity { cluster_id, node_id, disk_id, wal_id };
        let disk = self.disk.as_ref();
        wal::create(disk, config, &identity).map_err(failed("create", "wal"))?;
        let write = || -> io::Result<()> {
            let file = disk.create(UNFINISHED)?;
            file.write_at(&identity.encode(), 0)?;
            file.sync()?;
            disk.rename(UNFINISHED, FILE)?;
            disk.sync_dir("")
        };
        write().map_err(failed("write", FILE))?;
        self.contents = Contents::Member(identity);
        Ok(identity)
    }
}

impl Identity {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(IDENTITY_LEN);
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(0);
        bytes.put_slice(&self.cluster_id);
        bytes.put_u64_le(self.node_id);
        bytes.put_slice(&self.disk_id);
        bytes.put_slice(&self.wal_id);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const DAMAGED: Error = Error::Quarantined { what: "damaged" };
        let (checked, crc) = bytes.split_at_checked(CHECKED_LEN).ok_or(DAMAGED)?;
        if crc != crc32c::crc32c(checked).to_le_bytes() {
            return Err(DAMAGED);
        }
        let mut fields = checked.strip_prefix(MAGIC.as_slice()).ok_or(DAMAGED)?;
        let version = fields.try_get_u32_le().map_err(|_| DAMAGED)?;
        let zero = fields.try_get_u32_le().map_err(|_| DAMAGED)?;
        if version != VERSION || zero != 0 {
            return Err(Error::Unsupported { version });
        }
        let mut identity =
            Self { cluster_id: [0; 16], node_id: 0, disk_id: [0; 16], wal_id: [0; 16] };
        fields.try_copy_to_slice(&mut identity.cluster_id).map_err(|_| DAMAGED)?;
        identity.node_id = fields.try_get_u64_le().map_err(|_| DAMAGED)?;
        fields.try_copy_to_slice(&mut identity.disk_id).map_err(|_| DAMAGED)?;
        fields.try_copy_to_slice(&mut identity.wal_id).map_err(|_| DAMAGED)?;
        Ok(identity)
    }
}

fn read(disk: &dyn Disk) -> Result<Option<Vec<u8>>, Error> {
    let file = match disk.open(FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("open", FILE))?,
    };
    // One more, so that a longer file is seen.
    let mut bytes = vec![0; IDENTITY_LEN + 1];
    let read = file.read_at(&mut bytes, 0).map_err(failed("read", FILE))?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Whether the log holds more than what an interrupted founding leaves.
fn holds_a_used_log(disk: &dyn Disk) -> Result<bool, Error> {
    let names = match disk.list(wal::DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(failed("list", wal::DIR))?,
    };
    wal::is_used(disk, &names).map_err(failed("read", wal::DIR))
}

fn failed(action: &'static str, path: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path, source }
}

#[cfg(test)]
mod tests;

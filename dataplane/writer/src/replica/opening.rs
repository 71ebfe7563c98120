//! A replica's directory: founded, and its log opened.

use std::sync::Arc;

use pyramid_protocol::pb::v1::{Reason, Refusal};

use super::{Error, FOUNDER, Parts};
use crate::config::Config;
use crate::data_dir::{self, DataDir, Identity};
use crate::disk::Disk;
use crate::wal::{self, Wal};

pub(super) fn wal_config(config: &Config, disk: &dyn Disk) -> wal::Config {
    let bytes_max = config.wal_bytes_max.unwrap_or_else(|| match disk.volume() {
        Ok(volume) => (volume.total_bytes / 10 * 6).min(wal::WAL_BYTES_MAX),
        Err(_) => wal::WAL_BYTES_MAX,
    });
    wal::Config {
        segment_bytes: config.segment_bytes,
        ..wal::Config::new(bytes_max, config.cache_bytes_max)
    }
}

/// Makes an empty directory that of a member, on the word of whoever may say so.
pub(super) fn found_here(
    directory: &mut DataDir,
    cluster_id: [u8; 16],
    parts: &Parts,
) -> Result<Result<Identity, Refusal>, Error> {
    match directory.found(cluster_id, FOUNDER, &*parts.entropy, &parts.wal) {
        Ok(identity) => Ok(Ok(identity)),
        Err(data_dir::Error::Foreign { .. }) => Ok(Err(Refusal::new(
            Reason::Foreign,
            "this replica belongs to another cluster; give it an empty data directory",
        ))),
        // After a failed sync nothing is known about the files: a new process founds again.
        Err(error) => Err(Error::DataDir(error)),
    }
}

/// Reads the log, on a thread that may block: probes are answered meanwhile.
pub(super) async fn open_wal(
    disk: Arc<dyn Disk>,
    config: wal::Config,
    identity: Identity,
) -> Result<(Wal, wal::Opened), Error> {
    let opening = tokio::task::spawn_blocking(move || Wal::open(disk, config, &identity));
    // A blocking task is lost only by a panic, which ends the process.
    opening.await.expect("opening the log does not panic").map_err(Error::OpenLog)
}

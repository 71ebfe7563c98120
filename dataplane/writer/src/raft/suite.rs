//! openraft's own storage suite on the real write-ahead log and a real disk.
//!
//! The state machine is a plain one in memory: the suite wants snapshots of what was applied, and
//! ours returns only published ones.

use std::io;
use std::sync::{Arc, Mutex};

use futures::{Stream, TryStreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError};
use openraft_rt_tokio::TokioRuntime;
use pyramid_protocol::SeededEntropy;
use tempfile::TempDir;

use super::log_store::LogStore;
use super::types::{LogIdOf, StoredMembership, TypeConfig};
use crate::data_dir::DataDir;
use crate::disk::RealDisk;
use crate::wal::{Config, Wal};

type Meta = SnapshotMetaOf<TypeConfig>;

#[derive(Clone, Default)]
struct PlainMachine(Arc<Mutex<Plain>>);

#[derive(Clone, Default)]
struct Plain {
    applied: Option<LogIdOf>,
    membership: StoredMembership,
    snapshot: Option<Meta>,
}

impl RaftStateMachine<TypeConfig> for PlainMachine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf>, StoredMembership)> {
        let plain = self.0.lock().unwrap();
        Ok((plain.applied, plain.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, _)) = entries.try_next().await? {
            let mut plain = self.0.lock().unwrap();
            plain.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                plain.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Self> {
        Some(self.clone())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &Meta, (): ()) -> io::Result<()> {
        let mut plain = self.0.lock().unwrap();
        plain.applied = meta.last_log_id;
        plain.membership = meta.last_membership.clone();
        plain.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, ()>>> {
        let meta = self.0.lock().unwrap().snapshot.clone();
        Ok(meta.map(|meta| SnapshotOf::<TypeConfig, ()> { meta, snapshot: () }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for PlainMachine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, ()>> {
        let mut plain = self.0.lock().unwrap();
        let meta = Meta { last_log_id: plain.applied, last_membership: plain.membership.clone() };
        plain.snapshot = Some(meta.clone());
        Ok(SnapshotOf::<TypeConfig, ()> { meta, snapshot: () })
    }
}

struct Builder;

/// Closes the log before its folder goes.
struct Guard {
    wal: Wal,
    _data_dir: Mutex<DataDir>,
    _folder: TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.wal.close().unwrap();
    }
}

impl StoreBuilder<TypeConfig, LogStore, PlainMachine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, PlainMachine), StorageError<TypeConfig>> {
        let config = Config { segment_bytes: 16 << 20, ..Config::new(1 << 30, 1 << 20) };
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
        let mut data_dir = DataDir::open(disk).unwrap();
        let identity = data_dir.found([1; 16], 1, &SeededEntropy::new(1), &config).unwrap();
        let disk = Arc::clone(data_dir.disk());
        let (wal, _) = Wal::open(disk, config, &identity).unwrap();
        let (log, _) = LogStore::new(wal.clone());
        let guard = Guard { wal, _data_dir: Mutex::new(data_dir), _folder: folder };
        Ok((guard, log, PlainMachine::default()))
    }
}

#[test]
fn openraft_accepts_the_write_ahead_log() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let suite = DeterministicRng::<TokioRuntime>::scope(1, Suite::test_all(Builder));
    runtime.block_on(suite).unwrap();
}

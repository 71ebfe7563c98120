use std::sync::Arc;

use pyramid_protocol::SeededEntropy;

use super::*;
use crate::disk::{OperationKind, SimDisk};

const CLUSTER: [u8; 16] = [7; 16];

fn config() -> wal::Config {
    wal::Config {
        segment_bytes: 16384,
        block_bytes_max: 4096,
        entry_bytes_max: 4096,
        ..wal::Config::new(1 << 20, 1 << 16)
    }
}

fn open(disk: &SimDisk) -> Result<DataDir, Error> {
    DataDir::open(Arc::new(disk.clone()))
}

fn found(disk: &SimDisk) -> Result<Identity, Error> {
    open(disk)?.found(CLUSTER, 3, &SeededEntropy::new(1), &config())
}

#[test]
fn an_empty_directory_becomes_a_members_and_stays_it() {
    let disk = SimDisk::new();
    assert_eq!(open(&disk).unwrap().contents(), Contents::Empty);
    let identity = found(&disk).unwrap();
    assert_eq!((identity.cluster_id, identity.node_id), (CLUSTER, 3));
    assert_ne!(identity.disk_id, identity.wal_id);
    let disk = disk.after_power_cut(|_| false);
    assert_eq!(open(&disk).unwrap().contents(), Contents::Member(identity));
    assert_eq!(found(&disk).unwrap(), identity, "founding it again changes nothing");
    wal::Wal::open_driven(Arc::new(disk), config(), &identity).unwrap();
}

#[test]
fn a_member_is_not_founded_for_another_cluster_or_node() {
    let disk = SimDisk::new();
    let identity = found(&disk).unwrap();
    let before = disk.contents("identity").unwrap();
    for (cluster_id, node_id) in [([8; 16], 3), (CLUSTER, 4)] {
        let mut dir = open(&disk).unwrap();
        let refused = dir.found(cluster_id, node_id, &SeededEntropy::new(2), &config());
        assert!(matches!(refused, Err(Error::Foreign { node_id: 3 })), "{refused:?}");
    }
    assert_eq!(disk.contents("identity").unwrap(), before);
    assert_eq!(open(&disk).unwrap().contents(), Contents::Member(identity));
}

#[test]
fn a_second_process_is_told_that_the_directory_is_in_use() {
    let disk = SimDisk::new();
    let first = open(&disk).unwrap();
    assert!(matches!(open(&disk), Err(Error::Locked)));
    drop(first);
    open(&disk).unwrap();
}

#[test]
fn a_crash_at_any_operation_of_founding_is_mended_by_founding_again() {
    let whole = SimDisk::new();
    found(&whole).unwrap();
    let mut states = 0;
    for crash_at in 0..=whole.operations() {
        let disk = SimDisk::new();
        disk.crash_at(crash_at);
        let founded = found(&disk);
        assert_eq!(founded.is_ok(), crash_at == whole.operations(), "crash at {crash_at}");
        let pending = disk.pending();
        for mask in 0..1u32 << pending {
            let disk = disk.after_power_cut(|piece| mask >> piece & 1 == 1);
            let contents = open(&disk).unwrap().contents();
            let identity = found(&disk).unwrap();
            if let Contents::Member(member) = contents {
                assert_eq!(identity, member);
            }
            if let Ok(founded) = &founded {
                assert_eq!(identity, *founded);
            }
            let disk = disk.after_power_cut(|_| false);
            wal::Wal::open_driven(Arc::new(disk), config(), &identity).unwrap();
            states += 1;
        }
    }
    assert!(states > 30, "only {states} crash states");
}

#[test]
fn every_flipped_bit_of_the_identity_is_noticed() {
    let disk = SimDisk::new();
    found(&disk).unwrap();
    for bit in 0..IDENTITY_LEN * 8 {
        let disk = disk.after_kill();
        disk.damage("identity", |bytes| bytes[bit / 8] ^= 1 << (bit % 8)).unwrap();
        let refused = open(&disk).map(|dir| dir.contents());
        let is_seen = matches!(refused, Err(Error::Quarantined { what: "damaged" }));
        assert!(is_seen, "bit {bit}: {refused:?}");
    }
    for len in [0, IDENTITY_LEN - 1, IDENTITY_LEN + 1] {
        let disk = disk.after_kill();
        disk.damage("identity", |bytes| bytes.resize(len, 0)).unwrap();
        assert!(matches!(open(&disk), Err(Error::Quarantined { .. })), "{len} bytes");
    }
}

#[test]
fn a_newer_identity_is_refused_as_newer() {
    let disk = SimDisk::new();
    found(&disk).unwrap();
    disk.damage("identity", |bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..CHECKED_LEN]);
        bytes[CHECKED_LEN..].copy_from_slice(&crc.to_le_bytes());
    })
    .unwrap();
    assert!(matches!(open(&disk), Err(Error::Unsupported { version: 2 })));
}

#[test]
fn a_used_log_without_identity_is_not_taken_for_an_empty_directory() {
    let disk = SimDisk::new();
    let identity = found(&disk).unwrap();
    let lost = disk.after_kill();
    lost.lose("identity").unwrap();
    assert_eq!(open(&lost).unwrap().contents(), Contents::Empty, "the log was never used");

    let (wal, _, mut driver) =
        wal::Wal::open_driven(Arc::new(disk.clone()), config(), &identity).unwrap();
    let vote = wal::Vote { term: 1, node_id: 3, committed: false };
    wal.save_vote(vote, Box::new(|_| ())).unwrap();
    driver.turn(std::time::Duration::ZERO);
    disk.lose("identity").unwrap();
    assert!(matches!(open(&disk), Err(Error::Quarantined { what: "missing" })));
}

#[test]
fn a_failed_sync_while_founding_is_reported_and_founded_again() {
    let whole = SimDisk::new();
    found(&whole).unwrap();
    let syncs = whole.trace().into_iter().enumerate();
    let syncs = syncs.filter(|(_, operation)| {
        matches!(operation.kind, OperationKind::Sync | OperationKind::SyncDir)
    });
    for (at, operation) in syncs {
        let disk = SimDisk::new();
        disk.fail_at(at, io::ErrorKind::Other);
        let failed = found(&disk);
        assert!(matches!(failed, Err(Error::Io { .. })), "{operation:?}: {failed:?}");
        let disk = disk.after_kill();
        let identity = found(&disk).unwrap();
        let disk = disk.after_power_cut(|_| false);
        assert_eq!(open(&disk).unwrap().contents(), Contents::Member(identity));
        wal::Wal::open_driven(Arc::new(disk), config(), &identity).unwrap();
    }
}

//! A segment, byte by byte: a byte changed is a format changed.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use pyramid_writer::{
    data_dir::Identity,
    disk::SimDisk,
    wal::{self, Config, LogEntry, LogId, Purged, Vote, Wal},
};

use super::model::Expected;

const FIRST: &str = "wal/0000000000000000.wal";

const IDENTITY: Identity = Identity {
    cluster_id: *b"a cluster's name",
    node_id: 0x0102_0304_0506_0708,
    disk_id: *b"the volume's id.",
    wal_id: *b"the log's own id",
};

fn config() -> Config {
    Config {
        segment_bytes: 24 << 10,
        block_bytes_max: 8 << 10,
        entry_bytes_max: 4 << 10,
        ..Config::new(1 << 20, 1 << 16)
    }
}

fn entry(term: u64, index: u64, payload: &'static str) -> LogEntry {
    LogEntry { id: LogId { term, index }, payload: Bytes::from_static(payload.as_bytes()) }
}

/// Every type of frame, in five blocks.
fn write(disk: &SimDisk) {
    wal::create(disk, &config(), &IDENTITY).unwrap();
    let (wal, _, mut driver) = open(disk);
    let done = || Box::new(|result: std::io::Result<()>| result.unwrap());
    let vote = Vote { term: 3, node_id: IDENTITY.node_id, committed: true };
    wal.save_vote(vote, done()).unwrap();
    wal.append(vec![entry(3, 0, ""), entry(3, 1, "one"), entry(3, 2, "twelve bytes")], done())
        .unwrap();
    driver.turn(Duration::ZERO);
    wal.truncate_after(Some(LogId { term: 3, index: 1 }), done()).unwrap();
    wal.append(vec![entry(4, 2, "another two")], done()).unwrap();
    wal.save_committed(LogId { term: 4, index: 2 }).unwrap();
    driver.turn(Duration::ZERO);
    driver.turn(Duration::from_millis(2));
    wal.purge(Purged { upto: LogId { term: 3, index: 0 }, complete_at: 9 }, done()).unwrap();
    driver.turn(Duration::from_millis(3));
}

fn open(disk: &SimDisk) -> (Wal, wal::Opened, wal::Driver) {
    Wal::open_driven(Arc::new(disk.clone()), config(), &IDENTITY).unwrap()
}

#[test]
fn a_segment_is_the_golden_file() {
    let disk = SimDisk::new();
    write(&disk);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/segment_v1.bin");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&path, disk.contents(FIRST).unwrap()).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    assert!(disk.contents(FIRST).unwrap() == golden, "the bytes of a segment have changed");

    let fresh = SimDisk::new();
    wal::create(&fresh, &config(), &IDENTITY).unwrap();
    fresh.damage(FIRST, |bytes| *bytes = golden).unwrap();
    let (wal, opened, _driver) = open(&fresh);
    assert_eq!((opened.report.blocks, opened.report.entries), (5, 4));
    let found = Expected::read(&wal, &opened);
    let expected = Expected {
        vote: Some(Vote { term: 3, node_id: IDENTITY.node_id, committed: true }),
        committed: Some(LogId { term: 4, index: 2 }),
        purged: Some(Purged { upto: LogId { term: 3, index: 0 }, complete_at: 9 }),
        entries: [entry(3, 1, "one"), entry(4, 2, "another two")]
            .map(|entry| (entry.id.index, entry))
            .into(),
    };
    assert_eq!(found, expected);
}

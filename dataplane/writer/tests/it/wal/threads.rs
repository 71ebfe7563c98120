//! On a real directory, with its threads.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use pyramid_protocol::SystemEntropy;
use pyramid_writer::{
    data_dir::{Contents, DataDir},
    disk::RealDisk,
    wal::{Config, LogEntry, LogId, Purged, Vote, Wal},
};

fn config() -> Config {
    Config {
        segment_bytes: 1 << 20,
        block_bytes_max: 1 << 16,
        entry_bytes_max: 1 << 16,
        ..Config::new(64 << 20, 1 << 16)
    }
}

fn entry(index: u64) -> LogEntry {
    let len = usize::try_from(index * 37 % 9000).unwrap();
    LogEntry {
        id: LogId { term: 1 + index / 100, index },
        payload: Bytes::from(vec![u8::try_from(index % 251).unwrap(); len]),
    }
}

#[test]
fn what_was_flushed_is_there_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let open = || DataDir::open(Arc::new(RealDisk::open(root.path()).unwrap())).unwrap();
    let mut dir = open();
    let identity = dir.found([1; 16], 1, &SystemEntropy, &config()).unwrap();
    let (wal, opened) = Wal::open(dir.disk().clone(), config(), &identity).unwrap();
    assert_eq!((opened.last, opened.vote), (None, None));

    let (told, flushes) = mpsc::channel();
    let vote = Vote { term: 9, node_id: 1, committed: true };
    wal.save_vote(vote, Box::new(|result| result.unwrap())).unwrap();
    for index in 1..=1000 {
        let told = told.clone();
        let on_flushed = Box::new(move |result: std::io::Result<()>| {
            result.unwrap();
            told.send(index).unwrap();
        });
        wal.append(vec![entry(index)], on_flushed).unwrap();
        assert_eq!(wal.entry(entry(index).id).unwrap(), entry(index), "readable at once");
    }
    let order: Vec<u64> = flushes.iter().take(1000).collect();
    assert_eq!(order, (1..=1000).collect::<Vec<_>>());
    assert_eq!(*wal.flushed().borrow(), Some(entry(1000).id));
    wal.save_committed(entry(990).id).unwrap();
    let purged = Purged { upto: entry(10).id, complete_at: 17 };
    wal.purge(purged, Box::new(|result| result.unwrap())).unwrap();
    let state = wal.log_state();
    wal.close().unwrap();
    wal.close().unwrap();
    drop((wal, dir));

    let dir = open();
    assert_eq!(dir.contents(), Contents::Member(identity));
    let (wal, opened) = Wal::open(dir.disk().clone(), config(), &identity).unwrap();
    assert_eq!(opened.report.torn, None);
    assert_eq!(
        (opened.vote, opened.committed, opened.purged, opened.last, opened.first_index),
        (Some(vote), Some(entry(990).id), Some(purged), Some(entry(1000).id), Some(11))
    );
    assert_eq!(wal.log_state(), state);
    let all: Vec<LogEntry> = (11..=1000).map(entry).collect();
    assert_eq!(wal.entries(0..u64::MAX, None).unwrap(), all);
    let mut prefixes = Vec::new();
    while prefixes.len() < all.len() {
        let next = 11 + u64::try_from(prefixes.len()).unwrap();
        let some = wal.entries(next..5000, Some(20_000)).unwrap();
        assert!(!some.is_empty() && some.len() < 500, "{} entries", some.len());
        prefixes.extend(some);
    }
    assert_eq!(prefixes, all);
    assert!(wal.usage().used_bytes > 4 << 20);
    wal.close().unwrap();
}

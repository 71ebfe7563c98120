use bytes::Bytes;

use super::*;

fn entry(term: u64, index: u64) -> LogEntry {
    LogEntry { id: LogId { term, index }, payload: Bytes::from_static(b"0123456789") }
}

/// Entries from `first` to `last` of term 1, of requests with the numbers of
/// their places; at most 50 bytes of what is flushed stay in memory.
fn log_with(first: u64, last: u64) -> Log {
    let mut log = Log::new(50);
    for index in first..=last {
        log.push(entry(1, index), index);
    }
    log
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

fn accepts(log: &Log, index: u64) -> bool {
    log.check_append(&[entry(9, index)]).is_ok()
}

#[test]
fn an_unused_log_takes_any_first_index_and_then_no_gap() {
    let log = Log::new(50);
    for index in [0, 1, 7, u64::MAX - 1] {
        assert!(accepts(&log, index), "index {index}");
    }
    assert!(!accepts(&log, u64::MAX), "it means none on the disk");
    assert!(log.check_append(&[entry(1, 3), entry(1, 5)]).is_err());
    let log = log_with(3, 4);
    assert_eq!([3, 4, 5, 6].map(|index| accepts(&log, index)), [false, false, true, false]);
}

#[test]
fn the_purged_id_counts_as_the_last_one_of_an_empty_log() {
    let mut log = log_with(3, 4);
    log.purge(Purged { upto: id(1, 9), complete_at: 0 });
    assert_eq!((log.last(), log.indexes()), (Some(id(1, 9)), 10..10));
    assert_eq!([9, 10, 11].map(|index| accepts(&log, index)), [false, true, false]);
    log.purge(Purged { upto: id(1, 5), complete_at: 0 });
    assert_eq!(log.last(), Some(id(1, 9)), "an older mark changes nothing");
    log.push(entry(2, 10), 10);
    assert_eq!((log.last(), log.id_at(10)), (Some(id(2, 10)), Some(id(2, 10))));
}

#[test]
fn a_cut_log_goes_on_where_it_was_cut() {
    let mut log = log_with(3, 9);
    log.truncate_after(Some(id(1, 6)));
    assert_eq!((log.last(), log.indexes()), (Some(id(1, 6)), 3..7));
    assert_eq!(log.cached(7), None);
    log.push(entry(2, 7), 10);
    assert_eq!((log.id_at(6), log.id_at(7)), (Some(id(1, 6)), Some(id(2, 7))));
    log.truncate_after(Some(id(2, 8)));
    assert_eq!(log.last(), Some(id(2, 7)), "a cut behind the end changes nothing");
    log.truncate_after(None);
    assert_eq!((log.last(), log.indexes()), (None, 3..3));
    assert_eq!([0, 3, 4].map(|index| accepts(&log, index)), [false, true, false]);
}

#[test]
fn a_cut_below_the_commit_mark_is_refused() {
    let mut log = log_with(3, 9);
    log.commit(id(1, 6));
    log.commit(id(1, 5));
    assert_eq!(log.committed, Some(id(1, 6)), "it never goes back");
    assert!(log.check_truncate(Some(id(1, 6))).is_ok());
    for after in [Some(id(1, 5)), None] {
        assert!(log.check_truncate(after).is_err(), "{after:?}");
    }
}

#[test]
fn only_what_is_flushed_leaves_the_cache() {
    let mut log = log_with(1, 9);
    log.flushed(2);
    assert_eq!([1, 2, 3, 9].map(|index| log.cached(index).is_some()), [false, false, true, true]);
    log.flushed(9);
    assert_eq!([4, 5, 9].map(|index| log.cached(index).is_some()), [false, true, true]);
    assert_eq!(log.indexes(), 1..10, "it can still be read");
}

/// The flush of an entry that was cut says nothing about the one in its place.
#[test]
fn an_entry_that_was_written_again_stays_in_the_cache() {
    let mut log = log_with(1, 9);
    log.truncate_after(Some(id(1, 4)));
    for index in 5..=9 {
        log.push(entry(2, index), index + 10);
    }
    log.flushed(9);
    assert_eq!(log.cached(4), None);
    assert_eq!(log.cached(5), Some(&entry(2, 5)));
}

#[test]
fn samples_are_sparse_and_lead_to_what_is_written_behind_them() {
    let mut log = log_with(1, 99);
    for index in 1..=90 {
        log.sample(Sample { index, lsn: index * 4096 });
    }
    let at = |log: &Log, index| log.sample_before(index).map(|sample| sample.index);
    assert_eq!(
        [0, 1, 64, 65, 99].map(|index| at(&log, index)),
        [None, Some(1), Some(1), Some(65), Some(65)]
    );
    // Entries from 60 on are written again, while a block with old ones is in flight.
    log.truncate_after(Some(id(1, 59)));
    assert_eq!(at(&log, 90), Some(1));
    log.sample(Sample { index: 91, lsn: 1 << 20 });
    log.sample(Sample { index: 60, lsn: 2 << 20 });
    assert_eq!([59, 60, 91].map(|index| at(&log, index)), [Some(1), Some(60), Some(60)]);
    log.purge(Purged { upto: id(1, 70), complete_at: 0 });
    assert_eq!(at(&log, 71), Some(60), "the entry may lie behind the older sample");
}

//! Damage at rest: each class of bytes, and the verdict that it must get.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use pyramid_writer::{
    data_dir::Identity,
    disk::SimDisk,
    wal::{self, LogEntry, LogId, OpenError, Vote, Wal},
};

use crate::tell;

use super::workload::{IDENTITY, config, new_disk, open};

/// What a start makes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Every entry is there, and nothing was cut.
    ServesAll,
    /// So many entries are cut off at this LSN.
    Cuts { at_lsn: u64, entries: usize },
    /// Acknowledged data is damaged at this LSN; nothing was written.
    Quarantines(u64),
    /// Another replica's; nothing was written.
    RefusesForeign,
    /// A newer program's; nothing was written.
    RefusesNewer(u64),
}

use Verdict::{Cuts, Quarantines, RefusesForeign, RefusesNewer, ServesAll};

const FIRST: &str = "wal/0000000000000000.wal";
const SECOND: &str = "wal/0000000000006000.wal";
const ENTRIES: u64 = 5;

fn entry(index: u64) -> LogEntry {
    let len = [0, 100, 203, 5000, 9000, 300, 40, 50][usize::try_from(index).unwrap()];
    let byte = u8::try_from(index).unwrap();
    LogEntry { id: LogId { term: 2, index }, payload: Bytes::from(vec![0xa0 | byte; len]) }
}

/// ```text
///     0  founding      head 64..232
///  4096  A             head 4160, vote 4328, entry 1 at 4384, entry 2 at 4520..4760
///  8192  B             entry 3, two pages
/// 16384  the gap: C does not fit
/// 24576  C             head, entry 4, three pages
/// 36864  D             entry 5
/// 40960  idle block
/// 45056  free
/// ```
fn whole_log() -> SimDisk {
    let disk = new_disk();
    let (wal, _, mut driver) = open(&disk).unwrap();
    let vote = Vote { term: 2, node_id: 5, committed: true };
    wal.save_vote(vote, Box::new(|result| result.unwrap())).unwrap();
    for block in [1..=2, 3..=3, 4..=4, 5..=5] {
        let entries = block.map(entry).collect();
        wal.append(entries, Box::new(|result| result.unwrap())).unwrap();
        driver.turn(Duration::ZERO);
    }
    driver.turn(Duration::from_millis(2));
    assert_eq!(wal.usage().used_bytes, 45056);
    assert_eq!(wal.flushed().borrow().unwrap(), entry(ENTRIES).id);
    disk.after_power_cut(|_| false)
}

fn verdict(disk: &SimDisk) -> Verdict {
    verdict_for(disk, &IDENTITY, ENTRIES)
}

fn verdict_for(disk: &SimDisk, identity: &Identity, written: u64) -> Verdict {
    let disk = disk.after_kill();
    let opened = Wal::open_driven(Arc::new(disk.clone()), config(), identity);
    if opened.is_err() {
        assert_eq!(disk.operations(), 0, "a refusal writes nothing");
    }
    match opened {
        Ok((wal, opened, _)) => {
            let found = wal.entries(0..u64::MAX, None).unwrap();
            let kept = found.len();
            let all: Vec<LogEntry> = (1..=written).map(entry).collect();
            assert_eq!(found, all[..kept], "what is served is what was written");
            let entries = all.len() - kept;
            match opened.report.torn {
                Some(torn) => Cuts { at_lsn: torn.at_lsn, entries },
                None => {
                    assert_eq!(entries, 0, "entries are gone without a word");
                    ServesAll
                }
            }
        }
        Err(OpenError::Quarantined { at_lsn, .. }) => Quarantines(at_lsn),
        Err(OpenError::Foreign { .. }) => RefusesForeign,
        Err(OpenError::Unsupported { at_lsn }) => RefusesNewer(at_lsn),
        Err(error @ OpenError::Io { .. }) => panic!("{error}"),
    }
}

#[test]
fn every_flipped_bit_gets_its_verdict() {
    let disk = whole_log();
    let idle_is_cut = Cuts { at_lsn: 40960, entries: 0 };
    let table: &[(&str, &str, Range<usize>, Verdict)] = &[
        ("founding: header", FIRST, 0..64, Quarantines(0)),
        ("founding: frame header", FIRST, 64..96, Quarantines(0)),
        ("founding: WAL id", FIRST, 96..112, Quarantines(0)),
        ("founding: cluster id, node id, disk id", FIRST, 112..152, Quarantines(0)),
        ("founding: marks", FIRST, 152..232, Quarantines(0)),
        ("founding: zeros", FIRST, 232..260, ServesAll),
        ("A: header", FIRST, 4096..4160, Quarantines(4096)),
        ("A: head", FIRST, 4160..4328, Quarantines(4096)),
        ("A: vote", FIRST, 4328..4384, Quarantines(4096)),
        ("A: frame header of an entry", FIRST, 4384..4416, Quarantines(4096)),
        ("A: payload", FIRST, 4416..4516, Quarantines(4096)),
        ("A: zeros between frames", FIRST, 4516..4520, ServesAll),
        ("A: the next frame header", FIRST, 4520..4552, Quarantines(4096)),
        ("A: the next payload", FIRST, 4552..4755, Quarantines(4096)),
        ("A: zeros behind the frames", FIRST, 4755..4800, ServesAll),
        ("A: the last zeros", FIRST, 8180..8192, ServesAll),
        ("B: header", FIRST, 8192..8256, Quarantines(8192)),
        ("B: the second page", FIRST, 12288..12300, Quarantines(8192)),
        ("the gap: where a header would be", FIRST, 16384..16448, ServesAll),
        ("the gap: its end", FIRST, 24570..24576, ServesAll),
        ("C: header", SECOND, 0..64, Quarantines(16384)),
        ("C: head", SECOND, 64..232, Quarantines(24576)),
        ("C: frame header", SECOND, 232..264, Quarantines(24576)),
        ("C: the last payload", SECOND, 9250..9264, Quarantines(24576)),
        ("D: header", SECOND, 12288..12352, Quarantines(36864)),
        ("D: frame", SECOND, 12352..12684, Quarantines(36864)),
        ("D: zeros", SECOND, 12684..12700, ServesAll),
        ("idle: header", SECOND, 16384..16448, idle_is_cut),
        ("idle: frame", SECOND, 16448..16480, idle_is_cut),
        ("idle: zeros", SECOND, 16480..16500, ServesAll),
        ("free: first page", SECOND, 20480..20544, Cuts { at_lsn: 45056, entries: 0 }),
        ("free: last byte", SECOND, 24575..24576, Cuts { at_lsn: 45056, entries: 0 }),
        ("a spare", "wal/spare-1.wal", 0..64, ServesAll),
    ];
    assert_eq!(verdict(&disk), ServesAll);
    let mut flips = 0;
    for (class, path, range, expected) in table {
        for (byte, bit) in range.clone().flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let disk = disk.after_kill();
            disk.damage(path, |bytes| bytes[byte] ^= 1 << bit).unwrap();
            assert_eq!(verdict(&disk), *expected, "{class}: byte {byte}, bit {bit}");
            flips += 1;
        }
    }
    tell(&format!("damage to the log: {flips} flipped bits in {} classes", table.len()));
    assert!(flips > 10_000, "too quiet: {flips}");
}

#[test]
fn damage_of_a_block_that_was_not_acknowledged_cuts_it_off() {
    let disk = whole_log();
    let (wal, _, mut driver) = open(&disk).unwrap();
    // The write is done and the sync is not.
    disk.crash_at(disk.operations() + 1);
    wal.append(vec![entry(6), entry(7)], Box::new(|result| assert!(result.is_err()))).unwrap();
    driver.turn(Duration::ZERO);
    assert!(disk.crashed());
    let disk = disk.after_kill();
    assert_eq!(verdict_for(&disk, &IDENTITY, 7), ServesAll);
    for byte in (20480..20544).chain(20544 + 168..20544 + 168 + 72) {
        let disk = disk.after_kill();
        disk.damage(SECOND, |bytes| bytes[byte] ^= 1).unwrap();
        let expected = Cuts { at_lsn: 45056, entries: 2 };
        assert_eq!(verdict_for(&disk, &IDENTITY, 7), expected, "byte {byte}");
        let after = disk.after_kill();
        drop(open(&after).unwrap());
        assert_eq!(verdict(&after), ServesAll, "the cut is made once");
    }
}

#[test]
fn a_segment_without_its_full_length_is_damaged() {
    let disk = whole_log();
    for (path, start) in [(FIRST, 0), (SECOND, 24576)] {
        for len in [0, 1, 4096, 20480, 24575, 24577] {
            let disk = disk.after_kill();
            disk.damage(path, |bytes| bytes.resize(len, 0)).unwrap();
            assert_eq!(verdict(&disk), Quarantines(start), "{path} with {len} bytes");
        }
    }
}

#[test]
fn zeroed_ranges_are_damage_when_something_flushed_lies_behind() {
    let disk = whole_log();
    for (path, range, expected) in [
        (FIRST, 0..512, Quarantines(0)),
        (FIRST, 0..24576, Quarantines(0)),
        (FIRST, 4096..8192, Quarantines(4096)),
        (FIRST, 4608..5120, Quarantines(4096)),
        (FIRST, 8192..24576, Quarantines(8192)),
        (SECOND, 0..512, Quarantines(16384)),
        (SECOND, 512..1024, Quarantines(24576)),
        (SECOND, 0..16384, Quarantines(16384)),
        (SECOND, 12288..16384, Quarantines(36864)),
        (SECOND, 16384..20480, ServesAll),
    ] {
        let disk = disk.after_kill();
        disk.damage(path, |bytes| bytes[range.clone()].fill(0)).unwrap();
        assert_eq!(verdict(&disk), expected, "{path} {range:?}");
    }
}

#[test]
fn blocks_in_the_wrong_place_never_count() {
    let disk = whole_log();
    let (first, second) = (disk.contents(FIRST).unwrap(), disk.contents(SECOND).unwrap());
    let copy = |from: &[u8], path: &str, at: usize| {
        let disk = disk.after_kill();
        disk.damage(path, |bytes| bytes[at..at + from.len()].copy_from_slice(from)).unwrap();
        verdict(&disk)
    };
    let (a, d) = (&first[4096..8192], &second[12288..16384]);
    assert_eq!(copy(a, FIRST, 8192), Quarantines(8192), "A twice");
    assert_eq!(copy(d, FIRST, 8192), Quarantines(8192), "D where B was");
    assert_eq!(copy(d, SECOND, 0), Quarantines(16384), "D where C was");
    assert_eq!(copy(a, FIRST, 16384), ServesAll, "A in the gap");
    let cut = Cuts { at_lsn: 45056, entries: 0 };
    assert_eq!(copy(d, SECOND, 20480), cut, "D once more behind the end");
}

#[test]
fn an_older_copy_of_a_segment_is_damage_when_a_newer_one_follows() {
    let disk = whole_log();
    for older in [4096, 8192] {
        let disk = disk.after_kill();
        disk.damage(FIRST, |bytes| bytes[older..].fill(0)).unwrap();
        assert_eq!(verdict(&disk), Quarantines(older as u64));
    }
}

#[test]
fn a_missing_segment_is_damage_when_a_newer_one_follows() {
    let disk = whole_log();
    disk.lose(FIRST).unwrap();
    assert_eq!(verdict(&disk), Quarantines(0));
    disk.lose(SECOND).unwrap();
    assert_eq!(verdict(&disk), Quarantines(0), "no segment at all");

    let disk = whole_log();
    let (wal, _, mut driver) = open(&disk).unwrap();
    let large = LogEntry { payload: Bytes::from(vec![1; 9000]), ..entry(6) };
    wal.append(vec![large], Box::new(|result| result.unwrap())).unwrap();
    driver.turn(Duration::ZERO);
    disk.lose(SECOND).unwrap();
    assert_eq!(verdict(&disk), Quarantines(16384));
}

/// With no later block and no checkpoint, a scan has nothing to compare with.
#[test]
fn the_loss_of_everything_behind_a_block_looks_like_a_clean_end() {
    let disk = whole_log();
    disk.damage(SECOND, |bytes| bytes[12288..].fill(0)).unwrap();
    let (_wal, opened, _driver) = open(&disk).unwrap();
    assert_eq!((opened.last, opened.report.torn), (Some(entry(4).id), None));

    // A recycled segment has old blocks as well, so they prove nothing.
    let disk = whole_log();
    let first = disk.contents(FIRST).unwrap();
    disk.damage(SECOND, |bytes| *bytes = first).unwrap();
    assert_eq!(verdict(&disk), Cuts { at_lsn: 16384, entries: 2 });
}

#[test]
fn the_log_of_another_replica_is_refused() {
    let disk = whole_log();
    for other in [
        Identity { wal_id: [9; 16], ..IDENTITY },
        Identity { disk_id: [9; 16], ..IDENTITY },
        Identity { cluster_id: [9; 16], ..IDENTITY },
        Identity { node_id: 9, ..IDENTITY },
    ] {
        assert_eq!(verdict_for(&disk, &other, ENTRIES), RefusesForeign, "{other:?}");
        let other_disk = SimDisk::new();
        wal::create(&other_disk, &config(), &other).unwrap();
        let foreign = other_disk.contents(FIRST).unwrap();
        let mixed = disk.after_kill();
        mixed.damage(FIRST, |bytes| *bytes = foreign).unwrap();
        assert_eq!(verdict(&mixed), RefusesForeign, "{other:?}");
    }
}

#[test]
fn what_a_newer_program_wrote_is_refused_and_not_cut() {
    let disk = whole_log();
    // A frame of type 8 in the place of the idle one, then an unknown flag.
    let newer_frame = |block: &mut [u8]| {
        block[64] = 8;
        block[88..92].fill(0);
        let frame_crc = crc32c::crc32c(&block[64..96]);
        block[88..92].copy_from_slice(&frame_crc.to_le_bytes());
        let frames_crc = crc32c::crc32c(&block[64..96]);
        block[60..64].copy_from_slice(&frames_crc.to_le_bytes());
    };
    let newer_flag = |block: &mut [u8]| block[56] |= 4;
    for is_flag in [false, true] {
        let disk = disk.after_kill();
        disk.damage(SECOND, |bytes| {
            let block = &mut bytes[16384..20480];
            if is_flag {
                newer_flag(block);
            } else {
                newer_frame(block);
            }
            let seed = crc32c::crc32c(&IDENTITY.wal_id);
            let header_crc = crc32c::crc32c_append(seed, &block[8..64]);
            block[4..8].copy_from_slice(&header_crc.to_le_bytes());
        })
        .unwrap();
        assert_eq!(verdict(&disk), RefusesNewer(40960));
    }
}

#[test]
fn a_live_read_notices_damage() {
    let disk = whole_log();
    // The live cache holds the last 4 KiB only, so this one is read back.
    let (wal, _, _driver) = open(&disk).unwrap();
    assert_eq!(wal.entry(entry(3).id).unwrap(), entry(3));
    disk.damage(FIRST, |bytes| bytes[9000] ^= 1).unwrap();
    let damaged = wal.entry(entry(3).id);
    assert!(matches!(damaged, Err(wal::ReadError::Damaged { lsn: 8192 })), "{damaged:?}");
    assert_eq!(wal.entry(entry(5).id).unwrap(), entry(5));
    let moved = wal.entry(LogId { term: 1, index: 5 });
    assert!(matches!(moved, Err(wal::ReadError::Moved { index: 5 })), "{moved:?}");
    let moved = wal.entry(LogId { term: 2, index: 6 });
    assert!(matches!(moved, Err(wal::ReadError::Moved { index: 6 })), "{moved:?}");
}
